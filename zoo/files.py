"""The files of a run's folder: what they are called, and how files are read and written so that nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
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
CHECKPOINTS = "checkpoints"  # a folder for each step that was kept, and what points to the latest and the best
PLUGINS_FOLDER = "plugins"  # copies of the files that its variant, net or data set came from
# What a run draws, each as .png, and some as .webp too.
PICTURES = ("reconstructions", "generated_samples", "training_losses", "interpolations", "latent_space", "traversals")
WANDB_LOG = "debug-core.log"  # wandb's link to its service's log, which leads out, and which nobody here opens

MOST_JSON = 20_000_000  # bytes
DEEPEST_JSON = 50  # levels
FILE = re.compile(r"\.(jsonl?|yaml|safetensors|png|webp|log|pt)")  # endings that no folder has


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
    return parse_json(read_text(path), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON; `where` names the source in the error.

    Raises:
        UserError: if it is none, or nested without end.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{where} is cut off or not JSON") from None
    level = [value]
    for _ in range(DEEPEST_JSON):
        level = [part for whole in level for part in _parts(whole)]
    if level:
        raise UserError(f"{where} is nested more than {DEEPEST_JSON} levels deep")
    return value


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


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
    traces = (HISTORY_FILE, METRICS_FILE, MODEL_FILE, RESULTS_FILE, SPLIT_FILE)
    return config.name == CONFIG_FILE and (
        any(os.path.lexists(config.parent / name) for name in traces)
        or any((config.parent / CHECKPOINTS).glob("step_*"))
    )


def real_path(link: Path) -> Path:
    """Return what a link leads to in the end.

    Raises:
        UserError: if somebody else's folder is on the way.
    """
    try:
        return Path(os.path.realpath(link))
    except OSError as error:
        raise UserError(f"{link} is a link that can't be followed ({error.strerror}): remove it") from None


def see_that_it_is_plain(out: Path) -> None:
    """See that a run's folder holds plain files and folders, since somebody may have handed it over.

    A link that leads out of it would be read, or written, through; a pipe or a device may hold up for ever whoever
    opens it; a folder in a file's place can't be replaced by that file.

    Raises:
        UserError: naming what is in the way.
    """
    inside = Path(os.path.realpath(out))
    for at, folders, files in os.walk(out):
        for name in (*folders, *files):
            path = Path(at, name)
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # of a run that is at work
                continue
            if stat.S_ISLNK(mode):
                if name == WANDB_LOG and "wandb" in path.relative_to(out).parts:
                    continue
                target = real_path(path)
                if target.is_symlink():
                    raise UserError(f"{path} is a link that leads back to itself: remove it")
                if not target.is_relative_to(inside):
                    raise UserError(f"{path} is a link to {os.readlink(path)}, out of the run's folder: remove it")
            elif stat.S_ISDIR(mode):
                if FILE.fullmatch(path.suffix):
                    raise UserError(f"{path} is a folder, where a run has a file: remove it")
            elif not stat.S_ISREG(mode):
                raise UserError(f"{path} is neither a file nor a folder, but a pipe, a socket or a device: remove it")


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
