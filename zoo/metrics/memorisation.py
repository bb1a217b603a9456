"""Whether samples are copies of training images. Alaa et al. 2022, arXiv:2102.08921, section 4 (authenticity).

    authpct = share of samples s, with nearest training image t, for which |s - t| > |t - t'|,
              t' the training image nearest to t

among features, over all training images: a sample that lies nearer to a training image than any other training image
does is taken for a copy of it. New images of the same distribution have about one half; a model that repeats its
training images has 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.metrics import features
from zoo.metrics.core import Score, Subject, register_metric

CHUNK = 200  # rows of a distance matrix held at once


@register_metric("authpct", "share of samples that are no copies of training images, over 2015 Inception features")
@register_metric("authpct_lenet", "the same over the features of the zoo's own digit classifier", extractor="lenet")
@register_metric("authpct_mobilenet", "the same over MobileNetV2, for photographs", extractor="mobilenet")
def authpct(subject: Subject, *, extractor: str = "inception") -> dict[str, Score]:
    """Score the samples of each of `benchmark.samplers`.

    Args:
        subject: The model.
        extractor: What images are compared by; the result is called `authpct` over Inception, or else
            `authpct_<extractor>`.
    """
    network = features.load_extractor(subject, extractor)
    train = features.reference_features(subject, network, "train")
    drawn = subject.config.benchmark.n
    scores = {}
    for sampler, fake in features.sampled(subject, network):
        how = f"share of {drawn} samples from {sampler} farther from their nearest of all {len(train)} training "
        how += f"images than that from its own nearest; {network.protocol}"
        row = network.row("authpct", "authpct", sampler)
        scores[row] = Score(authentic_share(train, fake), "", True, how, drawn, "train", sampler)
    return scores


def authentic_share(train: Tensor, fake: Tensor) -> float:
    """Return the share of samples that are no copies, in double precision.

    Args:
        train: Features of training images, `[N, F]`.
        fake: Of samples, `[M, F]`.

    Raises:
        UserError: for fewer than two training images.
    """
    if len(train) < 2:
        raise UserError(f"whether samples are copies takes two training images or more, not {len(train)}")
    train, fake = train.double(), fake.double()
    found = [torch.cdist(rows, train).min(1) for rows in fake.split(CHUNK)]
    distance = torch.cat([each.values for each in found])
    copied, which = torch.cat([each.indices for each in found]).unique(return_inverse=True)
    own = [torch.cdist(train[rows], train).kthvalue(2, dim=1).values for rows in copied.split(CHUNK)]  # 1st: itself
    return (distance > torch.cat(own)[which]).double().mean().item()
