"""Which pictures a run's folder holds, and from which images: while it trains, and when it is done."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from zoo.base import BaseVAE, Batch
from zoo.data import Data, Images, evaluation_batches
from zoo.files import METRICS_FILE
from zoo.pictures import drawing, of_models

LATENT_POINTS = 5000


def first_batch(split: Images, model: BaseVAE, n: int) -> Batch:
    """Return a split's first `n` images."""
    return next(evaluation_batches(split, model, min(n, len(split))))[1]


def picture_labels(split: Images, model: BaseVAE) -> Tensor | None:
    """Return attribute vectors to draw samples for, one picture row each; None where classes, or no labels, do."""
    if not (model.needs_labels and model.image.attributes):
        return None
    return first_batch(split, model, 8).y


def write_progress_pictures(model: BaseVAE, split: Images, out: Path, by: of_models.Draws = drawing) -> None:
    """Draw what shows a run's progress, over the pictures of the validation before."""
    write_images(model, split, out, by)
    by.training_losses(out / METRICS_FILE, out / "training_losses.png")


def write_images(model: BaseVAE, split: Images, out: Path, by: of_models.Draws = drawing) -> None:
    """Draw reconstructions of a split's first images, and samples."""
    of_models.reconstructions(model, first_batch(split, model, 30), out / "reconstructions.png", by)
    of_models.generated_samples(model, out / "generated_samples.png", y=picture_labels(split, model), by=by)


def _two_or_more(batch: Batch, more: Images, model: BaseVAE) -> Batch:
    """Return a batch, or, if it is of one image, this and one of others."""
    if len(batch.x) > 1:
        return batch
    other = first_batch(more, model, 1)
    y = None if batch.y is None or other.y is None else torch.cat([batch.y, other.y])
    return Batch(torch.cat([batch.x, other.x]), y)


def write_pictures(model: BaseVAE, data: Data, out: Path) -> None:
    """Draw all the pictures of a finished run, from test images."""
    write_progress_pictures(model, data.test, out)
    batch = first_batch(data.test, model, 100)
    of_models.interpolations(model, _two_or_more(batch, data.val, model), out / "interpolations.png")
    points = (b for number, b in evaluation_batches(data.test, model, 500) if number * 500 < LATENT_POINTS)
    of_models.latent_space(model, points, out / "latent_space.png", data.class_names)
    of_models.traversals(model, batch, out / "traversals.png")
