"""The README's picture: what variants that were trained alike make of MNIST, a row each.

vae-zoo suite zoo
python -m benchmarks.picture runs/zoo docs/images/variants.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from zoo.config import load_config
from zoo.data import build_data
from zoo.engine.checkpoint import load
from zoo.files import CONFIG_FILE
from zoo.pictures import drawing
from zoo.pictures.of_models import tiles, to_unit
from zoo.pictures.of_runs import first_batch

RUNS = ("ae", "mlp", "beta4", "factor", "vamp", "vq", "mnist", "vae_gan")
SEEN, DRAWN = 6, 10  # images to a row: reconstructions, samples


def draw(folders: Sequence[Path], out: Path) -> None:
    """Draw each run's reconstructions of the same test images, and the first samples from its prior."""
    rows: list[torch.Tensor] = []
    names: list[str] = []
    for folder in folders:
        model = load(folder).eval()
        batch = first_batch(build_data(load_config(folder / CONFIG_FILE).data).test, model, SEEN)
        with torch.no_grad():
            samples = model.sample(DRAWN, generator=torch.Generator().manual_seed(0))
            images = [model.reconstruct(batch.x), samples]
        if not rows:
            rows.append(torch.cat([to_unit(batch.x, model.image.range), torch.ones(DRAWN, *batch.x.shape[1:])]))
            names.append("images")
        rows.append(to_unit(torch.cat(images), model.image.range))
        names.append(load_config(folder / CONFIG_FILE).model.name)
    drawing.sheet(
        tiles(torch.cat(rows)),
        out,
        SEEN + DRAWN,
        title="Reconstructions (left) and samples from the prior (right), five epochs of MNIST each",
        row_names=names,
        breaks_below={0},
        breaks_right={SEEN - 1},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("runs", type=Path, help="the folder of the suite's runs")
    parser.add_argument("out", type=Path, help="the PNG")
    given = parser.parse_args()
    draw([given.runs / f"{name}_mnist_0" for name in RUNS], given.out)
