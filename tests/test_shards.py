"""webdataset's shards, read where they lie."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs import digest, run, settings
from zoo.config import Config, DataConfig, check
from zoo.data import Data, build_data
from zoo.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "own cache"))


def build(root: Path, **keys: Any) -> Data:
    return build_data(DataConfig.model_validate({"name": "shards", "root": root, "size": 4, **keys}))


def write(file: Path, numbers: range, labels: bool = True) -> None:
    """Write a shard of grey pictures: number n is of the value 5 n, and of class n % 3."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for n in numbers:
            picture = io.BytesIO()
            Image.fromarray(np.full((6, 9, 3), 5 * n, dtype=np.uint8)).save(picture, "PNG")
            members = {f"a/{n:03}.seg.png" if n == 0 else f"a/{n:03}.png": picture.getvalue(), f"a/{n:03}.json": b"{}"}
            for name, content in (members | ({f"a/{n:03}.cls": b"%d" % (n % 3)} if labels else {})).items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def numbers(data: Data) -> dict[str, list[int]]:
    found = {}
    for split, images in data.splits.items():
        pixels, labels = images.batch(torch.arange(len(images)))
        found[split] = (pixels[:, 0, 0, 0] // 5).tolist()
        assert labels is None or labels.tolist() == [n % 3 for n in found[split]]
    return found


@pytest.mark.parametrize(
    "names", [("train-0.tar", "train-1.tar", "test-0.tar"), ("Train/0.tar", "Train/1.tar", "val/0.tar")]
)
def test_pictures_classes_and_splits(tmp_path: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for i, name in enumerate(names):
        write(tmp_path / "x" / name, range(15 * i, 15 * i + 15))
    data = build(tmp_path / "x")
    found = numbers(data)
    assert data.class_names == ("0", "1", "2") and data.title == "x"
    assert found["test" if "test-0.tar" in names else "val"] == list(range(30, 45))
    assert sorted(sum(found.values(), [])) == list(range(45))
    assert all(name.split("/a/")[0] in names for images in data.splits.values() for name in images.names)
    monkeypatch.setattr("tarfile.open", lambda *_: pytest.fail("a shard was looked through again"))
    again = build(tmp_path / "x")
    assert numbers(again) == found and again.digest == data.digest


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    write(tmp_path / "x" / "0.tar", range(15))
    found = numbers(build(tmp_path / "x"))
    (index,) = (tmp_path / "own cache").glob("*.npz")
    content = index.read_bytes()
    for at in range(0, len(content), 37):
        index.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        assert numbers(build(tmp_path / "x")) == found, at
    for damaged in (b"", b"PK\x03\x04", content[: len(content) // 2], content + b"zz"):
        index.write_bytes(damaged)
        assert numbers(build(tmp_path / "x")) == found
    for rows in (np.zeros((15, 4), np.int64), np.full((15, 5), 99), np.zeros((15, 5)), np.zeros((3, 5), np.int64)):
        np.savez_compressed(index, names=np.array([f"{i}" for i in range(15)]), index=rows)
        assert numbers(build(tmp_path / "x")) == found


def test_membership_follows_from_the_content(tmp_path: Path) -> None:
    write(tmp_path / "x" / "0.tar", range(40), labels=False)
    before = numbers(build(tmp_path / "x", test_fraction=0.3))
    write(tmp_path / "x" / "00.tar", range(40, 50), labels=False)
    after = build(tmp_path / "x", test_fraction=0.3)
    assert after.class_names == ()
    assert not set(before["test"]) & set(numbers(after)["train"]) and set(before["test"]) <= set(numbers(after)["test"])
    assert sum(map(len, build(tmp_path / "x", limit=20).splits.values())) == 20


def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(tmp_path: Path) -> None:
    write(tmp_path / "x" / "0.tar", range(40))

    def config(out: str, steps: int) -> Config:
        data = {"name": "shards", "root": str(tmp_path / "x"), "size": 8}
        return check(Config, settings(tmp_path / out, data=data, steps=steps), "test")

    run(config("whole", 20))
    run(config("parts", 10))
    run(config("parts", 20), resume=True)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in .tar \(gunzip what ends in .tar.gz\)"):
        build(tmp_path)
    (tmp_path / "x.tar").write_text("no archive, but a text that is long enough to be taken for one" * 20)
    with pytest.raises(UserError, match=r"x.tar can't be read as an uncompressed .tar"):
        build(tmp_path)
    tarfile.open(tmp_path / "x.tar", "w").close()
    with pytest.raises(UserError, match="hold no picture: .jpg"):
        build(tmp_path)
    (tmp_path / "x.tar").unlink()
    write(tmp_path / "test.tar", range(9))
    with pytest.raises(UserError, match="are called test, and none train"):
        build(tmp_path)
    write(tmp_path / "train.tar", range(9, 30))
    content = (tmp_path / "train.tar").read_bytes()
    (tmp_path / "train.tar").write_bytes(content.replace(b"IDAT", b"IDAX"))
    data = build(tmp_path)
    with pytest.raises(UserError, match=r"train.tar/a/\d+.png can't be decoded \(.*\): make its shard anew"):
        numbers(data)


@pytest.mark.parametrize(
    "text", ["200000000", "100000", str(10**30), "9" * 5000, "-1", "1.5", "cat", "", "1 2", "7" + " " * 40]
)
def test_a_class_is_a_number_that_there_may_be(tmp_path: Path, text: str) -> None:
    write(tmp_path / "x.tar", range(30))
    with tarfile.open(tmp_path / "x.tar", "a") as tar:
        entry = tarfile.TarInfo("a/029.cls")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    with pytest.raises(UserError, match=r"x.tar: a/029.cls holds no number of a class, from 0 to 99,999"):
        build(tmp_path)


def test_an_index_of_classes_that_there_may_not_be_is_made_anew(tmp_path: Path) -> None:
    write(tmp_path / "x.tar", range(30))
    known = build(tmp_path)
    (kept,) = (tmp_path / "own cache").glob("*.npz")
    names, index = (np.load(kept)[name] for name in ("names", "index"))
    for column, value in ((4, 200_000_000), (4, -7), (1, -1), (2, -1), (0, 1)):
        changed = index.copy()
        changed[0, column] = value
        np.savez(kept, names=names, index=changed)
        assert build(tmp_path).digest == known.digest
