"""Configs that come with the zoo, found by name from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.runs import ROOT
from zoo.commands import main
from zoo.config import load_config, read_yaml
from zoo.errors import UserError
from zoo.reports.configs import copy, show
from zoo.reports.suite import load_suite
from zoo.shipped import CONFIGS, config_names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", config_names())
def test_every_config_is_found_by_its_name(name: str) -> None:
    assert load_config(name) == load_config(ROOT / "configs" / f"{name}.yaml")


def test_a_file_of_ones_own_comes_first(tmp_path: Path) -> None:
    (tmp_path / "mlp_mnist").write_text("{model: {name: ae}, data: {name: digits}, epochs: 1}")
    assert load_config("mlp_mnist").model.name == "ae"
    (tmp_path / "quickstart").mkdir()  # a folder is no config
    assert load_config("quickstart").model.name == "mlp"


def test_ones_own_config_inherits_from_the_zoos(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: [_base/mnist, quickstart]\nseed: 9")
    found = read_yaml(tmp_path / "mine.yaml")
    assert (found["seed"], found["data"]["name"], found["data"]["val_from"]) == (9, "digits", "test")


@pytest.mark.parametrize("wrong", ["mlp_mnits", "configs/mlp_mnist.yaml", "mlp_mnist.yml"])
def test_an_unknown_name_says_what_is_near(wrong: str) -> None:
    with pytest.raises(UserError, match=r"there is no config file .*; did you mean 'mlp_mnist', which comes"):
        load_config(wrong)


def test_nothing_is_near_to_nonsense() -> None:
    with pytest.raises(UserError) as caught:
        load_config("0123456789")
    assert str(caught.value).endswith("0123456789")


@pytest.mark.parametrize("name", ["../configs/mlp_mnist", str(CONFIGS / "mlp_mnist"), "_base/../mlp_mnist", ""])
def test_a_name_is_no_way_out_of_the_folder(name: str) -> None:
    with pytest.raises(UserError):
        load_config(name)


@pytest.mark.parametrize("name", config_names("suites"))
def test_every_suite_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    suite = load_suite(Path(name))
    assert suite.base.is_file() and not suite.out.is_absolute()
    with pytest.raises(UserError, match=r"there is no suite nope; with the zoo come [\w, ]*mnist"):
        load_suite(Path("nope"))


def test_a_suite_of_ones_own_counts_from_a_config_of_the_zoo(tmp_path: Path) -> None:
    values = {"out": "o", "base": "quickstart", "data": {"digits": {}}, "runs": {"a": {}}, "seeds": [0]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(values))
    assert load_suite(tmp_path / "s.yaml").base == CONFIGS / "quickstart.yaml"


def test_the_list_names_them_all_each_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == show().strip()
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("  ")}
    everything = [name.rpartition("/")[2] for name in [*config_names(), *config_names("suites")]]
    assert rows.keys() == set(everything)
    assert not [row for row in rows.values() if row.startswith(("base:", "model:", "out:"))], "a comment comes first"
    assert max(map(len, shown.splitlines())) <= 120


def test_copies_are_the_same_experiments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "beta_mnist", "papers/pythae_vae", "--copy", "mine"]) == 0
    written = {Path(line).relative_to("mine").as_posix() for line in capsys.readouterr().out.split()}
    assert written == {
        *("beta_mnist.yaml", "_base/mnist.yaml", "papers/pythae_vae.yaml", "_base/binarized_mnist.yaml"),
    }
    assert load_config("mine/beta_mnist.yaml") == load_config("beta_mnist")
    assert len(copy([], tmp_path / "all")) == len(list(CONFIGS.rglob("*.yaml")))


def test_copying_replaces_nothing(tmp_path: Path) -> None:
    copy(["beta_mnist"], tmp_path)
    copy(["beta_mnist"], tmp_path)  # they are the same
    (tmp_path / "_base" / "mnist.yaml").write_text("mine: 1")
    with pytest.raises(UserError, match=r"mnist.yaml is there already, and is another: choose another folder"):
        copy(["mlp_mnist"], tmp_path)
    assert not (tmp_path / "mlp_mnist.yaml").exists()


def test_an_unknown_config_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config named 'beta_mnits' comes with the zoo. Did you mean 'beta_mnist'?"):
        copy(["beta_mnits"], tmp_path / "c")
    assert not (tmp_path / "c").exists()
