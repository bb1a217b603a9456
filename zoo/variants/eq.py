"""EQ-VAE: latents that turn and shrink with their image. Kouzelis et al. 2025, arXiv:2502.09509.

    loss = -log p(τ x | τ z) + β KL(q(z|x) || N(0, I)),   z ~ q(z|x)
    τ = R(θ) S(s) in a share `transformed` of the training steps, else the identity

z is a grid with a Gaussian at each position. S scales images and grids alike, bilinearly, by s between 1/4 and 1 (of
height and width by one s, or, `anisotropic`, by one each); R turns both by 90, 180 or 270 degrees. So the decoder must
make the same of a turned or smaller latent that turning or scaling makes of the image, and smooth latents do: they are
what a second model, as the sampler `rectified_flow`, learns more easily. β is so small that it only keeps latents from
running away; samples from N(0, I) are hardly any. The metric `equivariance` shows what is gained, `psnr` what it costs.
Weights of diffusers' `AutoencoderKL` are taken over by `init_from` (net `ldm`, `out_activation: none`).

Departs from the paper: its authors' code (github.com/zelaki/eqvae) fine-tunes an autoencoder that has a perceptual
distance and a discriminator, as `kl_gan` has, and no activation at its end; this has none of the three, but the
activation of the images' range. Sides of scaled grids are whole numbers up to the full one, which the authors' code
leaves out; of the other steps, that code takes a quarter on scaled images that it encodes. A step of several processes
or micro-batches has a τ in each. As there, a scaled image counts with the pixels that it has; in training recon and
elbo are those of what was decoded, in evaluation those of the images.
"""

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.families.latent import FromGrid, Layout
from zoo.nets.batch_norm import as_evaluated
from zoo.parts.distributions import gaussian_kl_per_dim

Share = Annotated[float, Field(ge=0, le=1)]
LEAST_SCALE = 4  # the smallest grid has a fourth of each side


def transform(maps: Tensor, size: tuple[int, int], quarters: int) -> Tensor:
    """Scale maps `[B, C, h, w]` to a size, and turn them by so many times 90 degrees: an odd number swaps the sides."""
    return torch.rot90(F.interpolate(maps, size=size, mode="bilinear", align_corners=False), quarters, (2, 3))


@register("eq", net="ldm", latent="grid", latent_dim=4, recon="l1", beta=1e-6)
class EquivariantVAE(GaussianVAE):
    """A Gaussian at each position; latents are decoded as they are, and turned and scaled.

    Args:
        image: The data's shape and range.
        transformed: Share of the training steps whose latents are turned and scaled before they are decoded.
        anisotropic: Scale height and width each by its own number.
        **options: Those of `GaussianVAE`.

    Raises:
        UserError: if latents keep no grid, or the net decodes one size of grid alone.
    """

    not_compiled = "its latents change their size from step to step, and torch.compile makes a step for each size"
    from_latent: FromGrid

    def __init__(
        self, image: ImageSpec, *, transformed: Share = 0.5, anisotropic: bool = False, **options: Any
    ) -> None:
        super().__init__(image, **options)
        self.transformed, self.anisotropic = transformed, anisotropic

    def lay_out(self, latent: Layout, dim: int) -> None:
        """Settle what latents are, and see that they can be turned and scaled."""
        if latent != "grid":
            raise UserError(
                "model 'eq' turns and scales grids of latents, and flat ones are none: set model.latent=grid"
            )
        if not self._decodes_any_grid():
            raise UserError(
                "model 'eq' turns and scales grids of latents, and for these images the net has none, or a single "
                "position, or decodes one size alone: choose net 'ldm' or 'grid'"
            )
        super().lay_out(latent, dim)

    def _decodes_any_grid(self) -> bool:
        """Whether the decoder makes of each position so many pixels a side, however many positions there are."""
        channels, *grid = self.decoder_shape
        if len(grid) != 2 or grid == [1, 1] or grid != list(self.feature_shape[1:]):
            return False
        self.factor = self.image.height // grid[0]
        if [self.factor * side for side in grid] != [self.image.height, self.image.width]:
            return False
        other = (grid[0] + 1, 1)
        with torch.no_grad(), as_evaluated(self.decoder):
            made = self.decoder(torch.zeros(1, channels, *other))
        return list(made.shape[2:]) == [self.factor * side for side in other]

    def drawn(self) -> tuple[tuple[int, int], int]:
        """Draw τ: height and width of the scaled grid, and quarters of a turn; the identity has its own size and 0."""
        _, height, width = self.from_latent.shape
        if not self.training:
            return (height, width), 0
        # On the CPU whatever the device: sizes must be known here, and asking a GPU for them would wait for it.
        chance, *places, turn = torch.rand(4, device="cpu").tolist()
        if chance >= self.transformed:
            return (height, width), 0
        least = [math.ceil(side / LEAST_SCALE) for side in (height, width)]
        tall, wide = (n + int(p * (side - n + 1)) for n, p, side in zip(least, places, (height, width), strict=True))
        if not self.anisotropic:
            wide = max(1, round(width * tall / height))
        return (tall, wide), 1 + int(3 * turn)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        (height, width), quarters = self.drawn()
        mu, logvar = self.encode(batch.x)
        z = self.reparameterize(mu, logvar).unflatten(1, self.from_latent.shape)  # [B, C, h, w]
        x = transform(batch.x, (self.factor * height, self.factor * width), quarters)  # τ x
        logits = self.decoder(self.from_latent.conv(transform(z, (height, width), quarters))).float()  # of τ z
        recon = self.likelihood.nll(logits, x)  # [B], -log p(τ x | τ z)
        kl = gaussian_kl_per_dim(mu, logvar)  # [B, C h w]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1))}
