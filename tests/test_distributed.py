"""Two processes on gloo: equal ranks, the same result as one process, and the same result after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.runs import ROOT, digest, rows, settings

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}


def torchrun(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*TORCHRUN, script, *arguments], cwd=ROOT, env=ENVIRONMENT, start_new_session=True)


def write(path: Path, values: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.mark.parametrize("variant", ["still", "duel"])
def test_ranks_hold_equal_parameters(variant: str, tmp_path: Path) -> None:
    """And without noise they are the parameters of one process at the same global batch."""
    two = write(tmp_path / "two.yaml", settings(tmp_path / "two", variant))
    assert torchrun("tests/rank_dump.py", two).wait(timeout=120) == 0
    first, second = (load_file(tmp_path / "two" / f"rank{rank}of2.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    if variant == "still":
        one = write(tmp_path / "one.yaml", settings(tmp_path / "one", variant))
        subprocess.run([sys.executable, "tests/rank_dump.py", one], cwd=ROOT, env=ENVIRONMENT, check=True)
        alone = load_file(tmp_path / "one" / "rank0of1.safetensors")
        for name in first:
            assert torch.allclose(first[name], alone[name], atol=1e-5), name


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


def test_evaluation_does_not_depend_on_the_number_of_processes(whole: Path) -> None:
    before = json.loads((whole / "results.json").read_text())["metrics"]
    settings_over = ["eval_batch_size=7", "device=cpu"]  # five batches: three for one rank, two for the other
    subprocess.run([sys.executable, "run.py", "evaluate", str(whole), *settings_over], cwd=ROOT, check=True)
    one = json.loads((whole / "results.json").read_text())["metrics"]
    assert torchrun("run.py", "evaluate", str(whole), *settings_over).wait(timeout=120) == 0
    two = json.loads((whole / "results.json").read_text())["metrics"]
    assert {name: row["value"] for name, row in two.items()} == pytest.approx(
        {name: row["value"] for name, row in one.items()}, rel=1e-5
    )
    assert before["recon"]["n"] == one["recon"]["n"]
