"""The files of a run's folder: what they are called, and how its results are read and written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.errors import UserError

CONFIG_FILE = "config.yaml"  # resolved: it makes the same run again
METRICS_FILE = "metrics.jsonl"  # what was logged, a row a line
MODEL_FILE = "model.safetensors"  # the final weights; each checkpoint's folder holds its own under this name
RESULTS_FILE = "results.json"  # what was measured, and what it stands on
HISTORY_FILE = "history.jsonl"  # when and how the run was started, and what was changed, a start a line
SPLIT_FILE = "split.safetensors"  # which pictures, by digest, are trained on, validated with, tested by
PLUGINS_FOLDER = "plugins"  # copies of the files that its variant, net or data set came from
ELSEWHERE = "elsewhere"  # key of the results under which those on other data are, by that data's name


def read_text(path: Path) -> str:
    """Read a file of text.

    Raises:
        UserError: if there is no such file, it can't be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of what a user wants written; within it, that is written.

    Raises:
        UserError: if it can't be.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder: name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from None


def read_results(out: Path, elsewhere: str | None = None) -> dict[str, Any]:
    """Return a run's results, or an empty dictionary where there are none yet.

    Args:
        out: The run's folder.
        elsewhere: The name of other data than the run's own, to get the results on that.
    """
    path = out / RESULTS_FILE
    results = json.loads(path.read_text()) if path.is_file() else {}
    return results if elsewhere is None else results.get(ELSEWHERE, {}).get(elsewhere, {})


def write_results(out: Path, results: dict[str, Any], elsewhere: str | None = None) -> None:
    """Lay `results` over those that the run's folder already holds, key by key, metric by metric."""
    path = out / RESULTS_FILE
    old = read_results(out, elsewhere)
    merged = old | results | {"metrics": old.get("metrics", {}) | results.get("metrics", {})}
    if elsewhere is not None:
        own = read_results(out)
        merged = own | {ELSEWHERE: own.get(ELSEWHERE, {}) | {elsewhere: merged}}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(merged, indent=1, default=_plain) + "\n")
    os.replace(partial, path)


def _plain(thing: object) -> object:
    """Write arrays and tensors, which JSON does not know, as lists, and all else as text."""
    return thing.tolist() if hasattr(thing, "tolist") else str(thing)
