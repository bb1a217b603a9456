"""The measurement of speed: its order, its ratios, and that our contenders really train. No time is asserted."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import torch

from benchmarks.speed import throughput
from benchmarks.speed.throughput import Loop, Peer, bare_step, compare, data_alone, measure, table
from tests.runs import make_config
from zoo.config import Config
from zoo.engine.setup import Run, set_up
from zoo.errors import UserError

CONV = {"name": "vanilla", "hidden_dims": [4, 8], "latent_dim": 3}


@pytest.fixture
def small_run(tmp_path: Path) -> Run:
    return set_up(make_config(tmp_path / "r", model=CONV, steps=1_000_000))


def test_contenders_take_turns_there_and_back() -> None:
    calls = []

    def contender(name: str, seconds: float) -> throughput.Contender:
        return lambda steps: calls.append((name, steps)) or steps * seconds  # type: ignore[func-returns-value]

    seconds = measure({"a": contender("a", 1.0), "b": contender("b", 2.0)}, steps=10, rounds=2)
    warm_up = throughput.WARM_UP
    assert calls == [("a", warm_up), ("b", warm_up), ("a", 10), ("b", 10), ("b", 10), ("a", 10)]
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


def pid_of_its_process(config: Config, source: Path) -> throughput.Contender:
    print(f"{config.batch_size} {source}")  # nothing that a peer prints may get lost in the answers
    return lambda steps: float(os.getpid() + steps)


def test_a_peer_has_its_own_process(tmp_path: Path) -> None:
    peer = Peer(pid_of_its_process, make_config(tmp_path), tmp_path)
    assert peer(0) == peer(3) - 3 != os.getpid()


def dies(config: Config, source: Path) -> throughput.Contender:
    raise ImportError(f"no peer in {source}")


def test_a_peer_that_dies_ends_the_measurement(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="a peer's process ended; what it said stands above"):
        Peer(dies, make_config(tmp_path), tmp_path)(1)
    assert f"no peer in {tmp_path}" in capfd.readouterr().err


def test_the_notebook_s_loop_runs(tmp_path: Path) -> None:
    assert throughput.notebook(make_config(tmp_path, data={"name": "digits", "size": 28}), Path())(2) > 0
