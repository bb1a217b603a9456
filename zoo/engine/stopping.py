"""How a run is asked to end: by a signal, heard by all its processes at one step."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
from accelerate import Accelerator

AGREE_EVERY = 10  # steps between agreeing, over several processes, on whether to stop


# Ctrl-C, a scheduler's end, a dropped connection, SLURM's warning; Windows has only the first two.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


class StopRequest:
    """Turns the first of `SIGNALS` into a flag, read between steps; a second one kills as usual.

    In a thread beside the main one, which alone hears signals, it hears none.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.signal = 0

    def __enter__(self) -> StopRequest:
        heard = SIGNALS if threading.current_thread() is threading.main_thread() else []
        self._before = {s: signal.signal(s, self._set) for s in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self.__exit__()

    def agreed(self, step: int) -> int:
        """Return the signal received, the same on every rank, so that all of them stop at one step; or 0."""
        if self.accelerator.num_processes == 1:
            return self.signal
        if step % AGREE_EVERY:
            return 0
        return int(self.accelerator.gather(torch.tensor(self.signal, device=self.accelerator.device)).max())
