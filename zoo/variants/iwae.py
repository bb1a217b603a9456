"""Importance-weighted autoencoders: bounds of many samples. Burda et al. 2015, arXiv:1509.00519; Rainforth et al. 2018.

    log w = log p(x|z) + log p(z) - log q(z|x),   z ~ q(z|x)
    L(K)    = log 1/K sum_k w_k                                        (1)  iwae minimises -L(K)
    L(M, K) = 1/M sum_m log 1/K sum_k w_mk                             (2)  miwae minimises -L(M, K)
              `elbo_weight` L(M, 1) + (1 - `elbo_weight`) L(1, M)      (3)  ciwae, M = `samples`
              encoder: L(M, K),  decoder: L(1, M K)                    (4)  piwae

K = 1 is the evidence lower bound; L(K) grows with K towards log p(x). The encoder's gradient has less and less signal in
its noise as K grows, which (2) to (4) mend: Rainforth et al. 2018, arXiv:1802.04537, section 4. K is `samples`, M is
`groups`; the plain gradient of each bound is followed.

Logs:
    iwae: the bound that is maximised, nats; recon, kl and elbo are means over the same samples.
    encoder/loss: minus the encoder's bound L(M, K), nats.

Departs from the paper: for piwae, encoder and decoder take their steps one after the other, each on samples of its own;
the paper takes both gradients from one set of samples.
"""

import math
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.gaussian import GaussianVAE


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

    settled = ("beta", "reduction")
    groups = 1

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
        return grouped_bound(log_weights, 1)  # (1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo and iwae."""
        log_weights, terms = self.draw(batch)
        bound = self.bound(log_weights).mean()
        return {"loss": -bound, **terms, "iwae": bound}


@register("miwae")
class MIWAE(IWAE):
    """Average the bounds of `groups` groups of samples.

    Args:
        image: The data's shape and range.
        groups: M, how many groups.
        **options: Those of `IWAE`.
    """

    def __init__(self, image: ImageSpec, *, groups: PositiveInt = 4, **options: Any) -> None:
        super().__init__(image, **options)
        self.groups = groups

    def bound(self, log_weights: Tensor) -> Tensor:
        """Return what is maximised, `[B]`."""
        return grouped_bound(log_weights, self.groups)  # (2)


@register("ciwae")
class CIWAE(IWAE):
    """Mix the evidence lower bound with that of all samples.

    Args:
        image: The data's shape and range.
        elbo_weight: Share of the evidence lower bound; the paper's beta.
        **options: Those of `IWAE`.
    """

    def __init__(
        self, image: ImageSpec, *, elbo_weight: Annotated[float, Field(ge=0, le=1)] = 0.5, **options: Any
    ) -> None:
        super().__init__(image, **options)
        self.elbo_weight = elbo_weight

    def bound(self, log_weights: Tensor) -> Tensor:
        """Return what is maximised, `[B]`."""
        elbo = log_weights.mean(0)
        return self.elbo_weight * elbo + (1 - self.elbo_weight) * grouped_bound(log_weights, 1)  # (3)


@register("piwae")
class PIWAE(MIWAE):
    """The decoder follows the tightest bound, the encoder the one with the clearest gradient."""

    players = ("vae", "encoder")

    def player_parameters(self, player: str) -> list[nn.Parameter]:
        """Return all that makes q(z|x) for the encoder, and the rest for the decoder, player "vae"."""
        inference = [*self.encoder.parameters(), *self.to_mu.parameters(), *self.to_logvar.parameters()]
        if player == "encoder":
            return inference
        taken = {id(parameter) for parameter in inference}
        return [parameter for parameter in self.parameters() if id(parameter) not in taken]

    def bound(self, log_weights: Tensor) -> Tensor:
        """Return what the decoder maximises, `[B]`."""
        return grouped_bound(log_weights, 1)  # (4)

    def encoder_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return minus the encoder's bound."""
        log_weights, _ = self.draw(batch)
        return {"loss": -grouped_bound(log_weights, self.groups).mean()}
