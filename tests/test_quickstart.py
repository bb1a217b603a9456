"""README's quickstart, from a folder of the user's own that holds names of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.runs import ROOT


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder whose `benchmarks/`, `zoo.yaml` and `configs/` have nothing to do with the zoo."""
    (tmp_path / "benchmarks" / "metrics").mkdir(parents=True)
    for name in ("__init__.py", "evaluate.py", "core.py", "metrics/__init__.py"):
        (tmp_path / "benchmarks" / name).write_text("raise SystemExit('the user's own benchmarks were imported')\n")
    (tmp_path / "zoo.yaml").write_text("animals: [lion]\n")
    (tmp_path / "configs").mkdir()
    return tmp_path


def commands() -> list[list[str]]:
    """The quickstart's, as the Makefile has them, by this interpreter and with absolute paths."""
    lines = (ROOT / "Makefile").read_text().split("\nquickstart: install\n")[1].split("\n\n")[0].splitlines()
    words = [line.strip().removeprefix("@$(BIN)/python ").split() for line in lines]
    here = [[str(ROOT / word) if (ROOT / word).exists() else word for word in line] for line in words]
    return [[sys.executable, *line] for line in here]


def test_the_quickstart_is_two_commands_of_run_py() -> None:
    assert [line[1:3] for line in commands()] == [[str(ROOT / "run.py"), name] for name in ("suite", "leaderboard")]


@pytest.mark.slow
def test_the_quickstart_works_beside_a_users_own_benchmarks(elsewhere: Path) -> None:
    suite = yaml.safe_load((ROOT / "configs/suites/quickstart.yaml").read_text())
    suite |= {"base": str(ROOT / "configs/quickstart.yaml"), "runs": {"mlp": {}}, "seeds": [0]}
    suite["settings"] |= {"epochs": 1}
    suite["settings"]["benchmark"] |= {"n": 100}
    (elsewhere / "short.yaml").write_text(yaml.safe_dump(suite))
    train, leaderboard = commands()
    train[3] = "short.yaml"
    for command in (train, leaderboard):
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    run = elsewhere / "runs/quickstart/mlp_digits_0"
    assert {"model.safetensors", "results.json", "generated_samples.png"} <= {file.name for file in run.iterdir()}
    assert (elsewhere / "runs/quickstart/leaderboard/leaderboard.html").is_file()
    assert "fd_lenet" in (run / "results.json").read_text()


@pytest.mark.slow
def test_the_whole_quickstart(elsewhere: Path) -> None:
    for command in commands():
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "fd_lenet" in done.stdout
