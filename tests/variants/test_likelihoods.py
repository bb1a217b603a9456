"""sigma, logcosh, ms_ssim."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, StructuralSimilarityIndexMeasure

from tests.runs import small
from tests.test_features import pictures
from zoo.base import SYMMETRIC, UNIT, Batch, ImageSpec, random_batch
from zoo.families.gaussian import GaussianVAE
from zoo.models import create
from zoo.parts.distributions import Likelihood
from zoo.variants.ms_ssim import MSSSIMVAE
from zoo.variants.sigma import SigmaVAE


def model_of(name: str, image: ImageSpec | None = None, **options: Any) -> GaussianVAE:
    torch.manual_seed(0)
    model = create(name, image or ImageSpec(1, 8, 8), **small(name) | options)
    assert isinstance(model, GaussianVAE)
    return model


@pytest.mark.parametrize("kind", ["mse", "l1", "gaussian", "logcosh"])
@pytest.mark.parametrize("setting", [0.7, 10.0, 40.0])
def test_densities_integrate_to_one(kind: Any, setting: float) -> None:
    """Over one pixel; `setting` is logcosh's sharpness, and a variance."""
    likelihood = Likelihood(kind, "none", ImageSpec(1, 1, 1), sharpness=setting).double()
    if kind == "gaussian":
        torch.nn.init.constant_(likelihood.logvar, math.log(setting))

    def density(x: float) -> float:
        pixel = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
        return likelihood.log_prob(torch.full_like(pixel, 0.3), pixel).exp().item()

    total = quad(density, -80, 80, points=[0.3], limit=400)[0]
    assert total == pytest.approx(1, abs=1e-6)


def test_bernoulli_sums_to_one() -> None:
    likelihood = Likelihood("bce", "sigmoid", ImageSpec(1, 1, 1))
    pixels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    assert likelihood.log_prob(torch.full_like(pixels, 0.8), pixels).exp().sum().item() == pytest.approx(1)


# ---- logcosh


def test_logcosh_is_its_formula_and_does_not_overflow() -> None:
    model = model_of("logcosh", sharpness=5.0)
    logits, x = torch.randn(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    error = (logits.sigmoid() - x).double()
    expected = (torch.log(torch.cosh(5 * error)) / 5).flatten(1).sum(1)
    torch.testing.assert_close(model.likelihood.nll(logits, x), expected.float())
    sharp = Likelihood("logcosh", "sigmoid", ImageSpec(1, 8, 8), sharpness=1e6)
    torch.testing.assert_close(sharp.nll(logits, x), error.abs().flatten(1).sum(1).float(), rtol=1e-3, atol=1e-3)


# ---- sigma


def test_optimal_sigma_is_the_maximum_likelihood_estimate() -> None:
    model = model_of("sigma").train()
    batch = random_batch(model.image, 8)
    torch.manual_seed(0)
    terms = model.loss(batch)
    torch.manual_seed(0)
    out = model(batch.x)
    errors = out.recon - batch.x
    assert terms["sigma"].item() == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-5)

    def nll(sigma: float) -> float:
        return -torch.distributions.Normal(out.recon, sigma).log_prob(batch.x).flatten(1).sum(1).mean().item()

    best = terms["sigma"].item()
    assert terms["recon"].item() == pytest.approx(nll(best), rel=1e-4)
    assert nll(best) < min(nll(0.9 * best), nll(1.1 * best))


def test_the_gradient_passes_through_the_optimal_variance() -> None:
    """d/dx~ of P/2 log(mean squared error) + const: equation 5's one-line loss."""
    model = model_of("sigma").train()
    batch = random_batch(model.image, 8)
    torch.manual_seed(0)
    terms = model.loss(batch)
    (found,) = torch.autograd.grad(terms["recon"], model.from_latent[0].bias)
    torch.manual_seed(0)
    squared = (model(batch.x).recon - batch.x).square().mean()
    (wanted,) = torch.autograd.grad(model.image.pixels / 2 * squared.log(), model.from_latent[0].bias)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("variance", ["optimal", "shared"])
def test_images_that_are_met_exactly_leave_sigma_finite(variance: str) -> None:
    """Black images: the squared error goes to zero, and sigma would follow."""
    model = model_of("sigma", variance=variance).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        terms = model.loss(Batch(torch.zeros(4, 1, 8, 8)))
        terms["loss"].backward()
        optimizer.step()
        assert all(term.isfinite() for term in terms.values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert terms["sigma"].item() == pytest.approx(math.exp(-6), rel=1e-3)
    assert model.eval().log_likelihood(torch.zeros(2, 1, 8, 8), 3).isfinite().all()


def test_outside_training_the_variance_is_the_batches_mean() -> None:
    model = model_of("sigma").train()
    assert isinstance(model, SigmaVAE)
    seen = []
    for n in (4, 8, 16):
        seen.append(2 * model.loss(random_batch(model.image, n))["sigma"].log())
    assert model.likelihood.logvar.item() == pytest.approx(torch.stack(seen).mean().item(), rel=1e-5)
    model.eval()
    x = random_batch(model.image, 4).x
    with torch.no_grad():
        whole = model.log_likelihood(x, 1)
        assert model.loss(Batch(x))["sigma"].item() == pytest.approx(math.exp(model.likelihood.logvar.item() / 2))
        assert whole.shape == (4,)


def test_the_variance_is_remembered_over_a_hundred_steps() -> None:
    model = model_of("sigma").train()
    assert isinstance(model, SigmaVAE)
    for _ in range(300):
        model._remember(torch.tensor(-2.0))
    for _ in range(100):
        model._remember(torch.tensor(-4.0))
    assert model.likelihood.logvar.item() == pytest.approx(-4 + 2 * 0.99**100, rel=1e-4)


def test_shared_sigma_learns_by_gradient() -> None:
    model = model_of("sigma", variance="shared")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    batch = random_batch(model.image, 16)
    for _ in range(200):
        optimizer.zero_grad()
        terms = model.loss(batch)
        terms["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        rms = (model(batch.x).recon - batch.x).square().mean().sqrt().item()
    assert terms["sigma"].item() == pytest.approx(rms, rel=0.15)


# ---- ms_ssim


@pytest.mark.parametrize("range", [UNIT, SYMMETRIC], ids=["unit", "symmetric"])
@pytest.mark.parametrize("size", [16, 32, 64, 180])
def test_similarity_is_torchmetrics(size: int, range: tuple[float, float]) -> None:
    """With as many scales as fit; at 180 pixels, the five of the paper with its weights."""
    from zoo.parts.similarity import scale_weights, window

    recon = "bce" if range == UNIT else "mse"
    model = model_of("ms_ssim", ImageSpec(1, size, size, range), recon=recon)
    assert isinstance(model, MSSSIMVAE)
    x = pictures(3, size, 9)[:, :1] / 255
    noisy = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    low, high = range
    found = model.similarity(low + (high - low) * noisy, low + (high - low) * x)
    if len(scale_weights(size)) == 1:
        metric: Any = StructuralSimilarityIndexMeasure(data_range=1.0, kernel_size=window(size), reduction="none")
        expected = (metric(noisy, x) + 1) / 2
    else:
        metric = MultiScaleStructuralSimilarityIndexMeasure(
            data_range=1.0, betas=scale_weights(size), reduction="none", normalize="simple"
        )
        expected = metric(noisy, x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    same = model.similarity(low + (high - low) * x, low + (high - low) * x)
    torch.testing.assert_close(same, torch.ones(3))
    assert (found < 1).all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("level", "height"), [(0.5, 0.5), (0.7, 0.05), (0.95, 0.02), (0.0, 0.0)])
def test_an_image_is_its_own_likeness_in_every_precision(level: float, height: float, precision: torch.dtype) -> None:
    """Smooth and light ones too, of which bfloat16 would leave no variance."""
    model = model_of("ms_ssim", ImageSpec(1, 64, 64))
    assert isinstance(model, MSSSIMVAE)
    waves = torch.sin(torch.linspace(0, 6, 64))[:, None] * torch.cos(torch.linspace(0, 4, 64))
    image = (level + height * waves).clamp(0, 1).expand(2, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        similarity = model.similarity(image, image)
    torch.testing.assert_close(similarity.float(), torch.ones(2), rtol=0, atol=1e-4)


def test_the_loss_of_ms_ssim() -> None:
    model = model_of("ms_ssim", weight=7.0, beta=2.0)
    terms = model.loss(random_batch(model.image))
    torch.testing.assert_close(terms["loss"], 7 * (1 - terms["ms_ssim"]) + 2 * terms["kl"])


def test_the_gradient_is_finite_where_images_are_opposite() -> None:
    model = model_of("ms_ssim", ImageSpec(1, 32, 32))
    assert isinstance(model, MSSSIMVAE)
    x = (torch.rand(2, 1, 32, 32) > 0.5).float()
    recon = (1 - x).requires_grad_()
    model.similarity(recon, x).sum().backward()
    assert recon.grad is not None and recon.grad.isfinite().all() and recon.grad.abs().sum() > 0
