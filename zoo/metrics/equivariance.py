"""Whether a latent grid turns with its image. Kouzelis et al. 2025 (EQ-VAE), arXiv:2502.09509."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.data import some
from zoo.errors import DoesNotApply
from zoo.metrics.core import Score, Subject, mean_score, register_metric
from zoo.pictures.of_models import to_unit

IMAGES = 1000  # at most
QUARTERS = (1, 2, 3)  # of a whole turn
LEAST_ERROR = 1e-10  # mean squared, so that two equal images have 100 dB


@register_metric("equivariance", "whether images decoded from turned latents are turned images")
def equivariance(subject: Subject) -> dict[str, Score]:
    """Row equivariance: PSNR of D(τ E(x)) against τ x, mean over test images and turns τ of 90, 180 and 270 degrees.

    `psnr`, over all test images, is that number for τ the identity, and what can be hoped for: of 1000 here.

    Raises:
        UserError: if latents keep no grid, or grid or images are not square.
    """
    model = subject.model
    if model.needs_labels:
        raise DoesNotApply("equivariance turns latents without a label, and this model decodes them with one")
    if model.latent_shape is None:
        raise DoesNotApply("latents that keep no grid can't be turned: equivariance is for model.latent=grid")
    _, height, width = model.latent_shape
    if height != width or model.image.height != model.image.width:
        raise DoesNotApply("equivariance turns images by 90 degrees, and these or their latents are not square")
    test = subject.data.test
    values = {number: _decibels(subject, batch.x) for number, batch in subject.batches(some(test, IMAGES))}
    how = "PSNR of images decoded from turned posterior means against turned images, by 90, 180 and 270 degrees"
    return {"equivariance": mean_score(subject.gather(values), "dB", True, f"{how}, pixels in [0, 1]")}


@torch.no_grad()
def _decibels(subject: Subject, x: Tensor) -> Tensor:
    """Return the mean over turns of each image's PSNR, `[B, C, H, W]` -> `[B]`."""
    model = subject.model
    assert model.latent_shape is not None
    images, z = to_unit(x, model.image.range), model.encode(x)[0].unflatten(1, model.latent_shape)
    turns = []
    for quarters in QUARTERS:
        turned = torch.rot90(z, quarters, (2, 3)).flatten(1)
        made = to_unit(model.decode(turned).float(), model.image.range)
        error = (made - torch.rot90(images, quarters, (2, 3))).square().flatten(1).mean(1)
        turns.append(-10 * error.clamp(min=LEAST_ERROR).log10())
    return torch.stack(turns).mean(0)
