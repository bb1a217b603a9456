"""The leaderboard: what is averaged, what is ranked against what, what is said of broken runs, and the page itself."""

from __future__ import annotations

import csv
import html
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import stdev
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from PIL import Image

from tests.runs import ROOT
from tests.test_reference import EPOCHS, mnist_config
from tests.test_reference import write_run as write_mnist_run
from zoo.commands import main
from zoo.reports.board import pictures
from zoo.reports.board.families import FAMILIES
from zoo.reports.board.reading import build_boards, find_runs
from zoo.reports.board.rows import Board, Column
from zoo.reports.board.views import MOST_METRICS, tables, views
from zoo.reports.reference import load_references

Metrics = dict[str, dict[str, Any]]


def elbo(value: float, **changes: Any) -> Metrics:
    return {"elbo": {"value": value, "unit": "nats", "higher_is_better": True, "n": 180, "split": "test"} | changes}


def write_run(
    folder: Path, variant: str = "mlp", seed: int = 0, metrics: Metrics | None = None, **changes: Any
) -> Path:
    """A finished run; `model` and `data` lay settings over its config, other changes lie over its results."""
    config = {
        "model": {"name": variant, **changes.pop("model", {})},
        "data": {"name": changes.get("dataset", "digits"), "val_fraction": 0.1, **changes.pop("data", {})},
        "seed": seed,
        "out": str(folder),
    }
    settings = {key: value for key, value in config.items() if key not in ("seed", "out")}
    results = {
        **{"variant": variant, "dataset": "digits", "image": [1, 16, 16], "seed": seed, "parameters": 1000},
        **{"steps": 100, "epochs": 5.0, "batch_size": 64, "images_per_second": 640.0, "device": "cpu"},
        **{"config_hash": f"{hash(json.dumps(settings)):x}", "metrics": elbo(-100.0) if metrics is None else metrics},
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "results.json").write_text(json.dumps(results | changes))
    for number, name in enumerate(("generated_samples.png", "reconstructions.png")):
        Image.new("L", (300, 300), 80 * number + seed).save(folder / name)
    return folder


def boards_of(root: Path) -> list[Board]:
    return build_boards(find_runs(root)[0], load_references())


def column(board: Board, name: str) -> Column:
    (found,) = [column for column in board.columns if column.name == name]
    return found


def best(board: Board, name: str) -> list[str]:
    return [row.name for row in board.rows for c, cell in row.cells.items() if c.name == name and cell.best]


def data_of(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found)


def build(root: Path, out: Path) -> str:
    assert main(["leaderboard", str(root), "--out", str(out)]) == 0
    return (out / "leaderboard.html").read_text(encoding="utf-8")


def test_seeds_are_averaged_and_their_spread_is_that_of_a_sample(tmp_path: Path) -> None:
    values = [-100.0, -103.0, -101.0]
    for seed, value in enumerate(values):
        write_run(tmp_path / "deep" / str(seed) / "run", seed=seed, metrics=elbo(value))
    write_run(tmp_path / "other", "odd", metrics=elbo(-102.0))
    (board,) = boards_of(tmp_path)
    row, single = board.rows
    cell = row.cells[column(board, "elbo")]
    assert (row.seeds, cell.mean, cell.sd) == ([0, 1, 2], pytest.approx(-304 / 3), pytest.approx(stdev(values)))
    half = 4.302653 * stdev(values) / math.sqrt(3)  # Student's t, two degrees of freedom
    assert cell.interval is not None and cell.interval.half == pytest.approx(half, rel=1e-6)
    assert board.text(row, column(board, "elbo")) == f"-101.33 ± {half:.2f}"
    assert board.text(single, column(board, "elbo")) == "-102.00"
    assert board.text(row, column(board, "parameters")) == "1,000"
    assert row.cells[column(board, "training_time")].mean == pytest.approx(10)


def write_seeds(folder: Path, name: str, values: list[float], **changes: Any) -> None:
    """A row of several seeds, by its mean ELBO."""
    for seed, value in enumerate(values):
        write_run(folder / f"{name}_digits_{seed}", name, seed, metrics=elbo(value, **changes))


def test_best_goes_the_metrics_own_way_and_never_to_what_does_not_rank(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        for seed in range(3):
            ways = (("up", True), ("down", False), ("no", None))
            rows = {key: {"value": value + seed / 100, "higher_is_better": way} for key, way in ways}
            write_run(tmp_path / name / str(seed), name, seed, metrics=rows)
    (board,) = boards_of(tmp_path)
    assert (best(board, "up"), best(board, "down"), best(board, "no")) == (["b"], ["a"], [])
    assert [column(board, name).arrow for name in ("up", "down", "no")] == ["↑", "↓", ""]
    assert [row.name for row in board.rows] == ["a", "b"]  # by "down", the first ranked column


def test_what_cant_be_told_from_the_best_is_as_good_and_one_seed_never_wins_alone(tmp_path: Path) -> None:
    write_seeds(tmp_path, "sure", [-10.0, -10.1, -9.9])
    write_seeds(tmp_path, "tied", [-10.2, -9.7, -10.3])
    write_seeds(tmp_path, "worse", [-20.0, -20.1, -19.9])
    write_seeds(tmp_path, "lucky", [-9.0])
    write_seeds(tmp_path, "unlucky", [-30.0])
    (board,) = boards_of(tmp_path)
    assert sorted(best(board, "elbo")) == ["sure", "tied"]


def test_one_seed_each_shows_nothing(tmp_path: Path) -> None:
    write_seeds(tmp_path, "a", [-1.0])
    write_seeds(tmp_path, "b", [-2.0])
    (board,) = boards_of(tmp_path)
    assert best(board, "elbo") == []


def test_with_few_seeds_an_interval_is_over_test_images(tmp_path: Path) -> None:
    write_seeds(tmp_path, "a", [-1.0, -2.0], se=0.5)
    write_seeds(tmp_path, "b", [-3.0])
    (board,) = boards_of(tmp_path)
    cells = {row.name: row.cells[column(board, "elbo")] for row in board.rows}
    between = cells["a"].interval
    assert between is not None and between.over == "images" and between.half == pytest.approx(1.96 * 0.5, rel=1e-3)
    assert cells["b"].interval is None


def test_a_lone_number_and_one_that_is_not_finite_are_not_best(tmp_path: Path) -> None:
    for seed in (0, 1):
        lone = {"lone": {"value": 1.0 + seed, "higher_is_better": True}}
        write_run(tmp_path / f"a{seed}", "a", seed, metrics=elbo(-1.0 - seed / 9) | lone)
        write_run(tmp_path / f"b{seed}", "b", seed, metrics=elbo(math.nan))
        write_run(tmp_path / f"c{seed}", "c", seed, metrics=elbo(math.inf))
    (board,) = boards_of(tmp_path)
    assert best(board, "lone") == [] and best(board, "elbo") == []  # there is nothing to be better than
    assert [board.text(row, column(board, "elbo")) for row in board.rows if row.variant == "b"] == ["nan"]


@pytest.mark.parametrize("change", [{"protocol": "other"}, {"n": 90}, {"split": "val"}, {"sampler": "gmm10"}])
def test_numbers_of_another_protocol_stand_in_a_column_of_their_own(tmp_path: Path, change: dict[str, Any]) -> None:
    for name, value, changes in (("a", -1.0, {}), ("b", -2.0, {}), ("c", 5.0, change), ("d", 4.0, change)):
        for seed in range(3):
            metrics = elbo(value + seed / 100, **changes)
            write_run(tmp_path / f"{name}{seed}", name, seed, metrics=metrics)
    (board,) = boards_of(tmp_path)
    pair = [c for c in board.columns if c.name == "elbo"]
    assert len(pair) == 2 and len({board.headings[c] for c in pair}) == 2
    assert sorted(best(board, "elbo")) == ["a", "c"]
    assert [len([row for row in board.rows if c in row.cells]) for c in pair] == [2, 2]


def test_the_protocol_that_most_rows_have_comes_first(tmp_path: Path) -> None:
    for name, protocol in (("a", "first by name"), ("b", "second by name"), ("c", "second by name")):
        write_run(tmp_path / name, name, metrics=elbo(-1.0, protocol=protocol))
    (board,) = boards_of(tmp_path)
    first, second = [c for c in board.columns if c.name == "elbo"]
    assert (first.protocol, second.protocol) == ("second by name", "first by name")
    assert board.headings[first] == "elbo, second by name"  # a likelihood is called by its kind


def test_numbers_of_one_name_are_told_apart_by_letters_where_nothing_else_tells(tmp_path: Path) -> None:
    for name, protocol in (("a", "one"), ("b", "other")):
        write_run(tmp_path / name, name, metrics={"psnr": {"value": 1.0, "protocol": protocol}})
    (board,) = boards_of(tmp_path)
    assert [board.headings[c] for c in board.columns if c.name == "psnr"] == ["psnr, protocol A", "psnr, protocol B"]


@pytest.mark.parametrize(
    "change", [{"dataset": "mnist"}, {"image": [1, 8, 8]}, {"data": {"val_fraction": 0.5}}, {"data": {"limit": 9}}]
)
def test_numbers_of_other_images_stand_on_a_board_of_their_own(tmp_path: Path, change: dict[str, Any]) -> None:
    write_run(tmp_path / "a", "a", metrics=elbo(-1.0))
    write_run(tmp_path / "b", "b", metrics=elbo(-2.0), **change)
    boards = boards_of(tmp_path)
    assert [len(board.rows) for board in boards] == [1, 1]
    assert len({board.title for board in boards}) == 2
    assert [best(board, "elbo") for board in boards] == [[], []]


def test_two_configs_of_one_variant_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "beta", model={"net": "mlp"})  # β = 4 by default
    write_run(tmp_path / "b", "beta", model={"net": "mlp", "beta": 0.5})
    write_run(tmp_path / "c", "beta", model={"net": "mlp", "beta": 0.5, "latent_dim": 8})
    write_run(tmp_path / "d", "mlp")
    (board,) = boards_of(tmp_path)
    names = {"beta β=4, latent_dim=32", "beta β=0.5, latent_dim=32", "beta β=0.5, latent_dim=8", "mlp"}
    assert {row.name for row in board.rows} == names


def test_a_repeated_run_counts_once_the_newer_one(tmp_path: Path) -> None:
    old, new = (write_run(tmp_path / name, metrics=elbo(value)) for name, value in (("y", -1.0), ("x", -2.0)))
    os.utime(old / "results.json", (1, 1))
    runs, problems = find_runs(tmp_path)
    assert [run.folder for run in runs] == [new]
    assert problems == [f"{old} repeats {new}, which is newer: same config, same seed"]


def test_what_lies_inside_a_run_is_no_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    inside = run / "wandb" / "run-1" / "files"
    inside.mkdir(parents=True)
    (inside / "config.yaml").write_text("wandb: 1")
    assert find_runs(tmp_path)[1] == []


def test_broken_runs_are_named_one_sentence_each_and_the_others_come_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "whole", "whole")
    (write_run(runs / "unscored") / "results.json").unlink()
    (write_run(runs / "cut", seed=1) / "results.json").write_text('{"variant": "m')
    (write_run(runs / "bare", "bare") / "generated_samples.png").unlink()
    picture = write_run(runs / "torn", "torn") / "reconstructions.png"
    picture.write_bytes(picture.read_bytes()[:60])
    page = build(runs, tmp_path / "out")
    captured = capsys.readouterr()
    warnings = captured.err.splitlines()
    assert len(warnings) == 4
    for folder, words in (("unscored", "there is no results.json"), ("cut", "is cut off"), ("bare", "is missing")):
        assert sum(str(runs / folder) in line and words in line for line in warnings) == 1
    assert sum(str(picture) in line and "is not a whole picture" in line for line in warnings) == 1
    for variant in ("whole", "bare", "torn"):
        assert re.search(rf"^  {variant}\b", captured.out, re.M) and f'"name":"{variant}"' in page
    assert page.count("data:image/webp") == 4


@pytest.mark.parametrize("make", ["empty", "absent", "broken"])
def test_nothing_to_show_is_an_error_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str
) -> None:
    runs = tmp_path / "runs"
    if make != "absent":
        runs.mkdir()
    if make == "broken":
        (write_run(runs / "a") / "results.json").write_text("{")
    assert main(["leaderboard", str(runs), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(runs) in error
    assert not (tmp_path / "out").exists()


def test_the_command_answers_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zoo", "leaderboard", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: there is no folder {tmp_path / 'absent'}\n")


def test_a_published_number_passes_fails_or_is_left_blank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    write_mnist_run(runs / "pass", EPOCHS)
    write_mnist_run(runs / "fail", [e * 1.02 for e in EPOCHS], config_hash="def")
    write_mnist_run(runs / "blank", config=mnist_config(batch_size=64), config_hash="ghi")
    page = build(runs, tmp_path / "out")
    published = [comparison for row in data_of(page)["boards"][0]["rows"] for comparison in row["published"]]
    assert [within for within, _, _ in published] == [True, False]
    assert "train/epoch_loss +2.00 %, outside 1.5 % of source documents" in published[1][1]
    with (tmp_path / "out/leaderboard.csv").open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["published"]]
    assert sorted(line["within_tolerance"] for line in lines) == ["False"] * 5 + ["True"] * 5
    assert {(float(line["published"]), round(float(line["mean"]) / float(line["published"]), 2)) for line in lines} == {
        (e, f) for e in EPOCHS for f in (1.0, 1.02)
    }
    assert capsys.readouterr().out.count("outside") == 1


def test_files_hold_the_same_numbers_and_links_that_lead_somewhere(tmp_path: Path) -> None:
    runs, out = tmp_path / "my runs", tmp_path / "pages" / "out"
    for seed in range(3):
        write_run(runs / f"a|{seed}", "a_*", seed=seed, metrics=elbo(-100.0 - seed, protocol="x | y"))
        write_run(runs / f"b{seed}", "b", seed=seed, metrics=elbo(-90.0 - seed, protocol="x | y"))
    page = build(runs, out)
    text = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert "| **-91.00 ± 2.48** |" in text and "| -101.00 ± 2.48 |" in text
    assert r"| a\_\* |" in text and r"x \| y" in text
    with (out / "leaderboard.csv").open(encoding="utf-8") as file:
        lines = {(line["variant"], line["metric"]): line for line in csv.DictReader(file)}
    assert float(lines["a_*", "elbo"]["mean"]) == -101 and lines["a_*", "elbo"]["seeds"] == "3"
    assert float(lines["a_*", "elbo"]["low"]) == pytest.approx(-101 - 2.484, abs=1e-3)
    assert float(lines["a_*", "elbo"]["sd"]) == 1 and lines["b", "elbo"]["best"] == "True"
    (board,) = data_of(page)["boards"]
    links = [url for row in board["rows"] for _, url in row["seeds"]]
    assert len(links) == 6
    for link in links + re.findall(r"\]\((\S+)\)", text):
        assert (out / unquote(html.unescape(link))).is_file()


def test_every_table_is_as_wide_as_a_page(tmp_path: Path) -> None:
    for number in range(4):
        write_run(tmp_path / "runs" / str(number), f"v{number}", metrics=many_metrics(number))
    build(tmp_path / "runs", tmp_path / "out")
    (board,) = boards_of(tmp_path / "runs")
    assert len(board.columns) > 20
    assert all(len(table.columns) <= MOST_METRICS for table in tables(board))
    text = (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows and max(line.replace(r"\|", "").count("|") for line in rows) <= 9
    tex = (tmp_path / "out" / "leaderboard.tex").read_text(encoding="utf-8")
    assert tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") == len(tables(board))


def many_metrics(number: int, kind: str = "bce") -> Metrics:
    """Of every view something, as a run of the zoo has it."""
    wide = f"density of pixels in [0, 1], likelihood {kind!r}; one posterior sample per image"
    rows = {
        **{f"fd_lenet@{s}": ("", False, "Fréchet distance", s) for s in ("prior", "gmm10", "gaussian")},
        **{f"prdc_{i}": ("", True, "balls", None) for i in range(3)},
        **dict.fromkeys(("psnr", "ssim", "ms_ssim"), ("", True, "mean over images", None)),
        **{name: ("nats", name == "elbo", wide, None) for name in ("nll", "elbo", "distortion", "bits_per_dim")},
        **dict.fromkeys(("rate",), ("nats", None, wide, None)),
        **{f"of_my_own_{i}": ("", True, "", None) for i in range(9)},
        "active_units": ("", None, "", None),
    }
    return {
        name: {
            "value": 10 + (7 * number + 3 * i) % 11 + 0.1,
            "unit": unit,
            "higher_is_better": way,
            "protocol": protocol,
        }
        | ({"sampler": sampler} if sampler else {})
        for i, (name, (unit, way, protocol, sampler)) in enumerate(rows.items())
    }


def test_likelihoods_of_different_kind_are_never_side_by_side(tmp_path: Path) -> None:
    for number in range(6):
        write_run(tmp_path / str(number), f"v{number}", metrics=many_metrics(number, "bce" if number < 4 else "mse"))
    (board,) = boards_of(tmp_path)
    shown = [columns for view in views(board) for columns in view.shown.values()]
    assert all(len({c.kind for c in columns if c.kind}) <= 1 for columns in shown)
    likelihood = next(view for view in views(board) if view.name == "Likelihood")
    assert ["bce" in kind for kind in likelihood.shown] == [True, False]  # that of most rows first
    printed = [table for table in tables(board) if table.title.startswith("Likelihood")]
    assert [len(table.rows) for table in printed] == [4, 2]


def test_a_column_that_few_rows_have_is_folded_away(tmp_path: Path) -> None:
    for number in range(5):
        extra = {"kd_lenet": {"value": 1.0, "higher_is_better": False}} if number < 2 else {}
        fd = {"fd_lenet": {"value": float(number), "higher_is_better": False}}
        write_run(tmp_path / str(number), f"v{number}", metrics=fd | extra)
    (board,) = boards_of(tmp_path)
    samples = next(view for view in views(board) if view.name == "Samples")
    assert {c.name for c in samples.columns} == {"fd_lenet", "kd_lenet"}
    assert [c.name for c in samples.shown[""]] == ["fd_lenet"]


def test_a_row_bears_the_name_that_its_suite_gave_it(tmp_path: Path) -> None:
    write_run(tmp_path / "beta4_digits_0", "beta", model={"beta": 4.0})
    write_run(tmp_path / "half_digits_0", "beta", model={"beta": 0.5}, title="beta half")
    (board,) = boards_of(tmp_path)
    assert {row.name for row in board.rows} == {"beta4", "beta half"}


def test_older_code_is_marked_wherever_a_row_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the hour and the commit: of one day's commits one is the newest. A row is as new as its newest seed."""
    starts = {"a": ("12:00", "new", 0), "b": ("10:00", "old", 0), "c": ("11:00", "new", 0), "d": ("09:00", "old", 0)}
    starts["d, again"] = ("12:00", "new", 1)
    for name, (hour, commit, seed) in starts.items():
        metrics = {"psnr": {"value": 1.0, "protocol": f"of {name}"}}  # a protocol may be a variant's own
        history = [{"started": f"2026-11-02T{hour}:00+00:00"}]
        write_run(tmp_path / "runs" / name, name[0], seed, metrics=metrics, commit=commit, history=history)
    write_run(tmp_path / "runs" / "undated", "undated", metrics={"psnr": {"value": 1.0}}, commit="new")
    (board,) = boards_of(tmp_path / "runs")
    older = {"b": "its code (old) is older than the newest row's (new)"}
    assert {row.name: row.older for row in board.rows if row.older} == older
    assert {row.name: row.made for row in board.rows} == dict.fromkeys("abcd", "2026-11-02") | {"undated": ""}
    page = build(tmp_path / "runs", tmp_path / "out")
    assert "b (older)" in capsys.readouterr().out
    assert {row["name"]: row["older"] for row in data_of(page)["boards"][0]["rows"] if row["older"]} == older
    for ending in ("md", "tex"):
        text = (tmp_path / "out" / f"leaderboard.{ending}").read_text(encoding="utf-8")
        assert "b (older)" in text and "a (older)" not in text and "2026-11-02 new" in text
    with (tmp_path / "out" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        assert {(line["name"], line["older"]) for line in csv.DictReader(file) if line["older"]} == {*older.items()}


def test_code_that_was_changed_is_no_other_commit_of_the_same_name(tmp_path: Path) -> None:
    for name, hour, commit in (("a", 1, "abc123456789"), ("b", 2, "abc123456789-dirty"), ("c", 0, "")):
        write_run(tmp_path / name, name, commit=commit, history=[{"started": f"2026-11-02T0{hour}:00:00+00:00"}])
    (board,) = boards_of(tmp_path)
    assert {row.name: row.older for row in board.rows} == {
        "a": "its code (abc1234) is older than the newest row's (abc1234-dirty)",
        "b": "",
        "c": "its code (unknown commit) is older than the newest row's (abc1234-dirty)",
    }


def test_who_measured_is_told_where_it_is_other_code(tmp_path: Path) -> None:
    for name, commit in (("a", "new"), ("b", "old")):
        metrics = {"psnr": {"value": 1.0, "commit": "new"}}
        write_run(tmp_path / name, name, metrics=metrics, commit=commit)
    (board,) = boards_of(tmp_path)
    assert {row.name: row.facts.get("measured at commit") for row in board.rows} == {"a": None, "b": "new"}


def test_runs_on_other_images_are_no_repeats(tmp_path: Path) -> None:
    """Of one config and one seed, with the data behind it exchanged; an unknown digest is that of the others."""
    for name, digest in (("one", "abc"), ("other", "def")):
        write_run(tmp_path / name / "mlp_digits_0", data_digest=digest)
        assert len(find_runs(tmp_path)[0]) == (1 if name == "one" else 2) and find_runs(tmp_path)[1] == []
    assert [len(board.rows) for board in boards_of(tmp_path)] == [1, 1]
    write_run(tmp_path / "one" / "again")
    runs, problems = find_runs(tmp_path / "one")
    assert len(runs) == 1 and "repeats" in problems[0]


def test_kinds_of_likelihood_are_told_apart_by_their_range(tmp_path: Path) -> None:
    for number, span in enumerate(("[0, 1]", "[-1, 1]", "[-1, 1]")):
        protocol = f"density of pixels in {span}, likelihood 'mse'; one posterior sample per image"
        write_run(tmp_path / "runs" / str(number), f"v{number}", metrics=elbo(-number, protocol=protocol))
    page = build(tmp_path / "runs", tmp_path / "out")
    assert sorted(data_of(page)["kinds"].values()) == ["mse", "mse on [-1, 1]"]
    for ending, found in (("md", "*mse*"), ("tex", r"\emph{mse}")):
        assert found in (tmp_path / "out" / f"leaderboard.{ending}").read_text(encoding="utf-8")


def test_what_is_not_finite_comes_last_on_the_page_and_in_text(tmp_path: Path) -> None:
    values = {"endless": math.inf, "none": math.nan, "good": 30.0, "bad": 10.0}
    for name, value in values.items():
        write_run(tmp_path / "runs" / name, name, metrics={"psnr": {"value": value, "higher_is_better": True}})
    (board,) = boards_of(tmp_path / "runs")
    assert [row.name for row in board.sorted_by(column(board, "psnr"))] == ["good", "bad", "endless", "none"]
    cells = {
        row["name"]: list(row["cells"].values())
        for row in data_of(build(tmp_path / "runs", tmp_path))["boards"][0]["rows"]
    }
    means = {name: [cell[1] for cell in of_row if cell[0] in ("inf", "nan")] for name, of_row in cells.items()}
    assert means == {"good": [], "bad": [], "endless": [None], "none": [None]}


def test_a_frechet_distance_over_any_features_is_foremost_and_copies_are_last(tmp_path: Path) -> None:
    names = ("authpct_mobilenet", "coverage_mobilenet", "fd_infinity_mobilenet", "fd_mobilenet", "kd_mobilenet")
    metrics = {name: {"value": 1.5, "protocol": "p", "higher_is_better": True} for name in names}
    write_run(tmp_path / "a", "a", metrics=metrics)
    write_run(tmp_path / "b", "b", metrics=metrics)
    (board,) = boards_of(tmp_path)
    found = [column.name for column in board.columns if column.name in names]
    assert found == [names[3], names[1], names[2], names[4], names[0]]


def test_families_are_those_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| family | names |") :].split("\n\n")[0]
    printed = dict(re.findall(r"^\| ([a-z ]+) \| (.*) \|$", table, re.M))
    printed = {name: re.findall("`([^`]+)`", names.split(";")[0]) for name, names in printed.items() if "`" in names}
    assert {name: list(variants) for name, variants in FAMILIES.items()} == printed


EVIL = (
    '</script><script>alert("1")</script>',
    '"><img src=x onerror=alert(1)>',
    "[a](javascript:alert(1))",
    "[2cm] --",
    "*",
    "https://x.example WWW.x.example",
    "=HYPERLINK(1)",
    "\\input{/etc/passwd} $x$ & % # _ ^ ~",
)


def test_the_page_needs_no_network_and_no_file_trusts_a_text(tmp_path: Path) -> None:
    for number in range(15):
        evil = EVIL[number % len(EVIL)]
        metrics = elbo(-number, protocol=evil) | {evil: {"value": 1.0, "protocol": evil}}
        more = {"command": evil, "commit": evil, "title": f"{evil} {number}", "dataset": EVIL[0]}
        write_run(tmp_path / "runs" / str(number), f"v{number}{evil}", metrics=metrics, **more)
    out = tmp_path / "out"
    page = build(tmp_path / "runs", out)
    assert EVIL[0] not in page and "<img src=x" not in page
    assert any(row["name"] == f"{EVIL[0]} 0" for row in data_of(page)["boards"][0]["rows"])
    ours = page.replace((Path(pictures.__file__).parent / "plot.js").read_text(encoding="utf-8"), "")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(|@import""", ours)
    assert "default-src 'none'" in page and page.count("<script") == 3
    assert len(page.encode()) < 1_000_000
    markdown = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(script|img)", markdown)
    assert not re.search(r"(?<!\\)\[a\]\(javascript", markdown)
    assert not re.search(r"(?<!\\)://|www\.", markdown, re.IGNORECASE)  # which become links
    tex = (out / "leaderboard.tex").read_text(encoding="utf-8")
    assert not re.search(r"\\\\\s*[\[*]", tex), "behind the end of a line these are its options"
    assert "--" not in tex
    assert "\\input" not in tex and "$x$" not in tex and r"\$x\$ \& \% \# \_" in tex
    with (out / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        assert not [cell for line in csv.reader(file) for cell in line if cell.startswith(("=", "+", "@"))]


def test_plots_are_written_as_files_where_that_is_asked_for(tmp_path: Path) -> None:
    for number in range(3):
        write_run(tmp_path / "runs" / str(number), f"v{number} $x$", metrics=many_metrics(number))
    out = tmp_path / "out"
    command = ["leaderboard", str(tmp_path / "runs"), "--out", str(out), "--format", "svg", "--format", "pdf"]
    assert main(command) == 0
    files = {path.name for path in (out / "plots").iterdir()}
    assert {"digits-1-x-16-x-16-Samples.svg", "digits-1-x-16-x-16-Samples.pdf"} <= files
    assert {"digits-1-x-16-x-16-distortion-against-rate.pdf"} <= files
    drawn = (out / "plots" / "digits-1-x-16-x-16-Samples.svg").read_text(encoding="utf-8")
    assert all(f">v{number} $x$<" in drawn for number in range(3))
    assert main(command[:4]) == 0


def test_pictures_are_made_small(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    Image.effect_noise((900, 900), 90).convert("RGB").save(path)
    assert len(pictures.embed(path)) * 3 / 4 < 1.3 * pictures.PICTURE_BYTES
