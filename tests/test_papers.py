"""Published rows: that each has a config which meets its conditions, and what is said of the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.papers import with_section
from tests.runs import ROOT, settings
from zoo.base import ImageSpec
from zoo.commands import main
from zoo.config import load_config
from zoo.models import create
from zoo.reports import papers
from zoo.reports.papers import attempts, config_path, names, published_for
from zoo.reports.reference import load_references

PUBLISHED_NLL = 123.45


@pytest.mark.parametrize("name", names())
def test_a_papers_config_meets_a_papers_conditions(name: str) -> None:
    """Also it says what it must give, what it departs in, and how long it takes."""
    config = load_config(config_path(name))
    met = published_for(config, load_references())
    assert met, "no table of reference.yaml has these settings"
    head = config_path(name).read_text().partition("base:")[0]
    assert any(f"{abs(published.values[-1]):.2f}" in head for published in met)
    assert "Departs:" in head and "About" in head
    assert {published.table.metric for published in met} <= {*config.benchmark.metrics, "train/epoch_loss"}
    create(config.model.name, ImageSpec(1, 28, 28), **config.model.options)


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A row of ten steps on binarised digits, with two seeds, and what is published for it; the current folder."""
    monkeypatch.chdir(tmp_path)
    configs = tmp_path / "configs"
    configs.mkdir()
    values = settings(tmp_path / "unused", steps=10, checkpoint_every=10, seeds=[0, 1])
    values |= {"data": values["data"] | {"binarize": "dynamic"}, "benchmark": {"metrics": ["elbo"]}}
    del values["out"], values["device"], values["threads"]
    (configs / "toy.yaml").write_text(yaml.safe_dump(values))
    table: dict[str, Any] = {
        **{"source": "Nobody 2026, table 1", "metric": "elbo", "unit": "nats", "dataset": "digits", "protocol": "p"},
        **{"tolerance": 0.01, "values": {"mlp": -PUBLISHED_NLL}, "sd": {"mlp": 1.5}},
        "conditions": {"batch_size": 32, "data.binarize": "dynamic", "score.split": "test"},
    }
    (tmp_path / "reference.yaml").write_text(yaml.safe_dump([table]))
    monkeypatch.setattr(papers, "CONFIGS", configs)
    monkeypatch.setattr(papers, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(papers, "load_references", lambda: load_references(tmp_path / "reference.yaml"))
    return tmp_path


def test_a_row_is_run_for_each_seed_and_held_against_what_is_published(
    row: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["papers"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split("  ")[-1] == "not run"
    assert main(["papers", "toy", "threads=1", "device=cpu"]) == 1  # ten steps are too few
    out = capsys.readouterr().out
    assert "[2/2] seed1" in out and "outside" in out
    (attempt,) = attempts("toy", [papers.RUNS], papers.load_references())
    assert set(attempt.ours) == {0, 1} and attempt.ours[0] != attempt.ours[1]
    assert f"{attempt.means[0]:.2f} ± " in out and "(2 seeds)" in out and "-123.45 ± 1.50" in out
    # A second time it is only read; what is not right any more, is said.
    assert main(["papers", "toy", "threads=1"]) == 1
    assert capsys.readouterr().out.count("is finished already") == 2
    references = (row / "reference.yaml").read_text()
    (row / "reference.yaml").write_text(references.replace(f"-{PUBLISHED_NLL}", f"{attempt.means[0] + 1.4}"))
    assert main(["papers", "toy", "threads=1"]) == 0  # within the published spread of 1.5, though not within 1 %
    (row / "reference.yaml").write_text(references.replace("split: test", "split: val"))
    capsys.readouterr()
    assert main(["papers"]) == 0
    assert "not the protocol: it needs score.split val, and the run has test" in capsys.readouterr().out


@pytest.mark.slow
def test_the_projects_own_runs_are_shown_where_there_are_no_others(
    row: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["papers", "toy", "threads=1", "device=cpu"]) == 1
    capsys.readouterr()
    (row / "runs" / "papers").rename(row / "published")
    assert main(["papers"]) == 0
    assert "outside" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tyo"], "there is no paper's row 'tyo'. Did you mean 'toy'? Known: toy"),
        (["toy", "lr=1"], "lr is part of the row's protocol"),
        (["toy", "benchmark.metrics=[]"], "benchmark.metrics is part of the row's protocol"),
        (["toy", "threads=no"], "threads"),
    ],
)
def test_a_mistake_is_a_sentence(
    row: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["papers", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (row / "runs").exists()


def test_readme_tells_what_the_committed_runs_came_to() -> None:
    readme = (ROOT / "README.md").read_text()
    assert with_section(readme) == readme, "run `python -m benchmarks.papers`"
