"""The zoo from Python: train by name, file, values or Config, in one process and in threads; look, measure, compare."""

from __future__ import annotations

import _thread
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import zoo
from tests.runs import PLUGINS, ROOT, digest, rows, run, settings
from zoo import evaluation
from zoo.base import VARIANTS
from zoo.config import Config, check, load_config
from zoo.engine import launch, train
from zoo.engine.checkpoint import Checkpoints
from zoo.errors import UserError
from zoo.pictures.of_runs import write_pictures


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> zoo.Run:
    return zoo.train(settings(tmp_path_factory.mktemp("runs") / "finished", steps=3))


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time that they take, but for the one run that is looked at, which is made before this."""
    monkeypatch.setattr(evaluation, "write_pictures", lambda *_: None)


def test_a_run_is_what_its_folder_holds(finished: zoo.Run) -> None:
    assert finished.finished and finished.config.steps == 3
    assert finished.metrics.keys() >= {"loss", "elbo", "psnr"} and finished.metrics["elbo"] < 0
    assert finished.results["metrics"]["elbo"]["value"] == finished.metrics["elbo"]
    assert finished.log[-1]["step"] == 3 and "val/loss" in finished.log[-1]
    assert {"reconstructions", "generated_samples", "training_losses"} <= finished.pictures.keys()
    assert isinstance(finished.pictures["reconstructions"], Image.Image)
    assert finished.model is finished.model and finished.model.sample(2).shape == (2, 1, 8, 8)
    same = zoo.Run(str(finished.out))
    assert same.metrics == finished.metrics and torch.equal(zoo.load(same).progress, torch.ones(()))


def test_a_notebook_shows_numbers_and_pictures(finished: zoo.Run) -> None:
    page = finished._repr_html_()
    assert "mlp on digits" in page and "<td>elbo</td>" in page and page.count("<img ") == 2
    assert repr(finished).startswith(f"Run('{finished.out}'): elbo -")
    assert finished.pictures["reconstructions"]._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["values", "Config", "file"])
def test_a_config_may_be_given_in_many_ways(tmp_path: Path, kind: str) -> None:
    values = settings(tmp_path / "r", steps=2)
    if kind == "file":
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    given = {"values": values, "Config": check(Config, values, "it"), "file": str(tmp_path / "c.yaml")}[kind]
    before = given.dump() if isinstance(given, Config) else str(given)
    made = zoo.train(given, epochs=0.2, model={"latent_dim": 2}, lr=np.float32(0.5), **{"data.limit": 200})
    assert (given.dump() if isinstance(given, Config) else str(given)) == before, "it stays as it was"
    assert made.model.latent_dim == 2 and made.model.model.to_mu.in_features == 16, "the other options stay"
    config = made.config
    assert (config.steps, config.epochs, config.lr, config.data.limit) == (None, 0.2, 0.5, 200)


def test_one_of_the_zoos_configs_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = zoo.train("quickstart", steps=2, model={"latent_dim": 4}, device="cpu")
    assert made.out == Path("runs/mlp_digits_z4_s16_0") and made.finished
    again = zoo.train("quickstart", steps=2, model={"latent_dim": 4}, device="cpu")
    assert again.out == Path("runs/mlp_digits_z4_s16_0_2"), "as the command line does"


def test_it_is_the_run_of_the_command_line(finished: zoo.Run, tmp_path: Path) -> None:
    assert run(check(Config, settings(tmp_path / "r", steps=3), "it")) == 0
    assert digest(tmp_path / "r") == digest(finished.out)


def test_twice_in_one_process_with_other_settings(tmp_path: Path) -> None:
    """Accelerate keeps the precision of the first in the process, and refuses another."""
    found = [
        zoo.train(settings(tmp_path / str(i), steps=2, mixed_precision=precision)).results["precision"]
        for i, precision in enumerate(("no", "bf16", "no"))
    ]
    assert found == ["no", "bf16", "no"]


def test_in_a_thread(finished: zoo.Run, tmp_path: Path) -> None:
    made: list[Any] = []

    def work() -> None:
        try:
            made.append(zoo.train(settings(tmp_path / "r", steps=3)))
        except BaseException as error:
            made.append(error)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert isinstance(made[0], zoo.Run), made[0]
    assert digest(tmp_path / "r") == digest(finished.out)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_saves_and_returns(
    finished: zoo.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take_step = train.Trainer.take_step

    def interrupted(trainer: train.Trainer, *arguments: Any) -> None:
        take_step(trainer, *arguments)
        if trainer.step == 1:
            _thread.interrupt_main()  # as a notebook's stop button

    monkeypatch.setattr(train.Trainer, "take_step", interrupted)
    stopped = zoo.train(settings(tmp_path / "r", steps=3))
    assert not stopped.finished and stopped.metrics == {} and "not finished" in repr(stopped)
    assert Checkpoints(stopped.out, 2).steps() == [2]
    assert "to go on: train it again with resume=True" in capsys.readouterr().out
    assert stopped.model.sample(1).shape == (1, 1, 8, 8), "what there is so far"
    assert "not finished" in stopped._repr_html_()
    monkeypatch.setattr(train.Trainer, "take_step", take_step)
    whole = zoo.train(settings(tmp_path / "r", steps=3), resume=True)
    assert whole.finished and digest(whole.out) == digest(finished.out)


def test_a_variant_of_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered in a cell of a notebook, with no file that a plugin could be."""
    list(VARIANTS)
    monkeypatch.setattr(VARIANTS, "_entries", dict(VARIANTS._entries))

    @zoo.register("session_vae")
    class SessionVAE(zoo.GaussianVAE):
        pass

    made = zoo.train(settings(tmp_path / "r", steps=2), model={"name": "session_vae"})
    assert made.finished and type(made.model.model) is SessionVAE


def test_plugins_count_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PLUGINS)
    made = zoo.train(settings(tmp_path / "r", "still", steps=2) | {"plugins": []}, plugins=["still.py"])
    assert made.config.plugins == [str(PLUGINS / "still.py")] and made.model.sample(1).shape == (1, 1, 8, 8)


def test_code_beside_somebodys_config_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    (folder / "plugins").mkdir(parents=True)
    (folder / "plugins" / "evil.py").write_text("raise SystemExit('run')")
    (folder / "config.yaml").write_text(yaml.safe_dump(settings(tmp_path / "other", steps=2, plugins=["evil.py"])))
    (folder / "history.jsonl").write_text("")
    made = zoo.train(folder / "config.yaml")
    assert made.out == folder and not (tmp_path / "other").exists(), "and it trains where it lies"


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        ({}, {}, "'model' is missing"),
        (settings(Path("r")), {"lrr": 1}, "unknown key 'lrr'. Did you mean 'lr'?"),
        (settings(Path("r")), {"lr": float("nan")}, "lr is nan: it must be a finite number"),
        (settings(Path("r")), {"lr": object}, "lr is a type, which no config can hold"),
        (settings(Path("r")), {"model": {"name": "bta"}}, "Did you mean 'beta'?"),
        ("mlp_mnits", {}, "there is no config file"),
        (3, {}, "zoo.train was given a int"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        zoo.train(config, **changes)
    assert words in str(error.value) and not list(tmp_path.iterdir())


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run: there is no config.yaml in it"):
        zoo.Run(tmp_path)


def test_evaluate_and_compare(finished: zoo.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = finished.evaluate(["mse", "fd_lenet"], samplers=["gmm10"], benchmark={"n": 100})
    assert {"mse", "fd_lenet@gmm10"} <= found.keys() and found == zoo.Run(finished.out).metrics
    assert finished.results["metrics"]["fd_lenet@gmm10"]["sampler"] == "gmm10"
    with pytest.raises(UserError, match="would make it another run"):
        finished.evaluate([], epochs=3)
    page = finished.leaderboard(tmp_path / "board")
    assert page.is_file() and "mlp" in capsys.readouterr().out


def test_how_to_go_on_is_told_as_it_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["my_script.py", "--config", "mine"])
    assert launch.again() == "train it again with resume=True"
    monkeypatch.setattr(sys, "argv", ["/env/bin/vae-zoo", "train", "--config", "mlp_mnist"])
    assert launch.again().endswith("--resume")


# ---- as scikit-learn has it


def test_transformer(finished: zoo.Run) -> None:
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    known = finished.model.encode(x)[0].numpy()
    made = zoo.transformer(finished)
    assert np.allclose(made.fit_transform(x), known, atol=1e-6)
    images = made.inverse_transform(known)
    assert images.shape == (5, 1, 8, 8) and images.min() >= 0 and images.max() <= 1
    flat = make_pipeline(FunctionTransformer(lambda x: x / 16), clone(made).set_output(transform="default"))
    z = flat.fit_transform(16 * x.reshape(5, 64))
    assert np.allclose(z, known, atol=1e-5) and flat[-1].inverse_transform(z).shape == (5, 64)
    assert list(made.get_feature_names_out()) == ["z1", "z2", "z3"]
    for run_or_model in (finished.out, finished.model):
        assert np.allclose(zoo.transformer(run_or_model).transform(x), known, atol=1e-6)
    with pytest.raises(UserError, match="flat images have 63 numbers each, and this model takes 1 x 8 x 8"):
        made.fit(x.reshape(5, 64)[:, :63])
    with pytest.raises(UserError, match="write x / 255"):
        made.transform(255 * x)


# ---- what is written in README


def test_importing_the_zoo_takes_no_time() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import zoo; dir(zoo)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "sklearn"} & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


@pytest.mark.slow
@pytest.mark.usefixtures("real_mnist")
def test_the_block_of_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, but for a shorter training."""
    block = next(b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "train(" in b)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluation, "write_pictures", write_pictures)  # which the others do without
    assert "epochs=1" in block
    short = block.replace("epochs=1", "steps=20, data={'limit': 2000}")
    exec(compile(f"import zoo\n{short}", "README.md", "exec"), names := {})
    assert names["z"].shape[1] == 8 and names["run"].metrics["fd_lenet@gmm10"] > 0
    assert load_config(names["run"].out / "config.yaml").benchmark.metrics == []
    assert rows(names["run"].out)
