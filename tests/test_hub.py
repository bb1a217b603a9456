"""Runs on the hub: pushed to a server on this machine, loaded again, and whatever a stranger may have put there."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save

import zoo
from tests.hub_server import Hub, Repository, serving
from tests.runs import PLUGINS, make_config, run
from zoo.base import VARIANTS
from zoo.errors import UserError
from zoo.hub import MOST, Place, is_on_hub, place_of

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install 'vae-zoo[hub]'")
from huggingface_hub import ModelCard, close_session

NAME = "me/digits"
FILES = {
    *("README.md", "config.yaml", "model.safetensors", "results.json"),
    *("reconstructions.png", "generated_samples.png", "interpolations.png", "latent_space.png"),
    *("training_losses.png", "traversals.png"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("secret") / "mine"
    assert run(make_config(out, steps=3)) == 0
    return out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
        close_session()
        yield server
    close_session()


def stored(hub: Hub, name: str = NAME) -> dict[str, bytes]:
    """The files of a repository as they are now."""
    return list(hub.repositories[name].commits.values())[-1]


def offered(hub: Hub, run: Path, **changed: bytes | None) -> None:
    """Put a run there, as somebody might who has no `push_to_hub`: file by file; None takes one away."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    files |= {name.replace("__", "."): content for name, content in changed.items()}
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit({name: content for name, content in files.items() if content is not None})


def test_there_and_back(finished: Path, hub: Hub) -> None:
    where = zoo.push_to_hub(zoo.Run(finished), NAME, license="cc-by-nc-4.0")
    assert where == f"hf://{NAME}@{list(hub.repositories[NAME].commits)[-1]}"
    assert stored(hub).keys() - {".gitattributes"} == FILES
    ours = zoo.load(finished)
    for name in (f"hf://{NAME}", Path(f"hf://{NAME}"), where):
        its = zoo.load(name)
        draws = [model.sample(3, generator=torch.Generator().manual_seed(0)) for model in (ours, its)]
        assert torch.equal(*draws)
    its_run = zoo.Run(where)
    assert its_run.metrics == zoo.Run(finished).metrics and its_run.config.model == zoo.Run(finished).config.model
    assert its_run.pictures.keys() == zoo.Run(finished).pictures.keys() and "psnr" in repr(its_run)
    assert not hub.repositories[NAME].private


def test_no_place_of_this_machine_is_told(finished: Path, hub: Hub, tmp_path: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["data"]["root"] = config["init_from"] = "/home/secret/photos"
    config["wandb"]["entity"] = "secret"
    (tmp_path / "run").mkdir()
    for file in finished.iterdir():
        if file.is_file():
            (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    results = json.loads((finished / "results.json").read_text()) | {
        "command": "vae-zoo train --config /home/secret/a.yaml"
    }
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    zoo.push_to_hub(tmp_path / "run", NAME)
    for name, content in stored(hub).items():
        assert b"secret" not in content, name
    assert yaml.safe_load(stored(hub)["config.yaml"])["data"]["root"] == "photos"
    assert zoo.Run(f"hf://{NAME}").config.data.root == Path("photos")


def test_the_card(finished: Path, hub: Hub) -> None:
    zoo.push_to_hub(finished, NAME, license="mit")
    card = ModelCard(stored(hub)["README.md"].decode())
    assert card.data.license == "mit" and card.data.library_name == "vae-zoo" and "vae" in card.data.tags
    known = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert known == pytest.approx(zoo.Run(finished).metrics)
    for words in (
        "# mlp on digits",
        "](reconstructions.png)",
        f'zoo.load("hf://{NAME}")',
        "| psnr |",
        "latent_dim: 3",
        "mit",
    ):
        assert words in card.text, words
    zoo.push_to_hub(finished, NAME)
    card = ModelCard(stored(hub)["README.md"].decode())
    assert card.data.license is None and "None is stated" in card.text


def test_a_card_shows_what_is_written_as_text(finished: Path, hub: Hub, tmp_path: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    results["title"] = "a | b\n# <script>alert(1)</script> [x](javascript:y)"
    results["metrics"]["inf"] = {"value": float("inf")}
    for file in finished.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "config.yaml").write_text((finished / "config.yaml").read_text().replace("title: null", "title: '```'"))
    zoo.push_to_hub(tmp_path, NAME)
    card = ModelCard(stored(hub)["README.md"].decode())
    assert r"\<script>" in card.text and r"\[x\](javascript" in card.text and "````yaml" in card.text
    assert "inf" not in {result.metric_name for result in card.data.eval_results}


def test_a_run_takes_the_place_of_another(finished: Path, hub: Hub, tmp_path: Path) -> None:
    zoo.push_to_hub(finished, NAME)
    first = zoo.Run(f"hf://{NAME}")
    for name in ("config.yaml", "model.safetensors", "results.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    zoo.push_to_hub(tmp_path, NAME)
    assert stored(hub).keys() == {".gitattributes", "README.md", "config.yaml", "model.safetensors", "results.json"}
    second = zoo.Run(f"hf://{NAME}")
    assert first.pictures and not second.pictures and first.out != second.out


def test_a_commit_is_fetched_once(finished: Path, hub: Hub) -> None:
    where = zoo.push_to_hub(finished, NAME)
    zoo.load(where)
    hub.asked.clear()
    zoo.load(where)
    assert not hub.asked
    zoo.load(f"hf://{NAME}")
    assert hub.asked == [f"GET /api/models/{NAME}/revision/main"]
    (zoo.Run(where).out / "model.safetensors").unlink()  # as `cache --remove` may
    assert zoo.load(where).latent_dim == 3


def test_a_run_with_a_plugin(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code is neither pushed nor run; whoever has it, names it."""
    assert run(make_config(tmp_path / "duel", "duel", steps=2)) == 0
    zoo.push_to_hub(tmp_path / "duel", NAME)
    assert not [name for name in stored(hub) if name.endswith((".py", ".pt"))]
    assert "duel.py" in stored(hub)["README.md"].decode()
    assert yaml.safe_load(stored(hub)["config.yaml"])["plugins"] == ["duel.py"]
    with (
        monkeypatch.context() as elsewhere,
        pytest.raises(UserError, match=r"the plugin duel.py \(sha256 .*--plugin FILE"),
    ):
        elsewhere.delitem(VARIANTS._entries, "duel")
        zoo.load(f"hf://{NAME}")
    with pytest.raises(UserError, match="holds no code that could be trusted"):
        zoo.load(f"hf://{NAME}", trust_plugins=True)
    assert zoo.load(f"hf://{NAME}", plugins=[str(PLUGINS / "duel.py")])


def test_the_commands(
    finished: Path, hub: Hub, cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("push", finished, NAME, "--private")
    assert code == 0 and out.startswith(f"hf://{NAME}@") and "no licence is stated" in out, err
    assert hub.repositories[NAME].private
    code, out, err = cli("sample", f"hf://{NAME}", "--n", 4, "--out", tmp_path / "four.png")
    assert code == 0 and Image.open(tmp_path / "four.png").size, err
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    assert cli("encode", f"hf://{NAME}", tmp_path / "one.png")[0] == 0
    code, _, err = cli("evaluate", f"hf://{NAME}")
    assert code == 2 and "evaluate is for a run of your own" in err
    code, _, err = cli("sample", "hf://nothing")
    assert code == 2 and "is no place on the hub: write hf://user/name" in err


# --- what is refused


def test_a_place_is_a_user_and_a_name() -> None:
    assert place_of("hf://a/b") == place_of(Path("hf://a/b")) == Place("a/b")
    assert str(place_of("hf://a/b.c@refs/pr/1")) == "hf://a/b.c@refs/pr/1" and str(Place("a/b")) == "hf://a/b"
    for wrong in (
        "hf://",
        "hf://a",
        "hf://a/b/c",
        "hf://../b",
        "hf://a/b@../x",
        "hf://a/b\n",
        "hf://a/\x1b[31m",
        "hf://é/b",
    ):
        with pytest.raises(UserError, match="is no place on the hub") as error:
            place_of(wrong)
        assert str(error.value).isprintable()
    assert is_on_hub("hf://a/b") and not is_on_hub("runs/hf") and not is_on_hub(None)


def test_what_the_hub_refuses_is_one_sentence(finished: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.push_to_hub(finished, NAME)
    wrong = {
        "hf://me/nothing": "hf://me/nothing: there is no such repository, or you may not see it",
        f"hf://{NAME}@other": "hf://me/digits has no revision 'other'",
    }
    for name, words in wrong.items():
        with pytest.raises(UserError, match=words):
            zoo.load(name)
    with pytest.raises(UserError, match="is there already, and public"):
        zoo.push_to_hub(finished, NAME, private=True)
    with pytest.raises(UserError, match="the hub does not let you: `hf auth login`"):
        zoo.push_to_hub(finished, "somebody/digits")
    hub.repositories[NAME].gated = True
    with pytest.raises(UserError, match="is for those its owner lets in: ask at http"):
        zoo.load(f"hf://{NAME}")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="the hub does not let you|there is no such repository"):
        zoo.push_to_hub(finished, "me/other")


def test_without_a_network(finished: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    where = zoo.push_to_hub(finished, NAME)
    zoo.load(where)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    for act in (lambda: zoo.load(f"hf://{NAME}"), lambda: zoo.push_to_hub(finished, NAME)):
        with pytest.raises(UserError, match="the hub at http://127.0.0.1:9 can't be reached") as error:
            act()
    with pytest.raises(UserError, match=f"kept from before is {where}"):
        zoo.load(f"hf://{NAME}")
    assert zoo.load(where).latent_dim == 3
    assert "\n" not in str(error.value)


def test_without_the_library(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: zoo.load(f"hf://{NAME}"), lambda: zoo.push_to_hub(finished, NAME)):
        with pytest.raises(UserError, match=r"pip install 'vae-zoo\[hub\]'"):
            act()


def test_what_is_no_finished_run_is_not_pushed(finished: Path, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        zoo.push_to_hub(tmp_path, NAME)
    for name in ("config.yaml", "results.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(UserError, match="is not finished"):
        zoo.push_to_hub(tmp_path, NAME)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="damaged, or not a model of this zoo"):
        zoo.push_to_hub(tmp_path, NAME)
    (tmp_path / "model.safetensors").write_bytes((finished / "model.safetensors").read_bytes())
    (tmp_path / "reconstructions.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(UserError, match="reconstructions.png is no PNG"):
        zoo.push_to_hub(tmp_path, NAME)
    (tmp_path / "reconstructions.png").unlink()
    (tmp_path / "a.png").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="is a link to /etc/hostname"):
        zoo.push_to_hub(tmp_path, NAME)
    with pytest.raises(UserError, match="is no place on the hub"):
        zoo.push_to_hub(finished, "digits")
    assert not hub.repositories and not hub.asked


# --- what a stranger may have put there


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/evil_was_here",)


EVIL = pickle.dumps(Evil())
CARD = b"---\na: &a [x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: !!python/object/apply:os.system [id]\n---\n"


def test_only_what_a_run_is_made_of_is_fetched(finished: Path, hub: Hub) -> None:
    offered(hub, finished)
    files = stored(hub)
    more = (
        "evil.py",
        "plugins/evil.py",
        "state.pt",
        "../outside.png",
        "a/b.png",
        "\x1b[31m.png",
        ".hidden.png",
        "x.PNG",
        "/x.png",
    )
    hub.repositories[NAME].commit(files | dict.fromkeys(more, EVIL) | {"README.md": CARD})
    run = zoo.Run(f"hf://{NAME}")
    assert run.model.latent_dim == 3
    assert {path.name for path in run.out.rglob("*")} == FILES - {"README.md"}
    assert not any(word in asked for asked in hub.asked for word in ("README", "evil", "state.pt", "outside", "%1B"))
    assert {path.name for path in run.out.parent.iterdir()} == {run.out.name}


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def with_recipe(finished: Path, **changes: Any) -> bytes:
    """The run's weights, whose recipe says something else."""
    from safetensors import safe_open

    with safe_open(finished / "model.safetensors", "pt") as file:
        recipe = json.loads(file.metadata()["zoo"])
    for key, value in changes.items():
        recipe[key] = recipe[key] | value if isinstance(value, dict) else value
    return save(load_file(finished / "model.safetensors"), {"zoo": json.dumps(recipe)})


WEIGHTS: dict[str, tuple[Callable[[Path], bytes | None], str]] = {
    "missing": (lambda _: None, "holds no run of this zoo: there is no model.safetensors in it"),
    "empty": (lambda _: b"", "damaged, or not a model"),
    "pickled": (lambda _: EVIL, "damaged, or not a model"),
    "cut off": (lambda run: (run / "model.safetensors").read_bytes()[:-100], "damaged, or not a model"),
    "changed": (
        lambda run: (run / "model.safetensors").read_bytes()[:-4] + b"\0\0\0?",
        "is damaged: its weights are not",
    ),
    "of another library": (lambda _: save({"w": torch.zeros(2)}), "damaged, or not a model"),
    "a header without end": (lambda _: struct.pack("<Q", 2**63) + b"{}", "damaged, or not a model"),
    "a header of nothing": (lambda _: header("[" * 10_000), "damaged, or not a model"),
    "a nested recipe": (
        lambda _: save({"w": torch.zeros(1)}, {"zoo": "[" * 100_000}),
        "damaged, or not a model",
    ),
    "no recipe": (lambda _: save({"w": torch.zeros(1)}, {"zoo": "{}"}), "damaged, or not a model"),
    "a list": (lambda _: save({"w": torch.zeros(1)}, {"zoo": "[1]"}), "damaged, or not a model"),
    "an image of words": (lambda run: with_recipe(run, image={"channels": "three"}), "damaged, or not a model"),
    "an image without end": (lambda run: with_recipe(run, image={"height": 10**9, "width": 10**9}), "of memory"),
    "a range of nothing": (lambda run: with_recipe(run, image={"range": [0]}), "damaged, or not a model"),
    "plugins of numbers": (lambda run: with_recipe(run, plugins={"x": 3}), "damaged, or not a model"),
    "a model without end": (lambda run: with_recipe(run, model={"hidden_dims": [10**9, 10**9]}), "of memory"),
    "an unknown option": (lambda run: with_recipe(run, model={"\x1b[31m": 1}), "has no option"),
    "an unknown variant": (lambda run: with_recipe(run, model={"name": "\x1b[31m\n"}), "no variant named"),
    "a name of a plugin": (
        lambda run: with_recipe(run, model={"name": "x"}, plugins={"\x1b[31m/../../evil.py": "\x1b"}),
        "which is not loaded by itself",
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_of_a_stranger(case: str, finished: Path, hub: Hub) -> None:
    make, words = WEIGHTS[case]
    offered(hub, finished, model__safetensors=make(finished))
    with pytest.raises(UserError) as error:
        zoo.load(f"hf://{NAME}")
    assert words in str(error.value) and str(error.value).isprintable()
    assert not Path("/tmp/evil_was_here").exists()


def bomb(size: int = 30_000) -> bytes:
    """A PNG that says it has more pixels than anybody holds."""
    whole = io.BytesIO()
    Image.new("1", (8, 8)).save(whole, "PNG")
    content = bytearray(whole.getvalue())
    content[16:24] = struct.pack(">II", size, size)
    import zlib

    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize("content", [b"", EVIL, b"%!PS-Adobe-3.0 EPSF-3.0\n", bomb(), b"<svg onload=alert(1)>"])
def test_pictures_of_a_stranger(content: bytes, finished: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    offered(hub, finished, reconstructions__png=content)
    run = zoo.Run(f"hf://{NAME}")
    assert run.model.latent_dim == 3
    shown = run.pictures
    assert shown and "reconstructions" not in shown, "the others are there all the same"
    assert "reconstructions.png is damaged, or no PNG" in capsys.readouterr().err


CONFIGS = {
    "aliases of aliases": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in range(97, 110)),
    "a tag": b"model: !!python/object/apply:os.system [touch /tmp/evil_was_here]\n",
    "nested": b"[" * 10_000,
    "no UTF-8": b"model: {name: \xff}",
    "a word": b"mlp",
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_of_a_stranger(case: str, finished: Path, hub: Hub) -> None:
    offered(hub, finished, config__yaml=CONFIGS[case])
    with pytest.raises(UserError):
        zoo.Run(f"hf://{NAME}").config  # noqa: B018
    assert not Path("/tmp/evil_was_here").exists()


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"[1]", b'{"metrics": [1]}', b'{"metrics": {"x": 1, "y": {"value": "<b>"}}}', b"\xff"]
)
def test_results_of_a_stranger(content: bytes, finished: Path, hub: Hub) -> None:
    offered(hub, finished, results__json=content)
    run = zoo.Run(f"hf://{NAME}")
    try:
        assert run.metrics == {} and "nothing measured" in repr(run) and "<b>" not in run._repr_html_()[20:]
    except UserError as error:
        assert "results.json" in str(error)


def test_a_run_that_is_too_large_is_not_fetched(finished: Path, hub: Hub) -> None:
    offered(hub, finished)
    for name in ("config.yaml", "results.json", "traversals.png", "model.safetensors"):
        hub.sizes = {name: 10**18}
        with pytest.raises(UserError, match="would be many|and there are"):
            zoo.load(f"hf://{NAME}")
    assert not [asked for asked in hub.asked if "resolve" in asked]
    hub.sizes = {"traversals.png": 3}
    with pytest.raises(UserError, match="traversals.png is not the file of 3 bytes"):
        zoo.load(f"hf://{NAME}")
    hub.sizes = {}
    hub.repositories[NAME].commit(stored(hub) | {f"{i}.png": b"" for i in range(1100)})
    with pytest.raises(UserError, match="more than 1,000 files"):
        zoo.load(f"hf://{NAME}")
    assert MOST["config.yaml"] < 10**7
    assert zoo.load(f"hf://{NAME}@{next(iter(hub.repositories[NAME].commits))}").latent_dim == 3
