"""Data that nobody would make on purpose: pipes, devices, labels without end, names that are no text."""

from __future__ import annotations

import csv
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs import make_config, run
from tests.test_records import within
from zoo.commands import main
from zoo.config import DataConfig
from zoo.data import build_data
from zoo.errors import UserError
from zoo.parts.priors import AutoregressivePrior


def pictures(folder: Path, n: int = 12) -> Path:
    folder.mkdir(parents=True)
    for i in range(n):
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(folder / f"{i:02}.png")
    return folder


def build(name: str, root: Path, **options: Any) -> object:
    return build_data(DataConfig(name=name, root=root, **options))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("what", ["pipe", "device", "large"])
def test_what_is_no_picture_is_not_read(what: str, tmp_path: Path) -> None:
    root = pictures(tmp_path / "p")
    strange = root / "strange.png"
    if what == "pipe":
        os.mkfifo(strange)
    elif what == "device":
        strange.symlink_to("/dev/zero")
    else:
        with strange.open("wb") as file:
            file.truncate(2**31)
    assert run(make_config(tmp_path / "r", steps=2)) == 0
    with within(30):
        with pytest.raises(UserError, match="strange.png is no picture"):
            build("image_folder", root, size=8)
        assert main(["encode", str(tmp_path / "r"), str(root), "--out", str(tmp_path / "z.npz")]) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_tables_and_arrays_are_files(tmp_path: Path) -> None:
    root = pictures(tmp_path / "p")
    os.mkfifo(root / "labels.csv")
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "images.npy")
    with within(30):
        with pytest.raises(UserError, match="labels.csv is no file"):
            build("image_folder", root, size=8, labels="labels.csv")
        with pytest.raises(UserError, match="images.npy is no file"):
            build("arrays", tmp_path / "a")


def test_a_file_that_is_no_table_is_not_shown(tmp_path: Path) -> None:
    root = pictures(tmp_path / "p")
    (tmp_path / "secret").write_text("root:x:0,a secret\n")
    with pytest.raises(UserError, match="must name the columns file and label") as error:
        build("image_folder", root, size=8, labels=str(tmp_path / "secret"))
    assert "a secret" not in str(error.value)


@pytest.mark.parametrize("label", ["100000", "200000000", str(2**63), "-1", "1e30", "9" * 5000, "x", ""])
def test_classes_of_shards_have_an_end(label: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for i in range(6):
            buffer = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(buffer, "PNG")
            for name, content in ((f"{i}.png", buffer.getvalue()), (f"{i}.cls", label.encode() if i == 3 else b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    with within(30), pytest.raises(UserError, match="s.tar can't be read"):
        build("shards", tmp_path, size=8)


ARRAYS: dict[str, dict[str, Any]] = {
    "many classes": {"labels": np.full(12, 100_000)},
    "endless classes": {"labels": np.full(12, 2**63 - 1)},
    "unsigned": {"labels": np.full(12, 2**64 - 1, np.uint64)},
    "negative": {"labels": np.full(12, -1)},
    "no dimension": {"labels": np.array(3)},
    "images without one": {"images": np.array(3, np.uint8)},
    "texts": {"labels": np.full(12, "x")},
}


@pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_are_none(arrays: dict[str, Any], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", **{"images": images} | arrays)
    with within(30), pytest.raises(UserError, match="a.npz"):
        build("arrays", tmp_path / "a.npz")


def test_a_member_that_is_no_array_and_a_header_without_end(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as packed:
        packed.writestr("images", b"no array")
    with pytest.raises(UserError, match="images is no array"):
        build("arrays", tmp_path / "a.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**11, 28, 28)})
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as packed:
        packed.writestr("images.npy", header.getvalue())
    with pytest.raises(UserError, match="b.npz"):
        build("arrays", tmp_path / "b.npz")


def named(folder: Path, name: bytes) -> Path:
    try:
        path = folder / os.fsdecode(name)
        path.touch()
        path.unlink()
    except OSError:
        pytest.skip("this file system takes no names that are no UTF-8")
    return path


def test_a_bad_picture_whose_name_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
    root = pictures(tmp_path / "p")
    for name in (b"bad\xff.png", "schlecht-ä.png".encode()):
        named(root, name).write_bytes(b"no picture")
    shutil.copy(root / "03.png", named(root, b"good\xff.png"))
    for _ in range(2):  # decoded, and from the cache
        data = build_data(DataConfig(name="image_folder", root=root, size=8))
        assert sum(map(len, data.splits.values())) == 13
    assert run(make_config(tmp_path / "r", steps=2)) == 0
    assert main(["score", str(tmp_path / "r"), str(root), "--out", str(tmp_path / "s.csv")]) == 0
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 13


@pytest.mark.parametrize("name", [b"b\xff", b"b\x00"])
def test_a_class_whose_name_is_no_text(name: bytes, tmp_path: Path) -> None:
    root = tmp_path / "p"
    pictures(root / "a")
    if b"\0" in name:
        table = "file,label\n" + "".join(f"a/{i:02}.png,b\0\n" for i in range(12))
        (root / "labels.csv").write_text(table)
        options = {"labels": "labels.csv"}
    else:
        pictures(named(root, name))
        options = {}
    with pytest.raises(UserError, match="no text"):
        build("image_folder", root, size=8, **options)


def test_a_folder_of_data_whose_name_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_ROOT", str(pictures(named(tmp_path, b"roo\xff"))))
    config = make_config(tmp_path / "r", steps=2, data={"name": "image_folder", "size": 8})
    assert run(config) == 0
    assert main(["evaluate", str(tmp_path / "r")]) == 0


def test_a_prior_of_huge_weights() -> None:
    prior = AutoregressivePrior(4, 3)
    with torch.no_grad():
        for weight in prior.parameters():
            weight.fill_(3e38)
    with pytest.raises(UserError, match="prior over codes"):
        prior.sample(2)
