"""Discretised logistic mixture: probabilities of 256 levels. Salimans et al. 2017, arXiv:1701.05517, section 2.

    P(x|z) = prod_pixels sum_i w_i prod_c [F((x_c + h - m_ic) / s_ic) - F((x_c - h - m_ic) / s_ic)],   h = 1/255
    m_ic here is m_ic + sum_{d < c} a_icd x_d,   F(t) = 1 / (1 + e^-t),   x in [-1, 1]
    loss = E_q(z|x)[-log P(x|z)] + KL(q(z|x) || N(0, I))

The decoder gives the weight w of each of `components` logistic distributions, and for each channel its mean m, its
scale s, and how the mean follows the channels before it in the pixel, a. The lowest level has all that lies below it,
the highest all above: the 256 sum to 1, and bits per dimension are those of a lossless code. With one component it is
the discretised logistic of Kingma et al. 2016, arXiv:1606.04934. Any other variant may have it too, as
`recon: logistic_mixture` with 5 components.

Departs from the paper: it is the likelihood of a VAE here, as in Child 2021 (arXiv:2011.10650), not of a PixelCNN; an
image is the mean of P(x|z) but for the rounding to levels, each channel's with those before it at theirs, not a draw of
it; differences of two logistic functions are computed exactly where the authors' code has approximations; log s is
clamped to [-7, 20], as theirs from below, but its gradient passes.
"""

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl_per_dim
from zoo.parts.likelihoods import LogisticMixture

Components = Annotated[int, Field(gt=0, le=100)]


@register("logistic_mixture")
class LogisticMixtureVAE(GaussianVAE):
    """A VAE whose likelihood gives each level of a pixel its probability.

    Args:
        image: The data's shape and range.
        components: Logistic distributions of a pixel.
        **options: Those of `GaussianVAE`.
    """

    settled = ("recon", "out_activation")

    def __init__(self, image: ImageSpec, *, components: Components = 10, **options: Any) -> None:
        super().__init__(image, likelihood=LogisticMixture(image, components), **options)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log P(x|z)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1))}
