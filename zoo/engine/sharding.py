"""One model shared out over all processes: each keeps its part of every weight, gradient and moment (PyTorch's FSDP2).

The weights are put together for a forward and backward pass, and taken apart again after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(step: nn.Module, device: torch.device) -> DeviceMesh:
    """Share out the parameters of a module whose `forward` is the whole training step, in place."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    fully_shard(step, mesh=mesh)
    return mesh


def let_go(mesh: DeviceMesh) -> None:
    """Drop a mesh's process group: DTensor's caches keep the mesh as long as the interpreter lives.

    By a private name, as torch 2.14 offers no other way.
    """
    getattr(mesh, "_pg_registry", {}).clear()


@contextmanager
def whole(step: nn.Module) -> Iterator[None]:
    """Put together what is shared out, so that every rank can use the model by itself; a collective."""
    if not isinstance(step, FSDPModule):
        yield
        return
    step.unshard()
    try:
        yield
    finally:
        step.reshard()


def put_together(tensor: Tensor) -> Tensor:
    """Return a tensor that is shared out as a whole one, on every rank; a collective. Any other stays as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Share a whole tensor out as `like` is; a collective. If that one isn't, the tensor stays as it is."""
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def share_out_moments(moments: dict[int, Any], parameters: list[nn.Parameter]) -> dict[int, Any]:
    """Share out the tensors that an optimizer keeps of its parameters where they are as large as these."""
    return {
        index: {
            name: share_out(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in entries.items()
        }
        for index, entries in moments.items()
    }
