"""Kernel distance of samples to test images: KID over the 2015 Inception. Bińkowski et al. 2018, arXiv:1801.01401.

The unbiased squared maximum mean discrepancy with the kernel (x.y / F + 1)^3, averaged over random subsets.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.metrics import features
from zoo.metrics.core import Score, Subject, register_metric

SUBSETS = 100
SUBSET_SIZE = 1000


@register_metric("kid", "kernel distance of samples to test images, over 2015 Inception features")
@register_metric("kd_lenet", "the same over the features of the zoo's own digit classifier", extractor="lenet")
@register_metric("kd_mobilenet", "the same over MobileNetV2, for photographs", extractor="mobilenet")
@register_metric("kd_dinov2", "the same over DINOv2, for photographs", extractor="dinov2")
def kid(subject: Subject, *, extractor: str = "inception") -> dict[str, Score]:
    """Score the samples of each of `benchmark.samplers`.

    Args:
        subject: The model.
        extractor: What images are compared by; the result is called `kid` over Inception, or else `kd_<extractor>`.
    """
    network = features.load_extractor(subject, extractor)
    real = features.reference_features(subject, network)
    scores = {}
    for sampler, fake in features.sampled(subject, network):
        size = min(SUBSET_SIZE, len(real), len(fake))
        how = f"kernel distance (x.y / F + 1)^3, mean of {SUBSETS} random subsets of {size}"
        value, spread = kernel_distance(real, fake)
        # Subsets of m of n images, without replacement: the whole varies by their spread, times m / (n - m).
        least = min(len(real), len(fake))
        score = features.sample_score(subject, network, sampler, value, how, False)
        se = spread * (size / (least - size)) ** 0.5 if least > size else None
        scores[network.row("kid", "kd", sampler)] = replace(score, se=se)
    return scores


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Average the squared discrepancy of 100 seeded subsets of 1000 features, or of as many as there are.

    Args:
        real: `[N, F]`.
        fake: `[M, F]`.

    Returns:
        The mean, without unit; around 0, and so at times below it, for two samples of one distribution. And the
        standard deviation over the subsets.

    Raises:
        UserError: for a set of fewer than two images.
    """
    from torchmetrics.image.kid import KernelInceptionDistance  # takes seconds, which no run should start with

    size = min(SUBSET_SIZE, len(real), len(fake))
    if size < 2:
        raise UserError(
            f"a kernel distance needs two images on each side, not {len(fake)} and {len(real)}: raise benchmark.n"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the memory that features take
        metric = KernelInceptionDistance(nn.Identity(), SUBSETS, size, sync_on_compute=False)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    torch.manual_seed(0)
    mean, spread = metric.compute()
    return mean.item(), spread.item()
