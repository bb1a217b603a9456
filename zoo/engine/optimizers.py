"""Optimizers, their learning rate, and how the loop steps them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.base import BaseVAE
from zoo.config import Config, MultistepSchedule, PlayerOptimizer
from zoo.errors import UserError

BURDA_STAGES = 8
# What each keeps of a parameter, beside how often it was updated.
MOMENTS: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.Adam: {"exp_avg", "exp_avg_sq"},
    torch.optim.AdamW: {"exp_avg", "exp_avg_sq"},
    torch.optim.Adamax: {"exp_avg", "exp_inf"},
    torch.optim.RMSprop: {"square_avg"},
    torch.optim.SGD: set(),
}


def player_settings(config: Config, model: BaseVAE | type[BaseVAE], player: str) -> PlayerOptimizer:
    """Return a player's settings, none of them open: its own in the config, else its paper's, else all players'."""
    common = config.optimizer.model_dump(include=PlayerOptimizer.model_fields.keys() - {"lr"}) | {"lr": config.lr}
    own = config.optimizer.players.get(player, PlayerOptimizer()).model_dump(exclude_none=True)
    return PlayerOptimizer(**common | model.optimizers.get(player, {}) | own)


def make_optimizer(settings: PlayerOptimizer, fused: bool, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build a player's optimizer from its settings, none of them open."""
    assert settings.lr is not None and settings.betas is not None and settings.eps is not None
    lr, decay = settings.lr, settings.weight_decay or 0.0
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, weight_decay=decay)
    if settings.name == "rmsprop":
        smoothing, centered = settings.betas[1], bool(settings.centered)
        return torch.optim.RMSprop(parameters, lr, smoothing, settings.eps, weight_decay=decay, centered=centered)
    if settings.name == "adamax":
        return torch.optim.Adamax(parameters, lr=lr, betas=settings.betas, eps=settings.eps, weight_decay=decay)
    cls = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    fused = fused and parameters[0].device.type in ("cpu", "cuda")
    return cls(parameters, lr=lr, betas=settings.betas, eps=settings.eps, weight_decay=decay, fused=fused)


def moments_of(saved: object, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """Return what an optimizer's `state_dict`, read from a file, holds of each parameter, by the parameter's number.

    Settings are not taken from there: they are the config's.

    Raises:
        UserError: if these are not the moments of these parameters; a kernel would write wherever they are too small.
    """
    state = saved.get("state") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not set(state) <= set(range(len(parameters))):
        raise UserError("there is no state for each parameter")
    names = MOMENTS[type(optimizer)] | ({"grad_avg"} if optimizer.defaults.get("centered") else set())
    for number, entries in state.items():
        if not isinstance(entries, dict) or set(entries) - {"step", "momentum_buffer"} != names:
            raise UserError(f"the state of parameter {number} is not {', '.join(sorted(names))}")
        for name, value in entries.items():
            if not _fits(name, value, parameters[number]):
                raise UserError(f"{name} of parameter {number} does not fit it")
    # A tensor from a file may say that it is large and hold one number: a copy holds what it says.
    return {
        number: {name: value.clone() if isinstance(value, Tensor) else value for name, value in entries.items()}
        for number, entries in state.items()
    }


def _fits(name: str, value: object, parameter: nn.Parameter) -> bool:
    if name == "momentum_buffer":
        return value is None
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    if name == "step":
        return value.dim() == 0 and value.dtype == torch.float32 and value.item() >= 0
    return (value.shape, value.dtype) == (parameter.shape, parameter.dtype)


def learning_rate(config: Config, lr: float, step: int, total: int, epoch: int) -> float:
    """Return the rate of a step (from 0), where `lr` is the highest.

    A linear warm-up, then constant, or to zero along a line or half a cosine, or down in steps after so many epochs.

    Args:
        config: Says which.
        lr: The player's own.
        step: Steps done.
        total: Of the run.
        epoch: Epochs done.
    """
    if step < config.lr_warmup:
        return lr * (step + 1) / config.lr_warmup
    if config.lr_schedule == "constant":
        return lr
    if config.lr_schedule == "burda":  # 3^i epochs each: Burda et al. 2016, arXiv:1509.00519, section 5
        return lr * 10 ** (-sum(epoch >= (3**i - 1) // 2 for i in range(1, BURDA_STAGES)) / (BURDA_STAGES - 1))
    if isinstance(config.lr_schedule, MultistepSchedule):
        steps = config.lr_schedule.multistep
        return lr * steps.gamma ** sum(epoch >= milestone for milestone in steps.milestones)
    done = (step - config.lr_warmup) / max(1, total - config.lr_warmup)
    return lr * (1 - done if config.lr_schedule == "linear" else 0.5 + 0.5 * math.cos(math.pi * done))


class Stepper:
    """Takes an optimizer's steps and drops the gradients: a fused Adam's by torch's kernel, not by its method.

    `optimizer.step` looks up, sorts and counts on the state of each parameter by itself: 0.2 of the 3.3 ms that a step
    of `mlp` takes on a CPU. The update and the state, which stays the optimizer's, are the same bit for bit. The kernel
    has a private name, as torch offers it by no other.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        types = {parameter.dtype for group in optimizer.param_groups for parameter in group["params"]}
        # AdamW is an Adam. On a GPU the kernel takes one type of number at a time.
        self.is_fused_adam = isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["fused"] and len(types) == 1
        # Both moments and the steps taken, of each parameter; and those steps as one vector, `[parameters]`.
        self.moments: tuple[list[Tensor], list[Tensor], list[Tensor], Tensor] | None = None
        self.moments_of: object = None  # the state they were found in: a resumed optimizer has another

    def __call__(self, lr: float) -> None:
        """Take a step at rate `lr`."""
        (group,) = self.optimizer.param_groups
        group["lr"] = lr
        parameters = group["params"]
        gradients = [p.grad for p in parameters]
        complete = self.is_fused_adam and all(gradient is not None for gradient in gradients)
        if complete and self.moments is not None and self.moments_of is self.optimizer.state:
            means, squares, steps, all_steps = self.moments
            update = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
            with torch.no_grad():
                all_steps.add_(1)
                update(
                    parameters,
                    gradients,
                    means,
                    squares,
                    [],
                    steps,
                    amsgrad=False,
                    lr=lr,
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
        else:
            self.optimizer.step()
            if complete:
                states = [self.optimizer.state[p] for p in parameters]
                means, squares, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
                all_steps = torch.stack(steps)
                steps = list(all_steps.unbind())
                for state, step in zip(states, steps, strict=True):
                    state["step"] = step
                self.moments = means, squares, steps, all_steps
                self.moments_of = self.optimizer.state
        for parameter in parameters:
            parameter.grad = None  # as `zero_grad` does, which takes longer over it
