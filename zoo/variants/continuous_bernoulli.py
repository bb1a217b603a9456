"""Continuous Bernoulli: a cross-entropy that is a density. Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845.

    log p(x|z) = sum_pixels [x log lambda + (1 - x) log(1 - lambda) + log C(lambda)],   x in [0, 1]
    C(lambda) = 2 artanh(1 - 2 lambda) / (1 - 2 lambda),   2 where lambda = 1/2
    loss = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I))

Without C, which `recon: bce` leaves out, grey pixels have no likelihood, and lambda stays near the middle. Images are
the mean of p(x|z), lambda / (2 lambda - 1) + 1 / (2 artanh(1 - 2 lambda)), which is not lambda. Any other variant may
have it too, as `recon: continuous_bernoulli`.

Departs from the paper: C is computed from lambda's log odds, exactly for all of them; images in [-1, 1] are shifted and
halved; nets and sizes of the latent are the usual ones.
"""

from typing import Any

from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl_per_dim
from zoo.parts.likelihoods import ContinuousBernoulli


@register("continuous_bernoulli")
class ContinuousBernoulliVAE(GaussianVAE):
    """A VAE whose likelihood lives on grey pixels.

    Args:
        image: The data's shape and range.
        **options: Those of `GaussianVAE`.
    """

    settled = ("recon", "out_activation")

    def __init__(self, image: ImageSpec, **options: Any) -> None:
        super().__init__(image, likelihood=ContinuousBernoulli(image), **options)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log p(x|z)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1))}
