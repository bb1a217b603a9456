"""What a run is stays what it is: through evaluation, resumption, moves, and a second run of the same name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zoo
from tests.runs import PLUGINS, ROOT, make_config, rows, run, settings
from zoo.commands import main
from zoo.config import Config, check, flatten, load_config
from zoo.engine import checkpoint, folder, launch, provenance
from zoo.engine.checkpoint import load_kept_plugins, pointed_to
from zoo.engine.folder import CHANGES_THE_RUN, MAY_CHANGE
from zoo.engine.train import Trainer
from zoo.errors import Undelivered, UserError
from zoo.evaluation import MAY_BE_SET, evaluate_run
from zoo.records import read_results
from zoo.reports.leaderboard import build_boards, find_runs
from zoo.runs import train

IDENTITY = ("variant", "dataset", "image", "latent_dim", "parameters", "seed", "config_hash", "history", "plugins")
TRAINING = ("steps", "epochs", "batch_size", "weights", "data", "command", "commit", "choices", "images_per_second")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("life") / "trained"
    assert run(make_config(out, steps=6)) == 0
    return out


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "finished", symlinks=True))


def evaluate(out: Path, *overrides: str, **options: Any) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    evaluate_run(out, overrides, **options)


# ---- evaluate leaves a run what it is


def test_other_weights_of_a_run_are_scored_beside_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate = Trainer._validate
    losses = {16: 1.0}  # which makes it the best
    monkeypatch.setattr(Trainer, "_validate", lambda self: validate(self) | {"val/loss": losses.get(self.step, 2.0)})
    out = tmp_path / "run"
    assert run(make_config(out, steps=25)) == 0
    before = read_results(out)
    evaluate(out, "benchmark.metrics=[mse]", checkpoint="best")
    after = read_results(out)
    best = read_results(out, "checkpoint best")["metrics"]
    assert {key: after[key] for key in before} == before and set(best) >= {"elbo", "psnr", "mse"}
    assert run(make_config(tmp_path / "short", steps=16)) == 0
    assert best["elbo"]["value"] == read_results(tmp_path / "short")["metrics"]["elbo"]["value"]
    assert best["elbo"]["value"] != before["metrics"]["elbo"]["value"]
    evaluate(out, checkpoint="last")  # which is what the run is
    assert set(read_results(out)["elsewhere"]) == {"checkpoint best"}
    evaluate(out, "data.limit=200", "data.title=fewer", checkpoint="best")
    assert set(read_results(out)["elsewhere"]) == {"checkpoint best", "fewer, checkpoint best"}
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(UserError, match="--checkpoint best: there is no such checkpoint"):
        evaluate(out, checkpoint="best")
    assert run(make_config(tmp_path / "averaged", steps=3, ema=0.9)) == 0
    with pytest.raises(UserError, match=r"--checkpoint best: the run's numbers are those of its average \(ema\)"):
        evaluate(tmp_path / "averaged", checkpoint="best")


# A value for each key that differs from the run's own, and is legal.
OTHERWISE: dict[str, Any] = {
    "model.name": "beta",
    "model.net": "conv",
    "model.hidden_dims": [8],
    "model.latent_dim": 2,
    "model.recon": "mse",
    "data.name": "shapes",
    "data.root": "/somewhere",
    "data.size": 16,
    "data.title": "mine",
    "data.limit": 299,
    "data.range": [-1, 1],
    "data.binarize": "fixed",
    "data.val_from": "test",
    "plugins": [str(PLUGINS / "duel.py")],
    "out": "/elsewhere",
    "title": "mine",
    "seeds": [0, 3],
    "init_from": "/somewhere",
    "evaluate_on": "best",
    "init": "he",
    "freeze": ["encoder"],
    "epochs": None,
    "steps": 7,
    "lr_schedule": "cosine",
    "optimizer.name": "sgd",
    "optimizer.betas": [0.5, 0.9],
    "clip": 1.0,
    "ema": 0.9,
    "eval_every": 3,
    "threads": 2,
    "device": "auto",
    "mixed_precision": "bf16",
    "trackers": ["tensorboard"],
    "wandb.mode": "offline",
    "wandb.project": "else",
    "wandb.entity": "ours",
    "wandb.group": "these",
    "wandb.tags": ["new"],
    "benchmark.metrics": ["mse"],
    "benchmark.samplers": ["gmm10"],
    "benchmark.inception_weights": "/w.pth",
    "benchmark.mobilenet_weights": "/w.pth",
    "benchmark.dinov2_weights": "/w",
    "benchmark.clip_weights": "/w",
    "benchmark.options": {"nll": {"k": 3}},
}


def another(key: str, value: Any) -> Any:
    """Return a legal value of a setting that is not the one it has."""
    if key in OTHERWISE:
        return OTHERWISE[key]
    if isinstance(value, bool):
        return not value
    return value / 2 if isinstance(value, float) and value else 0.5 if isinstance(value, float) else (value or 0) + 1


def every_key(out: Path) -> list[str]:
    return sorted(flatten(load_config(out / "config.yaml").dump()))


def test_evaluate_refuses_each_setting_or_changes_no_fact_of_the_run(finished: Path) -> None:
    config = load_config(finished / "config.yaml")
    before = read_results(finished)
    values, refused = flatten(config.dump()), []
    for key in every_key(finished):
        value = another(key, values[key])
        override = f"{key}={json.dumps(value)}"
        try:
            evaluate(finished, override)
        except (UserError, Undelivered):
            refused.append(key)
        after = read_results(finished)
        for fact in (*IDENTITY, *TRAINING, "metrics", "terms"):
            if fact == "metrics":
                assert after[fact].items() >= before[fact].items(), override
            else:
                assert after[fact] == before[fact], override
    let_through = set(every_key(finished)) - {*refused}
    assert all(key.startswith((*MAY_BE_SET, "data.")) for key in let_through if key not in ("out", "epochs"))
    assert {"model.name", "model.latent_dim", "seed", "lr", "steps", "ema"} <= {*refused}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "model.beta=9",
            "model.beta=9.* would make it another run, whose model.beta is None: evaluate takes benchmark",
        ),
        ("seed=7", "seed=7 would make it another run, whose seed is 0"),
        ("data.limit=200", "this is other data than the run's 'digits': give it a name of its own, as data.title=more"),
        (
            "data.name=shapes data.size=16",
            "the images of 'shapes' are .*, and the model takes 1 x 8 x 8: set data.size",
        ),
    ],
)
def test_what_evaluate_does_not_take_is_told(finished: Path, override: str, words: str) -> None:
    before = (finished / "results.json").read_bytes()
    with pytest.raises(UserError, match=words):
        evaluate(finished, *override.split())
    assert (finished / "results.json").read_bytes() == before


def test_other_data_is_scored_beside_the_runs_own(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, pictures = read_results(finished), (finished / "reconstructions.png").stat().st_mtime_ns
    evaluate(finished, "data.name=shapes", "data.size=8", "data.limit=200")
    after = read_results(finished)
    elsewhere = after.pop("elsewhere")
    assert after == before and (finished / "reconstructions.png").stat().st_mtime_ns == pictures
    assert elsewhere.keys() == {"shapes"} and "shapes" in elsewhere["shapes"]["data"]
    assert elsewhere["shapes"]["metrics"]["psnr"]["value"] != before["metrics"]["psnr"]["value"]
    assert "test images of shapes" in capsys.readouterr().out
    evaluate(finished, "data.limit=100", "data.title=few", "benchmark.metrics=[mse]")
    elsewhere = read_results(finished)["elsewhere"]
    assert elsewhere.keys() == {"shapes", "few"} and "mse" in elsewhere["few"]["metrics"]
    assert "mse" not in read_results(finished)["metrics"]


def test_a_metric_that_cannot_be_computed_is_exit_code_1(
    finished: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, error = cli("evaluate", finished, "benchmark.metrics=[fid,mse]", "benchmark.n=50")
    assert code == 1 and "error: no fid, for the reason above" in error
    assert "mse" in read_results(finished)["metrics"]
    assert cli("evaluate", finished, "benchmark.metrics=[codebook]")[0] == 0


# ---- resume


def test_resume_refuses_each_setting_or_tells_what_it_changed(finished: Path) -> None:
    stored = load_config(finished / "config.yaml")
    values = flatten(stored.dump())
    for key in every_key(finished):
        changed = check(Config, apply(stored.dump(), key, another(key, values[key])), "test")
        try:
            found = folder.changes(changed, finished)
        except UserError as error:
            assert f"can't be resumed with another {key}" in str(error)
            assert key not in CHANGES_THE_RUN
        else:
            assert (key in found) == (key in CHANGES_THE_RUN)
            assert key in found or key.startswith(MAY_CHANGE) or values[key] == another(key, values[key])


def apply(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *parents, last = key.split(".")
    inner = values
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    if key == "epochs":
        values["steps"], values["epochs"] = None, 3
    return values


def test_a_longer_second_life_is_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at_once, in_two = tmp_path / "at_once", tmp_path / "in_two"
    run(make_config(at_once, steps=12, lr_schedule="cosine"))
    run(make_config(in_two, steps=6, lr_schedule="cosine"))
    hash_of_six = read_results(in_two)["config_hash"]
    run(make_config(in_two, steps=12, lr_schedule="cosine"), resume=True)
    assert "steps is 12 from step 6 on, and was 6" in capsys.readouterr().out
    first, second = read_results(at_once), read_results(in_two)
    assert len({hash_of_six, first["config_hash"], second["config_hash"]}) == 3
    assert [life["step"] for life in second["history"]] == [0, 6]
    assert [life["planned"] for life in second["history"]] == [6, 12]
    assert second["history"][1]["changed"] == {"steps": [6, 12]}
    # An interruption is no change: the run is the one that was never interrupted.
    run(make_config(at_once, steps=12, lr_schedule="cosine"), resume=True)
    again = read_results(at_once)
    assert again["config_hash"] == first["config_hash"] and len(again["history"]) == 2


def test_a_run_is_never_shortened(finished: Path) -> None:
    with pytest.raises(UserError, match="has taken 6 steps, and .*steps=4 end at 4: a run can't be shortened"):
        run(make_config(finished, steps=4), resume=True)


def test_what_a_diverged_run_is_advised_to_change_can_be_changed(tmp_path: Path) -> None:
    out = tmp_path / "r"
    run(make_config(out, steps=6))
    run(make_config(out, steps=9, lr=1e-4, clip=1.0), resume=True)
    changed = read_results(out)["history"][1]["changed"]
    assert changed == {"steps": [6, 9], "lr": [1e-3, 1e-4], "clip": [None, 1.0]}
    assert {row["lr"] for row in rows(out) if "lr" in row} == {1e-3, 1e-4}
    assert yaml.safe_load((out / "config.yaml").read_text())["lr"] == 1e-4


def test_a_config_without_a_newer_key_has_its_default(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    for newer in ("freeze", "init_from", "title", "clip"):
        del config[newer]
    del config["data"]["dequantise"]
    (finished / "config.yaml").write_text(yaml.safe_dump(config))
    assert run(make_config(finished, steps=8), resume=True) == 0


# ---- folders


def default_out(tmp_path: Path, **changes: Any) -> Config:
    values = settings(tmp_path, steps=2, **changes)
    del values["out"]
    return check(Config, values, "test")


def test_two_experiments_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = {"name": "beta", "net": "mlp", "hidden_dims": [4], "latent_dim": 3}
    outs = []
    for beta in (4.0, 1.0, 1.0):
        config = default_out(tmp_path, model=model | {"beta": beta})
        assert run(config) == 0
        outs.append(config.out)
    assert [out.name for out in outs if out] == [
        "beta_digits_z3_s8_0",
        "beta_digits_z3_s8_0_2",
        "beta_digits_z3_s8_0_3",
    ]
    resumed = default_out(tmp_path, model=model | {"beta": 4.0})
    assert run(resumed, resume=True) == 0 and resumed.out == outs[0], "the one with these settings goes on"
    assert not Path("runs/beta_digits_z3_s8_0_4").exists()


def test_overwrite_says_what_it_removes(finished: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    (finished / "notes.txt").write_text("mine")
    config = finished.parent / "c.yaml"
    config.write_text(yaml.safe_dump(settings(finished, steps=2)))
    code, _, error = cli("--config", config)
    assert code == 2 and "add --resume to go on with it, --overwrite to remove it" in error
    code, out, _ = cli("--config", config, "--overwrite")
    assert code == 0 and f"removed the run in {finished}" in out
    assert read_results(finished)["steps"] == 2 and len(read_results(finished)["history"]) == 1
    assert (finished / "notes.txt").read_text() == "mine"


def test_a_run_that_failed_before_its_first_checkpoint_blocks_nothing(tmp_path: Path) -> None:
    out = tmp_path / "r"
    out.mkdir()
    (out / "config.yaml").write_text("")
    (out / "metrics.jsonl").write_text('{"step": 1}\n')
    assert run(make_config(out, steps=2)) == 0
    assert [row["step"] for row in rows(out)] == [2]


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/nothing", "x" * 300])
def test_a_place_that_can_be_no_folder_is_one_sentence(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"where no run can be|each name in it 255"):
        run(make_config(tmp_path / out, steps=2))


def test_a_config_that_is_no_text_is_one_sentence(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(bytes(range(256)))
    code, _, error = cli("--config", photo)
    assert code == 2 and error == f"error: {photo} is no text in UTF-8\n"
    code, _, error = cli("--config", tmp_path)
    assert code == 2 and error == f"error: there is no config file {tmp_path}\n"


def test_without_symbolic_links_best_and_latest_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    out = tmp_path / "r"
    run(make_config(out, steps=20, checkpoint_every=4, keep=1))
    for name in ("best", "latest"):
        pointer = out / "checkpoints" / name
        assert pointer.is_file() and not pointer.is_symlink() and pointed_to(pointer).is_dir()
    (out / "model.safetensors").unlink()
    assert isinstance(zoo.load(out), zoo.BaseVAE), "latest is found"


def test_a_run_can_be_moved(finished: Path, tmp_path: Path) -> None:
    moved = finished.rename(tmp_path / "elsewhere")
    evaluate(moved, "benchmark.metrics=[mse]")
    assert "mse" in read_results(moved)["metrics"]
    assert run(make_config(moved, steps=8), resume=True) == 0


# ---- plugins


PLUGIN = """
from zoo import GaussianVAE, register

@register("carried_{n}")
class Carried(GaussianVAE):
    pass
"""


@pytest.mark.slow
def test_a_run_carries_its_plugin_and_runs_it_only_when_told(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    plugin, out = tmp_path / "carried.py", tmp_path / "r"
    plugin.write_text(PLUGIN.format(n=0))
    done = in_a_process("--config", write(tmp_path, out, "carried_0"), "--plugin", plugin)
    assert done.returncode == 0, done.stderr
    assert (out / "plugins" / "carried.py").read_text() == PLUGIN.format(n=0)
    [(name, digest)] = read_results(out)["plugins"].items()
    assert name == "carried.py" and len(digest) == 64
    plugin.unlink()

    for command in (["evaluate", out], ["sample", out, "--n", "2", "--out", tmp_path / "s.png"]):
        refused = in_a_process(*command)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
        assert (
            f"made with the plugin carried.py (sha256 {digest[:12]}…), which is not loaded by itself" in refused.stderr
        )
        assert in_a_process(*command, "--trust-plugins").returncode == 0
    moved = tmp_path / "new.py"
    moved.write_text(PLUGIN.format(n=0))
    assert in_a_process("sample", out, "--n", "2", "--out", tmp_path / "t.png", "--plugin", moved).returncode == 0

    (out / "plugins" / "carried.py").write_text(PLUGIN.format(n=0) + "# another\n")
    changed = in_a_process("sample", out, "--n", "2", "--trust-plugins")
    assert changed.returncode == 2 and "is not the file that the run was made with" in changed.stderr


@pytest.mark.parametrize("digest", ["", "right", "wrong"])
@pytest.mark.parametrize("where", ["{outside}", "../../outside.py", "../outside.py", "outside", "", ".py"])
def test_trusting_a_runs_plugins_trusts_no_file_that_lies_elsewhere(
    where: str, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, outside = tmp_path / "ran", tmp_path / "outside.py"
    outside.write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)  # a module of that name can be found as well
    (tmp_path / "r" / "plugins").mkdir(parents=True)
    (tmp_path / "r" / "inside").mkdir()
    for copy in (tmp_path / "r" / "outside.py", tmp_path / "r" / "inside" / "outside.py"):
        copy.write_text(outside.read_text())
    known = {"": "", "right": hashlib.sha256(outside.read_bytes()).hexdigest(), "wrong": "0" * 64}[digest]
    with pytest.raises(UserError, match="keeps no copy of its plugin"):
        load_kept_plugins(tmp_path / "r" / "model.safetensors", {where.format(outside=outside): known})
    assert not mark.exists()


@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_a_copy_of_no_known_content_is_not_run(digest: str, tmp_path: Path) -> None:
    kept, mark = tmp_path / "plugins" / "own.py", tmp_path / "ran"
    kept.parent.mkdir()
    kept.write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(UserError, match="is not the file that the run was made with"):
        load_kept_plugins(tmp_path / "model.safetensors", {"own.py": digest})
    assert not mark.exists()
    load_kept_plugins(tmp_path / "model.safetensors", {"own.py": hashlib.sha256(kept.read_bytes()).hexdigest()})
    assert mark.exists()


@pytest.mark.parametrize("beside", ["model.safetensors", "history.jsonl", "results.json"])
@pytest.mark.parametrize("base", ["{outside}", "../outside.yaml", "quickstart"])
def test_a_runs_config_reads_no_other_file(base: str, beside: str, tmp_path: Path) -> None:
    outside, out = tmp_path / "outside.yaml", tmp_path / "r"
    outside.write_text("title: secret\n")
    out.mkdir()
    config = out / "config.yaml"
    config.write_text(yaml.safe_dump(settings(out) | {"base": base.format(outside=outside)}))
    assert load_config(config), "a config of one's own may, whatever it is called"
    (out / beside).touch()
    with pytest.raises(UserError, match="is a run's config, which says all of itself: remove its `base`"):
        load_config(config)


def in_a_process(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "run.py", *map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


def write(tmp_path: Path, out: Path, variant: str = "mlp", **changes: Any) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings(out, variant, steps=2) | changes))
    return file


# ---- whose code, which launch


def test_a_repository_that_is_not_the_zoos_gives_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thesis, package = tmp_path / "thesis", tmp_path / "thesis" / "env" / "zoo"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (thesis / ".gitignore").write_text("env\n")
    git = ["git", "-C", str(thesis), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "thesis"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "engine" / "provenance.py"))
    assert provenance._commit() == ""
    subprocess.run([*git, "add", "-f", str(package / "__init__.py")], check=True)
    subprocess.run([*git, "commit", "-qm", "zoo"], check=True)
    assert len(provenance._commit()) == 12
    (package / "__init__.py").write_text("changed")
    assert provenance._commit().endswith("-dirty")


def test_results_name_the_code(finished: Path) -> None:
    results = read_results(finished)
    assert results["version"] == zoo.__version__ and results["metrics"]["psnr"]["commit"] == results["commit"]


@pytest.mark.parametrize(
    ("parent", "typed"),
    [
        (
            [
                "/usr/bin/python3",
                "/env/bin/accelerate",
                "launch",
                "--num_processes",
                "2",
                "run.py",
                "--config",
                "c.yaml",
            ],
            "accelerate launch --num_processes 2 run.py --config c.yaml",
        ),
        (
            ["/usr/bin/python3", "/env/bin/torchrun", "--nproc_per_node=2", "run.py", "--config", "a b.yaml"],
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node=2 run.py --config 'a b.yaml'",
        ),
        (["python", "-m", "torch.distributed.run", "run.py"], "ACCELERATE_USE_CPU=true torchrun run.py"),
        (["python", "-m", "accelerate.commands.launch", "run.py"], "accelerate launch run.py"),
        (["bash"], "python run.py --config c.yaml"),
    ],
)
def test_the_command_is_what_was_typed(parent: list[str], typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched_by(parent, monkeypatch)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sys, "argv", ["run.py", "--config", "c.yaml"])
    assert launch.command() == typed
    assert launch.again() == f"{typed} --resume"
    monkeypatch.setattr(sys, "argv", ["/env/ipykernel_launcher.py", "-f", "kernel.json"])
    assert launch.command() == "" and launch.again() == "train it again with resume=True"


def launched_by(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Parent:
        def parent(self) -> Parent:
            return self

        def cmdline(self) -> list[str]:
            return words

    monkeypatch.setattr(launch.psutil, "Process", Parent)
    launch.launching_command.cache_clear()
    monkeypatch.setattr(launch, "launching_command", launch.launching_command.__wrapped__)


LAUNCH = ["python", "accelerate", "launch"]


@pytest.mark.parametrize(
    ("words", "environment", "config", "key", "value"),
    [
        (["--mixed_precision", "no", "run.py"], {"ACCELERATE_MIXED_PRECISION": "no"}, {}, "mixed_precision", "no"),
        (["run.py", "--mixed_precision", "no"], {"ACCELERATE_MIXED_PRECISION": "no"}, {}, "mixed_precision", "auto"),
        (["--mixed_precision=fp16", "run.py"], {}, {"mixed_precision": "fp16"}, "mixed_precision", "fp16"),
        (["run.py"], {"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, "mixed_precision", "bf16"),
        (["--gradient_accumulation_steps", "4", "run.py"], {}, {}, "accumulate", 4),
        (["--gradient_accumulation_steps=4", "run.py"], {}, {"accumulate": 4}, "accumulate", 4),
        (["run.py"], {"ACCELERATE_USE_CPU": "true"}, {}, "device", "cpu"),
        (["run.py"], {"WANDB_MODE": "offline"}, {"wandb": {"mode": "offline"}}, "device", "auto"),
    ],
)
def test_a_launch_fills_in_what_a_config_leaves_open(
    words: list[str],
    environment: dict[str, str],
    config: dict[str, Any],
    key: str,
    value: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = in_launch(words, environment, config, monkeypatch)
    launch.take_up_launch(parsed)
    assert getattr(parsed, key) == value


@pytest.mark.parametrize(
    ("words", "environment", "config", "fault"),
    [
        (["--mixed_precision", "no", "run.py"], {}, {"mixed_precision": "bf16"}, "mixed_precision .no., and .* bf16"),
        (["--mixed_precision", "fp8", "run.py"], {}, {}, "mixed_precision .fp8., and the config for auto"),
        (["--gradient_accumulation_steps", "4", "r.py"], {}, {"accumulate": 2}, "steps .4., and .* for accumulate=2"),
        (["run.py"], {"ACCELERATE_USE_CPU": "true"}, {"device": "cuda"}, "CPU alone .* for device=cuda"),
        (["run.py"], {"WANDB_MODE": "offline"}, {"wandb": {"mode": "online"}}, "WANDB_MODE .offline., .*mode=online"),
    ],
)
def test_a_launch_and_a_config_that_contradict_each_other_are_one_sentence(
    words: list[str],
    environment: dict[str, str],
    config: dict[str, Any],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = in_launch(words, environment, config, monkeypatch)
    with pytest.raises(UserError, match=f"the launch asks for .*{fault}: leave one of them out"):
        launch.take_up_launch(parsed)


def in_launch(
    words: list[str], environment: dict[str, str], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Config:
    launched_by([*LAUNCH, *words], monkeypatch)
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    values = {"model": {"name": "mlp"}, "data": {"name": "digits"}, "steps": 2, **config}
    return check(Config, values, "test")


# ---- what is logged


def test_rows_average_whole_windows_or_say_how_many_steps(tmp_path: Path) -> None:
    out = tmp_path / "r"
    run(make_config(out, steps=23, log_every=5, checkpoint_every=3))  # an epoch of 243 images ends within a window
    logged = rows(out)
    trained = [row for row in logged if "train/loss" in row]
    assert [row["step"] for row in trained] == [5, 10, 15, 20, 23]
    assert [row.get("window") for row in trained] == [None, None, None, None, 3]
    ends = [row["step"] for row in logged if "train/epoch_loss" in row]
    assert ends == [8, 16, 23] and not {8, 16} & {row["step"] for row in trained}


@pytest.mark.parametrize("killed_at", range(1, 12, 3))
def test_the_rows_of_a_resumed_run_are_those_of_the_undisturbed_one(killed_at: int, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    options = {"steps": 12, "log_every": 5, "checkpoint_every": 3, "data": {"name": "digits", "limit": 100}}
    run(make_config(undisturbed, **options))
    config = make_config(killed, **options)
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        count = []

        def take_step(self: Any, *batch: Any) -> None:
            count.append(1)
            if len(count) == killed_at:
                os.kill(os.getpid(), signal.SIGTERM)
            original(self, *batch)

        original = zoo.engine.train.Trainer.take_step
        patch.setattr("zoo.engine.train.Trainer.take_step", take_step)
        assert train(config) == signal.SIGTERM
    run(make_config(killed, **options), resume=True)
    first, second = (
        [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows(o)] for o in (undisturbed, killed)
    )
    assert first == second


@pytest.mark.parametrize("number", ["SIGHUP", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_dropped_connection_saves(number: str, tmp_path: Path) -> None:
    out = tmp_path / "r"
    config = write(tmp_path, out, steps=100_000, checkpoint_every=100_000, data={"name": "digits", "limit": 20_000})
    process = subprocess.Popen(
        [sys.executable, ROOT / "run.py", "--config", config], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    while not (out / "metrics.jsonl").is_file():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(getattr(signal, number))
    said, _ = process.communicate()
    assert process.returncode == 128 + getattr(signal, number) and "checkpoint written; to go on: python run.py" in said
    assert list((out / "checkpoints").glob("step_*"))


# ---- starting from other weights


def test_a_run_may_start_from_anothers_weights(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    assert run(make_config(out, steps=1, init_from=str(trained), freeze=["encoder"])) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (trained, out))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("encoder.")}
    moved = max((before[name] - after[name]).abs().max() for name in before if name != "progress")
    assert moved < 0.01, "one step away"
    assert "init    10 of 10 tensors from" in capsys.readouterr().out
    results = read_results(out)
    assert results["config_hash"] != read_results(trained)["config_hash"]

    other = {"name": "mlp", "net": "mlp", "hidden_dims": [16], "latent_dim": 5, "recon": "bce"}
    assert run(make_config(tmp_path / "o", steps=1, init_from=str(trained / "model.safetensors"), model=other)) == 0
    said = capsys.readouterr().out
    assert "init    5 of 10 tensors" in said and "to_mu.weight [5, 16] (there [3, 16])" in said


def test_weights_that_fit_nothing_and_modules_that_are_not_there(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="init_from: nothing in .* fits PlainVAE, by name and shape"):
        model = {"name": "conv", "net": "conv", "base_channels": 3, "latent_dim": 7}
        run(make_config(tmp_path / "r", init_from=str(trained), model=model, data={"name": "digits", "size": 16}))
    with pytest.raises(UserError, match="there is no trained model in"):
        run(make_config(tmp_path / "r", init_from=str(tmp_path)))
    with monkeypatch.context() as context:  # "/" is no run's folder either, and all below it are not looked through
        context.setattr(os, "walk", lambda top: pytest.fail(f"{top} is walked"))
        for use in (zoo.load, evaluate_run, lambda out: run(make_config(tmp_path / "r", init_from=str(out)))):
            with pytest.raises(UserError, match="there is no trained model in|holds no run"):
                use(tmp_path)
    with pytest.raises(UserError, match=r"freeze names 'encoding', which is no module .* Did you mean 'encoder'"):
        run(make_config(tmp_path / "r", freeze=["encoding"]))


def recipes(good: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a model's file says of it, with one value another."""
    strange = [None, True, [], {}, "", -1, 0, 10**30, 1e308, float("nan"), "x", [1], {"a": 1}, [[]], [float("nan"), 1]]
    for value in strange:
        yield from (good | {key: value} for key in ("model", "image", "plugins", "digest"))
        yield from (good | {"image": good["image"] | {key: value}} for key in (*good["image"], "self"))
        for key in (*good["model"], "image", "self", "model", "beta", "out_activation", "latent"):
            yield good | {"model": good["model"] | {key: value}}
    yield from ({key: good[key] for key in good if key != left} for left in good)


def test_whatever_a_models_file_says_of_it_is_a_model_or_one_sentence(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    weights = load_file(trained / "model.safetensors")
    with safe_open(trained / "model.safetensors", "pt") as opened:
        good = json.loads(opened.metadata()["zoo"])
    tried = loaded = 0
    for recipe in recipes(good):
        save_file(weights, file, {"zoo": json.dumps(recipe)})
        tried += 1
        try:
            model = zoo.load(file)
        except UserError as error:
            assert "\n" not in str(error), recipe
        else:
            loaded += 1
            assert model.sample(2).isfinite().all(), recipe
    assert tried > 300 and 0 < loaded < tried / 10
    for text in ("", "[]", "5", "null", "[" * 5000, '{"a":' * 900 + "1" + "}" * 900, "9" * 5000):
        save_file(weights, file, {"zoo": text})
        with pytest.raises(UserError, match="model.safetensors is damaged, or not a model of this zoo"):
            zoo.load(file)


def test_a_config_gives_no_model_its_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=": image is no option: what images a model takes follows from the data"):
        make_config(tmp_path, model={"name": "mlp", "net": "mlp", "image": {"channels": 3}})


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-50] ^= 0x40
    file.write_bytes(content)


def _not_finite(file: Path) -> None:
    with safe_open(file, "pt") as opened:
        metadata = {"zoo": json.dumps(json.loads(opened.metadata()["zoo"]) | {"digest": ""})}  # as an older run's
    weights = load_file(file)
    weights["to_mu.weight"][0, 0] = float("nan")
    save_file(weights, file, metadata)


def _of_another_type(file: Path) -> None:
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    tensor = header["to_mu.weight"]
    tensor["dtype"], tensor["shape"][-1] = "F8_E4M3", 4 * tensor["shape"][-1]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])


def _lead_out(file: Path) -> None:
    shutil.copy(file, outside := file.parents[1] / "elsewhere.safetensors")
    file.unlink()
    file.symlink_to(outside)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped byte": (_flip, "is damaged: its weights are not those that were written"),
    "not finite": (_not_finite, r"the weights in .*model.safetensors are not all finite \(to_mu.weight is not\)"),
    "cut off": (lambda file: os.truncate(file, file.stat().st_size - 5), "is damaged, or not a model of this zoo"),
    "another type": (_of_another_type, "model.safetensors holds to_mu.weight as torch.float8_e4m3fn, which no"),
    "a link that leads out": (_lead_out, "model.safetensors is a link to .*, out of the run's folder: remove it"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_weights_start_no_run(name: str, trained: Path, tmp_path: Path) -> None:
    given = Path(shutil.copytree(trained, tmp_path / "given", symlinks=True))
    damage, words = DAMAGES[name]
    damage(given / "model.safetensors")
    for read in (zoo.load, lambda source: run(make_config(tmp_path / "r", steps=1, init_from=str(source)))):
        with pytest.raises(UserError, match=words) as told:
            read(given)
        assert "given/model.safetensors" in str(told.value) and not (tmp_path / "r").exists()


def test_frozen_batch_norm_learns_no_statistics(tmp_path: Path) -> None:
    model = {"name": "conv", "net": "conv", "base_channels": 2, "latent_dim": 3}
    config = make_config(tmp_path / "r", steps=3, model=model, data={"name": "digits", "size": 16}, freeze=["encoder"])
    run(config)
    weights = load_file(tmp_path / "r" / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith("running_mean"):
            assert bool(tensor.any()) != name.startswith("encoder.")


def test_every_run_has_traversals(trained: Path) -> None:
    assert (trained / "traversals.png").is_file()
    assert checkpoint.recipe_of(trained)["plugins"] == {}


# ---- data


def folder_of_pictures(root: Path, n: int, seed: int = 0) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / f"{seed}_{i:03}.png")
    return root


def on_pictures(out: Path, root: Path, **changes: Any) -> Config:
    return make_config(out, steps=4, data={"name": "image_folder", "root": str(root), "size": 8} | changes)


def test_two_folders_are_two_data_sets(tmp_path: Path) -> None:
    for seed, name in enumerate(("cats", "dogs")):
        root = folder_of_pictures(tmp_path / name, 40, seed)
        run(on_pictures(tmp_path / "runs" / name, root))
    copied = Path(shutil.copytree(tmp_path / "cats", tmp_path / "moved" / "cats"))
    run(on_pictures(tmp_path / "runs" / "moved", copied))
    cats, dogs, moved = (read_results(tmp_path / "runs" / name) for name in ("cats", "dogs", "moved"))
    assert cats["dataset"] == "cats" and dogs["dataset"] == "dogs"
    assert cats["config_hash"] != dogs["config_hash"]
    assert (cats["config_hash"], cats["data_digest"]) == (moved["config_hash"], moved["data_digest"])
    found, problems = find_runs(tmp_path / "runs")
    assert len(found) == 2 and "same config, same seed" in problems[0]
    assert [board.title.split(",")[0] for board in build_boards(found, [])] == ["cats", "dogs"]

    run(on_pictures(tmp_path / "runs" / "other_dogs", tmp_path / "dogs", title="cats"))
    boards = build_boards(find_runs(tmp_path / "runs")[0], [])
    titles = sorted(board.title for board in boards)
    assert len(titles) == 3 and sum(", content " in title for title in titles) == 2


def test_a_folder_that_grew_is_told_and_no_test_image_was_trained_on(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    root, out = folder_of_pictures(tmp_path / "photos", 40), tmp_path / "r"
    config = on_pictures(out, root)
    run(config)
    trained_on = load_file(out / "split.safetensors")["train"]
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(settings(out, steps=8, data={"name": "image_folder", "root": str(root), "size": 8})))
    folder_of_pictures(root, 30, seed=1)
    (root / "0_000.png").unlink()

    code, _, error = cli("--config", file, "--resume")
    assert code == 2 and f"no longer what the run in {out} has seen: 30 pictures are new, 1 are gone" in error
    assert "--accept-data" in error
    code, _, error = cli("evaluate", out)
    assert code == 2 and "30 pictures are new, 1 are gone" in error and "data.title=now" in error

    code, _, error = cli("evaluate", out, "data.title=now")
    assert code == 0, error
    assert read_results(out)["elsewhere"].keys() == {"now"}
    code, _, error = cli("--config", file, "--resume", "--accept-data")
    assert code == 0, error
    membership = load_file(out / "split.safetensors")
    assert set(trained_on.tolist()) <= set(membership["train"].tolist())
    held_out = {*membership["val"].tolist(), *membership["test"].tolist()}
    assert len(held_out) > 8 and not held_out & {*membership["train"].tolist()}
    results = read_results(out)
    assert "data" in results["history"][1]["changed"] and sum(map(len, membership.values())) == 70
    assert cli("evaluate", out)[0] == 0, "this is what the run has seen, now"


HANDED = """
from pathlib import Path
Path({mark!r}).touch()
from zoo import GaussianVAE, register

@register("handed_over")
class HandedOver(GaussianVAE):
    pass
"""


def test_a_handed_run_runs_no_code_and_is_resumed_where_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maker, mine, mark = tmp_path / "maker", tmp_path / "mine", tmp_path / "ran"
    maker.mkdir()
    plugin = maker / "evil.py"
    plugin.write_text(HANDED.format(mark=str(mark)))
    out = maker / "run"
    config = write(tmp_path, out, "handed_over", plugins=[str(plugin)])
    assert in_a_process("--config", config).returncode == 0 and mark.exists()
    victim = tmp_path / "victim"
    handed = Path(shutil.copytree(out, mine / "handed"))
    text = yaml.safe_load((handed / "config.yaml").read_text())
    (handed / "evil.py").write_text(plugin.read_text())
    (handed / "config.yaml").write_text(yaml.safe_dump(text | {"out": str(victim), "plugins": ["evil.py"]}))
    mark.unlink()

    commands = (
        ("--config", handed / "config.yaml", "--resume"),
        ("--config", handed / "config.yaml", "--dry-run"),
        ("evaluate", handed),
        ("sample", handed, "--n", "2"),
        ("leaderboard", mine, "--out", tmp_path / "board"),
        ("reference", handed),
    )
    capsys.readouterr()
    for command in commands:
        code, said = main([str(word) for word in command]), capsys.readouterr().err
        assert not mark.exists(), command
        if command[0] in ("--config", "evaluate", "sample"):
            assert code == 2 and "evil.py" in said and "--trust-plugins" in said, command
    done = in_a_process("--config", handed / "config.yaml", "--resume", "--trust-plugins", "steps=4")
    assert done.returncode == 0, done.stderr
    assert mark.exists() and not victim.exists() and read_results(handed)["steps"] == 4
