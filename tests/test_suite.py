"""The suite: the grid it makes, and what becomes of runs that are finished, interrupted, or fail."""

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
import yaml

from tests.runs import ROOT
from zoo.commands import main
from zoo.config import load_config, parse_yaml
from zoo.errors import UserError
from zoo.reports import suite
from zoo.reports.reference import flatten
from zoo.reports.suite import as_text, grid, load_suite, shard

BASE = {
    "model": {"name": "mlp", "recon": "bce"},
    "data": {"name": "digits", "limit": 100},
    **{"epochs": 1, "batch_size": 32, "threads": 1, "device": "cpu"},
}

# What a run does, without torch: takes its steps, one file each, and fails, waits or dies if the config says so.
STAND_IN = """
import json, os, signal, sys, time, yaml
from pathlib import Path
sys.path.insert(0, {root!r})
from zoo.config import load_config
assert sys.argv[1] == "--config" and sys.argv[3] == "--resume"
config = load_config(sys.argv[2], sys.argv[4:])
out = config.out
(out / "config.yaml").write_text(yaml.safe_dump(config.dump()))
signal.signal(signal.SIGTERM, lambda *_: ((out / "checkpoint").touch(), sys.exit(143)))
with open(out.parent / "started", "a") as file:
    file.write(out.name + "\\n")
name = config.model.name
if name == "wrong":
    sys.exit("error: it went wrong")
if name == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if name == "slow" and not (out / "checkpoint").exists():
    time.sleep(60)
metrics = {{"elbo": {{"value": -1.5}}}}
results = {{"variant": name, "dataset": "digits", "image": [1, 8, 8], "seed": config.seed, "config_hash": "h"}}
results |= {{"steps": 3, "benchmarked": {{metric: "" for metric in config.benchmark.metrics if metric != "fid"}}}}
(out / "results.json").write_text(json.dumps(results | {{"metrics": metrics}}))
"""


def stand_in_program(folder: Path) -> list[str]:
    (folder / "stand_in.py").write_text(STAND_IN.format(root=str(ROOT)))
    return [sys.executable, str(folder / "stand_in.py")]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "PROGRAM", stand_in_program(tmp_path))


def write_suite(folder: Path, **changes: Any) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    values: dict[str, Any] = {
        **{"out": str(folder / "runs"), "base": "base.yaml", "data": {"digits": {}}, "seeds": [0, 1]},
        "runs": {"plain": {}, "beta4": {"model": {"name": "beta", "beta": 4.0}}},
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return folder / "suite.yaml"


def started(folder: Path) -> list[str]:
    path = folder / "runs" / "started"
    return path.read_text().split() if path.exists() else []


def test_the_grid_is_every_run_on_every_data_set_with_every_seed(tmp_path: Path) -> None:
    data = {"digits": {}, "small": {"data": {"limit": 50}}}
    jobs = grid(load_suite(write_suite(tmp_path, data=data, settings={"lr": 1e-4, "data": {"limit": 70}})))
    names = [f"{run}_{data}_{seed}" for seed in (0, 1) for data in ("digits", "small") for run in ("plain", "beta4")]
    assert [job.out.name for job in jobs] == names
    config = load_config(jobs[3].base, jobs[3].overrides)
    assert (config.model.name, config.model.options, config.lr) == ("beta", {"recon": "bce", "beta": 4.0}, 1e-4)
    assert (config.data.limit, config.seed, config.out) == (50, 0, tmp_path / "runs" / "beta4_small_0")


@pytest.mark.parametrize(
    "value", [1, 1e-4, 0.5, True, None, "mlp", "no", "1", "", "a: b", "#x", [1, "a"], {"k": [1]}, {}]
)
def test_values_survive_the_command_line(value: Any) -> None:
    read = parse_yaml(as_text(value), "")
    assert read == value and type(read) is type(value)


def test_shards_share_out_the_grid(tmp_path: Path) -> None:
    jobs = grid(load_suite(write_suite(tmp_path, seeds=[0, 1, 2])))
    shares = [shard(jobs, f"{i}/4") for i in (1, 2, 3, 4)]
    assert sorted(job.out for share in shares for job in share) == sorted(job.out for job in jobs)
    assert [len(share) for share in shares] == [2, 2, 1, 1]
    for wrong in ("0/4", "5/4", "1", "a/b", "1/0"):
        with pytest.raises(UserError, match="write i/n"):
            shard(jobs, wrong)


def test_what_is_finished_is_skipped_and_what_failed_is_tried_again(
    tmp_path: Path, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"wrong": {"model": {"name": "wrong"}}, "dies": {"model": {"name": "dies"}}, "plain": {}}
    path = write_suite(tmp_path, runs=runs, seeds=[0])
    assert main(["suite", str(path)]) == 1
    captured = capsys.readouterr()
    assert "3/3] plain_digits_0 elbo -1.5" in captured.out and "1 of 3 runs finished" in captured.out
    errors = captured.err.splitlines()
    assert len(errors) == 2 and f"{tmp_path / 'runs' / 'wrong_digits_0'}: it went wrong (exit code 1" in errors[0]
    assert "killed by signal 9" in errors[1]
    assert started(tmp_path) == ["wrong_digits_0", "dies_digits_0", "plain_digits_0"]
    assert main(["suite", str(path)]) == 1
    assert started(tmp_path)[3:] == ["wrong_digits_0", "dies_digits_0"]
    assert "plain_digits_0 is finished already" in capsys.readouterr().out


def test_a_run_is_finished_when_its_results_are_whole(tmp_path: Path, stand_in: None) -> None:
    path = write_suite(tmp_path, runs={"plain": {}}, seeds=[0])
    assert main(["suite", str(path)]) == 0
    results = tmp_path / "runs" / "plain_digits_0" / "results.json"
    whole = results.read_text()
    unfinished = json.dumps({key: value for key, value in json.loads(whole).items() if key != "steps"})
    for number, broken in enumerate((whole[:-20], unfinished), 1):
        results.write_text(broken)
        assert main(["suite", str(path)]) == 0 and json.loads(results.read_text())["steps"] == 3
        assert len(started(tmp_path)) == 1 + number


def test_a_finished_run_of_other_settings_is_neither_kept_nor_overwritten(
    tmp_path: Path, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", str(write_suite(tmp_path, runs={"plain": {}}, seeds=[0]))]) == 0
    assert main(["suite", str(write_suite(tmp_path, runs={"plain": {}}, seeds=[0], settings={"lr": 0.5}))]) == 1
    assert "it is finished with lr=0.001, and the suite says 0.5: remove" in capsys.readouterr().err
    for changes in ({"threads": 2, "log_every": 7, "device": "auto"}, {"data": {"root": "elsewhere"}}):
        assert main(["suite", str(write_suite(tmp_path, runs={"plain": {}}, seeds=[0], settings=changes))]) == 0
    assert len(started(tmp_path)) == 1
    scored = write_suite(tmp_path, runs={"plain": {}}, seeds=[0], settings={"benchmark": {"metrics": ["ssim"]}})
    assert main(["suite", str(scored)]) == 0 and len(started(tmp_path)) == 2


def test_a_run_without_a_metric_is_no_failure_and_is_scored_again(
    tmp_path: Path, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"benchmark": {"metrics": ["ssim", "fid"]}}
    path = write_suite(tmp_path, runs={"plain": {}}, seeds=[0], settings=asked)
    for number in (1, 2):
        assert main(["suite", str(path)]) == 0
        assert "elbo -1.5, no fid (why: " in capsys.readouterr().out and len(started(tmp_path)) == number


def test_a_config_that_is_wrong_fails_alone(tmp_path: Path, stand_in: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_suite(tmp_path, runs={"typo": {"learning_rate": 1}, "plain": {}}, seeds=[0])
    assert main(["suite", str(path)]) == 1
    captured = capsys.readouterr()
    assert "unknown key 'learning_rate'" in captured.err and "1 of 2 runs finished" in captured.out
    assert started(tmp_path) == ["plain_digits_0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_suite_after_the_run_has_saved_its_state(tmp_path: Path, number: signal.Signals) -> None:
    path = write_suite(tmp_path, runs={"slow": {"model": {"name": "slow"}}, "plain": {}}, seeds=[0])
    program = f"import sys; from zoo.reports import suite; suite.PROGRAM = {stand_in_program(tmp_path)}; "
    program += f"from zoo.commands import main; sys.exit(main(['suite', {str(path)!r}]))"
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 20
    while not started(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal does: to the suite and all that shares its group
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and "the same command goes on from here" in out
    assert started(tmp_path) == ["slow_digits_0"]
    assert (tmp_path / "runs" / "slow_digits_0" / "checkpoint").exists()
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert again.returncode == 0 and "2 of 2 runs finished" in again.stdout


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sedes": [1]}, "unknown key 'sedes'. Did you mean 'seeds'?"),
        ({"seeds": []}, "seeds is []"),
        ({"runs": {"a/b": {}}}, "runs.a/b"),
        ({"runs": {}}, "runs is {}"),
        (None, "there is no suite"),
    ],
)
def test_a_wrong_suite_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any] | None, said: str
) -> None:
    path = tmp_path / "absent.yaml" if changes is None else write_suite(tmp_path, **changes)
    assert main(["suite", str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_real_run_is_trained_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", str(write_suite(tmp_path, runs={"plain": {}}, seeds=[0]))]) == 0
    assert "[1/1] plain_digits_0 elbo -" in capsys.readouterr().out
    assert main(["suite", str(write_suite(tmp_path, runs={"plain": {}}, seeds=[0]))]) == 0
    assert "is finished already" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "suites").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_suites_that_come_along_fit_the_config_and_the_variants(path: Path) -> None:
    from zoo.models import model_options

    jobs = grid(load_suite(path))
    assert len({job.out for job in jobs}) == len(jobs)
    for job in jobs:
        model = load_config(job.base, job.overrides).model
        assert model.options.keys() <= model_options(model.name, model.options).keys()


def test_a_trial_of_the_sweep_is_a_command_that_run_py_takes(tmp_path: Path) -> None:
    sweep = yaml.safe_load((ROOT / "configs" / "sweeps" / "beta_mnist.yaml").read_text())
    trial = {"model.beta": 2.5, "model.latent_dim": 10, "model.warmup": 0, "lr": 0.0005}
    assert trial.keys() == sweep["parameters"].keys()
    macros = {"${interpreter}": [sys.executable], "${program}": [str(tmp_path / "show.py")]}
    macros["${args_no_hyphens}"] = [f"{key}={value}" for key, value in trial.items()]
    (tmp_path / "show.py").write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    command = [word for part in sweep["command"] for word in macros.get(part, [part])]
    environment = os.environ | {"WANDB_RUN_ID": "abc123"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    flag, config, *overrides = json.loads(shown.stdout)
    found = flatten(load_config(ROOT / config, overrides).dump())
    assert flag == "--config" and {key: found[key] for key in trial} == trial
    assert (found["out"], found["trackers"]) == ("runs/sweeps/beta_mnist/abc123", ["wandb"])
