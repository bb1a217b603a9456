"""Data sets, splits, the sampler, and what happens to pixels on their way to the model."""

from __future__ import annotations

import re
import struct
import sys
import threading
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.speed import decoding
from zoo.config import DataConfig
from zoo.data import (
    DATASETS,
    Data,
    Images,
    Source,
    batches,
    build_data,
    dequantise,
    mirror,
    random_crop,
    register_dataset,
    sampler,
    step_indices,
    to_float,
)
from zoo.data.files import ImageFiles
from zoo.data.pixels import resize
from zoo.data.sampler import permutation
from zoo.data.shapes import SIZES, render
from zoo.errors import UserError
from zoo.options import signature_options

UNSAID = {  # what docs/data.md leaves to zoo/config.py, and to the docstring of the one data set that takes it
    *("limit", "range", "val_fraction", "val_from", "attributes", "count", "subset"),
}
ATTRIBUTES = ["Bald", "Eyeglasses", "Smiling"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "own cache"))


def build(name: str, root: Path | None = None, **keys: Any) -> Data:
    return build_data(DataConfig.model_validate({"name": name, "root": root, **keys}))


def numbered(n: int, mapped: bool = False) -> Images:
    """n one-pixel images (n <= 65536) whose two channels spell their number, which is their label too."""
    number = torch.arange(n)
    pixels = torch.stack([number // 256, number % 256], 1).byte().view(n, 2, 1, 1)
    return Images(pixels, labels=number, factors=number[:, None], mapped=mapped)


def whole(images: Images) -> torch.Tensor:
    return images.batch(torch.arange(len(images)))[0]


def numbers(images: Images) -> list[int]:
    pixels, _ = images.batch(torch.arange(len(images)))
    return (pixels[:, 0].long() * 256 + pixels[:, 1]).flatten().tolist()


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(DATASETS, "_entries", {entry.name: entry for entry in DATASETS})


def register_source(source: Source) -> None:
    """Register a data set "numbered" that returns `source`."""

    def numbered_images(root: Path, size: int | None, limit: int | None) -> Source:
        return source

    DATASETS._entries.pop("numbered", None)
    register_dataset("numbered")(numbered_images)


def save(file: Path, colour: Any = "red", size: tuple[int, int] = (12, 12), **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file, **options)
    return mark(file)


def mark(file: Path) -> Path:
    """Make a picture's content unlike that of others that look the same."""
    with file.open("ab") as end:
        end.write(file.name.encode() + file.parent.name.encode())
    return file


def idx(file: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    file.write_bytes(header + array.tobytes())


@pytest.fixture
def mnist_root(tmp_path: Path) -> Path:
    """A folder with an MNIST of 40 + 20 images: image i is uniformly of value i, and shows the digit i % 10."""
    for kind, start, n in (("train", 0, 40), ("t10k", 100, 20)):
        values = np.arange(start, start + n, dtype=np.uint8)
        raw = tmp_path / "MNIST" / "raw"
        idx(raw / f"{kind}-images-idx3-ubyte", np.broadcast_to(values[:, None, None], (n, 28, 28)))
        idx(raw / f"{kind}-labels-idx1-ubyte", values % 10)
    return tmp_path


@pytest.fixture
def celeba_root(tmp_path: Path) -> Path:
    """Twelve black photographs of the official size whose largest centred square is white; tables for fourteen."""
    folder = tmp_path / "celeba" / "img_align_celeba"
    photograph = Image.new("RGB", (178, 218))
    photograph.paste("white", (0, 20, 178, 198))
    folder.mkdir(parents=True)
    for i in range(1, 13):
        photograph.save(folder / f"{i:06}.jpg", quality=95)
        mark(folder / f"{i:06}.jpg")
    return tmp_path


def write_tables(folder: Path) -> None:
    names = [f"{i:06}.jpg" for i in range(1, 15)]
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {i // 6}\n" for i, n in enumerate(names)))
    rows = "".join(f"{n} {' '.join(f'{2 * (i >> bit & 1) - 1:2}' for bit in range(3))}\n" for i, n in enumerate(names))
    (folder / "list_attr_celeba.txt").write_text(f"14\n{' '.join(ATTRIBUTES)}\n{rows}")


class TestSplits:
    @settings(max_examples=60, deadline=None)
    @given(
        train=st.integers(1, 60),
        test=st.integers(0, 30),
        val=st.integers(0, 10),
        fractions=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
        val_from=st.sampled_from(["train", "test"]),
        seed=st.integers(0, 5),
    )
    def test_share_no_image_and_lose_none(
        self, train: int, test: int, val: int, fractions: tuple[float, float], val_from: str, seed: int
    ) -> None:
        everything = numbered(train + test + val)
        parts = [everything.subset(part) for part in torch.arange(train + test + val).split([train, test, val])]
        source = Source(parts[0], parts[1] if test else None, parts[2] if val else None)
        register_source(source)
        try:
            data = build(
                "numbered", val_fraction=fractions[0], test_fraction=fractions[1], val_from=val_from, split_seed=seed
            )
        except UserError as error:
            assert " 0 " in str(error)
            return
        held = [numbers(images) for images in (data.train, data.val, data.test)]
        assert sorted(sum(held, [])) == list(range(train + test + val))
        for images, which in zip((data.train, data.val, data.test), held, strict=True):
            assert images.labels.tolist() == which  # type: ignore[union-attr]
            assert images.factors[:, 0].tolist() == which  # type: ignore[index]

    def test_official_test_set_is_left_whole_by_default(self, mnist_root: Path) -> None:
        data = build("mnist", mnist_root)
        assert data.describe() == "mnist: 36 train, 4 validation, 20 test images, 1 x 28 x 28"
        assert data.test.labels.tolist() == [i % 10 for i in range(20)]  # type: ignore[union-attr]

    def test_val_from_test_keeps_all_training_images(self, mnist_root: Path) -> None:
        data = build("mnist", mnist_root, val_from="test", val_fraction=0.5)
        assert (len(data.train), len(data.val), len(data.test)) == (40, 10, 10)

    def test_official_validation_set_is_kept(self) -> None:
        parts = [numbered(30).subset(part) for part in torch.arange(30).split(10)]
        register_source(Source(parts[0], parts[1], parts[2]))
        data = build("numbered", val_fraction=0.5)
        assert [numbers(images) for images in (data.train, data.test, data.val)] == [numbers(p) for p in parts]

    def test_test_images_are_held_out_before_validation(self) -> None:
        register_source(Source(numbered(100)))
        data = build("numbered", test_fraction=0.2, val_fraction=0.25)
        assert (len(data.train), len(data.val), len(data.test)) == (60, 20, 20)

    def test_depend_on_split_seed_only(self) -> None:
        register_source(Source(numbered(100)))
        torch.manual_seed(1)
        first = build("numbered")
        torch.manual_seed(2)
        assert numbers(build("numbered").val) == numbers(first.val)
        assert numbers(build("numbered", split_seed=1).val) != numbers(first.val)

    def test_limit_counts_each_official_split(self, mnist_root: Path) -> None:
        data = build("mnist", mnist_root, limit=20)
        assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 20)

    def test_limit_counts_all_images_without_official_splits(self) -> None:
        register_source(Source(numbered(100)))
        data = build("numbered", limit=50)
        assert sorted(numbers(data.train) + numbers(data.val) + numbers(data.test)) == list(range(50))

    @pytest.mark.parametrize("keys", [{"limit": 3}, {"val_fraction": 0}, {"test_fraction": 0}])
    def test_empty_split_is_an_error_that_names_the_settings(self, keys: dict[str, Any]) -> None:
        with pytest.raises(UserError, match=r"\b0 .*change data.val_fraction") as caught:
            build("digits", **keys)
        assert ("data.limit" in str(caught.value)) == ("limit" in keys)


class TestDataSets:
    def test_the_documentation_names_each_and_what_it_takes(self) -> None:
        text = (Path(__file__).parents[1] / "docs/data.md").read_text()
        said = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", text))))
        options = {option for entry in DATASETS for option in signature_options(entry.target)}
        known = {entry.name for entry in DATASETS} | options | DataConfig.model_fields.keys()
        assert known - said == UNSAID

    def test_unknown_name_and_option_say_what_is_near(self) -> None:
        with pytest.raises(UserError, match="no data set named 'mnits'. Did you mean 'mnist'"):
            build("mnits")
        with pytest.raises(UserError, match="data set 'shapes' has no option 'chanels'. Did you mean 'channels'"):
            build("shapes", chanels=1)

    def test_third_party_data_set_gets_root_size_limit_and_options(self) -> None:
        got: dict[str, Any] = {}

        @register_dataset("mine", hue=3)
        def mine(root: Path, size: int | None, limit: int | None, *, hue: int = 1, tone: float = 0.5) -> Source:
            got.update(root=root, size=size, limit=limit, hue=hue, tone=tone)
            return Source(numbered(20))

        build("mine", Path("/somewhere"), size=9, limit=20, tone="0.25")
        assert got == {"root": Path("/somewhere"), "size": 9, "limit": 20, "hue": 3, "tone": 0.25}

    def test_root_is_the_configs_else_the_environments_else_data(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        roots = []

        @register_dataset("rooted")
        def rooted(root: Path, size: int | None, limit: int | None) -> Source:
            roots.append(root)
            return Source(numbered(20))

        monkeypatch.setenv("DATA_ROOT", str(tmp_path))
        build("rooted", Path("given"))
        build("rooted")
        monkeypatch.delenv("DATA_ROOT")
        build("rooted")
        assert roots == [Path("given"), tmp_path, Path("data")]

    def test_pixels_of_the_wrong_kind_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"must be uint8 \[N, C, H, W\], not float32 \[2, 1, 4, 4\]"):
            Images(torch.zeros(2, 1, 4, 4))
        with pytest.raises(UserError, match="has 2 images but 3 labels"):
            Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), labels=torch.zeros(3))

    def test_mnist_has_the_files_pixels_and_labels(self, mnist_root: Path) -> None:
        data = build("mnist", mnist_root)
        pixels, labels = data.train.batch(torch.arange(36))
        assert labels is not None and labels.dtype == torch.int64
        assert torch.equal(pixels[:, 0, 0, 0] % 10, labels)
        assert (pixels == pixels[:, :, :1, :1]).all()
        assert data.class_names == tuple("0123456789")
        spec = data.spec((-1.0, 1.0))
        assert (spec.shape, spec.range, spec.classes, spec.attributes) == ((1, 28, 28), (-1.0, 1.0), 10, 0)

    def test_mnist_at_32_is_framed_in_black_and_otherwise_resized(self, mnist_root: Path) -> None:
        framed = build("mnist", mnist_root, size=32).test.batch(torch.tensor([0]))[0]
        assert (framed[0, 0, 2:-2, 2:-2] == 100).all()
        assert framed.sum() == 100 * 28 * 28
        resized = build("mnist", mnist_root, size=16).test.batch(torch.tensor([0]))[0]
        assert resized.shape == (1, 1, 16, 16) and (resized == 100).all()

    def test_fashion_mnist_reads_its_own_folder(self, mnist_root: Path) -> None:
        (mnist_root / "MNIST").rename(mnist_root / "FashionMNIST")
        data = build("fashion_mnist", mnist_root)
        assert len(data.test) == 20 and data.class_names[9] == "Ankle boot"

    def test_absent_mnist_is_one_sentence(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def offline(self: Any) -> None:
            raise URLError("no route to host")

        monkeypatch.setattr("torchvision.datasets.MNIST.download", offline)
        with pytest.raises(UserError) as caught:
            build("mnist", tmp_path / "nowhere")
        message = str(caught.value)
        assert str(tmp_path / "nowhere" / "MNIST" / "raw") in message
        assert "no route to host" in message and "DATA_ROOT" in message and "\n" not in message

    def test_mnist_is_downloaded_where_it_is_absent(
        self, monkeypatch: pytest.MonkeyPatch, mnist_root: Path, tmp_path: Path
    ) -> None:
        new = tmp_path / "new"

        def download(self: Any) -> None:
            if not (new / "MNIST").exists():
                new.mkdir(exist_ok=True)
                (mnist_root / "MNIST").rename(new / "MNIST")

        monkeypatch.setattr("torchvision.datasets.MNIST.download", download)
        assert len(build("mnist", new).test) == 20

    def test_cifar10_turns_channels_first(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        class Cifar:
            classes = [f"class {i}" for i in range(10)]

            def __init__(self, root: Path, train: bool, download: bool) -> None:
                self.data = np.zeros((50 if train else 10, 32, 32, 3), dtype=np.uint8)
                self.data[:, :, 3, 2] = 7  # column 3, blue
                self.targets = [i % 10 for i in range(len(self.data))]

        monkeypatch.setattr("torchvision.datasets.CIFAR10", Cifar)
        data = build("cifar10", tmp_path)
        pixels, labels = data.test.batch(torch.tensor([4]))
        assert pixels.shape == (1, 3, 32, 32)
        assert (pixels[0, 2, :, 3] == 7).all() and pixels.sum() == 7 * 32
        assert labels is not None and labels.item() == 4 and data.class_names[4] == "class 4"

    def test_digits_are_scikit_learns_over_the_full_range(self) -> None:
        from sklearn.datasets import load_digits

        data = build("digits")
        assert len(data.train) + len(data.val) + len(data.test) == 1797
        pixels, labels = data.val.batch(torch.arange(3))
        rows = data.val.index[:3]  # type: ignore[index]
        expected = load_digits().images[rows.numpy()] * 255 / 16
        assert np.abs(pixels[:, 0].numpy() - expected).max() <= 0.5
        assert labels is not None and labels.tolist() == load_digits().target[rows.numpy()].tolist()
        assert build("digits", size=20).spec((0.0, 1.0)).shape == (1, 20, 20)

    @pytest.mark.usefixtures("real_mnist")
    def test_real_mnist(self) -> None:
        data = build("mnist", val_from="test", val_fraction=0.5)
        assert data.describe() == "mnist: 60,000 train, 5,000 validation, 5,000 test images, 1 x 28 x 28"
        pixels, labels = data.train.batch(torch.arange(60_000))
        assert pixels.float().mean() / 255 == pytest.approx(0.1307, abs=1e-4)  # the literature's
        assert labels is not None and labels[:5].tolist() == [5, 0, 4, 1, 9]


class TestShapes:
    def test_default_is_every_combination_once(self) -> None:
        data = build("shapes", size=8)
        factors = torch.cat([images.factors for images in (data.train, data.val, data.test)])  # type: ignore[misc]
        assert len(factors) == len(torch.unique(factors, dim=0)) == 15_000
        assert data.factor_sizes == tuple((factors.max(0).values + 1).tolist()) == (3, 5, 10, 10, 10)
        assert data.factor_names == ("shape", "scale", "orientation", "x", "y")
        assert torch.equal(data.val.labels, data.val.factors[:, 0])  # type: ignore[arg-type,index]
        assert data.class_names == ("square", "ellipse", "heart")

    def test_images_are_those_of_their_factors(self) -> None:
        data = build("shapes", channels=3, count=300)
        assert data.factor_names[-1] == "hue" and data.factor_sizes[-1] == 5
        pixels, _ = data.train.batch(torch.arange(40))
        assert pixels.shape == (40, 3, 32, 32)
        assert torch.equal(pixels, render(data.train.factors[:40], 32))  # type: ignore[index]

    def test_same_at_every_call_without_touching_the_global_generator(self) -> None:
        torch.manual_seed(3)
        state = torch.get_rng_state()
        first = build("shapes", size=16, count=50)
        assert torch.equal(torch.get_rng_state(), state)
        again = build("shapes", size=16, count=50)
        assert torch.equal(first.train.pixels, again.train.pixels)
        assert torch.equal(first.train.factors, again.train.factors)  # type: ignore[arg-type]

    def test_no_two_combinations_look_alike_and_none_is_cut_off(self) -> None:
        places = torch.tensor([[0, 0], [0, 9], [9, 0], [9, 9], [4, 5]])
        kinds = torch.cartesian_prod(*[torch.arange(n) for n in (3, 5, 10)])
        factors = torch.cat([kinds.repeat_interleave(5, 0), places.repeat(len(kinds), 1)], 1)
        pixels = render(factors, 32)
        assert len({image.numpy().tobytes() for image in pixels}) == len(factors) == 750
        assert not pixels[..., [0, -1], :].any() and not pixels[..., [0, -1]].any()

    def test_each_factor_moves_what_it_is_named_after(self) -> None:
        base = [0, 2, 3, 4, 5]

        def statistics(**changed: int) -> tuple[float, float, float]:
            factors = [changed.get(name, value) for name, value in zip(SIZES, base, strict=True)]
            image = render(torch.tensor([factors]), 64)[0, 0].float()
            at = torch.arange(64.0)
            area = image.sum()
            return area.item() / 255, (image.sum(0) @ at / area).item(), (image.sum(1) @ at / area).item()

        area, x, y = statistics()
        assert area == pytest.approx(2 * (64 * 3 / 16) ** 2, rel=0.02)  # a square of radius 3/16 of the image
        for step in range(10):
            assert statistics(x=step) == pytest.approx((area, x + (step - 4) * 3.25, y), abs=0.05)
            assert statistics(y=step) == pytest.approx((area, x, y + (step - 5) * 3.25), abs=0.05)
            turned = statistics(orientation=step)
            assert turned[0] == pytest.approx(area, rel=0.04) and turned[1:] == pytest.approx((x, y), abs=0.05)
        areas = [statistics(scale=step)[0] for step in range(5)]
        assert areas == pytest.approx([2 * (64 * (4 + s) / 32) ** 2 for s in range(5)], rel=0.03)

    def test_edges_are_antialiased(self) -> None:
        pixels = render(torch.tensor([[0, 4, 3, 5, 5]]), 32)
        assert pixels.max() == 255 and len(pixels.unique()) > 8

    def test_hue_colours_the_same_shape(self) -> None:
        pixels = render(torch.tensor([[1, 4, 0, 5, 5, hue] for hue in range(5)]), 32)
        assert pixels[:, :, 16, 16].unique(dim=0).shape == (5, 3)
        shape = pixels.amax(1)
        assert torch.equal(shape, shape[:1].expand(5, -1, -1))
        assert pixels[0, :, 16, 16].tolist() == [255, 0, 0]


class TestImageFolder:
    def test_reads_all_endings_recursively_in_order(self, tmp_path: Path) -> None:
        for name in ("b.PNG", "a.jpg", "deep/er/c.JPEG", "deep/d.webp", "e.bmp"):
            save(tmp_path / "images" / name)
        (tmp_path / "images" / "notes.txt").write_text("not an image")
        for hidden in (".hidden.jpg", ".git/x.jpg", "deep/.y.png"):
            save(tmp_path / "images" / hidden)
        data = build("image_folder", tmp_path / "images", size=8, test_fraction=0.2, val_fraction=0.25)
        assert len(data.train) + len(data.val) + len(data.test) == 5
        assert data.train.labels is None and data.class_names == ()

    def test_subfolders_are_classes(self, tmp_path: Path) -> None:
        for i in range(10):
            save(tmp_path / "reds" / f"{i}.png", "red")
            save(tmp_path / "blues" / "more" / f"{i}.png", "blue")
        data = build("image_folder", tmp_path, size=4)
        assert data.class_names == ("blues", "reds") and data.spec((0.0, 1.0)).classes == 2
        for images in (data.train, data.val, data.test):
            pixels, labels = images.batch(torch.arange(len(images)))
            assert labels is not None
            assert torch.equal(pixels[:, 0, 0, 0] == 255, labels == 1)

    def test_labels_stay_with_their_images_past_a_bad_one(self, tmp_path: Path) -> None:
        for i in range(5):
            save(tmp_path / "a" / f"{i}.png", "red")
            save(tmp_path / "b" / f"{i}.png", "blue")
        (tmp_path / "a" / "1.png").write_text("not an image")
        data = build("image_folder", tmp_path, size=4, test_fraction=0.3, val_fraction=0.3)
        seen = 0
        for images in (data.train, data.val, data.test):
            pixels, labels = images.batch(torch.arange(len(images)))
            assert labels is not None and torch.equal(pixels[:, 2, 0, 0] == 255, labels == 1)
            seen += len(images)
        assert seen == 9

    @pytest.mark.parametrize("layout", [["a/1.png", "b/1.png", "1.png"], ["a/1.png", "a/2.png", "a/3.png"]])
    def test_other_layouts_have_no_classes(self, tmp_path: Path, layout: list[str]) -> None:
        for name in layout:
            save(tmp_path / name)
        data = build("image_folder", tmp_path, size=4, test_fraction=0.4, val_fraction=0.5)
        assert data.class_names == () and data.train.labels is None

    def test_limit_leaves_no_class_out(self, tmp_path: Path) -> None:
        for i in range(20):
            save(tmp_path / "a" / f"{i}.png")
            save(tmp_path / "b" / f"{i}.png")
        data = build("image_folder", tmp_path, size=4, limit=10, test_fraction=0.1, val_fraction=0.1)
        labels = torch.cat([images.labels for images in (data.train, data.val, data.test)])  # type: ignore[misc]
        assert torch.bincount(labels).tolist() == [5, 5]

    @pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
    def test_a_file_linked_twice_appears_once(self, tmp_path: Path) -> None:
        for i in range(4):
            save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "images" / "again.png").symlink_to(tmp_path / "images" / "0.png")
        (tmp_path / "images" / "round").symlink_to(tmp_path / "images", target_is_directory=True)
        data = build("image_folder", tmp_path / "images", size=4, test_fraction=0.3, val_fraction=0.3)
        assert len(data.train) + len(data.val) + len(data.test) == 4

    def test_bad_files_are_named_counted_and_skipped(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for i in range(8):
            save(tmp_path / f"{i}.jpg", size=(64, 64))
        whole = (tmp_path / "3.jpg").read_bytes()
        (tmp_path / "3.jpg").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "text.jpg").write_text("hello")
        (tmp_path / "empty.png").touch()
        for _ in range(2):  # the second time from the cache
            data = build("image_folder", tmp_path, size=8)
            assert len(data.train) + len(data.val) + len(data.test) == 7
            warning = capsys.readouterr().err
            assert "3 of 10 images" in warning
            assert all(str(tmp_path / name) in warning for name in ("3.jpg", "text.jpg", "empty.png"))

    def test_bad_file_can_be_made_an_error(self, tmp_path: Path) -> None:
        for i in range(8):
            save(tmp_path / f"{i}.jpg")
        (tmp_path / "5.jpg").write_text("hello")
        with pytest.raises(UserError, match=r"1 of 8 images can't be decoded: .*5\.jpg"):
            build("image_folder", tmp_path, on_bad_image="fail")
        with pytest.raises(UserError, match="on_bad_image"):
            build("image_folder", tmp_path, on_bad_image="explode")

    def test_folder_of_nothing_but_bad_files_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "x.jpg").write_text("hello")
        with pytest.raises(UserError, match="1 of 1 images can't be decoded"):
            build("image_folder", tmp_path)

    def test_missing_and_empty_folders_say_what_was_looked_for(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(UserError) as caught:
                build("image_folder", folder)
            assert str(folder) in str(caught.value) and ".webp" in str(caught.value)

    def test_grey_on_request(self, tmp_path: Path) -> None:
        for i in range(4):
            save(tmp_path / f"{i}.png", (255, 0, 0))
        data = build("image_folder", tmp_path, size=4, channels=1, test_fraction=0.3, val_fraction=0.3)
        assert data.spec((0.0, 1.0)).shape == (1, 4, 4)
        assert data.train.batch(torch.tensor([0]))[0].unique().tolist() == [76]  # 0.299 x 255


class TestStreaming:
    """Sets that are decoded at each use, `data.cache: false`."""

    @pytest.mark.parametrize("name", ["image_folder", "celeba"])
    def test_gives_the_same_images_as_the_cache(self, tmp_path: Path, name: str) -> None:
        for i in range(12):
            Image.new("RGB", (9 + i, 12), (20 * i, 255 - 20 * i, 7)).save(save(tmp_path / f"{i:02}.png"))
            Image.new("RGB", (9 + i, 12), (20 * i, 255 - 20 * i, 7)).save(save(tmp_path / f"{i:02}.jpg"))
        cached, streamed = (build(name, tmp_path, size=6, cache=cache) for cache in (True, False))
        assert isinstance(streamed.train.pixels, ImageFiles)
        assert cached.describe() == streamed.describe()
        for a, b in ((cached.train, streamed.train), (cached.val, streamed.val), (cached.test, streamed.test)):
            order = torch.arange(len(a)).flip(0)
            assert torch.equal(a.batch(order)[0], b.batch(order)[0])
        two = [next(batches(data.train, 5, 0, 3, 4))[0] for data in (cached, streamed)]
        assert torch.equal(*two)

    def test_writes_no_pixels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for i in range(10):
            save(tmp_path / "images" / f"{i}.png", "red")
        monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
        data = build("image_folder", tmp_path / "images", size=6, cache=False)
        whole(data.train)
        (written,) = (tmp_path / "cache").iterdir()
        assert written.stat().st_size == 8 * 10  # what stands for each file's content
        monkeypatch.setenv("VAE_ZOO_CACHE", str(written / "no folder"))
        assert build("image_folder", tmp_path / "images", size=6, cache=False).digest == data.digest

    def test_labels_stay_with_their_images(self, tmp_path: Path) -> None:
        for i in range(10):
            save(tmp_path / "reds" / f"{i}.png", "red")
            save(tmp_path / "blues" / f"{i}.png", "blue")
        images = build("image_folder", tmp_path, size=4, cache=False).train
        pixels, labels = images.batch(torch.arange(len(images)))
        assert labels is not None and torch.equal(pixels[:, 0, 0, 0] == 255, labels == 1)

    def test_a_bad_file_is_one_sentence(self, tmp_path: Path) -> None:
        for i in range(9):
            save(tmp_path / f"{i}.png", "red")
        (tmp_path / "9.png").write_text("not an image")
        images = build("image_folder", tmp_path, size=4, cache=False)
        with pytest.raises(UserError, match=r"9.png can't be decoded \(.*\): remove it, or set data.cache=true"):
            for split in (images.train, images.val, images.test):
                split.batch(torch.arange(len(split)))
        (tmp_path / "9.png").unlink()
        with pytest.raises(UserError, match="9.png"):
            for split in (images.train, images.val, images.test):
                split.batch(torch.arange(len(split)))


class TestDecoding:
    def test_tells_speeds_and_how_they_compare(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DATA_ROOT", str(tmp_path / "none"))
        assert decoding.main([]) == 2 and "put CelebA's img_align_celeba" in capsys.readouterr().err
        for i in range(10):
            save(tmp_path / "celeba" / "img_align_celeba" / f"{i}.jpg", "red")
        monkeypatch.setenv("DATA_ROOT", str(tmp_path))
        monkeypatch.setattr(decoding, "apart", lambda files, processes: len(files) / processes)
        monkeypatch.setattr(decoding, "together", lambda files: len(files) / 5)
        monkeypatch.setattr(decoding, "cores", lambda: 4)
        assert decoding.main(["--rounds", "3"]) == 0
        assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
            "one process 1 images/s 1.00 x one process",
            "4 processes that share nothing 4 images/s 4.00 x one process",
            "the cache, 4 processes 5 images/s 5.00 x one process",
        ]

    @pytest.mark.parametrize("processes", [1, 2])
    def test_processes_apart_decode_each_file_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
    ) -> None:
        files = [save(tmp_path / f"{i}.png", color) for i, color in enumerate(["red", "lime", "blue"])]
        (tmp_path / "made").mkdir()
        kept = partial(NamedTemporaryFile, dir=tmp_path / "made", delete=False)
        monkeypatch.setattr(decoding, "NamedTemporaryFile", kept)
        monkeypatch.setattr(decoding, "BLOCK", 1)
        assert decoding.apart([str(file) for file in files], processes) > 0
        made = [file.read_bytes() for file in (tmp_path / "made").iterdir()]
        pixels = b"".join(content for content in made if not content.startswith(b"["))  # the others are questions
        one = 3 * 64 * 64
        images = {pixels[i : i + one] for i in range(0, len(pixels), one)}
        band = one // 3
        assert len(pixels) == 3 * one
        assert images == {bytes(k * band) + b"\xff" * band + bytes((2 - k) * band) for k in range(3)}

    def test_a_file_that_is_not_decoded_is_no_measurement(self, tmp_path: Path) -> None:
        (tmp_path / "0.png").write_text("hello")
        with pytest.raises(RuntimeError, match="no measurement"):
            decoding.apart([str(tmp_path / "0.png")], 1)

    def test_a_process_that_fails_is_no_measurement(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        killed = tmp_path / "killed.py"
        killed.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        monkeypatch.setattr(decoding.decode, "__file__", str(killed))
        with pytest.raises(RuntimeError, match="no measurement"):
            decoding.apart([], 2)


class TestCelebA:
    @pytest.mark.parametrize("place", ["celeba/img_align_celeba", "img_align_celeba", "."])
    def test_is_found_in_each_place(self, celeba_root: Path, tmp_path: Path, place: str) -> None:
        root = tmp_path / "root"
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (celeba_root / "celeba" / "img_align_celeba").rename(root / place)
        data = build("celeba", root)
        assert data.describe().endswith("test images, 3 x 64 x 64") and sum(map(len, data.splits.values())) == 12
        assert data.train.labels is None

    @pytest.mark.parametrize("photograph", [(178, 218), (89, 109)])
    def test_takes_the_largest_centred_square(self, tmp_path: Path, photograph: tuple[int, int]) -> None:
        width, height = photograph
        image = Image.new("RGB", photograph)
        image.paste("white", (0, (height - width) // 2, width, (height + width) // 2))
        for i in range(10):
            image.save(save(tmp_path / f"{i}.jpg"), quality=95)
            mark(tmp_path / f"{i}.jpg")
        pixels = whole(build("celeba", tmp_path).train)
        assert pixels.shape[1:] == (3, 64, 64)
        assert pixels[:, :, 2:-2].min() > 250 and pixels.min() > 128  # a JPEG's edges ring

    def test_crop_takes_the_centre(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (178, 218))
        image.paste("white", (19, 39, 159, 179))
        for i in range(10):
            image.save(save(tmp_path / f"{i}.jpg"), quality=95)
            mark(tmp_path / f"{i}.jpg")
        assert whole(build("celeba", tmp_path, crop=140).train)[..., 2:-2, 2:-2].min() > 250
        assert whole(build("celeba", tmp_path, crop=148).train)[..., 0].max() < 128
        with pytest.raises(UserError, match="is 178 x 218 pixels, too small for crop 200"):
            build("celeba", tmp_path, crop=200)

    @pytest.mark.parametrize("beside", [True, False])
    def test_official_splits_and_attributes(self, celeba_root: Path, beside: bool) -> None:
        folder = celeba_root / "celeba"
        save(folder / "img_align_celeba" / "000013.jpg", "red")
        save(folder / "img_align_celeba" / "000014.jpg", "blue")
        write_tables(folder if beside else folder / "img_align_celeba")
        data = build("celeba", celeba_root, size=8)
        assert (len(data.train), len(data.val), len(data.test)) == (6, 6, 2)
        assert data.attribute_names == tuple(ATTRIBUTES) and data.spec((0.0, 1.0)).attributes == 3
        pixels, labels = data.test.batch(torch.arange(2))
        assert labels is not None and labels.dtype == torch.float32
        assert labels.tolist() == [[0, 0, 1], [1, 0, 1]]  # bits of 12 and 13
        assert pixels[0, 0].min() > 200 and pixels[1, 2].min() > 200
        assert data.train.labels is not None and data.train.labels[5].tolist() == [1, 0, 1]

    def test_splits_and_labels_stay_right_past_a_bad_file(self, celeba_root: Path) -> None:
        folder = celeba_root / "celeba" / "img_align_celeba"
        write_tables(folder)
        (folder / "000002.jpg").write_text("hello")
        save(folder / "000007.jpg", "red")
        data = build("celeba", celeba_root, size=8, test_fraction=0.2)
        assert (len(data.train) + len(data.test), len(data.val)) == (5, 6)
        pixels, labels = data.val.batch(torch.tensor([0]))
        assert pixels[0, 1].max() < 50  # red
        assert labels is not None and labels.tolist() == [[0, 1, 1]]  # bits of 6

    def test_chosen_attributes_come_in_the_order_asked_for(self, celeba_root: Path) -> None:
        write_tables(celeba_root / "celeba")
        data = build("celeba", celeba_root, size=8, attributes=["Smiling", "Bald"], test_fraction=0.2)
        assert data.attribute_names == ("Smiling", "Bald")
        assert data.val.batch(torch.tensor([1]))[1].tolist() == [[1, 1]]  # type: ignore[union-attr]  # bits of 7
        with pytest.raises(UserError, match="no attribute 'Smilling'. Did you mean 'Smiling'"):
            build("celeba", celeba_root, attributes=["Smilling"])

    def test_limit_counts_each_official_split(self, celeba_root: Path) -> None:
        save(celeba_root / "celeba" / "img_align_celeba" / "000013.jpg")
        write_tables(celeba_root / "celeba")
        data = build("celeba", celeba_root, size=8, limit=4)
        assert (len(data.train), len(data.val), len(data.test)) == (4, 4, 1)
        assert data.train.pixels.shape[0] == 9  # no more are decoded than are used

    def test_partition_without_test_images_has_some_held_out(self, celeba_root: Path) -> None:
        write_tables(celeba_root / "celeba")  # puts 13 and 14, which aren't there, in the test split
        data = build("celeba", celeba_root, size=8, test_fraction=0.5)
        assert (len(data.train) + len(data.test), len(data.val)) == (6, 6)

    def test_tables_that_do_not_fit_are_errors(self, celeba_root: Path) -> None:
        folder = celeba_root / "celeba"
        with pytest.raises(UserError, match="data.attributes needs list_attr_celeba.txt"):
            build("celeba", celeba_root, attributes=["Smiling"])
        write_tables(folder)
        save(folder / "img_align_celeba" / "000099.jpg")
        with pytest.raises(UserError, match="list_eval_partition.txt has no line about 000099.jpg"):
            build("celeba", celeba_root)
        (folder / "list_eval_partition.txt").unlink()
        (folder / "img_align_celeba" / "000099.jpg").unlink()
        table = folder / "list_attr_celeba.txt"
        table.write_text(table.read_text().replace("000003.jpg -1", "000003.jpg"))
        with pytest.raises(UserError, match="list_attr_celeba.txt is damaged"):
            build("celeba", celeba_root)

    def test_absent_celeba_says_where_to_put_it_without_trying_the_network(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def download(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("tried to download")

        monkeypatch.setattr("torchvision.datasets.CelebA.download", download)
        with pytest.raises(UserError, match=f"there is no folder {tmp_path / 'nowhere'}: put .* in .*/nowhere/celeba"):
            build("celeba", tmp_path / "nowhere")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as if gdown were not installed
        with pytest.raises(UserError, match=f"there is no CelebA in {tmp_path}: put "):
            build("celeba", tmp_path)

    def test_failed_download_says_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(self: Any) -> None:
            raise RuntimeError("quota exceeded\nand more")

        monkeypatch.setattr("torchvision.datasets.CelebA.download", download)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())  # as if gdown were installed
        with pytest.raises(UserError, match=r"can't be downloaded \(quota exceeded\): put "):
            build("celeba", tmp_path)

    @pytest.mark.parametrize("download", [False, True])
    def test_no_file_is_blamed_for_the_machines_lack_of_memory(
        self, download: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def load(root: Path, train: bool, download: bool, refused: bool = download) -> None:
            raise MemoryError if download == refused else RuntimeError("Dataset not found")

        monkeypatch.setattr("torchvision.datasets.MNIST", load)
        with pytest.raises(MemoryError):
            build("mnist", tmp_path)

    @pytest.mark.usefixtures("real_celeba")
    def test_real_celeba(self) -> None:
        data = build("celeba", limit=300)
        assert data.describe() == "celeba: 245 train, 27 validation, 28 test images, 3 x 64 x 64"
        pixels, _ = data.train.batch(torch.arange(245))
        red, _, blue = pixels.float().mean((0, 2, 3))
        assert red > blue + 20 and 80 < pixels.float().mean() < 160  # faces are warm, and fill the frame
        assert pixels[:, :, [0, -1]].float().mean() > 60  # no black bars


class TestSampler:
    @given(n=st.integers(1, 50), batch=st.integers(1, 70), seed=st.integers(0, 2**70))
    def test_every_epoch_of_the_stream_holds_every_image_once(self, n: int, batch: int, seed: int) -> None:
        stream = torch.cat([step_indices(n, batch, seed, step) for step in range(3 * n // batch + 1)])
        for epoch in range(3):
            assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))

    @given(
        n=st.integers(1, 40),
        share=st.integers(1, 20),
        world=st.integers(1, 5),
        seed=st.integers(0, 99),
        step=st.integers(0, 10_000),
    )
    def test_ranks_share_the_global_batch(self, n: int, share: int, world: int, seed: int, step: int) -> None:
        batch = share * world
        whole = step_indices(n, batch, seed, step)
        slices = [step_indices(n, batch, seed, step, rank, world) for rank in range(world)]
        assert [len(part) for part in slices] == [share] * world
        assert torch.equal(torch.cat(slices), whole)
        assert whole.dtype == torch.int64

    def test_is_pure_and_leaves_the_global_generators_alone(self) -> None:
        before = step_indices(100, 32, 5, 7)
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
        permutation.cache_clear()
        step_indices(100, 32, 5, 0)
        torch.manual_seed(9)
        assert torch.equal(step_indices(100, 32, 5, 7), before)
        step_indices(100, 32, 5, 7).zero_()  # a caller's doing, which must not reach the next caller
        assert torch.equal(step_indices(100, 32, 5, 7), before)
        torch.set_rng_state(torch_state)
        permutation.cache_clear()
        step_indices(100, 32, 6, 0)
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))

    def test_order_is_stable(self) -> None:
        """A run resumed on another machine, or by another release, must meet the same images."""
        assert step_indices(10, 10, 0, 0).tolist() == [6, 1, 0, 5, 3, 8, 7, 9, 2, 4]
        assert step_indices(10, 4, 1, 2).tolist() == [2, 5, 9, 2]

    def test_epochs_and_seeds_differ(self) -> None:
        orders = {tuple(step_indices(20, 20, seed, step).tolist()) for seed in range(4) for step in range(4)}
        assert len(orders) == 16

    def test_what_cannot_be_shared_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="batch_size 10 can't be shared equally by 3 ranks"):
            step_indices(100, 10, 0, 0, 0, 3)
        with pytest.raises(ValueError, match="no images"):
            step_indices(0, 10, 0, 0)

    @pytest.mark.parametrize("mapped", [False, True])
    @pytest.mark.parametrize("together", [1, 3, 64])
    def test_batches_are_those_of_the_steps(self, mapped: bool, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
        images = numbered(300, mapped)
        monkeypatch.setattr(sampler, "MAPPED_BYTES" if mapped else "GATHERED_BYTES", together * 16 * 2)
        asked_for: list[int] = []
        gather = Images.batch
        monkeypatch.setattr(Images, "batch", lambda self, at: asked_for.append(len(at)) or gather(self, at))
        got = list(batches(images, 16, seed=4, start=3, stop=50, rank=1, world=2))
        assert len(got) == 47
        for step, (pixels, labels) in enumerate(got, start=3):
            expected = step_indices(300, 16, 4, step, 1, 2)
            assert torch.equal(pixels[:, 0, 0, 0].long() * 256 + pixels[:, 1, 0, 0], expected)
            assert labels is not None and torch.equal(labels, expected)
        assert asked_for == [8 * min(together, 47 - done) for done in range(0, 47, together)]

    def test_mapped_images_are_gathered_ahead_by_a_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gathered: list[str] = []
        second = threading.Event()
        original = Images.batch

        def batch(self: Images, positions: torch.Tensor) -> Any:
            gathered.append(threading.current_thread().name)
            if len(gathered) == 2:
                second.set()
            return original(self, positions)

        monkeypatch.setattr(Images, "batch", batch)
        monkeypatch.setattr(sampler, "MAPPED_BYTES", 2 * 10 * 2)  # two steps'
        stream = batches(numbered(100, mapped=True), 10, 0, 0, 5)
        next(stream)
        assert second.wait(5), "the next batches waited to be asked for"
        stream.close()
        assert threading.current_thread().name not in gathered
        gathered.clear()
        next(batches(numbered(100), 10, 0, 0, 5))
        assert gathered == [threading.current_thread().name]

    def test_errors_of_the_gathering_thread_arrive(self) -> None:
        with pytest.raises(ValueError, match="can't be shared"):
            next(batches(numbered(10, mapped=True), 5, 0, 0, 2, 0, 2))


class TestPixels:
    @pytest.mark.parametrize("span", [(0.0, 1.0), (-1.0, 1.0)])
    def test_to_float_is_exact_at_the_ends_and_linear_between(self, span: tuple[float, float]) -> None:
        values = torch.arange(256, dtype=torch.uint8)
        scaled = to_float(values, span)
        assert scaled.dtype == torch.float32
        assert (scaled[0].item(), scaled[-1].item()) == span
        expected = span[0] + (span[1] - span[0]) * torch.arange(256, dtype=torch.float64) / 255
        torch.testing.assert_close(scaled.double(), expected, atol=1e-7, rtol=0)
        assert values[255] == 255

    def test_mirror_flips_about_half_of_the_images_left_to_right(self) -> None:
        images = torch.randint(256, (1000, 3, 4, 5), dtype=torch.uint8)
        torch.manual_seed(0)
        out = mirror(images)
        flipped = (out == images.flip(-1)).flatten(1).all(1)
        same = (out == images).flatten(1).all(1)
        assert (flipped ^ same).all()
        assert 430 < flipped.sum() < 570

    @pytest.mark.parametrize("span", [(0.0, 1.0), (-1.0, 1.0)])
    def test_dequantised_pixels_fill_their_grey_levels_evenly(self, span: tuple[float, float]) -> None:
        levels = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 4000)
        torch.manual_seed(0)
        out = dequantise(levels, span)
        assert out.dtype == torch.float32 and out.min() >= span[0] and out.max() <= span[1]
        parts = (out.double() - span[0]) / (span[1] - span[0]) * 256 - levels
        assert parts.min() > -1e-4 and parts.max() < 1 + 1e-4  # float32 has 2**-16 of a level at the upper end
        histogram = torch.histc(parts.float(), 10, 0.0, 1.0) / parts.numel()
        torch.testing.assert_close(histogram, torch.full((10,), 0.1), atol=0.002, rtol=0)

    def test_dequantised_pixels_keep_their_layout(self) -> None:
        images = torch.randint(256, (4, 3, 5, 6), dtype=torch.uint8)
        turned = images.contiguous(memory_format=torch.channels_last)
        torch.manual_seed(0)
        plain = dequantise(images, (0.0, 1.0))
        torch.manual_seed(0)
        out = dequantise(turned, (0.0, 1.0))
        assert out.is_contiguous(memory_format=torch.channels_last) and torch.equal(out, plain)

    @pytest.mark.parametrize("shape", [(300, 3, 6, 9), (300, 1, 4, 4)])
    def test_a_random_crop_is_a_crop_of_the_padded_image(self, shape: tuple[int, ...]) -> None:
        images, margin = torch.randint(256, shape, dtype=torch.uint8), 2
        torch.manual_seed(0)
        out = random_crop(images, margin)
        padded = F.pad(images.float(), (margin,) * 4, mode="reflect")
        offsets = [(row, column) for row in range(5) for column in range(5)]
        crops = torch.stack([padded[..., r : r + shape[2], c : c + shape[3]] for r, c in offsets])
        equal = (crops == out).flatten(2).all(2)  # [offsets, B]
        assert equal.any(0).all()
        assert equal.sum(1).min() > 0  # each offset, and none much more often than the others
        assert equal.sum(1).max() < 30

    def test_what_is_drawn_follows_from_the_seed(self) -> None:
        images = torch.randint(256, (64, 1, 4, 4), dtype=torch.uint8)
        for change in (mirror, partial(random_crop, margin=2), partial(dequantise, range=(0.0, 1.0))):
            torch.manual_seed(1)
            first, second = change(images), change(images)
            torch.manual_seed(1)
            assert torch.equal(change(images), first)
            assert not torch.equal(second, first)

    def test_resize_averages_what_it_shrinks(self) -> None:
        stripes = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
        stripes[..., ::4] = 255
        small = resize(stripes, 16)
        assert small.shape == (2, 1, 16, 16)
        assert (small[..., 1:-1].float() - 63.75).abs().max() < 8  # without antialiasing, it would be 0

    def test_batch_of_a_subset_of_a_subset(self) -> None:
        subset = numbered(500).subset(torch.arange(100, 400)).subset(torch.tensor([5, 7, 299]))
        assert numbers(subset) == [105, 107, 399]
        assert subset.labels.tolist() == [105, 107, 399]  # type: ignore[union-attr]
        _, labels = subset.batch(torch.tensor([2, 0]))
        assert labels is not None and labels.tolist() == [399, 105]
        assert subset.pixels.data_ptr() == subset.subset(torch.tensor([0])).pixels.data_ptr()
