"""The configs that come with the zoo: a list, and copies to change: `vae-zoo configs`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from zoo.config import parse_yaml
from zoo.errors import UserError
from zoo.files import read_text, writing
from zoo.registry import did_you_mean
from zoo.shipped import CONFIGS, SUITES, config_names, find_config


def show() -> str:
    """Return every config's name and first line, as wide as the terminal."""
    names = config_names()
    groups = {
        "vae-zoo train --config NAME": [name for name in names if "/" not in name],
        "vae-zoo papers NAME: published rows": [name.partition("/")[2] for name in names if "/" in name],
        "vae-zoo suite NAME: grids of runs": config_names(SUITES),
    }
    width = max(len(name) for group in groups.values() for name in group)
    columns = max(shutil.get_terminal_size((120, 0)).columns, width + 30)
    lines = []
    for heading, group in groups.items():
        below = {"papers": "papers", "suite": SUITES}.get(heading.split()[1], "")
        rows = [f"{name:<{width}}  {_about(CONFIGS / below / f'{name}.yaml')}" for name in group]
        lines += [heading, *(f"  {row if len(row) <= columns - 2 else row[: columns - 4] + ' …'}" for row in rows), ""]
    return "\n".join([*lines, "`vae-zoo configs --copy FOLDER` copies all of them, or those that are named, to change"])


def _about(path: Path) -> str:
    return read_text(path).splitlines()[0].removeprefix("# ")


def copy(names: Sequence[str], folder: Path) -> list[Path]:
    """Copy configs, with those that they inherit from, so that each lies to the others as it does in the zoo.

    Args:
        names: Which; none: all there are.
        folder: Where they go; what lies there already is not replaced.

    Returns:
        The copies.

    Raises:
        UserError: if one is unknown, or other files lie there.
    """
    known = [*config_names(), *(f"{SUITES}/{name}" for name in config_names(SUITES))]
    for name in names:
        if name not in known:
            raise UserError(f"no config named {name!r} comes with the zoo.{did_you_mean(name, known)}")
    wanted = {CONFIGS / f"{name}.yaml" for name in names} or set(CONFIGS.rglob("*.yaml"))
    while further := {base for path in wanted for base in _bases(path)} - wanted:
        wanted |= further
    copies = {folder / path.relative_to(CONFIGS): path.read_bytes() for path in sorted(wanted)}
    for place, content in copies.items():
        if place.exists() and (place.is_dir() or place.read_bytes() != content):
            raise UserError(f"{place} is there already, and is another: choose another folder")
    for place, content in copies.items():
        with writing(place):
            place.write_bytes(content)
    return list(copies)


def _bases(path: Path) -> list[Path]:
    bases = parse_yaml(read_text(path), str(path)).get("base", [])
    names = [bases] if isinstance(bases, str) else bases
    return [Path(os.path.normpath(find_config(name, path.parent))) for name in names]
