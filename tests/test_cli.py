"""The command line: quick help, and one clear sentence for everything a user can get wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.runs import PLUGINS, ROOT, make_config, run, settings
from zoo.base import VARIANTS

SOME = ("beta", "celeba", "conditional", "conv", "mlp", "mnist", "vanilla")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(make_config(out, steps=3))
    return out


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "conditional"
    run(make_config(out, "conditional", steps=3))
    return out


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["train", "--help"]])
def test_help_and_list_do_not_import_torch(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "run.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert {"argparse", "zoo"} <= imported
    assert not {"torch", "accelerate", "pydantic", "numpy"} & imported


def test_list_names_every_variant(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli("list", "--plugin", PLUGINS / "duel.py")
    names = [line.split()[0] for line in out.splitlines()]
    assert code == 0 and set(SOME) | {"duel"} <= set(names)
    assert all(len(line.split()) > 5 for line in out.splitlines())


def test_describe(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli("describe", "beta")
    assert code == 0
    for words in ("loss = E_q(z|x)[-log p(x|z)] + β(t) KL", "Departs from the paper", "warmup", "'linear' | 'cosine'"):
        assert words in out


RIGHT = """
from zoo import Batch, GaussianVAE, register
from zoo.parts.distributions import gaussian_kl

@register("right_or_wrong_{sign}")
class Mine(GaussianVAE):
    settled = ("beta", "warmup", "free_bits", "reduction")

    def loss(self, batch: Batch):
        out = self(batch.x)
        recon, kl = self.likelihood.nll(out.logits, batch.x), {sign}gaussian_kl(out.mu, out.logvar)
        return {{"loss": (recon + kl).mean(), **self.elbo_terms(recon, kl)}}
"""


def test_check_tells_right_from_wrong(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for sign, code, last in (("", 0, "all checks passed"), ("-", 1, "1 check failed")):
        plugin = tmp_path / f"mine{len(sign)}.py"
        plugin.write_text(RIGHT.format(sign=sign))
        found, out, err = cli("check", plugin, "net=mlp", "hidden_dims=[16]", "latent_dim=3")
        assert (found, out.splitlines()[-1], err) == (code, last, "")
        assert out.count("  ok   ") + out.count("  FAILS  ") + out.count("  n/a  ") == 23
        assert out.count("  n/a  ") == 2, "it has neither labels nor BatchNorm"
        assert ("a sign, a variance for its log, another prior?" in " ".join(out.split())) == bool(sign)


def test_check_a_variant_of_the_zoo_and_none(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert cli("check", "mlp", "hidden_dims=[16]")[0] == 0
    code, out, _ = cli("check", "--image", "1x28x28", "mnist")
    assert code == 0 and out.startswith("mnist, on images of 1 x 28 x 28:")
    code, _, err = cli("check", "mnist", "--image", "28x28")
    assert code == 2 and "--image is '28x28', and must be channels, height and width, such as 1x28x28" in err
    (tmp_path / "empty.py").write_text("")
    code, _, err = cli("check", tmp_path / "empty.py")
    assert code == 2 and "registers no variant" in err


def test_without_a_loss_there_is_nothing_else_to_check(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VARIANTS, "_entries", {entry.name: entry for entry in VARIANTS})  # others walk through it
    plugin = tmp_path / "raises.py"
    plugin.write_text(RIGHT.format(sign="").replace("right_or", "raises").replace("batch.x)", "batch.images)"))
    code, out, _ = cli("check", plugin, "net=mlp", "hidden_dims=[16]")
    assert code == 1 and out.count("FAILS") == 1 and "no attribute 'images'" in out and "1 check failed" in out


def test_settings_may_stand_anywhere(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("model: {name: mlp, hidden_dims: [8]}\ndata: {name: digits}\n")
    code, out, _ = cli("train", "--config", config, "epochs=1", "--dry-run", "batch_size=7", "model.latent_dim=3")
    assert code == 0 and "208 of 7 images" in out and "_z3_" in out
    with pytest.raises(SystemExit):
        cli("train", "--config", config, "epochs=1", "--dry", "--no-such-thing")
    with pytest.raises(SystemExit):
        cli("list", "epochs=1")


def test_sample_and_evaluate(cli: Callable[..., tuple[int, str, str]], finished: Path, tmp_path: Path) -> None:
    picture = tmp_path / "s.png"
    assert cli("sample", finished, "--n", 16, "--out", picture)[0] == 0
    first = Image.open(picture).convert("L").tobytes()
    assert cli("sample", finished, "--n", 16, "--out", picture)[0] == 0
    assert Image.open(picture).convert("L").tobytes() == first
    assert cli("sample", finished, "--n", 16, "--out", picture, "--seed", 1)[0] == 0
    assert Image.open(picture).convert("L").tobytes() != first
    (finished / "latent_space.png").unlink()
    code, out, _ = cli("evaluate", finished)
    assert code == 0 and "elbo" in out and (finished / "latent_space.png").is_file()


def test_sample_of_a_class(cli: Callable[..., tuple[int, str, str]], conditional: Path, tmp_path: Path) -> None:
    assert cli("sample", conditional, "--label", 3, "--out", tmp_path / "s.png")[0] == 0
    code, _, error = cli("sample", conditional, "--label", 10, "--out", tmp_path / "s.png")
    assert code == 2 and "--label is 10: choose 0 to 9" in error


def bad_folder(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


WRONG = {
    "unknown key": (["epochz=3"], "unknown key 'epochz'. Did you mean 'epochs'?"),
    "unknown variant": (["model.name=bta"], "no variant named 'bta'. Did you mean 'beta'?"),
    "unknown net": (["model.net=resnt"], "no net named 'resnt'. Did you mean 'resnet'?"),
    "unknown option": (["model.latent_dims=3"], "has no option 'latent_dims'. Did you mean 'latent_dim'?"),
    "unknown data": (["data.name=mnits"], "no data set named 'mnits'. Did you mean 'mnist'?"),
    "wrong type": (["batch_size=many"], "batch_size is 'many'"),
    "negative": (["model.latent_dim=-1"], "latent_dim is -1: input should be greater than 0"),
    "negative size": (["data.size=-8"], "data.size is -8: input should be greater than 0"),
    "not a setting": (["epochs"], "'epochs' is not a setting; write key=value"),
    "activation and range": (
        ["model.recon=mse", "model.out_activation=tanh", "data.range=[0,1]"],
        "out_activation 'tanh' covers [-1, 1], but the images lie in [0, 1]",
    ),
    "bce and range": (["data.range=[-1,1]"], "recon 'bce' needs images in [0, 1]"),
    "range": (["data.range=[0,255]"], "range must be [0, 1] or [-1, 1]"),
    "size and net": (
        ["model.net=mnist", "data.size=9"],
        "net 'mnist' needs height and width divisible by 4, not 9 x 9",
    ),
    "both lengths": (["epochs=3", "steps=3"], "set either epochs or steps"),
    "no labels": (["model.name=conditional", "data.name=celeba"], "conditional"),
    "missing data": (["data.name=image_folder", "data.root=nowhere"], "nowhere"),
    "fp16 on a CPU": (["mixed_precision=fp16"], "mixed_precision 'fp16' needs a GPU"),
    "plugin": (["plugins=[nothing.py]"], "there is no file"),
    "cuda": (["device=cuda"], "no CUDA device is available"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence(
    case: str, cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "cuda":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    overrides, words = WRONG[case]
    if case == "no labels":  # photographs without the file of attributes
        for i in range(30):
            Image.new("RGB", (89, 109), (i, i, i)).save(tmp_path / f"{i}.jpg")
        overrides = [*overrides, f"data.root={tmp_path}", "data.limit=30"]
        words = "needs labels, but the data has none"
        monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
    values = settings(tmp_path / "r")
    if case == "size and net":
        del values["model"]["hidden_dims"]
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(values))
    code, out, error = cli("--config", config, *overrides)
    assert code == 2, out + error
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert words in error
    assert not (tmp_path / "r").exists()


def test_missing_config_and_runs(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for argv, words in [
        (["--config", tmp_path / "no.yaml"], "there is no config file"),
        (["evaluate", bad_folder(tmp_path)], "holds no run"),
        (["sample", tmp_path / "empty"], "there is no trained model in"),
        (["describe", "bta"], "Did you mean 'beta'?"),
    ]:
        code, _, error = cli(*argv)
        assert code == 2 and words in error and error.count("\n") == 1, error


def test_divergence_exits_with_one(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings(tmp_path / "r", "explosive")))
    code, _, error = cli("--config", config)
    assert code == 1 and "the last good checkpoint is" in error


def test_plugin_on_the_command_line(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings(tmp_path / "r", "still", plugins=[], steps=2)))
    assert cli("--config", config, "--plugin", PLUGINS / "still.py")[0] == 0
    assert (tmp_path / "r" / "results.json").is_file()


def test_a_process_exits_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "run.py", "--config", "configs/quickstart.yaml", "model.latent_dim=0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: model 'mlp': latent_dim is 0: input should be greater than 0\n"
