"""Latents that keep the places of their image: a map at the net's door, a vector everywhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

import zoo
from tests.runs import make_config, run
from zoo.base import ImageSpec, random_batch
from zoo.config import Config
from zoo.data import Data, Images
from zoo.engine.initial import initialise
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.families.latent import FromGrid
from zoo.metrics import samplers
from zoo.metrics.core import Subject
from zoo.metrics.equivariance import equivariance
from zoo.models import create
from zoo.testing import check_variant
from zoo.trained import Trained

GRID: dict[str, Any] = {"latent": "grid", "latent_dim": 2, "net": "grid", "base_channels": 4, "blocks": 1}


def of_grid(image: ImageSpec | None = None, name: str = "beta", **options: Any) -> GaussianVAE:
    torch.manual_seed(0)
    model = create(name, image or ImageSpec(1, 16, 24, classes=3, train_size=20), **GRID | options)
    assert isinstance(model, GaussianVAE)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("beta", "grid"),
        ("beta", "resnet"),
        ("conditional", "conv"),
        ("ae", "grid"),
        ("vamp", "grid"),
        ("rae_l2", "conv"),
    ],
)
def test_a_variant_keeps_its_contract_on_a_grid(name: str, net: str) -> None:
    shape = {"hidden_dims": [4, 6]} if net == "resnet" else {"base_channels": 2}
    check_variant(name, latent="grid", latent_dim=2, net=net, **shape)


def test_the_vector_is_the_map_flattened() -> None:
    model = of_grid()
    assert model.latent_shape == (2, 4, 6) and model.latent_dim == 48
    x = random_batch(model.image).x
    mu, logvar = model.encode(x)
    features = model.encoder(x)
    by_hand = torch.einsum("cf,bfhw->bchw", model.to_mu.weight.flatten(1), features) + model.to_mu.bias.view(-1, 1, 1)
    torch.testing.assert_close(mu.unflatten(1, model.latent_shape), by_hand)
    assert logvar.shape == mu.shape == (4, 48) and not torch.equal(mu, logvar)


def test_a_position_comes_back_where_it_was() -> None:
    """What one position of the latent holds reaches that position of the decoder's map, and no other."""
    model = of_grid()
    z = torch.zeros(2, *model.latent_shape)
    z[1, :, 1, 4] = 3.0
    first, second = model.from_latent(z.flatten(1))
    changed = (first != second).any(0)
    assert changed.nonzero().tolist() == [[1, 4]]


def test_labels_are_seen_at_every_position() -> None:
    door = FromGrid((2, 3, 4), 5, 6)
    z, labels = torch.randn(2, 24), torch.randn(2, 5)
    images = torch.cat([z.unflatten(1, (2, 3, 4)), labels[:, :, None, None].expand(2, 5, 3, 4)], 1)
    torch.testing.assert_close(door(torch.cat([z, labels], 1)), door.conv(images))


def test_free_bits_are_of_each_number() -> None:
    model = of_grid(free_bits=5.0)
    kl = torch.full((4, 48), 0.1)
    assert model.free(kl).tolist() == pytest.approx([5.0 * 48] * 4)


@pytest.mark.parametrize("net", ["mlp", "mnist", "rae"])
def test_a_net_without_a_grid_is_refused_in_one_sentence(net: str) -> None:
    with pytest.raises(UserError, match="^model.latent=grid keeps the places .*: set model.latent=flat, or choose net"):
        create("beta", ImageSpec(1, 32, 32), net=net, latent="grid")


def test_initial_weights_are_drawn_for_the_convolutions_too() -> None:
    model = of_grid(latent_dim=50)
    before = model.to_mu.weight.clone()
    initialise(model, "he")
    assert not torch.equal(before, model.to_mu.weight) and not model.to_mu.bias.any()


def test_a_trained_model_decodes_both_shapes(tmp_path: Path) -> None:
    trained = Trained(of_grid())
    z = trained.encode(torch.rand(3, 1, 16, 24))[0]
    torch.testing.assert_close(trained.decode(z), trained.decode(z.unflatten(1, trained.latent_shape)))
    with pytest.raises(UserError, match=r"this model takes \[N, 48\] or \[N, 2, 4, 6\]"):
        trained.decode(torch.zeros(3, 4, 6, 2))


def test_a_run_on_a_grid_is_scored_drawn_and_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "STAGE_STEPS", 20)
    options = GRID | {"name": "beta", "recon": "bce"}
    metrics = ["active_units", "kl_per_dim", "mutual_information", "fd_lenet"]
    chosen = ["prior", "gaussian", "gmm10", "second_stage", "rectified_flow"]
    benchmark = {"metrics": metrics, "samplers": chosen, "n": 50}
    data = {"name": "digits", "limit": 300}
    assert run(make_config(tmp_path / "r", model=options, benchmark=benchmark, data=data)) == 0
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert results["latent_dim"] == 2 * 2 * 2
    found = results["metrics"]
    assert found["active_units"]["value"] <= 8 and "mutual_information" in found
    assert {f"fd_lenet@{name}" if name != "prior" else "fd_lenet" for name in chosen} <= found.keys()
    pictures = {file.name for file in (tmp_path / "r").glob("*.png")}
    assert {"traversals.png", "interpolations.png", "latent_space.png", "generated_samples.png"} <= pictures
    model = zoo.load(tmp_path / "r")
    z: Tensor = model.encode(torch.rand(2, 1, 8, 8))[0]
    assert model.decode(z.unflatten(1, model.latent_shape)).shape == (2, 1, 8, 8)


def subject_of(model: GaussianVAE, images: Images, tmp_path: Path) -> Subject:
    config = Config.model_validate({"model": {"name": "mlp"}, "data": {"name": "toy"}, "steps": 1})
    return Subject(model.eval(), Data("toy", images, images, images), config, Accelerator(cpu=True), tmp_path)


class Places(GaussianVAE):
    """A grid that holds the image's own mean of each 2 x 2 square, and is decoded to just these."""

    def __init__(self) -> None:
        options = {"net": "grid", "base_channels": 2, "blocks": 1, "latent": "grid", "latent_dim": 1, "recon": "mse"}
        super().__init__(ImageSpec(1, 8, 8), **options)
        self.latent_shape = (1, 4, 4)

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return F.avg_pool2d(x, 2).flatten(1), torch.zeros(len(x), 16)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z.unflatten(1, (1, 4, 4)).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_a_grid_that_turns_with_its_image_loses_nothing_by_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = Images(torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8))
    subject = subject_of(Places(), images, tmp_path)
    x = images.pixels / 255
    error = (F.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3) - x).square().flatten(1).mean(1)
    score = equivariance(subject)["equivariance"]
    assert score.value == pytest.approx((-10 * error.log10()).mean().item(), rel=1e-5) and score.n == 20

    class Ramp(Places):
        """Its decoder sees where a place is."""

        def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
            return (super().decode(z) + torch.linspace(-0.5, 0.5, 8)).clamp(0, 1)

    assert equivariance(subject_of(Ramp(), images, tmp_path))["equivariance"].value < score.value - 1


def test_a_latent_without_a_grid_can_t_be_turned(tmp_path: Path) -> None:
    images = Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    model = zoo.create("mlp", ImageSpec(1, 8, 8), net="mlp", hidden_dims=[4], latent_dim=4, recon="mse")
    with pytest.raises(UserError, match="equivariance is for model.latent=grid"):
        equivariance(subject_of(model, images, tmp_path))
