"""Fréchet distance between two sets of images: FID over the 2015 Inception. Heusel et al. 2017, arXiv:1706.08500.

    d^2 = |m - m'|^2 + Tr(C + C' - 2 (C C')^(1/2))

where m and C are mean and covariance of the images' features. Over any other network it is called `fd_<network>`.
It is biased upward by about 1/N, so that only distances of the same N can be compared. `fid_infinity` is the distance
extrapolated to infinitely many samples, along a line in 1/N (Chong & Forsyth 2020, arXiv:1911.07023).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.metrics import features
from zoo.metrics.core import Score, Subject, register_metric

GROUPS = 10  # that are left out in turn, to see how much hangs on the images
SUBSETS = 15  # of which the extrapolation is made, as in its paper


@register_metric("fid", "Fréchet distance of samples to test images, over 2015 Inception features")
@register_metric("fd_lenet", "the same over the features of the zoo's own digit classifier", extractor="lenet")
@register_metric("fd_mobilenet", "the same over MobileNetV2, for photographs", extractor="mobilenet")
@register_metric("fd_dinov2", "the same over DINOv2, for photographs", extractor="dinov2")
def fid(subject: Subject, *, extractor: str = "inception") -> dict[str, Score]:
    """Score the samples of each of `benchmark.samplers`.

    Args:
        subject: The model.
        extractor: What images are compared by; the result is called `fid` over Inception, or else `fd_<extractor>`.
    """
    network = features.load_extractor(subject, extractor)
    real = features.reference_features(subject, network)
    scores = {}
    for sampler, fake in features.sampled(subject, network):
        value = frechet_distance(real, fake)
        row = network.row("fid", "fd", sampler)
        score = features.sample_score(subject, network, sampler, value, protocol(real, fake), False)
        scores[row] = replace(score, se=standard_error(real, fake))
    return scores


@register_metric(
    "fid_infinity", "Fréchet distance of infinitely many samples, extrapolated, over 2015 Inception features"
)
@register_metric("fd_infinity_lenet", "the same over the features of the zoo's own digit classifier", extractor="lenet")
@register_metric("fd_infinity_mobilenet", "the same over MobileNetV2, for photographs", extractor="mobilenet")
def fid_infinity(subject: Subject, *, extractor: str = "inception") -> dict[str, Score]:
    """Score the samples of each of `benchmark.samplers`.

    Args:
        subject: The model.
        extractor: What images are compared by; the result is called `fid_infinity` over Inception, or else
            `fd_infinity_<extractor>`.

    Raises:
        UserError: if there are fewer than four samples a feature.
    """
    network = features.load_extractor(subject, extractor)
    real = features.reference_features(subject, network)
    scores = {}
    for sampler, fake in features.sampled(subject, network):
        subsets = f"{SUBSETS} random subsets of {_fewest(fake)} to {len(fake)} samples"
        how = f"Fréchet distance, line in 1/N through {subsets}, at 1/N = 0"
        row = network.row("fid_infinity", "fd_infinity", sampler)
        scores[row] = features.sample_score(subject, network, sampler, extrapolated_distance(real, fake), how, False)
    return scores


def extrapolated_distance(real: Tensor, fake: Tensor) -> float:
    """Return where a line through the distances of more and more samples, over 1/N, comes to at 1/N = 0.

    Args:
        real: `[N, F]`.
        fake: `[M, F]`.

    Returns:
        In squared units of the features; below 0 by chance where the two are alike.

    Raises:
        UserError: if there are fewer than four samples a feature: below two, the distance is no line in 1/N.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = torch.linspace(_fewest(fake), len(fake), SUBSETS).long()
    subsets = (fake[torch.randperm(len(fake), generator=generator)[:size]] for size in sizes.tolist())
    distances = torch.tensor([frechet_distance(real, subset) for subset in subsets], dtype=torch.double)
    line = torch.stack([torch.ones(SUBSETS), 1 / sizes], dim=1).double()
    return torch.linalg.lstsq(line, distances[:, None]).solution[0].item()


def _fewest(fake: Tensor) -> int:
    samples, dim = fake.shape
    if samples < 4 * dim:
        raise UserError(
            f"the extrapolation needs {4 * dim} samples for {dim} features, not {samples}: raise benchmark.n"
        )
    return max(samples // 10, 2 * dim)


def protocol(real: Tensor, fake: Tensor) -> str:
    """Name the distance, and say if there are too few images for a covariance of full rank."""
    n, dim = min(len(real), len(fake)), real.shape[1]
    return "Fréchet distance" + (f", covariances singular ({n} images, {dim} features)" if n <= dim else "")


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Compute the squared Fréchet distance of two Gaussians fitted to features, in double precision.

    With A and B the centred features over sqrt(N - 1), (C C')^(1/2) has the trace of the singular values of A B^T: a
    small matrix for few images, where torchmetrics takes eigenvalues of the unsymmetric F x F product C C', which is
    seven times as slow at F = 2048, and slower than the features of 30 images on the same processor.

    Args:
        real: `[N, F]`.
        fake: `[M, F]`.

    Returns:
        At least 0, in squared units of the features.

    Raises:
        UserError: for a set of fewer than two images, which has no covariance.
    """
    if min(len(real), len(fake)) < 2:
        raise UserError(
            f"a Fréchet distance needs two images on each side, not {len(fake)} and {len(real)}: raise benchmark.n"
        )
    real, fake = real.double(), fake.double()
    a, b = (_root(x - x.mean(0)) for x in (real, fake))
    product = a @ b.T
    cross = torch.linalg.eigvalsh(product @ product.T).clamp(min=0).sqrt().sum()
    distance = (real.mean(0) - fake.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * cross
    return max(0.0, distance.item())


def standard_error(real: Tensor, fake: Tensor) -> float | None:
    """Estimate a Fréchet distance's standard error, by a jackknife over groups. Efron & Tibshirani 1993, chapter 11.

    Of ten groups of images, real and fake alike, each is left out once. That costs ten distances more, which is little
    beside the features.

    Args:
        real: `[N, F]`.
        fake: `[M, F]`.

    Returns:
        None for fewer than ten times the images that a covariance of full rank takes.
    """
    if min(len(real), len(fake)) < GROUPS * real.shape[1]:
        return None
    groups = [torch.arange(len(x)) % GROUPS for x in (real, fake)]
    left = torch.tensor([frechet_distance(real[groups[0] != g], fake[groups[1] != g]) for g in range(GROUPS)])
    return ((GROUPS - 1) / GROUPS * (left - left.mean()).square().sum()).sqrt().item()


def _root(centred: Tensor) -> Tensor:
    """Return R `[min(N, F), F]` with R^T R the covariance."""
    scaled = centred / (len(centred) - 1) ** 0.5
    return torch.linalg.qr(scaled, mode="r").R if len(scaled) > scaled.shape[1] else scaled
