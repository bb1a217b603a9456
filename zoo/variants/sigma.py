"""σ-VAE: learn the decoder's noise. Rybkin et al. 2021, arXiv:2006.13202, equations 3 and 5.

    loss = P/2 (log 2 pi sigma^2 + |x - x~|^2 / (P sigma^2)) + KL(q(z|x) || N(0, I)),   P pixels
    optimal:  sigma^2 = mean over the batch and its pixels of (x - x~)^2
    shared:   sigma a parameter
    both kept above exp(-6)

One variance for all pixels, which balances reconstruction and KL by itself: no β to tune.

Logs:
    sigma: the decoder's standard deviation, in units of the images' range.

Departs from the paper: outside training log sigma^2 is the running mean (momentum 0.01) of its values in training, so
that the likelihood of an image does not depend on its batch. The floor is in the authors' code, where it is soft, not
in the text.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import LEAST_LOG_VARIANCE, gaussian_kl_per_dim

MOMENTUM = 0.01


@register("sigma")
class SigmaVAE(GaussianVAE):
    """A VAE with a Gaussian likelihood whose variance fits the data.

    Args:
        image: The data's shape and range.
        variance: "optimal" for the batch's maximum-likelihood estimate, "shared" for a learned parameter.
        **options: Those of `GaussianVAE`.
    """

    settled = ("recon", "reduction")
    batch_terms = ("loss", "recon", "elbo", "sigma")
    steps: Tensor

    def __init__(self, image: ImageSpec, *, variance: Literal["optimal", "shared"] = "optimal", **options: Any) -> None:
        super().__init__(image, recon="gaussian", **options)
        self.variance = variance
        if variance == "optimal":
            del self.likelihood.logvar
            self.likelihood.register_buffer("logvar", torch.zeros(()))
            self.register_buffer("steps", torch.zeros(()))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo and sigma."""
        out = self(batch.x, batch.y)
        squared = (out.recon - batch.x).square().flatten(1)  # [B, P]
        logvar = self.likelihood.log_variance  # log sigma^2
        if self.variance == "optimal" and self.training:
            logvar = self.across_ranks(squared.mean()[None]).mean().clamp(min=math.exp(LEAST_LOG_VARIANCE)).log()
            self._remember(logvar.detach())
        recon = 0.5 * (math.log(2 * math.pi) + logvar + squared * (-logvar).exp()).sum(1)  # [B]
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        loss = recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1)), "sigma": (0.5 * logvar).exp()}

    def _remember(self, logvar: Tensor) -> None:
        self.steps += 1
        self.likelihood.logvar.lerp_(logvar, (1 / self.steps).clamp(min=MOMENTUM))
