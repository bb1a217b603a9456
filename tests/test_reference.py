"""Published numbers: that they are what the sources print, and that only equal protocols are ever compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from zoo.base import ImageSpec
from zoo.commands import main
from zoo.config import Config, apply_overrides, check, flatten
from zoo.data import DATASETS
from zoo.errors import UserError
from zoo.metrics.benchmark import asked_for
from zoo.metrics.core import METRICS
from zoo.models import create
from zoo.options import check_options, signature_options
from zoo.records import Metric, Results
from zoo.reports import reference
from zoo.reports.papers import Attempt
from zoo.reports.reference import Run, Table, compare_all, load_references, read_run, unmet

EPOCHS = [163.2387, 120.6043, 114.2044, 111.3464, 109.6627]


def mnist_config(**changes: Any) -> dict[str, Any]:
    return {
        "model": {"name": "mlp"},
        "data": {"name": "mnist", "val_from": "test", "limit": None, "flip": False},
        "optimizer": {"name": "adam", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
        **{"batch_size": 128, "lr": 0.001, "lr_schedule": "constant", "lr_warmup": 0, "clip": None, "epochs": 5.0},
    } | changes


def write_run(folder: Path, losses: list[float] = EPOCHS, config: dict[str, Any] | None = None, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config or mnist_config()))
    results = {"variant": "mlp", "dataset": "mnist", "image": [1, 28, 28], "seed": 0, "config_hash": "abc"}
    results |= {"precision": "no", "metrics": {"elbo": {"value": -108.0, "unit": "nats", "n": 5000, "split": "test"}}}
    (folder / "results.json").write_text(json.dumps(results | changes))
    rows = [row for i, loss in enumerate(losses, 1) for row in ({"step": i}, {"step": i, "train/epoch_loss": loss})]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_file_holds_what_the_sources_print() -> None:
    found = {
        (r.table.source.split(",")[0], r.table.metric, r.table.dataset, r.variant, r.values) for r in load_references()
    }
    for row in (
        ("source documents", "train/epoch_loss", "mnist", "mlp", tuple(EPOCHS)),
        ("Burda et al. 2016", "nll", "mnist", "iwae", (84.78,)),
        ("Davidson et al. 2018", "nll", "mnist", "hyperspherical", (93.16,)),
        ("Ghosh et al. 2020", "fid@gmm10", "mnist", "rae_l2", (8.69,)),
        ("Ghosh et al. 2020", "fid", "celeba", "vanilla", (48.12,)),
        ("Ghosh et al. 2020", "rfid", "cifar10", "wae_mmd", (35.97,)),
        ("Child 2021", "bits_per_dim", "cifar10", "vdvae", (2.87,)),
        ("CFASL (arXiv:2401.08897)", "mig", "dsprites", "beta_tc", (0.2395,)),
    ):
        assert row in found
    assert len(found) > 140


def test_a_table_is_compared_with_conditions_and_tolerance_or_not_at_all() -> None:
    head = {"source": "s", "metric": "fid", "unit": "", "dataset": "d", "protocol": "p", "values": {"v": 1.0}}
    for half in ({"tolerance": 0.1, "conditions": None}, {"tolerance": None, "conditions": {"lr": 1}}):
        with pytest.raises(UserError, match="both tolerance and conditions"):
            check(Table, head | half, "t")
    with pytest.raises(UserError, match="both tolerance and conditions"):
        check(Table, head | {"tolerance": 0.1, "conditions": {}}, "t")


def test_a_likelihood_of_grey_pixels_is_never_held_against_a_paper() -> None:
    head = {"source": "s", "metric": "nll", "unit": "nats", "protocol": "p", "tolerance": 0.1, "values": {"v": 1.0}}
    for data in ({"binarize": "none"}, {"limit": None}):
        with pytest.raises(UserError, match="nll of grey pixels is no likelihood that a paper prints"):
            check(Table, head | {"dataset": "mnist", "conditions": {"data": data}}, "t")
    check(Table, head | {"dataset": "mnist", "conditions": {"data.binarize": "fixed"}}, "t")
    check(Table, head | {"dataset": "binarized_mnist", "conditions": {"lr": 1}}, "t")


# ---- each table with conditions can be met: what it asks of a run is something that a config can hold


def run_of(published: reference.Reference) -> Run:
    """Return a run made of a table's conditions and of defaults, checked as a run's config is.

    Raises:
        UserError: if the conditions hold a key or a value that no run has.
    """
    table = published.table
    asked = {"config": {}, "results": {}, "score": {}}  # type: dict[str, dict[str, Any]]
    for key, value in flatten(table.conditions or {}).items():
        part, _, rest = key.partition(".")
        known = part in ("results", "score")
        asked[part if known else "config"][rest if known else key] = value
    config: dict[str, Any] = {"model": {"name": published.variant}, "data": {"name": table.dataset}}
    for key, value in asked["config"].items():
        config = apply_overrides(config, [f"{key}={json.dumps(value)}"])
    if not {"epochs", "steps"} & config.keys():
        config["epochs"] = 1.0
    made: Config = check(Config, config, "conditions")
    image = ImageSpec(*asked["results"]["image"])
    with torch.device("meta"):
        create(made.model.name, image, **made.model.options)
    dataset = DATASETS.lookup(made.data.name)
    check_options(f"data set {made.data.name!r}", signature_options(dataset.target), made.data.options)
    root = table.metric.partition("@")[0]
    if table.metric not in EPOCH_ROWS:
        METRICS.lookup(root)
    asked_for(made, made.benchmark.options.keys())
    score = {"value": 1.0, "unit": table.unit} | asked["score"]
    results = {"variant": published.variant, "dataset": table.dataset, "seed": 0, "config_hash": "h"}
    strict = {name: type(name, (model,), {"model_config": {"extra": "forbid"}}) for name, model in SCHEMAS.items()}
    metric = check(strict["Metric"], score, "score")
    plain = check(strict["Results"], results | asked["results"] | {"metrics": {table.metric: metric.model_dump()}}, "r")
    dumped = made.dump()
    return Run(Path(), plain, reference.settings_of(dumped))


EPOCH_ROWS = ("train/epoch_loss",)
SCHEMAS = {"Metric": Metric, "Results": Results}
COMPARED = [published for published in load_references() if published.table.conditions is not None]


@pytest.mark.parametrize(
    "published", COMPARED, ids=lambda r: f"{r.variant}-{r.table.dataset}-{r.table.metric}-{r.values[0]}"
)
def test_a_run_can_meet_each_tables_conditions(published: reference.Reference) -> None:
    assert unmet(published, run_of(published)) is None
    assert published.values[0] > 0 or published.table.metric == "elbo"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.binarise", "dynamic"),
        ("data.binarize", "larochelle"),
        ("lr_schedule", "multistep"),
        ("model.k", 5),
        ("model.beta", 1),  # which an importance-weighted bound has not
        ("model.activation", "tahn"),
        ("optimizer.epsilon", 1e-4),
        ("benchmark.options.nll.samples", 5000),
        ("score.images", 10_000),
        ("results.images", [1, 28, 28]),
        ("patience", 0),
    ],
)
def test_a_condition_that_nothing_can_meet_is_found(key: str, value: Any) -> None:
    iwae = next(r for r in COMPARED if r.variant == "iwae")
    table = iwae.table.model_copy(update={"conditions": (iwae.table.conditions or {}) | {key: value}})
    with pytest.raises(UserError):
        run_of(reference.Reference("iwae", iwae.values, table))


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.0149, 0), (0.9851, 0), (1.0151, 1), (0.98, 1)])
def test_one_epoch_outside_the_tolerance_is_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, code: int
) -> None:
    run = write_run(tmp_path / "run", [*EPOCHS[:3], EPOCHS[3] * factor, EPOCHS[4]])
    assert main(["reference", str(run)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["epoch", "published", "ours", "difference"]
    fourth = ["4", "111.3464", f"{EPOCHS[3] * factor:.4f}", f"{100 * (factor - 1):+.2f}", "%"]
    assert lines[6].split() == [*fourth, "outside" if code else "within"]
    assert lines[-1] == ("outside" if code else "within") + " the tolerance of 1.5 %"


def test_later_epochs_do_not_count(tmp_path: Path) -> None:
    assert main(["reference", str(write_run(tmp_path / "run", [*EPOCHS, 1.0]))]) == 0


@pytest.mark.parametrize(
    ("config", "results", "named"),
    [
        ({"batch_size": 64}, {}, "batch_size 128, and the run has 64"),
        ({"model": {"name": "mlp", "latent_dim": 8}}, {}, "model.latent_dim 20, and the run has 8"),
        ({"model": {"name": "mlp", "recon": "mse"}}, {}, "model.recon bce, and the run has mse"),
        ({"data": {"name": "mnist", "val_from": "train"}}, {}, "data.val_from test, and the run has train"),
        ({}, {"image": [1, 32, 32]}, r"results.image \[1, 28, 28\], and the run has \[1, 32, 32\]"),
        ({}, {"precision": "bf16"}, "results.precision no, and the run has bf16"),
    ],
)
def test_another_protocol_is_never_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], results: dict[str, Any], named: str
) -> None:
    folder = write_run(tmp_path / "run", config=mnist_config(**config), **results)
    assert compare_all(load_references(), [read_run(folder)]) == []
    assert main(["reference", str(folder)]) == 2
    error = capsys.readouterr().err
    assert re.search(named, error) and error.count("\n") == 1


def test_an_explicit_default_is_the_default(tmp_path: Path) -> None:
    config = mnist_config(model={"name": "mlp", "latent_dim": 20, "hidden_dims": [400], "recon": "bce"})
    assert main(["reference", str(write_run(tmp_path / "run", config=config))]) == 0


def test_too_few_epochs_and_unknown_rows_stay_blank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = write_run(tmp_path / "short", EPOCHS[:3])
    assert compare_all(load_references(), [read_run(short)]) == []
    assert main(["reference", str(short)]) == 2
    assert "it has not all of the 5 values of train/epoch_loss" in capsys.readouterr().err
    assert main(["reference", str(write_run(tmp_path / "other", variant="odd"))]) == 2
    assert "nothing is published for odd on mnist" in capsys.readouterr().err


def test_seeds_are_averaged_before_they_are_held_against_a_number(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / str(f), [f * e for e in EPOCHS], seed=i)) for i, f in enumerate((0.97, 1.02))]
    (comparison,) = compare_all(load_references(), runs)
    assert comparison.within and comparison.worst == pytest.approx(-0.005)
    assert [c.within for run in runs for c in compare_all(load_references(), [run])] == [False, False]


def test_a_score_is_compared_only_under_its_own_protocol() -> None:
    table = check(
        Table,
        {
            **{"source": "s", "metric": "fid", "unit": "", "dataset": "d", "protocol": "p", "tolerance": 0.1},
            **{"conditions": {"score": {"n": 10, "sampler": "prior"}, "model.net": "rae"}, "values": {"v": 20.0}},
        },
        "t",
    )
    published = reference.Reference("v", (20.0,), table)

    def run(**changes: Any) -> Run:
        score = Metric(**{"value": 21.9, "n": 10, "sampler": "prior"} | changes)
        results = Results(variant="v", dataset="d", image=(1, 2, 2), seed=0, config_hash="h", metrics={"fid": score})
        return Run(Path(), results, {"model.net": "rae"})

    (comparison,) = compare_all([published], [run()])
    assert comparison.within and str(comparison) == "fid +9.50 %, within 10 % of s"
    assert not compare_all([published], [run(value=22.1)])[0].within
    for other in ({"n": 20}, {"sampler": "gmm10"}, {"unit": "nats"}):
        assert compare_all([published], [run(**other)]) == []
    assert unmet(published, Run(Path(), run().results, {})) == "it needs model.net rae, and the run has no such setting"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_in_percent_has_the_sign_of_the_difference(sign: int) -> None:
    table = next(each.table for each in load_references() if each.table.tolerance)
    published = reference.Reference("v", (sign * 100.0,), table)
    assert reference.Comparison(published, (sign * 100.0 + 2,)).worst == pytest.approx(0.02)
    assert Attempt("row", published, {0: (sign * 100.0 - 2,)}).cells[2] == "-2.00 (-2.0 %)"


def test_facts_are_never_compared() -> None:
    facts = [r for r in load_references() if r.table.conditions is None]
    assert len(facts) > 80
    for fact in facts:
        score = Metric(value=fact.values[0], unit=fact.table.unit)
        dataset, metric = fact.table.dataset, fact.table.metric
        results = Results(
            variant=fact.variant, dataset=dataset, image=(1, 1, 1), seed=0, config_hash="h", metrics={metric: score}
        )
        assert compare_all([fact], [Run(Path(), results, {})]) == []


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda run: (run / "results.json").unlink(), "is no finished run"),
        (lambda run: (run / "results.json").write_text('{"variant": "ml'), "is cut off or not JSON"),
        (lambda run: (run / "results.json").write_text('{"variant": "mlp"}'), "'dataset' is missing"),
        (lambda run: (run / "config.yaml").unlink(), "there is no config.yaml in it"),
        (lambda run: (run / "config.yaml").write_text("mod"), "is cut off: it names no model"),
    ],
)
def test_a_run_that_is_half_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: Any, said: str
) -> None:
    run = write_run(tmp_path / "run")
    break_it(run)
    assert main(["reference", str(run)]) == 2
    error = capsys.readouterr().err
    assert said in error and str(run) in error and error.count("\n") == 1
