"""Decoding image files on all cores."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from zoo.data import decode
from zoo.data.decode import Form
from zoo.errors import UserError

BLOCK = 64  # files that a worker is given at a time


def decode_files(out: Path, folder: Path, names: Sequence[str], form: Form) -> tuple[dict[str, str], list[int]]:
    """Decode files of a folder into the file `out`, the good ones' pixels side by side.

    Returns:
        The bad ones, each with what is wrong with it, and the good ones' digests.

    Raises:
        UserError: as `decode_all` does.
        OSError: if `out` can't be written.
    """
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
