"""THE loop. It trains every variant, on one processor or many, and never asks which variant it has.

A run is a function of its config: the batch of a step, its noise, the learning rate and every schedule follow from
(seed, step) alone, so that a run that was killed and resumed ends bit for bit where the undisturbed one ends.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from zoo.base import BaseVAE, Batch
from zoo.checkpoint import MODEL_FILE, Checkpoints, load, load_state, save_model
from zoo.config import Config, load_config
from zoo.data import Data, batches, build_data, mirror, to_float
from zoo.errors import Diverged, UserError
from zoo.evaluate import (
    METRICS_FILE,
    evaluate_terms,
    provenance,
    read_results,
    score,
    write_pictures,
    write_progress_pictures,
    write_results,
)
from zoo.models import create, preferred_range
from zoo.registry import load_plugin

# What a resumed run may change: how long it goes on, and what it writes on the way.
MAY_CHANGE = {
    *("epochs", "steps", "out", "plugins", "device", "threads", "keep", "trackers", "wandb"),
    *("log_every", "eval_every", "checkpoint_every", "eval_batch_size", "benchmark"),
}
CONFIG_FILE = "config.yaml"
STOP_CHECK_EVERY = 10  # steps between agreeing, over several processes, on whether to stop
SECONDS_BETWEEN_PICTURES = 30.0


class TrainStep(nn.Module):
    """What is wrapped for training: DistributedDataParallel, autocast and compile see calls of `forward` alone."""

    def __init__(self, model: BaseVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Return the player's terms; only "loss" keeps its graph."""
        terms = self.model.loss(batch) if player == "vae" else getattr(self.model, f"{player}_loss")(batch)
        return {name: term if name == "loss" else term.detach() for name, term in terms.items()}


@dataclass
class Totals:
    """Sums of logged terms, kept on the device: reading one costs a sync, adding to one does not."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, prefix: str, terms: dict[str, Tensor]) -> None:
        """Add one step's terms."""
        for name, term in terms.items():
            key = prefix + name
            self.sums[key] = self.sums[key] + term.detach() if key in self.sums else term.detach().float()
            self.counts[key] = self.counts.get(key, 0) + 1

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return each term's mean over steps and ranks. A collective, and a sync."""
        if not self.sums:
            return {}
        stacked = torch.stack([total / self.counts[key] for key, total in self.sums.items()])
        return dict(zip(self.sums, accelerator.reduce(stacked, "mean").tolist(), strict=True))


@dataclass
class Run:
    """Everything a config is turned into."""

    config: Config
    out: Path
    data: Data
    model: BaseVAE
    accelerator: Accelerator
    precision: str
    total_steps: int

    @property
    def images_per_rank(self) -> int:
        """Images a process sees in one micro-batch."""
        return self.config.batch_size // (self.accelerator.num_processes * self.config.accumulate)

    def summary(self) -> str:
        """Say in a few lines what will be trained, on what, and how."""
        config, model = self.config, self.model
        parameters = sum(p.numel() for p in model.parameters())
        ranks = self.accelerator.num_processes
        return "\n".join(
            [
                f"model   {config.model.name} ({type(model).__name__}), {parameters:,} parameters",
                f"data    {self.data.describe()}, pixels in [{model.image.range[0]:g}, {model.image.range[1]:g}]",
                f"steps   {self.total_steps:,} of {config.batch_size} images"
                f" ({self.total_steps * config.batch_size / len(self.data.train):.4g} epochs)",
                f"device  {self.accelerator.device.type}, {ranks} process{'es' if ranks > 1 else ''}, "
                f"{torch.get_num_threads()} threads, precision {self.precision}",
                f"out     {self.out}",
            ]
        )


def set_up(config: Config) -> Run:
    """Turn a config into data, model and accelerator, checking that they go together.

    Raises:
        UserError: one sentence about the first thing that doesn't.
    """
    for plugin in config.plugins:
        load_plugin(plugin)
    options = config.model.options
    pixel_range = config.data.range or preferred_range(config.model.name, options)
    accelerator, precision = _accelerator(config)
    ranks = accelerator.num_processes
    if config.batch_size % (ranks * config.accumulate):
        raise UserError(
            f"batch_size {config.batch_size} can't be shared equally by {ranks} processes x {config.accumulate} "
            f"accumulated micro-batches: make it a multiple of {ranks * config.accumulate}"
        )
    with accelerator.main_process_first():  # the first process decodes or downloads, the others find it done
        data = build_data(config.data)
    torch.manual_seed(config.seed)
    model = create(config.model.name, data.spec(pixel_range), **options)
    config.data.range = pixel_range
    config.data.size = model.image.height
    if config.out is None:
        latent = f"_z{model.latent_dim}" if hasattr(model, "latent_dim") else ""
        name = f"{config.model.name}_{config.data.name}{latent}_s{model.image.height}_{config.seed}"
        config.out = Path("runs") / name
    total = config.steps or math.ceil(config.epochs * len(data.train) / config.batch_size)  # type: ignore[operator]
    return Run(config, config.out, data, model, accelerator, precision, total)


def _accelerator(config: Config) -> tuple[Accelerator, str]:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is 'cuda', but no CUDA device is available here: set device=auto or device=cpu")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device is 'mps', but no Apple GPU is available here: set device=auto or device=cpu")
    on_cpu = config.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    precision = config.mixed_precision
    if precision == "auto":
        precision = "bf16" if has_bf16(on_cpu) else "no"
    if precision == "fp16" and on_cpu:
        raise UserError("mixed_precision 'fp16' needs a GPU: set mixed_precision=bf16, auto or no")
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        log_with=list(config.trackers) or None,
        project_dir="runs",  # the run's own folder is known only later: see _start_trackers
        kwargs_handlers=[DistributedDataParallelKwargs()],
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(config.threads or max(1, cores // ranks_here))  # torchrun would leave each process one
    return accelerator, precision


def has_bf16(on_cpu: bool) -> bool:
    """Say whether the processor multiplies bfloat16 in hardware."""
    if on_cpu:
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def noise_seed(seed: int, step: int, player: int, micro: int, rank: int) -> int:
    """Return the seed of a forward pass's noise: no two passes of a run share one."""
    key = f"{seed} {step} {player} {micro} {rank}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")


def learning_rate(config: Config, step: int, total: int) -> float:
    """Return the rate of a step (from 0): a linear warm-up, then constant, or to zero along a line or half a cosine."""
    if step < config.lr_warmup:
        return config.lr * (step + 1) / config.lr_warmup
    done = (step - config.lr_warmup) / max(1, total - config.lr_warmup)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done)}
    return config.lr * factor[config.lr_schedule]


def make_optimizer(config: Config, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build one player's optimizer."""
    settings = config.optimizer
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, weight_decay=settings.weight_decay)
    cls = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.name]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return cls(
        parameters,
        lr=config.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


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
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            self.model = run.model = nn.SyncBatchNorm.convert_sync_batchnorm(run.model)
        self.model.to(accelerator.device)
        assert accelerator.ddp_handler is not None
        # A player's turn leaves the other players' parameters without a gradient.
        accelerator.ddp_handler.find_unused_parameters = len(self.model.players) > 1
        self.parameters = {player: self.model.player_parameters(player) for player in self.model.players}
        optimizers = [make_optimizer(self.config, parameters) for parameters in self.parameters.values()]
        self.train_step, *prepared = accelerator.prepare(TrainStep(self.model), *optimizers)
        self.optimizers: dict[str, AcceleratedOptimizer] = dict(zip(self.model.players, prepared, strict=True))
        self.average: AveragedModel | None = None
        if self.config.ema is not None:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema))
        self.checkpoints = Checkpoints(run.out, self.config.keep)
        self.step = 0
        self.best_val = math.inf
        self.window, self.epoch = Totals(), Totals()
        self.train_seconds, self.images_done = 0.0, 0
        self._pictures_at = -math.inf

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
            accelerator.process_index,
            accelerator.num_processes,
        )
        self.model.train()
        with StopRequest() as stop, bar:
            clock = time.perf_counter()
            for images, labels in stream:
                self._take_step(images, labels)
                self.step += 1
                self.images_done += config.batch_size
                bar.update()

                last = self.step == run.total_steps
                epoch_ends = self.epochs_done(self.step) > self.epochs_done(self.step - 1)
                log = self.step % config.log_every == 0 or last
                validate = epoch_ends or last or _due(self.step, config.eval_every)
                every = config.checkpoint_every
                save = last or (_due(self.step, every) if every else epoch_ends)
                stopping = self._agree_to_stop(stop)
                if not (log or validate or save or stopping):
                    continue

                row = self._window_row()  # the sync
                self.train_seconds += time.perf_counter() - clock
                row["images_per_second"] = self.images_done / self.train_seconds
                new_best = False
                if validate:
                    row |= self._validate(epoch_ends)
                    new_best = row["val/loss"] < self.best_val
                    self.best_val = min(self.best_val, row["val/loss"])
                self._log(row, bar)
                if validate:
                    self._draw()
                if save or new_best or stopping:
                    self._save(new_best)
                if stopping and not last:
                    return stopping
                clock = time.perf_counter()
        return 0

    def _take_step(self, images: Tensor, labels: Tensor | None) -> None:
        config, accelerator = self.config, self.accelerator
        total, rank = self.run.total_steps, accelerator.process_index
        lr = learning_rate(config, self.step, total)
        self.model.progress.fill_(self.step / max(1, total - 1))
        images = images.to(accelerator.device, non_blocking=True)
        labels = None if labels is None else labels.to(accelerator.device, non_blocking=True)
        for index, player in enumerate(self.model.players):
            if not self.model.plays(player, self.step):
                continue
            for other, parameters in self.parameters.items() if len(self.parameters) > 1 else ():
                for parameter in parameters:
                    parameter.requires_grad_(other == player)
            optimizer = self.optimizers[player]
            for micro in range(config.accumulate):
                part = slice(micro * self.run.images_per_rank, (micro + 1) * self.run.images_per_rank)
                torch.manual_seed(noise_seed(config.seed, self.step, index, micro, rank))
                x = to_float(images[part], self.model.image.range)
                batch = Batch(mirror(x) if config.data.flip else x, None if labels is None else labels[part])
                syncing = micro == config.accumulate - 1
                with nullcontext() if syncing else accelerator.no_sync(self.train_step):
                    terms = self.train_step(batch, player)
                    accelerator.backward(terms["loss"] / config.accumulate)
                prefix = "" if player == "vae" else f"{player}/"
                self.window.add(prefix, terms)
                self.epoch.add(prefix, terms)
            if config.clip is not None:
                accelerator.clip_grad_norm_(self.parameters[player], config.clip)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _agree_to_stop(self, stop: StopRequest) -> int:
        """Return the signal received, the same on every rank, so that all of them stop at one step."""
        if self.accelerator.num_processes == 1:
            return stop.signal
        if self.step % STOP_CHECK_EVERY:
            return 0
        flag = torch.tensor(stop.signal, device=self.accelerator.device)
        return int(self.accelerator.gather(flag).max())

    def _window_row(self) -> dict[str, Any]:
        terms = self.window.means(self.accelerator)
        self.window = Totals()
        bad = next((name for name, value in terms.items() if not math.isfinite(value)), None)
        finite = torch.stack([p.isfinite().all() for p in self.model.parameters()]).all()
        if bad is not None or not finite:
            saved = self.checkpoints.steps()
            kept = f"the last good checkpoint is {self.checkpoints.path(saved[-1])}" if saved else "none was saved yet"
            what = f"train/{bad} became {terms[bad]}" if bad is not None else "a parameter stopped being finite"
            raise Diverged(f"{what} by step {self.step}; {kept}. A lower lr, a clip, or mixed_precision=no may help")
        row = {"step": self.step, "epoch": self.step * self.config.batch_size / len(self.run.data.train)}
        lr = learning_rate(self.config, self.step - 1, self.run.total_steps)
        return row | {f"train/{name}": value for name, value in terms.items()} | {"lr": lr}

    def _validate(self, epoch_ends: bool) -> dict[str, Any]:
        row: dict[str, Any] = {}
        if epoch_ends:
            row["epoch"] = self.epochs_done(self.step)
            row |= {f"train/epoch_{name}": value for name, value in self.epoch.means(self.accelerator).items()}
            self.epoch = Totals()
        config, data = self.config, self.run.data
        terms = evaluate_terms(self.evaluated, data.val, self.accelerator, config.eval_batch_size)
        self.model.train()
        return row | {f"val/{name}": value for name, value in terms.items()}

    def _draw(self) -> None:
        """Draw how far the run has come, now and then."""
        if self.accelerator.is_main_process and time.monotonic() - self._pictures_at > SECONDS_BETWEEN_PICTURES:
            write_progress_pictures(self.evaluated, self.run.data.val, self.run.out)
            self._pictures_at = time.monotonic()
            self.model.train()

    def _log(self, row: dict[str, Any], bar: tqdm[Any]) -> None:
        self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=self.step)
        if not self.accelerator.is_main_process:
            return
        with (self.run.out / METRICS_FILE).open("a") as file:
            file.write(json.dumps(row) + "\n")
        speed = f"{row['images_per_second']:.0f}"
        if "train/loss" in row:
            bar.set_postfix(loss=f"{row['train/loss']:.5g}", images_s=speed)
        if bar.disable:  # no terminal: lines instead of a bar
            shown = {"loss": "train/loss", "epoch_loss": "train/epoch_loss", "val_loss": "val/loss"}
            numbers = [f"{name} {row[key]:.6g}" for name, key in shown.items() if key in row]
            where = f"step {self.step:,}/{self.run.total_steps:,}  epoch {row['epoch']:.4g}"
            print("  ".join([where, *numbers, f"{speed} images/s"]), flush=True)

    def _save(self, best: bool) -> None:
        # The epoch's sums are a collective, so every rank takes part before the main process writes.
        progress = {
            "best_val": self.best_val,
            "epoch_means": self.epoch.means(self.accelerator),
            "epoch_counts": self.epoch.counts,
        }
        if not self.accelerator.is_main_process:
            return
        state: dict[str, Any] = {player: optimizer.state_dict() for player, optimizer in self.optimizers.items()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        self.checkpoints.save(
            self.step,
            lambda path: save_model(path, self.model, self.config.model, self.config.plugins),
            state,
            progress,
            best,
        )

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
        self.model.load_state_dict(load_file(path / MODEL_FILE))
        state = load_state(path)
        for player, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[player])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best_val = progress["step"], progress["best_val"]
        device = self.accelerator.device
        counts = progress["epoch_counts"]
        means = progress["epoch_means"]
        self.epoch = Totals({k: torch.tensor(means[k] * counts[k], device=device) for k in means}, counts)
        return True


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def train(config: Config, resume: bool = False, dry_run: bool = False) -> int:
    """Train a run, evaluate it, and leave its folder.

    Args:
        config: From `load_config`; its open ends (out, data.range, data.size) are filled in.
        resume: Go on from the run's newest checkpoint, if it has one.
        dry_run: Take two steps, print the summary, and write nothing.

    Returns:
        0, or the signal that ended training early.

    Raises:
        UserError: if the config can't be run, or the folder holds another run.
        Diverged: if the loss stops being finite.
    """
    run = set_up(config)
    accelerator, main = run.accelerator, run.accelerator.is_main_process
    if dry_run:
        return _dry_run(run)
    _check_folder(run, resume)
    accelerator.wait_for_everyone()
    if main:
        run.out.mkdir(parents=True, exist_ok=True)
        (run.out / CONFIG_FILE).write_text(yaml.safe_dump(config.dump(), sort_keys=False))
        print(run.summary(), flush=True)
    trainer = Trainer(run)
    resumed = resume and trainer.resume()
    if main:
        _truncate_metrics(run.out, trainer.step)
        if resume:
            print(f"resumed at step {trainer.step:,}" if resumed else "no checkpoint yet: starting from the beginning")
    _start_trackers(run)
    stopped_by = trainer.fit()
    if stopped_by:
        if main:
            again = command() if "--resume" in sys.argv else f"{command()} --resume"
            print(f"stopped at step {trainer.step:,}, checkpoint written; to go on: {again}", flush=True)
    else:
        finish(run, trainer)
    accelerator.end_training()  # closes the trackers and the process group
    return stopped_by


def _dry_run(run: Run) -> int:
    if run.accelerator.is_main_process:
        print(run.summary(), flush=True)
    trainer = Trainer(run)
    stream = batches(
        run.data.train,
        run.config.batch_size,
        run.config.seed,
        0,
        2,
        run.accelerator.process_index,
        run.accelerator.num_processes,
    )
    for images, labels in stream:
        trainer.model.train()
        trainer._take_step(images, labels)
        trainer.step += 1
    loss = trainer.window.means(run.accelerator)["loss"]
    if run.accelerator.is_main_process:
        print(f"dry run: two steps taken, mean loss {loss:.6g}; nothing written")
    return 0


def _check_folder(run: Run, resume: bool) -> None:
    file = run.out / CONFIG_FILE
    if not file.is_file():
        return
    if not resume:
        raise UserError(f"{run.out} already holds a run: add --resume to go on with it, or choose another out=")
    before, now = yaml.safe_load(file.read_text()), run.config.dump()
    changed = [key for key in now if key not in MAY_CHANGE and now[key] != before.get(key)]
    if changed:
        key = changed[0]
        raise UserError(
            f"{run.out} can't be resumed with another {key}: it was {before.get(key)} and is now {now[key]}; "
            "choose another out= for a new run"
        )


def _truncate_metrics(out: Path, step: int) -> None:
    """Drop the rows that lie after `step`: a run that was killed wrote them, and the resumed one will again."""
    path = out / METRICS_FILE
    if path.is_file():
        rows = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        path.write_text("".join(f"{row}\n" for row in rows))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the killed process was in the middle of a line
        return math.inf


def _start_trackers(run: Run) -> None:
    config = run.config
    if not config.trackers:
        return
    started = [str(tracker) for tracker in run.accelerator.log_with]
    absent = [name for name in config.trackers if name not in started]  # Accelerate would go on without them
    if absent:
        raise UserError(f"the tracker {absent[0]!r} is not installed: pip install {absent[0]}, or set trackers=[]")
    run.accelerator.project_configuration.logging_dir = str(run.out)
    settings = {"name": run.out.name, "dir": str(run.out), "mode": config.wandb.mode}
    flat = {key: value if isinstance(value, int | float | str) else str(value) for key, value in config.dump().items()}
    try:
        run.accelerator.init_trackers(config.wandb.project, flat, {"wandb": settings})
    except Exception as error:  # wandb has many ways to fail, all of which mean that the run would not be tracked
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"the trackers {', '.join(config.trackers)} can't start: {reason}; set wandb.mode=offline, or trackers=[]"
        ) from None


def finish(run: Run, trainer: Trainer) -> None:
    """Save the final weights, measure them on the test split, and draw the pictures."""
    model, config, main = trainer.evaluated, run.config, run.accelerator.is_main_process
    if main:
        save_model(run.out / MODEL_FILE, model, config.model, config.plugins)
    metrics = score(model, run.data, config, run.accelerator)
    if not main:
        return
    results = provenance(config, model) | {
        "steps": trainer.step,
        "epochs": trainer.step * config.batch_size / len(run.data.train),
        "batch_size": config.batch_size,
        "weights": "final" if trainer.average is None else "final, averaged (ema)",
        "data": run.data.describe(),
        "device": run.accelerator.device.type,
        "processes": run.accelerator.num_processes,
        "precision": run.precision,
        "images_per_second": trainer.images_done / trainer.train_seconds if trainer.train_seconds else None,
        "command": command(),
        "metrics": metrics,
    }
    write_results(run.out, results)
    write_pictures(model, run.data, run.out)
    print(report(run.out))


def evaluate_run(out: Path, overrides: list[str]) -> None:
    """Measure a trained run again, as training does at its end.

    Raises:
        UserError: if the folder holds no run.
    """
    if not (out / CONFIG_FILE).is_file():
        raise UserError(f"{out} holds no run: there is no {CONFIG_FILE} in it")
    config = load_config(out / CONFIG_FILE, overrides)
    accelerator, _ = _accelerator(config)
    model = load(out, accelerator.device)
    data = build_data(config.data)
    metrics = score(model, data, config, accelerator)
    if accelerator.is_main_process:
        write_results(out, provenance(config, model) | {"metrics": metrics})
        write_pictures(model, data, out)
        print(report(out))


def report(out: Path) -> str:
    """Say in a few lines what a run's `results.json` holds."""
    rows = read_results(out)["metrics"]
    width = max(len(name) for name in rows)
    lines = [f"  {name:<{width}}  {row['value']:.6g} {row['unit']}" for name, row in rows.items()]
    return "\n".join([f"on {next(iter(rows.values()))['n']:,} test images:", *lines, f"pictures and results in {out}"])


def command() -> str:
    """Return the command line that started this process, as it would be typed."""
    return shlex.join(["python", *sys.argv])
