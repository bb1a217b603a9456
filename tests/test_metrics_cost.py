"""Cost: what is counted, what is timed, and what a training run wrote down."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import zoo
from zoo.base import BaseVAE, ImageSpec
from zoo.config import Config
from zoo.data import Data, Images
from zoo.metrics import cost
from zoo.metrics.core import Score, Subject
from zoo.testing import StubVAE


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SECONDS", 0.1)


class Slow(StubVAE):
    """20 ms for 10 images, and half a second for the first batch."""

    players = ("vae", "critic")

    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.net, self.critic = nn.Linear(3, 4), nn.Linear(2, 2, bias=False)
        self.warm = False

    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        assert n == 10
        time.sleep(0.02 if self.warm else 0.5)
        self.warm = True
        return torch.zeros(n, *self.image.shape)


def rows_of(model: BaseVAE, tmp_path: Path, **config: Any) -> dict[str, Score]:
    values = {"model": {"name": "mlp"}, "data": {"name": "toy"}, "steps": 1, "eval_batch_size": 10} | config
    images = Images(torch.zeros(4, *model.image.shape, dtype=torch.uint8), labels=torch.arange(4) % 2)
    subject = Subject(
        model.eval(),
        Data("toy", images, images, images),
        Config.model_validate(values),
        Accelerator(cpu=True),
        tmp_path,
    )
    return cost.cost(subject)


def test_parameters_of_all_players_and_the_speed_once_warm(tmp_path: Path) -> None:
    stub = sum(parameter.numel() for parameter in StubVAE(ImageSpec(1, 2, 2)).parameters())
    rows = rows_of(Slow(ImageSpec(1, 2, 2)), tmp_path)
    assert list(rows) == ["parameters", "sampling_images_per_second", "peak_memory"]
    assert rows["parameters"].value == stub + 3 * 4 + 4 + 2 * 2
    speed = rows["sampling_images_per_second"]
    assert 100 < speed.value <= 500
    assert (speed.unit, speed.higher_is_better, speed.sampler) == ("images/s", True, "prior")
    assert speed.n == 10  # a batch, however many were drawn: runs of one protocol have one n
    assert "batches of 10" in speed.protocol
    assert "cpu" in speed.protocol


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="asks Linux for the process's peak")
def test_peak_memory_is_the_processs(tmp_path: Path) -> None:
    row = rows_of(Slow(ImageSpec(1, 2, 2)), tmp_path)["peak_memory"]
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert row.value == pytest.approx(int(peak.split()[1]) / 1024, rel=0.05)  # kB
    assert (row.unit, row.higher_is_better) == ("MiB", False)
    assert "resident" in row.protocol


def test_training_speed_is_what_the_run_wrote_down(tmp_path: Path) -> None:
    results = {"images_per_second": 123.4, "processes": 2, "device": "cuda", "precision": "bf16"}
    (tmp_path / "results.json").write_text(json.dumps(results | {"batch_size": 128}))
    model = Slow(ImageSpec(1, 2, 2))
    row = rows_of(model, tmp_path, out=tmp_path)["training_images_per_second"]
    assert (row.value, row.unit, row.n, row.split) == (123.4, "images/s", 128, "train")
    assert "2 process(es) on cuda, global batch 128, precision bf16" in row.protocol
    (tmp_path / "results.json").write_text(json.dumps(results | {"images_per_second": None}))
    assert "training_images_per_second" not in rows_of(model, tmp_path, out=tmp_path)


def test_a_variant_that_needs_labels_is_given_some(tmp_path: Path) -> None:
    model = zoo.create("conditional", ImageSpec(1, 8, 8, classes=2), net="mlp", hidden_dims=[4], latent_dim=2)
    assert rows_of(model, tmp_path)["sampling_images_per_second"].value > 0
