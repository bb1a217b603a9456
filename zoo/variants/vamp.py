"""VampPrior: the prior is the posterior of learned pseudo-images. Tomczak & Welling 2018, arXiv:1705.07120, equation 9.

    p(z) = 1/K sum_k q(z|u_k),   K = `pseudo_inputs` images u_k that are learned
    loss = E_q(z|x)[-log p(x|z) + log q(z|x) - log p(z)]

The mixture moves with the encoder. Pseudo-images are kept in the image range by the likelihood's activation. Samples
are drawn from the mixture.

Departs from the paper: one layer of latents; pseudo-images pass the likelihood's activation, where the authors' code
has a Hardtanh, and start as noise around mid-range, where it starts them near the mean of the data; no warm-up unless
`warmup` is set (100 epochs in the paper). On nets with BatchNorm the pseudo-images are encoded by the statistics of
evaluation, which are those of the data.
"""

import math
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.nets.batch_norm import as_evaluated
from zoo.parts.distributions import gaussian_sample


@register("vamp")
class VampVAE(GaussianVAE):
    """A VAE whose prior is a mixture of its own posteriors.

    Args:
        image: The data's shape and range.
        pseudo_inputs: K, components of the mixture; each costs an encoding per step.
        **options: Those of `GaussianVAE`.
    """

    def __init__(self, image: ImageSpec, *, pseudo_inputs: PositiveInt = 500, **options: Any) -> None:
        super().__init__(image, **options)
        self.pseudo = nn.Parameter(0.5 * torch.randn(pseudo_inputs, self.likelihood.outputs, *image.shape[1:]))

    def components(self) -> tuple[Tensor, Tensor]:
        """Return the mixture's means and log variances, each `[K, D]`, in training as they are in evaluation."""
        with as_evaluated(self.encoder):
            return self.encode(self.likelihood.mean(self.pseudo))

    def log_prior(self, z: Tensor) -> Tensor:
        """Log 1/K sum_k N(z; mu_k, sigma_k^2), nats: `[..., D]` -> `[...]`."""
        # (z - mu)^2 / sigma^2, multiplied out: all pairs are two matrix products, not one [..., K, D] tensor. In
        # float32 their difference is off by nats where sigma is small; Apple's GPUs have no float64.
        exact = torch.float32 if z.device.type == "mps" else torch.float64
        mu, logvar = (part.to(exact) for part in self.components())
        with torch.autocast(z.device.type, enabled=False):
            point, precision = z.to(exact), (-logvar).exp()
            squared = point.square() @ precision.T - 2 * point @ (mu * precision).T + (mu.square() * precision).sum(1)
            log_densities = -0.5 * (squared + (math.log(2 * math.pi) + logvar).sum(1))  # [..., K]
        return (log_densities.logsumexp(-1) - math.log(len(mu))).to(z.dtype)

    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Choose components, then draw from them: `[n, D]`."""
        mu, logvar = self.components()
        source = self.device if generator is None else generator.device
        chosen = torch.randint(len(mu), (n,), generator=generator, device=source).to(self.device)
        return gaussian_sample(mu[chosen], logvar[chosen], generator)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        z, log_q = self.posterior(batch.x, batch.y).draw(1)  # [1, B, D], [1, B]
        recon = self.likelihood.nll(self.logits(z[0], batch.y), batch.x)  # [B], -log p(x|z)
        kl = (log_q - self.log_prior(z))[0]  # [B]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl[:, None], self.latent_dim)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl)}
