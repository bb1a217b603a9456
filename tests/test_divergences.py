"""Distances between samples against their definitions, written out."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from zoo.parts.divergences import SCALES, Kernel, covariance, kernel_matrix, mmd, permute_dims, sliced_wasserstein

KERNELS: tuple[Kernel, ...] = ("imq", "rbf")


def kernel_of(a: Tensor, b: Tensor, kernel: Kernel) -> Tensor:
    """Tolstikhin et al. 2018, section 4 and appendix C.2, for one pair."""
    c, squared = 2 * len(a), (a - b).square().sum()
    if kernel == "rbf":
        return torch.exp(-squared / c)
    return sum((s * c / (s * c + squared) for s in SCALES), torch.zeros(()))


@pytest.mark.parametrize("kernel", KERNELS)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(1, 4), st.integers(0, 999))
def test_mmd_is_the_double_loop(kernel: Kernel, n: int, m: int, dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    a, b = torch.randn(n, dim), 1 + torch.randn(m, dim)
    expected = sum(kernel_of(a[i], a[j], kernel) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    expected += sum(kernel_of(b[i], b[j], kernel) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    expected -= 2 * sum(kernel_of(x, y, kernel) for x, y in itertools.product(a, b)) / (n * m)
    torch.testing.assert_close(mmd(a, b, kernel), torch.as_tensor(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_mmd_is_unbiased(kernel: Kernel) -> None:
    """Between samples of one distribution it is 0 on average, and below 0 about as often as above."""
    torch.manual_seed(0)
    same = torch.stack([mmd(torch.randn(8, 3), torch.randn(8, 3), kernel) for _ in range(2000)])
    assert abs(same.mean()) < 4 * same.std() / 2000**0.5
    assert 0.3 < (same < 0).double().mean() < 0.7


@pytest.mark.parametrize("kernel", KERNELS)
def test_mmd_grows_with_the_distance(kernel: Kernel) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(500, 3), torch.randn(500, 3)
    found = [mmd(a, b + shift, kernel).item() for shift in (0, 0.5, 1, 2)]
    assert found == sorted(found) and found[1] > 5 * abs(found[0])
    assert mmd(a, 3 * b, kernel) > found[1]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_positive_definite_and_symmetric(kernel: Kernel) -> None:
    torch.manual_seed(0)
    a = torch.randn(30, 4).double()
    matrix = kernel_matrix(a, a, kernel)
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    highest = 1 if kernel == "rbf" else len(SCALES)
    torch.testing.assert_close(matrix.diagonal(), torch.full((30,), float(highest)).double())


@given(st.integers(1, 20), st.integers(0, 999))
def test_on_a_line_sorting_is_the_best_transport(n: int, seed: int) -> None:
    torch.manual_seed(seed)
    a, b = torch.randn(n, 1), 2 * torch.randn(n, 1) + 1
    cost = (a - b.T).square()
    best = cost[linear_sum_assignment(cost.numpy())].mean()
    torch.testing.assert_close(sliced_wasserstein(a, b, 1), best)  # the one direction is 1 or -1


def test_sliced_distance_of_a_shift() -> None:
    """Along a unit direction v a shift s moves all by s.v, whose square is |s|^2 / D on average."""
    torch.manual_seed(0)
    a, shift = torch.randn(64, 4), torch.tensor([1.0, -2.0, 0.0, 3.0])
    found = sliced_wasserstein(a, a + shift, 20_000)
    assert found.item() == pytest.approx(shift.square().sum().item() / 4, rel=0.03)
    assert sliced_wasserstein(a, a[torch.randperm(64)], 10).item() == pytest.approx(0, abs=1e-10)


def test_covariance_is_torchs() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 3) + 5
    torch.testing.assert_close(covariance(x), torch.cov(x.T, correction=0))


def test_permuting_dimensions_keeps_marginals_and_breaks_dependence() -> None:
    torch.manual_seed(0)
    column = torch.randn(5000, 1)
    z = torch.cat([column, column, -column], 1)
    permuted = permute_dims(z)
    torch.testing.assert_close(permuted.sort(0).values, z.sort(0).values)
    correlations = torch.corrcoef(permuted.T) - torch.eye(3)
    assert correlations.abs().max() < 4 / 5000**0.5
