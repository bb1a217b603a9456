"""From a config to training, validation and test images that share none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from zoo.base import ImageSpec
from zoo.config import DataConfig
from zoo.data import identity
from zoo.data.source import DATASETS, Images, Source, source_of
from zoo.data.splits import Membership, check_membership, hold_out, membership
from zoo.errors import PluginError, UserError, crash, is_ours, place
from zoo.options import check_options, signature_options
from zoo.registry import Entry
from zoo.texts import printable
from zoo.values import is_text

CLASSES_SHOWN = 20


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
        title: What the data is called: `data.title`, else its folder's name where it is the user's own, else `name`.
        source_digest: What stands for the content of all images, if that is known without reading them.
    """

    name: str
    train: Images
    val: Images
    test: Images
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    factor_names: tuple[str, ...] = ()
    factor_sizes: tuple[int, ...] = ()
    title: str = ""
    source_digest: str = ""

    @property
    def splits(self) -> dict[str, Images]:
        """The three sets, by their names."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @cached_property
    def digest(self) -> str:
        """What stands for the content of all three sets, 16 hexadecimal digits: see `identity.digest`."""
        return identity.digest(self.splits, self.class_names or self.attribute_names, self.source_digest)

    @property
    def membership(self) -> dict[str, Tensor]:
        """Which pictures belong to "train", "val" and "test": sorted digests, int64; empty if they are no files."""
        return membership(self.splits)

    def spec(self, range: tuple[float, float]) -> ImageSpec:
        """Return what a model may know of the data, once it is scaled to `range`."""
        return ImageSpec(
            *self.train.shape, range, len(self.class_names), len(self.attribute_names), train_size=len(self.train)
        )

    def describe(self) -> str:
        """Return one line: "mnist: 60,000 train, 5,000 validation, 5,000 test images, 1 x 28 x 28"."""
        counts = f"{len(self.train):,} train, {len(self.val):,} validation, {len(self.test):,} test images"
        title = self.name if self.title in ("", self.name) else f"{printable(self.title)} ({self.name})"
        return f"{title}: {counts}, {' x '.join(map(str, self.train.shape))}"

    def describe_labels(self) -> str:
        """Return one line, "cat 120, dog 80", with how many training images have each label; "" without labels."""
        names = self.class_names or self.attribute_names
        if self.train.labels is None or not names:
            return ""
        counts = self.class_counts(self.train)
        shown = ", ".join(f"{printable(name)} {n:,}" for name, n in zip(names[:CLASSES_SHOWN], counts, strict=False))
        return shown + (f", and {len(names) - CLASSES_SHOWN:,} more" if len(names) > CLASSES_SHOWN else "")

    def class_counts(self, images: Images) -> list[int]:
        """Return how many of a split's images have each class or attribute."""
        assert images.labels is not None
        if images.labels.ndim == 2:
            return images.labels.sum(0).tolist()
        return torch.bincount(images.labels, minlength=len(self.class_names)).tolist()


def build_data(cfg: DataConfig, run: Membership | None = None, seed: int = 0) -> Data:
    """Load the data set that `cfg` names and split it.

    What is held out depends on `cfg.split_seed` alone, and is in random order, so that its first images are
    representative even of a folder sorted by class. See `zoo.data.splits` for pictures that are files.

    Args:
        cfg: Which images.
        run: The `Data.membership` of a run that is to go on, or to be measured, with data that may have changed: its
            pictures stay where they were, whatever `cfg` says.
        seed: The run's, by which `binarize: dynamic` draws.

    Raises:
        UserError: if the data set is unknown, can't be read, or leaves a split without images.
    """
    entry = DATASETS.lookup(cfg.name)
    options = entry.defaults | check_options(f"data set {cfg.name!r}", signature_options(entry.target), cfg.options)
    root = cfg.root or Path(os.environ.get("DATA_ROOT") or "data")
    source = _load(entry, root.expanduser(), cfg, options)
    title = cfg.title or source.title or cfg.name
    _check_names(source, title, cfg.name)

    train, val, test = (
        _drawn(_first(images, cfg.limit), split, cfg, seed)
        for split, images in (("train", source.train), ("val", source.val), ("test", source.test))
    )
    assert train is not None
    val_of_train = val is None and cfg.val_from == "train"
    if test is None:
        splits = ("test", "val") if val is None and not val_of_train else ("test",)
        test, train = hold_out(train, cfg.test_fraction, cfg.split_seed, splits, left=1 + val_of_train, run=run)
    if val_of_train:
        val, train = hold_out(train, cfg.val_fraction, cfg.split_seed, ("val",), left=1, run=run)
    elif val is None:
        val, test = hold_out(test, cfg.val_fraction, cfg.split_seed, ("val",), left=1, run=run)
    assert val is not None
    if cfg.balance and not source.class_names:
        raise UserError(f"data.balance draws classes evenly, and {cfg.name} has none: set data.balance=false")

    data = Data(
        cfg.name,
        replace(train, balance=cfg.balance, redraw=cfg.binarize == "dynamic"),
        val,
        test,
        source.class_names,
        source.attribute_names,
        source.factor_names,
        source.factor_sizes,
        title,
        source.digest,
    )
    if not (len(train) and len(val) and len(test)):
        limit = "" if cfg.limit is None else f" or raise data.limit (now {cfg.limit})"
        pictures = sum(len(known) for known in data.membership.values())
        of_them = f" ({pictures:,} different ones)" if pictures else ""
        raise UserError(
            f"each split needs an image, but there would be {data.describe()}{of_them}: change data.val_fraction "
            f"(now {cfg.val_fraction:g}) or data.test_fraction (now {cfg.test_fraction:g}){limit}, or add images"
        )
    if run:
        check_membership(data.splits, run)
    return data


def _load(entry: Entry[Callable[..., Source]], root: Path, cfg: DataConfig, options: dict[str, Any]) -> Source:
    """Call a data set's function; tell its author what is wrong with it."""
    name = entry.target.__name__
    if isinstance(cfg.size, tuple) and tuple[int, int] not in get_args(get_type_hints(entry.target).get("size")):
        raise UserError(f"data.size is {list(cfg.size)}: data set {entry.name!r} takes one number")
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


def _check_names(source: Source, title: str, name: str) -> None:
    """See that what a run writes down and shows, as its classes and its data, is text.

    Raises:
        UserError: naming what is none.
    """
    wanted = "must hold no zero byte, and nothing that UTF-8 has not"
    kinds = {"class": source.class_names, "attribute": source.attribute_names, "factor": source.factor_names}
    for kind, names in kinds.items():
        for each in names:
            if not is_text(str(each)):
                raise UserError(f"data set {name!r} has the {kind} {printable(each)}: its name {wanted}")
    if not is_text(title):
        raise UserError(f"the data is called {printable(title)}, as its folder is: set data.title, which {wanted}")


def _drawn(images: Images | None, split: str, cfg: DataConfig, seed: int) -> Images | None:
    """Have the pixels of an official split made black or white, if that is asked for."""
    if images is None or cfg.binarize == "none":
        return images
    return replace(images, draw=f"{split} {cfg.binarize} {seed if cfg.binarize == 'dynamic' else cfg.split_seed}")


def _first(images: Images | None, limit: int | None) -> Images | None:
    if images is None or limit is None or len(images) <= limit:
        return images
    return images.subset(torch.arange(limit))
