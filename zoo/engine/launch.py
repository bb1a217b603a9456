"""How this process was started, and what the launcher was asked for."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from zoo.config import Config
from zoo.errors import UserError
from zoo.interruption import COMMAND, program
from zoo.processes import end_with_parent

MOST_CHARACTERS = 4096  # of a command line that are kept
NOTEBOOKS = ("ipykernel_launcher.py", "colab_kernel_launcher.py")


def take_up_launch(config: Config) -> None:
    """Let what `accelerate launch`, or the environment, asks for fill in what a config leaves open.

    Raises:
        UserError: if the two contradict each other.
    """
    words = launching_command()
    if words:
        end_with_parent()
    # The launcher sets "no" where nobody asked for a precision.
    precision = _flag(words, "mixed_precision") or os.environ.get("ACCELERATE_MIXED_PRECISION", "no").replace("no", "")
    if precision and config.mixed_precision != precision:
        if config.mixed_precision != "auto" or precision not in ("no", "bf16", "fp16"):
            raise _contradiction("mixed_precision", precision, config.mixed_precision)
        config.mixed_precision = precision  # type: ignore[assignment]
    accumulate = _flag(words, "gradient_accumulation_steps")
    if accumulate and accumulate.isdecimal() and config.accumulate != int(accumulate):
        if "accumulate" in config.model_fields_set:
            raise _contradiction("gradient_accumulation_steps", accumulate, f"accumulate={config.accumulate}")
        config.accumulate = int(accumulate)
    if os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes") and config.device != "cpu":
        if config.device != "auto":
            raise _contradiction("the CPU alone", "ACCELERATE_USE_CPU", f"device={config.device}")
        config.device = "cpu"
    mode = os.environ.get("WANDB_MODE")
    if mode and config.wandb.mode not in (None, mode):
        raise _contradiction("WANDB_MODE", mode, f"wandb.mode={config.wandb.mode}")


def _contradiction(what: str, asked: str, configured: str) -> UserError:
    return UserError(f"the launch asks for {what} ({asked}), and the config for {configured}: leave one of them out")


def _flag(words: Sequence[str], name: str) -> str:
    """Return what a flag of the launcher is set to, before the script's own arguments begin; "" if it isn't."""
    for number, word in enumerate(words):
        if word.endswith(".py") or word in ("-m", "--module"):
            break
        flag, _, value = word.partition("=")
        if flag.lstrip("-").replace("-", "_") == name:
            return value or (words[number + 1] if number + 1 < len(words) else "")
    return ""


def command() -> str:
    """Return the command line that started this process, launcher and all, as it would be typed; "" in a notebook."""
    if in_notebook() or not sys.argv[0]:
        return ""
    launcher = launching_command()
    if launcher:
        settings = {key: os.environ[key] for key in ("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES") if key in os.environ}
        if Path(launcher[0]).name == "accelerate":
            settings.pop("ACCELERATE_USE_CPU", None)  # which it sets itself
        line = " ".join([*(f"{key}={value}" for key, value in settings.items()), shlex.join(launcher)])
        return line[:MOST_CHARACTERS]
    return shlex.join([*program(), *sys.argv[1:]])[:MOST_CHARACTERS]


@functools.cache
def launching_command() -> tuple[str, ...]:
    """Return the command line of the `torchrun` or `accelerate launch` that started this process, or nothing."""
    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent is not None else []
    except psutil.Error:
        return ()
    if words and Path(words[0]).name.startswith("python"):
        words = words[1:]
    if words[:1] == ["-m"]:
        modules = {"torch.distributed.run": "torchrun", "accelerate.commands.launch": "accelerate launch"}
        words = [*modules.get(words[1], words[1]).split(), *words[2:]] if len(words) > 1 else []
    elif words:
        words = [Path(words[0]).name, *words[1:]]
    launched = words[:1] == ["torchrun"] or words[:2] == ["accelerate", "launch"]
    return tuple(words) if launched else ()


def in_notebook() -> bool:
    """Say whether this process is a notebook's."""
    return Path(sys.argv[0]).name in NOTEBOOKS


def again() -> str:
    """Say what to type to go on with this run."""
    line, started = command(), Path(sys.argv[0])
    ours = started.name in ("run.py", COMMAND) or started.parts[-2:] == ("zoo", "__main__.py")
    if not (line and ours):  # somebody's own code trains
        return "train it again with resume=True"
    return line if "--resume" in sys.argv else f"{line.replace(' --overwrite', '')} --resume"
