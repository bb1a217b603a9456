"""How much memory a run takes beside what its model needs: `python -m benchmarks.speed.memory vanilla_celeba`.

Two processes, one after the other: the bare step, on one batch, and the loop, with its data, validation, logging and
checkpoints. What is counted is each one's peak of memory of its own, in MB, Python and torch included; a memory map's
pages belong to the system, which may drop them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil

from benchmarks.speed.throughput import WARM_UP, WORKLOADS, Contender, Loop, Peer, bare_step
from zoo.config import Config, load_config
from zoo.engine.setup import Run, set_up
from zoo.engine.train import Trainer
from zoo.errors import UserError

SECONDS_BETWEEN_LOOKS = 0.004


class Watch:
    """Looks at this process's memory from a thread: `peak` is the most that was seen, in MB."""

    def __enter__(self) -> Watch:
        self.peak = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        process = psutil.Process()
        while not self._over.wait(SECONDS_BETWEEN_LOOKS):
            memory = process.memory_info()
            self.peak = max(self.peak, (memory.rss - memory.shared) / 1e6)


def peak(contender: Callable[[Run], Contender], config: Config, _: Path) -> Contender:
    """Build a contender; its steps then return the peak, for seconds."""
    take = contender(set_up(config))

    def steps(n: int) -> float:
        with Watch() as watch:
            take(n)
        return watch.peak

    return steps


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 2 for what can't be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.memory",
        description="Measure a run's peak memory beside the bare step's, on CPU.",
    )
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings laid over the workload's config")
    parser.add_argument("--steps", type=int, default=3 * WARM_UP, help="(default %(default)s)")
    arguments = parser.parse_args(argv)
    file, settings = WORKLOADS[arguments.workload]
    peaks = {}
    try:
        for name, contender in (("bare step", bare_step), ("loop", partial(Loop, trainer=Trainer))):
            with tempfile.TemporaryDirectory() as folder:
                overrides = [*settings, "device=cpu", f"out={folder}/run", "steps=1000000", *arguments.overrides]
                peaks[name] = Peer(partial(peak, contender), load_config(file, overrides))(arguments.steps)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for name, megabytes in peaks.items():
        print(f"  {name:<10} {megabytes:>6,.0f} MB")
    print(f"  loop / bare step: {peaks['loop'] / peaks['bare step']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
