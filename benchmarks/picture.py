"""The README's picture: what variants made of MNIST, a row each, cut out of the pictures of their published runs.

python -m benchmarks.picture benchmarks/results/zoo/runs docs/images/variants.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.pictures.drawing import BREAK, MARGIN, PAD, sheet

RUNS = ("ae", "mlp", "beta4", "vamp", "vq", "mnist", "vae_gan")
SEEN, DRAWN = 6, 9  # images to a row: reconstructions, samples
TILE, TITLE = 84, 28  # pixels of an image and above all, in a sheet that was shrunk when it was saved
SIDE = 48  # pixels of an image here


def draw(folders: Sequence[Path], out: Path) -> None:
    """Draw each run's reconstructions of the same test images, and the first samples from its prior."""
    rows: list[list[np.ndarray]] = []
    names: list[str] = []
    for folder in folders:
        seen, made = (_band(folder / "reconstructions.png", row, SEEN) for row in (0, 1))
        if not rows:
            rows.append([*seen, *[np.full((SIDE, SIDE, 1), 255, np.uint8)] * DRAWN])
            names.append("images")
        rows.append([*made, *_samples(folder / "generated_samples.png")])
        names.append(folder.name.removesuffix("_mnist_0"))
    sheet(
        np.stack([image for row in rows for image in row]),
        out,
        SEEN + DRAWN,
        title="Reconstructions, and samples from the prior, after five epochs of MNIST",
        row_names=names,
        breaks_below={0},
        breaks_right={SEEN - 1},
    )


def _band(path: Path, row: int, count: int) -> list[np.ndarray]:
    """Cut the first images of a row of pairs out of a sheet of three such rows, ten images to each."""
    picture = Image.open(path).convert("L")
    scale = picture.height / (2 * MARGIN + TITLE + 6 * TILE + 3 * PAD + 2 * BREAK)
    left = picture.width / scale - MARGIN - 10 * TILE - 9 * PAD
    return [_cut(picture, left + i * (TILE + PAD), MARGIN + TITLE + row * (TILE + PAD), scale) for i in range(count)]


def _samples(path: Path) -> list[np.ndarray]:
    """Cut the first samples out of a sheet of eight to a row."""
    picture = Image.open(path).convert("L")
    scale = picture.width / (2 * MARGIN + 8 * TILE + 7 * PAD)
    places = [(MARGIN + i % 8 * (TILE + PAD), MARGIN + TITLE + i // 8 * (TILE + PAD)) for i in range(DRAWN)]
    return [_cut(picture, x, y, scale) for x, y in places]


def _cut(picture: Image.Image, x: float, y: float, scale: float) -> np.ndarray:
    box = (x * scale, y * scale, (x + TILE) * scale, (y + TILE) * scale)
    return np.array(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box))[..., None]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("runs", type=Path, help="the folder of the suite's runs")
    parser.add_argument("out", type=Path, help="the PNG")
    given = parser.parse_args()
    draw([given.runs / f"{name}_mnist_0" for name in RUNS], given.out)
