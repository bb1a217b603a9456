"""What every run reports, and how metrics are computed once: by default list, by cache, and without losing anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

import zoo
from tests.runs import ROOT, make_config, run
from tests.test_samplers import Flat
from zoo.base import BaseVAE, Batch, ImageSpec
from zoo.config import Config
from zoo.data import Data, Images
from zoo.errors import Undelivered, UserError
from zoo.evaluation import evaluate_run
from zoo.metrics.benchmark import EVERY_RUN
from zoo.metrics.core import METRICS, Score, Subject, register_metric
from zoo.metrics.latent import mutual_information
from zoo.metrics.likelihood import elbo
from zoo.metrics.loss import loss
from zoo.metrics.reconstruction import psnr
from zoo.records import read_results

PUBLISHED = ROOT / "benchmarks" / "results" / "zoo" / "runs"


def subject_of(model: BaseVAE, **config: Any) -> Subject:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (27, *model.image.shape), dtype=torch.uint8, generator=generator)
    values = {"model": {"name": "mlp"}, "data": {"name": "toy"}, "steps": 1, "eval_batch_size": 10} | config
    how = values["data"].get("binarize", "none")
    test = Images(pixels, torch.arange(27) % max(model.image.classes, 1), draw="" if how == "none" else f"test {how} 0")
    return Subject(
        model.eval(), Data("toy", test, test, test), Config.model_validate(values), Accelerator(cpu=True), Path()
    )


def beta() -> BaseVAE:
    torch.manual_seed(0)
    return zoo.create(
        "beta", ImageSpec(1, 4, 4), net="mlp", hidden_dims=[4], latent_dim=2, recon="bce", beta=4.0, warmup=0.5
    )


def counted(model: BaseVAE) -> list[int]:
    """Let a model count the images that its loss sees."""
    seen: list[int] = []
    its_own = model.loss

    def loss_of(batch: Batch) -> dict[str, Tensor]:
        seen.append(len(batch.x))
        return its_own(batch)

    model.loss = loss_of  # type: ignore[method-assign]
    return seen


# ---- the metric


def test_loss_averages_the_models_own_terms_over_images() -> None:
    subject = subject_of(beta())
    rows = loss(subject)
    assert list(rows) == ["loss", "recon", "kl", "elbo"]
    sums: Counter[str] = Counter()
    subject.model.progress.fill_(1.0)  # the weight of the KL has risen
    for _, batch in subject.batches(subject.data.test):
        with torch.no_grad():
            sums.update({name: len(batch.x) * term.item() for name, term in subject.model.loss(batch).items()})
    for name, row in rows.items():
        assert row.value == pytest.approx(sums[name] / 27, rel=1e-5)
        assert (row.unit, row.n, row.split) == ("nats", 27, "test")
    assert rows["loss"].value == pytest.approx(rows["recon"].value + 4 * rows["kl"].value, rel=1e-5)
    assert [row.higher_is_better for row in rows.values()] == [None, None, None, True]
    assert subject.notes == {"terms": {"beta": pytest.approx(4.0)}}


def test_elbo_is_one_measurement_and_one_row_whoever_reports_it() -> None:
    subject = subject_of(beta())
    seen = counted(subject.model)
    rows = loss(subject)
    assert elbo(subject)["elbo"] == rows["elbo"]
    assert elbo(subject)["rate"].value == rows["kl"].value
    split = mutual_information(subject)
    assert split["mutual_information"].value + split["marginal_kl"].value == pytest.approx(rows["kl"].value, rel=1e-5)
    assert seen == [10, 10, 7]
    assert elbo(subject, binarise="fixed")["elbo_fixed"].value != rows["elbo"].value
    assert sum(seen) == 54, "other pixels are measured anew"


class Counting(Flat):
    """Counts its bound by itself: it has no likelihood to name."""

    batch_terms = ("loss",)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": -batch.x.mean(), "elbo": batch.x.mean()}


def test_a_bound_without_a_likelihood_and_a_loss_over_batches_say_so() -> None:
    rows = loss(subject_of(Counting(ImageSpec(1, 2, 2))))
    how = "pixels in [0, 1]; one posterior sample per image; "
    assert rows["elbo"].protocol == f"{how}all constants of the likelihood included"
    assert rows["loss"].protocol == f"{how}as the training loss has it; over batches of 10"


@pytest.mark.parametrize("name", sorted(path.name for path in PUBLISHED.glob("*_0")))
def test_protocols_are_those_of_the_published_results(name: str) -> None:
    """New numbers stand in the columns of the old ones."""
    config = yaml.safe_load((PUBLISHED / name / "config.yaml").read_text())
    published = json.loads((PUBLISHED / name / "results.json").read_text())
    image = ImageSpec(*published["image"], tuple(config["data"]["range"]), classes=10, train_size=60_000)
    model = zoo.create(config["model"].pop("name"), image, **config["model"])
    subject = subject_of(model, data=config["data"], eval_batch_size=config["eval_batch_size"])
    rows = loss(subject) | psnr(subject)
    every = {"loss", "recon", "kl", "elbo", "psnr"} & published["metrics"].keys()
    assert rows.keys() == every
    assert subject.notes["terms"].keys() == published["terms"].keys()
    for metric in every:
        old = published["metrics"][metric]
        assert (rows[metric].protocol, rows[metric].unit) == (old["protocol"], old["unit"])
        assert rows[metric].higher_is_better == old.get("higher_is_better")


# ---- a run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Name each metric that is computed, among those of every run, mse, and two that fail."""
    monkeypatch.setattr(METRICS, "_entries", {entry.name: entry for entry in METRICS})
    names: list[str] = []
    for name in (*EVERY_RUN, "mse"):
        entry = METRICS.lookup(name)

        def computed(subject: Subject, name: str = name, target: Any = entry.target) -> dict[str, Score]:
            names.append(name)
            return target(subject)

        METRICS._entries[name] = type(entry)(name, computed)
    yield names
    AcceleratorState._reset_state(reset_partial_state=True)


def evaluate(out: Path, *overrides: str, again: bool = False) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    evaluate_run(out, list(overrides), again)


def test_every_run_reports_the_same_and_nothing_twice(
    tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    assert run(make_config(out, steps=3)) == 0
    assert calls == ["loss", "psnr"]
    first = read_results(out)
    assert first["benchmarked"].keys() == {"loss", "psnr"} and first["terms"] == {}
    assert first["metrics"].keys() == {"loss", "recon", "kl", "elbo", "psnr"} and first["steps"] == 3

    evaluate(out, "benchmark.metrics=[psnr,mse,loss]")
    assert calls == ["loss", "psnr", "mse"]
    assert "psnr: already in" in capsys.readouterr().out
    assert read_results(out)["metrics"].items() >= first["metrics"].items()

    evaluate(out, "benchmark.metrics=[psnr,mse,loss]", again=True)
    assert calls[3:] == ["loss", "psnr", "mse"]
    evaluate(out, "eval_batch_size=7")
    assert calls[6:] == ["loss", "psnr"]

    (out / "config.yaml").write_text((out / "config.yaml").read_text().replace("steps: 3", "steps: 5"))
    assert run(make_config(out, steps=5), resume=True) == 0
    assert calls[8:] == ["loss", "psnr"], "the weights are others"
    assert read_results(out)["steps"] == 5


def test_terms_of_the_variants_own_are_kept_with_its_loss(tmp_path: Path, calls: list[str]) -> None:
    out = tmp_path / "r"
    model = {"name": "beta", "net": "mlp", "hidden_dims": [4], "beta": 4.0}
    assert run(make_config(out, "beta", model=model, steps=2)) == 0
    assert read_results(out)["terms"] == {"beta": 4.0}
    evaluate(out)
    assert calls == ["loss", "psnr"] and read_results(out)["terms"] == {"beta": 4.0}


def test_a_metric_that_fails_loses_nothing(
    tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    here: list[set[str]] = []

    @register_metric("picky")
    def picky(subject: Subject) -> dict[str, Score]:
        here.append({*read_results(out), *(path.name for path in out.glob("*.png"))})
        raise UserError("no such luck")

    with pytest.raises(Undelivered, match=f"no picky, for the reason above; all else is in {out}"):
        run(make_config(out, steps=3, benchmark={"metrics": ["picky", "mse", "codebook"]}))
    [before] = here
    assert {"variant", "command", "metrics", "terms", "latent_space.png", "training_losses.png"} <= before
    err = capsys.readouterr().err
    assert "warning: no picky: no such luck" in err
    assert "warning: no codebook: 'mlp' has no codebook" in err, "which is no fault: there is none to be measured"
    assert {"elbo", "psnr", "mse"} <= read_results(out)["metrics"].keys()
    for again in (False, True):  # once more only if it is asked for
        evaluate_run(out, ["benchmark.metrics=[codebook]"], again=again)
        assert ("codebook: does not apply, says" in capsys.readouterr().out) != again


def test_what_every_run_reports_must_come_out(tmp_path: Path, calls: list[str]) -> None:
    def fails(subject: Subject) -> dict[str, Score]:
        raise UserError("no such luck")

    METRICS._entries["psnr"] = type(METRICS.lookup("psnr"))("psnr", fails)
    with pytest.raises(UserError, match="no such luck"):
        run(make_config(tmp_path / "r", steps=3))
    assert zoo.load(tmp_path / "r")


def test_a_run_imports_no_library_that_its_metrics_do_not_need() -> None:
    script = "import sys; from zoo.metrics.core import METRICS; list(METRICS); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "zoo.metrics.reconstruction" in modules
    assert not {"torchmetrics", "torchvision", "sklearn", "scipy.stats", "torch_fidelity"} & modules


def test_reports_import_no_torch() -> None:
    script = "import sys, zoo.reports.suite, zoo.reports.leaderboard; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "zoo.files" in done.stdout.split() and "torch" not in done.stdout.split()
