"""Data sets small enough to live in memory: MNIST, Fashion-MNIST, CIFAR-10, and scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from zoo.data.pixels import Size, resize
from zoo.data.source import Images, Source, register_dataset
from zoo.errors import UserError


@register_dataset("mnist", "handwritten digits, 60,000 + 10,000, 1 x 28 x 28")
def mnist(root: Path, size: Size | None, limit: int | None) -> Source:
    """MNIST. LeCun et al. 1998. At 32 pixels it is framed in two pixels of black, as the literature does."""
    return _mnist_like("MNIST", root, size, limit)


@register_dataset("fashion_mnist", "pictures of clothes, 60,000 + 10,000, 1 x 28 x 28")
def fashion_mnist(root: Path, size: Size | None, limit: int | None) -> Source:
    """Fashion-MNIST. Xiao et al. 2017, arXiv:1708.07747. At 32 pixels it is framed in two pixels of black."""
    return _mnist_like("FashionMNIST", root, size, limit)


@register_dataset("cifar10", "small colour photographs of ten classes, 50,000 + 10,000, 3 x 32 x 32")
def cifar10(root: Path, size: Size | None, limit: int | None) -> Source:
    """CIFAR-10. Krizhevsky 2009."""
    train, test = (_torchvision("CIFAR10", root, "cifar-10-batches-py", train=train) for train in (True, False))

    def images(part: Any) -> Images:
        pixels = torch.from_numpy(part.data[:limit]).permute(0, 3, 1, 2).contiguous()
        return Images(resize(pixels, size or 32), torch.tensor(part.targets[:limit]))

    return Source(images(train), images(test), class_names=tuple(train.classes))


@register_dataset("digits", "scikit-learn's handwritten digits, 1,797, 1 x 8 x 8, always at hand")
def digits(root: Path, size: Size | None, limit: int | None) -> Source:
    """The 8 x 8 digits that come with scikit-learn: nothing to download. Alpaydin & Kaynak 1998."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images[:limit]).unsqueeze(1).mul(255 / 16).round().byte()  # stored as 0 to 16
    labels = torch.from_numpy(found.target[:limit]).long()
    return Source(Images(resize(pixels, size or 8), labels), class_names=tuple(map(str, found.target_names)))


def _mnist_like(kind: str, root: Path, size: Size | None, limit: int | None) -> Source:
    train, test = (_torchvision(kind, root, f"{kind}/raw", train=train) for train in (True, False))

    def images(part: Any) -> Images:
        pixels: Tensor = part.data[:limit].unsqueeze(1)
        pixels = F.pad(pixels, (2, 2, 2, 2)) if size == 32 else resize(pixels, size or 28)
        return Images(pixels, part.targets[:limit].long())

    return Source(images(train), images(test), class_names=tuple(name.split(" - ")[0] for name in train.classes))


def _torchvision(kind: str, root: Path, folder: str, train: bool) -> Any:
    from torchvision import datasets

    load = getattr(datasets, kind)
    try:
        return load(root, train=train, download=False)
    except MemoryError:
        raise
    except Exception:  # absent, or half written by a process that is downloading it: both end below
        pass
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{kind}.lock"):
            return load(root, train=train, download=True)
    except MemoryError:
        raise
    except Exception as error:  # torchvision raises what its many ways of downloading raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(
            f"{kind} was neither found whole in {(root / folder).absolute()} nor could it be downloaded ({reason}): "
            f"put torchvision's {folder} in {root.absolute()}, or set data.root or DATA_ROOT to the folder it is in"
        ) from None
