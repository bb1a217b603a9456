"""Folders of pictures as people have them: what is in which split, and what stays there when the folder changes."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.runs import digest, run
from tests.runs import settings as run_settings
from zoo.config import Config, DataConfig, check, load_config
from zoo.data import Data, Images, batches, build_data
from zoo.data.decode import ENDINGS
from zoo.errors import UserError

NETS_SHIPPED = ["mlp", "conv", "celeba", "mnist", "vanilla", "resnet"]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))


def build(root: Path, name: str = "image_folder", run: Any = None, **keys: Any) -> Data:
    return build_data(DataConfig.model_validate({"name": name, "root": root, "size": 4, **keys}), run)


def build_from(root: Path, **keys: Any) -> Data:
    """Build data whose root comes from the environment, which no config checks."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DATA_ROOT", str(root))
        return build_data(DataConfig.model_validate({"name": "image_folder", "size": 4, **keys}))


def picture(file: Path, number: int) -> Path:
    """Save a picture that no other number has: four grey levels, the number's digits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    grey = np.array([[number >> 12 & 15, number >> 8 & 15], [number >> 4 & 15, number & 15]], dtype=np.uint8) * 16
    Image.fromarray(grey.repeat(2, 0).repeat(2, 1)).save(file)
    return file


def pictures(root: Path, names: list[str], start: int = 0) -> Path:
    for number, name in enumerate(names, start):
        picture(root / name, number)
    return root


def held(images: Images) -> set[int]:
    """The numbers of a split's pictures."""
    pixels = images.batch(torch.arange(len(images)))[0][:, 0, ::2, ::2].flatten(1).long() // 16
    return set((pixels * torch.tensor([4096, 256, 16, 1])).sum(1).tolist())


class TestOfficialSplits:
    def test_folders_shaped_like_cifar_10(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        names = [f"{split}/{label}/{i}.png" for split in ("train", "test") for label in CIFAR for i in range(10)]
        pictures(tmp_path, names)
        shutil.copy(tmp_path / "train" / "cat" / "3.png", tmp_path / "test" / "dog" / "copy.png")
        data = build(tmp_path, val_fraction=0.2)
        assert data.class_names == tuple(CIFAR)
        assert (len(data.train) + len(data.val), len(data.test)) == (100, 101)
        files = [name for images in data.splits.values() for name in images.names]
        assert len(files) == len(set(files)) == 201
        assert {name.split("/")[0] for name in data.test.names} == {"test"}
        for images in data.splits.values():
            assert images.labels is not None
            said = [data.class_names[label] for label in images.labels.tolist()]
            assert said == [name.split("/")[1] for name in images.names]
        warning = capsys.readouterr().err
        assert "1 images of test are in train, too: test/dog/copy.png = train/cat/3.png" in warning

    @pytest.mark.parametrize("test", ["test", "Testing", "TEST"])
    @pytest.mark.parametrize("val", [None, "val", "Valid", "validation"])
    @pytest.mark.parametrize("train", ["train", "Training"])
    def test_names(self, tmp_path: Path, train: str, val: str | None, test: str) -> None:
        pictures(tmp_path, [f"{split}/{i}.png" for split in (train, test, *([val] if val else [])) for i in range(20)])
        data = build(tmp_path)
        assert held(data.test) == set(range(20, 40)) and data.class_names == ()
        assert held(data.val) == set(range(40, 60)) if val else held(data.val) < set(range(20))

    def test_classes_are_those_of_any_split(self, tmp_path: Path) -> None:
        names = [f"train/{label}/{i}.png" for label in ("10", "9", "a") for i in range(9)]
        data = build(pictures(tmp_path, [*names, "test/b/1.png", "test/9/1.png"]))
        assert data.class_names == ("9", "10", "a", "b")
        assert {tuple(data.test.labels.tolist()), (0, 3)} <= {(0, 3), (3, 0)}  # type: ignore[union-attr]

    def test_in_the_one_folder_that_holds_them(self, tmp_path: Path) -> None:
        names = [f"pets/{split}/{label}/{i}.png" for split in ("train", "test") for label in "ab" for i in range(9)]
        data = build(pictures(tmp_path, names))
        assert data.class_names == ("a", "b") and held(data.test) == set(range(18, 36))

    def test_without_a_test_folder_one_is_cut_from_train(self, tmp_path: Path) -> None:
        data = build(pictures(tmp_path, [f"train/{label}/{i}.png" for label in "ab" for i in range(20)]))
        assert data.class_names == ("a", "b") and len(data.test) and sum(map(len, data.splits.values())) == 40

    def test_a_class_called_train(self, tmp_path: Path) -> None:
        data = build(pictures(tmp_path, [f"{label}/{i}.png" for label in ("train", "car", "bus") for i in range(9)]))
        assert data.class_names == ("bus", "car", "train") and sum(map(len, data.splits.values())) == 27

    def test_what_lies_beside_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pictures(tmp_path, [f"{top}/{i}.png" for top in ("train", "test", "extra") for i in range(9)])
        data = build(tmp_path)
        assert sum(map(len, data.splits.values())) == 18
        assert "9 images" in (warning := capsys.readouterr().err) and "extra/0.png" in warning

    def test_test_images_without_classes_leave_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pictures(tmp_path, [*(f"train/{label}/{i}.png" for label in "ab" for i in range(9)), "test/1.png"])
        assert build(tmp_path).class_names == ()
        assert "there are no classes, since 1 images lie in no class folder: test/1.png" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("tops", "said"),
        [
            (["train", "val", "valid"], "holds both 'val' and 'valid', which mean one split: merge or rename them"),
            (["val", "test"], "holds 'test' and 'val' but no folder 'train'"),
            (["test"], "holds 'test' but no folder 'train'"),
            (["cat/train", "dog/Test"], "holds train and test within each class: put them above, as in train/cat/…"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, tmp_path: Path, tops: list[str], said: str) -> None:
        with pytest.raises(UserError, match=said):
            build(pictures(tmp_path, [f"{top}/{i}.png" for top in tops for i in range(5)]))

    def test_limit_counts_each(self, tmp_path: Path) -> None:
        pictures(tmp_path, [f"{s}/{label}/{i}.png" for s in ("train", "test") for label in "ab" for i in range(20)])
        data = build(tmp_path, limit=10)
        assert len(data.test) == len(data.train) + len(data.val) == 10
        assert torch.bincount(data.test.labels).tolist() == [5, 5]  # type: ignore[arg-type]


def change(root: Path, seed: int, start: int) -> None:
    """Add, remove and rename pictures at random."""
    draw = random.Random(seed)
    files = sorted(root.glob("*.png"))
    draw.shuffle(files)
    removed, kept = files[: len(files) // 4], files[len(files) // 4 :]
    for file in removed:
        file.unlink()
    for file in kept[::2]:
        file.rename(root / f"{draw.random()}.png")
    for number in range(start, start + draw.randrange(30)):
        picture(root / f"{draw.random()}.png", number)


class TestMembership:
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        seed=st.integers(0, 10**6),
        n=st.integers(3, 60),
        stored=st.booleans(),
        cache=st.booleans(),
        val_from=st.sampled_from(["train", "test"]),
    )
    def test_no_image_changes_sides(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, stored: bool, cache: bool, val_from: str
    ) -> None:
        """Whatever is added, removed and renamed between two starts."""
        root = pictures(tmp_path_factory.mktemp("images"), [f"{i}.png" for i in range(n)])
        keys = {"test_fraction": 0.3, "val_fraction": 0.3, "split_seed": seed, "cache": cache, "val_from": val_from}
        first = build(root, **keys)
        before = {split: held(images) for split, images in first.splits.items()}
        change(root, seed, start=n)
        assume(stored or n > 40)  # of fewer, one may be held out for want of others
        try:
            second = build(root, run=first.membership if stored else None, **keys)
        except UserError as error:
            assert stored and "each split needs an image" in str(error)
            return
        after = {split: held(images) for split, images in second.splits.items()}
        for split in before:
            for other in before:
                assert split == other or not before[split] & after[other]

    def test_shares_are_those_asked_for(self, tmp_path: Path) -> None:
        root = pictures(tmp_path, [f"{i}.png" for i in range(600)])
        data = build(root, test_fraction=0.2, val_fraction=0.25)
        assert len(data.test) == pytest.approx(120, abs=40) and len(data.val) == pytest.approx(120, abs=40)
        assert held(build(root, test_fraction=0.2, val_fraction=0.25, split_seed=1).test) != held(data.test)
        assert held(build(root, test_fraction=0.3, val_fraction=0.25).test) > held(data.test)

    @pytest.mark.parametrize("copies", ["a/{}.png", "{}-again.png"])
    def test_copies_are_together(self, tmp_path: Path, copies: str) -> None:
        pictures(tmp_path, [f"{i}.png" for i in range(30)])
        (tmp_path / "a").mkdir()
        for i in range(30):
            shutil.copy(tmp_path / f"{i}.png", tmp_path / copies.format(i))
        data = build(tmp_path, test_fraction=0.3)
        assert sum(map(len, data.splits.values())) == 60
        assert sum(len(held(images)) for images in data.splits.values()) == 30

    @pytest.mark.parametrize("n", [3, 4, 12])
    @pytest.mark.parametrize("val_from", ["train", "test"])
    def test_each_split_of_a_small_folder_has_an_image(self, tmp_path: Path, n: int, val_from: str) -> None:
        pictures(tmp_path, [f"{i}.png" for i in range(n)])
        for seed in range(5):
            keys = {"val_from": val_from, "split_seed": seed, "test_fraction": 0.1}
            data = build(tmp_path, **keys)
            assert all(map(len, data.splits.values()))
            assert held(build(tmp_path, **keys).test) == held(data.test)
            again = build(tmp_path, run=data.membership, **keys)
            assert all(again.splits[split].names == images.names for split, images in data.splits.items())

    def test_too_few_different_pictures(self, tmp_path: Path) -> None:
        picture(tmp_path / "0.png", 0)
        for i in range(1, 9):
            shutil.copy(tmp_path / "0.png", tmp_path / f"{i}.png")
        with pytest.raises(UserError, match=r"each split needs an image, .*\(1 different ones\)"):
            build(tmp_path)

    def test_a_picture_moved_between_official_splits_is_told(self, tmp_path: Path) -> None:
        pictures(tmp_path, [f"{split}/{i}.png" for split in ("train", "test") for i in range(9)])
        run = build(tmp_path).membership
        (tmp_path / "test" / "2.png").rename(tmp_path / "train" / "new.png")
        with pytest.raises(UserError, match=r"1 train images are ones that the run has held out: train/new.png"):
            build(tmp_path, run=run)
        (tmp_path / "train" / "new.png").unlink()
        moved = next(name for name in build(tmp_path, run=run).train.names)
        (tmp_path / moved).rename(tmp_path / "test" / "new.png")
        with pytest.raises(UserError, match=r"1 test images are ones that the run has trained on: test/new.png"):
            build(tmp_path, run=run)

    def test_the_second_start_reads_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pictures(tmp_path, [f"{i}.png" for i in range(20)])
        for cache in (True, False):
            first = build(tmp_path, cache=cache)
            with monkeypatch.context() as patch:
                patch.setattr("zoo.data.decode.digest", lambda stream: pytest.fail("a file was read again"))
                assert build(tmp_path, cache=cache).digest == first.digest


class TestIdentity:
    def test_is_the_contents_and_not_the_places(self, tmp_path: Path) -> None:
        pictures(tmp_path / "one", [f"{label}/{i}.png" for label in "ab" for i in range(20)])
        data = build(tmp_path / "one")
        assert len(data.digest) == 16 and data.title == "one"
        assert data.describe().startswith("one (image_folder): ")
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        for number, file in enumerate(sorted((tmp_path / "two").glob("*/*.png"))):
            file.rename(file.with_name(f"{99 - number}.png"))
        again = build(tmp_path / "two", size=8, cache=False, title="pets")
        assert again.digest == data.digest and again.title == "pets"
        moved = next((tmp_path / "two" / "a").glob("*.png"))
        moved.rename(moved.parent.parent / "b" / "moved.png")
        assert build(tmp_path / "two").digest != data.digest

    @pytest.mark.parametrize("change", ["image", "seed", "class"])
    def test_differs_where_anything_does(self, tmp_path: Path, change: str) -> None:
        pictures(tmp_path, [f"{label}/{i}.png" for label in "ab" for i in range(20)])
        before = build(tmp_path).digest
        if change == "image":
            picture(tmp_path / "a" / "3.png", 77)
        elif change == "class":
            (tmp_path / "a").rename(tmp_path / "c")
        assert build(tmp_path, split_seed=int(change == "seed")).digest != before

    def test_of_images_in_memory(self) -> None:
        def digits(**keys: Any) -> str:
            return build_data(DataConfig.model_validate({"name": "digits", "limit": 50, **keys})).digest

        assert digits() == digits() != digits(split_seed=1)
        assert len({digits(), digits(limit=51), digits(size=9)}) == 3
        assert build_data(DataConfig(name="digits")).title == "digits"

    def test_labels_are_counted(self, tmp_path: Path) -> None:
        pictures(
            tmp_path, [f"{split}/{label}/{i}.png" for split in ("train", "val") for label in "ab" for i in range(9)]
        )
        (tmp_path / "train" / "b" / "1.png").rename(tmp_path / "train" / "a" / "one.png")
        pictures(tmp_path, ["test/a/1.png", "test/b/1.png"], start=50)
        assert build(tmp_path).describe_labels() == "a 10, b 8"
        assert build_data(DataConfig(name="shapes", size=8, count=60)).describe_labels().startswith("square ")


class TestFiles:
    def test_more_endings(self, tmp_path: Path) -> None:
        endings = ["tif", "TIFF", "jpe", "jfif", "gif", "bmp", "webp", "png", "jpg"]
        for number, ending in enumerate(endings):
            kind = {"tif": "TIFF", "jpe": "JPEG", "jfif": "JPEG"}.get(ending.lower(), Image.EXTENSION.get(f".{ending}"))
            Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / f"{number}.{ending}", kind)
        data = build(tmp_path)
        assert sum(map(len, data.splits.values())) == len(endings)

    @pytest.mark.skipif(".avif" not in ENDINGS, reason="Pillow comes without AVIF")
    def test_avif(self, tmp_path: Path) -> None:
        for number in range(5):
            Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(tmp_path / f"{number}.avif")
        assert sum(map(len, build(tmp_path).splits.values())) == 5

    def test_what_is_passed_over_is_counted_and_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pictures(tmp_path, [f"{i}.png" for i in range(5)])
        for name in ("a.heic", "b.HEIC", "notes.txt", "README"):
            (tmp_path / name).write_text("")
        build(tmp_path)
        warning = capsys.readouterr().err
        assert (
            "4 of 9 files" in warning and "2 .heic, 1 without an ending, 1 .txt (README, a.heic, b.HEIC, …)" in warning
        )

    @pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
    def test_dangling_links(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pictures(tmp_path, [f"{i}.png" for i in range(5)])
        os.symlink(tmp_path / "nowhere.png", tmp_path / "link.png")
        assert sum(map(len, build(tmp_path).splits.values())) == 5
        assert "1 links in" in (warning := capsys.readouterr().err) and "link.png; they are skipped" in warning
        with pytest.raises(UserError, match=r"1 links in .* lead to no file: link.png; mend or remove"):
            build(tmp_path, on_bad_image="fail")

    def test_an_archive_says_what_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "cats.zip").write_bytes(b"PK")
        for root in (tmp_path / "cats.zip", tmp_path / "cats"):
            for name in ("image_folder", "celeba"):
                with pytest.raises(UserError, match=r"cats\.zip is an archive: unpack it, and set data\.root"):
                    build(root, name)
        with pytest.raises(UserError, match=r"it holds the archive cats\.zip: unpack that first"):
            build(tmp_path)
        (tmp_path / "img_align_celeba.zip").write_bytes(b"PK")
        with pytest.raises(UserError, match=r"img_align_celeba\.zip is an archive: unpack it there"):
            build(tmp_path, "celeba")


class TestShape:
    @pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
    def test_height_and_width(self, tmp_path: Path, fit: str) -> None:
        """A red picture, 12 high and 48 wide, with blue ends of 6 pixels, brought to 8 x 16."""
        for i in range(5):
            image = Image.new("RGB", (48, 12), "blue")
            image.paste("red", (6, 0, 42, 12))
            image.putpixel((0, 0), (0, 0, 250 + i))
            image.save(tmp_path / f"{i}.png")
        data = build(tmp_path, size=[8, 16], fit=fit)
        assert data.train.shape == (3, 8, 16) and data.spec((0.0, 1.0)).shape == (3, 8, 16)
        pixels = data.train.batch(torch.tensor([0]))[0][0]
        red, blue = (pixels[channel].float() / 255 for channel in (0, 2))
        if fit == "crop":  # the middle 24 of 48
            assert red.min() > 0.99 and blue.max() < 0.01
        elif fit == "pad":
            assert pixels[:, [0, 1, 6, 7]].max() == 0 and red[2:6, 3:13].min() > 0.9 and blue[2:6, [0, 15]].min() > 0.9
        else:
            assert red[:, 3:13].min() > 0.9 and blue[:, [0, 15]].min() > 0.9

    def test_data_in_memory_and_square_data(self, tmp_path: Path) -> None:
        assert build(tmp_path, "digits", size=[6, 12]).train.shape == (1, 6, 12)
        assert DataConfig(name="digits", size=(6, 6)).size == 6
        with pytest.raises(UserError, match=r"data.size is \[6, 12\]: data set 'shapes' takes one number"):
            build(tmp_path, "shapes", size=[6, 12])
        for wrong in ([6], [6, 0], [6, 7, 8]):
            with pytest.raises(ValueError, match=r"one number of pixels, or \[height, width\]"):
                DataConfig.model_validate({"name": "digits", "size": wrong})

    @pytest.mark.parametrize("net", NETS_SHIPPED)
    @pytest.mark.parametrize("size", [(16, 48), (7, 9)])
    def test_every_net_takes_it_or_says_why_not(self, tmp_path: Path, net: str, size: tuple[int, int]) -> None:
        model = {"name": "mlp", "net": net, "latent_dim": 3}
        data = {"name": "digits", "size": list(size), "limit": 60}
        config = check(Config, run_settings(tmp_path / "run", model=model, data=data, steps=1), "test")
        takes = {"mlp": True, "vanilla": True, "resnet": True, "celeba": False}.get(net, size == (16, 48))
        if takes:
            assert run(config) == 0
            assert load_config(tmp_path / "run" / "config.yaml").data.size == size
        else:
            with pytest.raises(UserError, match=r"not \d+ x \d+: set data.size=(\[?\d+(, \d+\])?), or choose net"):
                run(config)

    def test_a_runs_folder_says_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        values = run_settings(tmp_path, data={"name": "digits", "size": [6, 12], "limit": 60}, steps=1)
        assert run(check(Config, values | {"out": None}, "test")) == 0
        assert (tmp_path / "runs" / "mlp_digits_z3_s6x12_0" / "results.json").is_file()


class TestLabels:
    def test_classes(self, tmp_path: Path) -> None:
        pictures(tmp_path, [f"{'deep/' * (i % 2)}{i}.png" for i in range(12)])
        rows = [f"{'deep/' * (i % 2)}{i}.png,{i % 3 + 9}" for i in range(12)]
        (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
        data = build(tmp_path, labels="labels.csv")
        assert data.class_names == ("9", "10", "11")
        for images in data.splits.values():
            assert images.labels.tolist() == [int(Path(name).stem) % 3 for name in images.names]  # type: ignore[union-attr]

    def test_attributes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pictures(tmp_path, [f"{i}.png" for i in range(12)])
        rows = [f"{i % 2},{i}.png,{2 * (i > 5) - 1}" for i in range(12)]
        (tmp_path / "labels.csv").write_text("\n".join(["odd, file, large", *rows]))
        data = build(tmp_path, labels="labels.csv")
        assert data.attribute_names == ("odd", "large") and "passed over" not in capsys.readouterr().err
        expected = [[number % 2, number > 5] for number in map(int, (Path(name).stem for name in data.train.names))]
        assert data.train.labels.tolist() == expected  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("name,label\n0.png,a", "must begin with a line of columns' names: file and label, or file"),
            (
                "root:x:0,0:secret\nfile,label",
                "^(?!.*secret).*labels.csv must begin with a line of columns' names: file",
            ),
            ("file,label\n0.png,a", r"has no row about 1.png \(4 of 5 images are missing\)"),
            ("file,label\n0.png", "row 2 has 1 values, and the first row 2"),
            ("file,odd\n" + "\n".join(f"{i}.png,{i}" for i in range(5)), "says '2' of 2.png's odd: attributes are 0"),
            ("", "it is no text with a first line"),
            (None, "can't be read: No such file"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str | None, said: str) -> None:
        pictures(tmp_path, [f"{i}.png" for i in range(5)])
        if text is not None:
            (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(UserError, match=said):
            build(tmp_path, labels="labels.csv")

    def test_kaggles_celeba(self, tmp_path: Path) -> None:
        names = [f"{i:06}.jpg" for i in range(1, 15)]
        pictures(tmp_path / "img_align_celeba" / "img_align_celeba", names)
        rows = [f"{name},{2 * (i % 2) - 1},1" for i, name in enumerate(names)]
        (tmp_path / "list_attr_celeba.csv").write_text("\n".join(["image_id,Odd,All", *rows]))
        parts = [f"{name},{i // 6}" for i, name in enumerate(names)]
        (tmp_path / "list_eval_partition.csv").write_text("\n".join(["image_id,partition", *parts]))
        data = build(tmp_path, "celeba")
        assert [len(images) for images in data.splits.values()] == [6, 6, 2]
        assert data.attribute_names == ("Odd", "All")
        assert data.train.labels.tolist() == [[i % 2, 1] for i in range(6)]  # type: ignore[union-attr]


class TestSmallAndOdd:
    @pytest.mark.parametrize(("net", "classes"), [*((net, False) for net in NETS_SHIPPED), ("mlp", True)])
    def test_twelve_pictures_train_to_their_end(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], net: str, classes: bool
    ) -> None:
        pictures(tmp_path / "images", [f"{'ab'[i % 2]}/{i}.png" if classes else f"{i}.png" for i in range(12)])
        model = {"name": "conditional" if classes else "mlp", "net": net, "latent_dim": 3}
        data = {"name": "image_folder", "root": str(tmp_path / "images"), "size": 16, "test_fraction": 0.01}
        values = run_settings(tmp_path / "run", model=model, data=data, steps=2, batch_size=4)
        assert run(check(Config, values, "test")) == 0
        lines = capsys.readouterr().out.splitlines()
        labels = [line.split() for line in lines if line.startswith("labels ")]
        assert ([line[1::2] for line in labels] == [["a", "b"]]) is classes
        assert {"interpolations.png", "latent_space.png", "generated_samples.png"} <= set(os.listdir(tmp_path / "run"))

    def test_one_image_of_one_class(self, tmp_path: Path) -> None:
        """A class that only the test split has, and labels for which no image is trained on."""
        names = [f"train/a/{i}.png" for i in range(9)]
        pictures(tmp_path / "images", [*names, "val/a/1.png", "test/b/1.png"])
        model = {"name": "mlp", "net": "mlp", "latent_dim": 3}
        data = {"name": "image_folder", "root": str(tmp_path / "images"), "size": 8, "balance": True}
        assert run(check(Config, run_settings(tmp_path / "run", model=model, data=data, steps=2), "test")) == 0


class TestBalance:
    def images(self) -> Images:
        """50 images of class 0, 9 of class 2, one of class 3; each shows its number."""
        labels = torch.tensor([0] * 50 + [2] * 9 + [3])
        return Images(torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1), labels, balance=True)

    def test_draws_classes_evenly_and_every_image(self) -> None:
        stream = list(batches(self.images(), 20, 5, 0, 150))
        labels = torch.cat([y for _, y in stream if y is not None])
        assert torch.bincount(labels).tolist() == [1000, 0, 1000, 1000]
        drawn = torch.bincount(torch.cat([x.flatten() for x, _ in stream]).long())
        assert (drawn[:50] == 20).all() and set(drawn[50:59].tolist()) == {111, 112}

    def test_is_a_function_of_seed_step_and_rank(self) -> None:
        def part(*arguments: int) -> list[torch.Tensor]:
            return [x for x, _ in batches(self.images(), 12, *arguments)]

        whole = part(5, 0, 40)
        assert all(torch.equal(a, b) for a, b in zip(part(5, 23, 40), whole[23:], strict=True))
        ranks = [part(5, 0, 40, rank, 2) for rank in range(2)]
        assert all(torch.equal(torch.cat(pair), x) for *pair, x in zip(*ranks, whole, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(part(6, 0, 40), whole, strict=True))

    def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(self, tmp_path: Path) -> None:
        def config(out: str, steps: int) -> Config:
            data = {"name": "shapes", "count": 200, "size": 8, "balance": True}
            return check(Config, run_settings(tmp_path / out, data=data, steps=steps), "test")

        run(config("whole", 20))
        run(config("parts", 10))
        run(config("parts", 20), resume=True)
        assert digest(tmp_path / "whole") == digest(tmp_path / "parts")

    def test_needs_classes(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="data.balance draws classes evenly, and image_folder has none"):
            build(pictures(tmp_path, [f"{i}.png" for i in range(9)]), balance=True)


@pytest.mark.usefixtures("any_names")
class TestNamesThatAreNoText:
    """Linux lets a file's name hold any bytes."""

    def test_pictures_may_have_them(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = pictures(tmp_path / "x", ["\udcff.png", *(f"{i}.png" for i in range(9))])
        (root / "bad\udcff.png").write_text("no picture")
        for _ in range(2):  # decoded, and out of the cache
            data = build(root)
            assert held(data.train) | held(data.val) | held(data.test) == set(range(10))
            assert "x/bad\\udcff.png (cannot identify" in capsys.readouterr().err

    def test_classes_may_not(self, tmp_path: Path) -> None:
        root = pictures(tmp_path / "x", [f"{'a' if i % 2 else chr(0xDCFF)}/{i}.png" for i in range(10)])
        with pytest.raises(
            UserError, match=r"has the class \\udcff: its name must hold no zero byte, and nothing that"
        ):
            build(root)

    @pytest.mark.parametrize(("header", "row", "kind"), [("label", "q\0", "class"), ("a\0", "1", "attribute")])
    def test_nor_labels(self, tmp_path: Path, header: str, row: str, kind: str) -> None:
        pictures(tmp_path, [f"{i}.png" for i in range(9)])
        (tmp_path / "labels.csv").write_text("\n".join([f"file,{header}", *(f"{i}.png,{row}" for i in range(9))]))
        with pytest.raises(UserError, match=rf"has the {kind} .*\\x00: its name must|is no text with a first line"):
            build(tmp_path, labels="labels.csv")  # an older Python's csv refuses zero bytes

    def test_nor_the_data_unless_it_has_a_title(self, tmp_path: Path) -> None:
        root = pictures(tmp_path / "roo\udcff", [f"{i}.png" for i in range(9)])
        with pytest.raises(UserError, match=r"the data is called roo\\udcff, as its folder is: set data.title"):
            build_from(root)
        assert build_from(root, title="mine").title == "mine"
