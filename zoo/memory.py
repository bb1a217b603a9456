"""What a run would take of the machine's memory, told before it is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch.overrides import TorchFunctionMode

from zoo.errors import UserError
from zoo.values import GREATEST_INT

MAKERS: tuple[Callable[..., Any], ...] = (
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn),
    *(torch.arange, torch.linspace, torch.eye),
)
# Words of what torch and Python say where the system gives them nothing, and where a side or a tensor would have more
# than 2^63 numbers.
REFUSALS = ("DefaultCPUAllocator", "multiplication overflow", "Overflow when unpacking", "index-sized integer")


def available() -> int:
    """Return how many bytes may be taken."""
    return psutil.virtual_memory().available


def require(size: float, what: str, advice: str, room: int | None = None) -> None:
    """See that there is room.

    Args:
        size: Bytes that would be taken.
        what: What takes them: "the images, 1,797 of 1 x 8 x 8 pixels,".
        advice: What would be right: "choose a smaller data.size".
        room: How many bytes there are; None: as many as `available` says.

    Raises:
        UserError: if there isn't; says how much it would take, and what there is.
    """
    room = available() if room is None else room
    if size > room:
        raise UserError(f"{what} would take {_gigabytes(size)} of memory, and there are {_gigabytes(room)}: {advice}")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size < 1e15 else f"{size / 1e9:.0e} GB"


class Budget(TorchFunctionMode):
    """Within it, tensors are made as long as there is room for all of them.

    Args:
        what: What is being made, for the sentence.
        advice: What would be right.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__()
        self.what, self.advice, self.size = what, advice, 0.0
        self.room = available()  # before any is made

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Reckon before calling.

        Raises:
            UserError: if there is no room.
        """
        kwargs = kwargs or {}
        if func in MAKERS and "out" not in kwargs:
            self.size += _size(func, args, {key: value for key, value in kwargs.items() if key != "generator"})
            require(self.size, self.what, self.advice, self.room)
        return func(*args, **kwargs)


def _size(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """Return how many bytes a call would take, by making it where nothing is held."""
    numbers = [n for arg in (*args, *kwargs.values()) for n in (arg if isinstance(arg, list | tuple) else (arg,))]
    if any(isinstance(n, int) and n > GREATEST_INT for n in numbers):
        return float("inf")
    try:
        tensor = func(*args, **{**kwargs, "device": "meta", "pin_memory": False})
    except RuntimeError as error:
        if "overflow" in str(error):
            return float("inf")
        raise
    return tensor.numel() * tensor.itemsize


@contextmanager
def telling(what: str, advice: str) -> Iterator[None]:
    """Turn the system's refusal of memory, on any device, into a sentence.

    Raises:
        UserError: if what is done within it is refused memory.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        pass
    except (RuntimeError, TypeError, OverflowError) as error:
        if not any(words in str(error) for words in REFUSALS):
            raise
    else:
        return
    raise UserError(f"{what} takes more memory than there is: {advice}")
