"""Wasserstein autoencoder: match the aggregate posterior by MMD. Tolstikhin et al. 2018, arXiv:1711.01558, Alg. 2.

    loss = |x - decoder(z)|^2 + `scale` MMD(q(z), N(0, I)),   z = f(x)

`kernel: imq` sums inverse multiquadrics over the paper's seven scales; `rbf` is a Gaussian of the same bandwidth.
`scale` is the paper's lambda, in this project's units: the authors' code multiplies the summed squared error by 0.05,
so that their 10 on MNIST is 10 / 0.05 = 200 here, and their 100 on CelebA 2000.

Logs:
    mmd: squared maximum mean discrepancy of the batch's latents and as many draws of the prior, unbiased.

Departs from the paper: the encoder is deterministic and is not trained beforehand to match the prior's moments; the
prior has variance 1, as in the authors' code.
"""

from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.deterministic import Autoencoder
from zoo.parts.divergences import Kernel, mmd


@register("wae_mmd")
class WassersteinAutoencoder(Autoencoder):
    """An autoencoder whose latents are distributed as the prior.

    Args:
        image: The data's shape and range.
        scale: Weight of the divergence.
        kernel: Of the divergence: inverse multiquadrics, or a Gaussian.
        **options: Those of `Autoencoder`.
    """

    batch_terms = ("loss", "mmd")

    def __init__(
        self, image: ImageSpec, *, scale: NonNegativeFloat = 200.0, kernel: Kernel = "imq", **options: Any
    ) -> None:
        super().__init__(image, **options)
        self.scale = scale
        self.kernel = kernel

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon and mmd."""
        out = self(batch.x)
        recon = self.likelihood.nll(out.logits, batch.x).mean()
        with torch.autocast(batch.x.device.type, enabled=False):
            z = self.across_ranks(out.z)
            distance = mmd(z, torch.randn_like(z), self.kernel)
        return {"loss": self.recon_weight * recon + self.scale * distance, "recon": recon, "mmd": distance}
