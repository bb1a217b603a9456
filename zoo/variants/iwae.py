"""Importance-weighted autoencoder: a bound of many samples. Burda et al. 2015, arXiv:1509.00519, equation 8.

    log w = log p(x|z) + log p(z) - log q(z|x),   z ~ q(z|x)
    loss = -L(K),   L(K) = log 1/K sum_k w_k

K is `samples`. L(1) is the evidence lower bound; L(K) grows with K towards log p(x). The loss's gradient is the plain
one of the bound: sample k counts by its share of the weights.

Logs:
    iwae: L(K), nats; recon, kl and elbo are means over the same samples.

Departs from the paper: one stochastic layer.
"""

import math
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE


def grouped_bound(log_weights: Tensor, groups: int) -> Tensor:
    """L(M, K) of `[M * K, B]` log weights: `[B]`, nats; M is `groups`."""
    k = len(log_weights) // groups
    return (log_weights.unflatten(0, (groups, k)).logsumexp(1) - math.log(k)).mean(0)


@register("iwae")
class IWAE(GaussianVAE):
    """Maximise a bound of `samples` samples.

    Args:
        image: The data's shape and range.
        samples: K, draws of the posterior per image and group; each costs a decoding.
        **options: Those of `GaussianVAE`.
    """

    settled = ("beta", "reduction", "warmup", "free_bits")
    groups = 1  # M, for those who average bounds

    def __init__(self, image: ImageSpec, *, samples: PositiveInt = 5, **options: Any) -> None:
        super().__init__(image, **options)
        self.samples = samples

    def draw(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return log weights `[M * K, B]` and what is logged of their parts."""
        k = self.groups * self.samples
        z, log_q = self.posterior(batch.x, batch.y).draw(k)  # [M K, B, D], [M K, B]
        logits = self.logits(z.flatten(0, 1), None if batch.y is None else torch.cat([batch.y] * k))
        recon = self.likelihood.nll(logits, torch.cat([batch.x] * k)).view(k, -1)
        kl = log_q - self.log_prior(z)
        log_weights = -(recon + self.likelihood.constant + kl)
        return log_weights, {"recon": recon.mean(), "kl": kl.mean(), "elbo": log_weights.mean()}

    def bound(self, log_weights: Tensor) -> Tensor:
        """Return what is maximised, `[B]`."""
        return grouped_bound(log_weights, 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo and iwae."""
        log_weights, terms = self.draw(batch)
        bound = self.bound(log_weights).mean()
        return {"loss": -bound, **terms, "iwae": bound}
