"""What Weights & Biases and TensorBoard get of a run, read back from the files that they leave."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs import make_config
from zoo.config import Config, flatten
from zoo.engine.trackers import KINDS
from zoo.errors import UserError
from zoo.files import METRICS_FILE, read_lines
from zoo.records import read_results
from zoo.runs import train

BLOCK = 32768
OFFLINE = {"mode": "offline", "tags": ["a", "b"], "entity": "lab"}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)


def records(folder: Path) -> list[Any]:
    """Return what an offline run's file holds, once wandb's own process has written all of it."""
    (file,) = folder.glob("*.wandb")
    until = time.monotonic() + 60
    while True:
        found = list(parsed(file.read_bytes()))
        if found and found[-1].HasField("exit"):
            return found
        assert time.monotonic() < until, "the file has no end"
        time.sleep(0.1)


def parsed(content: bytes) -> Iterator[Any]:
    """Yield the records of LevelDB's log format, after a header of seven bytes."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    at, whole = 7, b""
    while at + 7 <= len(content):
        room = BLOCK - at % BLOCK
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield pb.Record.FromString(whole)
            whole = b""


def items(of: Any) -> dict[str, Any]:
    return {item.key or "|".join(item.nested_key): json.loads(item.value_json) for item in of}


def run_ids(out: Path) -> list[str]:
    return [next(r.run.run_id for r in records(f) if r.HasField("run")) for f in (out / "wandb").glob("offline-run-*")]


def tracked(out: Path, **settings: Any) -> Config:
    return make_config(out, steps=6, eval_every=3, trackers=["wandb"], wandb=OFFLINE, **settings)


def test_wandb_gets_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "suite")
    out = tmp_path / "r"
    config = tracked(out)
    assert train(config) == 0
    (folder,) = (out / "wandb").glob("offline-run-*")
    found = list(records(folder))
    begun = next(r.run for r in found if r.HasField("run"))
    assert (begun.display_name, begun.project, begun.entity) == ("r", "vae-zoo", "lab")
    assert (begun.run_group, begun.job_type, list(begun.tags)) == ("suite", "train", ["a", "b"])

    settings = items(begun.config.update)
    assert settings["model"] == config.dump()["model"] and settings["optimizer"]["name"] == "adam"

    rows = [items(r.history.item) for r in found if r.HasField("history")]
    logged = [json.loads(line) for line in read_lines(out / METRICS_FILE)]
    assert {row["_step"]: row["val/loss"] for row in rows if "val/loss" in row} == {
        row["step"]: row["val/loss"] for row in logged if "val/loss" in row
    }
    pictures = {row["_step"]: row for row in rows if "pictures/reconstructions|path" in row}
    assert pictures.keys() == {3, 6}
    for row in pictures.values():
        for name in ("reconstructions", "generated_samples"):
            assert (folder / "files" / row[f"pictures/{name}|path"]).read_bytes().startswith(b"\x89PNG")
    assert pictures[6]["pictures/traversals|width"] > 100

    summary: dict[str, Any] = {}
    for record in found:
        summary |= items(record.summary.update)
    measured = {f"test/{name}": score["value"] for name, score in read_results(out)["metrics"].items()}
    assert measured and {name: summary.get(name) for name in measured} == pytest.approx(measured)


def test_a_resumed_run_is_the_same_one(tmp_path: Path) -> None:
    out = tmp_path / "r"
    train(tracked(out))
    train(make_config(out, steps=8, eval_every=3, trackers=["wandb"], wandb=OFFLINE), resume=True)
    first, second = run_ids(out)
    assert first == second
    train(tracked(out), overwrite=True)
    assert len(set(run_ids(out))) == 2


def test_the_environment_says_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    train(make_config(tmp_path / "r", steps=2, trackers=["wandb"]))
    assert len(list((tmp_path / "r" / "wandb").glob("offline-run-*-abc123/*.wandb"))) == 1
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(make_config(tmp_path / "s", steps=2, trackers=["wandb"]))
    assert not (tmp_path / "s" / "wandb").exists()


def test_a_tracker_that_cant_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(**settings: Any) -> None:
        (Path(settings["dir"]) / "wandb").mkdir()
        raise wandb.errors.UsageError("no account here.\nsecond line")

    monkeypatch.setattr(wandb, "init", refuse)
    expected = "the tracker wandb can't start: no account here; set wandb.mode=offline, or trackers="
    with pytest.raises(UserError, match=expected):
        train(tracked(tmp_path / "r"))
    assert not list(tmp_path.iterdir())

    train(make_config(tmp_path / "r", steps=2))
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=expected):
        train(tracked(tmp_path / "r"), overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.engine.trackers.find_spec", lambda name: None)
    with pytest.raises(UserError, match="the tracker 'tensorboard' is not installed: pip install tensorboard"):
        train(make_config(tmp_path / "r", steps=2, trackers=["tensorboard"]))
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_says_so_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    class Watching:
        def __init__(self, config: Config, out: Path, resumed: bool) -> None: ...
        def log(self, row: Any, step: int) -> None:
            raise KeyboardInterrupt

        def close(self, failed: bool) -> None:
            ended.append(failed)

    monkeypatch.setitem(KINDS, "wandb", Watching)  # type: ignore[misc]
    with pytest.raises(KeyboardInterrupt):
        train(tracked(tmp_path / "r"))
    assert ended == [True]


def test_tensorboard_gets_the_whole_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "r"
    config = make_config(out, steps=6, eval_every=3, trackers=["tensorboard"])
    assert train(config) == 0
    (file,) = (out / "tensorboard").rglob("*")  # and no folder beside it
    assert not (out / "vae-zoo").exists()
    found = EventAccumulator(str(file), size_guidance={"images": 0})
    found.Reload()
    logged = [json.loads(line) for line in read_lines(out / METRICS_FILE)]
    assert [e.step for e in found.Scalars("val/loss")] == [row["step"] for row in logged if "val/loss" in row]
    assert [e.step for e in found.Images("pictures/reconstructions")] == [3, 6, 6]
    elbo = read_results(out)["metrics"]["elbo"]["value"]
    assert found.Scalars("test/elbo")[0].value == pytest.approx(elbo)
    table = found.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    for key in flatten(config.dump()):
        assert key.encode() in table
