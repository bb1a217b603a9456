"""The von Mises-Fisher distribution against SciPy, quadrature and sampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from scipy.special import gammaln, ive
from scipy.stats import vonmises_fisher

from zoo.parts.sphere import MAX_KAPPA, Sphere, VonMisesFisher

DIMS = (2, 3, 5, 20, 100)
KAPPAS = (0.01, 1.0, 10.0, 100.0, MAX_KAPPA)


def ball(dim: int, kappa: float, n: int = 1) -> VonMisesFisher:
    torch.manual_seed(0)
    return VonMisesFisher(F.normalize(torch.randn(n, dim), dim=1), torch.full((n,), kappa), Sphere(dim))


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("dim", DIMS)
def test_kl_against_quadrature(dim: int, kappa: float) -> None:
    """KL = integral of p(w) log p(w) / p_0(w) over the component along the mean."""
    angles = np.linspace(0, math.pi, 100_001)[1:-1]

    def log_density(angle: float) -> float:
        return kappa * (math.cos(angle) - 1) + (dim - 2) * math.log(math.sin(angle))

    logs = [log_density(angle) for angle in angles]
    mode, highest = angles[np.argmax(logs)], max(logs)

    def integral(f: Callable[[float], float]) -> float:
        def integrand(angle: float) -> float:
            return math.exp(log_density(angle) - highest) * f(math.cos(angle))

        reach = 12 / math.sqrt(kappa + dim)
        points = [max(mode - reach, 1e-9), mode, min(mode + reach, math.pi - 1e-9)]
        return quad(integrand, 0, math.pi, points=points, limit=1000)[0]

    z = integral(lambda w: 1.0)  # times exp(kappa - highest)
    log_z0 = 0.5 * math.log(math.pi) + gammaln((dim - 1) / 2) - gammaln(dim / 2)
    expected = integral(lambda w: kappa * (w - 1)) / z - math.log(z) - highest + log_z0
    assert Sphere(dim).kl_to_uniform(torch.tensor(kappa)).item() == pytest.approx(expected, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("dim", DIMS)
def test_resultant_is_the_ratio_of_bessel_functions(dim: int, kappa: float) -> None:
    expected = ive(dim / 2, kappa) / ive(dim / 2 - 1, kappa)
    assert 1 - Sphere(dim).shortfall(torch.tensor(kappa)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 10])
@pytest.mark.parametrize("kappa", [0.5, 5.0, 200.0])
def test_log_prob_is_scipys(dim: int, kappa: float) -> None:
    q = ball(dim, kappa, 4)
    z, log_q = q.draw(3)
    expected = [
        [
            vonmises_fisher(mu.double().numpy() / np.linalg.norm(mu.double()), kappa).logpdf(
                point.double().numpy() / np.linalg.norm(point.double())
            )
            for mu, point in zip(q.point, row, strict=True)
        ]
        for row in z
    ]
    np.testing.assert_allclose(log_q.numpy(), np.array(expected), atol=2e-3)


@pytest.mark.parametrize("kappa", [0.01, 3.0, 50.0, MAX_KAPPA])
@pytest.mark.parametrize("dim", [2, 3, 20])
def test_draws_have_the_mean_resultant_length(dim: int, kappa: float) -> None:
    q = ball(dim, kappa)
    z = q.draw(40_000)[0][:, 0]
    torch.testing.assert_close(z.norm(dim=1), torch.ones(40_000))
    along = z @ q.point[0]
    a = 1 - Sphere(dim).shortfall(torch.tensor(kappa)).item()
    assert along.mean().item() == pytest.approx(a, abs=5 * along.std().item() / 200)
    across = z.mean(0) - along.mean() * q.point[0]
    assert across.norm().item() < 5 * math.sqrt((1 - along.square().mean().item()) / 40_000)


@pytest.mark.parametrize("dim", [2, 3, 8, 40])
@pytest.mark.parametrize("kappa", [0.5, 8.0, 300.0])
def test_draws_carry_the_gradient_of_their_mean(dim: int, kappa: float) -> None:
    """d/dkappa of the sample mean of mu.z estimates A'(kappa)."""
    sphere = Sphere(dim)
    k = torch.tensor([kappa], requires_grad=True)
    q = VonMisesFisher(F.normalize(torch.ones(1, dim), dim=1), k, sphere)
    torch.manual_seed(0)
    (z, _), exact = q.draw(40_000), torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad((z[:, 0] @ q.point[0]).mean(), k)
    (wanted,) = torch.autograd.grad(-Sphere(dim).double().shortfall(exact), exact)
    assert found.item() == pytest.approx(wanted.item(), rel=0.05)


@pytest.mark.parametrize("dim", [3, 6])
def test_uniform_draws_have_no_direction(dim: int) -> None:
    z = Sphere(dim).uniform(40_000, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert z.mean(0).norm() < 5 / 200
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(dim) / dim, atol=0.02, rtol=0)
    fourth = z**4  # of mean 3 / (D (D + 2)); a cube's points, projected onto the sphere, have less
    assert (fourth.mean(0) - 3 / (dim * (dim + 2))).abs().max() < 5 * fourth.std(0).max() / 200
