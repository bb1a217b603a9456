"""What a run says of itself while it trains: its rows, its progress bar, its pictures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from zoo.base import BaseVAE
from zoo.engine.launch import in_notebook
from zoo.engine.setup import Run
from zoo.files import METRICS_FILE, append_line
from zoo.pictures.drawing import Painter
from zoo.pictures.of_runs import write_progress_pictures

SECONDS_BETWEEN_PICTURES = 30.0
STEPS_ASIDE = 256


@dataclass
class Totals:
    """Sums of logged terms, kept on the device: reading one costs a sync, and adding one to a sum a kernel.

    So a step's terms, one vector, are only put aside, and summed some hundred steps at a time: in float64 where there
    is such, so that a mean comes out alike wherever the sum was interrupted.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    aside: dict[tuple[str, ...], list[Tensor]] = field(default_factory=dict)

    def add(self, names: tuple[str, ...], values: Tensor) -> None:
        """Add one step's terms."""
        steps = self.aside.setdefault(names, [])
        steps.append(values)
        if len(steps) == STEPS_ASIDE:
            self._sum_up()

    def absorb(self, other: Totals) -> None:
        """Add the sums of a part, once it is over, to those of the whole."""
        other._sum_up()
        for key, total in other.sums.items():
            self._add_sum(key, total, other.counts[key])

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return each term's mean over steps and ranks. A collective, and a sync."""
        sums = self.over_ranks(accelerator)
        return {key: torch.tensor(total / self.counts[key]).float().item() for key, total in sums.items()}

    def over_ranks(self, accelerator: Accelerator) -> dict[str, float]:
        """Return each term's sum over the steps, the ranks' mean. A collective, and a sync."""
        self._sum_up()
        if not self.sums:
            return {}
        stacked = torch.stack(list(self.sums.values()))
        return dict(zip(self.sums, accelerator.reduce(stacked, "mean").tolist(), strict=True))

    def _sum_up(self) -> None:
        for keys, steps in self.aside.items():
            for key, total in zip(keys, torch.stack(steps).to(_widest(steps[0])).sum(0).unbind(), strict=True):
                self._add_sum(key, total, len(steps))
        self.aside = {}

    def _add_sum(self, key: str, total: Tensor, count: int) -> None:
        self.sums[key] = self.sums[key] + total if key in self.sums else total
        self.counts[key] = self.counts.get(key, 0) + count


def _widest(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


class Log:
    """The rows of `metrics.jsonl`, sent to the trackers and shown on the terminal as well.

    Attributes:
        passed: Terms since the loop was last interrupted, by whatever was due.
        window: Terms since they were last logged, up to that interruption.
        epoch: Terms since the epoch began, up to that interruption.
        seconds: Spent on training steps, without what is done between them.
        images: Trained on in that time.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.accelerator = run, run.config, run.accelerator
        self.passed, self.window, self.epoch = Totals(), Totals(), Totals()
        self.seconds, self.images = 0.0, 0
        self.painter: Painter | None = None

    @contextmanager
    def running(self, step: int) -> Iterator[None]:
        """Show a bar and let the clock run, from this step on."""
        shown = self.accelerator.is_main_process and (sys.stderr.isatty() or in_notebook())
        total = self.run.total_steps
        self.bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, disable=not shown)
        with self.bar:
            self.drawn_at = time.monotonic()
            self.start_clock()
            yield
        if self.painter is not None:
            self.painter.close()
            self.painter = None

    def start_clock(self) -> None:
        """Count the time from now on as training, until `interrupt`."""
        self.clock = time.perf_counter()

    def add(self, player: str, names: tuple[str, ...], values: Tensor) -> None:
        """Take up the terms of one pass of a player."""
        self.passed.add(names if player == "vae" else tuple(f"{player}/{name}" for name in names), values)

    def step_done(self) -> None:
        """Count a step."""
        self.images += self.config.batch_size
        self.bar.update()

    def interrupt(self) -> dict[str, float]:
        """Return the means of all terms since the last interruption, and stop the clock. A collective, and the sync."""
        means = self.passed.means(self.accelerator)
        self.seconds += time.perf_counter() - self.clock
        self.epoch.absorb(self.passed)
        self.window.absorb(self.passed)
        self.passed = Totals()
        return means

    def take_window(self) -> tuple[dict[str, float], int]:
        """Return the means of all terms since they were last logged, and over how many steps. A collective."""
        means, steps = self.window.means(self.accelerator), self.window.counts.get("loss", 0) // self.config.accumulate
        self.window = Totals()
        return means, steps

    def take_epoch(self) -> dict[str, float]:
        """Return the means of all terms of the epoch that is over. A collective."""
        means = self.epoch.means(self.accelerator)
        self.epoch = Totals()
        return means

    def write(self, row: dict[str, Any]) -> None:
        """Write a row, in which "step" is, to file, trackers and terminal."""
        row["images_per_second"] = self.images / self.seconds
        if not self.accelerator.is_main_process:
            return
        self.run.trackers.log({k: v for k, v in row.items() if k != "step"}, row["step"])
        append_line(self.run.out / METRICS_FILE, json.dumps(row))
        speed = f"{row['images_per_second']:,.0f} images/s"
        if "train/loss" in row:
            self.bar.set_postfix_str(f"loss {row['train/loss']:.6g}, {speed}")
        if self.bar.disable or "val/loss" in row:  # a bar moves; lines stay
            shown = {"loss": "train/loss", "epoch_loss": "train/epoch_loss", "val_loss": "val/loss"}
            numbers = [f"{name} {row[key]:.6g}" for name, key in shown.items() if key in row]
            where = f"step {row['step']:,}/{self.run.total_steps:,}  epoch {row['epoch']:.4g}"
            self.bar.write("  ".join([where, *numbers, speed]))
            sys.stdout.flush()

    def draw(self, model: BaseVAE, step: int) -> None:
        """Have it drawn how far the run has come: for trackers always, else now and then, in a process beside."""
        if not self.accelerator.is_main_process:
            return
        self.run.trackers.validated(model, self.run.data.val, step)
        if time.monotonic() - self.drawn_at > SECONDS_BETWEEN_PICTURES:
            self.painter = self.painter or Painter()
            write_progress_pictures(model, self.run.data.val, self.run.out, self.painter)
            self.drawn_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the epoch and the window, copies. A collective."""
        return {
            f"{name}_{what}": value
            for name, totals in (("epoch", self.epoch), ("window", self.window))
            for what, value in (("sums", totals.over_ranks(self.accelerator)), ("counts", dict(totals.counts)))
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what `state` returned."""
        device = self.accelerator.device
        for name in ("epoch", "window"):
            dtype = _widest(torch.empty(0, device=device))
            sums = {
                key: torch.tensor(total, dtype=dtype, device=device) for key, total in state[f"{name}_sums"].items()
            }
            setattr(self, name, Totals(sums, dict(state[f"{name}_counts"])))
