"""sigma, logcosh, ms_ssim, continuous_bernoulli, logistic_mixture."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, StructuralSimilarityIndexMeasure

from tests.runs import small
from tests.test_features import pictures
from zoo.base import SYMMETRIC, UNIT, VARIANTS, Batch, ImageSpec, random_batch
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.metrics.likelihood import bits_per_dim
from zoo.models import create, model_options
from zoo.parts.distributions import Likelihood
from zoo.parts.likelihoods import ContinuousBernoulli, LogisticMixture, build_likelihood
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
@pytest.mark.parametrize("size", [6, 16, 32, 64, 180])
def test_similarity_is_torchmetrics(size: int, range: tuple[float, float]) -> None:
    """With as many scales as fit; at 180 pixels, the five of the paper with its weights."""
    from zoo.parts.similarity import scale_weights

    recon = "bce" if range == UNIT else "mse"
    model = model_of("ms_ssim", ImageSpec(1, size, size, range), recon=recon)
    assert isinstance(model, MSSSIMVAE)
    x = pictures(3, size, 9)[:, :1] / 255
    noisy = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    low, high = range
    found = model.similarity(low + (high - low) * noisy, low + (high - low) * x)
    if len(scale_weights(size)) == 1:
        metric: Any = StructuralSimilarityIndexMeasure(data_range=1.0, reduction="none")
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


def test_images_that_the_window_can_not_be_reflected_in_are_refused() -> None:
    with pytest.raises(UserError, match="ms_ssim compares images of 6 pixels a side or more, not 5 x 12: set"):
        model_of("ms_ssim", ImageSpec(1, 5, 12))


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


# ---- continuous_bernoulli

# Log odds of lambda from near 0 to near 1, on both sides of where a series takes over, and at 1/2.
ODDS = (-200.0, -12.0, -1.0, -0.21, -0.19, -1e-3, 0.0, 1e-5, 0.05, 0.199, 0.201, 3.0, 40.0)


@pytest.mark.parametrize("range", [UNIT, SYMMETRIC], ids=["unit", "symmetric"])
@pytest.mark.parametrize("odds", ODDS)
def test_a_continuous_bernoulli_integrates_to_one_and_has_its_mean(odds: float, range: tuple[float, float]) -> None:
    low, high = range
    likelihood = ContinuousBernoulli(ImageSpec(1, 1, 1, range))
    logits = torch.full((1, 1, 1, 1), odds, dtype=torch.float64)

    def density(x: float) -> float:
        return likelihood.log_prob(logits, torch.full_like(logits, x)).exp().item()

    edges = [low + (high - low) * share for share in (0.01, 0.05, 0.95, 0.99)]
    assert quad(density, low, high, points=edges)[0] == pytest.approx(1, abs=1e-7)
    mean = quad(lambda x: x * density(x), low, high, points=edges)[0]
    assert likelihood.mean(logits).item() == pytest.approx(mean, abs=1e-7)


@pytest.mark.parametrize("odds", [odds for odds in ODDS if abs(odds) < 13])
def test_a_continuous_bernoulli_is_torchs(odds: float) -> None:
    likelihood = ContinuousBernoulli(ImageSpec(1, 1, 5))
    logits = torch.full((1, 1, 1, 5), odds, dtype=torch.float64)
    x = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0], dtype=torch.float64).view(1, 1, 1, 5)
    theirs = torch.distributions.ContinuousBernoulli(logits=logits)
    torch.testing.assert_close(likelihood.log_prob(logits, x), theirs.log_prob(x).sum((1, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(likelihood.mean(logits), theirs.mean, rtol=1e-4, atol=1e-5)


def test_gradients_of_a_continuous_bernoulli_are_exact_at_every_lambda() -> None:
    """d log p / d l = x - mean, in single precision as in double."""
    likelihood = ContinuousBernoulli(ImageSpec(1, 1, 1))
    for precision, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
        logits = torch.tensor([*ODDS, 1e4, -1e4], dtype=precision).view(-1, 1, 1, 1).requires_grad_()
        x = torch.full_like(logits, 0.3)
        (grad,) = torch.autograd.grad(-likelihood.nll(logits, x).sum(), logits)
        torch.testing.assert_close(grad, (x - likelihood.mean(logits)).detach(), rtol=0, atol=tolerance)


def test_the_loss_of_continuous_bernoulli_is_its_density() -> None:
    model = model_of("continuous_bernoulli", beta=2.0).eval()
    batch = random_batch(model.image)
    torch.manual_seed(0)
    terms = model.loss(batch)
    torch.manual_seed(0)
    out = model(batch.x)
    theirs = torch.distributions.ContinuousBernoulli(logits=out.logits).log_prob(batch.x).sum((1, 2, 3)).mean()
    torch.testing.assert_close(terms["recon"], -theirs)
    torch.testing.assert_close(terms["loss"], terms["recon"] + 2 * terms["kl"])


# ---- logistic_mixture


def levels(range: tuple[float, float]) -> torch.Tensor:
    """The 256 levels of a pixel, `[256, 1, 1, 1]`."""
    low, high = range
    return (low + (high - low) * torch.arange(256, dtype=torch.float64) / 255).view(-1, 1, 1, 1)


@pytest.mark.parametrize("range", [UNIT, SYMMETRIC], ids=["unit", "symmetric"])
@pytest.mark.parametrize(
    ("mean", "log_scale"), [(0.0, 0.0), (0.3, -3.0), (-1.0, -6.9), (1.5, -2.0), (0.0, -50.0), (9, 3)]
)
def test_256_levels_sum_to_one(mean: float, log_scale: float, range: tuple[float, float]) -> None:
    likelihood = LogisticMixture(ImageSpec(1, 1, 1, range), components=2)
    raw = torch.tensor([0.4, mean, log_scale, -0.3, -mean, 0.5]).view(1, -1, 1, 1)
    x = levels(range).float()
    p = likelihood.log_prob(raw.expand(256, -1, -1, -1), x).double().exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-4) and p.isfinite().all()
    assert likelihood.constant == 0


def test_logistic_levels_by_hand() -> None:
    """Differences of the distribution function; the outermost levels have all that lies beyond."""
    likelihood = LogisticMixture(ImageSpec(1, 1, 1), components=2)
    log_w = torch.tensor([0.4, -0.3]).double().log_softmax(0)
    m, s = torch.tensor([0.2, -0.5]).double(), torch.tensor([-2.0, -1.0]).double().exp()
    raw = torch.tensor([0.4, 0.2, -2.0, -0.3, -0.5, -1.0]).view(1, -1, 1, 1)
    found = likelihood.log_prob(raw.expand(256, -1, -1, -1), levels(UNIT).float()).double().exp()
    edges = (2 * (torch.arange(257).double() - 0.5) / 255 - 1)[:, None]
    cdf = torch.sigmoid((edges - m) / s)
    cdf[0], cdf[256] = 0, 1
    torch.testing.assert_close(found, (cdf.diff(dim=0) * log_w.exp()).sum(1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_follow_those_before_them(channels: int) -> None:
    """All levels of all channels sum to 1, and a channel's mean is m + a times the channels before it."""
    torch.manual_seed(0)
    likelihood = LogisticMixture(ImageSpec(channels, 1, 1), components=1)
    raw = torch.randn(1, likelihood.outputs, 1, 1)
    raw[:, 1 + channels : 1 + 2 * channels] = -1.5  # log s
    m, a = raw[0, 1 : 1 + channels, 0, 0], raw[0, 1 + 2 * channels :, 0, 0].tanh()
    x = torch.full((256, channels, 1, 1), 0.8)
    x[:, -1:] = levels(UNIT).float()
    log_p = likelihood.log_prob(raw.expand(256, -1, -1, -1), x)
    follows = (
        m[-1] + 0.6 * a[-channels + 1 :].sum()
    )  # of the last channel, after others at 0.8, which is 0.6 of [-1, 1]
    single = LogisticMixture(ImageSpec(1, 1, 1), components=1)
    alone = single.log_prob(
        torch.stack([torch.zeros(()), follows, torch.tensor(-1.5)]).view(1, 3, 1, 1).expand(256, -1, -1, -1), x[:, -1:]
    )
    torch.testing.assert_close(log_p.log_softmax(0), alone, rtol=1e-4, atol=1e-4)
    assert log_p.exp().sum() < 1
    if channels == 2:
        pairs = torch.cartesian_prod(torch.arange(256), torch.arange(256)).float().div(255).view(-1, 2, 1, 1)
        total = likelihood.log_prob(raw.expand(len(pairs), -1, -1, -1), pairs).double().exp().sum()
        assert total.item() == pytest.approx(1, abs=1e-4)


def test_the_image_of_a_logistic_mixture_is_its_mean() -> None:
    torch.manual_seed(0)
    likelihood = LogisticMixture(ImageSpec(1, 1, 1, SYMMETRIC), components=3)
    for raw in 2 * torch.randn(20, 1, likelihood.outputs, 1, 1):
        x = levels(SYMMETRIC).float()
        p = likelihood.log_prob(raw.expand(256, -1, -1, -1), x).exp()
        assert likelihood.mean(raw).item() == pytest.approx((p * x.flatten()).sum().item(), abs=2e-3)


def test_uniform_noise_has_eight_bits_under_the_best_constant_model() -> None:
    """Eight, less what a mixture of ten lacks of being even; and what is not noise has fewer."""
    torch.manual_seed(0)
    likelihood = LogisticMixture(ImageSpec(1, 1, 1), components=10)
    found = {}
    for name, counts in (("noise", torch.ones(256)), ("dark", torch.arange(256) < 32)):
        raw = torch.randn(1, likelihood.outputs, 1, 1, requires_grad=True)
        with torch.no_grad():
            raw[:, 2::3] = -2.0  # log s
        optimizer = torch.optim.Adam([raw], lr=0.05)
        for _ in range(300):
            log_p = likelihood.log_prob(raw.expand(256, -1, -1, -1), levels(UNIT).float())
            nats = -(counts / counts.sum() * log_p).sum()
            optimizer.zero_grad()
            nats.backward()
            optimizer.step()
        found[name] = bits_per_dim(nats.item(), 1)
    assert 8 <= found["noise"] < 8.02
    assert 5 <= found["dark"] < 5.2


def test_the_loss_of_logistic_mixture_is_its_probability() -> None:
    model = model_of("logistic_mixture", ImageSpec(3, 8, 8), beta=2.0, components=4).eval()
    assert model.likelihood.outputs == 4 * (1 + 3 + 3 + 3)
    batch = random_batch(model.image)
    torch.manual_seed(0)
    terms = model.loss(batch)
    torch.manual_seed(0)
    out = model(batch.x)
    torch.testing.assert_close(terms["recon"], -model.likelihood.log_prob(out.logits, batch.x).mean())
    torch.testing.assert_close(terms["loss"], terms["recon"] + 2 * terms["kl"])
    torch.testing.assert_close(terms["elbo"], -(terms["recon"] + terms["kl"]))


# ---- as any variant's likelihood


@pytest.mark.parametrize("kind", ["continuous_bernoulli", "logistic_mixture"])
@pytest.mark.parametrize("name", [e.name for e in VARIANTS if "recon" in model_options(e.name, {})])
def test_every_variant_takes_it(name: str, kind: str) -> None:
    torch.manual_seed(0)
    image = ImageSpec(3, 16, 16, classes=3, train_size=50)
    model = create(name, image, **small(name, recon=kind))
    batch = random_batch(image)
    for player in model.players:
        loss = (model.loss(batch) if player == "vae" else getattr(model, f"{player}_loss")(batch))["loss"]
        assert loss.isfinite()
    y = None if batch.y is None else batch.y[:2]
    for images in (model.sample(2, y), model.reconstruct(*batch)):
        assert images.shape[1:] == image.shape and images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("kind", ["continuous_bernoulli", "logistic_mixture"])
def test_an_activation_is_refused_where_there_is_none(kind: Any) -> None:
    with pytest.raises(UserError, match=f"recon {kind!r} makes images .* leave out_activation out, not 'sigmoid'"):
        build_likelihood(kind, "sigmoid", ImageSpec(1, 2, 2))


def test_the_mean_of_a_wide_mixture_is_no_rounding_error() -> None:
    """Up to a scale of e^20, at which single precision has one number for both ends."""
    likelihood = LogisticMixture(ImageSpec(1, 1, 1, SYMMETRIC), components=1)
    logits = torch.zeros(25, 3, 1, 1)
    logits[:, 1], logits[:, 2, 0, 0] = 0.5, torch.linspace(-4, 20, 25)  # m, log s
    m, s = 0.5, logits[:, 2, 0, 0].double().exp().numpy()
    # -1 + the integral of P(X > x) from -1 to 1
    wanted = [quad(lambda x, s=one: 1 / (1 + math.exp(min(700, (x - m) / s))), -1, 1)[0] - 1 for one in s]
    assert likelihood.mean(logits).flatten().tolist() == pytest.approx(wanted, abs=1e-5)
