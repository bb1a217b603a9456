"""THE loop. It trains every variant, on one processor or many, and never asks which variant it has.

A run is a function of its config: the batch of a step, its noise, the learning rate and every schedule follow from
(seed, step) alone, so that a run that was killed and resumed ends bit for bit where the undisturbed one ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zoo import ranks
from zoo.base import BaseVAE
from zoo.data import augmented, batches
from zoo.engine.checkpoint import Checkpoints, load_state, recipe_of, snapshot, weights_of, write_weights
from zoo.engine.log import Log
from zoo.engine.optimizers import learning_rate, moments_of
from zoo.engine.provenance import plugin_digests
from zoo.engine.setup import Run
from zoo.engine.sharding import let_go, shard, share_out, share_out_moments, whole
from zoo.engine.step import Player, TrainStep, make_players, noise_seed, seed_noise
from zoo.engine.stopping import StopRequest
from zoo.engine.validation import mean_terms
from zoo.errors import Diverged, UserError
from zoo.files import MODEL_FILE
from zoo.weights import read_weights


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    epoch_ends: bool
    validate: bool
    save: bool


class Trainer:
    """Trains one run.

    Attributes:
        model: What is trained, on its device.
        train_step: The wrapped loss of all players.
        players: Who takes optimizer steps.
        average: The model's average (`ema`), or None.
        step: How many steps are done.
        best_val: The least validation loss so far.
        best_step: At which step it was.
        log: What the run says of itself.
        checkpoints: What it leaves to go on from.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.accelerator = run, run.config, run.accelerator
        # Kept, because Accelerate looks them up through several layers at each access.
        self.device = run.accelerator.device
        self.rank, self.world = run.accelerator.process_index, run.accelerator.num_processes
        self.model = run.model = _placed(run)
        step = TrainStep(self.model, self.config.data.dequantise)
        self.mesh = shard(step, self.device) if self.config.shard else None
        self.players = make_players(self.config, self.model, self.accelerator)
        self.train_step = _wrapped(run, step)
        self.average: AveragedModel | None = None
        if self.config.ema is not None:
            self.average = AveragedModel(self.model, multi_avg_fn=self._average)
        self.step, self.best_val, self.best_step = 0, math.inf, 0
        self.log = Log(run)
        self.checkpoints = Checkpoints(run.out, self.config.keep)

    @property
    def evaluated(self) -> BaseVAE:
        """The model whose numbers count: the average where there is one."""
        return self.model if self.average is None else cast(BaseVAE, self.average.module)

    # ---- the loop

    def fit(self) -> int:
        """Take the remaining steps.

        Returns:
            The signal that ended it early, or 0.

        Raises:
            Diverged: if the loss stops being finite.
        """
        config, total = self.config, self.step if self.given_up else self.run.total_steps
        stream = batches(self.run.data.train, config.batch_size, config.seed, self.step, total, self.rank, self.world)
        self._to_training_mode()
        stopping = 0
        with StopRequest(self.accelerator) as stop, self.log.running(self.step):
            next_due = self._next_due()
            for images, labels in stream:
                self.take_step(images, labels)
                self.step += 1
                self.log.step_done()
                stopping = stop.agreed(self.step)
                if self.step == next_due or stopping:
                    self._between_steps(self._due(self.step), bool(stopping))
                    next_due = self._next_due()
                    if self.given_up:
                        break
                if stopping:
                    break
        self.checkpoints.finish()
        return stopping if self.step < total and not self.given_up else 0

    @property
    def given_up(self) -> bool:
        """Whether `patience` is over: by what a checkpoint keeps, so that a resumed run stops where it would have."""
        since = max(self._epochs_done(self.best_step), self.config.warmup_epochs or 0)
        return self.config.patience is not None and self._epochs_done(self.step) - since >= self.config.patience

    def take_step(self, images: Tensor, labels: Tensor | None) -> None:
        """Let every player whose turn it is take one optimizer step on this rank's share of a batch.

        Args:
            images: uint8 `[B / ranks, C, H, W]`.
            labels: `[B / ranks]` or `[B / ranks, A]`, or None.
        """
        config = self.config
        self.model.progress.fill_(self.step / max(1, self.run.total_steps - 1))
        micro_batches = self._micro_batches(images, labels)
        for player in self.players:
            if not self.model.plays(player.name, self.step):
                continue
            with self._turn(player):
                for micro, (pixels, y) in enumerate(micro_batches):
                    seed_noise(noise_seed(config.seed, self.step, player.number, micro, self.rank), self.device)
                    pixels = augmented(pixels, config.data.flip, config.data.random_crop, self.run.memory_format)
                    with self._summing_up(last=micro == config.accumulate - 1):
                        loss, names, values = self.train_step(pixels, y, player.name)
                        self._backward(loss)
                    self.log.add(player.name, names, values)
            self.model.after_turn(player.name)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _micro_batches(self, images: Tensor, labels: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        size = self.run.images_per_rank
        parts = images.to(self.device, non_blocking=True).split(size)
        if labels is None:
            return [(part, None) for part in parts]
        return list(zip(parts, labels.to(self.device, non_blocking=True).split(size), strict=True))

    @contextmanager
    def _turn(self, player: Player) -> Iterator[None]:
        """Within it, no other player's parameters take gradients; at its end the player takes its step."""
        if len(self.players) > 1:
            for other in self.players:
                for parameter in other.parameters:
                    parameter.requires_grad_(other is player)
        yield
        if self.config.clip is not None:
            self.accelerator.clip_grad_norm_(player.parameters, self.config.clip)
        player.step(self._rate(player, self.step))

    def _rate(self, player: Player, step: int) -> float:
        return learning_rate(self.config, player.lr, step, self.run.total_steps, self._epochs_done(step))

    def _summing_up(self, last: bool) -> AbstractContextManager[Any]:
        """Within it, gradients are added up on each rank; in the last micro-batch, averaged over the ranks."""
        return nullcontext() if last else self.accelerator.no_sync(self.train_step)

    def _backward(self, loss: Tensor) -> None:
        loss = loss / self.config.accumulate if self.config.accumulate > 1 else loss
        if self.accelerator.scaler is None:
            loss.backward()
        else:
            self.accelerator.backward(loss)

    @torch.no_grad()
    def _average(self, averaged: Any, current: Any, _: Any) -> None:
        """Move the averaged weights towards the current ones: fast at first, or they'd stay near the untrained ones."""
        assert self.config.ema is not None
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    # ---- what is done between steps

    def _due(self, step: int) -> Due:
        config, last = self.config, step == self.run.total_steps
        epoch_ends = self._epochs_done(step) > self._epochs_done(step - 1)
        checkpoint = _every(config.checkpoint_every, step) if config.checkpoint_every else epoch_ends
        return Due(
            log=last or _every(config.log_every, step),
            epoch_ends=epoch_ends,
            validate=last or (_every(config.eval_every, step) if config.eval_every else epoch_ends),
            save=last or checkpoint,
        )

    def _next_due(self) -> int:
        """Return the next step with anything but a step to do: looked up ahead, it costs the steps nothing."""
        ahead = range(self.step + 1, self.run.total_steps)
        return next((step for step in ahead if any(self._due(step))), self.run.total_steps)

    def _epochs_done(self, step: int) -> int:
        """How many times the images of the training set have all been seen."""
        return step * self.config.batch_size // len(self.run.data.train)

    def _between_steps(self, due: Due, stopping: bool) -> None:
        """Log, and validate, draw and save where that is due."""
        new_best = False
        with whole(self.train_step):
            self.check_finite(self.log.interrupt(), saved=due.validate or due.save or stopping)
            row: dict[str, Any] = {}
            if due.log:
                row |= self._logged()
            if due.epoch_ends:
                row["epoch"] = self._epochs_done(self.step)
                row |= {f"train/epoch_{name}": value for name, value in self.log.take_epoch().items()}
            if due.validate:
                row |= self._validate()
                new_best = row["val/loss"] < self.best_val
                if new_best:
                    self.best_val, self.best_step = row["val/loss"], self.step
            if row:
                epoch = self.step * self.config.batch_size / len(self.run.data.train)
                self.log.write({"step": self.step, "epoch": epoch} | row)
            if due.validate:
                self.log.draw(self.evaluated, self.step)
                self._to_training_mode()
        if due.save or new_best or stopping or self.given_up:
            self.save(new_best)
        self.log.start_clock()

    def _logged(self) -> dict[str, Any]:
        """Return the terms' means over the window, which says its length where that is not `log_every`."""
        terms, steps = self.log.take_window()
        row: dict[str, Any] = {f"train/{name}": value for name, value in terms.items()}
        if steps != self.config.log_every:
            row["window"] = steps
        return row | {"lr": self._rate(self.players[0], self.step - 1)}

    def _to_training_mode(self) -> None:
        """Train what is not frozen: a frozen module stays as it is, statistics of its BatchNorm and all."""
        self.model.train()
        for name in self.config.freeze:
            self.model.get_submodule(name).eval()

    def check_finite(self, terms: dict[str, float], saved: bool) -> None:
        """Stop a run that diverged; `saved`: whether the weights are about to be saved or measured, so must be finite.

        Raises:
            Diverged: if a term, or a parameter, is not finite.
        """
        bad = next((name for name, value in terms.items() if not math.isfinite(value)), None)
        if bad is None and not (saved and not _finite(self.model)):
            return
        self.checkpoints.finish()
        steps = self.checkpoints.steps()
        kept = f"the last good checkpoint is {self.checkpoints.path(steps[-1])}" if steps else "none was saved yet"
        what = f"train/{bad} became {terms[bad]}" if bad is not None else "a parameter stopped being finite"
        raise Diverged(f"{what} by step {self.step}; {kept}. A lower lr, a clip, or mixed_precision=no may help")

    def _validate(self) -> dict[str, Any]:
        if self.world > 1:
            for buffer in self.evaluated.buffers():  # of BatchNorm, which on a CPU keeps statistics of each rank's own
                buffer.copy_(ranks.from_first(buffer))
        terms = mean_terms(self.evaluated, self.run.data.val, self.accelerator, self.config.eval_batch_size)
        return {f"val/{name}": value for name, value in terms.items()}

    # ---- checkpoints

    def save(self, best: bool) -> None:
        """Write a checkpoint while training goes on; `best`: whether no earlier validation loss was lower."""
        # The epoch's sums are a collective, so every rank takes part before the main process writes.
        progress = {"best_val": self.best_val, "best_step": self.best_step} | self.log.state()
        if not (self.accelerator.is_main_process or self.config.shard):
            return
        state: dict[str, Any] = {player.name: player.optimizer.state_dict() for player in self.players}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        # No tensor is computed with in the writing thread: torch would give it a pool of threads of its own, and while
        # there are more threads than cores, OpenMP's no longer wait awake: every later step takes a fifth longer.
        self.checkpoints.finish()
        weights, state, image, config = weights_of(self.model), snapshot(state), self.model.image, self.config
        plugins = plugin_digests(config.plugins)
        if self.accelerator.is_main_process:
            self.checkpoints.save_meanwhile(
                self.step,
                lambda path: write_weights(path, weights, image, config.model, plugins),
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
        if self.accelerator.is_main_process:
            self.checkpoints.point(path)
        self._load_weights(path)
        state = load_state(path)
        try:
            for player in self.players:
                moments = moments_of(state[player.name], player.parameters, player.optimizer)
                player.optimizer.load_state_dict(
                    player.optimizer.state_dict() | {"state": share_out_moments(moments, player.parameters)}
                )
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, UserError) else type(error).__name__
            raise UserError(f"the optimizers' state in {path} is of another model ({reason})") from None
        self.step, self.best_val = progress["step"], progress["best_val"]
        self.best_step = progress.get("best_step", self.step)  # of a checkpoint from before there was patience
        self.log.load_state(progress)
        return True

    def take_best(self) -> None:
        """Go back to the weights of the least validation loss. A collective.

        Raises:
            UserError: if their checkpoint is gone.
        """
        self.accelerator.wait_for_everyone()  # the first process may still have been writing them
        path = self.checkpoints.path(self.best_step)
        if not (path / MODEL_FILE).is_file():
            raise UserError(f"the best weights by validation loss were in {path}, and are gone: set evaluate_on=last")
        self._load_weights(path)
        if self.average is not None:
            self.average.load_state_dict(load_state(path)["average"])
        self.evaluated.progress.fill_(1.0)  # as it was validated

    def _load_weights(self, checkpoint: Path) -> None:
        path = checkpoint / MODEL_FILE
        now, weights = self.model.state_dict(), read_weights(path, recipe_of(path).get("digest", ""))
        kinds = ({name: (t.shape, t.dtype) for name, t in tensors.items()} for tensors in (now, weights))
        if next(kinds) != next(kinds):
            raise UserError(f"the weights in {path} do not fit the variant {self.run.config.model.name!r} as it is now")
        self.model.load_state_dict({name: share_out(tensor, now[name]) for name, tensor in weights.items()})

    def close(self) -> None:
        """End trackers and process group; the trainer takes no more steps.

        The group's threads must be gone before the interpreter is: one that then drops a tensor aborts the process
        (pytorch/pytorch#190489). They go with the group's last owner: the wrapped model, or FSDP's hooks on the model.
        """
        self.checkpoints.close()
        self.accelerator.wait_for_everyone()
        del self.train_step
        if self.mesh is not None:
            let_go(self.mesh)
            del self.model, self.run.model
        self.accelerator.end_training()
        self.accelerator.free_memory()


def _placed(run: Run) -> BaseVAE:
    """Bring the model to its device, in its memory layout; over several GPUs with one BatchNorm for all."""
    device, model = run.accelerator.device, run.model
    if run.accelerator.num_processes > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(device).to(memory_format=run.memory_format)


def _wrapped(run: Run, step: TrainStep) -> nn.Module:
    """Add autocast, the averaging of gradients over ranks, and compilation."""
    accelerator = run.accelerator
    assert accelerator.ddp_handler is not None
    # A player's turn leaves the other players' parameters without a gradient.
    accelerator.ddp_handler.find_unused_parameters = len(step.model.players) > 1
    # What is shared out already needs no wrapper that averages gradients: `evaluation_mode` adds autocast alone.
    wrapped = accelerator.prepare_model(step, evaluation_mode=run.config.shard)
    return cast(nn.Module, torch.compile(wrapped)) if run.config.compile else wrapped


def _finite(model: BaseVAE) -> bool:
    extremes = [torch.stack(p.detach().aminmax()) for p in model.parameters()]  # a tenth of isfinite's time
    return bool(torch.stack(extremes).isfinite().all())


def _every(steps: int | None, step: int) -> bool:
    return steps is not None and step % steps == 0
