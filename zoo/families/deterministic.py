"""Autoencoders whose posterior is a point: what deterministic and adversarial or kernel-regularised variants share."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo.base import ImageSpec, VAEOutput
from zoo.families.latent import Layout, NetVAE
from zoo.parts.distributions import standard_normal


class Autoencoder(NetVAE):
    """z = f(x), without noise; samples decode z ~ N(0, I).

    There is no posterior density, hence neither KL nor likelihood. A subclass writes `loss`.

    Args:
        image: The data's shape and range.
        latent_dim: D, dimensions of the latent; of each of its positions, where it keeps a grid.
        latent: "flat", a vector of D numbers, or "grid", D numbers at each position of the net's feature map.
        **options: Those of `NetVAE`: net, recon, reduction, out_activation, and the net's own.
    """

    stochastic = False

    def __init__(
        self, image: ImageSpec, *, latent_dim: PositiveInt = 32, latent: Layout = "flat", **options: Any
    ) -> None:
        super().__init__(image, **options)
        self.lay_out(latent, latent_dim)
        self.to_latent = self.to_latents()
        self.from_latent = self.features_from(self.latent_dim)

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, None]:
        """Return the image's latent `[B, D]`, and None for a variance."""
        return self.to_latent(self.read(x)).float().flatten(1), None

    def forward(self, x: Tensor, y: Tensor | None = None, *, sample_posterior: bool = True) -> VAEOutput:
        """Encode and decode; `sample_posterior` changes nothing."""
        z, _ = self.encode(x)
        logits = self.logits(z)
        return VAEOutput(self.likelihood.mean(logits), z, None, z, logits)

    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Decode `n` draws from N(0, I): `[n, C, H, W]`."""
        return self.decode(standard_normal((n, self.latent_dim), self.device, generator))
