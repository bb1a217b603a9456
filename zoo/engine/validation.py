"""A model's own loss over a split, by which a run is validated while it trains, and measured when it is done."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from zoo.base import BaseVAE
from zoo.data import Images, evaluation_batches

LEAST_BATCHES = 8
Terms = list[tuple[int, dict[str, float]]]  # of each batch, how many images it has, and the means of its terms


@torch.no_grad()
def batch_terms(model: BaseVAE, split: Images, accelerator: Accelerator, batch_size: int) -> Terms:
    """Return a model's loss terms over the batches of a split, with every schedule at its end (progress 1).

    The weights a schedule gives to the terms change during training; measured at its end, losses of different steps
    can be compared, and the best checkpoint means something.

    Args:
        model: Left in evaluation mode.
        split: Images to average over.
        accelerator: Shares the batches out; a collective.
        batch_size: Images per batch and process.
    """
    model.eval()
    progress = model.progress.clone()
    model.progress.fill_(1.0)
    found: dict[int, tuple[int, dict[str, Tensor]]] = {}
    rank, world = accelerator.process_index, accelerator.num_processes
    for number, batch in evaluation_batches(split, model, batch_size, rank, world):
        found[number] = len(batch.x), model.loss(batch)
    model.progress.copy_(progress)
    own = {
        number: (images, {name: term.item() for name, term in terms.items()})
        for number, (images, terms) in found.items()
    }
    every = gather_object([own]) if world > 1 else [own]
    return [batch for _, batch in sorted((item for part in every for item in part.items()), key=lambda item: item[0])]


def average(batches: Terms) -> dict[str, float]:
    """Average the terms of batches over all their images."""
    total = sum(images for images, _ in batches)
    return {name: sum(images * terms[name] for images, terms in batches) / total for name in batches[0][1]}


def mean_terms(model: BaseVAE, split: Images, accelerator: Accelerator, batch_size: int) -> dict[str, float]:
    """Average a model's loss terms over a split; see `batch_terms`."""
    return average(batch_terms(model, split, accelerator, batch_size))


def standard_error(batches: Terms, weights: dict[str, float]) -> float | None:
    """Estimate the standard error of a mean of terms, had other images been drawn, from how batches differ.

    Args:
        batches: With the terms.
        weights: Term to what it is multiplied by, before they are added up.

    Returns:
        None for fewer than eight batches, whose spread tells little.
    """
    if len(batches) < LEAST_BATCHES:
        return None
    values = [sum(weight * terms[name] for name, weight in weights.items()) for _, terms in batches]
    total = sum(images for images, _ in batches)
    mean = sum(images * value for (images, _), value in zip(batches, values, strict=True)) / total
    spread = sum(images * (value - mean) ** 2 for (images, _), value in zip(batches, values, strict=True))
    return math.sqrt(spread / (len(batches) - 1) / total)
