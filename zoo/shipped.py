"""The configs that come with the zoo, each found by its name from any folder: `mlp_mnist`, `papers/pythae_vae`."""

from __future__ import annotations

import os
from pathlib import Path

_INSTALLED, _CHECKOUT = Path(__file__).with_name("configs"), Path(__file__).parents[1] / "configs"
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT  # a wheel has them in the package
SUITES = "suites"


def config_names(below: str = "") -> list[str]:
    """Return the names of the zoo's configs, counted from a folder of theirs: no suites, and none that others share."""
    found = [path.relative_to(CONFIGS / below).with_suffix("") for path in (CONFIGS / below).rglob("*.yaml")]
    aside = () if below else ("_base", SUITES, "sweeps")
    return sorted(name.as_posix() for name in found if name.parts[0] not in aside)


def find_config(name: str | Path, beside: Path = Path(), below: str = "") -> Path:
    """Return the file of that name, or else the zoo's config of that name; what is neither stays as it is.

    Args:
        name: A path, or what `config_names` returns, or `_base/mnist`.
        beside: The folder that a path counts from.
        below: The folder of the zoo's configs that names count from, such as `suites`.
    """
    path = beside / name
    if os.path.isfile(path) or str(name) not in {*config_names(below), *(() if below else _shared())}:
        return path
    return CONFIGS / below / f"{name}.yaml"


def _shared() -> list[str]:
    return [f"_base/{name}" for name in config_names("_base")]


def as_told(path: Path) -> str:
    """Return a config's name, if it is the zoo's, else its path from here, or as it is: what a command shows others."""
    if path.is_relative_to(CONFIGS):
        return path.relative_to(CONFIGS).with_suffix("").as_posix()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
