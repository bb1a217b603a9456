"""Conditional VAE: labels enter encoder and decoder. Sohn et al. 2015, NeurIPS, papers.nips.cc/paper/5775.

    loss = E_q(z|x,y)[-log p(x|z,y)] + KL(q(z|x,y) || N(0, I))

A label is a class, taken as one-hot, or a vector of attributes (CelebA). The encoder sees it as one more image channel,
a learned linear map of the label; the decoder sees it beside z.

Departs from the paper: the prior does not depend on the label, p(z|y) = N(0, I), as in the M2 model of Kingma et al.
2014 (arXiv:1406.5298).
"""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.nets.pairs import label_vector
from zoo.parts.distributions import gaussian_kl_per_dim


@register("conditional")
class ConditionalVAE(GaussianVAE):
    """A VAE of images given their labels; `encode`, `decode` and `sample` take them."""

    needs_labels = True

    def __init__(self, image: ImageSpec, **options: Any) -> None:
        super().__init__(image, **options)
        self.label_channel = nn.Linear(image.label_dim, image.height * image.width)

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z|x, y), each `[B, D]`."""
        channel = self.label_channel(self._vector(y)).view(-1, 1, *x.shape[2:])  # [B, 1, H, W]
        return super().encode(torch.cat([x, channel], 1))

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the decoder's raw output, `[B, C, H, W]`."""
        return super().logits(torch.cat([z, self._vector(y)], 1))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log p(x|z)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1))}

    def _vector(self, y: Tensor | None) -> Tensor:
        if y is None:
            raise UserError("a conditional VAE needs labels: pass y")
        return label_vector(y, self.image)
