"""What the command line says of what there is: names, settings, and what is near to a word that is unknown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import zoo
from tests.runs import PLUGINS, ROOT
from zoo.base import VARIANTS
from zoo.commands.listings import FAMILIES, KINDS, find_rows
from zoo.commands.parser import parse, parser
from zoo.commands.settings import meanings
from zoo.config import load_config
from zoo.data import DATASETS
from zoo.metrics.core import METRICS
from zoo.metrics.samplers import SAMPLERS
from zoo.nets.pairs import NETS

Cli = Callable[..., tuple[int, str, str]]
REGISTRIES = {"variants": VARIANTS, "nets": NETS, "datasets": DATASETS, "metrics": METRICS, "samplers": SAMPLERS}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_off_the_files_is_what_is_registered(kind: str) -> None:
    of_the_zoo = {e.name: e.about for e in REGISTRIES[kind] if e.target.__module__.startswith("zoo.")}
    rows = find_rows(kind)
    assert sorted(row.name for row in rows) == sorted(of_the_zoo)
    for row in rows:
        assert row.about.endswith(of_the_zoo[row.name]), "also where a number of the file stands in it"
        assert len(row.about.split()) > 2 and row.group


@pytest.mark.parametrize("kind", KINDS)
def test_a_listing_fits_the_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = cli(kind)
    assert code == 0 and max(map(len, out.splitlines())) <= 60
    code, found, _ = cli(kind, "--json")
    assert code == 0
    rows = json.loads(found)
    assert list(rows[0]) == ["name", "about", "group", "file"] and all(Path(row["file"]).is_file() for row in rows)
    assert all(f"  {row['name']}" in out for row in rows)


def test_variants_stand_by_their_family(cli: Cli) -> None:
    family = {row.name: row.group for row in find_rows("variants", [str(PLUGINS / "duel.py")])}
    for name, words in (("piwae", "GaussianVAE"), ("rae_gp", "Autoencoder"), ("vq", "CodeVAE"), ("iaf", "FlowVAE")):
        assert family[name] == FAMILIES[words]
    assert "duel" in family
    assert cli("variants")[1].index("Gaussian posterior") < cli("variants")[1].index("Codes")


def test_no_listing_imports_what_it_lists() -> None:
    command = [sys.executable, "-X", "importtime", "run.py", "metrics", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "accelerate", "pydantic", "numpy"} & imported


def test_version(capsys: pytest.CaptureFixture[str], cli: Cli) -> None:
    with pytest.raises(SystemExit) as ended:
        cli("--version")
    assert ended.value.code == 0 and capsys.readouterr().out == f"vae-zoo {zoo.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "--config", "c.yaml"], "no command named 'trian'. Did you mean 'train'?"),
        (["configs/mlp_mnist.yaml"], "no command named 'configs/mlp_mnist.yaml'. Known: "),
        (["samplr", "runs/x"], "no command named 'samplr'. Did you mean 'sampler"),
    ],
)
def test_an_unknown_command_says_what_is_near(cli: Cli, words: list[str], said: str) -> None:
    code, _, error = cli(*words)
    assert code == 2 and error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "c.yaml", "--ressume"], "did you mean '--resume'?"),
        (["train"], "the following arguments are required: --config"),
        (["sample", "runs/x", "--n", "many"], "argument --n: invalid int value: 'many'"),
        (["list", "a=1"], "unrecognized arguments: a=1"),
    ],
)
def test_wrong_words_are_one_sentence(
    cli: Cli, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli(*words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["epochs=1", "--dry-run", "batch_size=7", "--config", "CONFIG", "model.latent_dim=3"],
        ["train", "epochs=1", "--config", "CONFIG", "batch_size=7", "--dry-run", "model.latent_dim=3"],
        ["--config", "CONFIG", "epochs=1", "batch_size=7", "model.latent_dim=3", "--dry-run"],
    ],
)
def test_options_and_settings_stand_in_any_order(cli: Cli, tmp_path: Path, words: list[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("model: {name: mlp, hidden_dims: [8]}\ndata: {name: digits}\n")
    code, out, _ = cli(*(config if word == "CONFIG" else word for word in words))
    assert code == 0 and "208 of 7 images" in out and "_z3_" in out


def test_a_folder_may_be_named_like_a_setting() -> None:
    assert parse(["evaluate", "beta=4", "--again"]).run == Path("beta=4")
    arguments = parse(["evaluate", "benchmark.n=3", "runs/beta=4", "--again", "device=cpu"])
    assert (arguments.run, arguments.overrides) == (Path("runs/beta=4"), ["benchmark.n=3", "device=cpu"])


def test_every_command_has_help() -> None:
    top, commands = parser()
    for name, each in commands.items():
        assert each.format_help().startswith(f"usage: {top.prog} {name}")
    assert set(KINDS) <= commands.keys()


def test_whoever_reads_a_part_of_a_listing_sees_no_traceback() -> None:
    reader = f"{sys.executable} -u run.py variants --json | head -1"
    done = subprocess.run(["sh", "-c", reader], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[\n" and done.stderr == ""


# ---- what a config comes to


def test_a_config_is_printed_as_a_run_would_have_it(cli: Cli) -> None:
    path = ROOT / "configs" / "beta_mnist.yaml"
    code, out, _ = cli("config", "epochs=3", path, "model.beta=2")
    assert code == 0
    assert yaml.safe_load(out) == load_config(path, ["epochs=3", "model.beta=2"]).dump()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lr", ["learning rate", "float > 0", "default  0.001", "here     0.001"]),
        ("lr_schedule", ["Of the run's share", "'cosine'"]),
        ("model.latent_dim", ["dimensions of the latent", "int > 0", "default  32", "here     20"]),
        ("model.name", ["beta_tc", 'here     "beta"']),
        ("optimizer.betas", ["tuple[float >= 0, < 1, float >= 0, < 1]"]),
        ("optimizer.vae.lr", ["learning rate", "not set"]),
        ("data", ["data.size: pixels", "data.flip: mirror"]),
        ("benchmark.samplers", ["gmm10"]),
    ],
)
def test_a_key_is_explained(cli: Cli, key: str, words: list[str]) -> None:
    code, out, _ = cli("config", ROOT / "configs" / "beta_mnist.yaml", "--explain", key)
    assert code == 0 and all(each in out for each in words), out


def test_options_of_a_data_set_are_explained(cli: Cli) -> None:
    code, out, _ = cli("config", ROOT / "configs" / "vanilla_image_folder.yaml", "--explain", "data.fit")
    assert code == 0 and "`fit` says how a picture comes to its size" in out and "'crop' | 'pad' | 'squash'" in out


def test_a_key_that_there_is_not(cli: Cli) -> None:
    path = ROOT / "configs" / "beta_mnist.yaml"
    code, _, error = cli("config", path, "--explain", "data.siez")
    assert code == 2 and "no config has a key 'data.siez'. Did you mean 'data.size'?" in error


@pytest.mark.parametrize("name", ["beta_mnist", "vanilla_celeba", "vanilla_image_folder"])
def test_every_key_has_a_meaning(name: str) -> None:
    known = meanings(load_config(ROOT / "configs" / f"{name}.yaml"))
    assert [key for key, meaning in known.items() if not meaning.about] == []
    assert "typing." not in " ".join(meaning.values for meaning in known.values())


# ---- in a shell


def test_bash_completes_commands_options_and_files(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("shtab", reason="shtab, which writes completions, is not installed")
    code, out, _ = cli("completion", "bash")
    assert code == 0
    (tmp_path / "c.bash").write_text(out)
    (tmp_path / "photos.yaml").write_text("")
    script = """
    source c.bash
    complete_it() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); "$function"; echo "${COMPREPLY[*]}"; }
    function=$(complete -p vae-zoo | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    complete_it vae-zoo rec; complete_it vae-zoo sample --sam; complete_it vae-zoo train --config pho
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["reconstruct", "--sampler", "photos.yaml"], done.stderr


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_theirs(cli: Cli, shell: str) -> None:
    pytest.importorskip("shtab", reason="shtab, which writes completions, is not installed")
    code, out, _ = cli("completion", shell)
    assert code == 0 and "interpolate" in out and "vae-zoo" in out
