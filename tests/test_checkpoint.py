"""Checkpoints: whole or absent, pruned but for the best, passed over when damaged, and never executed."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from tests.runs import ROOT, digest, make_config, rows, run, settings
from zoo.engine import train
from zoo.engine.checkpoint import DIGESTS_FILE, Checkpoints, _digest, load_state
from zoo.engine.train import Trainer
from zoo.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(make_config(out, steps=40))
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run to damage; it may be resumed for ten steps more."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


def longer(out: Path) -> None:
    run(make_config(out, steps=50), resume=True)


PROGRESS = {"best_val": 0.0, "epoch_sums": {}, "epoch_counts": {}, "window_sums": {}, "window_counts": {}}


def save(checkpoints: Checkpoints, step: int, best: bool = False) -> None:
    checkpoints.save(step, lambda path: save_file({"w": torch.zeros(1)}, path), {}, PROGRESS, best)


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 8):
        save(checkpoints, step, best=step in (1, 3))
    assert checkpoints.steps() == [3, 6, 7]
    assert (checkpoints.folder / "best").resolve().name == "step_00000003"
    assert (checkpoints.folder / "latest").resolve().name == "step_00000007"


def test_best_is_the_lowest_validation_loss(tmp_path: Path) -> None:
    out = tmp_path / "r"
    run(make_config(out, steps=30, lr=1e-2, lr_schedule="constant", keep=1))
    best = min((row for row in rows(out) if "val/loss" in row), key=lambda row: row["val/loss"])
    assert (out / "checkpoints" / "best").resolve().name == f"step_{best['step']:08d}"


def test_a_write_cut_short_leaves_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1)

    def fails(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        checkpoints.save(2, fails, {}, {}, False)
    assert checkpoints.steps() == [1]
    found = checkpoints.newest()
    assert found is not None and found[1]["step"] == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "state.json", "digests.json"])
def test_a_damaged_newest_falls_back_to_the_one_before(
    name: str, damage, copy: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = Checkpoints(copy, 2).steps()
    damage(copy / "checkpoints" / "latest" / name)
    longer(copy)
    said = capsys.readouterr()
    assert f"step_{steps[-1]:08d} is damaged; falling back to the one before" in said.err
    assert f"resumed at step {steps[-2]}" in said.out


def test_all_damaged_is_one_sentence(copy: Path) -> None:
    for path in (copy / "checkpoints").glob("step_*/state.pt"):
        truncate(path)
    with pytest.raises(UserError, match="every checkpoint in .* is damaged: nothing to resume from"):
        longer(copy)


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch owned",))


def test_nothing_is_unpickled(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    latest = (copy / "checkpoints" / "latest").resolve()
    torch.save({"vae": Malicious()}, latest / "state.pt", pickle_module=pickle)
    digests = json.loads((latest / DIGESTS_FILE).read_text())
    (latest / DIGESTS_FILE).write_text(json.dumps(digests | {"state.pt": _digest(latest / "state.pt")}))
    with pytest.raises(UserError, match="holds more than tensors and numbers"):
        longer(copy)
    assert not (tmp_path / "owned").exists()
    with pytest.raises(UserError, match="damaged"):
        load_state(latest)


def test_load_explains_what_it_cannot_read(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no trained model in"):
        zoo.load(tmp_path / "nothing")
    truncate(copy / "model.safetensors")
    with pytest.raises(UserError, match="is damaged, or not a model of this zoo"):
        zoo.load(copy)
    save_file({"w": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(UserError, match="is damaged, or not a model of this zoo"):
        zoo.load(copy)


def test_load_takes_an_unfinished_run(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert zoo.load(copy).sample(2).shape == (2, 1, 8, 8)


def start(values: dict, config: Path, *extra: str) -> subprocess.Popen[bytes]:
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "run.py", "--config", str(config), *extra]
    # A file, because a pipe that nobody reads fills up and stops the run.
    with config.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def said(config: Path) -> str:
    return config.with_suffix(".log").read_text()


def wait_for_step(out: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        lines = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []
        if len(lines) > 1 and json.loads(lines[-2])["step"] >= step:
            return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was not seen in {out}, exit code {process.poll()}")


@pytest.mark.slow
def test_killed_at_five_random_steps(tmp_path: Path) -> None:
    """SIGKILL, five times, wherever it strikes; then the weights are those of the undisturbed run."""
    # Big enough that a step takes milliseconds, so that the kill strikes in the middle of the run.
    values = settings(tmp_path / "killed", steps=600, log_every=1, checkpoint_every=7, keep=2)
    values["model"] |= {"hidden_dims": [512, 512]}
    rng = random.Random(0)
    for kill_at in sorted(rng.sample(range(20, 560), 5)):
        process = start(values, tmp_path / "c.yaml", "--resume")
        wait_for_step(tmp_path / "killed", kill_at, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    process = start(values, tmp_path / "c.yaml", "--resume")
    assert process.wait() == 0, said(tmp_path / "c.yaml")

    run(make_config(tmp_path / "whole", **{k: v for k, v in values.items() if k != "out"}))
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "killed")] == [row["step"] for row in rows(tmp_path / "whole")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_says_how_to_resume(number: signal.Signals, tmp_path: Path) -> None:
    values = settings(tmp_path / "r", steps=100_000, log_every=1, checkpoint_every=50_000)
    process = start(values, tmp_path / "c.yaml")
    wait_for_step(tmp_path / "r", 5, process)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    output = said(tmp_path / "c.yaml")
    assert "checkpoint written; to go on: python run.py --config" in output and "--resume" in output
    assert "Traceback" not in output
    assert f"stopped at step {Checkpoints(tmp_path / 'r', 2).steps()[-1]:,}" in output


# ---- written while training goes on


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of step 10 is written only when step 12 is over; it still holds step 10."""
    later = threading.Event()
    save, take_step = Checkpoints.save, Trainer.take_step

    def slow_save(self: Checkpoints, step: int, *rest: Any) -> None:
        assert step != 10 or later.wait(timeout=60), "training waited for the checkpoint"
        save(self, step, *rest)

    def counted_step(self: Trainer, *batch: Any) -> None:
        take_step(self, *batch)
        if self.step >= 12:
            later.set()

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(make_config(whole, steps=20))
    monkeypatch.setattr(Checkpoints, "save", slow_save)
    monkeypatch.setattr(Trainer, "take_step", counted_step)
    run(make_config(cut, steps=20, keep=9))
    assert digest(cut) == digest(whole)
    for step in Checkpoints(cut, 9).steps():
        if step > 10:
            shutil.rmtree(cut / "checkpoints" / f"step_{step:08d}")
    (cut / "model.safetensors").unlink()
    run(make_config(cut, steps=20, keep=9), resume=True)
    assert digest(cut) == digest(whole)


class Computations(TorchDispatchMode):
    """Notes the tensors' operations that do more than look at another tensor's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_is_computed_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else torch starts a pool of threads for the writing thread, and every step after it takes longer."""
    save, computed = Checkpoints.save, []

    def watched_save(*arguments: Any) -> None:
        with Computations() as seen:
            save(*arguments)
        computed.append(seen.names)

    with Computations() as seen:
        torch.ones(2).t() + 1
    assert seen.names == {"aten.ones.default", "aten.add.Tensor"}
    monkeypatch.setattr(Checkpoints, "save", watched_save)
    model = {"name": "vanilla", "hidden_dims": [4, 8], "latent_dim": 3}  # channels-last
    run(make_config(tmp_path / "r", model=model, steps=10, ema=0.9))
    assert Checkpoints(tmp_path / "r", 2).steps()[-1] == 10
    assert computed == [set(), set()]


def test_a_checkpoint_that_can_t_be_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(train, "write_weights", fails)
    with pytest.raises(OSError, match="no space"):
        run(make_config(tmp_path / "full", steps=20))
