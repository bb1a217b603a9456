"""Every config that comes with the zoo can be read, and fits the data it names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from zoo.base import ImageSpec, random_batch
from zoo.config import load_config
from zoo.data import DATASETS
from zoo.models import create, preferred_range
from zoo.options import check_options, signature_options

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
# Channels, pixels a side as the data set has them, classes, attributes.
SHAPES = {
    "mnist": (1, 28, 10, 0),
    "fashion_mnist": (1, 28, 10, 0),
    "cifar10": (3, 32, 10, 0),
    "digits": (1, 8, 10, 0),
    "celeba": (3, 178, 0, 40),
    "image_folder": (3, 100, 0, 0),
    "shapes": (1, 32, 0, 0),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_a_model_that_fits_its_data(path: Path) -> None:
    config = load_config(path)
    entry = DATASETS.lookup(config.data.name)
    check_options("data", signature_options(entry.target), config.data.options)
    channels, native, classes, attributes = SHAPES[config.data.name]
    size = config.data.size or native
    name, options = config.model.name, config.model.options
    pixel_range = config.data.range or preferred_range(name, options)
    model = create(name, ImageSpec(channels, size, size, pixel_range, classes, attributes), **options)
    torch.manual_seed(0)
    batch = random_batch(model.image, 2)
    assert math.isfinite(model.loss(batch)["loss"].item())
    assert config.model_dump() == load_config(path).model_dump()


def test_configs_are_named_after_variant_and_data() -> None:
    for path in CONFIGS:
        if path.stem != "quickstart":
            config = load_config(path)
            assert path.stem == f"{config.model.name}_{config.data.name}"


def test_configs_are_short() -> None:
    assert len(CONFIGS) >= 12
    for path in CONFIGS:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 12, f"{path.name}: what it shares belongs in _base"
