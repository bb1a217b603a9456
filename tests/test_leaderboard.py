"""The leaderboard: what is averaged, what is ranked against what, what is said of broken runs, and the page itself."""

from __future__ import annotations

import base64
import csv
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import stdev
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from PIL import Image

from tests.test_reference import EPOCHS, mnist_config
from tests.test_reference import write_run as write_mnist_run
from zoo.commands import main
from zoo.reports import leaderboard
from zoo.reports.leaderboard import Board, Column, build_boards, find_runs, plots
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
    assert board.text(row, column(board, "elbo")) == "-101.33 ± 1.53"
    assert board.text(single, column(board, "elbo")) == "-102.00"
    assert board.text(row, column(board, "parameters")) == "1,000"
    assert row.cells[column(board, "training_time")].mean == pytest.approx(10)


def test_best_goes_the_metrics_own_way_and_never_to_what_does_not_rank(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        rows = {
            key: {"value": value, "higher_is_better": way} for key, way in (("up", True), ("down", False), ("no", None))
        }
        write_run(tmp_path / name, name, metrics=rows)
    (board,) = boards_of(tmp_path)
    assert (best(board, "up"), best(board, "down"), best(board, "no")) == (["b"], ["a"], [])
    assert [column(board, name).arrow for name in ("up", "down", "no")] == ["↑", "↓", ""]
    assert [row.name for row in board.rows] == ["a", "b"]  # by "down", the first ranked column


def test_a_lone_number_and_one_that_is_not_finite_are_not_best(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "a", metrics=elbo(-1.0) | {"lone": {"value": 1.0, "higher_is_better": True}})
    write_run(tmp_path / "b", "b", metrics=elbo(math.nan))
    write_run(tmp_path / "c", "c", metrics=elbo(math.inf))
    (board,) = boards_of(tmp_path)
    assert best(board, "lone") == [] and best(board, "elbo") == ["a"]
    assert [board.text(row, column(board, "elbo")) for row in board.rows if row.variant == "b"] == ["nan"]


@pytest.mark.parametrize("change", [{"protocol": "other"}, {"n": 90}, {"split": "val"}, {"sampler": "gmm10"}])
def test_numbers_of_another_protocol_stand_in_a_column_of_their_own(tmp_path: Path, change: dict[str, Any]) -> None:
    for name, value in (("a", -1.0), ("b", -2.0)):
        write_run(tmp_path / name, name, metrics=elbo(value))
    for name, value in (("c", 5.0), ("d", 4.0)):
        write_run(tmp_path / name, name, metrics=elbo(value, **change))
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
    assert board.headings[first] == "elbo, protocol A"


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
        assert re.search(rf"^  {variant}\b", captured.out, re.M) and f">{variant}</button>" in page
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
    assert (page.count("✓ within"), page.count("✗ outside")) == (1, 1)
    assert "train/epoch_loss +2.00 %, outside 1.5 % of source documents" in page
    with (tmp_path / "out/leaderboard.csv").open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["published"]]
    assert sorted(line["within_tolerance"] for line in lines) == ["False"] * 5 + ["True"] * 5
    assert {(float(line["published"]), round(float(line["mean"]) / float(line["published"]), 2)) for line in lines} == {
        (e, f) for e in EPOCHS for f in (1.0, 1.02)
    }
    assert capsys.readouterr().out.count("outside") == 1


def test_files_hold_the_same_numbers_and_links_that_lead_somewhere(tmp_path: Path) -> None:
    runs, out = tmp_path / "my runs", tmp_path / "pages" / "out"
    for seed in (0, 1):
        write_run(runs / f"a|{seed}", "a_*", seed=seed, metrics=elbo(-100.0 - seed, protocol="x | y"))
    write_run(runs / "b", "b", metrics=elbo(-90.0, protocol="x | y"))
    page = build(runs, out)
    text = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert "| **-90.00** |" in text and "| -100.50 ± 0.71 |" in text
    assert r"| a\_\* |" in text and r"x \| y" in text
    assert len({line.count(" | ") for line in text.splitlines() if line.startswith("|")}) == 1
    with (out / "leaderboard.csv").open(encoding="utf-8") as file:
        lines = {(line["variant"], line["metric"]): line for line in csv.DictReader(file)}
    assert float(lines["a_*", "elbo"]["mean"]) == -100.5 and lines["a_*", "elbo"]["seeds"] == "2"
    assert float(lines["a_*", "elbo"]["sd"]) == stdev([-100.0, -101.0]) and lines["b", "elbo"]["best"] == "True"
    links = re.findall(r'href="([^"]*config\.yaml)"', page)
    assert len(links) == 6
    for link in links + re.findall(r"\]\((\S+)\)", text):
        assert (out / unquote(html.unescape(link))).is_file()


def test_the_page_needs_no_network_and_trusts_no_text(tmp_path: Path) -> None:
    evil = '</script><script>alert("1")</script>'
    for number in range(15):
        metrics = elbo(-number, protocol=evil)
        write_run(tmp_path / "runs" / str(number), f"v{number}{evil}", metrics=metrics, command=evil)
    page = build(tmp_path / "runs", tmp_path / "out")
    assert evil not in page and html.escape(evil).replace("&quot;", "&#34;") in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(|@import""", page)
    assert page.count("<script>") == 1
    assert len(page.encode()) < 1_000_000


def test_pictures_are_made_small(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    Image.effect_noise((900, 900), 90).convert("RGB").save(path)
    assert len(leaderboard.embed(path)) * 3 / 4 < 1.3 * leaderboard.PICTURE_BYTES


def rd(rate: float, distortion: float, **changes: Any) -> Metrics:
    rows = {"kl": {"value": rate, "unit": "nats"}, "recon": {"value": distortion, "unit": "nats", "protocol": "bce"}}
    return {name: row | changes for name, row in rows.items()} | elbo(-rate - distortion, **changes)


def test_plots_show_each_row_where_its_numbers_are(tmp_path: Path) -> None:
    points = {"a": (5.0, 90.0), "b": (10.0, 80.0), "c": (15.0, 75.0)}
    for name, (rate, distortion) in points.items():
        write_run(tmp_path / name, name, metrics=rd(rate, distortion), images_per_second=100.0 * rate)
    (board,) = boards_of(tmp_path)
    trade, cost = plots(board)
    drawn = {point.label: (point.x, point.y) for point in trade.points}
    assert drawn == {name: (trade.x.at(r), trade.y.at(d)) for name, (r, d) in points.items()}
    assert drawn["a"][0] < drawn["b"][0] < drawn["c"][0] and drawn["a"][1] < drawn["b"][1] < drawn["c"][1]
    for x1, y1, x2, y2 in trade.guides:  # the same ELBO at both ends
        (left, right), (low, high) = trade.x.ends, trade.y.ends
        scale_x, scale_y = (right - left) / (x2 - x1), (high - low) / (leaderboard.TOP - leaderboard.BOTTOM)
        assert (x2 - x1) * scale_x + (y2 - y1) * scale_y == pytest.approx(0, abs=0.1)
    assert sorted(cost.points, key=lambda p: p.x)[0].label == "c"  # the fastest
    assert (cost.y.label, cost.x.label) == ("elbo (nats)", "training time (s)")


def test_a_plot_never_mixes_protocols(tmp_path: Path) -> None:
    for name, device in (("a", "cpu"), ("b", "cpu"), ("c", "cuda"), ("d", "cuda"), ("e", "mps")):
        changes = {"protocol": "bce" if name in "ab" else "mse"}
        write_run(tmp_path / name, name, metrics=rd(ord(name), 2.0, **changes), device=device)
    (board,) = boards_of(tmp_path)
    labels = [{point.label for point in plot.points} for plot in plots(board)]
    assert labels == [{"c", "d", "e"}, {"a", "b"}, {"a", "b"}, {"c", "d"}]


def test_rate_and_distortion_by_an_unknown_likelihood_are_not_compared(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, name, metrics=rd(1.0, 2.0, protocol=""))
    (board,) = boards_of(tmp_path)
    assert [plot.title for plot in plots(board)] == ["Quality and cost"]


def test_labels_in_a_plot_keep_clear_of_each_other(tmp_path: Path) -> None:
    for number in range(6):
        write_run(tmp_path / str(number), f"variant_{number}", metrics=rd(10 + 4 * number, 90 - 0.2 * number))
    (board,) = boards_of(tmp_path)
    boxes = []
    for point in plots(board)[0].points:
        width = leaderboard.CHARACTER * len(point.label)
        left = point.text_x - {"start": 0, "middle": 0.5, "end": 1}[point.anchor] * width
        boxes.append((left, point.text_y - 10, left + width, point.text_y + 3))
        assert left >= leaderboard.LEFT and left + width <= leaderboard.RIGHT
    assert all(leaderboard._overlap(a, b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])


# --- In a browser

PROBE = """<script>
const said = [];
addEventListener("error", event => said.push(String(event.message)));
console.error = console.warn = (...words) => said.push(words.join(" "));
addEventListener("load", () => {
  const names = () => [...document.querySelectorAll("section")].map(s => [...s.querySelectorAll("tbody tr")].map(r =>
    r.querySelector("th button").textContent).join(""));
  const visible = () => [...document.querySelectorAll("section")].filter(s => s.offsetHeight > 0).length;
  const heads = [...document.querySelector("thead").querySelectorAll("button")];
  const head = heads.find(button => button.textContent.includes("elbo"));
  const seen = {width: innerWidth, start: names()[0]};
  head.click(); seen.first = names()[0]; seen.aria = head.parentElement.getAttribute("aria-sort");
  head.click(); seen.second = names()[0];
  heads[0].click(); seen.byName = names()[0];
  head.click(); seen.missingLast = names()[0];
  seen.all = visible();
  document.querySelector("[data-filter=mnist]").click(); seen.filtered = visible();
  document.querySelector("[data-filter='']").click(); seen.again = visible();
  document.querySelector(".thumb").click();
  const picture = document.querySelector("#viewer img");
  seen.large = picture.clientWidth / document.querySelector(".thumb").clientWidth;
  document.querySelector("#viewer form button").click(); seen.closed = !document.getElementById("viewer").open;
  document.querySelector("tbody th button").click();
  seen.config = document.querySelector("dialog[open] pre").textContent;
  document.querySelector("dialog[open]").close();
  seen.page = document.documentElement.scrollWidth; seen.scrolls = document.querySelector(".scroll").scrollWidth;
  seen.said = said;
  parent.document.body.insertAdjacentHTML("beforeend", "<pre class=seen>" + btoa(JSON.stringify(seen)) + "</pre>");
});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
    return found or pytest.skip("chromium is not installed")


def test_the_page_in_a_browser(tmp_path: Path, browser: str) -> None:
    runs = tmp_path / "runs"
    for name, value in (("a", -3.0), ("b", -1.0), ("c", -2.0)):
        extra = {f"metric_{i}": {"value": 1000.0 + i} for i in range(12)}
        write_run(runs / name, name, metrics=elbo(value) | extra)
    write_run(runs / "none", "0", metrics={"other": {"value": 1.0}})
    write_run(runs / "mnist", "a", dataset="mnist", image=[1, 28, 28])
    page = build(runs, tmp_path / "out").replace("<head>", f"<head>{PROBE}")
    frames = [f'<iframe width="{w}" height="800" srcdoc="{html.escape(page)}"></iframe>' for w in (390, 1440)]
    (tmp_path / "frames.html").write_text(f'<!doctype html><meta charset="utf-8">{"".join(frames)}', encoding="utf-8")
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--window-size=1900,900"),
        *("--dump-dom", (tmp_path / "frames.html").as_uri()),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    seen = [json.loads(base64.b64decode(found)) for found in re.findall('<pre class="seen">(.*?)</pre>', dom)]
    assert sorted(s["width"] for s in seen) == [390, 1440]
    for s in seen:
        assert s["said"] == []
        assert (s["start"], s["first"], s["aria"], s["second"]) == ("bca0", "bca0", "descending", "acb0")
        assert (s["byName"], s["missingLast"]) == ("0abc", "bca0")
        assert (s["all"], s["filtered"], s["again"]) == (2, 1, 2)
        assert s["large"] > 5 and s["closed"] and "name: b" in s["config"]
        assert s["page"] <= s["width"]
        assert s["scrolls"] > 700  # the table scrolls in its own box
