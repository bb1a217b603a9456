"""Two-stage VAE: a second VAE learns where the first one's latents lie. Dai & Wipf 2019, arXiv:1903.05789, section 4.

    loss = E_q(z|x)[-log N(x; decoder(z), gamma)] + KL(q(z|x) || N(0, I)),   gamma learned
    second/loss = E_q(u|z)[-log N(z; f(u), gamma')] + KL(q(u|z) || N(0, I)),   z ~ q(z|x)

The first stage's aggregate posterior is not N(0, I); the second one's, of latents that fill their space, comes nearer.
Samples draw u ~ N(0, I), then z ~ p(z|u), then decode. The prior that log_likelihood speaks of is the second stage's,
p(z) = E_p(u)[p(z|u)]; kl and elbo are the first stage's own, under N(0, I).

Logs:
    second/loss: minus the second stage's bound on log p(z), nats per image.

Departs from the paper: both stages are trained at once, the second on latents that still move; it has two hidden layers
of 512 units, where the paper has three of 1024, and its gamma' starts at exp(-3), where the paper's starts at 1.
Pixels' gamma is kept above exp(-12).
"""

from typing import Any

import torch
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.nets.batch_norm import unremembered
from zoo.parts.distributions import gaussian_kl_per_dim
from zoo.parts.priors import SecondStage


@register("two_stage")
class TwoStageVAE(GaussianVAE):
    """A VAE and a second one on its latents.

    Args:
        image: The data's shape and range.
        **options: Those of `GaussianVAE`.
    """

    players = ("vae", "second")
    settled = ("recon",)
    own_bound = False  # kl and elbo are the first stage's, under N(0, I)

    def __init__(self, image: ImageSpec, **options: Any) -> None:
        super().__init__(image, recon="gaussian", **options)
        self.second = SecondStage(self.latent_dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log N(x; decoder(z), gamma)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1))}

    def second_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the second stage's loss on draws of the posterior."""
        with torch.no_grad(), unremembered(self.encoder):
            z = self.reparameterize(*self.encode(batch.x, batch.y))
        return {"loss": self.second.loss(z)}

    def log_prior(self, z: Tensor) -> Tensor:
        """Log p(z|u) + log p(u) - log q(u|z) at one draw of u: `[..., D]` -> `[...]`; its exp has mean p(z)."""
        return self.second.log_prob_estimate(z)

    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the second stage: `[n, D]`."""
        return self.second.sample(n, generator)
