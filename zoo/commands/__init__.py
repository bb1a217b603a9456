"""The command line: its parser, and what each command does.

Modules that need torch are imported by the commands that need them, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from traceback import extract_tb

from zoo.commands.authors import run_check
from zoo.commands.data import run_cache, run_configs, run_data
from zoo.commands.drawing import run_interpolate, run_reconstruct, run_sample
from zoo.commands.encoding import run_encode, run_score
from zoo.commands.explore import run_explore
from zoo.commands.gallery import run_gallery
from zoo.commands.listings import KINDS, run_completion, run_describe, run_list, run_listing
from zoo.commands.parser import parse
from zoo.commands.scoring import run_compare, run_evaluate, run_leaderboard, run_papers, run_reference
from zoo.commands.settings import run_config
from zoo.commands.sharing import run_export, run_push
from zoo.commands.training import run_suite, run_train
from zoo.errors import DiskFull, Diverged, Undelivered, UserError
from zoo.texts import printable

RUN = {
    "train": run_train,
    "evaluate": run_evaluate,
    "sample": run_sample,
    "reconstruct": run_reconstruct,
    "encode": run_encode,
    "interpolate": run_interpolate,
    "score": run_score,
    "gallery": run_gallery,
    "explore": run_explore,
    "export": run_export,
    "push": run_push,
    "data": run_data,
    "config": run_config,
    "list": run_list,
    **dict.fromkeys(KINDS, run_listing),
    "completion": run_completion,
    "describe": run_describe,
    "check": run_check,
    "suite": run_suite,
    "leaderboard": run_leaderboard,
    "compare": run_compare,
    "reference": run_reference,
    "papers": run_papers,
    "configs": run_configs,
    "cache": run_cache,
}
WRITES = ("evaluate", "push")  # what needs a run of one's own


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for a mistake, 1 for a lost run or metric, each in one sentence."""
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need be no text
    try:
        arguments = parse(argv)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return error.exit_code
    try:
        _fetch_runs(arguments)
        return RUN[arguments.command](arguments)
    except SystemExit as error:  # no command of ours does this
        frames = [frame for frame in extract_tb(error.__traceback__) if "_sitebuiltins" not in frame.filename]
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        print(f"error: somebody's code ended the program by exit({error.code!r}) ({where})", file=sys.stderr)
        return UserError.exit_code
    except BrokenPipeError:  # whoever read it, as `head` does, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, Diverged, DiskFull, Undelivered) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {printable(error)}", file=sys.stderr)
        return error.exit_code


def _fetch_runs(arguments: argparse.Namespace) -> None:
    """Let a run on the hub, hf://user/name, stand for the copy of it on this machine."""
    for name in ("run", "run_a", "run_b"):
        run = getattr(arguments, name, None)
        if run is None or not str(run).startswith("hf:/"):  # known before the hub's module, and torch, are imported
            continue
        from zoo.hub import local

        if arguments.command in WRITES:
            raise UserError(f"{arguments.command} is for a run of your own, and {run} is a copy: name a folder")
        setattr(arguments, name, local(run, getattr(arguments, "trust_plugins", False)))
