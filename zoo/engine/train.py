"""THE loop. It trains every variant, on one processor or many, and never asks which variant it has.

A run is a function of its config: the batch of a step, its noise, the learning rate and every schedule follow from
(seed, step) alone, so that a run that was killed and resumed ends bit for bit where the undisturbed one ends.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple, cast

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from zoo import ranks
from zoo.base import BaseVAE, Batch
from zoo.data import batches, dequantise, mirror, random_crop, to_float
from zoo.engine.checkpoint import Checkpoints, load_state, snapshot, weights_of, write_weights
from zoo.engine.optimizers import Stepper, learning_rate, make_optimizer
from zoo.engine.setup import Run
from zoo.engine.sharding import let_go, shard, share_out, share_out_moments, whole
from zoo.engine.validation import mean_terms
from zoo.errors import Diverged, UserError
from zoo.files import METRICS_FILE, MODEL_FILE
from zoo.pictures.drawing import Painter
from zoo.pictures.of_runs import write_progress_pictures

STOP_CHECK_EVERY = 10  # steps between agreeing, over several processes, on whether to stop
SECONDS_BETWEEN_PICTURES = 30.0
STEPS_ASIDE = 256


class TrainStep(nn.Module):
    """What is wrapped for training: DistributedDataParallel, autocast and compile see calls of `forward` alone."""

    def __init__(self, model: BaseVAE, dequantised: bool = False) -> None:
        super().__init__()
        self.model, self.scale = model, dequantise if dequantised else to_float

    def forward(self, pixels: Tensor, labels: Tensor | None, player: str) -> tuple[Tensor, tuple[str, ...], Tensor]:
        """Return the player's loss, the names of its terms, and their values, which have no gradient.

        The values are one vector, a copy: a term may be a buffer, and one that equals the loss would, in a compiled
        step, be merged with it, and the loss would lose its gradient (torch 2.14).
        """
        batch = Batch(self.scale(pixels, self.model.image.range), labels)
        terms = self.model.loss(batch) if player == "vae" else getattr(self.model, f"{player}_loss")(batch)
        return terms["loss"], tuple(terms), torch.stack([term.detach() for term in terms.values()])


@dataclass
class Totals:
    """Sums of logged terms, kept on the device: reading one costs a sync, and adding one to a sum a kernel.

    So a step's terms, one vector, are only put aside, and summed some hundred steps at a time.
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
        self._sum_up()
        if not self.sums:
            return {}
        stacked = torch.stack([total / self.counts[key] for key, total in self.sums.items()])
        return dict(zip(self.sums, accelerator.reduce(stacked, "mean").tolist(), strict=True))

    def _sum_up(self) -> None:
        for keys, steps in self.aside.items():
            for key, total in zip(keys, torch.stack(steps).float().sum(0).unbind(), strict=True):
                self._add_sum(key, total, len(steps))
        self.aside = {}

    def _add_sum(self, key: str, total: Tensor, count: int) -> None:
        self.sums[key] = self.sums[key] + total if key in self.sums else total
        self.counts[key] = self.counts.get(key, 0) + count


def noise_seed(seed: int, step: int, player: int, micro: int, rank: int) -> int:
    """Return the seed of a forward pass's noise: no two passes of a run share one."""
    key = f"{seed} {step} {player} {micro} {rank}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")


def seed_noise(seed: int, device: torch.device) -> None:
    """Seed the generators that a model on `device` draws from.

    `torch.manual_seed` seeds every kind of device, and where one is not in use yet, it keeps a note of who asked for
    that, at each call.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    epoch_ends: bool
    validate: bool
    save: bool


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a flag, read between steps; a second one kills as usual."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> StopRequest:
        self._before = {s: signal.signal(s, self._set) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self.__exit__()


class Trainer:
    """Trains one run: its players' optimizers, its average, its log and its checkpoints."""

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.accelerator, self.model = run, run.config, run.accelerator, run.model
        accelerator = self.accelerator
        # Kept, because Accelerate looks them up through several layers at each access.
        self.device, self.rank, self.world = accelerator.device, accelerator.process_index, accelerator.num_processes
        if self.world > 1 and self.device.type == "cuda":
            self.model = run.model = nn.SyncBatchNorm.convert_sync_batchnorm(run.model)
        self.model.to(self.device).to(memory_format=run.memory_format)
        assert accelerator.ddp_handler is not None
        # A player's turn leaves the other players' parameters without a gradient.
        accelerator.ddp_handler.find_unused_parameters = len(self.model.players) > 1
        step = TrainStep(self.model, self.config.data.dequantise)
        self.mesh = shard(step, self.device) if self.config.shard else None
        self.parameters = {
            player: [p for p in self.model.player_parameters(player) if p.requires_grad]  # frozen parts stay frozen
            for player in self.model.players
        }
        optimizers = [make_optimizer(self.config, parameters) for parameters in self.parameters.values()]
        # What is shared out already needs no wrapper that averages gradients: `evaluation_mode` adds autocast alone.
        self.train_step = accelerator.prepare_model(step, evaluation_mode=self.config.shard)
        prepared = [accelerator.prepare_optimizer(optimizer) for optimizer in optimizers]
        if self.config.compile:
            self.train_step = torch.compile(self.train_step)
        # Accelerate's wrapper serves fp16's loss scaling; without it, it only costs time at each step: it looks for
        # installed packages and inspects signatures.
        self.scaled = accelerator.scaler is not None
        bare: list[torch.optim.Optimizer] = [p if self.scaled else p.optimizer for p in prepared]
        self.optimizers = dict(zip(self.model.players, bare, strict=True))
        self.steppers = {player: Stepper(optimizer) for player, optimizer in self.optimizers.items()}
        self.average: AveragedModel | None = None
        if self.config.ema is not None:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema))
        self.checkpoints = Checkpoints(run.out, self.config.keep)
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None
        self.step = 0
        self.best_val = math.inf
        self.window, self.epoch = Totals(), Totals()
        self.train_seconds, self.images_done = 0.0, 0
        self.painter: Painter | None = None
        self.drawn_at = math.inf

    @property
    def evaluated(self) -> BaseVAE:
        """The model whose numbers count: the average where there is one."""
        return self.model if self.average is None else cast(BaseVAE, self.average.module)

    def epochs_done(self, step: int) -> int:
        """How many times the images of the training set have all been seen."""
        return step * self.config.batch_size // len(self.run.data.train)

    def fit(self) -> int:
        """Take the remaining steps.

        Returns:
            The signal that ended it early, or 0.

        Raises:
            Diverged: if the loss stops being finite.
        """
        config, run, accelerator = self.config, self.run, self.accelerator
        main = accelerator.is_main_process
        bar = tqdm(
            total=run.total_steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            disable=not main or not sys.stderr.isatty(),
        )
        stream = batches(
            run.data.train,
            config.batch_size,
            config.seed,
            self.step,
            run.total_steps,
            self.rank,
            self.world,
        )
        self.model.train()
        self.drawn_at = time.monotonic()
        stopping = 0
        with StopRequest() as stop, bar:
            next_due = self._next_due()
            clock = time.perf_counter()
            for images, labels in stream:
                self._take_step(images, labels)
                self.step += 1
                self.images_done += config.batch_size
                bar.update()
                stopping = self._agree_to_stop(stop)
                if self.step < next_due and not stopping:
                    continue

                due = self._due(self.step)
                with whole(self.train_step):
                    row = self._window_row(keeps=due.validate or due.save or bool(stopping))  # the sync
                    self.train_seconds += time.perf_counter() - clock
                    row["images_per_second"] = self.images_done / self.train_seconds
                    new_best = False
                    if due.validate:
                        row |= self._validate(due.epoch_ends)
                        new_best = row["val/loss"] < self.best_val
                        self.best_val = min(self.best_val, row["val/loss"])
                    self._log(row, bar)
                    if due.validate:
                        self._draw()
                if due.save or new_best or stopping:
                    self._save(new_best)
                if stopping:
                    break
                next_due = self._next_due()
                clock = time.perf_counter()
        self._finish_writing()
        if self.painter is not None:
            self.painter.close()
            self.painter = None
        return stopping if self.step < run.total_steps else 0

    def _due(self, step: int) -> Due:
        config, last = self.config, step == self.run.total_steps
        epoch_ends = self.epochs_done(step) > self.epochs_done(step - 1)
        checkpoint = _every(config.checkpoint_every, step) if config.checkpoint_every else epoch_ends
        return Due(
            log=last or _every(config.log_every, step),
            epoch_ends=epoch_ends,
            validate=last or epoch_ends or _every(config.eval_every, step),
            save=last or checkpoint,
        )

    def _next_due(self) -> int:
        """Return the next step with anything but a step to do: looked up ahead, it costs the steps nothing."""
        ahead = range(self.step + 1, self.run.total_steps)
        return next((step for step in ahead if any(self._due(step))), self.run.total_steps)

    def _take_step(self, images: Tensor, labels: Tensor | None) -> None:
        config, accelerator = self.config, self.accelerator
        total = self.run.total_steps
        lr = learning_rate(config, self.step, total)
        self.model.progress.fill_(self.step / max(1, total - 1))
        images = images.to(self.device, non_blocking=True)
        labels = None if labels is None else labels.to(self.device, non_blocking=True)
        for index, player in enumerate(self.model.players):
            if not self.model.plays(player, self.step):
                continue
            for other, parameters in self.parameters.items() if len(self.parameters) > 1 else ():
                for parameter in parameters:
                    parameter.requires_grad_(other == player)
            for micro in range(config.accumulate):
                part = slice(micro * self.run.images_per_rank, (micro + 1) * self.run.images_per_rank)
                seed_noise(noise_seed(config.seed, self.step, index, micro, self.rank), self.device)
                pixels = images[part]
                pixels = mirror(pixels) if config.data.flip else pixels
                pixels = random_crop(pixels, config.data.random_crop) if config.data.random_crop else pixels
                pixels = pixels.contiguous(memory_format=self.run.memory_format)  # bytes: a quarter of floats
                syncing = micro == config.accumulate - 1
                with nullcontext() if syncing else accelerator.no_sync(self.train_step):
                    loss, names, values = self.train_step(pixels, None if labels is None else labels[part], player)
                    loss = loss / config.accumulate if config.accumulate > 1 else loss
                    accelerator.backward(loss) if self.scaled else loss.backward()
                self.window.add(names if player == "vae" else tuple(f"{player}/{name}" for name in names), values)
            if config.clip is not None:
                accelerator.clip_grad_norm_(self.parameters[player], config.clip)
            self.steppers[player](lr)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _agree_to_stop(self, stop: StopRequest) -> int:
        """Return the signal received, the same on every rank, so that all of them stop at one step."""
        if self.world == 1:
            return stop.signal
        if self.step % STOP_CHECK_EVERY:
            return 0
        flag = torch.tensor(stop.signal, device=self.device)
        return int(self.accelerator.gather(flag).max())

    def _window_row(self, keeps: bool) -> dict[str, Any]:
        """Return the row to log; `keeps`: whether the weights are about to be saved or measured, so must be finite."""
        terms = self.window.means(self.accelerator)
        self.epoch.absorb(self.window)
        self.window = Totals()
        bad = next((name for name, value in terms.items() if not math.isfinite(value)), None)
        if bad is not None or (keeps and not self._finite()):
            self._finish_writing()
            saved = self.checkpoints.steps()
            kept = f"the last good checkpoint is {self.checkpoints.path(saved[-1])}" if saved else "none was saved yet"
            what = f"train/{bad} became {terms[bad]}" if bad is not None else "a parameter stopped being finite"
            raise Diverged(f"{what} by step {self.step}; {kept}. A lower lr, a clip, or mixed_precision=no may help")
        row = {"step": self.step, "epoch": self.step * self.config.batch_size / len(self.run.data.train)}
        lr = learning_rate(self.config, self.step - 1, self.run.total_steps)
        return row | {f"train/{name}": value for name, value in terms.items()} | {"lr": lr}

    def _finite(self) -> bool:
        extremes = [torch.stack(p.detach().aminmax()) for p in self.model.parameters()]  # a tenth of isfinite's time
        return bool(torch.stack(extremes).isfinite().all())

    def _validate(self, epoch_ends: bool) -> dict[str, Any]:
        if self.world > 1:
            for buffer in self.evaluated.buffers():  # of BatchNorm, which on a CPU keeps statistics of each rank's own
                buffer.copy_(ranks.from_first(buffer))
        row: dict[str, Any] = {}
        if epoch_ends:
            row["epoch"] = self.epochs_done(self.step)
            row |= {f"train/epoch_{name}": value for name, value in self.epoch.means(self.accelerator).items()}
            self.epoch = Totals()
        config, data = self.config, self.run.data
        terms = mean_terms(self.evaluated, data.val, self.accelerator, config.eval_batch_size)
        self.model.train()
        return row | {f"val/{name}": value for name, value in terms.items()}

    def _draw(self) -> None:
        """Have it drawn how far the run has come, now and then, in a process beside this one."""
        if self.accelerator.is_main_process and time.monotonic() - self.drawn_at > SECONDS_BETWEEN_PICTURES:
            self.painter = self.painter or Painter()
            write_progress_pictures(self.evaluated, self.run.data.val, self.run.out, self.painter)
            self.drawn_at = time.monotonic()
            self.model.train()

    def _log(self, row: dict[str, Any], bar: tqdm[Any]) -> None:
        self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=self.step)
        if not self.accelerator.is_main_process:
            return
        with (self.run.out / METRICS_FILE).open("a") as file:
            file.write(json.dumps(row) + "\n")
        speed = f"{row['images_per_second']:,.0f} images/s"
        if "train/loss" in row:
            bar.set_postfix_str(f"loss {row['train/loss']:.6g}, {speed}")
        if bar.disable or "val/loss" in row:  # a bar moves; lines stay
            shown = {"loss": "train/loss", "epoch_loss": "train/epoch_loss", "val_loss": "val/loss"}
            numbers = [f"{name} {row[key]:.6g}" for name, key in shown.items() if key in row]
            where = f"step {self.step:,}/{self.run.total_steps:,}  epoch {row['epoch']:.4g}"
            bar.write("  ".join([where, *numbers, speed]))
            sys.stdout.flush()

    def _save(self, best: bool) -> None:
        # The epoch's sums are a collective, so every rank takes part before the main process writes.
        progress = {
            "best_val": self.best_val,
            "epoch_means": self.epoch.means(self.accelerator),
            "epoch_counts": self.epoch.counts,
        }
        if not (self.accelerator.is_main_process or self.config.shard):
            return
        state: dict[str, Any] = {player: optimizer.state_dict() for player, optimizer in self.optimizers.items()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        self._finish_writing()
        # No tensor is computed with in the writing thread: torch would give it a pool of threads of its own, and while
        # there are more threads than cores, OpenMP's no longer wait awake: every later step takes a fifth longer.
        weights, state, image, config = weights_of(self.model), snapshot(state), self.model.image, self.config
        if not self.accelerator.is_main_process:
            return
        self.writing = self.writer.submit(
            self.checkpoints.save,
            self.step,
            lambda path: write_weights(path, weights, image, config.model, config.plugins),
            state,
            progress,
            best,
        )

    def _finish_writing(self) -> None:
        """Wait for the checkpoint that is being written; what went wrong with it is raised here."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            writing.result()

    def close(self) -> None:
        """End trackers and process group; the trainer takes no more steps.

        The group's threads must be gone before the interpreter is: one that then drops a tensor aborts the process
        (pytorch/pytorch#190489). They go with the group's last owner: the wrapped model, or FSDP's hooks on the model.
        """
        self.writer.shutdown()
        self.accelerator.wait_for_everyone()
        del self.train_step
        if self.mesh is not None:
            let_go(self.mesh)
            del self.model, self.run.model
        self.accelerator.end_training()
        self.accelerator.free_memory()

    def resume(self) -> bool:
        """Go back to the newest undamaged checkpoint; return whether there was one.

        Raises:
            UserError: if there are checkpoints but all are damaged.
        """
        found = self.checkpoints.newest()
        if found is None:
            if self.checkpoints.steps():
                raise UserError(f"every checkpoint in {self.checkpoints.folder} is damaged: nothing to resume from")
            return False
        path, progress = found
        now = self.model.state_dict()
        weights = load_file(path / MODEL_FILE)
        self.model.load_state_dict({name: share_out(tensor, now[name]) for name, tensor in weights.items()})
        state = load_state(path)
        for player, optimizer in self.optimizers.items():
            optimizer.load_state_dict(share_out_moments(state[player], self.parameters[player]))
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best_val = progress["step"], progress["best_val"]
        counts = progress["epoch_counts"]
        means = progress["epoch_means"]
        self.epoch = Totals({k: torch.tensor(means[k] * counts[k], device=self.device) for k in means}, counts)
        return True


def _every(steps: int | None, step: int) -> bool:
    return steps is not None and step % steps == 0
