"""Log-cosh VAE: errors squared near zero, absolute far away. Chen et al. 2019, openreview.net/forum?id=rkglvsC9Ym.

    loss = 1/a sum_pixels log cosh(a (x - x~)) + KL(q(z|x) || N(0, I)),   a = `sharpness`

This is minus the log of a density proportional to cosh(a e)^(-1/a), whose constant B(1/2, 1/(2a)) / a is in elbo. Any
other variant may have it too, as `recon: logcosh` with a = 10.

Departs from the paper: the error is summed over pixels, not averaged, and the KL is not weighed down to match.
"""

from typing import Any

from pydantic import PositiveFloat
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import Likelihood, gaussian_kl_per_dim


@register("logcosh")
class LogCoshVAE(GaussianVAE):
    """A VAE whose likelihood has tails like a Laplace density's and a smooth top.

    Args:
        image: The data's shape and range.
        sharpness: a; errors well above 1/a count by their size.
        **options: Those of `GaussianVAE`.
    """

    settled = ("recon",)

    def __init__(self, image: ImageSpec, *, sharpness: PositiveFloat = 10.0, **options: Any) -> None:
        super().__init__(image, recon="logcosh", **options)
        self.likelihood = Likelihood("logcosh", self.likelihood.activation, image, sharpness)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], 1/a sum log cosh
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1))}
