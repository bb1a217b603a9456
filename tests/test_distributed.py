"""Two processes on gloo: equal ranks, the same result as one process, and the same result after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from tests.runs import ROOT, digest, make_config, rows, run, settings, small
from zoo.base import VARIANTS

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}


def torchrun(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*TORCHRUN, script, *arguments], cwd=ROOT, env=ENVIRONMENT, start_new_session=True)


def write(path: Path, values: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


SLOW = [pytest.param(variant, "none", marks=pytest.mark.slow) for variant in ("still", "duel")]


@pytest.mark.parametrize(("variant", "binarize"), [("still", "dynamic"), *SLOW])
def test_ranks_hold_equal_parameters(variant: str, binarize: str, tmp_path: Path) -> None:
    """And without noise they are the parameters of one process at the same global batch, whose pixels are the same."""
    data = {"name": "digits", "limit": 300, "binarize": binarize}
    two = write(tmp_path / "two.yaml", settings(tmp_path / "two", variant, data=data))
    assert torchrun("tests/rank_dump.py", two).wait(timeout=120) == 0
    first, second = (load_file(tmp_path / "two" / f"rank{rank}of2.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    if variant == "still":
        one = write(tmp_path / "one.yaml", settings(tmp_path / "one", variant, data=data))
        subprocess.run([sys.executable, "tests/rank_dump.py", one], cwd=ROOT, env=ENVIRONMENT, check=True)
        alone = load_file(tmp_path / "one" / "rank0of1.safetensors")
        for name in first:
            assert torch.allclose(first[name], alone[name], atol=1e-5), name


def test_a_batch_shared_out_over_ranks_has_the_whole_batchs_gradient(tmp_path: Path) -> None:
    """For every variant and player, also where a term compares the batch's images; noise is held constant."""
    assert torchrun("tests/rank_losses.py", str(tmp_path)).wait(timeout=300) == 0
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    keys = [key.replace(".one.", ".{}.") for key in first if ".one." in key]
    assert len(keys) > 2 * len(list(VARIANTS))
    for key in keys:
        if key.startswith(("factor.critic", "fsq")):
            continue  # the critic's halves of a batch are other images then; BatchNorm is each rank's own on a CPU
        one, two = first[key.format("one")], first[key.format("two")]
        assert torch.equal(two, second[key.format("two")]), key
        size = one.abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(two, one, rtol=1e-4, atol=2e-5 * size, msg=lambda text, key=key: f"{key}: {text}")


SHARDABLE = [entry.name for entry in VARIANTS if len(entry.target.players) == 1]


BATCHNORM = {"name": "vanilla", "hidden_dims": [4, 8], "latent_dim": 3}


def train_both_ways(folder: Path, names: list[str]) -> None:
    """Train variants for five steps on two processes, with a share of the model on each, and with all of it."""
    configs = []
    for name in names:
        model = {"name": name, **small(name)} if name != "batchnorm" else BATCHNORM
        for shard in (True, False):
            out = folder / f"{name}_{shard}"
            # Not Adam, which makes as much of a gradient that is all rounding as of any other.
            values = settings(out, model=model, steps=5, accumulate=2, optimizer={"name": "sgd"}, shard=shard)
            configs.append(write(folder / f"{name}_{shard}.yaml", values))
    assert torchrun("tests/rank_dump.py", *configs).wait(timeout=500) == 0


@pytest.mark.parametrize("names", [["mlp", "batchnorm"], pytest.param(SHARDABLE, marks=pytest.mark.slow)])
def test_a_shared_out_model_learns_the_same(names: list[str], tmp_path: Path) -> None:
    train_both_ways(tmp_path, names)
    for name in names:
        files = [[tmp_path / f"{name}_{shard}" / f"rank{r}of2.safetensors" for r in (0, 1)] for shard in (True, False)]
        for first, second in files:
            torch.testing.assert_close(load_file(first), load_file(second), rtol=0, atol=0)
        (shared, _), (kept, _) = files
        torch.testing.assert_close(load_file(shared), load_file(kept), rtol=1e-5, atol=1e-6)
        losses = [rows(path.parent)[-1]["val/loss"] for path in (shared, kept)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5), name
        held = [int(safe_open(path, "pt").metadata()["held"]) for path in (shared, kept)]
        assert held[0] < 0.6 * held[1], name  # half of each parameter, rounded up to whole rows


@pytest.mark.slow
def test_a_shared_out_run_goes_on_shared_out_or_not(tmp_path: Path) -> None:
    """Checkpoints and final weights are those of one process that keeps its model in one piece."""
    run(make_config(tmp_path / "alone", "still", steps=40, clip=1.0))
    shared = tmp_path / "shared"
    for steps in (20, 40):
        config = write(tmp_path / f"{steps}.yaml", settings(shared, "still", steps=steps, clip=1.0, shard=True))
        assert torchrun("run.py", "--config", config, "--resume").wait(timeout=120) == 0
        if steps == 20:
            shutil.copytree(shared, tmp_path / "half", symlinks=True)
    run(make_config(tmp_path / "half", "still", steps=40, clip=1.0), resume=True)
    expected = load_file(tmp_path / "alone" / "model.safetensors")
    for name in ("shared", "half"):
        torch.testing.assert_close(load_file(tmp_path / name / "model.safetensors"), expected, rtol=1e-4, atol=1e-5)
    losses = [json.loads((tmp_path / n / "results.json").read_text())["metrics"]["loss"] for n in ("alone", "shared")]
    assert losses[1]["value"] == pytest.approx(losses[0]["value"], rel=1e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run on two processes, by the command that the README gives."""
    folder = tmp_path_factory.mktemp("two")
    config = write(folder / "c.yaml", settings(folder / "run", "duel", steps=120, log_every=10, checkpoint_every=7))
    assert torchrun("run.py", "--config", config).wait(timeout=120) == 0
    return folder / "run"


def test_two_processes_leave_one_run(whole: Path) -> None:
    results = json.loads((whole / "results.json").read_text())
    assert results["processes"] == 2
    assert results["metrics"]["recon"]["n"] == 30
    assert [row["step"] for row in rows(whole)] == sorted({row["step"] for row in rows(whole)})


def test_killed_and_resumed_on_two_processes(whole: Path, tmp_path: Path) -> None:
    values = settings(tmp_path / "run", "duel", steps=120, log_every=10, checkpoint_every=7)
    config = write(tmp_path / "c.yaml", values)
    process = torchrun("run.py", "--config", config)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/checkpoints/step_00000042").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "run/model.safetensors").exists()
    assert torchrun("run.py", "--config", config, "--resume").wait(timeout=120) == 0
    assert digest(tmp_path / "run") == digest(whole)


@pytest.mark.slow
def test_evaluation_does_not_depend_on_the_number_of_processes(whole: Path) -> None:
    before = json.loads((whole / "results.json").read_text())["metrics"]
    # Five batches: three for one rank, two for the other; and anew, though the results are there.
    settings_over = ["eval_batch_size=7", "device=cpu", "--trust-plugins", "--again"]
    subprocess.run([sys.executable, "run.py", "evaluate", str(whole), *settings_over], cwd=ROOT, check=True)
    one = json.loads((whole / "results.json").read_text())["metrics"]
    assert torchrun("run.py", "evaluate", str(whole), *settings_over).wait(timeout=120) == 0
    two = json.loads((whole / "results.json").read_text())["metrics"]
    assert {name: row["value"] for name, row in two.items()} == pytest.approx(
        {name: row["value"] for name, row in one.items()}, rel=1e-5
    )
    assert before["recon"]["n"] == one["recon"]["n"]
    # Ranks that agree on what is there already do not wait for one another.
    assert torchrun("run.py", "evaluate", str(whole), *settings_over[:3]).wait(timeout=120) == 0
    assert json.loads((whole / "results.json").read_text())["metrics"] == two
