"""The command line: quick help, and one clear sentence for everything a user can get wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.fuzz_configs import held_short
from tests.runs import PLUGINS, ROOT, make_config, run, settings
from zoo import memory
from zoo.base import VARIANTS
from zoo.weights import weights_digest

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


# ---- places and sizes that there are not


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A config in a folder of its own, which is where one is."""
    path = tmp_path / "c.yaml"
    values = settings(Path("r"), steps=3)
    del values["out"]
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("out=c.yaml", "out is c.yaml, where no run can be: it is a file"),
        ("out=c.yaml/x", "out is c.yaml/x, where no run can be written: Not a directory"),
        ("out=/proc/x", "out is /proc/x, where no run can be written"),
        ("out=''", "out is '': it names no place"),
        (f"out={'x' * 300}", "each name in it 255"),
        (f"out={'x/' * 1000}", "a path leads through at most 100 folders"),
        ("plugins=['.']", "plugin '.': no such module"),
        ("plugins=['']", "plugin '': no such module"),
        (f"plugins=['{'x' * 5000}.py']", "there is no file"),
        ("model.out_activation=[]", "out_activation is []: input should be 'sigmoid', 'tanh' or 'none'"),
        ("model.out_activation={a: []}", "input should be 'sigmoid', 'tanh' or 'none'"),
        ("threads=100000", "threads is 100000"),
        ("seed=18446744073709551616", "seed is 18446744073709551616"),
        ("optimizer={1: 2}", "the key 1 is no word: put it in quotes"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_sentence_and_leaves_nothing(
    cli: Callable[..., tuple[int, str, str]], tiny: Path, monkeypatch: pytest.MonkeyPatch, setting: str, words: str
) -> None:
    monkeypatch.chdir(tiny.parent)
    code, _, error = cli("--config", "c.yaml", setting)
    assert code == 2 and words in error and error.count("\n") == 1
    assert os.listdir(tiny.parent) == ["c.yaml"]


def test_a_read_only_place_is_told(tiny: Path, tmp_path: Path) -> None:
    as_others: list[str] = []
    if os.geteuid() == 0:  # root writes anywhere, unless it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("to root nothing is read-only, and there is no setpriv to change that")
        as_others = ["setpriv", "--bounding-set=-dac_override"]
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    command = [*as_others, sys.executable, ROOT / "run.py", "--config", tiny, f"out={locked / 'r'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Permission denied" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("mlp", "data.size=1000000000"),
        ("mlp", "data.size=[1,1000000000]"),
        ("mlp", "data={name: shapes, size: 1000000000}"),
        ("mlp", "batch_size=1000000000"),
        ("mlp", "model.hidden_dims=[1000000000]"),
        ("mlp", "model.hidden_dims=[9223372036854775807,9223372036854775807]"),
        ("mlp", "model.latent_dim=1000000000"),
        ("vanilla, net: mnist", "model.base_channels=1000000000"),
        ("vamp, net: mlp", "model.pseudo_inputs=1000000000"),
        ("vq, net: mlp", "model.codes=1000000000"),
        ("vq, net: mlp", "model.positions=9223372036854775807"),
    ],
)
def test_what_memory_has_no_room_for_is_refused_before_it_is_taken(
    cli: Callable[..., tuple[int, str, str]], tiny: Path, monkeypatch: pytest.MonkeyPatch, model: str, setting: str
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    if model != "mlp":
        values = yaml.safe_load(tiny.read_text()) | {"model": yaml.safe_load(f"{{name: {model}}}")}
        tiny.write_text(yaml.safe_dump(values))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, _, error = cli("--config", tiny, "--dry-run", setting)
    assert code == 2 and error.count("\n") == 1, error
    assert " would take " in error and " of memory, and there are 1.0 GB: choose " in error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**6  # kilobytes


@pytest.mark.parametrize(
    "model",
    [
        "{name: dip_i, net: mlp, latent_dim: 60000}",  # a covariance of 14 GB
        "{name: iwae, net: mlp, samples: 9223372036854775807}",
        "{name: miwae, net: mlp, samples: 9223372036854775807}",  # times so many groups, more than any integer of torch
        "{name: piwae, net: mlp, samples: 4000000000000000000}",
    ],
)
def test_memory_that_the_system_refuses_is_told(
    cli: Callable[..., tuple[int, str, str]], tiny: Path, tmp_path: Path, model: str
) -> None:
    """What a loss makes on its way is not reckoned beforehand."""
    with held_short(tmp_path):
        code, _, error = cli("--config", tiny, "--dry-run", f"model={model}")
    assert code == 2 and error.count("\n") == 1
    assert "error: the run takes more memory than there is: choose a smaller batch_size" in error


def test_a_dry_run_that_diverges_exits_with_one(
    cli: Callable[..., tuple[int, str, str]], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    for rate in ("1e30", "1e38"):
        code, out, error = cli("--config", "c.yaml", "--dry-run", f"lr={rate}")
        assert code == 1 and "by step 2" in error and "mean loss" not in out
    code, out, _ = cli("--config", "c.yaml", "--dry-run")
    assert code == 0 and "mean loss" in out
    assert os.listdir(tiny.parent) == ["c.yaml"]  # and no runs/


def test_a_dry_run_of_a_player_whose_turn_comes_later(cli: Callable[..., tuple[int, str, str]], tiny: Path) -> None:
    model = "model={name: vae_gan, net: mlp, n_critic: 5}"
    code, out, _ = cli("--config", tiny, "--dry-run", model)
    assert code == 0 and "two steps taken, the model's own turn comes later" in out


@pytest.mark.parametrize("kind", ["new folders", "a folder", "below a file", "no text", "too long"])
@pytest.mark.parametrize("command", ["sample", "data", "leaderboard"])
def test_out_may_be_anything(
    cli: Callable[..., tuple[int, str, str]], finished: Path, tiny: Path, tmp_path: Path, command: str, kind: str
) -> None:
    (tmp_path / "folder").mkdir()
    names = {"a folder": "folder", "below a file": "c.yaml/x.png", "no text": "\udcff.png", "too long": "x" * 300}
    out = tmp_path / names.get(kind, "no/such/x.png")
    code, _, error = cli(
        command, {"sample": finished, "data": tiny, "leaderboard": finished.parent}[command], "--out", out
    )
    right = kind in ("new folders", "no text") or (kind == "a folder" and command == "leaderboard")
    assert code == (0 if right else 2), error
    assert out.exists() if right else "can't be written" in error or "can be written" in error or "is a file" in error


@pytest.mark.parametrize("option", [["--seed", "-1"], ["--seed", str(2**64)], ["--n", "0"], ["--n", str(10**12)]])
def test_a_draw_that_makes_no_sense(
    cli: Callable[..., tuple[int, str, str]], finished: Path, tmp_path: Path, option: list[str]
) -> None:
    code, _, error = cli("sample", finished, "--out", tmp_path / "s.png", *option)
    assert code == 2 and error.count("\n") == 1 and not (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    "plugin", ["/nope.py", "/nope", ".", "..", "", "a.b", "sys", "math", "\0", "bad.py", "nul.py", "syn.py"]
)
@pytest.mark.parametrize("command", [["list", "--plugin"], ["check"]], ids=" ".join)
def test_a_plugin_that_is_none_is_one_sentence(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, command: list[str], plugin: str
) -> None:
    for name, content in (("bad", b"\xff\xfe"), ("nul", b"a\0b"), ("syn", b"def (")):
        (tmp_path / f"{name}.py").write_bytes(content)
    code, _, error = cli(*command, tmp_path / plugin if (tmp_path / plugin).is_file() and plugin else plugin)
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1


def test_a_package_that_fails_is_told_by_list(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_package").mkdir()
    (tmp_path / "failing_package" / "__init__.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, error = cli("list", "--plugin", "failing_package.mine")
    assert code == 2 and "raised ZeroDivisionError: division by zero" in error


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_weights_that_are_not_finite_are_told(
    cli: Callable[..., tuple[int, str, str]], finished: Path, tmp_path: Path, command: str
) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(finished, run_folder)
    path = run_folder / "model.safetensors"
    weights = load_file(path)
    weights["to_mu.bias"][0] = float("nan")
    with safe_open(path, "pt") as file:
        recipe = json.loads(file.metadata()["zoo"])
    save_file(weights, path, {"zoo": json.dumps(recipe | {"digest": weights_digest(weights)})})
    code, _, error = cli(command, run_folder)
    assert code == 2 and "are not all finite (to_mu.bias is not): it is damaged, or of a run that diverged" in error


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.size=9"], "this is other data than the run's 'digits': give it a name of its own"),
        (["data.size=9", "data.title=x"], "are 1 x 9 x 9, and the model takes 1 x 8 x 8: set data.size"),
        (["data.size=1000000000", "data.title=x"], "would take"),
        (["threads=100000"], "threads is 100000"),
        (["benchmark.metrics=[nll]", "benchmark.options.nll.k=1000000000"], "k is 1000000000: input should be less"),
    ],
)
def test_an_evaluation_that_makes_no_sense(
    cli: Callable[..., tuple[int, str, str]], finished: Path, settings: list[str], words: str
) -> None:
    code, _, error = cli("evaluate", finished, *settings)
    assert code == 2 and words in error and error.count("\n") == 1
