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
from zoo.commands.drawing import run_sample
from zoo.commands.listings import run_describe, run_list
from zoo.commands.parser import COMMANDS, parser
from zoo.commands.scoring import run_evaluate, run_leaderboard, run_papers, run_reference
from zoo.commands.training import run_suite, run_train
from zoo.errors import DiskFull, Diverged, Undelivered, UserError

RUN = {
    "train": run_train,
    "evaluate": run_evaluate,
    "sample": run_sample,
    "data": run_data,
    "list": run_list,
    "describe": run_describe,
    "check": run_check,
    "suite": run_suite,
    "leaderboard": run_leaderboard,
    "reference": run_reference,
    "papers": run_papers,
    "configs": run_configs,
    "cache": run_cache,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for a mistake, 1 for a lost run or metric, each in one sentence."""
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need be no text
    # `run.py --config …` trains: the command may be left out.
    if argv and argv[0] not in COMMANDS and argv[0] not in ("-h", "--help"):
        argv = ["train", *argv]
    arguments = _parse(argv)
    if arguments.command is None:
        parser().print_help()
        return 0
    try:
        return RUN[arguments.command](arguments)
    except SystemExit as error:  # no command of ours does this
        frames = [frame for frame in extract_tb(error.__traceback__) if "_sitebuiltins" not in frame.filename]
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        print(f"error: somebody's code ended the program by exit({error.code!r}) ({where})", file=sys.stderr)
        return UserError.exit_code
    except (UserError, Diverged, DiskFull, Undelivered) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line whose settings stand anywhere: argparse takes them in one place alone."""
    arguments, rest = parser().parse_known_args(argv)
    for word in rest:
        if word.startswith("-") or "=" not in word or not hasattr(arguments, "overrides"):
            parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [word for word in argv if word in {*arguments.overrides, *rest}]
    return arguments
