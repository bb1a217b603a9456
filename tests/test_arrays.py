"""Images from NumPy's files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoo import memory
from zoo.config import DataConfig
from zoo.data import Data, build_data
from zoo.errors import UserError

IMAGES = np.random.RandomState(0).randint(0, 256, (40, 6, 8, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "own cache"))


def build(root: Path, **keys: Any) -> Data:
    return build_data(DataConfig.model_validate({"name": "arrays", "root": root, **keys}))


def everything(data: Data) -> torch.Tensor:
    """All images, in the order of the file."""
    pixels = torch.cat([images.batch(torch.arange(len(images)))[0] for images in data.splits.values()])
    return pixels[torch.cat([images.index for images in data.splits.values()]).argsort()]  # type: ignore[misc]


@pytest.mark.parametrize("layout", ["N H W C", "N C H W", "N H W"])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_layouts_and_kinds(tmp_path: Path, layout: str, kind: str, ending: str) -> None:
    array = {"N H W C": IMAGES, "N C H W": IMAGES.transpose(0, 3, 1, 2), "N H W": IMAGES[..., 0]}[layout]
    scale = None if kind == "uint8" else [-1, 1]
    stored = array if kind == "uint8" else (array / 127.5 - 1).astype(kind)
    file = tmp_path / f"scans.{ending}"
    (np.save if ending == "npy" else np.savez)(file, stored)
    data = build(file, **({"scale": scale} if scale else {}))
    expected = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    assert torch.equal(everything(data), expected[:, :1] if layout == "N H W" else expected)
    assert data.title == "scans" and data.class_names == ()


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_splits_and_labels(tmp_path: Path, ending: str) -> None:
    parts = {
        **{"train_images": IMAGES[:20], "train_labels": np.arange(20)[:, None] % 3},
        **{"test_images": IMAGES[20:], "test_labels": np.arange(20)[:, None] % 5},
    }
    root = tmp_path / "x.npz"
    if ending == "npz":
        np.savez(root, **parts)
    else:
        root = tmp_path / "folder"
        root.mkdir()
        for name, array in parts.items():
            np.save(root / f"{name}.npy", array)
    data = build(root, size=[3, 4])
    assert (len(data.train) + len(data.val), len(data.test), data.train.shape) == (20, 20, (3, 3, 4))
    assert data.class_names == tuple("01234") and data.test.labels.tolist() == [i % 5 for i in range(20)]  # type: ignore[union-attr]
    assert len(build(root, limit=12).test) == 12


def test_attributes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=np.tile([True, False], (40, 1)))
    data = build(tmp_path / "x.npz")
    assert data.attribute_names == ("0", "1") and data.train.labels.tolist() == [[1, 0]] * len(data.train)  # type: ignore[union-attr]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_npy_file_stays_on_the_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", IMAGES)
    data = build(tmp_path / "large.npy")
    assert data.train.mapped
    assert str(tmp_path / "large.npy") in Path("/proc/self/maps").read_text()
    np.save(tmp_path / "same.npy", IMAGES)
    assert build(tmp_path / "same.npy").digest == data.digest
    np.save(tmp_path / "large.npy", IMAGES[::-1])
    assert build(tmp_path / "large.npy").digest != data.digest


@pytest.mark.parametrize(
    ("name", "arrays", "keys", "said"),
    [
        ("x.npz", {"images": IMAGES / 255.0}, {}, "floats from 0 to 1, and data.scale is missing: give"),
        ("x.npz", {"images": IMAGES / 255.0}, {"scale": [0, 0.5]}, r"and data.scale is \[0, 0.5\]"),
        ("x.npz", {"images": IMAGES * np.nan}, {"scale": [0, 1]}, "floats from nan to nan"),
        ("x.npz", {"images": IMAGES.astype(int)}, {}, "they must be uint8, or floats"),
        ("x.npz", {"images": IMAGES[0, 0]}, {}, r"are uint8 \[8, 3\]: they must be \[N, H, W\]"),
        ("x.npz", {"a": IMAGES, "b": IMAGES}, {}, "holds the arrays a, b: call them images and labels"),
        ("x.npz", {"test_images": IMAGES}, {}, "holds the arrays test_images: call them"),
        ("x.npz", {"images": IMAGES, "labels": np.arange(3)}, {}, "images are 40, and labels 3"),
        ("x.npz", {"images": IMAGES, "labels": np.arange(40) / 2}, {}, "they must be whole numbers from 0"),
        ("x.npz", {"images": IMAGES, "labels": np.full((40, 2), 2)}, {}, "go from 2 to 2: attributes are 0 and 1"),
        ("x.npz", {"images": np.array([{}])}, {}, "is not a whole .npy or .npz of numbers"),
        ("nowhere.npz", {}, {}, "holds no .npy: data.root is to be a .npz"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, arrays: dict[str, Any], keys: dict[str, Any], said: str) -> None:
    if arrays:
        np.savez(tmp_path / name, **arrays)
    with pytest.raises(UserError, match=said):
        build(tmp_path / name, **keys)


LABELS = np.arange(40)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS - 1, "labels go from -1 to 38: each must be the number of a class, from 0 to 99,999"),
        (LABELS + 99_961, "labels go from 99,961 to 100,000: each must be"),
        (LABELS + 300_000_000, "labels go from 300,000,000 to 300,000,039: each must be"),
        (LABELS + (2**63 - 40), "to 9,223,372,036,854,775,807: each must be"),
        (LABELS.astype(np.uint64) + np.uint64(2**64 - 40), "to 18,446,744,073,709,551,615: each must be"),
        (-np.ones((40, 2), int), "labels go from -1 to -1: attributes are 0 and 1"),
        (np.array(3), r"labels are int64 \[\]: they must be whole numbers"),
        (np.zeros((40, 0), int), r"labels are int64 \[40, 0\]: they must be whole numbers"),
        (np.zeros((40, 2, 2), int), r"labels are int64 \[40, 2, 2\]: they must be whole numbers"),
    ],
)
def test_labels_are_numbers_of_classes(tmp_path: Path, labels: np.ndarray, said: str) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=labels)
    with pytest.raises(UserError, match=said):
        build(tmp_path / "x.npz")


def test_images_that_are_one_number(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.uint8(3))
    with pytest.raises(UserError, match=r"images are uint8 \[\]: they must be \[N, H, W\]"):
        build(tmp_path / "x.npy", limit=3)


def test_what_is_no_array_is_passed_over(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, number=np.array(3))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as file:
        file.writestr("labels", "of no use")
    assert build(tmp_path / "x.npz").train.labels is None
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as file:
        file.writestr("images", "of no use")
    with pytest.raises(UserError, match="y.npz holds no array: call them images and labels"):
        build(tmp_path / "y.npz")


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("kind", ["|u1", "<f4"])
@pytest.mark.parametrize("count", [10**11, 2**62, 2**80, -4])
def test_a_header_of_more_images_than_there_are(tmp_path: Path, ending: str, kind: str, count: int) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": kind, "fortran_order": False, "shape": (count, 28, 28)})
    content.write(bytes(100))
    if ending == "npy":
        (tmp_path / "x.npy").write_bytes(content.getvalue())
    else:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
            file.writestr("images.npy", content.getvalue())
    with pytest.raises(UserError, match=f"x.{ending} is not a whole .npy or .npz of numbers"):
        build(tmp_path / f"x.{ending}", scale=None if kind == "|u1" else [0, 1])


@pytest.mark.parametrize("change", [{"flag_bits": 1}, {"compress_type": 99}], ids=["encrypted", "unknown compression"])
def test_a_npz_that_nothing_here_reads(tmp_path: Path, change: dict[str, int]) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    local, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
    shift = 6 if "flag_bits" in change else 8
    for at in (local + shift, central + shift + 2):
        content[at] = next(iter(change.values()))
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match="is not a whole .npy or .npz of numbers"):
        build(tmp_path / "x.npz")


@pytest.mark.parametrize("keys", [{}, {"scale": [0, 1]}])
def test_more_than_memory_holds_is_not_read(
    tmp_path: Path, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if keys:
        np.save(tmp_path / "x.npy", np.zeros((40, 6, 8), np.float32))
    else:
        np.savez_compressed(tmp_path / "x.npz", images=IMAGES)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(UserError, match=r"would take .* of memory, and there are"):
        build(next(tmp_path.iterdir()), **keys)
