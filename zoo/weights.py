"""Weights in a file of safetensors, whoever wrote it: what stands for their content, and whether they are any."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import UserError
from zoo.memory import require
from zoo.texts import printable

NUMBERS = {
    *(torch.half, torch.bfloat16, torch.float, torch.double),
    *(torch.bool, torch.uint8, torch.int8, torch.short, torch.int, torch.long),
}


def read_weights(path: Path, digest: str = "") -> dict[str, Tensor]:
    """Read a file's tensors onto the CPU.

    Args:
        path: A file of safetensors.
        digest: What `weights_digest` gave when they were written; "" if nobody knows.

    Raises:
        UserError: if they are not what was written, no finite numbers, or more than there is room for.
    """
    try:
        require(path.stat().st_size, f"the weights in {path}", "load them on a machine with more")
        tensors = load_file(path)
        if digest not in ("", weights_digest(tensors)):
            raise UserError(f"{path} is damaged: its weights are not those that were written")
        for name, tensor in tensors.items():
            if tensor.dtype not in NUMBERS:
                raise UserError(f"{path} holds {printable(name)} as {tensor.dtype}, which no variant's weights are")
            if not tensor.float().isfinite().all():
                bad = f"the weights in {path} are not all finite ({printable(name)} is not)"
                raise UserError(f"{bad}: it is damaged, or of a run that diverged")
    except UserError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:  # a type or size that torch has not
        raise UserError(f"{path} is damaged, or no file of safetensors ({type(error).__name__})") from None
    return tensors


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Return what stands for the content of tensors on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
