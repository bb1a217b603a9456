"""FactorVAE: penalise the total correlation that a critic sees. Kim & Mnih 2018, arXiv:1802.05983, Algorithm 2.

    loss = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I)) + `gamma` TC,   TC = E_q(z)[critic(z)]
    critic/loss = (E_q(z)[softplus(-critic(z))] + E_perm(z)[softplus(critic(z'))]) / 2

The critic tells draws of q(z) from draws of the product of its marginals, made by permuting each dimension over the
batch; its logit estimates the log ratio of their densities, whose mean under q(z) is the total correlation.

Logs:
    tc: the critic's estimate of the total correlation, nats.
    critic/loss: the critic's cross-entropy, nats; log 2 where it can't tell the two apart.

Departs from the paper: one batch split in two, where the paper draws two batches; the critic has five hidden layers of
`critic_width` units, six of 1000 in the paper, and one logit, which stands for the difference of the paper's two. Its
optimizer is the paper's: Adam at 1e-4 with betas 0.5 and 0.9.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.nets.batch_norm import unremembered
from zoo.nets.pairs import latent_critic
from zoo.parts.distributions import gaussian_kl_per_dim
from zoo.parts.divergences import permute_dims


@register("factor")
class FactorVAE(GaussianVAE):
    """A VAE and a critic of its latents' dependence.

    Args:
        image: The data's shape and range.
        gamma: Weight of the total correlation.
        critic_width: Units in each of the critic's hidden layers.
        **options: Those of `GaussianVAE`.
    """

    players = ("vae", "critic")
    optimizers = {"critic": {"name": "adam", "lr": 1e-4, "betas": (0.5, 0.9)}}

    def __init__(
        self, image: ImageSpec, *, gamma: NonNegativeFloat = 10.0, critic_width: PositiveInt = 256, **options: Any
    ) -> None:
        super().__init__(image, **options)
        self.gamma = gamma
        self.critic = latent_critic(self.latent_dim, critic_width, layers=5)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo and tc."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log p(x|z)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        tc = self.critic(out.z).float().mean()
        bound = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": bound.mean() + self.gamma * tc, **self.elbo_terms(recon, kl.sum(1)), "tc": tc}

    def critic_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the critic's loss on one half of the batch as it is, and the other half permuted."""
        with torch.no_grad(), unremembered(self.encoder):
            z = self.reparameterize(*self.encode(batch.x, batch.y))
        half = (len(z) + 1) // 2
        joint, product = z[:half], permute_dims(z[-half:])  # a batch of odd size shares its middle image
        told = F.softplus(-self.critic(joint).float()).mean() + F.softplus(self.critic(product).float()).mean()
        return {"loss": told / 2}
