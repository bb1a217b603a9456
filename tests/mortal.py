"""Runs that are killed: children of a process that has imported all, so that one takes a second and not ten.

As a program it reads requests, a line of JSON each, and answers with the exit codes of the run's processes.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OPERATIONS = ("replace", "rename", "unlink", "mkdir", "fsync", "symlink", "open")
KILLED = 9
IMPORTED_LATE = ("matplotlib.figure", "sklearn.datasets", "torch._dynamo", "torchmetrics.image", "torchvision")


class Mortal:
    """Starts runs, on one process or as ranks of several, and kills them."""

    def __enter__(self) -> Mortal:
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.mortal"],
            cwd=ROOT,
            env=os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def run(self, config: dict[str, Any], ranks: int = 1, *, operation: int = 0, after: float | None = None) -> int:
        """Train with `--resume`; return 0, or 9 after a kill.

        Args:
            config: Of the run.
            ranks: On how many processes.
            operation: At which of the first rank's operations on files in its folder that is killed; 0: at none.
            after: Seconds from when the run's folder is there until all are killed.
        """
        assert self.server.stdin is not None and self.server.stdout is not None
        request = {"config": config, "ranks": ranks, "operation": operation, "after": after}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        codes = json.loads(self.server.stdout.readline())
        said = Path(f"{config['out']}.log")
        assert set(codes) <= {0, KILLED}, said.read_text()
        return max(codes)


def make_mortal(number: int, folder: str) -> None:
    """Let this process end, as by SIGKILL, at an operation on a file in the folder."""
    count = 0
    fsync = os.fsync

    def mortal(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            touched = [str(each) for each in arguments if isinstance(each, (str, os.PathLike))]
            if original is fsync or any(folder in path for path in touched):
                count += 1
                if count == number:
                    os._exit(KILLED)
            return original(*arguments, **options)

        return call

    for name in OPERATIONS:
        setattr(os, name, mortal(getattr(os, name)))


def be_rank(rank: int, request: dict[str, Any], port: int) -> None:
    """Train in this process, and end it."""
    from zoo.config import Config, check
    from zoo.runs import train

    code = 1
    try:
        log = os.open(f"{request['config']['out']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        if request["ranks"] > 1:
            where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": request["ranks"], "MASTER_PORT": port}
            os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in where.items()}})
        config = check(Config, request["config"], "test")
        if request["operation"] and rank == 0:
            make_mortal(request["operation"], str(config.out))
        code = train(config, resume=True)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(request: dict[str, Any]) -> list[int]:
    """Run what is asked for; the others end when one has failed, as with torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(request["ranks"]):
        pid = os.fork()
        if pid == 0:
            be_rank(rank, request, port)
        pids.append(pid)
    alive, codes, deadline = set(pids), [], None
    while alive:
        if request["after"] is not None and deadline is None and Path(request["config"]["out"]).is_dir():
            deadline = time.monotonic() + request["after"]
        due = deadline is not None and time.monotonic() > deadline
        if due or any(codes):
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
        for pid in list(alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                alive.remove(pid)
                codes.append(KILLED if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
        time.sleep(0.005)
    return [KILLED] if KILLED in codes else codes  # how others end who lost it is no fault of theirs


if __name__ == "__main__":
    for module in ("zoo.runs", *IMPORTED_LATE):
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
