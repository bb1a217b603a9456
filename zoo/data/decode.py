"""Image files to bytes.

Run as a script it is a worker of `zoo.data.cache`: it imports neither torch nor the zoo, so as to start at once.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class BadImage(Exception):
    """The file isn't an image, or not a whole one."""


def decode(file: Path | str, size: int, channels: int, crop: int | None) -> bytes:
    """Read an image, cut out a square from its middle, and resize it.

    Args:
        file: Any format, colour mode and EXIF orientation that Pillow reads; what is transparent turns white.
        size: Pixels a side of the result, antialiased bilinear.
        channels: 3 for RGB, 1 for grey.
        crop: Pixels a side of the square; None: the largest.

    Returns:
        The `[channels, size, size]` values of 8 bits.

    Raises:
        BadImage: if the file isn't a whole image.
        OSError: if the file can't be read.
        ValueError: if the image is smaller than `crop`.
    """
    try:
        image = _load(file, channels)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's or the permissions' fault
        raise BadImage(" ".join(str(error).replace(repr(str(file)), "it").split()) or type(error).__name__) from None
    width, height = image.size
    side = crop or min(width, height)
    if side > min(width, height):
        raise ValueError(f"{file} is {width} x {height} pixels, too small for crop {crop}")
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    return b"".join(image.tobytes("raw", band) for band in image.getbands())


def _load(file: Path | str, channels: int) -> Image.Image:
    with Image.open(file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16 bits, which `convert` would clip instead of scale
            image = image.convert("I").point(lambda value: value / 256).convert("L")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        mode = "RGB" if channels == 3 else "L"
        return image if image.mode == mode else image.convert(mode)


def decode_many(files: list[str], size: int, channels: int, crop: int | None) -> tuple[bytes, dict[str, str]]:
    """Decode what can be decoded.

    Returns:
        The good images' bytes, one after another, and why each of the others is bad.

    Raises:
        OSError: if a file can't be read.
        ValueError: if an image is smaller than `crop`.
    """
    good: list[bytes] = []
    bad: dict[str, str] = {}
    for file in files:
        try:
            good.append(decode(file, size, channels, crop))
        except BadImage as error:
            bad[file] = str(error)
    return b"".join(good), bad


def write(pixels: bytes, out: str, position: int) -> None:
    """Put pixels into a file that exists, so many bytes from its beginning.

    Through `write`, not a memory map: a full disk is then an error, and not a signal that kills.
    """
    with open(out, "r+b") as file:
        file.seek(position)
        file.write(pixels)


def work() -> None:
    """Decode and write what each line of JSON asks for: a file, a position in it, and the arguments of `decode_many`.

    The answer, a line of JSON, holds the bad files, what `decode_many` raised, and the `OSError` that writing raised.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then closes stdin
    for line in sys.stdin.buffer:
        out, position, *task = json.loads(line)
        answer: dict[str, Any] = {"bad": {}, "error": None, "unwritten": None}
        try:
            pixels, answer["bad"] = decode_many(*task)
        except (OSError, ValueError) as error:
            answer["error"] = str(error)
        else:
            try:
                write(pixels, out, position)
            except OSError as error:
                answer["unwritten"] = [error.errno, error.strerror]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    work()
