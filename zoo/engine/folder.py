"""A run's folder: which one is taken, what lies in it already, and what became of the run so far.

history.jsonl     a line a start: when, at which step, by which command and code, what was changed
plugins/          copies of the plugins' files
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from zoo.config import Config, check, flatten, parse_yaml
from zoo.data import Data, build_data
from zoo.engine.launch import command
from zoo.engine.provenance import code, plugin_digests
from zoo.errors import UserError
from zoo.files import (
    CHECKPOINTS,
    CONFIG_FILE,
    HISTORY_FILE,
    METRICS_FILE,
    MODEL_FILE,
    PICTURES,
    PLUGINS_FOLDER,
    RESULTS_FILE,
    SPLIT_FILE,
    read_lines,
    read_text,
    replace_file,
    see_that_it_is_plain,
)
from zoo.texts import printable

LOCK_FILE, HOLDER_FILE = ".lock", ".lock.txt"
# What a resumed run may change without a trace: what it writes on the way, and on what it is computed.
MAY_CHANGE = (
    *("out", "title", "seeds", "plugins", "device", "shard", "threads", "keep", "trackers", "wandb"),
    *("data.root", "data.cache", "data.verify"),
    *("log_every", "eval_every", "checkpoint_every", "eval_batch_size", "benchmark"),
)
# But for these, where the best weights by validation loss are those that count, or end the run.
SAY_WHICH_IS_BEST = ("eval_every", "eval_batch_size")
# What it may change so that it is another run than one that had it from the start: its history, and its hash, tell.
CHANGES_THE_RUN = ("epochs", "steps", "lr", "clip", "mixed_precision")


def choose(config: Config, default: Path, resume: bool, overwrite: bool) -> Path:
    """Return the folder of a run: `out`, or the first of `default`, `default_2`, … that is free.

    With `resume`, the last of these that holds a run with this config, if there is one.

    Raises:
        UserError: if the folder holds another run, or can't be a folder.
    """
    if config.out is not None:
        out = config.out.expanduser()
        if out.exists() and not out.is_dir():
            raise UserError(f"out is {out}, where no run can be: it is a file")
        see_that_it_is_plain(out)
        if holds_a_run(out) and not overwrite:
            if not resume:
                raise UserError(
                    f"{out} already holds a run: add --resume to go on with it, --overwrite to remove it, or choose "
                    "another out="
                )
            changes(config, out)
        return out
    taken = list(itertools.takewhile(holds_a_run, _numbered(default)))
    for out in reversed(taken):
        if (resume or overwrite) and _agrees(config, out):
            return out
    return next(out for out in _numbered(default) if out not in taken)


def _numbered(default: Path) -> itertools.chain[Path]:
    further = (default.with_name(f"{default.name}_{number}") for number in itertools.count(2))
    return itertools.chain([default], further)


def _agrees(config: Config, out: Path) -> bool:
    try:
        changes(config, out)
    except UserError:
        return False
    return True


def holds_a_run(out: Path) -> bool:
    """Say whether a folder holds anything of a run that would be lost: weights, or a checkpoint.

    Raises:
        UserError: if nobody can look into it.
    """
    try:
        return os.path.lexists(out / MODEL_FILE) or any((out / CHECKPOINTS).glob(f"step_{'[0-9]' * 8}"))
    except OSError as error:
        raise UserError(f"out is {out}, where no run can be: {error.strerror}") from None


def changes(config: Config, out: Path) -> dict[str, Any]:
    """Return in which settings that matter a resumed run differs from what lies in its folder: key to [old, new].

    Raises:
        UserError: if one differs that a run can't change, or the stored config can't be read.
    """
    file = out / CONFIG_FILE
    stored = parse_yaml(read_text(file), str(file))
    if not isinstance(stored, dict):
        raise UserError(f"{file} is cut off, so that nobody can say what would be resumed: choose another out=")
    before: Config = check(Config, stored, str(file))  # a key that was not known then has its default
    old, new = (flatten(each.dump()) for each in (before, config))
    differing = {}
    for key in sorted({*old, *new}):
        chooses = key in SAY_WHICH_IS_BEST and (config.evaluate_on == "best" or config.patience is not None)
        if old.get(key) == new.get(key) or (_is_among(key, MAY_CHANGE) and not chooses):
            continue
        if not _is_among(key, CHANGES_THE_RUN):
            raise UserError(
                f"{out} can't be resumed with another {key}: it was {old.get(key)} and is now {new.get(key)}; choose "
                "another out= for a new run"
            )
        differing[key] = [old.get(key), new.get(key)]
    return differing


def _is_among(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def clear(out: Path) -> None:
    """Remove a run from a folder, and say so; what else lies there stays."""
    ours = [CONFIG_FILE, METRICS_FILE, MODEL_FILE, RESULTS_FILE, HISTORY_FILE, SPLIT_FILE]
    for name in [*ours, *(f"{name}{ending}" for name in PICTURES for ending in (".png", ".webp"))]:
        (out / name).unlink(missing_ok=True)
    for folder in (CHECKPOINTS, PLUGINS_FOLDER):
        shutil.rmtree(out / folder, ignore_errors=True)
    print(f"removed the run in {printable(out)}: its weights, checkpoints, results, log and pictures")


def begin(config: Config, out: Path, membership: dict[str, Tensor]) -> None:
    """Write the config, the split and copies of the plugins into a run's folder, and clear what a kill left there.

    Raises:
        UserError: if it can't be written to.
    """
    try:
        for partial in (*out.glob(".*.partial"), *(out / CHECKPOINTS).glob(".*partial*")):
            with suppress(FileNotFoundError):  # a writer that was not done has put it in its place meanwhile
                shutil.rmtree(partial) if partial.is_dir() and not partial.is_symlink() else partial.unlink()
        replace_file(out / CONFIG_FILE, yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True))
        if membership:
            replace_file(out / SPLIT_FILE, save(membership))
        plugin_digests(config.plugins)  # no two of one name
        for plugin in config.plugins:
            if plugin.endswith(".py"):
                (out / PLUGINS_FOLDER).mkdir(exist_ok=True)
                copy = out / PLUGINS_FOLDER / Path(plugin).name
                replace_file(copy, Path(plugin).read_bytes())
    except OSError as error:
        raise UserError(f"out is {out}, where no run can be written: {error.strerror} ({error.filename})") from None


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Within it, no other process trains in this folder. The lock goes with the process, however that ends.

    Raises:
        UserError: if one does, naming it; or if the folder can't be made.
    """
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK_FILE, blocking=False)
        lock.acquire()
    except Timeout:
        holder = read_text(out / HOLDER_FILE).strip() if (out / HOLDER_FILE).is_file() else "another process"
        raise UserError(f"{out} is in use by {holder}: wait for it, stop it, or choose another out=") from None
    except OSError as error:
        raise UserError(f"out is {out}, where no run can be written: {error.strerror} ({error.filename})") from None
    try:
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        replace_file(out / HOLDER_FILE, f"process {os.getpid()} on {platform.node()}, since {since}\n")
        yield
    finally:
        for name in (HOLDER_FILE, LOCK_FILE):
            (out / name).unlink(missing_ok=True)
        lock.release()
        if made:
            with suppress(OSError):  # it isn't empty, unless nothing could begin
                out.rmdir()


def read_membership(out: Path) -> dict[str, Tensor] | None:
    """Return which pictures were in which of a run's splits, see `Data.membership`; None where they were no files."""
    path = out / SPLIT_FILE
    try:
        splits = load_file(path) if path.is_file() else None
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}), so that nobody can say what was trained on") from None
    for name, ids in (splits or {}).items():
        if name not in ("train", "val", "test") or ids.dtype != torch.int64 or ids.dim() != 1:
            raise UserError(f"{path} holds no digests of pictures by split, but {printable(name)} as {ids.dtype}")
    return splits


def united(first: dict[str, Tensor], second: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Return where pictures belong by either of two memberships: one that is gone may come back."""
    return {split: torch.unique(torch.cat([ids, (second or {}).get(split, ids)])) for split, ids in first.items()}


def same_data(config: Config, data: Data, out: Path, known: str | None, advice: str | None) -> Data:
    """Return the data of a run that lies in a folder: pictures that it has seen stay in their splits.

    Args:
        config: The run's.
        data: As it would be split today.
        out: The run's folder.
        known: The digest of what it saw; None of a run from before there were digests.
        advice: What to do if the data has changed; None: go on with what there is.

    Raises:
        UserError: if it has changed.
    """
    if known is None or data.digest == known:
        return data
    before = read_membership(out)
    data = build_data(config.data, before, config.seed)
    if data.digest == known or advice is None:
        return data
    now, then = (
        set(torch.cat(list(each.values())).tolist()) if each else set() for each in (data.membership, before or {})
    )
    what = f": {len(now - then):,} pictures are new, {len(then - now):,} are gone" if before else ""
    raise UserError(f"the data is no longer what the run in {out} has seen{what}; {advice}")


def add_to_history(out: Path, step: int, planned: int, changed: dict[str, Any], data: Data) -> None:
    """Write down a start.

    Args:
        out: The run's folder.
        step: Where it starts.
        planned: At which step it will end.
        changed: Settings that matter and are others now: key to [old, new].
        data: What it is trained on from here on.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    known = code()
    life = {
        "started": now,
        "step": step,
        "planned": planned,
        "changed": changed,
        "data": data.digest,
        "command": command(),
        "version": known["version"],
        "commit": known["commit"],
    }
    whole = [*read_lines(out / HISTORY_FILE), json.dumps(life)]
    replace_file(out / HISTORY_FILE, "".join(f"{line}\n" for line in whole))


def drop_rows_after(out: Path, step: int) -> None:
    """Drop the rows that lie after `step`: a run that was killed wrote them, and the resumed one will again."""
    path = out / METRICS_FILE
    if path.is_file():
        rows = [line for line in read_lines(path) if _step_of(line) <= step]
        replace_file(path, "".join(f"{row}\n" for row in rows))


def _step_of(line: str) -> float:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # of a file that a full disk, say, left
        return math.inf
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else math.inf
