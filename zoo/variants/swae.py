"""Sliced-Wasserstein autoencoder: match the prior on lines. Kolouri et al. 2018, arXiv:1804.01947, Algorithm 1.

    loss = -log p(x|z) + `scale` SW(q(z), N(0, I)),   z = f(x)

SW is the mean over `projections` random directions of the squared transport distance between the batch's latents and as
many draws of the prior, both projected onto the direction and sorted.

Logs:
    sw: the sliced distance.

Departs from the paper: the reconstruction term is the run's likelihood alone, where the paper adds absolute error and
cross-entropy.
"""

from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.deterministic import Autoencoder
from zoo.parts.divergences import sliced_wasserstein


@register("swae")
class SlicedWassersteinAutoencoder(Autoencoder):
    """An autoencoder whose latents look like the prior from every side.

    Args:
        image: The data's shape and range.
        scale: Weight of the distance.
        projections: Directions per step.
        **options: Those of `Autoencoder`.
    """

    batch_terms = ("loss", "sw")

    def __init__(
        self, image: ImageSpec, *, scale: NonNegativeFloat = 100.0, projections: PositiveInt = 50, **options: Any
    ) -> None:
        super().__init__(image, **options)
        self.scale = scale
        self.projections = projections

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon and sw."""
        out = self(batch.x)
        recon = self.likelihood.nll(out.logits, batch.x).mean()
        with torch.autocast(batch.x.device.type, enabled=False):
            z = self.across_ranks(out.z)
            distance = sliced_wasserstein(z, torch.randn_like(z), self.projections)
        return {"loss": self.recon_weight * recon + self.scale * distance, "recon": recon, "sw": distance}
