"""Names: finding them, explaining what is wrong with them, and the plugins that bring more."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zoo import registry
from zoo.base import VARIANTS, BaseVAE, register
from zoo.commands.listings import VARIANTS_FOLDER, registered_names
from zoo.config import load_config
from zoo.errors import UserError
from zoo.registry import Registry, did_you_mean, load_installed_plugins, load_plugin

PLUGIN = """
from zoo import GaussianVAE, register

@register("mine")
class MyVAE(GaussianVAE):
    pass
"""


@pytest.fixture(autouse=True)
def leave_no_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    assert "plain" not in VARIANTS  # the built-in variants are imported
    monkeypatch.setattr(VARIANTS, "_entries", dict(VARIANTS._entries))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for module in set(sys.modules) - before:
        del sys.modules[module]


@pytest.fixture
def names() -> Registry[Callable[..., Any]]:
    return Registry("thing")


def define(name: str = "f", module: str = __name__) -> Callable[..., Any]:
    def function() -> None: ...

    function.__qualname__, function.__module__ = name, module
    return function


def test_register_keeps_target_line_and_defaults(names: Registry[Any]) -> None:
    one = define()
    assert names.register("one", "the first", a=1)(one) is one
    names.register("uno", a=2)(one)
    entry = names.lookup("one")
    assert (entry.target, entry.about, entry.defaults, entry.file) == (one, "the first", {"a": 1}, __file__)
    assert names.lookup("uno").defaults == {"a": 2}
    assert [entry.name for entry in names] == ["one", "uno"]
    assert "one" in names and "two" not in names


def test_unknown_name_says_what_is_near_and_what_there_is() -> None:
    with pytest.raises(UserError, match=r"^no variant named 'bta'\. Did you mean 'beta'\? Known: aae, ae, beta, "):
        VARIANTS.lookup("bta")
    assert did_you_mean("qqq", ["b", "a"]) == " Known: a, b"
    assert did_you_mean("x", []) == " Known: none"


def test_a_name_taken_twice_names_both_files(names: Registry[Any], tmp_path: Path) -> None:
    files = []
    for module in ("first", "second"):
        files.append(tmp_path / f"{module}.py")
        sys.modules[module] = SimpleNamespace(__file__=str(files[-1]))  # type: ignore[assignment]
    names.register("x")(define("A", "first"))
    with pytest.raises(UserError, match="the thing name 'x' is taken twice") as error:
        names.register("x")(define("A", "second"))
    assert all(str(file) in str(error.value) for file in files)
    with pytest.raises(UserError, match="taken twice"):
        names.register("x")(define("B", "first"))
    assert names.lookup("x").target.__module__ == "first"


def test_the_same_class_again_replaces_the_old(names: Registry[Any], tmp_path: Path) -> None:
    cell, again = define("MyVAE", "__main__"), define("MyVAE", "__main__")
    names.register("cell")(cell)
    names.register("cell")(again)
    assert names.lookup("cell").target is again
    with pytest.raises(UserError, match="taken twice"):
        names.register("cell")(define("Other", "__main__"))


def test_one_file_by_path_and_by_module_is_one_variant(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    by_path = load_plugin("mine.py")
    by_module = load_plugin("mine")  # defines the class a second time
    assert VARIANTS.lookup("mine").target is by_module.MyVAE
    assert load_plugin("mine.py") in (by_path, by_module)


def test_only_variants_can_be_registered_as_variants() -> None:
    with pytest.raises(UserError, match=r"@register\('x'\) is for subclasses of zoo.BaseVAE; .*int.* is not one"):
        register("x")(int)
    with pytest.raises(UserError, match="is not one"):
        register("x")(define())
    assert "x" not in VARIANTS


# ---- plugins


def test_plugin_by_path_counts_from_the_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.py").write_text(PLUGIN)
    (tmp_path / "there" / "c.yaml").write_text(
        "model: {name: mine}\ndata: {name: digits}\nsteps: 1\nplugins: [mine.py]"
    )
    (plugin,) = load_config("there/c.yaml").plugins
    module = load_plugin(plugin)
    assert VARIANTS.lookup("mine").target is module.MyVAE and issubclass(module.MyVAE, BaseVAE)
    assert load_plugin("mine.py", base=tmp_path / "there") is module


def test_plugin_by_module(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "mine.py").write_text(PLUGIN)
    assert load_plugin("pack.mine") is sys.modules["pack.mine"]
    assert VARIANTS.lookup("mine").target.__module__ == "pack.mine"


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("gone.py", "plugin 'gone.py': there is no file .*gone.py"),
        ("gone", "plugin 'gone': no such module; a file's name would end in .py"),
        ("gone.deep", "plugin 'gone.deep': no such module"),
        ("zoo.gone", "plugin 'zoo.gone': no such module"),
    ],
)
def test_missing_plugin_is_one_sentence(plugin: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_plugin(plugin)


@pytest.mark.parametrize("plugin", ["broken.py", "broken"])
def test_what_a_plugin_raises_is_told_with_its_line_and_it_may_be_mended(plugin: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import no_such_module_anywhere")
    words = rf"plugin '{plugin}' raised ModuleNotFoundError: .*'no_such_module_anywhere' \({file}:1\)"
    with pytest.raises(UserError, match=words) as caught:
        load_plugin(plugin)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    file.write_text("fine = 'now'  # longer than before")
    assert load_plugin(plugin).fine == "now"


class EntryPoint(SimpleNamespace):
    def load(self) -> None:
        self.loaded.append(self.name)
        if self.name == "broken":
            raise ImportError("it is broken")
        register("installed")(type("Installed", (BaseVAE,), {}))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    points = [EntryPoint(name=name, value=f"{name}_package", loaded=done) for name in ("broken", "good")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "vae_zoo.plugins" else [])
    return done


def test_installed_plugins_are_not_touched_while_every_name_is_known(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    VARIANTS.lookup("beta")
    assert [entry.name for entry in VARIANTS] and "beta" in VARIANTS
    assert loaded == [] and capsys.readouterr().err == ""


def test_a_broken_installed_plugin_is_a_warning(loaded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert VARIANTS.lookup("installed").target.__name__ == "Installed"
    assert loaded == ["broken", "good"]
    warning = capsys.readouterr().err
    assert warning == ("warning: the installed plugin 'broken' (broken_package) failed to load: it is broken\n")
    with pytest.raises(UserError, match="no variant named 'gone'"):
        VARIANTS.lookup("gone")


def test_without_installed_plugins_there_is_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    load_installed_plugins()
    assert capsys.readouterr().err == ""


# ---- the listing that imports nothing


def test_static_listing_equals_the_registry() -> None:
    rows = [row for file in VARIANTS_FOLDER.glob("*.py") for row in registered_names(file)]
    built_in = [entry for entry in VARIANTS if entry.target.__module__.startswith("zoo.variants.")]
    assert sorted(name for name, _ in rows) == [entry.name for entry in built_in]
    for entry in built_in:
        (line,) = [line for name, line in rows if name == entry.name]
        assert entry.about in line and "\n" not in line
        doc = sys.modules[entry.target.__module__].__doc__
        assert doc is not None and line.startswith(doc.split("\n")[0])


def test_static_listing_of_a_plugin(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        '"""Mine: β.\n\nMore."""\nimport zoo\n'
        '@zoo.register("a", "first", net="mlp")\n@zoo.register("b")\nclass A: ...\n'
        'NAME = "c"\n@zoo.register(NAME)\n@other("d")\nclass B: ...\n',
        encoding="utf-8",
    )
    assert registered_names(file) == [("a", "Mine: β. Here: first"), ("b", "Mine: β.")]
