"""Run under torchrun: each variant's gradients on two halves of a batch, one a rank, beside those of the whole."""

import sys
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tests.runs import small
from zoo.base import VARIANTS, BaseVAE, Batch, ImageSpec, random_batch
from zoo.models import create
from zoo.properties import RepeatedNoise

IMAGE = ImageSpec(1, 8, 8, classes=4, train_size=40)
# A target between the KLs of the two halves: it is one for the whole batch's.
OPTIONS: dict[str, dict[str, Any]] = {"mlp": {"free_bits": 2.0}, "beta_capacity": {"capacity": 0.128}}


def model_of(name: str) -> BaseVAE:
    torch.manual_seed(0)
    variant = name.removesuffix(" again")
    model = create(variant, IMAGE, **small(variant, **OPTIONS[variant] if variant != name else {})).train()
    model.progress.fill_(0.5)
    return model


def gradients(model: BaseVAE, batch: Batch, player: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the player's loss and its gradient, with all noise held constant."""
    model.zero_grad()
    with RepeatedNoise(4):
        loss = (model.loss(batch) if player == "vae" else getattr(model, f"{player}_loss")(batch))["loss"]
    loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.player_parameters(player)]
    return loss.detach(), torch.cat([grad.flatten() for grad in grads])


torch.set_num_threads(1)
torch.manual_seed(1)
batch = random_batch(IMAGE, 8)
batch = Batch(torch.arange(8)[:, None, None, None] / 8 * batch.x, batch.y)  # images that differ
names = [*(entry.name for entry in VARIANTS), *(f"{name} again" for name in OPTIONS)]
alone = {}
for name in names:
    model = model_of(name)
    for player in model.players:
        alone[f"{name}.{player}"] = gradients(model, batch, player)
        model.after_turn(player)
    alone[f"{name}.state"] = torch.cat([b.flatten().float() for b in model.buffers()]), torch.zeros(1)

dist.init_process_group("gloo")
half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
found = {}
for name in names:
    model = model_of(name)
    for player in model.players:
        loss, grad = gradients(model, Batch(batch.x[half], None if batch.y is None else batch.y[half]), player)
        for tensor in (loss, grad):
            dist.all_reduce(tensor)
        found[f"{name}.{player}"] = loss / 2, grad / 2
        model.after_turn(player)
    found[f"{name}.state"] = torch.cat([b.flatten().float() for b in model.buffers()]), torch.zeros(1)
out = {}
for what, of in (("one", alone), ("two", found)):
    for key, (loss, grad) in of.items():
        out |= {f"{key}.{what}.loss": loss.clone(), f"{key}.{what}.gradient": grad.clone()}
save_file(out, f"{sys.argv[1]}/rank{dist.get_rank()}.safetensors")
dist.destroy_process_group()
