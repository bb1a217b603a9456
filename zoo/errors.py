"""What a user can get wrong, and what a run can die of. `run.py` prints these as one sentence, without a traceback."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from traceback import walk_tb
from typing import Any

from zoo.texts import printable

ZOO = str(Path(__file__).parent)
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class UserError(ValueError):
    """A mistake in a config, a command, or the data: says what is wrong, where, and what would be right."""

    exit_code = 2


class PluginError(UserError):
    """A mistake in somebody's code: a variant, a net, a data set, a metric, a sampler. Names class and method."""


class DoesNotApply(UserError):
    """What is asked of a variant is nothing that it has: no density, no codes, no noise."""


class Diverged(RuntimeError):
    """The loss stopped being finite."""

    exit_code = 1


class DiskFull(RuntimeError):
    """There is no room for what a run must keep."""

    exit_code = 1


class Undelivered(RuntimeError):
    """A run is trained and measured, but something that was asked for could not be computed."""

    exit_code = 1


def warn(text: str) -> None:
    """Say on stderr what is worth a user's attention; of many processes one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"warning: {printable(text)}", file=sys.stderr)


def is_ours(target: Any) -> bool:
    """Say whether a class or function is the zoo's own, or torch's."""
    return str(getattr(target, "__module__", "")).partition(".")[0] in ("zoo", "torch")


def place(function: Callable[..., Any]) -> str:
    """Return where a function, or a class's own `__init__`, is defined: "my_vae.py:12"; or else its module's file."""
    code = getattr(vars(function).get("__init__") if isinstance(function, type) else function, "__code__", None)
    if code is not None:
        return f"{code.co_filename}:{code.co_firstlineno}"
    module = getattr(function, "__module__", None) or "a module without a name"
    return getattr(sys.modules.get(module), "__file__", None) or module


def crash(what: str, error: Exception, function: Callable[..., Any] | None = None) -> PluginError:
    """Say in one sentence that somebody's code raised something no `UserError` foresees, and in which line.

    Args:
        what: Who was called: "MyVAE.loss".
        error: What it raised. The line is the innermost one that is neither the zoo's nor installed.
        function: What was called; named by its place where no such line took part.
    """
    where = ""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}" if error.filename else ""
    else:
        where = place(function) if function is not None else ""
        for frame, line in walk_tb(error.__traceback__):
            file = frame.f_code.co_filename
            if not file.startswith("<frozen") and not _lies_in(file, ZOO, *INSTALLED):
                function_name = frame.f_code.co_name
                where = f"{file}:{line}" + (f", in {function_name}" if function_name.isidentifier() else "")
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    message = (message.strip().splitlines() or [""])[0].rstrip(".")
    sentence = f"{what} raised {type(error).__name__}" + (f": {message}" if message else "")
    return PluginError(f"{sentence} ({where})" if where else sentence)


def _lies_in(file: str, *folders: str) -> bool:
    path = Path(file).resolve()
    return any(path.is_relative_to(Path(folder).resolve()) for folder in folders)
