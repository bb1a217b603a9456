"""What a folder's subfolders mean: official splits, and classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.listing import shown
from zoo.errors import UserError, warn

SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "val", "valid": "val", "validation": "val"},
}
MOST_CLASSES = 100_000
CLASS_NUMBER = f"number of a class, from 0 to {MOST_CLASSES - 1:,}"


def naturally(names: Iterable[str]) -> list[str]:
    """Sort names as people do: 0, 1, 2, 10."""

    def key(name: str) -> tuple[list[str | int], str]:
        return [int(part) if i % 2 else part.casefold() for i, part in enumerate(re.split("([0-9]+)", name))], name

    return sorted(names, key=key)


def split_folders(folder: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of each official split, where the uppermost folders are called train, test and so on.

    They may lie within a single folder that holds all else. A folder `train` beside others that are no splits is a
    class, as they are; what lies beside both `train` and another split is passed over.

    Args:
        folder: For messages.
        names: Paths within it.

    Returns:
        Names for "train", "val" and "test", those that there are; empty if there are no such folders.

    Raises:
        UserError: if two folders mean one split, none is for training, or the splits lie within the classes.
    """
    paths = [name.split("/") for name in names]
    depth = 0
    while len({path[depth] for path in paths}) == 1 and all(len(path) > depth + 2 for path in paths):
        if paths[0][depth].casefold() in SPLITS:
            break
        depth += 1
    tops = [path[depth] if len(path) > depth + 1 else "" for path in paths]  # "": loose files
    meant = {top: SPLITS[top.casefold()] for top in sorted(set(tops)) if top.casefold() in SPLITS}
    roles = Counter(meant.values())
    beside = [name for name, top in zip(names, tops, strict=True) if top not in meant]
    if not meant or (len(roles) == 1 and beside):
        within = {SPLITS.get(path[depth + 1].casefold(), "") if len(path) > depth + 2 else "" for path in paths}
        if "train" in within and len(within) > 1 and "" not in within:
            raise UserError(
                f"{folder.absolute()} holds {' and '.join(sorted(within, reverse=True))} within each class: put them "
                f"above, as in train/{tops[0]}/…"
            )
        return {}
    for role, count in roles.items():
        if count > 1:
            twice = " and ".join(repr(top) for top in meant if meant[top] == role)
            raise UserError(f"{folder.absolute()} holds both {twice}, which mean one split: merge or rename them")
    if "train" not in roles:
        held = " and ".join(repr(top) for top in meant)
        raise UserError(
            f"{folder.absolute()} holds {held} but no folder 'train': add one, or set data.root to the folder whose "
            "images are to be split"
        )
    if beside:
        warn(
            f"{len(beside):,} images in {folder} lie outside of {', '.join(meant)} and are passed over: {shown(beside)}"
        )
    return {
        role: [name for name, top in zip(names, tops, strict=True) if meant.get(top) == role]
        for role in ("train", "val", "test")
        if role in roles
    }


def class_folders(names: Sequence[str], official: bool) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the images' classes, int64 `[N]`, and the classes' names, where all lie in two or more folders.

    Args:
        names: Paths; of official splits those of all splits together.
        official: Whether the classes' folders lie within the splits'.
    """
    paths = [name.split("/") for name in names]
    depth = 0
    if official:
        depth = next(i for i in range(len(paths[0])) if paths[0][i].casefold() in SPLITS) + 1
    loose = [name for name, path in zip(names, paths, strict=True) if len(path) < depth + 2]
    if loose:
        if official and len(loose) < len(names):
            warn(f"there are no classes, since {len(loose):,} images lie in no class folder: {shown(loose)}")
        return None, ()
    classes = naturally({path[depth] for path in paths})
    if len(classes) < 2:
        return None, ()
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[path[depth]] for path in paths]), tuple(classes)
