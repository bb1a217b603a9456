"""β-VAE with controlled capacity: hold the KL at a target that grows. Burgess et al. 2018, arXiv:1804.03599, eq. 8.

    loss = E_q(z|x)[-log p(x|z)] + `gamma` |KL(q(z|x) || N(0, I)) - C(t)|

C(t) rises linearly from 0 to `capacity` nats over the first `anneal` share of the run. The absolute value is taken of
the batch's mean KL (over all processes), since the target is one for the data, not for each image.

Logs:
    capacity: C(t), the target in force, nats.

Departs from the paper: `gamma` is 10 unless it is set, not 1000, under which a run of some thousand steps follows the
target and forgets the image.
"""

from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl


@register("beta_capacity")
class CapacityVAE(GaussianVAE):
    """A VAE whose KL is drawn to a growing target.

    Args:
        image: The data's shape and range.
        gamma: Weight of the distance from the target.
        capacity: The target at the end, nats.
        anneal: Share of the run over which the target rises.
        **options: Those of `GaussianVAE`.
    """

    settled = ("beta", "warmup", "free_bits")
    batch_terms = ("loss",)

    def __init__(
        self,
        image: ImageSpec,
        *,
        gamma: NonNegativeFloat = 10.0,
        capacity: NonNegativeFloat = 25.0,
        anneal: Annotated[float, Field(gt=0, le=1)] = 0.8,
        **options: Any,
    ) -> None:
        super().__init__(image, **options)
        self.gamma = gamma
        self.capacity = capacity
        self.anneal = anneal

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, and the target in force."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log p(x|z)
        kl = gaussian_kl(out.mu, out.logvar)  # [B]
        target = self.capacity * (self.progress / self.anneal).clamp(max=1)  # C(t)
        mean_kl = self.across_ranks(kl).mean()
        loss = (self.recon_weight * recon).mean() + self.gamma * (mean_kl - target).abs()
        return {"loss": loss, **self.elbo_terms(recon, kl), "capacity": torch.clone(target)}
