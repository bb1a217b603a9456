"""Densities against torch.distributions, and what each likelihood refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Laplace, Normal, kl_divergence

from zoo.base import SYMMETRIC, UNIT, ImageSpec
from zoo.errors import UserError
from zoo.parts.distributions import Likelihood, gaussian_kl, gaussian_log_prob, standard_normal

IMAGE = ImageSpec(2, 3, 5)
LOGVAR = -0.7
DENSITIES: dict[str, Any] = {
    "bce": lambda logits, mean: Bernoulli(logits=logits, validate_args=False),
    "mse": lambda logits, mean: Normal(mean, math.sqrt(0.5)),
    "l1": lambda logits, mean: Laplace(mean, 1.0),
    "gaussian": lambda logits, mean: Normal(mean, math.exp(LOGVAR / 2)),
}


def likelihood(kind: Any, activation: Any = None, range: tuple[float, float] = UNIT) -> Likelihood:
    made = Likelihood(kind, activation, ImageSpec(*IMAGE.shape, range))
    if kind == "gaussian":
        torch.nn.init.constant_(made.logvar, LOGVAR)
    return made


def logits_and_images(range: tuple[float, float] = UNIT) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    low, high = range
    return 3 * torch.randn(4, *IMAGE.shape), low + (high - low) * torch.rand(4, *IMAGE.shape)


@pytest.mark.parametrize(
    ("kind", "activation", "range"),
    [
        ("bce", "sigmoid", UNIT),
        *((kind, "sigmoid", UNIT) for kind in ("mse", "l1", "gaussian")),
        *((kind, "tanh", SYMMETRIC) for kind in ("mse", "l1", "gaussian")),
        *((kind, "none", range) for kind in ("mse", "l1", "gaussian") for range in (UNIT, SYMMETRIC)),
    ],
)
@torch.no_grad()
def test_log_prob_is_the_density_and_nll_leaves_out_a_constant(kind: str, activation: str, range: Any) -> None:
    logits, x = logits_and_images(range)
    mean = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "none": lambda logits: logits}[activation](logits)
    model = likelihood(kind, activation, range)
    expected = Independent(DENSITIES[kind](logits, mean), 3).log_prob(x)  # [4]
    torch.testing.assert_close(model.log_prob(logits, x), expected)
    torch.testing.assert_close(model.nll(logits, x) + model.constant, -expected)
    torch.testing.assert_close(model.mean(logits), mean)


def test_nll_is_the_usual_error() -> None:
    logits, x = logits_and_images()
    recon = logits.sigmoid()
    per_image = {
        "bce": F.binary_cross_entropy(recon, x, reduction="none").flatten(1).sum(1),
        "mse": (recon - x).square().flatten(1).sum(1),
        "l1": (recon - x).abs().flatten(1).sum(1),
    }
    for kind, expected in per_image.items():
        torch.testing.assert_close(likelihood(kind).nll(logits, x), expected, rtol=1e-4, atol=0)


def test_cross_entropy_stays_finite_where_sigmoid_saturates() -> None:
    logits = torch.full((1, *IMAGE.shape), 1e4, requires_grad=True)
    for sign in (1, -1):
        wrong = torch.full_like(logits, float(sign < 0))
        nll = likelihood("bce").nll(sign * logits, wrong)
        assert nll.item() == pytest.approx(1e4 * IMAGE.pixels)
        (grad,) = torch.autograd.grad(nll.sum(), logits)
        assert torch.equal(grad, torch.ones_like(grad))
        assert likelihood("bce").nll(sign * logits, 1 - wrong).item() == 0


def test_learned_variance_is_a_parameter_that_settles_at_the_mean_squared_error() -> None:
    logits, x = logits_and_images()
    model = likelihood("gaussian")
    error = (logits.sigmoid() - x).square().mean()
    torch.nn.init.constant_(model.logvar, error.log().item())
    (grad,) = torch.autograd.grad(model.nll(logits, x).mean(), model.logvar)
    assert abs(grad.item()) < 1e-4
    assert [name for name, _ in model.named_parameters()] == ["logvar"]


@pytest.mark.parametrize(("range", "activation"), [(UNIT, "sigmoid"), (SYMMETRIC, "tanh")])
def test_activation_fits_the_images_by_default(range: Any, activation: str) -> None:
    assert likelihood("mse", None, range).activation == activation


@pytest.mark.parametrize(
    ("kind", "activation", "range", "words"),
    [
        (
            "mse",
            "sigmoid",
            SYMMETRIC,
            r"out_activation 'sigmoid' covers \[0, 1\].*lie in \[-1, 1\].*data.range=\[0,1\]",
        ),
        ("l1", "tanh", UNIT, r"'tanh' covers \[-1, 1\].*lie in \[0, 1\].*data.range=\[-1,1\]"),
        ("bce", None, SYMMETRIC, r"recon 'bce' needs images in \[0, 1\].*not \[-1, 1\].*model.recon=mse"),
        ("bce", "none", UNIT, "recon 'bce' needs .* out_activation 'sigmoid', not .*'none'"),
    ],
)
def test_what_does_not_go_together_is_refused(kind: str, activation: Any, range: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        likelihood(kind, activation, range)


numbers = st.floats(-4, 4, width=32)
gaussians = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5).map(
    lambda pairs: torch.tensor(pairs, dtype=torch.float64).T[:, None]  # mu and logvar, [1, D] each
)


@given(gaussians)
def test_kl_is_that_of_torch_and_never_negative(parameters: Tensor) -> None:
    mu, logvar = parameters
    kl = gaussian_kl(mu, logvar)
    torch.testing.assert_close(kl, kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0, 1)).sum(1))
    assert kl >= -1e-12
    if parameters.abs().max() > 1e-3:
        assert kl > 1e-8


def test_kl_is_zero_for_the_standard_normal_alone() -> None:
    zero = torch.zeros(1, 3)
    assert gaussian_kl(zero, zero).item() == 0
    one = torch.tensor([[0.0, 0.1, 0.0]])
    assert gaussian_kl(one, zero).item() > 1e-3
    assert gaussian_kl(zero, one).item() > 1e-3
    assert gaussian_kl(zero, -one).item() > 1e-3


def test_kl_equals_monte_carlo() -> None:
    torch.manual_seed(0)
    mu, logvar = torch.tensor([[1.0, -0.5, 0.2], [0.0, 2.0, -1.0]]), torch.tensor([[0.5, -1.0, 0.0], [-2.0, 1.0, 0.3]])
    z = mu + (0.5 * logvar).exp() * torch.randn(100_000, 2, 3)
    estimate = (gaussian_log_prob(z, mu, logvar) - gaussian_log_prob(z)).mean(0)  # [2]
    torch.testing.assert_close(gaussian_kl(mu, logvar), estimate, rtol=0.02, atol=0)


@given(gaussians, st.floats(-5, 5))
def test_log_prob_is_that_of_torch(parameters: Tensor, shift: float) -> None:
    mu, logvar = parameters
    z = mu + shift
    expected = Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(gaussian_log_prob(z, mu, logvar), expected)
    torch.testing.assert_close(gaussian_log_prob(z[None].expand(3, -1, -1), mu, logvar), expected.expand(3, -1))
    torch.testing.assert_close(gaussian_log_prob(z), Normal(0, 1).log_prob(z).sum(-1))


def test_standard_normal_follows_its_generator() -> None:
    def draw(seed: int) -> Tensor:
        return standard_normal((2, 10_000), torch.device("cpu"), torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert draw(0).mean().abs() < 0.03 and (draw(0).std() - 1).abs() < 0.03
    torch.manual_seed(3)
    first = standard_normal((4,), torch.device("cpu"), dtype=torch.float64)
    torch.manual_seed(3)
    assert torch.equal(first, torch.randn(4, dtype=torch.float64))
