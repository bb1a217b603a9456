"""A model's own loss over a split, by which a run is validated while it trains, and measured when it is done."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from zoo.base import BaseVAE
from zoo.data import Images, evaluation_batches


@torch.no_grad()
def mean_terms(model: BaseVAE, split: Images, accelerator: Accelerator, batch_size: int) -> dict[str, float]:
    """Average a model's loss terms over a split, with every schedule at its end (progress 1).

    The weights a schedule gives to the terms change during training; measured at its end, losses of different steps
    can be compared, and the best checkpoint means something.

    Args:
        model: Left in evaluation mode.
        split: Images to average over.
        accelerator: Shares the batches out and adds the sums up; a collective.
        batch_size: Images per batch and process.
    """
    model.eval()
    progress = model.progress.clone()
    model.progress.fill_(1.0)
    sums: dict[str, Tensor] = {}
    rank, world = accelerator.process_index, accelerator.num_processes
    for _, batch in evaluation_batches(split, model, batch_size, rank, world):
        for name, term in model.loss(batch).items():
            sums[name] = sums.get(name, 0) + term * len(batch.x)
    model.progress.copy_(progress)
    own = {name: total.item() for name, total in sums.items()}
    # Objects, because a rank that had no batch does not even know the names.
    every = gather_object([own]) if world > 1 else [own]
    return {name: sum(part.get(name, 0.0) for part in every) / len(split) for name in every[0]}
