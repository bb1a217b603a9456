"""A trained run and a user's own pictures: prepared as the run's own, written in full, any mistake one sentence."""

from __future__ import annotations

import argparse
import csv
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

import zoo
from tests.runs import make_config, small
from zoo import memory
from zoo.commands import own as commands
from zoo.config import load_config
from zoo.data import build_data, own
from zoo.data.own import find_pictures, form_of, prepared
from zoo.engine.checkpoint import weights_of, write_weights
from zoo.files import CONFIG_FILE, MODEL_FILE
from zoo.models import create
from zoo.pictures import drawing
from zoo.pictures.drawing import BREAK
from zoo.pictures.of_models import CELL, tiles
from zoo.records import write_results

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of pictures, of many sizes and modes."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = root / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        height, width = 20 + i, 61 - 2 * i
        pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
        picture = Image.fromarray(pixels, "RGBA")
        mode, ending = (("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("P", "gif"), ("CMYK", "tif"))[i % 5]
        picture.convert("RGB").convert(mode).save(folder / f"{i:02}.{ending}")
    return root


@pytest.fixture(scope="module")
def leave(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Callable[..., Path]:
    """Leave a run's folder with an untrained model in it."""
    made: dict[str, Path] = {}

    def call(variant: str, **data: Any) -> Path:
        key = f"{variant} {data}"
        if key not in made:
            out = made[key] = tmp_path_factory.mktemp(variant)
            data = {"name": "image_folder", "root": str(photos), "size": 16, "cache": False} | data
            model_options = {"name": variant, **small(variant, recon="mse" if "range" in data else "bce")}
            config = make_config(out, variant, model=model_options, data=data)
            known = build_data(config.data)
            torch.manual_seed(0)
            model = create(variant, known.spec(config.data.range or (0, 1)), **config.model.options)
            write_weights(out / MODEL_FILE, weights_of(model), model.image, config.model, {})
            (out / CONFIG_FILE).write_text(yaml.safe_dump(config.dump()))
            write_results(out, {"classes": dict.fromkeys(known.class_names, 1)})
        return made[key]

    return call


@pytest.mark.parametrize(
    "data",
    [{}, {"fit": "pad", "size": [12, 20]}, {"fit": "squash"}, {"channels": 1, "range": [-1, 1]}],
    ids=["crop", "pad", "squash", "grey"],
)
def test_a_picture_is_prepared_as_the_runs_own(leave: Callable[..., Path], photos: Path, data: dict[str, Any]) -> None:
    out = leave("mlp" if "range" not in data else "beta", **data)
    config = load_config(out / CONFIG_FILE)
    known = {}
    for images in build_data(config.data).splits.values():
        pixels, _ = images.batch(torch.arange(len(images)))
        known |= dict(zip(images.names, pixels, strict=True))
    model = zoo.load(out)
    pictures = find_pictures([photos])
    found = {}
    for part, pixels in prepared(pictures, form_of(config.data, model.image)):
        found |= dict(zip([picture.name for picture in part], pixels, strict=True))
    assert found.keys() == known.keys() and len(known) == 24
    assert all(torch.equal(found[name], known[name]) for name in known)


def test_black_and_white_runs_see_black_and_white(cli: Cli, leave: Callable[..., Path], photos: Path) -> None:
    out, files = leave("mlp", channels=1, binarize="fixed"), photos.parent / "white.npz"
    assert cli("reconstruct", out, photos, "--out", files)[0] == 0
    assert set(np.unique(np.load(files)["images"])) == {0, 255}


def test_pictures_are_worked_off_some_at_a_time(
    cli: Cli, leave: Callable[..., Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = leave("mlp")
    assert cli("encode", out, photos, "--out", tmp_path / "whole.npz")[0] == 0
    monkeypatch.setattr(own, "MOST_TOGETHER", 5 * 3 * 16 * 16)
    assert [len(part) for part, _ in prepared(find_pictures([photos]), form_of(None, zoo.load(out).image))] == [
        *[5] * 4,
        4,
    ]
    assert cli("encode", out, photos, "--out", tmp_path / "parts.npz")[0] == 0
    whole, parts = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "parts.npz")
    assert np.allclose(whole["mean"], parts["mean"], atol=1e-5) and list(whole["names"]) == list(parts["names"])


@pytest.mark.parametrize("variant", ["mlp", "vq", "ae", "conditional"])
def test_encode(cli: Cli, leave: Callable[..., Path], photos: Path, tmp_path: Path, variant: str) -> None:
    run = leave(variant)
    code, out, error = cli("encode", run, photos, "--out", tmp_path / "new" / "l.npz")
    assert code == 0 and "24 pictures" in out, error
    found = np.load(tmp_path / "new" / "l.npz")
    model = zoo.load(run)
    assert found["mean"].shape == (24, model.latent_dim) and np.isfinite(found["mean"]).all()
    assert ("logvar" in found) == (variant in ("mlp", "conditional")) and ("codes" in found) == (variant == "vq")
    assert list(found["classes"]) == ["cat", "dog"]
    classes = [str(found["classes"][label]) for label in found["labels"]]
    assert classes == [name.split("/")[0] for name in found["names"]]
    if variant == "conditional":  # told by the folders, or for all
        assert cli("encode", run, photos, "--label", "dog", "--out", tmp_path / "dogs.npz")[0] == 0
        same = np.isclose(np.load(tmp_path / "dogs.npz")["mean"], found["mean"], atol=1e-5).all(1)
        assert list(same) == [name.startswith("dog") for name in found["names"]]


def test_encode_to_safetensors_and_parquet(cli: Cli, leave: Callable[..., Path], photos: Path, tmp_path: Path) -> None:
    run = leave("mlp")
    assert cli("encode", run, photos, "--out", tmp_path / "l.npz")[0] == 0
    known = np.load(tmp_path / "l.npz")
    assert cli("encode", run, photos, "--out", tmp_path / "l.safetensors")[0] == 0
    with safe_open(tmp_path / "l.safetensors", "numpy") as file:
        assert np.array_equal(file.get_tensor("mean"), known["mean"])
        assert json.loads(file.metadata()["names"]) == list(known["names"])
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, which writes .parquet, is not installed")
    assert cli("encode", run, photos, "--out", tmp_path / "l.parquet")[0] == 0
    table = parquet.read_table(tmp_path / "l.parquet").to_pydict()
    assert np.allclose(table["mean"], known["mean"]) and table["name"] == list(known["names"])
    assert table["label"][0] == "cat"


def test_reconstruct_to_a_folder_a_sheet_and_arrays(
    cli: Cli, leave: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    run = leave("mlp", size=[12, 70])
    code, out, _ = cli("reconstruct", run, photos, "--out", tmp_path / "made" / "recon")
    assert code == 0 and "24 reconstructions" in out
    files = sorted(file.relative_to(tmp_path / "made" / "recon") for file in (tmp_path / "made").rglob("*.png"))
    assert [file.parent.name for file in files] == ["cat"] * 12 + ["dog"] * 12
    assert cli("reconstruct", run, photos, "--out", tmp_path / "r.npz")[0] == 0
    arrays = np.load(tmp_path / "r.npz")
    assert arrays["images"].shape == arrays["reconstructions"].shape == (24, 12, 70, 3)
    first = np.asarray(Image.open(tmp_path / "made" / "recon" / files[0]))
    assert np.array_equal(first, arrays["reconstructions"][0]), "full size, full colour"
    assert cli("reconstruct", run, photos, "--out", tmp_path / "r.png")[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "r.png"))
    assert np.array_equal(sheet[2:14, 2:72], arrays["images"][0])
    assert np.array_equal(sheet[16:28, 2:72], arrays["reconstructions"][0]), "each below its original"
    assert cli("reconstruct", run, photos / "cat" / "01.png", "--out", tmp_path / "one")[0] == 0
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["01.png"]


def test_pictures_of_one_name_stay_apart(cli: Cli, leave: Callable[..., Path], photos: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("x.png", "x.jpg"):
            Image.new("RGB", (20, 20), "red" if folder == "a" else "blue").save(tmp_path / folder / name)
    out = tmp_path / "out"
    assert cli("reconstruct", leave("mlp"), tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", "--out", out)[0] == 0
    assert sorted(file.name for file in out.iterdir()) == ["x.png", "x_2.png"]
    assert cli("reconstruct", leave("mlp"), tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both")[0] == 0
    made = sorted(str(file.relative_to(tmp_path / "both")) for file in (tmp_path / "both").rglob("*.png"))
    assert made == ["a/x.jpg.png", "a/x.png.png", "b/x.jpg.png", "b/x.png.png"]


ENDINGS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".gif": "GIF"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_ending_says_the_format(cli: Cli, leave: Callable[..., Path], tmp_path: Path, ending: str) -> None:
    out = tmp_path / "new" / f"s{ending.upper()}"
    assert cli("sample", leave("mlp"), "--n", 3, "--out", out)[0] == 0
    with Image.open(out) as picture:
        assert picture.format == ENDINGS[ending] and picture.size == (2 + 3 * 66, 68)  # enlarged fourfold


def test_sample_singly_and_as_arrays(cli: Cli, leave: Callable[..., Path], tmp_path: Path) -> None:
    run = leave("conditional")
    assert cli("sample", run, "--n", 11, "--out", tmp_path / "s.npz", "--seed", 3)[0] == 0
    arrays = np.load(tmp_path / "s.npz")
    assert arrays["images"].shape == (11, 16, 16, 3) and list(arrays["labels"]) == [i % 2 for i in range(11)]
    assert cli("sample", run, "--n", 11, "--each", "--out", tmp_path / "each", "--seed", 3)[0] == 0
    files = sorted((tmp_path / "each").iterdir())
    assert [file.name for file in files] == [f"{i:02}.png" for i in range(11)]
    for file, image in zip(files, arrays["images"], strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), image)
    assert cli("sample", run, "--n", 4, "--label", "dog", "--out", tmp_path / "d.npz")[0] == 0
    assert list(np.load(tmp_path / "d.npz")["labels"]) == [1] * 4


def test_sample_from_what_is_fitted(cli: Cli, leave: Callable[..., Path], tmp_path: Path) -> None:
    run = leave("mlp")
    drawn = []
    for sampler, seed in (("prior", 0), ("gmm10", 0), ("gmm10", 0), ("gmm10", 1), ("gaussian", 0)):
        out = tmp_path / "s.npz"
        assert cli("sample", run, "--sampler", sampler, "--seed", seed, "--n", 9, "--out", out)[0] == 0
        drawn.append(np.load(out)["images"])
    assert np.array_equal(drawn[1], drawn[2])
    assert not any(np.array_equal(drawn[0], other) for other in drawn[1:])
    assert not np.array_equal(drawn[1], drawn[3]) and not np.array_equal(drawn[1], drawn[4])


def test_interpolate(cli: Cli, leave: Callable[..., Path], photos: Path, tmp_path: Path) -> None:
    run, ends = leave("mlp"), [photos / "cat" / "01.png", photos / "dog" / "00.jpg"]
    assert cli("interpolate", run, *ends, "--steps", 5, "--out", tmp_path / "i.npz")[0] == 0
    arrays = np.load(tmp_path / "i.npz")
    assert arrays["images"].shape == (5, 16, 16, 3)
    assert cli("encode", run, *ends, "--out", tmp_path / "l.npz")[0] == 0
    assert np.allclose(arrays["latents"][[0, -1]], np.load(tmp_path / "l.npz")["mean"], atol=1e-5)
    assert np.allclose(arrays["latents"][2], arrays["latents"][[0, -1]].mean(0), atol=1e-5)
    for ending in (".gif", ".webp"):
        out = tmp_path / f"i{ending}"
        assert cli("interpolate", "--steps", 5, run, *ends, "--out", out)[0] == 0
        with Image.open(out) as film:
            assert film.format == ending[1:].upper()
            assert film.n_frames == 8 or ending == ".webp", "there and back; webp shows what is alike for longer"
    assert cli("interpolate", run, *ends, ends[0], "--steps", 5, "--out", tmp_path / "i.png")[0] == 0
    assert Image.open(tmp_path / "i.png").size == (2 + 7 * 66, 2 + 2 * 66)
    assert cli("interpolate", run, *ends, "--steps", 5, "--out", tmp_path / "frames")[0] == 0
    assert len(list((tmp_path / "frames").iterdir())) == 5


@pytest.mark.parametrize("variant", ["mlp", "ae", "conditional"])
def test_score(cli: Cli, leave: Callable[..., Path], photos: Path, tmp_path: Path, variant: str) -> None:
    run = leave(variant)
    said = []
    for _ in range(2):
        code, out, _ = cli("score", run, photos, "--out", tmp_path / "s.csv")
        assert code == 0
        said.append(out)
    assert said[0] == said[1] and "and 4 more" in said[0], "by one seed"
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    key = "mse" if variant == "ae" else "bound"
    assert ("bound" in rows[0]) == (variant != "ae") and len(rows) == 24
    values = [float(row[key]) for row in rows]
    assert values == sorted(values, reverse=key == "mse") and np.isfinite(values).all()
    assert cli("score", run, photos, "--out", tmp_path / "s.json")[0] == 0
    assert [row["name"] for row in json.loads((tmp_path / "s.json").read_text())] == [row["name"] for row in rows]


def test_an_odd_picture_is_found(cli: Cli, leave: Callable[..., Path], tmp_path: Path) -> None:
    """An untrained model's images are grey all over: what is black and white is far from them."""
    run = leave("ae")
    for i, grey in enumerate((120, 125, 130, 135)):
        Image.new("RGB", (16, 16), (grey,) * 3).save(tmp_path / f"{i}.png")
    Image.fromarray(np.indices((16, 16)).sum(0).astype(np.uint8) % 2 * 255).save(tmp_path / "odd.png")
    assert cli("score", run, tmp_path)[1].splitlines()[1].endswith("odd.png")


def wrong(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("no picture")
    (tmp_path / "post.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    return {
        "nothing there": (["encode", "RUN", tmp_path / "none"], "there is no picture, and no folder of pictures"),
        "no picture in it": (["encode", "RUN", tmp_path / "empty"], "or its subfolders ends in .jpg"),
        "all bad": (["encode", "RUN", tmp_path / "bad"], "1 of 1 pictures can't be used: "),
        "a bad one": (["score", "RUN", tmp_path / "bad" / "x.png"], "x.png (cannot identify image file it) can't be"),
        "another format": (["score", "RUN", tmp_path / "post.eps"], "post.eps (cannot identify image file it) can't"),
        "no run": (["encode", tmp_path / "empty", "PHOTOS"], "there is no trained model in"),
        "unknown ending": (["encode", "RUN", "PHOTOS", "--out", "l.txt"], "must end in one of .npz, .parquet"),
        "no ending": (["sample", "RUN", "--out", "samples"], "must end in one of .png"),
        "a folder for a file": (["sample", "RUN", "--out", tmp_path / "empty"], "it is a folder; name a file"),
        "a file for a folder": (
            ["sample", "RUN", "--each", "--out", "s.png"],
            "--each writes many files: name a folder",
        ),
        "below a file": (["encode", "RUN", "PHOTOS", "--out", tmp_path / "post.eps" / "l.npz"], "can't be written"),
        "one alone": (["interpolate", "RUN", "PHOTO"], "name two or more"),
        "one step": (["interpolate", "RUN", "PHOTO", "PHOTO", "--steps", 1], "--steps is 1"),
        "no such sampler": (["sample", "RUN", "--sampler", "gm10"], "Did you mean 'gmm10'?"),
        "no labels taken": (["encode", "RUN", "PHOTOS", "--label", 1], "this model takes no class labels"),
        "no such label": (["encode", "TOLD", "PHOTOS", "--label", "cow"], "choose 0 to 1 or one of cat, dog"),
        "no label": (["encode", "TOLD", "PHOTO"], "give --label, or a folder with folders called cat, dog"),
        "too long a name": (["encode", "RUN", "x" * 300], "there is no picture, and no folder of pictures"),
        "seed": (["score", "RUN", "PHOTO", "--seed", -1], "--seed is -1"),
    }


@pytest.mark.parametrize("case", range(19))
def test_a_mistake_is_one_sentence(
    cli: Cli, leave: Callable[..., Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: int
) -> None:
    monkeypatch.chdir(tmp_path)
    words, said = list(wrong(tmp_path).values())[case]
    stands_for = {"RUN": leave("mlp"), "TOLD": leave("conditional"), "PHOTOS": photos}
    stands_for["PHOTO"] = photos / "cat" / "01.png"
    code, _, error = cli(*(stands_for.get(word, word) if isinstance(word, str) else word for word in words))
    assert code == 2 and said in error and error.count("\n") == 1, error


def test_a_bad_picture_in_a_folder_is_passed_over(cli: Cli, leave: Callable[..., Path], tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    code, out, error = cli("encode", leave("mlp"), tmp_path, "--out", tmp_path / "l.npz")
    assert code == 0 and "1 picture in" in out and error.startswith("warning: 1 of 2 pictures can't be used")


def test_memory_is_seen_to(
    cli: Cli, leave: Callable[..., Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave("mlp")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, _, error = cli("sample", run, "--n", 10**12, "--out", tmp_path / "s.npz")
    assert code == 2 and "would take" in error

    def opened(arguments: argparse.Namespace, really: Callable[..., Any] = commands.opened) -> Any:
        run = really(arguments)
        monkeypatch.setattr(memory, "available", lambda: 50_000)
        return run

    monkeypatch.setattr(commands, "opened", opened)
    code, _, error = cli("reconstruct", run, photos, "--out", tmp_path / "s.png")
    assert code == 2 and "name a folder in --out" in error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


# ---- a gallery


def test_a_gallery_has_a_row_for_each_run_and_a_part_for_each_data_set(
    leave: Callable[..., Path], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [leave("mlp", channels=1), leave("conditional", channels=1), leave("mlp")]
    parts: list[tuple[np.ndarray, int, dict[str, Any]]] = []
    draw = drawing.drawn

    def keep(images: np.ndarray, columns: int, **names: Any) -> Image.Image:
        parts.append((images, columns, names))
        return draw(images, columns, **names)

    monkeypatch.setattr(drawing, "drawn", keep)
    out = tmp_path / "new" / "gallery.png"
    code, said, err = cli(
        *("gallery", *map(str, runs), "--out", str(out), "--originals", "image_folder", "--samples", "3")
    )
    assert (code, said.strip(), err) == (0, f"3 runs in {out}", "")
    assert [names["row_names"] for _, _, names in parts] == [["images", "mlp", "conditional"], ["images", "mlp"]]
    for (images, columns, names), members in zip(parts, (runs[:2], runs[2:]), strict=True):
        test = build_data(load_config(members[0] / CONFIG_FILE).data).test
        pixels, labels = test.batch(torch.arange(len(test)))
        assert columns == len(test) + 3 and names["breaks_right"] == {len(test) - 1}
        rows = [torch.cat([pixels / 255, torch.ones(3, *pixels.shape[1:])])]
        for member in members:
            model = zoo.load(member)
            y, classes = (labels, torch.arange(3) % 2) if model.needs_labels else (None, None)
            drawn = model.sample(3, classes, torch.Generator().manual_seed(0))
            rows.append(torch.cat([model.reconstruct(pixels, y), drawn]))
        assert np.array_equal(images, tiles(torch.cat(rows)))


def test_a_gallery_hides_test_images_unless_told(leave: Callable[..., Path], cli: Cli, tmp_path: Path) -> None:
    run, heights = leave("mlp"), []
    for more in ((), ("--originals", "celeba"), ("--originals", "image_folder"), ("--samples", "0")):
        assert cli("gallery", str(run), "--out", str(tmp_path / "g.webp"), *more)[0] == 0
        with Image.open(tmp_path / "g.webp") as opened:
            assert opened.format == "WEBP"
            heights.append(opened.height)
    assert heights[0] == heights[1] == heights[3] == heights[2] - CELL - BREAK


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--samples", "0", "--reconstructions", "0"], "a gallery has --reconstructions, --samples or both in a row"),
        (["--samples", "-1"], "a gallery has"),
        (["--out", "g.txt"], "g.txt can't be written: its name must end in"),
        (["--sampler", "nobody"], "nobody"),
    ],
)
def test_a_gallery_that_can_t_be_is_one_sentence(
    more: list[str], said: str, leave: Callable[..., Path], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("gallery", str(leave("mlp")), *more)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("any_names")
def test_names_that_are_no_text_are_written_by_their_numbers(
    cli: Cli, leave: Callable[..., Path], tmp_path: Path
) -> None:
    for folder in ("cat", "dog\udcff"):
        (tmp_path / "own" / folder).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "own" / folder / "x.png")
    run, names = leave("mlp"), ["cat/x.png", "dog\\udcff/x.png"]
    for out in ("s.csv", "s.json"):
        assert cli("score", run, tmp_path / "own", "--out", tmp_path / out)[0] == 0
    assert sorted(row["name"] for row in json.loads((tmp_path / "s.json").read_text())) == names
    assert sorted(row["name"] for row in csv.DictReader((tmp_path / "s.csv").open(encoding="utf-8"))) == names
    for out in ("e.npz", "e.safetensors"):
        assert cli("encode", run, tmp_path / "own", "--out", tmp_path / out)[0] == 0
    found = np.load(tmp_path / "e.npz")
    assert list(found["names"]) == names and list(found["classes"]) == ["cat", "dog\\udcff"]
    assert cli("reconstruct", run, tmp_path / "own", "--out", tmp_path / "made")[0] == 0
    assert (
        sorted(file.relative_to(tmp_path / "made").as_posix() for file in (tmp_path / "made").rglob("*.png")) == names
    )
