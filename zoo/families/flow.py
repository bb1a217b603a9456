"""Variants whose posterior is a Gaussian that a flow bends."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from zoo.base import ImageSpec
from zoo.families.latent import LatentVAE
from zoo.parts.distributions import DiagonalGaussian, Posterior, PosteriorScale, posterior_logvar
from zoo.parts.flows import Flow, FlowPosterior


class FlowVAE(LatentVAE):
    """A Gaussian posterior followed by a flow. A subclass writes `flow`.

    Args:
        image: The data's shape and range.
        latent_dim: D, dimensions of the latent.
        posterior_scale: What the encoder gives beside the mean of z_0: "exp", sigma_0^2 = exp(of it), or "softplus",
            sigma_0 = softplus(of it), as some papers have it.
        **options: Those of `LatentVAE`.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        latent_dim: PositiveInt = 32,
        posterior_scale: PosteriorScale = "exp",
        **options: Any,
    ) -> None:
        super().__init__(image, **options)
        self.latent_dim, self.posterior_scale = latent_dim, posterior_scale
        self.to_mu = nn.Linear(self.features, latent_dim)
        self.to_logvar = nn.Linear(self.features, latent_dim)
        self.from_latent = self.features_from(latent_dim)

    @abstractmethod
    def flow(self, h: Tensor) -> Flow:
        """Return the map of images whose features are h, `[B, F]`."""

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Posterior:
        """Return q(z|x) of a batch."""
        h = self.encoder(x).flatten(1)
        logvar = posterior_logvar(self.to_logvar(h).float(), self.posterior_scale)
        base = DiagonalGaussian(self.to_mu(h).float(), logvar)
        return FlowPosterior(base, self.flow(h))
