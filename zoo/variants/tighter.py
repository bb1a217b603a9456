"""Tighter bounds are not always better: mend the encoder's gradient. Rainforth et al. 2018, arXiv:1802.04537, sec. 4.

    L(M, K) = 1/M sum_m log 1/K sum_k w_mk,   log w = log p(x|z) + log p(z) - log q(z|x)
    miwae:  loss = -L(M, K)                                                           (1)
    ciwae:  loss = -`elbo_weight` L(K, 1) - (1 - `elbo_weight`) L(1, K)               (2)
    piwae:  decoder minimises -L(1, M K), encoder minimises -L(M, K)                  (3)

With more samples in one bound, the encoder's gradient has less signal in its noise. M is `groups`, K is `samples`;
L(1, K) is the bound of `iwae`, L(K, 1) the evidence lower bound averaged over K samples.

Logs:
    iwae: the bound that is maximised, nats; recon, kl and elbo are means over the same samples.
    encoder/loss: minus the encoder's bound L(M, K), nats.

Departs from the paper: for piwae, encoder and decoder take their steps one after the other, each on samples of its own,
where the paper takes both gradients from one set.
"""

from typing import Annotated, Any

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.nets.batch_norm import unremembered
from zoo.variants.iwae import IWAE, grouped_bound


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
        return grouped_bound(log_weights, self.groups)  # (1)


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
        return self.elbo_weight * elbo + (1 - self.elbo_weight) * grouped_bound(log_weights, 1)  # (2)


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
        return grouped_bound(log_weights, 1)  # (3)

    def encoder_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return minus the encoder's bound."""
        with unremembered(self):
            log_weights, _ = self.draw(batch)
        return {"loss": -grouped_bound(log_weights, self.groups).mean()}
