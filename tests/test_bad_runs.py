"""One bad run never takes the board along: whatever its files hold, it is named with its reason, or shown as text."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runs import make_config, run
from zoo.reports import leaderboard

ABSURD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.0, 10**30, 1e308, float("nan"), float("inf"), "", "x" * 100_000, [], {}, [[]], {"a": 1}),
    *("=1+1", "a\nb\x1b[31m", "<script>alert(1)</script>", "| a | [b](javascript:x)", "\ud800", "/home/me/secret/x"),
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bad") / "good"
    assert run(make_config(out, steps=2)) == 0
    return out


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values within nested containers."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def mutate(value: Any, chance: random.Random) -> Any:
    """Put something absurd in one place, or take that away."""
    changed = copy.deepcopy(value)
    *parents, last = chance.choice([place for place in places(changed) if place])
    inner = changed
    for key in parents:
        inner = inner[key]
    if chance.random() < 0.2:
        del inner[last]
    else:
        inner[last] = chance.choice(ABSURD)
    return changed


def write_board(root: Path, out: Path) -> str:
    leaderboard.write(root, out)
    return (out / "leaderboard.html").read_text()


@pytest.mark.parametrize("seed", range(40))
def test_absurd_values_are_named_or_shown_as_text(
    seed: int, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(seed)
    root = tmp_path / "runs"
    shutil.copytree(good, root / "good")
    results, config = (
        json.loads((good / "results.json").read_text()),
        yaml.safe_load((good / "config.yaml").read_text()),
    )
    for number in range(5):
        bad = root / f"bad_{number}"
        bad.mkdir()
        mutated = mutate(results, chance) if number % 2 else results | {"seed": number}
        (bad / "results.json").write_text(json.dumps(mutated))
        text = yaml.dump(config if number % 2 else mutate(config, chance))
        (bad / "config.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    page = write_board(root, tmp_path / "board")
    assert "<script>alert" not in page and "/home/me/secret" not in page and "\x1b" not in page
    said = capsys.readouterr()
    assert "mlp" in said.out and "\x1b" not in said.out + said.err and "Traceback" not in said.err


def latin_1(run: Path) -> None:
    (run / "config.yaml").write_bytes("model: {name: mlp, note: é}".encode("latin-1"))


def cut_off(run: Path) -> None:
    text = (run / "results.json").read_text()
    (run / "results.json").write_text(text[: len(text) // 2])


def nested(run: Path) -> None:
    (run / "results.json").write_text("[" * 100_000)


def long_number(run: Path) -> None:
    (run / "results.json").write_text('{"seed": ' + "9" * 5000 + "}")


def no_picture(run: Path) -> None:
    (run / "generated_samples.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")


def a_list(run: Path) -> None:
    (run / "results.json").write_text("[1, 2]")


@pytest.mark.parametrize("spoil", [latin_1, cut_off, nested, long_number, no_picture, a_list])
def test_files_that_are_no_runs(
    spoil: Callable[[Path], None], good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    for name in ("good", "bad"):
        shutil.copytree(good, root / name)
    values = json.loads((good / "results.json").read_text()) | {"config_hash": "another"}
    (root / "bad" / "results.json").write_text(json.dumps(values))
    spoil(root / "bad")
    write_board(root, tmp_path / "board")
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and str(root / "bad") in warnings[0]


def test_a_folder_whose_name_is_no_text(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    shutil.copytree(good, root / os.fsdecode(b"caf\xe9"))
    assert "caf%E9/config.yaml" in write_board(root, tmp_path / "board")
    assert capsys.readouterr().err == ""


def test_no_cell_of_the_csv_is_a_formula(good: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(good, root / "good")
    values = json.loads((good / "results.json").read_text()) | {"dataset": "=HYPERLINK(1)"}
    values["metrics"]["@psnr"] = values["metrics"]["psnr"] | {"protocol": "+1"}
    (root / "good" / "results.json").write_text(json.dumps(values))
    write_board(root, tmp_path / "board")
    cells = [
        cell for line in (tmp_path / "board" / "leaderboard.csv").read_text().splitlines() for cell in line.split(",")
    ]
    assert "'=HYPERLINK(1)" in cells and "'@psnr" in cells and "'+1" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
