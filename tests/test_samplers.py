"""Where samples come from: fitted densities recover what they are fitted to, and any number of ranks draws the same."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from zoo.base import BaseVAE, Batch, ImageSpec, VAEOutput
from zoo.config import BenchmarkConfig, Config, DataConfig, ModelConfig
from zoo.data import Data, Images
from zoo.errors import UserError
from zoo.metrics import samplers
from zoo.metrics.core import Subject
from zoo.metrics.fid import frechet_distance
from zoo.parts.distributions import standard_normal
from zoo.parts.flows import RectifiedFlow
from zoo.parts.priors import SecondStage
from zoo.testing import StubVAE

CENTRES = torch.tensor([[-2.0, -2.0], [2.0, -2.0], [0.0, 3.0]])
SHARES = torch.tensor([0.7, 0.2, 0.1])
SPREADS = torch.tensor([0.1, 0.2, 0.3])


class Flat(StubVAE):
    """The latent is the image: z in [-10, 10] is a pixel in [0, 1]. Its posterior has standard deviation `noise`."""

    def __init__(self, image: ImageSpec, noise: float = 1e-4) -> None:
        super().__init__(image)
        self.noise = noise

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mu = (x.flatten(1) - 0.5) * 20
        return mu, torch.full_like(mu, 2 * torch.tensor(self.noise).log().item())

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return (z / 20 + 0.5).view(-1, *self.image.shape)

    def forward(self, x: Tensor, y: Tensor | None = None, *, sample_posterior: bool = True) -> VAEOutput:
        mu, logvar = self.encode(x, y)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu) if sample_posterior else mu
        return VAEOutput(self.decode(z, y), mu, logvar, z, z)

    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return self.decode(standard_normal((n, self.image.pixels), self.device, generator), y)


class Rank:
    """An accelerator's view from one of several processes."""

    is_main_process = True
    device = torch.device("cpu")

    def __init__(self, process_index: int, num_processes: int) -> None:
        self.process_index, self.num_processes = process_index, num_processes


def make_subject(
    tmp_path: Path, model: BaseVAE, train: Images, test: Images | None = None, **benchmark: Any
) -> Subject:
    test = test or train
    config = Config(
        model=ModelConfig(name="flat"),
        data=DataConfig(name="toy"),
        epochs=1,
        benchmark=BenchmarkConfig(**benchmark),
    )
    return Subject(model.eval(), Data("toy", train, test, test), config, Accelerator(cpu=True), tmp_path / "cache")


def mixture(n: int, seed: int = 0) -> Images:
    """Three clusters of 1 x 1 x 2 "images": the smaller, the wider, so that ten components are not equally filled."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(SHARES, n, replacement=True, generator=generator)
    z = CENTRES[which] + SPREADS[which, None] * torch.randn(n, 2, generator=generator)
    return Images((255 * (z / 20 + 0.5)).round().byte().view(n, 1, 1, 2), labels=which)


def draw(subject: Subject, sampler: str, n: int = 4000) -> Tensor:
    """Latents of the samples, `[n, D]`."""
    images = torch.cat([batch for _, batch in samplers.sample_batches(subject, sampler, n, 50)])
    return (images.flatten(1) - 0.5) * 20


def near_a_centre(z: Tensor) -> Tensor:
    return torch.cdist(z, CENTRES).amin(1) < 0.8


@pytest.fixture
def toy(tmp_path: Path) -> Subject:
    return make_subject(tmp_path, Flat(ImageSpec(1, 1, 2)), mixture(5000), mixture(2000, seed=1))


def test_the_gaussian_has_the_aggregate_posteriors_moments(toy: Subject) -> None:
    z, true = draw(toy, "gaussian", 20_000), samplers.training_latents(toy)
    assert torch.allclose(z.mean(0), true.mean(0), atol=0.05)
    assert torch.allclose(z.T.cov(), true.T.cov(), atol=0.15)
    assert true.T.cov()[0, 1].abs() > 0.3  # a diagonal fit would lose this


def test_the_mixture_is_recovered(toy: Subject) -> None:
    z = draw(toy, "gmm10")
    assert near_a_centre(z).double().mean() > 0.99
    shares = torch.cdist(z, CENTRES).argmin(1).bincount() / len(z)
    assert torch.allclose(shares, SHARES, atol=0.04)
    assert near_a_centre(draw(toy, "gaussian")).double().mean() < 0.5  # so the test above can fail


def test_the_second_stage_finds_the_clusters(toy: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "STAGE_STEPS", 500)
    monkeypatch.setattr(samplers, "SecondStage", partial(SecondStage, width=128))
    z = draw(toy, "second_stage")
    assert near_a_centre(z).double().mean() > max(0.4, 2 * near_a_centre(draw(toy, "gaussian")).double().mean())
    assert torch.allclose(torch.cdist(z, CENTRES).argmin(1).bincount() / len(z), SHARES, atol=0.06)


def draw_at_once(subject: Subject, sampler: str, n: int) -> Tensor:
    return (torch.cat([batch for _, batch in samplers.sample_batches(subject, sampler, n, n)]).flatten(1) - 0.5) * 20


def test_a_rectified_flow_finds_the_clusters(toy: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "STAGE_STEPS", 600)
    monkeypatch.setattr(samplers, "RectifiedFlow", partial(RectifiedFlow, width=128))
    z = draw_at_once(toy, "rectified_flow", 4000)
    near = near_a_centre(draw_at_once(toy, "gaussian", 4000)).double().mean()
    assert near_a_centre(z).double().mean() > max(0.3, 2 * near)
    assert torch.allclose(torch.cdist(z, CENTRES).argmin(1).bincount() / len(z), SHARES, atol=0.06)


def test_a_rectified_flow_gives_gaussian_latents_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean, covariance and the shape of each dimension, far from N(0, I)."""
    monkeypatch.setattr(samplers, "STAGE_STEPS", 300)
    monkeypatch.setattr(samplers, "RectifiedFlow", partial(RectifiedFlow, width=64))
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 3, generator=generator) @ torch.tensor([[2.0, 0, 0], [1.5, 0.7, 0], [0, 0.1, 0.6]]).T
    images = Images((255 * ((z + torch.tensor([1.0, -2.0, 3.0])) / 20 + 0.5)).round().byte().view(-1, 1, 1, 3))
    subject = make_subject(tmp_path, Flat(ImageSpec(1, 1, 3)), images)
    true, found = samplers.training_latents(subject), draw_at_once(subject, "rectified_flow", 8000)
    spread = true.std(0)
    assert ((found.mean(0) - true.mean(0)) / spread).abs().max() < 0.1
    torch.testing.assert_close(found.T.corrcoef(), true.T.corrcoef(), rtol=0, atol=0.05)
    torch.testing.assert_close(found.std(0) / spread, torch.ones(3), rtol=0, atol=0.08)
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    quantiles = [(each.quantile(shares, 0) - true.mean(0)) / spread for each in (found, true)]
    torch.testing.assert_close(*quantiles, rtol=0, atol=0.15)


@torch.no_grad()
def test_a_rectified_flow_follows_its_velocity() -> None:
    """The velocity that carries N(0, I) to N(m, s^2 I) is known: its draws are m + s z_0."""
    flow = RectifiedFlow(2)
    m, s = torch.tensor([3.0, -1.0]), 0.5

    def velocity(z: Tensor, t: Tensor) -> Tensor:  # E[z_1 - z_0 | z_t]
        variance = (1 - t) ** 2 + (t * s) ** 2
        return m + (t * s**2 - (1 - t)) / variance * (z - t * m)

    flow.velocity = velocity  # type: ignore[method-assign]
    z = flow.sample(500, torch.Generator().manual_seed(0))
    start = standard_normal((500, 2), torch.device("cpu"), torch.Generator().manual_seed(0))
    torch.testing.assert_close(z, m + s * start, rtol=0, atol=0.01)


def test_a_rectified_flow_starts_from_the_standard_normals_own() -> None:
    flow = RectifiedFlow(3)
    z = flow.sample(2000, torch.Generator().manual_seed(0))
    start = standard_normal((2000, 3), torch.device("cpu"), torch.Generator().manual_seed(0))
    torch.testing.assert_close(z, start, rtol=0, atol=0.02)
    quarter = torch.full((2000, 1), 0.25)  # there z_1 - z_0 has covariance 1/4 - 3/4 with z_t, whose variance is 10/16
    torch.testing.assert_close(flow.velocity(z, quarter), -0.8 * z)


def test_the_best_velocity_has_the_least_loss() -> None:
    """The conditional mean of z_1 - z_0, and no multiple of it; what is left over is its variance."""
    torch.manual_seed(0)
    flow, z = RectifiedFlow(2), 0.5 * torch.randn(20_000, 2) + 3

    def scaled(factor: float) -> float:
        def velocity(z: Tensor, t: Tensor) -> Tensor:
            variance = (1 - t) ** 2 + (t * 0.5) ** 2
            return factor * (3 + (t * 0.25 - (1 - t)) / variance * (z - t * 3))

        flow.velocity = velocity  # type: ignore[method-assign]
        torch.manual_seed(1)
        return flow.loss(z).item()

    assert scaled(1.0) < min(scaled(0.9), scaled(1.1))
    t = (
        torch.arange(1000) + 0.5
    ) / 1000  # per dimension 1 + s^2 less what z_t tells: (t s^2 - (1 - t))^2 / its variance
    left = 2 * (1.25 - (t * 0.25 - (1 - t)) ** 2 / ((1 - t) ** 2 + (t * 0.5) ** 2)).mean()
    assert scaled(1.0) == pytest.approx(left.item(), rel=0.05)


def test_the_second_stage_learns_its_variance() -> None:
    torch.manual_seed(0)
    stage = samplers.SecondStage(3)
    z = torch.randn(64, 3)
    stage.loss(z).backward()
    assert stage.log_gamma.grad is not None and stage.log_gamma.grad.abs() > 0
    # With u ignored and gamma 1, the bound is a Gaussian's log-likelihood: nothing may be left out.
    torch.nn.init.zeros_(stage.log_gamma)
    for layer in (stage.encoder[-1], stage.decoder[-1]):
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    expected = -torch.distributions.Normal(0, 1).log_prob(z).sum(1).mean()
    assert torch.isclose(stage.loss(z), expected)


@pytest.mark.parametrize("sampler", ["gaussian", "gmm10"])
def test_a_fitted_density_beats_a_prior_that_the_posterior_does_not_match(toy: Subject, sampler: str) -> None:
    true = (toy.data.test.pixels.flatten(1) / 255 - 0.5) * 20
    assert frechet_distance(true, draw(toy, sampler)) < 0.1
    assert frechet_distance(true, draw(toy, "prior")) > 1


def test_a_point_is_a_draw_of_its_posterior_not_its_mean(tmp_path: Path) -> None:
    black = Images(torch.full((4000, 1, 1, 2), 128, dtype=torch.uint8))
    subject = make_subject(tmp_path, Flat(ImageSpec(1, 1, 2), noise=1.0), black)
    assert torch.allclose(samplers.training_latents(subject).T.cov(), torch.eye(2), atol=0.1)
    assert torch.allclose(draw(subject, "gaussian").T.cov(), torch.eye(2), atol=0.1)


def test_a_latent_that_never_moves_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = mixture(500).pixels.clone()
    pixels[..., 1] = 128
    subject = make_subject(tmp_path, Flat(ImageSpec(1, 1, 2), noise=0.0), Images(pixels))
    monkeypatch.setattr(samplers, "STAGE_STEPS", 100)
    for sampler in ("gaussian", "gmm10", "rectified_flow"):
        z = draw(subject, sampler, 500)
        assert z.isfinite().all() and z[:, 1].std() < 0.05 and z[:, 0].std() > 1


def test_fewer_images_than_dimensions_are_no_trouble(tmp_path: Path) -> None:
    pixels = torch.randint(100, 150, (6, 1, 5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    subject = make_subject(tmp_path, Flat(ImageSpec(1, 5, 5)), Images(pixels))
    true, z = samplers.training_latents(subject), draw(subject, "gaussian", 20_000)
    assert z.isfinite().all() and torch.allclose(z.T.cov(), true.T.cov(), atol=0.15)


def test_the_prior_is_the_models_own(toy: Subject) -> None:
    _, images = next(samplers.sample_batches(toy, "prior", 10, 50))
    assert torch.equal(images, toy.model.sample(10, None, torch.Generator().manual_seed(0)).clamp(0, 1))


def test_the_prior_is_whatever_the_model_says(toy: Subject) -> None:
    toy.model.sample = lambda n, y, generator: torch.full((n, 1, 1, 2), 0.25)
    _, images = next(samplers.sample_batches(toy, "prior", 10, 50))
    assert images.eq(0.25).all()


@pytest.mark.parametrize("sampler", ["prior", "gaussian", "gmm10"])
def test_two_ranks_draw_what_one_draws(toy: Subject, sampler: str) -> None:
    whole = dict(samplers.sample_batches(toy, sampler, 230, 50))
    assert [len(whole[number]) for number in range(5)] == [50, 50, 50, 50, 30]
    assert not torch.equal(whole[0], whole[1])
    halves = [dict(samplers.sample_batches(replace(toy, accelerator=Rank(r, 2)), sampler, 230, 50)) for r in (0, 1)]
    assert [sorted(half) for half in halves] == [[0, 2, 4], [1, 3]]
    assert all(torch.equal(batch, whole[number]) for half in halves for number, batch in half.items())


@pytest.mark.parametrize("attributes", [False, True])
def test_labels_come_from_the_training_images(tmp_path: Path, attributes: bool) -> None:
    seen: list[Tensor] = []

    class Labelled(Flat):
        needs_labels = True

        def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
            assert y is not None and len(y) == len(z)
            seen.append(y)
            return super().decode(z)

    train = mixture(3000)
    spec = ImageSpec(1, 1, 2, attributes=3) if attributes else ImageSpec(1, 1, 2, classes=3)
    if attributes:
        train = replace(train, labels=torch.nn.functional.one_hot(train.labels, 3).to(torch.uint8))
    subject = make_subject(tmp_path, Labelled(spec), train, Images(train.pixels[:5]))
    for sampler in ("prior", "gaussian"):
        seen.clear()
        draw(subject, sampler, 3000)
        y = torch.cat([labels for labels in seen if len(labels) == 50])
        assert y.dtype == (torch.float32 if attributes else torch.int64)
        shares = y.mean(0) if attributes else y.bincount(minlength=3) / len(y)
        assert torch.allclose(shares, SHARES, atol=0.05)


class GridOfMeans(Flat):
    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mu, logvar = super().encode(x, y)
        return mu.view(len(x), -1, 1, 2), logvar


class Grid(Flat):
    def forward(self, x: Tensor, y: Tensor | None = None, **options: Any) -> VAEOutput:
        out = super().forward(x, y, **options)
        return VAEOutput(out.recon, out.mu, out.logvar, out.z.view(len(x), -1, 1, 2), out.logits)


@pytest.mark.parametrize("kind", [GridOfMeans, Grid])
def test_a_model_without_a_latent_vector_keeps_its_prior(tmp_path: Path, kind: type[Flat]) -> None:
    subject = make_subject(tmp_path, kind(ImageSpec(1, 1, 2)), mixture(50))
    assert len(draw(subject, "prior", 10)) == 10
    for sampler in ("gaussian", "gmm10", "second_stage", "rectified_flow"):
        with pytest.raises(UserError, match="'flat', which are not one continuous vector"):
            draw(subject, sampler, 10)


@pytest.mark.parametrize("sampler", ["gaussian", "second_stage", "rectified_flow"])
def test_one_image_has_no_density(sampler: str, tmp_path: Path) -> None:
    subject = make_subject(tmp_path, Flat(ImageSpec(1, 1, 2)), mixture(1))
    with pytest.raises(UserError, match="a density can't be fitted to the latent of a single training image"):
        draw(subject, sampler, 10)


def test_too_few_images_for_the_mixture(tmp_path: Path) -> None:
    subject = make_subject(tmp_path, Flat(ImageSpec(1, 1, 2)), mixture(9))
    with pytest.raises(UserError, match="needs at least 10 training images, not 9"):
        draw(subject, "gmm10", 10)


def test_an_unknown_sampler_is_named(toy: Subject) -> None:
    with pytest.raises(UserError, match="no sampler named 'gausian'. Did you mean 'gaussian'"):
        draw(toy, "gausian", 10)


def test_a_sampler_is_fitted_once(toy: Subject) -> None:
    calls = []
    original = toy.model.forward
    toy.model.forward = lambda *args, **options: (calls.append(1), original(*args, **options))[1]
    draw(toy, "gaussian", 100)
    before = len(calls)
    draw(toy, "gaussian", 100)
    draw(toy, "gmm10", 100)
    assert before > 0 and len(calls) == before


def test_sampling_leaves_no_graph(toy: Subject) -> None:
    toy.model.scale = torch.nn.Parameter(torch.ones(()))
    plain = toy.model.decode
    toy.model.decode = lambda z, y=None: plain(z * toy.model.scale, y)
    _, images = next(samplers.sample_batches(toy, "gaussian", 10, 50))
    assert not images.requires_grad and isinstance(toy.model(Batch(images).x).z, Tensor)


@pytest.mark.parametrize("sampler", ["gaussian", "gmm10", "second_stage", "rectified_flow"])
def test_latents_that_are_not_finite_are_told(tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "STAGE_STEPS", 2)
    subject = make_subject(tmp_path, Flat(ImageSpec(1, 1, 2), noise=float("inf")), mixture(50))
    with pytest.raises(UserError, match="the latents of the training images are not all finite"):
        draw(subject, sampler, 10)
