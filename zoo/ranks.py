"""Sums and gatherings over the processes of a run, for statistics that every rank must hold alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def summed(x: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, without a gradient; in one process, the tensor itself."""
    if not (dist.is_available() and dist.is_initialized()):
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def gathered(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, as many each, with gradients to all; in one process, the tensor itself."""
    return _Gathered.apply(x) if count() > 1 else x


def number() -> int:
    """Return which rank this is."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def from_first(x: Tensor) -> Tensor:
    """Return the first rank's tensor on every rank."""
    if dist.is_available() and dist.is_initialized():
        x = x.contiguous()
        dist.broadcast(x, 0)
    return x


def count() -> int:
    """Return how many ranks there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gathered(torch.autograd.Function):
    """The rows of all ranks; a rank's rows take the gradients that all ranks have for them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """`[R, ...]` -> `[ranks x R, ...]`."""
        ctx.rows = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(count())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Add up, and take the own rows."""
        (total,) = (grad.contiguous() for grad in grads)
        dist.all_reduce(total)
        return total[number() * ctx.rows : (number() + 1) * ctx.rows]
