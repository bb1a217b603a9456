"""Image files, decoded once into a memory map that all runs and processes share.

A cache entry is three files: `<key>.u8` holds the pixels, `<key>.digests` what stands for each file's content, and
`<key>.json` the pixels' shape and the files that were bad. The key is made of the files' names, sizes and times and of
everything that decides what is made of them, so that an entry never goes stale; the header is written last, so that an
entry is whole if its header exists.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from zoo.data import decode
from zoo.data.decode import Form
from zoo.errors import UserError

VERSION = 2  # to be raised when the same files come to give other pixels
BLOCK = 64  # files that a worker is given at a time


def cache_folder() -> Path:
    """Return $VAE_ZOO_CACHE, else $XDG_CACHE_HOME/vae-zoo, else ~/.cache/vae-zoo."""
    if chosen := os.environ.get("VAE_ZOO_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae-zoo"


class Decoded(NamedTuple):
    """What became of files.

    Attributes:
        pixels: uint8 `[K, C, H, W]`, memory-mapped: the good files in the order of their names.
        bad: The others, each with what is wrong with it.
        digests: int64 `[K]`, what stands for each good file's content.
    """

    pixels: Tensor
    bad: dict[str, str]
    digests: Tensor


def decoded(folder: Path, names: Sequence[str], form: Form) -> Decoded:
    """Return the pixels of image files, decoding them if no run has done so before.

    Args:
        folder: Where the files are.
        names: Their paths within the folder.
        form: What is made of each.

    Raises:
        UserError: if a file can't be read or is smaller than `crop`, or if the cache can't be written.
    """
    return kept(file_key(folder, names, form), len(names), form, lambda out: _decode_files(out, folder, names, form))


def kept(key: str, count: int, form: Form, build: Callable[[Path], tuple[dict[str, str], list[int]]]) -> Decoded:
    """Return an entry, building it if it is not there.

    Args:
        key: Its name.
        count: Images, at most.
        form: What is made of each.
        build: Writes the good images' pixels to a file, and returns the bad ones, and the good ones' digests.

    Raises:
        UserError: if the cache can't be written, or as `build` does.
    """
    stem = cache_folder() / key
    entry = _read(stem)
    if entry is None:
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(stem.with_suffix(".lock")):  # of many ranks one decodes, the others wait and read
                entry = _read(stem)
                if entry is None:
                    _build(stem, form, build)
                    entry = _read(stem)
        except OSError as error:
            need = count * form.bytes / 1e6
            raise UserError(
                f"the decoded images can't be written to {stem.parent} ({error.strerror or error}): make room for "
                f"{need:,.0f} MB there, or set VAE_ZOO_CACHE to another folder"
            ) from None
    assert entry is not None
    return entry


def file_key(folder: Path, names: Sequence[str], form: Form | None) -> str:
    """Return what an entry is called: by its files, and by what is made of them, None where that is nothing."""
    digest = hashlib.sha256(json.dumps([VERSION, form]).encode())
    for name in names:
        try:
            stat = os.stat(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name} can't be read: {error.strerror}") from None
        digest.update(f"\n{name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _read(stem: Path) -> Decoded | None:
    """Return a whole entry, or None for one that is absent or damaged."""
    file = stem.with_suffix(".u8")
    try:
        header = json.loads(stem.with_suffix(".json").read_text())
        shape, bad = header["shape"], header["bad"]
        length = math.prod(shape)
        if file.stat().st_size != length:
            return None
        digests = read_digests(stem.with_suffix(".digests"), shape[0])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if digests is None:
        return None
    if not length:
        return Decoded(torch.empty(shape, dtype=torch.uint8), bad, digests)
    # A private map: read page by page on demand, and what a caller might write into it never reaches the file.
    pixels = torch.from_file(str(file), shared=False, size=length, dtype=torch.uint8).view(shape)
    return Decoded(pixels, bad, digests)


def read_digests(file: Path, count: int) -> Tensor | None:
    """Return int64 `[count]`, or None for a file that is absent or damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return torch.from_numpy(np.frombuffer(content, np.int64).copy()) if len(content) == 8 * count else None


def _build(stem: Path, form: Form, build: Callable[[Path], tuple[dict[str, str], list[int]]]) -> None:
    partial = stem.with_suffix(".partial")
    try:
        partial.write_bytes(b"")  # one of a build that was killed may be there
        bad, digests = build(partial)
        partial.replace(stem.with_suffix(".u8"))
        partial.write_bytes(np.array(digests, np.int64).tobytes())
        partial.replace(stem.with_suffix(".digests"))
        shape = [len(digests), form.channels, form.height, form.width]
        partial.write_text(json.dumps({"shape": shape, "bad": bad}))
        partial.replace(stem.with_suffix(".json"))
    finally:
        partial.unlink(missing_ok=True)


def _decode_files(out: Path, folder: Path, names: Sequence[str], form: Form) -> tuple[dict[str, str], list[int]]:
    files = [str(folder / name) for name in names]
    bad: dict[str, str] = {}
    digests: list[int] = []
    with tqdm(total=len(names), desc=f"decoding {folder.name}", unit=" images", disable=None) as bar:
        for faults, contents in decode_all(files, out, form, cores()):
            bad |= faults
            digests += contents
            bar.update(min(BLOCK, bar.total - bar.n))
    if bad:
        _close_gaps(out, [file not in bad for file in files], form.bytes)
    return {Path(file).relative_to(folder).as_posix(): fault for file, fault in bad.items()}, digests


def _close_gaps(file: Path, good: list[bool], image: int) -> None:
    """Move the images together that `decode_all` wrote, where some were bad; `image` is the bytes of one."""
    with file.open("r+b") as out:
        end = 0
        for start in range(0, len(good), BLOCK):
            out.seek(start * image)
            pixels = out.read(sum(good[start : start + BLOCK]) * image)
            out.seek(end)
            end += out.write(pixels)
        out.truncate(end)


def decode_all(files: list[str], out: Path, form: Form, processes: int) -> Iterator[tuple[dict[str, str], list[int]]]:
    """Decode files into the file `out`, by at most so many processes; yield each block's bad ones and digests.

    The good images of a block stand side by side, from where they would stand if all before the block were good.

    Raises:
        UserError: if a file can't be read or is smaller than `crop`, or if a process was killed.
        OSError: if `out` can't be written.
    """
    starts = range(0, len(files), BLOCK)
    workers = min(processes, len(starts) // 4)  # starting one costs about as much as decoding four blocks
    if workers < 2:
        for start in starts:
            try:
                pixels, bad, digests = decode.decode_many(files[start : start + BLOCK], form)
            except (OSError, ValueError) as error:
                raise UserError(str(error)) from None
            decode.write(pixels, str(out), start * form.bytes)
            yield bad, digests
        return

    # Processes, since threads gain little: much of the work on a small image is Python's own. And plain ones, since
    # those of `multiprocessing` would fork a process that has threads, or import torch and the caller's script anew.
    # Each writes its pixels itself: sent through a pipe they cost a tenth more, and on a shared machine a worker that
    # waits for its pipe to be emptied loses its core.
    with ExitStack() as stack:
        idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for _ in range(workers):
            idle.put(stack.enter_context(_worker()))

        def ask(start: int) -> tuple[dict[str, str], list[int]]:
            question = [str(out), start * form.bytes, files[start : start + BLOCK], form]
            worker = idle.get()
            assert worker.stdin is not None and worker.stdout is not None
            try:
                worker.stdin.write(json.dumps(question).encode() + b"\n")
                worker.stdin.flush()
                answer = json.loads(worker.stdout.readline())
            except (OSError, ValueError):  # a broken pipe, or half an answer
                raise UserError("a process that decoded images was killed, perhaps for want of memory") from None
            finally:
                idle.put(worker)
            if answer["error"]:
                raise UserError(answer["error"])
            if answer["unwritten"]:
                raise OSError(*answer["unwritten"])
            return answer["bad"], answer["digests"]

        yield from stack.enter_context(ThreadPoolExecutor(workers)).map(ask, starts)


@contextmanager
def _worker() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, decode.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process
    finally:
        with suppress(BrokenPipeError):  # one that was killed can't be told to end
            process.stdin.close()
        process.wait()
        process.stdout.close()


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
