"""What a training step is made of: the wrapped loss, the players, and the noise of each pass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.base import BaseVAE, Batch
from zoo.config import Config
from zoo.data import dequantise, to_float
from zoo.engine.optimizers import Stepper, make_optimizer, player_settings


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
class Player:
    """Who takes optimizer steps.

    Attributes:
        name: As in the model's `players`.
        number: Its place among them.
        parameters: What it moves.
        lr: Its highest rate.
        optimizer: Whose state a checkpoint keeps.
        step: Takes the optimizer's step at a rate, and drops the gradients.
    """

    name: str
    number: int
    parameters: list[nn.Parameter]
    lr: float
    optimizer: torch.optim.Optimizer
    step: Stepper


def make_players(config: Config, model: BaseVAE, accelerator: Accelerator) -> list[Player]:
    """Give each of a model's players its parameters, but for frozen ones, and its optimizer."""
    players = []
    for number, name in enumerate(model.players):
        parameters = [p for p in model.player_parameters(name) if p.requires_grad]
        settings = player_settings(config, model, name)
        made = make_optimizer(settings, config.optimizer.fused, parameters)
        optimizer: torch.optim.Optimizer = accelerator.prepare_optimizer(made)
        if accelerator.scaler is None:
            # Accelerate's wrapper serves fp16's loss scaling; without it, it only costs time at each step: it looks for
            # installed packages and inspects signatures.
            optimizer = optimizer.optimizer  # type: ignore[attr-defined]
        assert settings.lr is not None
        players.append(Player(name, number, parameters, settings.lr, optimizer, Stepper(optimizer)))
    return players


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
