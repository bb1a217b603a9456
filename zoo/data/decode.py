"""Image files to bytes.

Run as a script it is a worker of `zoo.data.workers`: it imports neither torch nor the zoo, so as to start at once.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import signal
import stat
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, features

AVIF = "avif" in features.modules and features.check_module("avif")  # Pillow may come without it
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *([".avif"] if AVIF else []),
)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", *(["AVIF"] if AVIF else []))  # and no other of Pillow's
MOST_BYTES = 2**29  # of a picture's file: more than the pixels of the largest that Pillow opens

_Turn = Image.Transpose
SIDEWAYS = (_Turn.TRANSPOSE, _Turn.ROTATE_270, _Turn.TRANSVERSE, _Turn.ROTATE_90)
TURNS = dict(enumerate((_Turn.FLIP_LEFT_RIGHT, _Turn.ROTATE_180, _Turn.FLIP_TOP_BOTTOM, *SIDEWAYS), 2))  # EXIF's order


class Form(NamedTuple):
    """What is made of a picture.

    Attributes:
        height: Of the result, in pixels.
        width: Of the result.
        channels: 3 for RGB, 1 for grey.
        crop: Pixels a side of a square in the picture's middle that is all that is looked at; None: the whole picture.
        fit: How that comes to height and width: "crop" cuts the largest part of that shape out of the middle, "pad"
            puts bars of black beside it, "squash" stretches it.
    """

    height: int
    width: int
    channels: int = 3
    crop: int | None = None
    fit: str = "crop"

    @property
    def bytes(self) -> int:
        """Of one decoded picture."""
        return self.height * self.width * self.channels


class BadImage(Exception):
    """The file isn't an image, or not a whole one."""


class TooSmall(ValueError):
    """The image is smaller than what is to be cut out of it."""


class NotPlain(OSError):
    """What a name leads to is a pipe, a socket or a device."""


def size_of(file: str | Path) -> int:
    """Return the bytes of a file that is to be read, or of the one that a link leads to.

    Whoever opens a pipe may wait for ever, and a device may have no end.

    Raises:
        NotPlain: if it is no file.
        OSError: if it is a folder, or not there.
    """
    found = os.stat(file)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(found.st_mode):
        raise NotPlain(errno.EINVAL, "it is no file, but a pipe, a socket or a device", str(file))
    return found.st_size


def content_of(file: str | Path) -> bytes:
    """Read a picture's file.

    Raises:
        BadImage: if it is no file, or too large to be a picture's.
        OSError: if it can't be read.
    """
    try:
        size = size_of(file)
    except NotPlain as error:
        raise BadImage(error.strerror) from None
    check_size(size)
    with open(file, "rb") as stream:
        return stream.read(size)


def check_size(size: int) -> None:
    """See that so many bytes can be a picture's.

    Raises:
        BadImage: if they are too many.
    """
    if size > MOST_BYTES:
        raise BadImage(f"it has {size / 1e6:,.0f} MB, and a picture's file may have {MOST_BYTES / 1e6:,.0f}")


def digest(stream: BinaryIO) -> int:
    """Return the 64 bits that stand for a file's content, from -2^63 up."""
    whole = blake2b(digest_size=8)
    while part := stream.read(2**20):
        whole.update(part)
    return int.from_bytes(whole.digest(), "little", signed=True)


def decode(content: bytes, form: Form) -> bytes:
    """Turn the bytes of an image file into pixels, antialiased bilinear.

    Any colour mode and EXIF orientation that Pillow reads will do; what is transparent turns white, and of several
    frames the first is taken.

    Returns:
        The `[channels, height, width]` values of 8 bits.

    Raises:
        BadImage: if it isn't a whole image.
        TooSmall: if the image is smaller than `crop`.
    """
    stream = io.BytesIO(content)
    try:
        with Image.open(stream, formats=FORMATS) as image:
            turn = None if image.format == "TIFF" else TURNS.get(image.getexif().get(0x0112))  # Pillow turns a TIFF
            full, part, room = _plan(image.size, form, turn in SIDEWAYS)
            scale = _draft(image, min(part[0] / room[0], part[1] / room[1]))
            image = _converted(image, form.channels)
    except (MemoryError, KeyboardInterrupt, TooSmall):
        raise
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise BadImage(" ".join(str(error).replace(repr(stream), "it").split()) or type(error).__name__) from None
    image = _resized(image, part, full, scale, room)
    if turn is not None:
        image = image.transpose(turn)
    if image.size != (form.width, form.height):
        framed = Image.new(image.mode, (form.width, form.height))
        framed.paste(image, ((form.width - image.width) // 2, (form.height - image.height) // 2))
        image = framed
    return b"".join(image.tobytes("raw", band) for band in image.getbands())


Sides = tuple[int, int]  # width and height, as Pillow has them


def _plan(full: Sides, form: Form, sideways: bool) -> tuple[Sides, Sides, Sides]:
    """Return a picture's size, that of the part of its middle that is taken, and what that is brought to, as stored."""
    if sideways:
        upright = _plan(full[::-1], form, sideways=False)
        return full, upright[1][::-1], upright[2][::-1]
    if form.crop and form.crop > min(full):
        raise TooSmall(f"is {full[0]} x {full[1]} pixels, too small for crop {form.crop}")
    part = (form.crop, form.crop) if form.crop else full
    room = (form.width, form.height)
    if form.fit == "crop":
        return full, _largest(part, room), room
    return full, part, (_largest(room, part) if form.fit == "pad" else room)


def _largest(within: Sides, shape: Sides) -> Sides:
    """Return the largest rectangle within another that has a third one's proportions."""
    width = min(within[0], round(within[1] * shape[0] / shape[1]))
    height = min(within[1], round(within[0] * shape[1] / shape[0]))
    return max(1, width), max(1, height)


def _draft(image: Image.Image, shrink: float) -> float:
    """Have a JPEG read at 1/2, 1/4 or 1/8 of its size, in a fraction of the time, where it is to be shrunk by more.

    What is read stays at least twice as large as what is made of it, so that this can hardly be seen.
    """
    scale = max(s for s in (1, 2, 4, 8) if s == 1 or s <= shrink / 2)
    width, height = image.size
    drafted = image.draft(None, (max(1, width // scale), max(1, height // scale))) if scale > 1 else None
    return width / drafted[1][2] if drafted else 1


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Turn it into RGB or grey."""
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip instead of scale
        image = image.convert("I")
        if image.getextrema()[1] > 65535:  # type: ignore[operator]
            raise ValueError("32 bits a pixel: save it with 16 or 8")
        image = image.point(lambda value: value / 256).convert("L")
    elif image.mode == "F":
        raise ValueError("its pixels are floats of unknown range: save it with 16 or 8 bits, or see data set 'arrays'")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "RGB" if channels == 3 else "L"
    image.load()
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Image.Image, part: Sides, full: Sides, scale: float, room: Sides) -> Image.Image:
    """Cut `part` out of the middle of an image, of `full` size but read at 1 / `scale` of it; resize that to `room`."""
    left, top = (full[0] - part[0]) // 2, (full[1] - part[1]) // 2
    x0, y0, x1, y1 = left / scale, top / scale, (left + part[0]) / scale, (top + part[1]) / scale
    outer = (int(x0), int(y0), min(math.ceil(x1), image.width), min(math.ceil(y1), image.height))
    within = (x0 - outer[0], y0 - outer[1], min(x1, outer[2]) - outer[0], min(y1, outer[3]) - outer[1])
    return image.crop(outer).resize(room, Image.Resampling.BILINEAR, within)


def decode_many(files: list[str], form: Form) -> tuple[bytes, dict[str, str], list[int]]:
    """Read and decode what can be decoded.

    Returns:
        The good images' bytes, one after another, why each of the others is bad, and the good files' digests.

    Raises:
        OSError: if a file can't be read.
        ValueError: if an image is smaller than `crop`.
    """
    good: list[bytes] = []
    bad: dict[str, str] = {}
    digests: list[int] = []
    for file in files:
        try:
            content = content_of(file)
            good.append(decode(content, form))
            digests.append(digest(io.BytesIO(content)))
        except BadImage as error:
            bad[file] = str(error)
        except TooSmall as error:
            raise ValueError(f"{file} {error}") from None
    return b"".join(good), bad, digests


def write(pixels: bytes, out: str, position: int) -> None:
    """Put pixels into a file that exists, so many bytes from its beginning.

    Through `write`, not a memory map: a full disk is then an error, and not a signal that kills.
    """
    with open(out, "r+b") as file:
        file.seek(position)
        file.write(pixels)


def work() -> None:
    """Decode and write what each line of JSON asks for: a file, a position in it, and the arguments of `decode_many`.

    The answer, a line of JSON, holds the bad files, the good ones' digests, what `decode_many` raised, and the
    `OSError` that writing raised.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then closes stdin
    for line in sys.stdin.buffer:
        out, position, files, form = json.loads(line)
        answer: dict[str, Any] = {"bad": {}, "digests": [], "error": None, "unwritten": None}
        try:
            pixels, answer["bad"], answer["digests"] = decode_many(files, Form(*form))
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
