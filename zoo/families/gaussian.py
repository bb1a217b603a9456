"""The VAE most variants start from: a diagonal Gaussian posterior, a standard normal prior, any net."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, VAEOutput
from zoo.errors import UserError
from zoo.families.latent import LatentVAE, Layout
from zoo.parts.distributions import (
    DiagonalGaussian,
    Posterior,
    PosteriorScale,
    gaussian_kl_per_dim,
    gaussian_sample,
    posterior_logvar,
)


class GaussianVAE(LatentVAE):
    """q(z|x) = N(mu(x), diag exp(logvar(x))), p(z) = N(0, I), p(x|z) by `recon`.

    Args:
        image: The data's shape and range.
        latent_dim: D, dimensions of the latent; of each of its positions, where it keeps a grid.
        latent: "flat", a vector of D numbers, or "grid", D numbers at each position of the net's feature map.
        logvar_range: Least and greatest log variance, which are clamped, as some papers do, so that none beyond has a
            gradient; None: [-30, 20], where a gradient passes.
        posterior_scale: What the encoder gives beside the mean: "exp", sigma^2 = exp(of it), or "softplus", sigma =
            softplus(of it), as some papers have it.
        **options: Those of `LatentVAE`: net, recon, reduction, beta, out_activation, and the net's own.

    Raises:
        UserError: if net, size, activation, range and likelihood don't go together, or `logvar_range` does not rise.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        latent_dim: PositiveInt = 32,
        latent: Layout = "flat",
        logvar_range: tuple[float, float] | None = None,
        posterior_scale: PosteriorScale = "exp",
        **options: Any,
    ) -> None:
        super().__init__(image, **options)
        if logvar_range is not None and not logvar_range[0] < logvar_range[1]:
            raise UserError(f"model.logvar_range is {list(logvar_range)}, and must rise, as [-6, 2] does")
        self.logvar_range, self.posterior_scale = logvar_range, posterior_scale
        self.lay_out(latent, latent_dim)
        self.to_mu, self.to_logvar = self.to_latents(), self.to_latents()
        # A conditional model shows its labels to both ends of the latent.
        self.from_latent = self.features_from(self.latent_dim + (image.label_dim if self.needs_labels else 0))

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z|x), each `[B, D]`."""
        h = self.read(x)
        mu, width = self.to_mu(h).float().flatten(1), self.to_logvar(h).float().flatten(1)
        logvar = posterior_logvar(width, self.posterior_scale)
        return mu, logvar.clamp(*self.logvar_range) if self.logvar_range else logvar

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Posterior:
        """Return q(z|x) of a batch."""
        return DiagonalGaussian(*self.encode(x, y))

    def reparameterize(self, mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw z = mu + sigma * eps, with eps ~ N(0, I): `[B, D]`."""
        return gaussian_sample(mu, logvar, generator)

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        sample_posterior: bool = True,
        generator: torch.Generator | None = None,
    ) -> VAEOutput:
        """Encode, draw (or take the mean), decode."""
        mu, logvar = self.encode(x, y)
        z = self.reparameterize(mu, logvar, generator) if sample_posterior else mu
        logits = self.logits(z, y)
        return VAEOutput(self.likelihood.mean(logits), mu, logvar, z, logits)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo, the KL in closed form. Kingma & Welling 2013, equation 10."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B]
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1))}
