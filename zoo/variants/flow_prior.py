"""Flow prior: a prior that bends to where the posterior lies. Huang et al. 2017, arXiv:1710.02248, section 3.

    u = f(z),   p(z) = N(f(z); 0, I) |det df/dz|,   f `prior_steps` affine coupling steps (Real NVP)
    loss = E_q(z|x)[-log p(x|z) + log q(z|x) - log p(z)]

The posterior stays a diagonal Gaussian; that the average of all posteriors is none costs nothing any more. f starts as
u = z, so that training starts from the plain VAE. Samples draw u ~ N(0, I), take it back to z, and decode.

Departs from the paper: no BatchNorm between the steps, and latents of a plain net where it has convolutional ones; s is
kept within [-2, 2].
"""

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.parts.flows import Steps
from zoo.parts.priors import FlowPrior


@register("flow_prior")
class FlowPriorVAE(GaussianVAE):
    """A VAE whose prior is a normalising flow.

    Args:
        image: The data's shape and range.
        prior_steps: Coupling steps.
        prior_width: Units in each of their two hidden layers.
        **options: Those of `GaussianVAE`.

    Raises:
        UserError: if the latent has one dimension alone: none would be left to depend on.
    """

    def __init__(
        self, image: ImageSpec, *, prior_steps: Steps = 6, prior_width: PositiveInt = 128, **options: Any
    ) -> None:
        super().__init__(image, **options)
        if self.latent_dim < 2:
            raise UserError("model 'flow_prior': latent_dim is 1, and each step needs two kinds of dimensions: take 2")
        self.prior = FlowPrior(self.latent_dim, prior_steps, prior_width)

    def log_prior(self, z: Tensor) -> Tensor:
        """Log p(z), nats: `[..., D]` -> `[...]`."""
        with torch.autocast(z.device.type, enabled=False):
            return self.prior.log_prob(z.float())

    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the flow: `[n, D]`."""
        return self.prior.sample(n, generator)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        z, log_q = self.posterior(batch.x, batch.y).draw(1)  # [1, B, D], [1, B]
        recon = self.likelihood.nll(self.logits(z[0], batch.y), batch.x)  # [B], -log p(x|z)
        kl = (log_q - self.log_prior(z))[0]  # [B]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl[:, None], self.latent_dim)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl)}
