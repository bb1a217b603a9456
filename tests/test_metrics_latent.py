"""The latent: active units, the KL per dimension, and the rate against models whose aggregate posterior is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from zoo.base import ImageSpec
from zoo.config import Config
from zoo.data import Data, Images
from zoo.data.sampler import permutation
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.metrics import latent
from zoo.metrics.core import METRICS, Subject
from zoo.metrics.latent import (
    count_active_units,
    effective_rank,
    estimate_mutual_information,
    excess_kurtosis,
    mean_kl_per_dim,
    moment_kl,
    mutual_information,
)


class KnownPosterior(GaussianVAE):
    """Image n has the posterior N(mu[n], exp(logvar)): images are numbered by their first two pixels."""

    def __init__(self, mu: Tensor, logvar: Tensor) -> None:
        super().__init__(ImageSpec(2, 1, 1), net="mlp", hidden_dims=[1], latent_dim=mu.shape[1], recon="mse")
        self.mu, self.known_logvar = mu, logvar
        self.encoded = 0

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        number = (x.flatten(1) * 255).round().long() @ torch.tensor([256, 1])
        self.encoded += len(x)
        return self.mu[number], self.known_logvar.expand(len(x), -1)


def subject_of(mu: Tensor, logvar: Tensor, tmp_path: Path) -> Subject:
    number = torch.arange(len(mu))
    images = Images(torch.stack([number // 256, number % 256], 1).byte()[:, :, None, None])
    config = Config.model_validate({"model": {"name": "mlp"}, "data": {"name": "toy"}, "steps": 1})
    data = Data("toy", images, images, images)
    return Subject(KnownPosterior(mu, logvar).eval(), data, config, Accelerator(cpu=True), tmp_path)


def value(name: str, subject: Subject, row: str | None = None) -> float:
    return METRICS.lookup(name).target(subject)[row or name].value


def test_active_units_are_counted_by_variance(tmp_path: Path) -> None:
    # Deviations of 0.12 and 0.08 have variances above and below 0.01; a standard deviation would count both.
    signs = torch.tensor([1.0, -1.0]).repeat(500)[:, None]
    mu = 5 + signs * torch.tensor([[1.0, 0.12, 0.08, 0.0]])
    assert count_active_units(mu) == 2
    row = METRICS.lookup("active_units").target(subject_of(mu, torch.zeros(4), tmp_path))["active_units"]
    assert (row.value, row.n, row.unit, row.higher_is_better) == (2, 1000, "", None)
    assert "of 4" in row.protocol


def test_kl_per_dim(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mu, logvar = torch.randn(50, 3) * torch.tensor([2.0, 1.0, 0.0]), torch.tensor([-2.0, 0.5, 0.0])
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp().expand_as(mu)), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(mean_kl_per_dim(mu, logvar.expand_as(mu)), expected)
    rows = METRICS.lookup("kl_per_dim").target(subject_of(mu, logvar, tmp_path))
    assert {name: row.value for name, row in rows.items()} == pytest.approx(
        {"kl_per_dim_max": expected.max().item(), "kl_per_dim_median": expected.median().item()}
    )
    assert rows["kl_per_dim_max"].unit == "nats"


def test_separate_posteriors_carry_their_number() -> None:
    # Five places far apart, each of many points: I = log 5, whatever the number of points.
    mu = torch.arange(5).repeat(60)[:, None] * torch.tensor([[100.0, 0.0]])
    assert estimate_mutual_information(mu, torch.zeros(300, 2)) == pytest.approx(math.log(5), abs=1e-6)
    # Every point a place of its own: log N, the most the estimate can say.
    mu = torch.arange(300.0)[:, None] * 100
    assert estimate_mutual_information(mu, torch.zeros(300, 1)) == pytest.approx(math.log(300), abs=1e-6)


def test_equal_posteriors_carry_nothing() -> None:
    mu, logvar = torch.full((300, 2), 3.0), torch.full((300, 2), -4.0)
    assert estimate_mutual_information(mu, logvar) == pytest.approx(0, abs=1e-6)


def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mu, logvar = torch.randn(250, 3), torch.randn(250, 3)
    whole = estimate_mutual_information(mu, logvar)
    monkeypatch.setattr(latent, "POINTS_PER_CHUNK", 7)
    assert estimate_mutual_information(mu, logvar) == pytest.approx(whole, rel=1e-9)


def test_rate_is_mutual_information_and_marginal_kl(tmp_path: Path) -> None:
    # Means N(1, a^2) and posteriors of variance s^2 give the aggregate posterior N(1, a^2 + s^2) in each dimension.
    n, a, s = 4000, torch.tensor([2.0, 0.7]), torch.tensor([0.5, 0.6])
    quantiles = (torch.arange(n) + 0.5) / n
    grid = Normal(0.0, 1.0).icdf(quantiles)
    shuffled = grid[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    mu = 1 + a * torch.stack([grid, shuffled], 1)
    rows = mutual_information(subject_of(mu, 2 * s.log(), tmp_path))

    aggregate = (a.square() + s.square()).sqrt()
    assert rows["mutual_information"].value == pytest.approx((aggregate / s).log().sum().item(), abs=0.05)
    marginal = kl_divergence(Normal(torch.ones(2), aggregate), Normal(0.0, 1.0)).sum().item()
    assert rows["marginal_kl"].value == pytest.approx(marginal, abs=0.05)
    rate = kl_divergence(Normal(mu, s.expand_as(mu)), Normal(0.0, 1.0)).sum(1).mean().item()
    assert rows["mutual_information"].value + rows["marginal_kl"].value == pytest.approx(rate, rel=1e-5)
    for row in rows.values():
        assert (row.n, row.unit, row.split) == (4000, "nats", "test")
        assert "N=4000" in row.protocol
        assert "log N = 8.294" in row.protocol


def test_posteriors_are_computed_once_and_of_so_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent, "POINTS", 700)
    mu = torch.full((1000, 1), 9.0)
    mu[permutation(1000, 0)[:700]] = 0
    subject = subject_of(mu, torch.zeros(1), tmp_path)
    assert value("active_units", subject) == 0  # the other 300 are left out
    assert value("kl_per_dim", subject, "kl_per_dim_max") == 0
    model = subject.model
    assert isinstance(model, KnownPosterior)
    assert model.encoded == 700
    assert value("mutual_information", subject, "marginal_kl") == pytest.approx(0, abs=1e-6)


# ---- how latents are distributed


def test_moments_of_gaussians_give_their_divergence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shift, scale = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([1.0, 0.5, 3.0])
    z = torch.randn(200_000, 3, dtype=torch.float64)
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T  # mean 0 and covariance I, exactly
    expected = kl_divergence(Normal(shift, scale), Normal(0.0, 1.0)).sum().item()
    assert moment_kl(shift + z * scale) == pytest.approx(expected)
    assert moment_kl(z) == pytest.approx(0, abs=1e-9)
    assert moment_kl(torch.cat([z, z[:, :1]], 1)) > 10, "a subspace"
    # The posterior's own spread counts: q(z) of means with variance 0.75 and posteriors of variance 0.25 is N(0, I).
    subject = subject_of(z[:5000].float() * 0.75**0.5, torch.full((3,), 0.25).log(), tmp_path)
    assert value("gaussianity", subject, "latent_moment_kl") < 10 * 3 * 6 / (4 * 5000)
    narrow = subject_of(z[:5000].float() * 0.75**0.5, torch.full((3,), -20.0), tmp_path)
    expected = 1.5 * (0.75 - 1 - math.log(0.75))
    assert value("gaussianity", narrow, "latent_moment_kl") == pytest.approx(expected, rel=0.5)


def test_kurtosis_of_known_distributions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    n = 400_000
    laplace = torch.distributions.Laplace(0.0, 1.0).sample((n,))
    z = torch.stack([torch.randn(n), torch.rand(n), laplace, torch.zeros(n)], 1) * 7 + 3
    torch.testing.assert_close(excess_kurtosis(z).float(), torch.tensor([0.0, -1.2, 3.0]), rtol=0, atol=0.15)
    uniform = subject_of(12**0.5 * (torch.rand(5000, 2) - 0.5), torch.full((2,), -20.0), tmp_path)
    assert value("gaussianity", uniform, "latent_kurtosis") == pytest.approx(1.2, abs=0.1)


def test_latents_of_a_subspace_have_no_density(tmp_path: Path) -> None:
    mu = torch.randn(50, 1) * torch.ones(1, 60)  # and fewer images than dimensions
    subject = subject_of(mu, torch.full((60,), -1e4), tmp_path)
    with pytest.raises(UserError, match="the latents of 50 test images lie in a subspace of the 60 dimensions"):
        value("gaussianity", subject)


@pytest.mark.parametrize("variances", [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0], [0.0] * 4])
def test_the_effective_rank_counts_directions(variances: list[float], tmp_path: Path) -> None:
    torch.manual_seed(0)
    signs = torch.tensor([[(number >> bit & 1) * 2.0 - 1 for bit in range(4)] for number in range(16)])
    turned = torch.linalg.qr(torch.randn(4, 4))[0]
    mu = (signs * torch.tensor(variances).sqrt()) @ turned
    shares = [variance / sum(variances) for variance in variances if variance]
    expected = math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0
    assert effective_rank(mu) == pytest.approx(expected, abs=1e-5)
    assert value("spectrum", subject_of(mu, torch.zeros(4), tmp_path), "effective_rank") == pytest.approx(
        expected, abs=1e-5
    )


# ---- a linear classifier of the latent


def probed(mu: Tensor, y: Tensor | None, tmp_path: Path) -> Subject:
    """A model whose latents are known, and labels; every third image is for the test."""
    subject = subject_of(mu, torch.zeros(mu.shape[1]), tmp_path)
    pixels = subject.data.test.pixels
    test = torch.arange(len(mu)) % 3 == 0
    train, test_split = (Images(pixels[part], None if y is None else y[part]) for part in (~test, test))
    return replace(subject, data=Data("toy", train, test_split, test_split))


def test_a_linear_probe_finds_classes_that_a_plane_divides(tmp_path: Path) -> None:
    torch.manual_seed(0)
    y = torch.randint(4, (900,))
    noise = torch.randn(900, 6)
    apart = noise * 0.1 + torch.nn.functional.one_hot(y, 6)
    assert value("linear_probe", probed(apart * torch.tensor([1e-3, 1, 1e3, 1, 1, 0]), y, tmp_path)) == 1
    chance = METRICS.lookup("linear_probe").target(probed(noise, y, tmp_path))["linear_probe"]
    assert 0.15 < chance.value < 0.35 and chance.higher_is_better and chance.n == 300
    assert chance.se == pytest.approx((chance.value * (1 - chance.value) / 300) ** 0.5, rel=0.01)


def test_a_linear_probe_weighs_both_values_of_an_attribute_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    seen, rare = torch.rand(900) < 0.5, torch.rand(900) < 0.05
    y = torch.stack([seen, rare, torch.zeros(900, dtype=torch.bool)], 1).float()
    mu = torch.cat([(2.0 * y[:, :1] - 1), torch.randn(900, 3)], 1)
    row = METRICS.lookup("linear_probe").target(probed(mu, y, tmp_path))["linear_probe"]
    assert "mean over 2 attributes" in row.protocol, "the third has no image with it"
    assert row.value == pytest.approx((1 + 0.5) / 2, abs=0.12), "all right of the one, chance of the other"


def test_a_linear_probe_needs_labels_that_the_model_is_not_told(tmp_path: Path) -> None:
    mu = torch.randn(30, 2)
    with pytest.raises(UserError, match="the data has no labels"):
        value("linear_probe", probed(mu, None, tmp_path))
    with pytest.raises(UserError, match="all training images have one label"):
        value("linear_probe", probed(mu, torch.zeros(30, dtype=torch.long), tmp_path))
    told = probed(mu, torch.arange(30) % 2, tmp_path)
    told.model.needs_labels = True
    with pytest.raises(UserError, match="the model is told the label"):
        value("linear_probe", told)
