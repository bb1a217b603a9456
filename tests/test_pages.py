"""Runs copied for keeping, and the pages written from them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import pages, publish
from tests.runs import ROOT, make_config, run
from zoo.base import VARIANTS
from zoo.documentation import definitions, document
from zoo.errors import UserError
from zoo.reports.board import pictures
from zoo.reports.leaderboard import build_boards, find_runs

DOCS = ROOT / "docs" / "variants"
RESULTS = [ROOT / "benchmarks" / "results" / name for name in ("zoo", "celeba")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    for seed in (0, 1):
        assert run(make_config(folder / f"beta_{seed}", "beta", steps=2, seed=seed, data={"name": "digits"})) == 0
        path = folder / f"beta_{seed}" / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "abc"}))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def coloured(folder: Path) -> Path:
    """Train on images of bright colours, in `runs/faces`."""
    out = folder / "runs" / "faces"
    np.save(folder / "faces.npy", np.random.default_rng(0).integers(0, 2, (60, 16, 16, 3), np.uint8) * 255)
    assert run(make_config(out, steps=2, data={"name": "arrays", "root": str(folder / "faces.npy")})) == 0
    results = out / "results.json"
    results.write_text(json.dumps(json.loads(results.read_text()) | {"commit": "abc"}))
    return out


def test_published_runs_are_small_and_whole(source: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "gone").mkdir(parents=True)
    assert publish.main([str(source), str(tmp_path)]) == 0
    first, second = tmp_path / "runs" / "beta_0", tmp_path / "runs" / "beta_1"
    assert {file.name for file in (tmp_path / "runs").iterdir()} == {"beta_0", "beta_1"}
    assert {f.name for f in first.iterdir()} - {f.name for f in second.iterdir()} == {
        "generated_samples.png",
        "reconstructions.png",
    }
    assert yaml.safe_load((first / "config.yaml").read_text())["data"]["root"] is None
    with Image.open(first / "reconstructions.png") as picture:
        assert max(picture.size) <= publish.PICTURE_SIDE and len(picture.getcolors()) <= publish.GREYS
    before, after = (build_boards(find_runs(folder)[0], [])[0] for folder in (source, tmp_path / "runs"))
    assert [(c, row.cells[c].values) for row in before.rows for c in before.columns] == [
        (c, row.cells[c].values) for row in after.rows for c in after.columns
    ]
    assert (tmp_path / "leaderboard.html").is_file()


def test_what_was_published_can_be_published_again(source: Path, tmp_path: Path) -> None:
    """As a suite needs that goes on, on another machine, beside the rows it has."""
    publish.publish(source, tmp_path / "once")
    assert publish.publish(tmp_path / "once" / "runs", tmp_path / "again") == 2
    assert files(tmp_path / "again" / "runs") == files(tmp_path / "once" / "runs") and files(tmp_path / "once")
    publish.publish(tmp_path / "again" / "runs", tmp_path / "again")  # onto itself
    assert files(tmp_path / "again") == files(tmp_path / "once")


def test_runs_whose_folders_bear_one_name_are_not_published(source: Path, tmp_path: Path) -> None:
    first = source / "beta_0"
    for folder, digest in (("a", "one"), ("b", "another")):
        copy = shutil.copytree(first, tmp_path / "runs" / folder / first.name)
        results = json.loads((copy / "results.json").read_text())
        (copy / "results.json").write_text(json.dumps(results | {"data_digest": digest}))
    with pytest.raises(UserError, match=r"would be published in one folder: rename one of them"):
        publish.publish(tmp_path / "runs", tmp_path / "out")


def test_what_was_published_stays_where_its_successor_cannot_be_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish.publish(source, tmp_path)
    before = files(tmp_path)

    def fails(*_: object) -> None:
        raise UserError("no")

    monkeypatch.setattr(publish, "_shrink", fails)
    with pytest.raises(UserError):
        publish.publish(source, tmp_path)
    assert files(tmp_path) == before


def test_pictures_of_photographs_keep_their_colours_and_not_the_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured(tmp_path)
    for withheld in ((), ("arrays",)):
        monkeypatch.setattr(publish, "WITHHELD", withheld)
        publish.publish(tmp_path / "runs", tmp_path / "kept")
        with Image.open(tmp_path / "kept" / "runs" / "faces" / "reconstructions.webp") as opened:
            pixels = np.asarray(opened.convert("RGB")).astype(float)
        # Two steps teach no colour: what is drawn in bright ones is an image of the data.
        bright = (pixels.max(2) - pixels.min(2) > 100).mean()
        assert (bright > 0.01) == (not withheld), bright
        publish.publish(tmp_path / "kept" / "runs", tmp_path / "again")
        kept, again = (tmp_path / at / "runs" / "faces" / "reconstructions.webp" for at in ("kept", "again"))
        assert again.read_bytes() == kept.read_bytes()
        text = pictures.embed(tmp_path / "kept" / "runs" / "faces" / "generated_samples.webp")
        assert text.startswith("data:image/webp")


def test_photographs_of_a_run_without_weights_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reconstructions can't be drawn anew, and the picture that is there has the photographs in it."""
    out = coloured(tmp_path)
    monkeypatch.setattr(publish, "WITHHELD", ("arrays",))
    (out / "model.safetensors").unlink()
    (out / "checkpoints" / "latest").unlink(missing_ok=True)
    assert publish.main([str(tmp_path / "runs"), str(tmp_path / "kept")]) == 2
    assert not list((tmp_path / "kept").rglob("reconstructions.*"))


def test_what_was_not_committed_is_not_published(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "dirty"
    copied.mkdir()
    (copied / "config.yaml").write_text((source / "beta_0" / "config.yaml").read_text())
    results = json.loads((source / "beta_0" / "results.json").read_text())
    (copied / "results.json").write_text(json.dumps(results | {"commit": "abc-dirty"}))
    assert publish.main([str(copied), str(tmp_path / "out")]) == 2
    assert "was made from code that is not committed: abc-dirty" in capsys.readouterr().err


def test_a_page_holds_what_the_code_and_the_runs_say(source: Path, tmp_path: Path) -> None:
    publish.publish(source, tmp_path / "results")
    assert pages.main([str(tmp_path / "results"), "--out", str(tmp_path / "docs")]) == 0
    text = (tmp_path / "docs" / "beta.md").read_text()
    assert "    loss = E_q(z|x)[-log p(x|z)] + β(t) KL(q(z|x) || N(0, I))" in text
    assert "[arXiv:1511.06349](https://arxiv.org/abs/1511.06349)" in text
    assert "| `warmup` | `0.0` | float >= 0, < 1 | Share of the run" in text
    assert "| `beta` | the weight in force. |" in text
    results = json.loads((source / "beta_0" / "results.json").read_text())
    assert results["command"] in text
    assert re.search(r"\| elbo ↑ nats \| -\d+\.\d+ \| 1 of 1 \|", text)
    for target in re.findall(r"\]\((\.\./[^)]*)\)", text):
        if "leaderboard" not in target:
            assert (tmp_path / "docs" / target).is_file(), target
    assert f"| [`beta`](beta.md) | {document('beta').title}"[:60] in (tmp_path / "docs" / "README.md").read_text()


def test_a_page_holds_the_runs_of_every_board_and_links_to_each(source: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        publish.publish(source, tmp_path / name)
    assert pages.main([str(tmp_path / "first"), str(tmp_path / "second"), "--out", str(tmp_path / "docs")]) == 0
    text, index = ((tmp_path / "docs" / name).read_text() for name in ("beta.md", "README.md"))
    assert [text.count(f"(../{name}/leaderboard.md)") for name in ("first", "second")] == [1, 1]
    assert [text.count(f"(../{name}/runs/beta_0/config.yaml)") for name in ("first", "second")] == [1, 1]
    assert "(../first/leaderboard.md)" in index and "../second" not in index


def test_definitions_may_go_on_below() -> None:
    block = "    a: one\n        and more\n    b/loss: two: three\n\n    c: not part of it\n"
    assert definitions(block) == {"a": "one and more", "b/loss": "two: three"}


def test_the_committed_pages_are_what_the_code_and_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {e.name: e for e in VARIANTS if e.target.__module__.startswith("zoo.")}  # other tests load plugins
    monkeypatch.setattr(VARIANTS, "_entries", ours)
    again = f"out of date: run `python -m benchmarks.pages {' '.join(str(f.relative_to(ROOT)) for f in RESULTS)}`"
    texts = pages.page_texts(RESULTS, DOCS)
    assert {file.name for file in DOCS.iterdir()} == set(texts), again
    for name, text in texts.items():
        assert (DOCS / name).read_text() == text, f"{name} is {again}"
    assert set(texts) == {"README.md"} | {f"{entry.name}.md" for entry in VARIANTS}


def test_nothing_that_is_kept_is_large() -> None:
    kept = [file for folder in ("benchmarks/results", "docs") for file in (ROOT / folder).rglob("*") if file.is_file()]
    assert len(kept) > 100
    assert [str(file) for file in kept if file.stat().st_size > 1_000_000] == []
