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
WANDB_LOG = "debug-core.log"  # wandb's link to its service's log, which leads out, and which nobody here opens
ELSEWHERE = "elsewhere"  # key of the results under which those on other data are, by that data's name

MOST_JSON = 20_000_000  # bytes


def printable(text: object) -> str:
    """Write what is not shown by itself (control characters, line breaks, bytes that are no UTF-8) by its number."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


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


def read_json(path: Path) -> Any:
    """Read a file of JSON.

    Raises:
        UserError: if there is no such file, or it is cut off, too large, or nested without end.
    """
    if path.is_file() and path.stat().st_size > MOST_JSON:
        raise UserError(f"{path} has {path.stat().st_size / 1e6:,.0f} MB, and {MOST_JSON / 1e6:,.0f} would be many")
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is cut off or not JSON") from None


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, and put it there when it is whole and on the disk: a kill leaves old or new.

    What lies under either name as a link is replaced, and never written through.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(partial, "xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; what a kill tore off before it is dropped by whoever reads it.

    Raises:
        OSError: if the file is a link.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o644)
    with os.fdopen(handle, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def read_lines(path: Path) -> list[str]:
    """Return the whole lines of a file that is written by `append_line`; none if there is no file."""
    if not path.is_file():
        return []
    text = read_text(path)
    return text[: text.rfind("\n") + 1].splitlines()


def sync_folder(folder: Path) -> None:
    """Bring a folder's own entries to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_of_a_run(config: Path) -> bool:
    """Say whether a config is that of the run in whose folder it lies, which somebody may have handed over."""
    return config.name == CONFIG_FILE and any(
        os.path.exists(config.parent / name) for name in (HISTORY_FILE, MODEL_FILE, RESULTS_FILE)
    )


def refuse_links(out: Path) -> None:
    """See that nothing in a run's folder is a link that leads out of it: it would be read, or written, through.

    Raises:
        UserError: naming the link and where it leads.
    """
    inside = out.resolve()
    for at, folders, files in os.walk(out):
        for name in (*folders, *files):
            path = Path(at, name)
            if name == WANDB_LOG:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise UserError(f"{path} is a link to {os.readlink(path)}, out of the run's folder: remove it")


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
    results = read_json(path) if path.is_file() else {}
    if not isinstance(results, dict):
        raise UserError(f"{path} holds no results, but {type(results).__name__}")
    return results if elsewhere is None else results.get(ELSEWHERE, {}).get(elsewhere, {})


def write_results(out: Path, results: dict[str, Any], elsewhere: str | None = None) -> None:
    """Lay `results` over those that the run's folder already holds, key by key, metric by metric."""
    old = read_results(out, elsewhere)
    merged = old | results | {"metrics": old.get("metrics", {}) | results.get("metrics", {})}
    if elsewhere is not None:
        own = read_results(out)
        merged = own | {ELSEWHERE: own.get(ELSEWHERE, {}) | {elsewhere: merged}}
    replace_file(out / RESULTS_FILE, json.dumps(merged, indent=1, default=_plain) + "\n")


def _plain(thing: object) -> object:
    """Write arrays and tensors, which JSON does not know, as lists, and all else as text."""
    return thing.tolist() if hasattr(thing, "tolist") else str(thing)
