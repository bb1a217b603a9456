"""MS-SSIM VAE: reconstruct what the eye compares. Snell et al. 2015, arXiv:1511.06409, section 3.

    loss = `weight` (1 - MS-SSIM(x, x~)) + KL(q(z|x) || N(0, I))

MS-SSIM compares local means, contrasts and structures at several scales (Wang et al. 2003): the five of its paper at
176 pixels and more, fewer on smaller images, plain SSIM below 22. Its window of 11 pixels sees reflections beyond a
border, so that images need six a side.

Logs:
    ms_ssim: the similarity, 1 for equal images.

Departs from the paper: each scale's similarity is moved from [-1, 1] to [0, 1] before its power is taken, as its
gradient at 0 is infinite otherwise. A similarity is no density of pixels, hence no elbo and no likelihood; recon, the
usual pixel error, is only logged.
"""

from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from zoo.base import BaseVAE, Batch, ImageSpec, register
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl_per_dim
from zoo.parts.similarity import SMALLEST, WINDOW, scale_weights


@register("ms_ssim")
class MSSSIMVAE(GaussianVAE):
    """A VAE with structural similarity for a reconstruction term.

    Args:
        image: The data's shape and range.
        weight: Of the dissimilarity, in nats.
        **options: Those of `GaussianVAE`.
    """

    settled = ("reduction",)
    log_likelihood = BaseVAE.log_likelihood

    def __init__(self, image: ImageSpec, *, weight: PositiveFloat = 500.0, **options: Any) -> None:
        # Imported here, for it takes seconds, which a run of another variant should not wait.
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        if min(image.height, image.width) < SMALLEST:
            raise UserError(
                f"ms_ssim compares images of {SMALLEST} pixels a side or more, not {image.height} x {image.width}: set "
                f"data.size={SMALLEST} or more"
            )
        super().__init__(image, **options)
        self.weight = weight
        self.ms_ssim = multiscale_structural_similarity_index_measure

    def similarity(self, recon: Tensor, x: Tensor) -> Tensor:
        """MS-SSIM of images in the image range: two `[B, C, H, W]` -> `[B]`."""
        low, high = self.image.range
        size = min(self.image.height, self.image.width)
        # Variances are differences of local means of squares: bfloat16 would leave nothing of them on smooth images.
        with torch.autocast(x.device.type, enabled=False):
            return self.ms_ssim(
                (recon.float() - low) / (high - low),
                (x.float() - low) / (high - low),
                # A Gaussian's window is 11 pixels whatever this says; but torchmetrics refuses images of fewer than it.
                kernel_size=min(WINDOW, size - 1 + size % 2),
                data_range=1.0,
                betas=scale_weights(size),
                normalize="simple",
                reduction="none",
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and ms_ssim."""
        out = self(batch.x, batch.y)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        similarity = self.similarity(out.recon, batch.x)  # [B]
        recon = self.likelihood.nll(out.logits, batch.x)
        loss = self.weight * (1 - similarity) + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), "recon": recon.mean(), "kl": kl.sum(1).mean(), "ms_ssim": similarity.mean()}
