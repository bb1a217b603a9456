"""Drawing without torch: sheets of images, in full size and colour, and curves.

Run as a script it is the other end of a `Painter`: it imports neither torch nor the zoo, so as to start at once. A
picture overwrites an earlier one in one stroke.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

PAD = 2  # pixels between two images
BREAK = 14  # pixels between two bands of images
MARGIN = 8  # pixels around a sheet
FRAME_MS, FILM_QUALITY = 90, 90
VALIDATION = b'"val/'  # in a log's row
INK = "#202020"
MUTED = "#707070"


def sheet(images: np.ndarray, path: Path, columns: int, **names: Any) -> None:
    """Save images as tiles on white: a PNG of what `drawn` draws."""
    _save_picture(drawn(images, columns, **names), path)


def drawn(
    images: np.ndarray,
    columns: int,
    *,
    title: str = "",
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    breaks_below: Collection[int] = (),
    breaks_right: Collection[int] = (),
) -> Image.Image:
    """Draw images as tiles on white, with names at the margins and wider gaps at breaks.

    Args:
        images: uint8 `[N, H, W, C]`, of 1 or 3 channels.
        columns: Images to a row.
        title: Above all.
        row_names: One for each row, or none.
        column_names: One for each column, or none.
        breaks_below: Rows with a wider gap below them.
        breaks_right: Columns with a wider gap to their right.
    """
    height, width, channels = images.shape[1:]
    rows = math.ceil(len(images) / columns)
    title_font, font = _font(15), _font(12)
    left = MARGIN + max((math.ceil(font.getlength(name)) + 6 for name in row_names), default=0)
    top = MARGIN + (28 if title else 0) + (18 if column_names else 0)
    ys = _offsets(top, rows, height, breaks_below)
    xs = _offsets(left, columns, width, breaks_right)
    full_width = max(xs[-1] + width, MARGIN + math.ceil(title_font.getlength(title))) + MARGIN
    pixels = np.full((ys[-1] + height + MARGIN, full_width, channels), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = ys[i // columns], xs[i % columns]
        pixels[y : y + height, x : x + width] = image

    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), title, INK, title_font)
    for name, y in zip(row_names, ys, strict=bool(row_names)):
        draw.text((left - 6, y + height / 2), name, INK, font, anchor="rm")
    for name, x in zip(column_names, xs, strict=bool(column_names)):
        draw.text((x + width / 2, top - 4), name, INK, font, anchor="ms")
    return picture


def film(frames: np.ndarray, path: Path, columns: int) -> None:
    """Save sheets of images as a moving picture, an animated WebP that goes on from the last to the first without end.

    Args:
        frames: uint8 `[frames, N, H, W, C]`, of 1 or 3 channels.
        path: The WebP.
        columns: Images to a row of a sheet.
    """
    first, *others = (drawn(images, columns).convert("RGB") for images in frames)
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=FRAME_MS, loop=0, quality=FILM_QUALITY)
    _replace(path, buffer.getvalue())


def read_rows(metrics: Path, most: int = 4000) -> list[dict[str, Any]]:
    """Return rows of a log, evenly spaced where there are more than `most`; validations are thinned out by themselves.

    Args:
        metrics: JSON objects, one to a line; what is none, or is cut off, is passed over.
        most: Rows of each kind, about.
    """
    if not metrics.is_file():  # somebody has removed it
        return []
    with metrics.open("rb") as file:
        counts = Counter(VALIDATION in line for line in file)
    strides = {kind: max(1, count // most) for kind, count in counts.items()}
    seen: Counter[bool] = Counter()
    rows, last = [], b""
    with metrics.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            kind = VALIDATION in line
            if seen[kind] % strides[kind] == 0:
                rows += _row(line)
                last = b""
            else:
                last = line
            seen[kind] += 1
    return [*rows, *_row(last)]


def _row(line: bytes) -> list[dict[str, Any]]:
    """Return the row of a line; none of one that is no row, which is not drawn."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return []
    if not isinstance(row, dict) or not {"step", "epoch"} <= row.keys():
        return []
    return [row] if all(isinstance(value, int | float) and abs(value) < 1e300 for value in row.values()) else []


def training_losses(metrics: Path, path: Path) -> None:
    """Save the loss by step, and its reconstruction and KL terms where there are any.

    Args:
        metrics: JSON objects, one to a line, with `step`, `epoch`, and `train/…` and `val/…` values.
        path: The PNG.
    """
    rows = read_rows(metrics)
    titles = {"loss": "Loss", "recon": "Reconstruction", "kl": "KL"}
    logged = {key for row in rows for key in row}
    terms = [term for term in ("recon", "kl") if logged & {f"train/{term}", f"val/{term}"}]
    figure = Figure(figsize=(9 if terms else 6.5, 4.5), layout="constrained")
    grid = figure.add_gridspec(max(1, len(terms)), 2 if terms else 1, width_ratios=[2, 1] if terms else None)
    panels = {"loss": figure.add_subplot(grid[:, 0])}
    panels |= {term: figure.add_subplot(grid[i, 1]) for i, term in enumerate(terms)}
    for term, axes in panels.items():
        style(axes, titles[term], "step", "nats per image")
        _draw_losses(axes, rows, term)
    if rows:
        panels["loss"].legend(frameon=False)
        figure.suptitle(f"Training up to epoch {rows[-1]['epoch']:.4g}, step {rows[-1]['step']:,}", color=INK)
    save_figure(figure, path)


def style(axes: Axes, title: str, x_label: str, y_label: str) -> Axes:
    """Give axes their names and the zoo's look; return them."""
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure as a palette PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    _save_picture(Image.open(buffer).convert("RGB").quantize(256), path)


class Painter:
    """Draws what this module's functions of the same names draw, in a process of its own: the caller need not wait.

    A process that died, of a full disk or a signal, says why on stderr, and the next picture starts another.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.sender = ThreadPoolExecutor(1)  # a pipe holds less than a sheet: sending waits for those before it

    def sheet(self, *arguments: Any, **options: Any) -> None:
        """Have a `sheet` drawn."""
        self._ask("sheet", arguments, options)

    def training_losses(self, *arguments: Any) -> None:
        """Have `training_losses` drawn."""
        self._ask("training_losses", arguments, {})

    def close(self) -> None:
        """Wait until all is drawn."""
        self.sender.shutdown()
        if self.process is not None:
            self.process.communicate()

    def _ask(self, *job: Any) -> None:
        sent = self.sender.submit(self._send, *job)
        sent.add_done_callback(Future.result)  # what it raised would be lost; a callback's error is logged

    def _send(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            pickle.dump((name, arguments, options), self.process.stdin)
            self.process.stdin.flush()


DRAWS: dict[str, Callable[..., None]] = {"sheet": sheet, "training_losses": training_losses}


def work() -> None:
    """Draw what stdin asks for, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then closes stdin
    with suppress(EOFError):
        while True:
            name, arguments, options = pickle.load(sys.stdin.buffer)
            DRAWS[name](*arguments, **options)


def _offsets(start: int, count: int, size: int, breaks: Collection[int]) -> list[int]:
    """Where each of `count` cells begins: `PAD` after the one before, or `BREAK` after those in `breaks`."""
    offsets = [start]
    for i in range(count - 1):
        offsets.append(offsets[-1] + size + (BREAK if i in breaks else PAD))
    return offsets


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def _draw_losses(axes: Axes, rows: Sequence[dict[str, float]], term: str) -> None:
    """Draw one term's lines: batches as logged, the epochs' means, validation."""
    lines = [
        (f"train/{term}", "training batches", "#9dbfe0", 1.0),
        (f"train/epoch_{term}", "training, epoch's mean", "#1f5fa8", 1.8),
        (f"val/{term}", "validation", "#d9661f", 1.8),
    ]
    drawn: list[float] = []
    for key, label, colour, width in lines:
        points = [(row["step"], row[key]) for row in rows if key in row and math.isfinite(row[key])]
        if points:
            marker = "o" if len(points) <= 30 else ""
            axes.plot(
                *zip(*points, strict=True), label=label, color=colour, linewidth=width, marker=marker, markersize=4
            )
            drawn += [value for _, value in points]
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(left=0)
    if drawn:
        _limit_height(axes, np.array(drawn))


def _limit_height(axes: Axes, values: np.ndarray) -> None:
    """Cut off the highest 5 % where they would squeeze the rest into the lowest third, and say so."""
    low, high, highest = values.min(), np.quantile(values, 0.95, method="lower"), values.max()
    if low < high < low + (highest - low) / 3:
        margin = 0.05 * (high - low)
        axes.set_ylim(low - margin, high + margin)
        axes.set_title(f"cut off; highest {highest:,.4g}", loc="right", fontsize=8, color=MUTED)


def _save_picture(picture: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    _replace(path, buffer.getvalue())


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one stroke."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


if __name__ == "__main__":
    work()
