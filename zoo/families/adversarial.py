"""Variants that learn against a discriminator of patches, and from a perceptual distance: what tokenizers share."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec
from zoo.config import Fraction
from zoo.errors import UserError
from zoo.families.latent import NetVAE
from zoo.nets.batch_norm import unremembered
from zoo.nets.patches import PatchDiscriminator
from zoo.nets.pretrained import MOBILENET_VARIABLE, Perceptual
from zoo.parts.adversarial import Game, balance, gradient_penalty, last_weight, mistaken, told_apart


class PatchGame(NetVAE):
    """The part of an objective that is no likelihood; a subclass names it first, and its posterior's class second.

    Args:
        image: The data's shape and range.
        perceptual_weight: Of the distance between MobileNetV2's features of image and reconstruction, counted once a
            pixel and channel, as the error is. Other than 0, it needs that network's weights: a file that
            `$VAE_ZOO_MOBILENET` names, or in torch hub's cache, or from a download.
        gan_weight: Of the adversarial term, beside its adaptive weight.
        gan_start: Share of the run before the game begins.
        gan: Its losses: "hinge" or "logistic".
        r1: Weight of the squared gradient of the discriminator at images.
        patch_channels: Width of the discriminator's first layer.
        patch_layers: How often it halves the size; fewer on small images.
        **options: Those of the posterior's class.
    """

    players: ClassVar[tuple[str, ...]] = ("vae", "discriminator")
    optimizers = dict.fromkeys(("vae", "discriminator"), {"betas": (0.5, 0.9)})
    not_compiled = "its adaptive weight is a gradient taken within the step, which torch.compile does not support"
    batch_terms: tuple[str, ...] = ("loss", "adaptive_weight")
    settled: ClassVar[tuple[str, ...]] = ("reduction",)
    adaptive_weight: Tensor

    def __init__(
        self,
        image: ImageSpec,
        *,
        perceptual_weight: NonNegativeFloat = 0.0,
        gan_weight: NonNegativeFloat = 0.5,
        gan_start: Fraction = 0.2,
        gan: Game = "hinge",
        r1: NonNegativeFloat = 0.0,
        patch_channels: PositiveInt = 64,
        patch_layers: PositiveInt = 3,
        **options: Any,
    ) -> None:
        super().__init__(image, **options)
        self.perceptual_weight = perceptual_weight
        self.gan_weight, self.gan_start, self.gan, self.r1 = gan_weight, gan_start, gan, r1
        self.register_buffer("adaptive_weight", torch.zeros(()))
        self.discriminator = PatchDiscriminator(image, channels=patch_channels, layers=patch_layers)

    @cached_property
    def perceptual(self) -> Perceptual:
        """The distance, whose weights are looked for when it is first needed: a trained model decodes without them.

        Raises:
            UserError: if they are not found.
        """
        try:
            return Perceptual(places={MOBILENET_VARIABLE: os.environ.get(MOBILENET_VARIABLE)})
        except UserError as error:
            raise UserError(f"{error}; or set model.perceptual_weight=0") from None

    def seen(self, recon: Tensor, x: Tensor) -> Tensor:
        """Return the perceptual distance of reconstructions from images, two `[B, C, H, W]` in the image range, `[B]`.

        Without a weight it is 0.
        """
        if not self.perceptual_weight:
            return x.new_zeros(len(x))
        low, high = self.image.range
        return self.perceptual((recon - low) / (high - low), (x - low) / (high - low))

    def started(self) -> Tensor:
        """Return 1 once the game has begun, 0 before."""
        return (self.progress >= self.gan_start).float()

    def balanced(self, fidelity: Tensor, fooled: Tensor) -> Tensor:
        """Return the adaptive weight of this step; in evaluation that of the last one, which the model remembers.

        Raises:
            UserError: if the layer that both pull at is frozen.
        """
        if self.training and torch.is_grad_enabled():
            weight = last_weight(self.decoder)
            if not weight.requires_grad:
                raise UserError(
                    f"{type(self).__name__} weighs its game by gradients of the decoder's last layer, which is frozen: "
                    "leave the decoder out of freeze"
                )
            self.adaptive_weight.copy_(balance(fidelity, fooled, weight, self.image.pixels))
        return self.adaptive_weight.clone()

    def fooled(self, recon: Tensor) -> Tensor:
        """Return the decoder's adversarial term, a scalar, of reconstructions `[B, C, H, W]`."""
        return mistaken(self.discriminator(recon), self.gan)

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the discriminator's loss on images and reconstructions, and r1 where it has a weight."""
        with torch.no_grad(), unremembered(self):
            recon = self(batch.x, batch.y).recon
        loss = told_apart(self.discriminator(batch.x), self.discriminator(recon), self.gan)
        if not self.r1:
            return {"loss": self.started() * loss}
        penalty = gradient_penalty(self.discriminator, batch.x)
        return {"loss": self.started() * (loss + self.r1 * penalty), "r1": penalty}
