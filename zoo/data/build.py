"""From a config to training, validation and test images that share none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.base import ImageSpec
from zoo.config import DataConfig
from zoo.data.sampler import permutation
from zoo.data.source import DATASETS, Images, Source, source_of
from zoo.errors import PluginError, UserError, crash, is_ours, place
from zoo.options import check_options, signature_options
from zoo.registry import Entry


@dataclass(frozen=True)
class Data:
    """Three sets of images that share none, and what is known about them.

    Attributes:
        name: The data set's registered name.
        train: For training.
        val: For choosing: validation in a run.
        test: For reporting.
        class_names: One per class; empty without classes.
        attribute_names: One per attribute; empty without attributes.
        factor_names: One per generating factor; empty where they are unknown.
        factor_sizes: How many values each factor takes.
    """

    name: str
    train: Images
    val: Images
    test: Images
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    factor_names: tuple[str, ...] = ()
    factor_sizes: tuple[int, ...] = ()

    def spec(self, range: tuple[float, float]) -> ImageSpec:
        """Return what a model may know of the data, once it is scaled to `range`."""
        return ImageSpec(
            *self.train.shape, range, len(self.class_names), len(self.attribute_names), train_size=len(self.train)
        )

    def describe(self) -> str:
        """Return one line: "mnist: 60,000 train, 5,000 validation, 5,000 test images, 1 x 28 x 28"."""
        counts = f"{len(self.train):,} train, {len(self.val):,} validation, {len(self.test):,} test images"
        return f"{self.name}: {counts}, {' x '.join(map(str, self.train.shape))}"


def build_data(cfg: DataConfig) -> Data:
    """Load the data set that `cfg` names and split it.

    What is held out depends on `cfg.split_seed` alone, and is in random order, so that its first images are
    representative even of a folder sorted by class.

    Raises:
        UserError: if the data set is unknown, can't be read, or leaves a split without images.
    """
    entry = DATASETS.lookup(cfg.name)
    options = entry.defaults | check_options(f"data set {cfg.name!r}", signature_options(entry.target), cfg.options)
    root = cfg.root or Path(os.environ.get("DATA_ROOT") or "data")
    source = _load(entry, root.expanduser(), cfg, options)

    train, val, test = (_first(images, cfg.limit) for images in (source.train, source.val, source.test))
    assert train is not None
    if test is None:
        test, train = _hold_out(train, cfg.test_fraction, cfg.split_seed)
    if val is None and cfg.val_from == "test":
        val, test = _hold_out(test, cfg.val_fraction, cfg.split_seed)
    elif val is None:
        val, train = _hold_out(train, cfg.val_fraction, cfg.split_seed)

    data = Data(
        cfg.name,
        train,
        val,
        test,
        source.class_names,
        source.attribute_names,
        source.factor_names,
        source.factor_sizes,
    )
    if not (len(train) and len(val) and len(test)):
        limit = "" if cfg.limit is None else f" or raise data.limit (now {cfg.limit})"
        raise UserError(
            f"each split needs an image, but there would be {data.describe()}: change data.val_fraction "
            f"(now {cfg.val_fraction:g}) or data.test_fraction (now {cfg.test_fraction:g}){limit}, or add images"
        )
    return data


def _load(entry: Entry[Callable[..., Source]], root: Path, cfg: DataConfig, options: dict[str, Any]) -> Source:
    """Call a data set's function; tell its author what is wrong with it."""
    name = entry.target.__name__
    try:
        return source_of(entry.target(root, cfg.size, cfg.limit, **options), name)
    except PluginError as error:
        raise PluginError(f"data set {entry.name!r} ({place(entry.target)}): {error}") from error
    except UserError:
        raise
    except Exception as error:
        if is_ours(entry.target):
            raise
        raise crash(f"data set {entry.name!r}: {name}", error, entry.target) from error


def _first(images: Images | None, limit: int | None) -> Images | None:
    if images is None or limit is None or len(images) <= limit:
        return images
    return images.subset(torch.arange(limit))


def _hold_out(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    order: Tensor = permutation(len(images), seed, 0)
    held = round(fraction * len(images))
    return images.subset(order[:held]), images.subset(order[held:])
