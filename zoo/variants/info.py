"""InfoVAE: match the aggregate posterior, not each one. Zhao et al. 2017, arXiv:1706.02262, equation 6 (MMD-VAE).

    loss = E_q(z|x)[-log p(x|z)] + (1 - `alpha`) KL(q(z|x) || N(0, I)) + (`alpha` + `scale` - 1) MMD(q(z), N(0, I))

`alpha` below 1 keeps some of the KL; at 1 none is left, and the latent may hold as much information as it likes as long
as its aggregate is the prior. `scale` is the paper's lambda. The defaults are those of the authors' code for MNIST: no
KL (`alpha: 1`), and the squared error averaged over 784 pixels plus once the MMD, which is the summed error plus 784
times the MMD.

Logs:
    mmd: squared maximum mean discrepancy of the batch's latents and as many draws of the prior, unbiased.

Departs from the paper: the kernel is a choice of two, see `zoo.parts.divergences.kernel_matrix`; the
authors' code has a biased estimate, and a Gaussian kernel of another width, exp(-|a - b|^2 / D^2).
"""

from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl_per_dim
from zoo.parts.divergences import Kernel, mmd


@register("info")
class InfoVAE(GaussianVAE):
    """A VAE with less of the KL and a divergence between aggregate posterior and prior.

    Args:
        image: The data's shape and range.
        alpha: 1 minus the weight of the KL.
        scale: Weight of the divergence, but for alpha - 1.
        kernel: Of the divergence: inverse multiquadrics, or a Gaussian.
        **options: Those of `GaussianVAE`.

    Raises:
        UserError: if the divergence's weight, alpha + scale - 1, is negative.
    """

    settled = ("beta",)
    batch_terms = ("loss", "mmd")

    def __init__(
        self,
        image: ImageSpec,
        *,
        alpha: Annotated[float, Field(le=1)] = 1.0,
        scale: NonNegativeFloat = 784.0,
        kernel: Kernel = "rbf",
        **options: Any,
    ) -> None:
        if alpha + scale < 1:
            raise UserError(
                f"model 'info': alpha is {alpha:g} and scale {scale:g}, so that the divergence would be rewarded: "
                "make scale at least 1 - alpha"
            )
        super().__init__(image, **options)
        self.alpha = alpha
        self.scale = scale
        self.kernel = kernel

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo and mmd."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log p(x|z)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        with torch.autocast(batch.x.device.type, enabled=False):
            z = self.across_ranks(out.z)
            distance = mmd(z, torch.randn_like(z), self.kernel)
        bound = self.recon_weight * recon + (1 - self.alpha) * self.kl_weight() * self.free(kl)  # [B]
        loss = bound.mean() + (self.alpha + self.scale - 1) * distance
        return {"loss": loss, **self.elbo_terms(recon, kl.sum(1)), "mmd": distance}
