"""The measurement of speed: its order, its ratios, and that our contenders really train. No time is asserted."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from benchmarks import throughput
from benchmarks.throughput import Loop, bare_step, compare, data_alone, measure, table
from tests.runs import make_config
from zoo.setup import Run, set_up

CONV = {"name": "vanilla", "hidden_dims": [4, 8], "latent_dim": 3}


@pytest.fixture
def small_run(tmp_path: Path) -> Run:
    return set_up(make_config(tmp_path / "r", model=CONV, steps=1_000_000))


def test_contenders_take_turns() -> None:
    calls = []

    def contender(name: str, seconds: float) -> throughput.Contender:
        return lambda steps: calls.append((name, steps)) or steps * seconds  # type: ignore[func-returns-value]

    seconds = measure({"a": contender("a", 1.0), "b": contender("b", 2.0)}, steps=10, rounds=2)
    assert calls == [("a", 5), ("b", 5), ("a", 10), ("b", 10), ("a", 10), ("b", 10)]
    assert seconds == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


def test_ratios_are_taken_round_by_round(small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    by_round = {"loop": [1.0, 2.0, 4.0], "bare step": [0.5, 1.0, 4.0], "data alone": [0.1, 0.1, 0.1]}
    monkeypatch.setattr(throughput, "measure", lambda *_: by_round)
    arguments = argparse.Namespace(workload="vanilla_celeba", steps=1, rounds=3, pytorch_vae=None)
    result = compare(small_run, arguments)
    assert result["loop_is_faster_by"] == {"loop": 1.0, "bare step": 0.5, "data alone": 0.05}
    assert result["images_per_second"]["loop"] == 32 / 2
    assert result["choices"] == small_run.choices()
    assert "bare step            32 images/s   loop / this: 0.500" in table(result)


def test_the_loop_and_the_bare_step_take_the_same_steps(small_run: Run) -> None:
    bare, loop = bare_step(small_run), Loop(small_run)
    start = [parameter.detach().clone() for parameter in small_run.model.parameters()]
    assert bare(3) > 0 and loop(3) > 0 and data_alone(small_run)(3) > 0
    assert loop.trainer.step == 3
    loop(2)
    assert loop.trainer.step == 5
    moved = [not torch.equal(a, b) for a, b in zip(start, loop.trainer.model.parameters(), strict=True)]
    assert all(moved)
