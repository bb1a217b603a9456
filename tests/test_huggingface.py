"""Data sets read by the library `datasets`, from files made here."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.config import DataConfig
from zoo.data import Data, build_data, huggingface
from zoo.errors import UserError


def build(root: Path, **keys: Any) -> Data:
    return build_data(DataConfig.model_validate({"name": "huggingface", "root": root, "size": 4, **keys}))


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.full((6, 9, 3), 5 * number, dtype=np.uint8))


def content(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("datasets")
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "own cache"))
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    found.disable_progress_bars()
    return found


def write(datasets: Any, root: Path, split: str, numbers: range, bad: int | None = None, **columns: Any) -> None:
    """Write a parquet file of pictures `img` with classes `fine`, and whatever else."""
    root.mkdir(exist_ok=True)
    features = {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["cat", "dog"])}
    rows: dict[str, Any] = {
        "img": [{"bytes": b"no image" if n == bad else content(n), "path": None} for n in numbers],
        "fine": [n % 2 for n in numbers],
    }
    kinds = features | {name: datasets.Value("int64") for name in columns}
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pydict(rows | columns, schema=datasets.Features(kinds).arrow_schema)
    parquet.write_table(table, root / f"{split}.parquet")


def test_parquet(datasets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(datasets, tmp_path / "pets", "train", range(30), bad=7)
    write(datasets, tmp_path / "pets", "test", range(30, 40))
    for _ in range(2):  # the second time from the cache
        data = build(tmp_path, path="pets")
        assert (len(data.train) + len(data.val), len(data.test)) == (29, 10)
        assert data.class_names == ("cat", "dog") and data.title == "pets"
        for images in data.splits.values():
            pixels, labels = images.batch(torch.arange(len(images)))
            numbers = pixels[:, 0, 0, 0].long() // 5
            assert labels is not None and torch.equal(labels, numbers % 2) and pixels.shape[1:] == (3, 4, 4)
        assert "1 of 40 images can't be decoded: train/7 (cannot identify" in capsys.readouterr().err
    with pytest.raises(UserError, match="1 of 40 images can't be decoded"):
        build(tmp_path, path="pets", on_bad_image="fail")


def test_membership_follows_from_the_content(datasets: Any, tmp_path: Path) -> None:
    write(datasets, tmp_path / "a", "train", range(40))
    write(datasets, tmp_path / "b", "train", range(45, 0, -1))
    one, two = (build(tmp_path, path=path, test_fraction=0.3).membership for path in "ab")
    assert set(one["test"].tolist()) & set(two["train"].tolist()) == set()
    assert set(one["test"].tolist()) & set(two["test"].tolist())


def test_columns(datasets: Any, tmp_path: Path) -> None:
    write(datasets, tmp_path / "x", "train", range(30), coarse=[n % 3 for n in range(30)])
    data = build(tmp_path, path="x", label="coarse", image="img", channels=1, limit=20)
    assert data.class_names == ("0", "1", "2") and data.train.shape == (1, 4, 4)
    with pytest.raises(
        UserError, match=r"has the columns img \(Image\), fine \(ClassLabel\), coarse \(Value\): name the im"
    ):
        build(tmp_path, path="x", image="picture")


def test_a_folder_of_images(datasets: Any, tmp_path: Path) -> None:
    for number in range(20):
        file = tmp_path / "x" / ("train", "test")[number // 15] / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(file)
    data = build(tmp_path, path="x")
    assert (len(data.test), data.class_names) == (5, ("a", "b"))


def test_mistakes(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_: (_ for _ in ()).throw(FileNotFoundError("not there\nmore"))
    )
    with pytest.raises(UserError, match=r"data.path is 'none', which is no data set in .* \(not there\)"):
        build(tmp_path, path="none")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"test": [], "extra": []})
    with pytest.raises(UserError, match="has the splits test, extra, and none is for training"):
        build(tmp_path, path="none")


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the library datasets: pip install 'vae-zoo\[data\]'"):
        build(tmp_path, path="x")
    with pytest.raises(UserError, match="data set 'huggingface' needs the option 'path'"):
        build(tmp_path)


@pytest.mark.parametrize("label", [-1, 100_000, 2**64 - 1, 1.5, None])
def test_classes_are_numbers_that_there_may_be(label: object) -> None:
    with pytest.raises(UserError, match="x: the column y must hold the number of a class, from 0 to 99,999"):
        huggingface._labels("x", {"train": {"y": [0, label]}}, "y")
