"""Inception Score: how sure of each sample, and how varied over all, a classifier is. Salimans 2016, arXiv:1606.03498.

    IS = exp E_x KL(p(y|x) || p(y))

It sees no reference images, and says little of data unlike ImageNet.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.metrics import features, samplers
from zoo.metrics.core import Score, Subject, register_metric

SPLITS = 10


@register_metric("inception_score", "certainty and variety of the 2015 Inception's classes over samples")
def inception_score(subject: Subject) -> dict[str, Score]:
    """Score the samples of each of `benchmark.samplers`."""
    network = features.load_extractor(subject, "inception")
    assert isinstance(network.module, features.Inception)
    scores = {}
    for sampler, fake in features.sampled(subject, network):
        with torch.inference_mode():
            logits = network.module.logits(fake.to(subject.model.device)).cpu()
        about = samplers.SAMPLERS.lookup(sampler).about
        how = f"mean of {SPLITS} seeded splits, logits without bias; {network.protocol}"
        protocol = f"{how}; {len(fake)} samples from {sampler} ({about})"
        value = score_of_logits(logits)
        scores[network.row("inception_score", "", sampler)] = Score(value, "", True, protocol, len(fake), "", sampler)
    return scores


def score_of_logits(logits: Tensor) -> float:
    """Average the score of ten seeded splits: `[N, classes]` -> 1 to the number of classes.

    Raises:
        UserError: for fewer than two samples to a split, of which the score would be 1.
    """
    from torchmetrics.image.inception import InceptionScore  # takes seconds, which no run should start with

    if len(logits) < 2 * SPLITS:
        raise UserError(f"the Inception Score needs {2 * SPLITS} samples, not {len(logits)}: raise benchmark.n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the memory that features take
        metric = InceptionScore(nn.Identity(), SPLITS, sync_on_compute=False)
    metric.update(logits.double())
    torch.manual_seed(0)
    return metric.compute()[0].item()
