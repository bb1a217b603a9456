"""Sums over the processes of a run, for statistics that every rank must hold alike."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def summed(x: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, without a gradient; in one process, the tensor itself."""
    if not (dist.is_available() and dist.is_initialized()):
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def from_first(x: Tensor) -> Tensor:
    """Return the first rank's tensor on every rank."""
    if dist.is_available() and dist.is_initialized():
        x = x.contiguous()
        dist.broadcast(x, 0)
    return x


def count() -> int:
    """Return how many ranks there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
