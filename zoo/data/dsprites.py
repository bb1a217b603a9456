"""dSprites, the data set that disentanglement scores are published on. Matthey et al. 2017."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from zoo.data.pixels import resize
from zoo.data.sampler import permutation
from zoo.data.source import Images, Source, register_dataset
from zoo.errors import UserError

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
SHAPES = ("square", "ellipse", "heart")
FACTORS = {"colour": 1, "shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}


@register_dataset("dsprites", "737,280 white shapes with six known factors, 1 x 64 x 64, from its published file")
def dsprites(root: Path, size: int | None, limit: int | None) -> Source:
    """Read the published file, looked for in `root` and in `root/dsprites`; labels are the shapes.

    The images are in the order of their factors, so `limit` takes a seeded choice of them.

    Raises:
        UserError: if the file is not there, or isn't dSprites.
    """
    path = next((p for p in (root / FILE, root / "dsprites" / FILE) if p.is_file()), None)
    if path is None:
        raise UserError(
            f"dSprites was not found in {root.absolute()}: put {FILE} there, from "
            "github.com/google-deepmind/dsprites-dataset, or set data.root or DATA_ROOT to its folder"
        )
    try:
        with np.load(path) as arrays:  # never its pickled metadata
            images, factors = arrays["imgs"], arrays["latents_classes"].astype(np.int64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged, or not dSprites ({error})") from None
    if limit is not None and limit < len(images):
        chosen = permutation(len(images), 0)[:limit].numpy()
        images, factors = images[chosen], factors[chosen]
    pixels = torch.from_numpy(images).unsqueeze(1).mul_(255)  # stored as 0 and 1
    known = torch.from_numpy(factors)
    return Source(
        Images(resize(pixels, size or 64), known[:, 1], known),
        class_names=SHAPES,
        factor_names=tuple(FACTORS),
        factor_sizes=tuple(FACTORS.values()),
    )
