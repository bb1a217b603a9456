"""`run.py data`: what a run would see, before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.runs import settings
from zoo.commands import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "own cache"))


def show(tmp_path: Path, capsys: pytest.CaptureFixture[str], *overrides: str, **data: Any) -> tuple[list[str], str]:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings(tmp_path / "run", data=data)))
    assert main(["data", str(config), *overrides, "--out", str(tmp_path / "seen" / "sheet.png")]) == 0
    out, err = capsys.readouterr()
    return [" ".join(line.split()) for line in out.splitlines()], err


def test_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "pets"
    for number in range(60):
        split, label = ("train", "test")[number % 3 // 2], ("cat", "dog")[number % 2]
        (root / split / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 9), (4 * number, 0, 200)).save(root / split / label / f"{number}.png")
    shutil.copy(root / "train" / "cat" / "0.png", root / "test" / "dog" / "copy.png")
    shutil.copy(root / "train" / "cat" / "0.png", root / "train" / "cat" / "copy.png")
    (root / "train" / "cat" / "6.png").write_text("not an image")
    (root / "notes.txt").write_text("")
    lines, warnings = show(tmp_path, capsys, "data.flip=true", name="image_folder", root=str(root), size=8)
    text = "\n".join(lines)
    assert lines[0].startswith("data pets (image_folder): ") and "21 test images, 3 x 8 x 8, digest " in lines[0]
    (test,) = (line for line in lines if line.startswith("test "))
    assert test.startswith("test 21 images, grey levels 0 to 236, ") and test.endswith(", stored as 9 x 10")
    assert "pixels as the model gets them: [0, 1]" in lines
    assert "classes 2: how many images of train, val, test have each" in lines
    cats, dogs = ([int(n) for n in line.split()[1:]] for line in lines if line.startswith(("cat ", "dog ")))
    assert (cats[0] + cats[1], cats[2], dogs[0] + dogs[1], dogs[2]) == (20, 10, 20, 11)
    assert "copies 1 test images are in " in text and "test/dog/copy.png = train/cat/" in text
    assert "copies of other images in the same split: 1 in " in text
    assert "1 of 62 images can't be decoded" in warnings and "1 of 63 files" in warnings
    with Image.open(tmp_path / "seen" / "sheet.png") as sheet:
        assert sheet.width > 10 * 64
    assert not (tmp_path / "run").exists()


def test_data_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, _ = show(tmp_path, capsys, name="shapes", size=8, count=60)
    assert lines[0].startswith("data shapes: 49 train, 5 validation, 6 test images, 1 x 8 x 8, digest ")
    assert "classes 3: how many images of train, val, test have each" in lines
    assert lines[-2].startswith("copies ") and lines[-1].startswith("pictures ")


def test_a_mistake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(tmp_path / "none.yaml")]) == 2
    assert "there is no config file" in capsys.readouterr().err
