"""Regularised autoencoder: a smooth decoder instead of noise. Ghosh et al. 2020, arXiv:1903.12436, equation 11.

    loss = -log p(x|z) + `beta`/2 |z|^2 + `smoothness` L_reg,   z = f(x)
    L_reg = |decoder's weights|^2, biases and gains left out   (rae_l2)
          = |d decoder(z) / dz|^2_F                            (rae_gp)

The squared Frobenius norm of the decoder's Jacobian J is estimated without bias by one random direction v ~ N(0, I):
E|J^T v|^2 = |J|^2_F. Samples decode z ~ N(0, I); the paper fits a mixture of ten Gaussians to the latents after
training, which is the benchmark's sampler `gmm10`.

Defaults are those of the authors' code for MNIST, whose loss averages over P = 784 pixels and D = 16 latent dimensions
where this one sums: their 1e-4 on the mean of z^2 is `beta` = 2 P 1e-4 / D = 0.01 here, their 1e-7 on the weights
`smoothness` = P 1e-7 = 0.8e-4. (On CelebA at 64 pixels, with D = 64: 0.04 and 1.2e-3.) The 1e-2 of `rae_gp` is tried
here.

Logs:
    z_norm: |z|^2 / 2, what an N(0, I) prior would cost in nats but for a constant.
    smoothness: L_reg, before its weight.

Departs from the paper: the gradient penalty is estimated by a projection, where its code takes the gradient of the
summed squared output, and on nets with BatchNorm by the statistics of evaluation, so that it is each image's own; the
weights are penalised in the loss rather than by the optimizer's weight decay.
"""

from abc import abstractmethod
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.base import Batch, ImageSpec, register
from zoo.families.deterministic import Autoencoder
from zoo.nets.batch_norm import as_evaluated


class RegularisedAutoencoder(Autoencoder):
    """An autoencoder with small latents and a smooth decoder.

    Args:
        image: The data's shape and range.
        beta: Weight of the latents' norm.
        smoothness: Weight of L_reg.
        **options: Those of `Autoencoder`.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        beta: NonNegativeFloat = 1e-2,
        smoothness: NonNegativeFloat = 1e-4,
        **options: Any,
    ) -> None:
        super().__init__(image, **options)
        self.beta = beta
        self.smoothness = smoothness

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, z_norm and smoothness."""
        out = self(batch.x)
        recon = self.likelihood.nll(out.logits, batch.x).mean()
        z_norm = out.z.square().sum(1).mean() / 2
        roughness = self.roughness(out.z)
        loss = self.recon_weight * recon + self.beta * z_norm + self.smoothness * roughness
        return {"loss": loss, "recon": recon, "z_norm": z_norm, "smoothness": roughness}

    @abstractmethod
    def roughness(self, z: Tensor) -> Tensor:
        """Return L_reg at latents `[B, D]`: a scalar."""


@register("rae_l2", "penalty on the decoder's weights")
class WeightRAE(RegularisedAutoencoder):
    """L_reg is the squared norm of all weights between latent and image."""

    def roughness(self, z: Tensor) -> Tensor:
        """Sum the squares of the weights: matrices and kernels, not biases and gains."""
        parameters = [*self.from_latent.parameters(), *self.decoder.parameters()]
        return torch.stack([parameter.square().sum() for parameter in parameters if parameter.ndim > 1]).sum()


@register("rae_gp", "penalty on the decoder's gradient", smoothness=1e-2)
class GradientRAE(RegularisedAutoencoder):
    """L_reg is the squared norm of the decoder's Jacobian."""

    not_compiled = "its gradient penalty is differentiated twice, which torch.compile does not support"

    def roughness(self, z: Tensor) -> Tensor:
        """Estimate the mean of |J|^2_F."""
        with torch.enable_grad():  # also where the loss is only evaluated
            z = z if z.requires_grad else z.detach().requires_grad_()
            # Statistics of the batch would make an image's gradient one of all images; fused attention has no second.
            with as_evaluated(self.decoder), sdpa_kernel(SDPBackend.MATH):
                images = self.decode(z)
            (projected,) = torch.autograd.grad(images, z, torch.randn_like(images), create_graph=True)  # J^T v, [B, D]
        return projected.square().sum(1).mean()
