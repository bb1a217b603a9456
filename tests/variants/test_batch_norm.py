"""On nets with BatchNorm: training and evaluation agree once its memory has settled, and no second pass enters it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runs import SMALLER
from zoo.base import VARIANTS, BaseVAE, ImageSpec, random_batch
from zoo.models import create, model_options
from zoo.nets.batch_norm import as_evaluated, unremembered

IMAGE = ImageSpec(1, 16, 16, classes=4, train_size=20)
FAST = (
    "mlp",
    "conditional",
    "ae",
    "beta_tc",
    "wae_mmd",
    "miwae",
    "vamp",
    "iaf",
    "hyperspherical",
    "eq",
    "vq",
    "vae_gan",
)
NAMES = [
    entry.name if entry.name in FAST else pytest.param(entry.name, marks=pytest.mark.slow) for entry in VARIANTS
]  # those of each family in every run
OPTIONS = SMALLER | {"net": "conv", "base_channels": 4, "latent_dim": 3}
SECOND = [(entry.name, player) for entry in VARIANTS for player in entry.target.players[1:]]


def model_of(name: str) -> BaseVAE:
    torch.manual_seed(0)
    known = model_options(name, {"net": "conv"})
    options = {option: value for option, value in OPTIONS.items() if option in known}
    if name == "eq":  # a grid of two positions, decoded as it is: terms of turned latents are of other images
        return create(name, replace(IMAGE, width=32), **options | {"latent": "grid", "transformed": 0.0}).train()
    return create(name, IMAGE, **options).train()


def memory(model: BaseVAE) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


def mean_terms(model: BaseVAE, x: Tensor, y: Tensor | None, draws: int = 60) -> dict[str, float]:
    torch.manual_seed(1)
    rows = [model.loss(type(batch)(x, y)) for batch in [random_batch(IMAGE, 1)] for _ in range(draws)]
    return {name: torch.stack([row[name].detach() for row in rows]).mean().item() for name in rows[0]}


@pytest.mark.parametrize("name", NAMES)
def test_training_and_evaluation_agree_once_statistics_have_settled(name: str) -> None:
    """The same images at each step, bright and dark, so that what is remembered is what the batch has."""
    model = model_of(name)
    batch = random_batch(model.image, 64)
    model.progress.fill_(1.0)
    with torch.no_grad():
        for _ in range(60):  # of a memory of ten steps 0.2 % is left
            model.loss(batch)
        trained = mean_terms(model, *batch)
        evaluated = mean_terms(model.eval(), *batch)
    for term in ("recon", "kl", "mmd", "tc", "features", "kl_uniform"):
        if term in trained:
            size = max(1.0, abs(evaluated[term]))
            assert abs(trained[term] - evaluated[term]) < 0.05 * size, (term, trained[term], evaluated[term])


@pytest.mark.parametrize(("name", "player"), SECOND)
def test_a_second_players_turn_leaves_batch_norms_memory_alone(name: str, player: str) -> None:
    model = model_of(name)
    batch = random_batch(model.image, 8)
    model.loss(batch)
    before = memory(model)
    getattr(model, f"{player}_loss")(batch)
    assert before and all(torch.equal(before[key], value) for key, value in memory(model).items())


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_remembers_a_step_once(name: str) -> None:
    """Momentum 0.1: after one step from a memory of zero, a layer's mean is a tenth of the batch's, not of two."""
    model = model_of(name)
    counts = {key: value.clone() for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    recorded = dict.fromkeys(counts, 0)
    for key in recorded:
        layer = model.get_submodule(key.removesuffix(".num_batches_tracked"))

        def count(module: torch.nn.Module, *_: object, key: str = key) -> None:
            recorded[key] += bool(module.training and module.momentum)

        layer.register_forward_hook(count)
    model.loss(random_batch(model.image, 8))
    assert recorded and set(recorded.values()) == {1}, recorded


@pytest.mark.parametrize("context", [as_evaluated, unremembered])
def test_layers_go_on_as_they_were(context: Any) -> None:
    """Also one that is held in evaluation, and one with a momentum of its own."""
    model = model_of("conv")
    first, second, *_ = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    first.eval()
    second.momentum = 0.25

    def settings() -> list[tuple[bool, float | None]]:
        return [(layer.training, layer.momentum) for layer in model.modules() if isinstance(layer, type(first))]

    before = settings()
    with context(model):
        assert settings() != before
    assert settings() == before and len({training for training, _ in before}) == 2


def test_the_gradient_penalty_is_of_each_image_by_itself() -> None:
    model = model_of("rae_gp")
    z = torch.randn(6, 3)
    for _ in range(100):
        model.logits(torch.randn(64, 3))  # type: ignore[operator]
    before = memory(model)
    torch.manual_seed(2)
    (whole,) = torch.autograd.grad(model.roughness(z.requires_grad_()), z)  # type: ignore[operator]
    assert all(torch.equal(before[key], value) for key, value in memory(model).items())
    far = z.detach().clone()
    far[1:] += 10
    torch.manual_seed(2)
    (moved,) = torch.autograd.grad(model.roughness(far.requires_grad_()), far)  # type: ignore[operator]
    torch.testing.assert_close(whole[0], moved[0], rtol=1e-4, atol=1e-6)
