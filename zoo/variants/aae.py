"""Adversarial autoencoder: a critic makes the latents look like the prior. Makhzani et al. 2015, arXiv:1511.05644.

    loss = -log p(x|z) + `weight` softplus(-critic(z)),   z = f(x)
    critic/loss = (softplus(-critic(u)) + softplus(critic(z))) / 2,   u ~ N(0, I)

The critic tells draws of the prior from encoded images, and the encoder learns to be mistaken for the prior.

Logs:
    fooled: the encoder's adversarial term, nats; log 2 where the critic can't tell.
    critic/loss: the critic's cross-entropy, nats; log 2 where it can't tell.

Departs from the paper: reconstruction and adversarial term are minimised together, where the paper alternates phases;
the critic's two hidden layers have `critic_width` units, 1000 in the paper; both players share the run's optimizer,
where the paper has stochastic gradient descent with momentum.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.deterministic import Autoencoder
from zoo.nets.batch_norm import unremembered
from zoo.nets.pairs import latent_critic


@register("aae")
class AdversarialAutoencoder(Autoencoder):
    """An autoencoder and a critic of its latents.

    Args:
        image: The data's shape and range.
        weight: Of the adversarial term.
        critic_width: Units in each of the critic's hidden layers.
        **options: Those of `Autoencoder`.
    """

    players = ("vae", "critic")

    def __init__(
        self, image: ImageSpec, *, weight: NonNegativeFloat = 1.0, critic_width: PositiveInt = 256, **options: Any
    ) -> None:
        super().__init__(image, **options)
        self.weight = weight
        self.critic = latent_critic(self.latent_dim, critic_width, layers=2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon and fooled."""
        out = self(batch.x)
        recon = self.likelihood.nll(out.logits, batch.x).mean()
        fooled = F.softplus(-self.critic(out.z).float()).mean()
        return {"loss": self.recon_weight * recon + self.weight * fooled, "recon": recon, "fooled": fooled}

    def critic_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the critic's loss on draws of the prior and on encoded images."""
        with torch.no_grad(), unremembered(self.encoder):
            z, _ = self.encode(batch.x)
        prior, coded = self.critic(torch.randn_like(z)).float(), self.critic(z).float()
        return {"loss": (F.softplus(-prior).mean() + F.softplus(coded).mean()) / 2}
