"""What has a picture's or a data file's name, and is a pipe or a device: nobody waits for it, or reads on for ever."""

from __future__ import annotations

import os
import resource
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from zoo.config import DataConfig
from zoo.data import Data, binarized_mnist, build_data, decode
from zoo.data.cache import cache_folder
from zoo.data.own import find_pictures, form_of, prepared
from zoo.errors import UserError

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have names")
NO_FILE = "it is no file, but a pipe, a socket or a device"


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


KINDS = pytest.mark.parametrize("put", [pipe, zeros])
Put = Callable[[Path], None]


@pytest.fixture(autouse=True)
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let what waits for ever, or takes all memory, fail instead."""

    def waited(*_: Any) -> None:
        pytest.fail("it waits for a pipe")

    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "own cache"))
    limits, before = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, waited)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 4 * 2**30, limits[1]))
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, limits)


def build(name: str, root: Path, **keys: Any) -> Data:
    return build_data(DataConfig.model_validate({"name": name, "root": root, **keys}))


def pictures(root: Path, n: int = 6) -> Path:
    root.mkdir()
    for i in range(n):
        Image.new("L", (8, 8), 10 * i).save(root / f"{i}.png")
    return root


class TestPictures:
    @KINDS
    def test_is_a_bad_picture(self, tmp_path: Path, put: Put, capsys: pytest.CaptureFixture[str]) -> None:
        root = pictures(tmp_path / "pictures")
        put(root / "p.png")
        data = build("image_folder", root, size=4)
        assert sum(map(len, data.splits.values())) == 6
        assert f"1 of 7 images can't be decoded: {root}/p.png ({NO_FILE})" in capsys.readouterr().err
        for keys in ({"on_bad_image": "fail"}, {"cache": False}):
            with pytest.raises(UserError, match=NO_FILE):
                build("image_folder", root, size=4, **keys)

    @KINDS
    def test_is_passed_over_among_ones_own(self, tmp_path: Path, put: Put, capsys: pytest.CaptureFixture[str]) -> None:
        root = pictures(tmp_path / "pictures")
        put(root / "p.png")
        form = form_of(None, build("image_folder", root, size=4).spec((0, 1)))
        found = [picture.name for part, _ in prepared(find_pictures([root]), form) for picture in part]
        assert found == [f"{i}.png" for i in range(6)]
        assert NO_FILE in capsys.readouterr().err.splitlines()[-1]

    def test_links_to_pictures_are_followed(self, tmp_path: Path) -> None:
        root = pictures(tmp_path / "pictures")
        (tmp_path / "links").mkdir()
        for file in root.iterdir():
            (tmp_path / "links" / file.name).symlink_to(file)
        assert sum(map(len, build("image_folder", tmp_path / "links", size=4).splits.values())) == 6

    def test_more_than_any_picture_has_is_not_read(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = pictures(tmp_path / "pictures")
        with (root / "huge.png").open("wb") as file:
            file.truncate(2**40)  # without taking a disk
        assert sum(map(len, build("image_folder", root, size=4).splits.values())) == 6
        said = f"huge.png (it has 1,099,512 MB, and a picture's file may have {decode.MOST_BYTES / 1e6:,.0f})"
        assert said in capsys.readouterr().err

    def test_nor_a_shards_member(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = pictures(tmp_path / "pictures")
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            tar.add(root, "x")
        data = build("shards", tmp_path, size=4)
        monkeypatch.setattr(decode, "MOST_BYTES", 10)
        with pytest.raises(UserError, match=r"x.tar/x/\d.png can't be decoded \(it has 0 MB, and a picture's file may"):
            data.train.batch(torch.arange(1))


@KINDS
@pytest.mark.parametrize(
    ("name", "file", "keys"),
    [
        ("arrays", "images.npy", {}),
        ("image_folder", "labels.csv", {"labels": "labels.csv"}),
        ("shards", "x.tar", {}),
    ],
)
def test_data_files(tmp_path: Path, put: Put, name: str, file: str, keys: dict[str, str]) -> None:
    root = pictures(tmp_path / "data")
    put(root / file)
    with pytest.raises(UserError, match=rf"{file} (can't be read|is not a whole).*{NO_FILE}"):
        build(name, root, **keys)


class TestOwnCache:
    @KINDS
    @pytest.mark.parametrize("ending", ["json", "digests", "u8", "partial"])
    @pytest.mark.parametrize("bad", [False, True])
    def test_is_made_anew(self, tmp_path: Path, put: Put, ending: str, bad: bool) -> None:
        root = pictures(tmp_path / "pictures")
        if bad:
            (root / "bad.png").write_text("hello")
        known = build("image_folder", root, size=4)
        (header,) = cache_folder().glob("*.json")
        put(header.with_suffix(f".{ending}"))
        if ending == "partial":
            header.unlink()
        again = build("image_folder", root, size=4)
        assert again.digest == known.digest and header.is_file()
        assert all(file.is_file() and not file.is_symlink() for file in cache_folder().glob("*.[!l]*"))

    @KINDS
    def test_of_digests_and_arrays(self, tmp_path: Path, put: Put) -> None:
        np.save(tmp_path / "x.npy", np.zeros((40, 6, 8), np.uint8))
        known = build("arrays", tmp_path / "x.npy")
        (file,) = cache_folder().glob("*.digests")
        put(file)
        assert build("arrays", tmp_path / "x.npy").digest == known.digest

    @KINDS
    def test_of_shards(self, tmp_path: Path, put: Put) -> None:
        root = pictures(tmp_path / "pictures")
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            tar.add(root, "x")
        known = build("shards", tmp_path, size=4)
        (file,) = cache_folder().glob("*.npz")
        put(file)
        assert build("shards", tmp_path, size=4).digest == known.digest and not file.is_symlink()

    @KINDS
    def test_of_bits(self, tmp_path: Path, put: Put) -> None:
        (tmp_path / "x.amat").write_text("0 1 " * 392)
        known = binarized_mnist.rows(tmp_path / "x.amat")
        (file,) = cache_folder().glob("*.bits")
        put(file)
        assert (binarized_mnist.rows(tmp_path / "x.amat") == known).all() and not file.is_symlink()
