"""DIP-VAE: an aggregate posterior with unit covariance. Kumar et al. 2018, arXiv:1711.00848, equations 6 and 7.

    loss = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I))
         + `off_diagonal` sum_{i != j} C_ij^2 + `diagonal` sum_i (C_ii - 1)^2
    C = Cov_x[mu(x)]                                   (dip_i)
      = Cov_x[mu(x)] + E_x[diag sigma^2(x)]            (dip_ii, the covariance of q(z))

Logs:
    dip: the penalty on C, weighted.

Departs from the paper: the covariance is that of the batch (with 1/B), as in its section 3; default weights are those
it uses for dSprites (dip_i: 10 and 100; dip_ii: 10 and 10) rather than tuned.
"""

from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl_per_dim
from zoo.parts.divergences import covariance


@register("dip_i", "covariance of the posterior means", kind="i", diagonal=100.0)
@register("dip_ii", "covariance of the aggregate posterior", kind="ii", diagonal=10.0)
class DIPVAE(GaussianVAE):
    """A VAE whose latents are uncorrelated and of unit variance over the data.

    Args:
        image: The data's shape and range.
        kind: Whose covariance: "i" of the means, "ii" of the aggregate posterior.
        off_diagonal: Weight of the squared covariances.
        diagonal: Weight of the variances' squared distance from 1.
        **options: Those of `GaussianVAE`.
    """

    batch_terms = ("loss", "dip")

    def __init__(
        self,
        image: ImageSpec,
        *,
        kind: Literal["i", "ii"] = "ii",
        off_diagonal: NonNegativeFloat = 10.0,
        diagonal: NonNegativeFloat = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(image, **options)
        self.kind = kind
        self.off_diagonal = off_diagonal
        self.diagonal = diagonal

    def penalty(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """Weigh how far C is from the identity: two `[B, D]` -> scalar."""
        c = covariance(mu)
        if self.kind == "ii":
            c = c + logvar.exp().mean(0).diag()
        variances = c.diagonal()
        off = c.square().sum() - variances.square().sum()
        return self.off_diagonal * off + self.diagonal * (variances - 1).square().sum()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo and dip."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log p(x|z)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        with torch.autocast(batch.x.device.type, enabled=False):
            dip = self.penalty(self.across_ranks(out.mu), self.across_ranks(out.logvar))
        bound = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": bound.mean() + dip, **self.elbo_terms(recon, kl.sum(1)), "dip": dip}
