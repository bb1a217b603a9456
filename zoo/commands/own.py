"""What commands on a trained run, and on a user's own pictures, have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from zoo.data.own import Picture, classes_of, find_pictures, form_of, prepared
from zoo.engine.setup import choose_device
from zoo.errors import UserError
from zoo.files import CONFIG_FILE
from zoo.records import read_results
from zoo.trained import Trained, load

if TYPE_CHECKING:
    from zoo.config import Config


class Opened(NamedTuple):
    """A trained run: its model, and its config where it has one."""

    model: Trained
    config: Config | None


def opened(arguments: argparse.Namespace) -> Opened:
    """Load the run that a command is about.

    Raises:
        UserError: as `zoo.load` does; or if the seed is none.
    """
    from zoo.config import load_config

    if not 0 <= arguments.seed < 2**63:
        raise UserError(f"--seed is {arguments.seed}: it must be 0 or more, and below 2^63")
    file = arguments.run / CONFIG_FILE
    config = load_config(file) if os.path.isfile(file) else None
    device = "cpu" if config is None else choose_device(config)
    model = load(arguments.run, device, arguments.plugin, arguments.trust_plugins)
    torch.manual_seed(arguments.seed)
    return Opened(model, config)


class Part(NamedTuple):
    """Some of a user's pictures, their pixels as the model's data has them, uint8 `[B, C, H, W]`, and their labels."""

    pictures: list[Picture]
    pixels: Tensor
    y: Tensor | None


def parts(run: Opened, arguments: argparse.Namespace, pictures: Sequence[Picture]) -> Iterator[Part]:
    """Yield pictures some at a time, prepared as the run's own data, with the labels that its model takes.

    Raises:
        UserError: as `prepared` does, or if the model takes labels that can't be told.
    """
    from tqdm import tqdm

    data = None if run.config is None else run.config.data
    form = form_of(data, run.model.image)
    draw = "" if data is None or data.binarize == "none" else f"own {data.split_seed}"
    y = labels_of(run.model, arguments, pictures)
    number = {picture: i for i, picture in enumerate(pictures)}
    with tqdm(total=len(pictures), unit=" pictures", disable=None) as bar:
        for good, pixels in prepared(pictures, form, draw):
            rows = torch.tensor([number[picture] for picture in good])
            yield Part(good, pixels, None if y is None else y[rows])
            bar.update(int(rows[-1]) + 1 - bar.n)


def found(arguments: argparse.Namespace) -> list[Picture]:
    """Return the pictures that a command was given."""
    return find_pictures(arguments.pictures)


def labels_of(model: Trained, arguments: argparse.Namespace, pictures: Sequence[Picture]) -> Tensor | None:
    """Return the class of each picture, `[N]`, for a model that takes them: by --label, or by its folder's name.

    Raises:
        UserError: if it can't be told.
    """
    see_that_labels_can_be_given(model)
    if arguments.label is not None:
        return torch.full((len(pictures),), class_number(arguments.label, model, arguments.run))
    if not model.needs_labels:
        return None
    known, (own, names) = class_names(arguments.run), classes_of(pictures)
    if own is None or not set(names) <= set(known):
        folders = f"called {', '.join(known)}" if known else "called as the run's classes are"
        raise UserError(f"this model is told each picture's class: give --label, or a folder with folders {folders}")
    return torch.tensor([known.index(name) for name in names])[own]


def see_that_labels_can_be_given(model: Trained) -> None:
    """See that a model is not conditioned on what no command can give it.

    Raises:
        UserError: if it is.
    """
    if model.needs_labels and not model.image.classes:
        raise UserError(
            "this model is conditioned on attributes, which the command line can't give: use zoo.load(run), and pass y"
        )


def class_names(run: Path) -> list[str]:
    """Return the names of a run's classes, where it says them."""
    return list(read_results(run).get("classes", {})) if run.is_dir() else []


def class_number(label: str, model: Trained, run: Path) -> int:
    """Return the number of a class that is given by name or number.

    Raises:
        UserError: if there is no such class.
    """
    names, classes = class_names(run), model.image.classes if model.needs_labels else 0
    if label in names[:classes]:
        return names.index(label)
    if label.isdecimal() and int(label) < classes:
        return int(label)
    known = f" or one of {', '.join(names)}" if names else ""
    allowed = f"choose 0 to {classes - 1}{known}" if classes else "this model takes no class labels"
    raise UserError(f"--label is {label}: {allowed}")
