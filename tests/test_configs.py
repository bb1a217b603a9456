"""Every config that comes with the zoo can be read, and fits the data it names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from zoo.base import VARIANTS, ImageSpec, random_batch
from zoo.config import Config, load_config
from zoo.data import DATASETS
from zoo.families.adversarial import PatchGame
from zoo.families.gaussian import GaussianVAE
from zoo.models import create, model_options, preferred_range
from zoo.options import check_options, signature_options
from zoo.registry import load_plugin
from zoo.reports.suite import grid, load_suite

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
    if isinstance(model, PatchGame):
        model.perceptual_weight = 0.0  # another network's weights are no part of a config
    torch.manual_seed(0)
    batch = random_batch(model.image, 2)
    assert math.isfinite(model.loss(batch)["loss"].item())
    assert config.model_dump() == load_config(path).model_dump()


def test_configs_are_named_after_variant_and_data() -> None:
    for path in CONFIGS:
        if path.stem != "quickstart":
            config = load_config(path)
            assert path.stem == f"{config.model.name}_{config.data.name}"


SUITES = sorted((Path(__file__).parent.parent / "configs" / "suites").glob("*.yaml"))
RUNS = [(path.stem, load_config(path)) for path in CONFIGS]
RUNS += [(job.out.name, load_config(job.base, job.overrides)) for suite in SUITES for job in grid(load_suite(suite))]


@pytest.mark.parametrize(("where", "config"), RUNS, ids=[where for where, _ in RUNS])
def test_a_shipped_config_says_what_its_name_brings_along(where: str, config: Config) -> None:
    """Defaults of a name vanish with it: `model.name=…` on the command line would change the net and the likelihood."""
    brought = VARIANTS.lookup(config.model.name).defaults.keys() & {"net", "latent_dim", "recon"}
    assert brought <= config.model.options.keys(), where


def test_another_name_keeps_the_experiment(tmp_path: Path) -> None:
    plugin = tmp_path / "named.py"
    lines = ["from zoo import GaussianVAE, register", "@register('named')", "class Named(GaussianVAE):", "    pass"]
    plugin.write_text("\n".join(lines))
    load_plugin(str(plugin))
    for path in CONFIGS:
        before, after = load_config(path).model, load_config(path, ["model.name=named"]).model
        if not issubclass(VARIANTS.lookup(before.name).target, GaussianVAE):
            continue  # codes are no Gaussian's, whatever the experiment
        known = model_options("named", after.options)
        shared = {option: value for option, value in after.options.items() if option in known}
        image = ImageSpec(3, 64, 64, preferred_range(before.name, before.options), classes=10, attributes=40)
        assert preferred_range("named", shared) == image.range
        first = create(before.name, image, **before.options)
        second = create("named", image, **shared)
        assert first.latent_dim == second.latent_dim and first.likelihood.kind == second.likelihood.kind
        assert str(first.decoder) == str(second.decoder)


def test_configs_are_short() -> None:
    assert len(CONFIGS) >= 12
    for path in CONFIGS:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 12, f"{path.name}: what it shares belongs in _base"
