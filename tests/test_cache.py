"""Decoding image files, and the cache of what was decoded."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from zoo.data import cache, decode, workers
from zoo.data.cache import cache_folder, decoded
from zoo.data.decode import Form
from zoo.errors import UserError

REPOSITORY = Path(__file__).parents[1]
FORM = Form(4, 4)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for images, and a cache of the test's own in "cache" beside it."""
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The blocks of files that were decoded."""
    seen: list[list[str]] = []
    original = decode.decode_many

    def counting(files: list[str], *args: Any) -> Any:
        seen.append(files)
        return original(files, *args)

    monkeypatch.setattr(decode, "decode_many", counting)
    return seen


def fill(folder: Path, n: int = 6) -> list[str]:
    """Write n images; image i is of the grey value 10 i."""
    names = [f"{i}.png" for i in range(n)]
    for i, name in enumerate(names):
        Image.new("RGB", (10, 10), (10 * i,) * 3).save(folder / name)
    return names


def values(pixels: torch.Tensor) -> list[int]:
    assert (pixels == pixels[:, :1, :1, :1]).all()
    return pixels[:, 0, 0, 0].tolist()


def to_array(data: bytes, channels: int, size: int) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, dtype=np.uint8).reshape(channels, size, size)


class TestCache:
    def test_second_reading_decodes_nothing(self, folder: Path, calls: list[list[str]]) -> None:
        names = fill(folder)
        first = cache.decoded(folder, names, FORM).pixels
        assert len(calls) == 1
        second, bad, _ = cache.decoded(folder, names, FORM)
        assert len(calls) == 1
        assert first.shape == (6, 3, 4, 4) and first.dtype == torch.uint8
        assert values(first) == values(second) == [0, 10, 20, 30, 40, 50]
        assert bad == {}

    @pytest.mark.parametrize("change", ["height", "width", "channels", "crop", "fit", "names", "content", "time"])
    def test_what_decides_the_pixels_makes_another_entry(
        self, folder: Path, calls: list[list[str]], change: str
    ) -> None:
        names = fill(folder)
        cache.decoded(folder, names, FORM)
        form = FORM
        if change in FORM._fields:
            form = FORM._replace(**{change: {"height": 5, "width": 5, "channels": 1, "crop": 8, "fit": "pad"}[change]})
        elif change == "names":
            names = names[::-1]
        elif change == "content":
            stat = (folder / names[0]).stat()
            Image.effect_noise((10, 10), 50).save(folder / names[0])
            os.utime(folder / names[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
        else:
            os.utime(folder / names[0], ns=(1, 1))
        cache.decoded(folder, names, form)
        assert len(calls) == 2

    def test_a_copied_folder_shares_the_entry(self, folder: Path, calls: list[list[str]]) -> None:
        names = fill(folder)
        cache.decoded(folder, names, FORM)
        folder.rename(folder.parent / "moved")
        cache.decoded(folder.parent / "moved", names, FORM)
        assert len(calls) == 1

    def test_bad_files_are_remembered(self, folder: Path, calls: list[list[str]]) -> None:
        names = fill(folder)
        (folder / "2.png").write_text("hello")
        for _ in range(2):
            pixels, bad, _ = cache.decoded(folder, names, FORM)
            assert values(pixels) == [0, 10, 30, 40, 50]
            assert list(bad) == ["2.png"] and bad["2.png"] == "cannot identify image file it"
        assert len(calls) == 1

    @pytest.mark.parametrize("damage", ["shorter", "longer", "gone", "no header", "half a header", "strange header"])
    def test_damaged_entry_is_rebuilt(self, folder: Path, calls: list[list[str]], damage: str) -> None:
        names = fill(folder)
        cache.decoded(folder, names, FORM)
        (pixels,) = cache.cache_folder().glob("*.u8")
        header = pixels.with_suffix(".json")
        if damage == "shorter":
            pixels.write_bytes(pixels.read_bytes()[:-1])
        elif damage == "longer":
            pixels.write_bytes(pixels.read_bytes() + b"x")
        elif damage == "gone":
            pixels.unlink()
        elif damage == "no header":
            header.unlink()
        elif damage == "half a header":
            header.write_text(header.read_text()[:-5])
        else:
            header.write_text("[]")
        again = cache.decoded(folder, names, FORM).pixels
        assert len(calls) == 2
        assert values(again) == [0, 10, 20, 30, 40, 50]

    def test_whatever_a_header_says_the_pixels_are_right_or_decoded_anew(
        self, folder: Path, cli: Callable[..., tuple[int, str, str]]
    ) -> None:
        names = fill(folder)
        (folder / "2.png").write_text("hello")
        whole = cache.decoded(folder, names, FORM)
        (file,) = cache.cache_folder().glob("*.json")
        text = file.read_text()
        header = json.loads(text)
        strange = (
            *(None, 5, [], {}, "x", [1e308], [-1, 3, 4, 4], [2**40, 3, 4, 4], [0, 3, 4, 4], [6, 3, 4, 4], [[]]),
            *({"x": 5}, {"x": "gone"}, {"0.png": "bad"}, dict.fromkeys(names, "bad"), ["0.png"], float("nan"), True),
        )
        changed = [json.dumps(header | {key: value}) for key in header for value in strange]
        changed += [json.dumps({key: header[key] for key in header if key != left}) for left in header]
        changed += ["", "5", "null", "[" * 100_000, '{"shape":' * 50_000, "\udcff", "9" * 5000]
        for content in changed:
            file.write_bytes(content.encode(errors="surrogateescape"))
            assert cli("cache")[0] == 0
            again = cache.decoded(folder, names, FORM)
            assert torch.equal(again.pixels, whole.pixels) and again.bad == whole.bad, content[:100]
            assert torch.equal(again.digests, whole.digests) and file.read_text() == text, content[:100]

    def test_nothing_is_left_of_a_build_that_was_killed(self, folder: Path) -> None:
        names = fill(folder)
        (folder / "5.png").write_text("hello")
        cache.decoded(folder, names, FORM)
        (pixels,) = cache.cache_folder().glob("*.u8")
        pixels.unlink()
        pixels.with_suffix(".partial").write_bytes(b"x" * 1000)
        again = cache.decoded(folder, names, FORM).pixels
        assert values(again) == [0, 10, 20, 30, 40]

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
    def test_pixels_are_mapped_not_read(self, folder: Path) -> None:
        pixels = cache.decoded(folder, fill(folder), FORM).pixels
        (file,) = cache.cache_folder().glob("*.u8")
        address = pixels.data_ptr()
        for line in Path("/proc/self/maps").read_text().splitlines():
            start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
            if start <= address < end:
                assert line.endswith(str(file))
                return
        raise AssertionError("the pixels are nowhere")

    def test_writing_to_the_pixels_does_not_reach_the_file(self, folder: Path) -> None:
        names = fill(folder)
        pixels = cache.decoded(folder, names, FORM).pixels
        pixels.fill_(255)
        assert values(cache.decoded(folder, names, FORM).pixels) == [0, 10, 20, 30, 40, 50]

    def test_interrupted_build_leaves_no_entry_and_no_litter(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = fill(folder)
        original = decode.decode_many

        def interrupted(files: list[str], *args: Any) -> Any:
            if files[0].endswith("4.png"):
                raise KeyboardInterrupt
            return original(files, *args)

        monkeypatch.setattr(workers, "BLOCK", 2)
        monkeypatch.setattr(decode, "decode_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.decoded(folder, names, FORM)
        assert {file.suffix for file in cache.cache_folder().iterdir()} <= {".lock"}
        monkeypatch.setattr(decode, "decode_many", original)
        assert len(cache.decoded(folder, names, FORM).pixels) == 6

    def test_place_that_cannot_be_written_is_one_sentence(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder.parent / "file").touch()
        monkeypatch.setenv("VAE_ZOO_CACHE", str(folder.parent / "file" / "cache"))
        with pytest.raises(UserError, match=r"can't be written to .*file/cache \(.*\): make room .* VAE_ZOO_CACHE"):
            cache.decoded(folder, fill(folder), FORM)

    @pytest.mark.parametrize("processes", [1, 2])
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
    def test_full_disk_is_one_sentence(self, folder: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
        monkeypatch.setattr(workers, "cores", lambda: processes)
        monkeypatch.setattr(workers, "BLOCK", 2)
        monkeypatch.setattr(Path, "write_bytes", lambda self, _: self.symlink_to("/dev/full"))
        with pytest.raises(UserError, match=r"No space left on device\): make room for 0 MB"):
            cache.decoded(folder, fill(folder, 25), FORM)

    def test_place(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert cache.cache_folder() == tmp_path / "cache"
        monkeypatch.delenv("VAE_ZOO_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache.cache_folder() == tmp_path / "xdg" / "vae-zoo"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache.cache_folder() == tmp_path / "home" / ".cache" / "vae-zoo"

    def test_file_that_vanished_is_named(self, folder: Path) -> None:
        names = fill(folder)
        (folder / "3.png").unlink()
        with pytest.raises(UserError, match=r"3\.png can't be read: No such file"):
            cache.decoded(folder, names, FORM)


class TestWorkers:
    @pytest.fixture(autouse=True)
    def two_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workers, "cores", lambda: 2)
        monkeypatch.setattr(workers, "BLOCK", 2)

    def test_processes_give_what_one_gives(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = fill(folder, 25)
        bad_ones = [7, 10, 11, 24]  # of the blocks of two: one half, one whole, the last
        for i in bad_ones:
            (folder / f"{i}.png").write_text("hello")
        names[3] = "a name – with 'signs\".png"
        (folder / "3.png").rename(folder / names[3])
        expected = decode.decode_many([str(folder / name) for name in names], FORM)

        def here(*args: Any) -> None:
            raise AssertionError("decoded in this process")

        monkeypatch.setattr(decode, "decode_many", here)
        pixels, bad, _ = cache.decoded(folder, names, FORM)
        assert pixels.numpy().tobytes() == expected[0]
        assert values(pixels) == [10 * i for i in range(25) if i not in bad_ones]
        assert bad == {f"{i}.png": expected[1][str(folder / f"{i}.png")] for i in bad_ones}

    def test_errors_arrive(self, folder: Path) -> None:
        names = fill(folder, 25)
        with pytest.raises(UserError, match=r"\.png is 10 x 10 pixels, too small for crop 11"):
            cache.decoded(folder, names, FORM._replace(crop=11))

    @pytest.mark.parametrize(
        "last_words",
        ["", '{"bad"'],
        ids=["none", "half an answer"],
    )
    def test_killed_process_is_noticed(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, last_words: str
    ) -> None:
        (tmp_path / "dies.py").write_text(f"input(); print({last_words!r}, end='')")
        monkeypatch.setattr(decode, "__file__", str(tmp_path / "dies.py"))
        with pytest.raises(UserError, match="a process that decoded images was killed"):
            cache.decoded(folder, fill(folder, 25), FORM)

    def test_an_interrupted_build_ends_its_workers(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Bar(workers.tqdm):  # type: ignore[type-arg]
            def update(self, n: float | None = 1) -> None:
                raise KeyboardInterrupt

        monkeypatch.setattr(workers, "tqdm", Bar)
        threads = threading.active_count()
        with pytest.raises(KeyboardInterrupt) as interrupted:
            cache.decoded(folder, fill(folder, 25), FORM)
        assert interrupted.tb is not None  # which keeps alive what the build's frames hold
        assert threading.active_count() == threads
        assert {file.suffix for file in cache.cache_folder().iterdir()} <= {".lock"}

    def test_worker_needs_no_torch(self) -> None:
        modules = "sorted({'torch', 'zoo'} & {*sys.modules})"
        script = f"import runpy, sys; runpy.run_path({decode.__file__!r}); print({modules})"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def test_two_processes_at_once_build_one_entry(folder: Path, tmp_path: Path) -> None:
    names = fill(folder)
    script = f"""
import pathlib, time
from zoo.data import cache, decode
original = cache._build
def build(*args):
    with open({str(tmp_path / "builds")!r}, "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    original(*args)
cache._build = build
pathlib.Path({str(tmp_path)!r}, f"ready{{__import__('os').getpid()}}").touch()
while len(list(pathlib.Path({str(tmp_path)!r}).glob("ready*"))) < 2:
    time.sleep(0.01)
pixels, bad, _ = cache.decoded(pathlib.Path({str(folder)!r}), {names!r}, decode.Form(4, 4))
print(pixels[:, 0, 0, 0].tolist(), bad)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert outputs == ["[0, 10, 20, 30, 40, 50] {}"] * 2
    assert (tmp_path / "builds").read_text() == "built\n"


class TestDecode:
    def test_square_from_the_middle(self, folder: Path) -> None:
        image = Image.new("RGB", (30, 10), "red")
        image.paste("blue", (10, 0, 20, 10))
        image.save(folder / "wide.png")
        expected = np.zeros((3, 5, 5), dtype=np.uint8)
        expected[2] = 255
        assert np.array_equal(
            to_array(decode.decode((folder / "wide.png").read_bytes(), Form(5, 5, 3)), 3, 5), expected
        )
        assert np.array_equal(
            to_array(decode.decode((folder / "wide.png").read_bytes(), Form(5, 5, 3, 4)), 3, 5), expected
        )

    def test_shrinking_is_antialiased(self, folder: Path) -> None:
        stripes = np.zeros((64, 64), dtype=np.uint8)
        stripes[:, ::2] = 255
        Image.fromarray(stripes).save(folder / "stripes.png")
        small = to_array(decode.decode((folder / "stripes.png").read_bytes(), Form(16, 16, 1)), 1, 16)
        assert np.abs(small[..., 1:-1] - 127.5).max() < 8

    @pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "CMYK", "L", "LA", "1", "I;16"])
    def test_every_mode_becomes_rgb_or_grey(self, folder: Path, mode: str) -> None:
        colour = (200, 100, 50) if mode in ("RGB", "P", "RGBA", "CMYK") else (200, 200, 200)
        image = Image.new("RGB", (8, 8), colour)
        if mode == "I;16":
            image = Image.fromarray(np.full((8, 8), 200 * 257, dtype=np.uint16))
        elif mode == "1":
            colour = (255, 255, 255)
            image = Image.new("1", (8, 8), 1)
        elif mode == "P":
            image = image.quantize(4)
        else:
            image = image.convert(mode)
        file = folder / ("x.jpg" if mode == "CMYK" else "x.png")
        image.save(file, quality=100)
        with Image.open(file) as saved:
            assert saved.mode == mode
        rgb = to_array(decode.decode(file.read_bytes(), FORM), 3, 4)
        assert np.abs(rgb.astype(int) - np.array(colour).reshape(3, 1, 1)).max() <= 3
        grey = to_array(decode.decode(file.read_bytes(), Form(4, 4, 1)), 1, 4)
        assert np.abs(grey - np.dot(colour, [0.299, 0.587, 0.114])).max() <= 3

    @pytest.mark.parametrize("order", ["<u2", ">u2"])
    def test_16_bits_are_scaled_not_clipped(self, folder: Path, order: str) -> None:
        ramp = (np.arange(64).reshape(8, 8) * 1000).astype(order)
        mode = "I;16" if order == "<u2" else "I;16B"
        Image.frombytes(mode, (8, 8), ramp.tobytes()).save(folder / "x.tif")
        grey = to_array(decode.decode((folder / "x.tif").read_bytes(), Form(8, 8, 1)), 1, 8)
        assert np.array_equal(grey[0], ramp // 256)

    @pytest.mark.parametrize("kind", ["int32", "float32"])
    def test_pixels_of_no_known_range_are_bad(self, folder: Path, kind: str) -> None:
        Image.fromarray(np.full((8, 8), 70000, dtype=kind)).save(folder / "x.tif")
        with pytest.raises(decode.BadImage, match="save it with 16"):
            decode.decode((folder / "x.tif").read_bytes(), FORM)

    def test_the_first_frame_is_taken(self, folder: Path) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        frames[0].save(folder / "x.gif", save_all=True, append_images=frames[1:])
        assert to_array(decode.decode((folder / "x.gif").read_bytes(), FORM), 3, 4)[:, 0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize("kind", ["PPM", "ICO", "PCX"])
    def test_no_format_is_opened_that_was_not_looked_for(self, folder: Path, kind: str) -> None:
        Image.new("RGB", (16, 16), "red").save(folder / "x.png", kind)
        with pytest.raises(decode.BadImage, match="cannot identify image file it"):
            decode.decode((folder / "x.png").read_bytes(), FORM)

    @pytest.mark.parametrize("form", [Form(40, 40), Form(30, 60), Form(40, 40, fit="pad"), Form(32, 32, crop=513)])
    @pytest.mark.parametrize("turned", [1, 6])
    def test_a_large_jpeg_is_read_at_a_fraction_of_its_size(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, form: Form, turned: int
    ) -> None:
        noise = np.random.RandomState(0).randint(0, 256, (40, 50, 3)).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = turned
        picture = Image.fromarray(noise).resize((1003, 801), Image.Resampling.BICUBIC)
        picture.save(folder / "x.jpg", quality=95, exif=exif)
        content = (folder / "x.jpg").read_bytes()
        scales: list[float] = []
        draft = decode._draft
        monkeypatch.setattr(decode, "_draft", lambda *args: scales.append(draft(*args)) or scales[-1])
        quick = np.frombuffer(decode.decode(content, form), np.uint8).astype(int)
        monkeypatch.setattr(decode, "_draft", lambda *args: 1)
        slow = np.frombuffer(decode.decode(content, form), np.uint8)
        assert scales[0] in (4, 8)
        assert np.abs(quick - slow).mean() < 3 and np.abs(quick - slow).max() < 40

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_what_is_transparent_turns_white(self, folder: Path, mode: str) -> None:
        image = Image.new("LA" if mode == "LA" else "RGBA", (8, 8))
        if mode == "P":
            image = Image.new("P", (8, 8), 0)
            image.info["transparency"] = 0
        image.save(folder / "x.png")
        assert to_array(decode.decode((folder / "x.png").read_bytes(), FORM), 3, 4).min() == 255

    @pytest.mark.parametrize("turned", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize("form", [Form(6, 8), Form(9, 6, fit="pad"), Form(8, 8, fit="squash")])
    def test_every_orientation_is_heeded(self, folder: Path, turned: int, kind: str, form: Form) -> None:
        image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (30, 40, 3)).astype(np.uint8))
        exif = Image.Exif()
        exif[0x0112] = turned
        image.save(folder / "x", kind, exif=exif)
        with Image.open(folder / "x") as saved:
            ImageOps.exif_transpose(saved).save(folder / "upright", "PNG")
        found, expected = (decode.decode((folder / name).read_bytes(), form) for name in ("x", "upright"))
        assert np.abs(np.frombuffer(found, np.uint8).astype(int) - np.frombuffer(expected, np.uint8)).max() <= 1

    def test_orientation_is_heeded(self, folder: Path) -> None:
        image = Image.new("RGB", (40, 40), "black")
        image.paste("white", (0, 0, 40, 20))  # the upper half
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned a quarter clockwise: what is above belongs to the right
        image.save(folder / "x.jpg", exif=exif, quality=100)
        array = to_array(decode.decode((folder / "x.jpg").read_bytes(), Form(4, 4, 1)), 1, 4)[0]
        assert array[:, 3].min() > 250 and array[:, 0].max() < 5

    @pytest.mark.parametrize("content", ["text", "nothing", "truncated jpg", "truncated png", "noise after header"])
    def test_bad_image(self, folder: Path, content: str) -> None:
        file = folder / "x.jpg"
        noise = Image.effect_noise((64, 64), 50)
        noise.save(file, format="PNG" if "png" in content else "JPEG")
        whole = file.read_bytes()
        file.write_bytes(
            {
                "text": b"hello",
                "nothing": b"",
                "truncated jpg": whole[: len(whole) // 2],
                "truncated png": whole[: len(whole) // 2],
                "noise after header": whole[:20] + bytes(range(256)) * 4,
            }[content]
        )
        with pytest.raises(decode.BadImage, match=r"\w{4}"):
            decode.decode(file.read_bytes(), Form(8, 8, 3))

    def test_unreadable_file_is_not_taken_for_a_bad_image(self, folder: Path) -> None:
        """What a disk or a permission refuses today must not be remembered as bad."""
        with pytest.raises(FileNotFoundError):
            decode.decode_many([str(folder / "absent.png")], FORM)
        (folder / "folder.png").mkdir()
        with pytest.raises(IsADirectoryError):
            decode.decode_many([str(folder / "folder.png")], FORM)

    def test_work_answers_line_by_line(self, folder: Path) -> None:
        names = [str(folder / name) for name in fill(folder, 2)]
        out, nowhere = folder / "out", folder / "none" / "out"
        out.touch()
        jobs = [
            [str(out), 8, names, Form(4, 4, 1)],
            [str(out), 0, names, Form(4, 4, 1, 99)],
            [str(nowhere), 0, names, Form(4, 4, 1)],
            [str(out), 0, names[1:], Form(2, 2, 1)],
        ]
        done = subprocess.run(
            [sys.executable, decode.__file__],
            input="".join(json.dumps(job) + "\n" for job in jobs).encode(),
            capture_output=True,
            check=True,
        )
        first, second, third, fourth = map(json.loads, done.stdout.splitlines())
        digests = [decode.digest(io.BytesIO(Path(name).read_bytes())) for name in names]
        assert first == {"bad": {}, "digests": digests, "error": None, "unwritten": None}
        assert fourth == first | {"digests": digests[1:]}
        assert "too small for crop 99" in second["error"]
        assert third["unwritten"] == [errno.ENOENT, "No such file or directory"]
        assert out.read_bytes() == bytes([10] * 4 + [0] * 4 + [0] * 16 + [10] * 16)


class TestContents:
    @pytest.fixture
    def pictures(self, tmp_path: Path) -> Path:
        for i in range(12):
            Image.new("L", (4, 4), 10 * i).save(tmp_path / f"{i:02}.bmp")
        return tmp_path

    def read(self, folder: Path, verify: bool = False) -> list[int]:
        names = sorted(path.name for path in folder.glob("*.bmp"))
        return decoded(folder, names, Form(4, 4, 1), verify).pixels[:, 0, 0, 0].tolist()

    def change(self, file: Path, value: int) -> None:
        """Put another picture there, of the same size and time."""
        before = file.stat()
        Image.new("L", (4, 4), value).save(file)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size

    def test_another_picture_of_the_same_size_and_time_is_found(
        self, pictures: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.read(pictures)[7] == 70
        self.change(pictures / "07.bmp", 7)
        assert self.read(pictures)[7] == 7
        assert f"{pictures / '07.bmp'} holds another picture than was decoded" in capsys.readouterr().err
        assert self.read(pictures)[7] == 7 and capsys.readouterr().err == ""

    def test_of_many_files_a_part_is_looked_at_unless_all_are_to_be(
        self, pictures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("zoo.data.cache.MOST_FILES", 4)  # the first, fourth, seventh and tenth
        self.read(pictures)
        self.change(pictures / "01.bmp", 1)
        assert self.read(pictures)[1] == 10
        assert self.read(pictures, verify=True)[1] == 1
        self.change(pictures / "03.bmp", 3)
        assert self.read(pictures)[3] == 3

    def test_a_flipped_byte_is_found_and_mended(self, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
        right = self.read(pictures)
        (file,) = cache_folder().glob("*.u8")
        content = bytearray(file.read_bytes())
        content[5 * 16] ^= 255
        file.write_bytes(content)
        assert self.read(pictures) == right
        assert f"the decoded images in {file} are damaged, and decoded anew" in capsys.readouterr().err

    def test_a_truncated_map_is_decoded_anew(self, pictures: Path) -> None:
        right = self.read(pictures)
        (file,) = cache_folder().glob("*.u8")
        file.write_bytes(file.read_bytes()[:50])
        assert self.read(pictures) == right


class TestCommand:
    def test_lists_removes_and_keeps_to_a_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., tuple[int, str, str]]
    ) -> None:
        folder = tmp_path / "cache"
        monkeypatch.setenv("VAE_ZOO_CACHE", str(folder))
        assert cli("cache")[1] == f"0 entries, 0.0 MB in {folder}\n"
        (folder / "references").mkdir(parents=True)
        for age, name in enumerate(("new", "old", "references/older")):
            for ending in (".json", ".u8"):
                file = folder / f"{name}{ending}"
                file.write_bytes(bytes(500_000))
                os.utime(file, (10**9 - age, 10**9 - age))
        lines = cli("cache")[1].splitlines()
        assert [line.split()[-1] for line in lines[:3]] == ["new", "old", "references/older"]
        assert "1.0 MB  used 2001-09-0" in lines[0] and lines[3].startswith("3 entries, 3.0 MB")
        assert "removed references/older" in cli("cache", "--keep", "2.5M")[1]
        assert sorted(path.name for path in folder.rglob("*.u8")) == ["new.u8", "old.u8"]
        assert "removed new, 1.0 MB" in cli("cache", "--remove", "new")[1] and not (folder / "new.json").exists()
        assert (
            cli("cache", "--remove", "gone")[2] == "error: the cache has no entry 'gone': `run.py cache` lists them\n"
        )
        assert cli("cache", "--keep", "much")[2] == "error: 'much' is no size: write 500M, or 2G\n"
