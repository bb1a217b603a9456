"""Optimizers: fused or not, and stepped by the loop, they do what torch's own do."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from tests.runs import make_config, settings, small
from zoo.base import VARIANTS
from zoo.config import Config, check
from zoo.engine.optimizers import Stepper, learning_rate, make_optimizer, player_settings
from zoo.engine.setup import set_up
from zoo.engine.train import Trainer
from zoo.errors import UserError


def test_learning_rate_is_a_function_of_the_step() -> None:
    config = check(Config, settings(Path("r"), lr=1.0, lr_warmup=4, lr_schedule="cosine"), "test")
    rates = [learning_rate(config, config.lr, step, 12, 0) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[8] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[4:]))


def test_learning_rate_falls_along_a_line() -> None:
    config = check(Config, settings(Path("r"), lr=2.0, lr_warmup=2, lr_schedule="linear"), "test")
    rates = [learning_rate(config, config.lr, step, 6, 0) for step in range(6)]
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0, 0.5])


def test_learning_rate_falls_at_milestones(tmp_path: Path) -> None:
    schedule = {"multistep": {"milestones": [2, 5], "gamma": 0.1}}
    config = check(Config, settings(Path("r"), lr=1.0, lr_warmup=4, lr_schedule=schedule), "test")
    rates = [learning_rate(config, 3.0, 10, 99, epoch) for epoch in range(8)]
    assert rates == pytest.approx([3.0] * 2 + [0.3] * 3 + [0.03] * 3)
    assert learning_rate(config, 3.0, 1, 99, 6) == 1.5
    # As torch has it, which counts an epoch when it is over; and by the images that a batch of 32 has seen of 243.
    t = Trainer(set_up(make_config(tmp_path / "r", steps=60, lr_schedule=schedule)))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=t.players[0].lr)
    torchs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], 0.1)
    for epoch in range(7):
        first = -(-epoch * 243 // 32)
        assert t._rate(t.players[0], first) == pytest.approx(torchs.get_last_lr()[0])
        assert t._rate(t.players[0], -(-(epoch + 1) * 243 // 32) - 1) == pytest.approx(torchs.get_last_lr()[0])
        optimizer.step()
        torchs.step()


def test_burdas_rates() -> None:
    """3^i epochs at 1e-3 x 10^(-i/7), i = 0 to 7."""
    config = check(Config, settings(Path("r"), lr_schedule="burda"), "test")
    expected = [1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert len(expected) == 3280 and expected[-1] == 1e-4
    assert [learning_rate(config, 1e-3, 0, 1, epoch) for epoch in range(3280)] == pytest.approx(expected, rel=1e-12)
    assert learning_rate(config, 1e-3, 0, 1, 5000) == pytest.approx(1e-4)


def optimizer_of(config: Config, parameters: list[nn.Parameter], player: str = "vae") -> torch.optim.Optimizer:
    settings = player_settings(config, VARIANTS.lookup(config.model.name).target, player)
    return make_optimizer(settings, config.optimizer.fused, parameters)


def test_a_player_has_its_papers_optimizer_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.zeros(2))

    def group(player: str, variant: str = "factor", **optimizer: Any) -> tuple[str, dict[str, Any]]:
        made = optimizer_of(make_config(tmp_path, variant, lr=1e-3, optimizer=optimizer), [parameter], player)
        return type(made).__name__, made.param_groups[0]

    name, settings = group("critic", eps=1e-6)
    assert (name, settings["lr"], settings["betas"], settings["eps"]) == ("Adam", 1e-4, (0.5, 0.9), 1e-6)
    name, settings = group("vae", name="sgd")
    assert (name, settings["lr"]) == ("SGD", 1e-3)
    name, settings = group("critic", name="sgd", critic={"lr": 0.5, "name": "adamw"}, weight_decay=0.25)
    assert (name, settings["lr"], settings["betas"], settings["weight_decay"]) == ("AdamW", 0.5, (0.5, 0.9), 0.25)
    name, settings = group("discriminator", "vae_gan")
    assert (name, settings["lr"], settings["alpha"]) == ("RMSprop", 1e-3, 0.9)


def test_each_player_steps_at_its_own_rate(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    model = {"name": "factor", **small("factor")}
    config = make_config(tmp_path / "r", model=model, optimizer={"name": "sgd", "critic": {"name": "sgd", "lr": 1e-7}})
    t = Trainer(set_up(config))
    before = {player.name: [p.detach().clone() for p in player.parameters] for player in t.players}
    t.take_step(*t.run.data.train.batch(torch.arange(32)))
    moved = {}
    for player in t.players:
        pairs = zip(before[player.name], player.parameters, strict=True)
        moved[player.name] = max((a - b).abs().max().item() for a, b in pairs)
    assert 0 < moved["critic"] < 1e-5 < moved["vae"]
    assert "critic's sgd at 1e-07" in t.run.choices()


def test_a_player_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    model = {"name": "factor", **small("factor")}
    with pytest.raises(UserError, match=r"optimizer.critc: model 'factor' has no such player. Did you mean 'critic'"):
        set_up(make_config(tmp_path / "r", model=model, optimizer={"critc": {"lr": 0.1}}))


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "rmsprop", "sgd"])
def test_every_optimizer_has_its_settings(name: str, tmp_path: Path) -> None:
    given = {"name": name, "eps": 1e-5, "betas": [0.7, 0.8], "weight_decay": 0.25, "centered": True}
    made = optimizer_of(make_config(tmp_path, optimizer=given), [nn.Parameter(torch.zeros(2))])
    assert type(made).__name__.lower() == name
    group = made.param_groups[0]
    assert group.get("centered", name != "rmsprop")
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.25)
    if name != "sgd":
        assert group["eps"] == 1e-5
        assert (group["alpha"] == 0.8) if name == "rmsprop" else (tuple(group["betas"]) == (0.7, 0.8))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_fused_optimizer_takes_the_same_step(tmp_path: Path, name: str) -> None:
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(7))
        config = make_config(tmp_path, optimizer={"name": name, "fused": fused, "weight_decay": 0.1})
        optimizer = optimizer_of(config, [parameter])
        assert bool(optimizer.param_groups[0]["fused"]) == fused
        for _ in range(5):
            parameter.grad = parameter.detach().sin()
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


ADAM = {"name": "adam", "weight_decay": 0.1, "eps": 1e-4, "betas": [0.8, 0.9]}


@pytest.mark.parametrize(
    "optimizer", [ADAM, ADAM | {"name": "adamw"}, ADAM | {"fused": False}, {"name": "adamax"}, {"name": "sgd"}]
)
def test_the_loop_steps_as_torch_does(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    """Bit for bit: with a rate of its own for each step, without some gradients, and on from a saved state."""
    config = make_config(tmp_path, optimizer=optimizer)
    results = []
    for ours in (True, False):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(3))]
        torchs = optimizer_of(config, parameters)
        stepper = Stepper(torchs)
        for step in range(12):
            lr = 0.1 / (step + 1)
            for index, parameter in enumerate(parameters):
                parameter.grad = None if index == 1 and step in (0, 6) else parameter.detach().sin()
            if step == 9:
                torchs.load_state_dict(copy.deepcopy(torchs.state_dict()))
            if ours:
                stepper(lr)
                assert all(parameter.grad is None for parameter in parameters)
            else:
                torchs.param_groups[0]["lr"] = lr
                torchs.step()
        results.append((torchs.state_dict(), [parameter.detach() for parameter in parameters]))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize(("other", "expected"), [(torch.float32, 1), (torch.float64, 5)])
def test_a_fused_adam_looks_its_state_up_once(tmp_path: Path, other: torch.dtype, expected: int) -> None:
    """Unless there are two types of number, which its kernel on a GPU doesn't take in one call."""
    parameters = [nn.Parameter(torch.randn(7)), nn.Parameter(torch.randn(3, dtype=other))]
    optimizer = optimizer_of(make_config(tmp_path), parameters)
    stepper = Stepper(optimizer)
    calls: list[Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(parameters[0].detach().clone()))
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        stepper(0.1)
    assert len(calls) == expected
