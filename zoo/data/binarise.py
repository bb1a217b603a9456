"""Grey pixels made black or white by chance: an image's draw depends on nothing but a key and the image's number."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's step from one state to the next


def binarise(images: Tensor, numbers: Tensor, key: str) -> Tensor:
    """Make each pixel white (255) with its grey level / 255 as probability, else black (0).

    The same on every machine and in every release, in whatever batch and process an image is.

    Args:
        images: uint8 `[B, C, H, W]`.
        numbers: int64 `[B]`; another number, another draw.
        key: Another key, another draw.
    """
    count = math.prod(images.shape[1:])
    words = np.arange(-(-count // 4), dtype=np.uint64)  # 16 bits of chance a pixel
    states = numbers.numpy().view(np.uint64)[:, None] * np.uint64(len(words)) + words
    chances = scattered(states * GOLDEN + salt(key)).view(np.uint16)[:, :count]
    grey = images.flatten(1).numpy()
    white = np.multiply(chances, 255, dtype=np.uint32) < np.left_shift(grey, 16, dtype=np.uint32)
    return torch.from_numpy(white.view(np.uint8) * np.uint8(255)).view(images.shape)


def salt(key: str) -> np.ndarray:
    """Return a key's 64 bits, uint64 `[1]`."""
    return np.frombuffer(hashlib.blake2b(key.encode(), digest_size=8).digest(), np.uint64)


def scattered(x: np.ndarray) -> np.ndarray:
    """Return numbers that look drawn at random, one for each of uint64 x (splitmix64's last steps)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
