"""Train and score a grid of runs: `vae-zoo suite quickstart`.

A suite is a YAML file; every run in it is `base`, then `settings`, then a data set's, then a variant's:

    out: runs/quickstart          # its runs' folders: <variant>_<data>_<seed>
    base: ../quickstart.yaml      # a config, counted from this file
    settings: {epochs: 20}        # for all runs
    data: {digits: {}}            # name: settings
    runs: {beta4: {model: {name: beta, net: mlp, beta: 4}}}    # name: settings
    seeds: [0, 1]

Each run is a process of its own, `python -m zoo … --resume`. That costs it some seconds to start; for them, a run that
is killed for its memory takes nothing else along, no setting of torch or Accelerate leaks from one run into the next,
and a row of the leaderboard comes from exactly the command that is written beside it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from zoo.config import Config, check, flatten, load_config, parse_yaml
from zoo.errors import UserError
from zoo.files import CONFIG_FILE, read_text
from zoo.processes import end_with_parent
from zoo.reports.reference import Run, read_run
from zoo.shipped import SUITES, as_told, config_names, find_config

PROGRAM = [sys.executable, "-m", "zoo"]
LOG_FILE = "suite.log"
# A finished run may differ in these from what the suite asks for, and still is what it asks for.
MAY_DIFFER = (
    "out",
    "title",
    "seeds",
    "device",
    "threads",
    "trackers",
    "wandb",
    "keep",
    "log_every",
    "checkpoint_every",
)

Name = Annotated[str, Field(pattern=r"^[\w.+=-]+$")]
Settings = dict[Name, dict[str, Any]]


class Suite(BaseModel):
    """A suite's file."""

    model_config = ConfigDict(extra="forbid")

    out: Path
    base: Path
    settings: dict[str, Any] = {}
    data: Settings = Field(min_length=1)
    runs: Settings = Field(min_length=1)
    seeds: list[NonNegativeInt] = Field(min_length=1)


@dataclass(frozen=True)
class Job:
    """One run of the grid."""

    out: Path
    base: Path
    overrides: list[str]

    @property
    def command(self) -> list[str]:
        """What is executed."""
        return [*PROGRAM, "--config", as_told(self.base), "--resume", *self.overrides]

    def finished(self) -> bool:
        """Whether its folder holds the finished run, with every metric that is asked for.

        Raises:
            UserError: if the config can't be read, or the folder holds a finished run of other settings.
        """
        config = load_config(self.base, self.overrides)
        wanted = flatten(config.dump())
        try:
            run = read_run(self.out)
        except UserError:  # nothing there yet, or not whole: the run goes on
            return False
        if run.results.steps is None:  # scored, but not trained to its end
            return False
        found = flatten(parse_yaml(read_text(self.out / CONFIG_FILE), str(self.out / CONFIG_FILE)))
        changed = [key for key, value in wanted.items() if not _left_open(key, value) and found.get(key) != value]
        retrain = [key for key in changed if not key.startswith("benchmark.")]
        if retrain:
            key = retrain[0]
            raise UserError(
                f"it is finished with {key}={found.get(key)}, and the suite says {wanted[key]}: remove {self.out} "
                "or give the suite another out"
            )
        # Resumed at its end, a run computes what it lacks.
        return not changed and not self.lacks(config, run)

    @staticmethod
    def lacks(config: Config, run: Run) -> list[str]:
        """Return the metrics that are asked for and that a run does not have."""
        return [metric for metric in config.benchmark.metrics if metric not in run.results.benchmarked]


def _left_open(key: str, value: Any) -> bool:
    return value is None or key == "data.root" or key.split(".")[0] in MAY_DIFFER


def load_suite(path: Path) -> Suite:
    """Read a suite; `base` is counted from its file, `out` from the current folder.

    Args:
        path: The file; or the name of one of the zoo's suites.

    Raises:
        UserError: one sentence about what is wrong.
    """
    path = find_config(path, below=SUITES)
    if not os.path.isfile(path):
        raise UserError(f"there is no suite {path}; with the zoo come {', '.join(config_names(SUITES))}")
    values = parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold `key: value` lines")
    suite: Suite = check(Suite, values, str(path))
    suite.base = Path(os.path.normpath(find_config(suite.base, path.parent)))
    return suite


def grid(suite: Suite) -> list[Job]:
    """Return all runs, seed by seed, so that an early end leaves a whole comparison."""
    jobs = []
    for seed in suite.seeds:
        for data, data_settings in suite.data.items():
            for name, settings in suite.runs.items():
                out = suite.out / f"{name}_{data}_{seed}"
                merged: dict[str, Any] = {}
                for layer in (suite.settings, data_settings, settings, {"seed": seed, "out": str(out), "title": name}):
                    merged |= flatten(layer)
                jobs.append(Job(out, suite.base, [f"{key}={as_text(value)}" for key, value in merged.items()]))
    return jobs


def as_text(value: Any) -> str:
    """Write a value so that `key=value` reads it back: plain if that does, or else as JSON, which is YAML."""
    texts = [str(value), json.dumps(value)]
    if isinstance(value, list):
        texts.insert(0, f"[{', '.join(map(str, value))}]")  # no quotes, which a shell would quote again
    return next(text for text in texts if parse_yaml(text, "") == value)


def shard(jobs: Sequence[Job], share: str) -> Sequence[Job]:
    """Return the i-th of n shares, "1/4" to "4/4"; together they are all jobs, each once.

    Raises:
        UserError: if it isn't such a share.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", share)
    if not found or not 1 <= (i := int(found[1])) <= (n := int(found[2])):
        raise UserError(f"--shard is {share!r}: write i/n, from 1/n to n/n")
    return jobs[i - 1 :: n]


class Stop(Exception):
    """The suite was asked to end."""


def execute(job: Job) -> str:
    """Train and score one run, its output in a log; a signal to end is passed on once, so that it saves its state.

    Returns:
        What went wrong, or nothing.

    Raises:
        Stop: after such a signal, when the run has ended.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    log = job.out / LOG_FILE
    with log.open("a") as file:
        # In a session of its own: Ctrl-C reaches it through us alone.
        process = subprocess.Popen(
            job.command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"WANDB_RUN_GROUP": job.out.parent.name, **os.environ},
            preexec_fn=end_with_parent,  # no thread runs here
        )
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        process.send_signal(signal.SIGTERM if len(stopped) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise Stop
    if code == 0:
        return ""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{lines[-1].removeprefix('error: ') if lines else 'no output'} ({how}; {log})"


def run_suite(jobs: Sequence[Job]) -> dict[Path, str]:
    """Execute what isn't finished.

    Returns:
        What went wrong, by folder.

    Raises:
        Stop: if the suite was asked to end.
    """
    failures = {}
    for number, job in enumerate(jobs, 1):
        print(f"[{number}/{len(jobs)}] {job.out.name}", end=" ", flush=True)
        start = time.monotonic()
        try:
            if job.finished():
                print("is finished already")
                continue
            problem = execute(job)
        except UserError as error:
            problem = str(error)
        if problem:
            failures[job.out] = problem
        seconds = time.monotonic() - start
        print(f"failed: {problem}" if problem else f"{summary(job)} ({seconds:.0f} s)", flush=True)
    return failures


def summary(job: Job) -> str:
    """Say in a few words what a run reached, and what it could not be scored by."""
    run = read_run(job.out)
    shown = [
        f"{name} {run.results.metrics[name].value:.5g}" for name in ("elbo", "psnr") if name in run.results.metrics
    ]
    lacks = job.lacks(load_config(job.base, job.overrides), run)
    return ", ".join([*shown, *(f"no {metric} (why: {job.out / LOG_FILE})" for metric in lacks)]) or "done"


def run(path: Path, share: str = "1/1") -> int:
    """Execute a suite's file, or one share of its runs; exit code 0, 1 if any run failed, 130 if it was stopped.

    Raises:
        UserError: if the file or the share is wrong.
    """
    suite = load_suite(path)
    jobs = shard(grid(suite), share)
    try:
        failures = run_suite(jobs)
    except (Stop, KeyboardInterrupt):
        print("stopped; the same command goes on from here")
        return 130
    for out, problem in failures.items():
        print(f"failed: {out}: {problem}", file=sys.stderr)
    print(f"{len(jobs) - len(failures)} of {len(jobs)} runs finished in {suite.out}")
    return 1 if failures else 0
