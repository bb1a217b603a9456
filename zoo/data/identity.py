"""Which data it was: a digest that is the same wherever it lies, and another where an image or a label is another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.data.source import Images

CHUNK = 1000  # images
STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no label is lost


def digest(splits: Mapping[str, Images], label_names: Sequence[str], known: str) -> str:
    """Return 16 hexadecimal digits for what a run sees: which images with which labels are in each split.

    Pictures that are files count by their files' content, in whatever order: their names, their folder, and the size
    that they are brought to do not matter. Images in memory count by their pixels as they are stored, in their order.

    Args:
        splits: Each split's images.
        label_names: Of classes or attributes.
        known: What stands for the content of all images, if that is known already.
    """
    whole = hashlib.blake2b("\0".join(label_names).encode("utf-8", "surrogateescape"), digest_size=8)
    for split, images in splits.items():
        whole.update(f"\n{split} {len(images)} {known}\n".encode())
        if images.digests is not None:
            whole.update(np.sort(_with_labels(images.digests, images.labels)).tobytes())
            continue
        if known and images.index is not None:
            whole.update(images.index.numpy().tobytes())
        elif not known:
            for positions in torch.arange(len(images)).split(CHUNK):
                whole.update(images.stored.batch(positions)[0].contiguous().numpy().tobytes())
        if images.labels is not None:
            whole.update(images.labels.contiguous().numpy().tobytes())
    return whole.hexdigest()


def _with_labels(digests: Tensor, labels: Tensor | None) -> np.ndarray:
    """Return a number for each image's content and labels, uint64 `[N]`."""
    mixed = digests.numpy().view(np.uint64).copy()
    if labels is not None:
        for column in labels.reshape(len(labels), -1).numpy().astype(np.uint64).T:
            mixed = mixed * STEP + column
    return mixed
