"""How well a model predicts test images: the ELBO and its two halves, and the importance-weighted likelihood.

A Bernoulli likelihood speaks of pixels that are 0 or 1. Of a run that was trained on such (`data.binarize`, or data in
black and white), `nll` is what papers print. Of one that was trained on grey pixels each measure exists three times: on
the pixels as they are (`nll`, no log-probability of anything), on pixels binarised by a draw that follows the seed
(`nll_dynamic`), and on pixels binarised by one draw that never changes (`nll_fixed`).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from zoo.base import BaseVAE
from zoo.data import Images
from zoo.engine.validation import Terms, average, standard_error
from zoo.errors import DoesNotApply
from zoo.metrics.core import Score, Subject, mean_score, register_metric
from zoo.parts.distributions import Likelihood

Binarise = Literal["no", "dynamic", "fixed"]

IMAGES_PER_CHUNK = 1000


def binarised(images: Images, *seed: int) -> Images:
    """Draw each pixel anew, white (255) or black (0), white with its grey value as probability. A pure function.

    Args:
        images: In any order; images that come first are drawn the same however many follow.
        *seed: Another seed, another draw.
    """
    # NumPy's frozen generator: the same draw on every machine and in every release.
    generator = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    drawn = torch.empty(len(images), *images.shape, dtype=torch.uint8)
    for positions in torch.arange(len(images)).split(IMAGES_PER_CHUNK):
        grey, _ = images.batch(positions)
        white = torch.from_numpy(generator.random_sample(grey.shape)) * 255 < grey
        drawn[positions] = white.byte() * 255
    return Images(drawn, images.labels, images.factors)


def bits_per_dim(nats: float, pixels: int, spacing: float = 1.0) -> float:
    """Bits per pixel (and channel) of an image whose negative log-likelihood is `nats`.

    A density p becomes a probability of the 256 levels a pixel can take by P(level) = p(level) x spacing, hence
    bits/dim = nats / (pixels ln 2) - log2(spacing).

    Args:
        nats: Negative log-likelihood per image.
        pixels: Height x width x channels.
        spacing: Between two levels, in the density's units: 1/255 on [0, 1], 2/255 on [-1, 1]. 1 where `nats` is minus
            the log of a probability already.
    """
    return nats / (pixels * math.log(2)) - math.log2(spacing)


@register_metric("elbo", "evidence lower bound on test images, split into distortion and rate")
@register_metric("elbo_dynamic", "the same on dynamically binarised pixels", binarise="dynamic")
@register_metric("elbo_fixed", "the same on pixels binarised once for ever", binarise="fixed")
def elbo(subject: Subject, *, binarise: Binarise = "no") -> dict[str, Score]:
    """ELBO = -(distortion + rate), in nats per image. Alemi et al. 2018, arXiv:1711.00464.

    Distortion is E_q[-log p(x|z)] with every constant, rate is KL(q(z|x) || p(z)), both as the variant itself computes
    them. Rows: elbo, distortion, rate; with `_dynamic` or `_fixed` behind if the pixels are binarised.

    Args:
        subject: Its variant's `loss` must name "elbo" and "kl".
        binarise: How pixels become 0 or 1; for a "bce" likelihood only.

    Raises:
        UserError: if the variant has no such terms, or its likelihood is not of binary pixels.
    """
    split, pixels = _images(subject, binarise)
    terms = elbo_and_kl(subject, split)
    bound, kl = (average(terms)[name] for name in ("elbo", "kl"))
    score = elbo_score(subject, terms, pixels)
    protocol = score.protocol
    rows = {
        "elbo": score,
        "distortion": Score(
            -bound - kl,
            "nats",
            False,
            f"{protocol}; -elbo - rate",
            len(split),
            se=standard_error(terms, {"elbo": -1, "kl": -1}),
        ),
        "rate": Score(
            kl,
            "nats",
            None,
            f"{protocol}; the variant's own KL(q(z|x) || p(z))",
            len(split),
            se=standard_error(terms, {"kl": 1}),
        ),
    }
    return {_row(name, binarise): score for name, score in rows.items()}


def elbo_score(subject: Subject, terms: Terms, pixels: str | None = None) -> Score:
    """Write down an ELBO over test images: the same row, whichever metric reports it.

    Args:
        subject: Of whom it is said.
        terms: Of the batches of test images, "elbo" among them.
        pixels: What the likelihood of a pixel means; by default, that of pixels as they are.
    """
    how = "one posterior sample per image; all constants of the likelihood included"
    protocol = f"{pixels or _pixels(subject)}{subject.given}; {how}"
    value, se = average(terms)["elbo"], standard_error(terms, {"elbo": 1})
    return Score(value, "nats", True, protocol, len(subject.data.test), se=se)


def elbo_and_kl(subject: Subject, split: Images) -> Terms:
    """Return a variant's own terms over the batches of a split, "elbo" and "kl" among them, in nats; a collective.

    Raises:
        UserError: if its loss doesn't name them.
    """
    terms = subject.terms(split)
    if not {"elbo", "kl"} <= terms[0][1].keys():
        raise DoesNotApply(
            f"the loss of {subject.config.model.name!r} does not report elbo and kl, so elbo, distortion, rate and "
            "mutual information can't be measured"
        )
    return terms


@register_metric("nll", "importance-weighted negative log-likelihood of test images")
@register_metric("nll_dynamic", "the same on dynamically binarised pixels", binarise="dynamic")
@register_metric("nll_fixed", "the same on pixels binarised once for ever", binarise="fixed")
@torch.no_grad()
def nll(
    subject: Subject, *, k: Annotated[int, Field(gt=0, le=1_000_000)] = 1000, binarise: Binarise = "no"
) -> dict[str, Score]:
    """-log 1/K sum_k p(x, z_k) / q(z_k|x), an upper bound in expectation. Burda et al. 2016, arXiv:1509.00519, eq. 8.

    Rows: nll in nats per image, and bits_per_dim (see the function of that name), but not of grey pixels under a
    Bernoulli; with `_dynamic` or `_fixed` behind if it is this metric that binarises the pixels.

    Args:
        subject: Its variant must have a `log_likelihood`.
        k: Posterior samples per image, K; the published MNIST numbers use 5000.
        binarise: How pixels become 0 or 1; for a "bce" likelihood only.

    Raises:
        UserError: if the variant has no likelihood, or not one of binary pixels.
    """
    split, protocol = _images(subject, binarise)
    if type(subject.model).log_likelihood is BaseVAE.log_likelihood:
        raise DoesNotApply(f"{subject.config.model.name!r} has no log_likelihood, so nll can't be measured")
    parts = {}
    for number, batch in subject.batches(split):
        parts[number] = -subject.model.log_likelihood(batch.x, k, batch.y)  # [B]
    image = subject.model.image
    protocol += f"{subject.given}; {k} importance samples from q(z|x)"
    score = mean_score(subject.gather(parts), "nats", False, protocol)
    rows = {"nll": score}
    spacing, unit = 1.0, "; nats / (pixels ln 2)"
    if not _likelihood(subject).of_levels:
        low, high = image.range
        spacing = (high - low) / 255
        unit += f" - log2({high - low:g}/255): density times the spacing of the 256 levels, pixels not dequantised"
    elif _likelihood(subject).kind == "bce" and binarise == "no" and not are_binary(subject):
        return rows  # what is no probability has no bits
    bits = bits_per_dim(score.value, image.pixels, spacing)
    se = None if score.se is None else bits_per_dim(score.se, image.pixels)
    rows["bits_per_dim"] = Score(bits, "bits/dim", False, protocol + unit, len(split), se=se)
    return {_row(name, binarise): score for name, score in rows.items()}


def _images(subject: Subject, binarise: Binarise) -> tuple[Images, str]:
    """Return the test images to predict, and what the likelihood of their pixels means."""
    test, likelihood = subject.data.test, _likelihood(subject)
    if binarise == "no":
        return test, _pixels(subject)
    if likelihood.kind != "bce":
        low, high = subject.model.image.range
        raise DoesNotApply(
            f"binarise={binarise} needs images in [0, 1] and a likelihood of binary pixels, recon 'bce', "
            f"not {likelihood.kind!r} on [{low:g}, {high:g}]"
        )
    if are_binary(subject):
        raise DoesNotApply(
            f"binarise={binarise} is for grey pixels, and this run's are black or white: elbo and nll are of them"
        )
    if binarise == "dynamic":
        draw = binarised(test, 1, subject.config.seed)
        return draw, "pixels binarised by a Bernoulli draw of their grey value, drawn anew for each seed of a run"
    return binarised(test, 0), "pixels binarised by one Bernoulli draw for ever, which is not Larochelle's file"


def _pixels(subject: Subject) -> str:
    """Say what the likelihood of pixels as they are means."""
    low, high = subject.model.image.range
    likelihood = getattr(subject.model, "likelihood", None)
    if likelihood is None:  # a variant that counts its bound by itself
        return f"pixels in [{low:g}, {high:g}]"
    if likelihood.kind == "bce" and are_binary(subject):
        return f"Bernoulli of {drawn(subject) or 'pixels that are black or white in the data'}"
    if likelihood.kind == "bce":
        return "Bernoulli cross-entropy of grey pixels: not a normalised density, compare with its like alone"
    how = f"; {drawn(subject)}" if drawn(subject) else ""
    if likelihood.of_levels:
        return f"probability of a pixel's 256 levels, likelihood {likelihood.kind!r}{how}"
    return f"density of pixels in [{low:g}, {high:g}], likelihood {likelihood.kind!r}{how}"


def drawn(subject: Subject) -> str:
    """Say how the run's pixels are binarised; "" if they are as the data has them."""
    draws = {"dynamic": "one for each seed, and in training another at each look", "fixed": "one for ever"}
    how = draws.get(subject.config.data.binarize)
    return f"pixels binarised by a Bernoulli draw of their grey value, {how}" if how else ""


def are_binary(subject: Subject) -> bool:
    """Say whether all test pixels are black or white; grey ones are found out by the first that there is."""
    test = subject.data.test
    if "binary pixels" not in subject.memo:
        batches = (test.batch(positions)[0] for positions in torch.arange(len(test)).split(IMAGES_PER_CHUNK))
        subject.memo["binary pixels"] = bool(test.draw) or all(((x == 0) | (x == 255)).all() for x in batches)
    return subject.memo["binary pixels"]


def _likelihood(subject: Subject) -> Likelihood:
    likelihood = getattr(subject.model, "likelihood", None)
    if likelihood is None:
        raise DoesNotApply(f"{subject.config.model.name!r} has no likelihood p(x|z), so elbo and nll can't be measured")
    return likelihood


def _row(name: str, binarise: Binarise) -> str:
    return name if binarise == "no" else f"{name}_{binarise}"
