"""How real samples are, and how much of the data they reach, from nearest neighbours among features.

Each image's ball reaches to its k-th nearest neighbour in its own set, k = 5.

    precision   share of samples in some test image's ball         Kynkäänniemi et al. 2019, arXiv:1904.06991
    recall      share of test images in some sample's ball
    density     test images' balls that a sample is in, over k     Naeem et al. 2020, arXiv:2002.09797
    coverage    share of test images with a sample in their ball

Two samples of one distribution do not give 1: at N = 10,000 points of one Gaussian in 1000 dimensions the four are
about .477, .470, 1.056 and .974 (Naeem et al.'s Figure 3 explains why).
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.metrics import features
from zoo.metrics.core import Score, Subject, register_metric

K = 5
CHUNK = 1000  # rows of a distance matrix held at once


@register_metric("prdc", "precision, recall, density and coverage of samples, over 2015 Inception features")
@register_metric("prdc_lenet", "the same over the features of the zoo's own digit classifier", extractor="lenet")
@register_metric("prdc_mobilenet", "the same over MobileNetV2, for photographs", extractor="mobilenet")
@register_metric("prdc_dinov2", "the same over DINOv2, for photographs", extractor="dinov2")
def prdc(subject: Subject, *, extractor: str = "inception") -> dict[str, Score]:
    """Score the samples of each of `benchmark.samplers`.

    Args:
        subject: The model.
        extractor: What images are compared by; names end in `_<extractor>` unless it is Inception.
    """
    network = features.load_extractor(subject, extractor)
    real = features.reference_features(subject, network)
    scores = {}
    for sampler, fake in features.sampled(subject, network):
        for name, value in neighbour_shares(real, fake).items():
            how = f"{name}, k = {K}"
            row = network.row(name, name, sampler)
            scores[row] = features.sample_score(subject, network, sampler, value, how, True)
    return scores


def neighbour_shares(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Compute precision, recall, density and coverage, in double precision.

    Args:
        real: `[N, F]`.
        fake: `[M, F]`.

    Returns:
        The four by name: between 0 and 1, density between 0 and N / k.

    Raises:
        UserError: if a set has no k-th neighbour.
    """
    if min(len(real), len(fake)) <= K:
        raise UserError(
            f"precision and recall need more than {K} samples and test images, not {len(fake)} and {len(real)}: "
            "raise benchmark.n, which is how many at most, or take more test images"
        )
    real, fake = real.double(), fake.double()
    real_radius, fake_radius = _radii(real), _radii(fake)
    balls = []  # of test images, around each sample
    reached, covered = [], []
    for rows, radius in zip(real.split(CHUNK), real_radius.split(CHUNK), strict=True):
        distance = torch.cdist(rows, fake)  # [chunk, M]
        balls.append((distance < radius[:, None]).sum(0))
        reached.append((distance < fake_radius).any(1))
        covered.append(distance.amin(1) < radius)
    inside = torch.stack(balls).sum(0)  # [M]
    return {
        "precision": (inside > 0).double().mean().item(),
        "recall": torch.cat(reached).double().mean().item(),
        "density": inside.double().mean().item() / K,
        "coverage": torch.cat(covered).double().mean().item(),
    }


def _radii(points: Tensor) -> Tensor:
    """Return each point's distance to its k-th nearest neighbour: `[N, F]` -> `[N]`."""
    # A point is its own nearest neighbour: hence the next one.
    return torch.cat([torch.cdist(rows, points).kthvalue(K + 1, dim=1).values for rows in points.split(CHUNK)])
