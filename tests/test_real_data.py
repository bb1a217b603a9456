"""The main job on real images: photographs of faces, and the MNIST notebook's losses. Skipped where the data is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, rows
from zoo.commands import main


@pytest.mark.slow
@pytest.mark.usefixtures("real_celeba")
def test_faces_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's command, on few photographs and for few steps."""
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "run.py", "--config", "configs/vanilla_celeba.yaml"]
    short = ["data.limit=300", "steps=16", "batch_size=32", "log_every=1", f"out={tmp_path / 'r'}"]
    subprocess.run([*launch, *short], cwd=ROOT, check=True)
    losses = [row["train/loss"] for row in rows(tmp_path / "r")]
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])  # seen: 0.74
    assert (tmp_path / "r" / "reconstructions.png").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("real_mnist")
def test_the_mnist_notebook_is_reproduced(tmp_path: Path) -> None:
    """Epochs 1 to 5 within 1.5 %, by the command in the README."""
    command = [sys.executable, "run.py", "--config", "configs/mlp_mnist.yaml", f"out={tmp_path / 'r'}"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert main(["reference", str(tmp_path / "r")]) == 0
