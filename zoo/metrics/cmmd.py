"""CMMD: distance of samples to test images by CLIP. Jayasumana et al. 2024, arXiv:2401.09603.

    1000 (E k(x, x') + E k(y, y') - 2 E k(x, y)),   k(x, y) = exp(-|x - y|^2 / (2 10^2))

over all pairs, each image with itself among them, as the authors' code has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.metrics import features
from zoo.metrics.core import Score, Subject, register_metric

BANDWIDTH, SCALE = 10.0, 1000.0
ROWS = 1000  # of the matrix of pairs, at once


@register_metric("cmmd", "distance of samples to test images by CLIP, with a Gaussian kernel")
def cmmd(subject: Subject) -> dict[str, Score]:
    """Score the samples of each of `benchmark.samplers`: a row `cmmd`, 0 at best.

    Raises:
        UserError: if CLIP's weights are missing, see `benchmark.clip_weights`.
    """
    network = features.load_extractor(subject, "clip")
    real = features.reference_features(subject, network)
    how = f"1000 x squared MMD, Gaussian kernel of bandwidth {BANDWIDTH:g}, all pairs"
    return {
        "cmmd" if sampler == "prior" else f"cmmd@{sampler}": features.sample_score(
            subject, network, sampler, gaussian_discrepancy(real, fake), how, False
        )
        for sampler, fake in features.sampled(subject, network)
    }


def gaussian_discrepancy(x: Tensor, y: Tensor) -> float:
    """Return the squared maximum mean discrepancy of `[N, F]` and `[M, F]`, times 1000."""
    x, y = x.double(), y.double()
    return SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def _mean_kernel(x: Tensor, y: Tensor) -> float:
    """Average k over all pairs."""
    total = sum(torch.exp(torch.cdist(rows, y).square() / (-2 * BANDWIDTH**2)).sum().item() for rows in x.split(ROWS))
    return total / (len(x) * len(y))
