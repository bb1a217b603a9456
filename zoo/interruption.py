"""Ctrl-C at any moment, also while modules are imported: one sentence, which says how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, NoReturn

EXIT_CODE = 128 + signal.SIGINT
SECONDS_TO_TIDY_UP = 5.0
COMMAND = "vae-zoo"  # what an installed package's is called

begun = False  # whether a run has taken its folder, so that it is gone on with, not begun anew


def command_line(words: list[str]) -> str:
    """Return what goes on with what these words, after the program's name, began."""
    trains = "--config" in words or any(word.startswith("--config=") for word in words)
    if trains and begun:
        words = [word for word in words if word not in ("--overwrite", "--resume")] + ["--resume"]
    return shlex.join([*program(), *words])


def program() -> list[str]:
    """Return what was typed to start this program: the installed command, the module, or a file's name."""
    name = os.path.basename(sys.argv[0])
    if os.path.splitext(name)[0] == COMMAND:
        return [COMMAND]
    return ["python", "-m", "zoo"] if name == "__main__.py" else ["python", name]


class Interruption:
    """Within it, Ctrl-C ends the program with a sentence: at once if it comes twice, or nobody tidies up in time.

    The first one is raised as usual, so that what is half done is tidied up on the way out. Whatever came of it on
    the way is not looked at. In the midst of an import there is nothing to tidy up, and nothing is raised: libraries
    turn it into errors of their own, or, where it finds their C++, abort.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> None:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants it otherwise
            signal.signal(signal.SIGINT, self._heed)
            sys.unraisablehook, self._told = self._tell, sys.unraisablehook

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.asked and not (isinstance(error, SystemExit) and not error.code):  # it may have been done by then
            self._end()

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self.asked or _imports(frame):
            self._end()
        self.asked = True
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: self._end())
            signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_TIDY_UP)
        raise KeyboardInterrupt

    def _tell(self, unraisable: Any) -> None:
        """Keep quiet of an interrupt that found the program where none can be raised."""
        if not (self.asked and isinstance(unraisable.exc_value, KeyboardInterrupt)):
            self._told(unraisable)

    def _end(self) -> NoReturn:
        if os.environ.get("RANK", "0") == "0":
            print(f"\ninterrupted; to go on: {command_line(sys.argv[1:])}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_CODE)  # threads that are at work would be waited for


def _imports(frame: FrameType | None) -> bool:
    """Say whether a frame, or one that it was called from, is importing a module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
