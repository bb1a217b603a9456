"""ae, rae_l2, rae_gp."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.autograd.functional import jacobian

from tests.runs import make_config, run, small
from tests.test_samplers import make_subject
from zoo.base import ImageSpec, random_batch
from zoo.data import Images
from zoo.metrics.samplers import SAMPLERS
from zoo.models import create
from zoo.variants.rae import GradientRAE, RegularisedAutoencoder, WeightRAE

IMAGE = ImageSpec(1, 6, 5)


def model_of(name: str) -> RegularisedAutoencoder:
    torch.manual_seed(0)
    model = create(name, IMAGE, **small(name))
    assert isinstance(model, RegularisedAutoencoder)
    return model


def test_gradient_penalty_is_the_jacobians_norm() -> None:
    model = model_of("rae_gp")
    assert isinstance(model, GradientRAE)
    z = torch.randn(4, 3)
    jacobians = torch.stack([jacobian(lambda z: model.decode(z[None])[0], row).flatten(0, 2) for row in z])
    exact = jacobians.square().sum((1, 2)).mean().item()
    estimates = torch.stack([model.roughness(z).detach() for _ in range(3000)])
    assert estimates.mean().item() == pytest.approx(exact, abs=4 * estimates.std().item() / 3000**0.5)
    assert estimates.std() / estimates.mean() < 1


def test_gradient_penalty_reaches_the_decoder_and_the_encoder() -> None:
    model = model_of("rae_gp")
    model.roughness(model.encode(random_batch(IMAGE).x)[0]).backward()
    parameters = dict(model.named_parameters())
    for part in ("decoder.", "from_latent.", "encoder.", "to_latent."):
        touched = [name for name, p in parameters.items() if p.grad is not None and p.grad.abs().sum() > 0]
        assert any(name.startswith(part) for name in touched), part


def test_the_gradient_penalty_is_differentiated_through_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = {"name": "rae_gp", "net": "ldm", "hidden_dims": [4, 4], "blocks": 1, "z_channels": 2, "latent_dim": 3}
    assert run(make_config(tmp_path / "r", steps=1, model=net, batch_size=4)) == 0

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = create("rae_gp", ImageSpec(1, 8, 8), **{key: net[key] for key in net if key != "name"})
        assert isinstance(model, GradientRAE)
        z = torch.randn(4, 3)
        decoder = list(model.decoder.parameters())
        return list(torch.autograd.grad(model.roughness(z), decoder, allow_unused=True, materialize_grads=True))

    def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v

    found = gradients()
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", by_hand)
    torch.testing.assert_close(found, gradients())
    assert sum(gradient.abs().sum() for gradient in found) > 0


def test_weight_penalty_is_the_decoders_weights() -> None:
    model = model_of("rae_l2")
    assert isinstance(model, WeightRAE)
    weights = {name: p for name, p in model.named_parameters() if name.startswith(("decoder", "from_latent"))}
    expected = sum(p.square().sum().item() for name, p in weights.items() if name.endswith("weight"))
    assert model.roughness(torch.zeros(1, 3)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["rae_l2", "rae_gp"])
def test_loss_is_the_weighted_sum(name: str) -> None:
    model = model_of(name)
    batch = random_batch(IMAGE)
    terms = model.loss(batch)
    z, logvar = model.encode(batch.x)
    assert logvar is None
    torch.testing.assert_close(terms["z_norm"], (z.square().sum(1) / 2).mean())
    torch.testing.assert_close(
        terms["loss"], terms["recon"] + model.beta * terms["z_norm"] + model.smoothness * terms["smoothness"]
    )


@pytest.mark.parametrize("name", ["ae", "rae_l2", "rae_gp"])
def test_is_sampled_through_the_mixture(name: str, tmp_path: Path) -> None:
    """Codes lie far from the origin; draws of the mixture lie among them, draws of N(0, I) don't."""
    torch.manual_seed(0)
    model = create(name, ImageSpec(1, 8, 8), **small(name)).eval()
    with torch.no_grad():
        model.to_latent.bias.fill_(20)
    seen = []
    decode = model.decode
    model.decode = lambda z, y=None: (seen.append(z), decode(z, y))[1]  # type: ignore[method-assign,func-returns-value]
    pixels = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8)
    subject = make_subject(tmp_path, model, Images(pixels))
    for sampler in ("gmm10", "prior"):
        images = SAMPLERS.lookup(sampler).target(subject)(200, None, torch.Generator().manual_seed(0))
        assert images.shape == (200, 1, 8, 8)
        near = (seen[-1] - 20).abs().max() < 10
        assert near == (sampler == "gmm10")
