"""Codes and their indices are one-to-one; codebooks learn as their paper says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zoo.parts.quantizers import REVIVED_BELOW, FiniteScalarQuantizer, VectorQuantizer, perplexity, usage_counts

LEVELS = ([3], [4], [8, 5, 5], [6, 3, 4, 7])


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_every_index_has_its_code_and_every_code_its_index(levels: list[int]) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    indices = torch.arange(math.prod(levels))
    codes = quantizer.codes_at(indices)
    assert quantizer.codes == len(indices) == len(codes.unique(dim=0))
    assert torch.equal(quantizer.index_of(codes), indices)
    for d, n in enumerate(levels):
        values = codes[:, d].unique()
        assert len(values) == n
        torch.testing.assert_close(values.diff(), torch.full((n - 1,), 1 / (n // 2)))  # evenly spaced
        assert values.min() == -1 and values.max() <= 1


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_every_code_is_reached_and_is_a_fixed_point(levels: list[int]) -> None:
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer(levels)
    codes, indices = quantizer(3 * torch.randn(1, 100_000, len(levels)))
    assert len(indices.unique()) == quantizer.codes
    torch.testing.assert_close(codes, quantizer.codes_at(indices))
    extreme, _ = quantizer(torch.tensor([[[1e9] * len(levels), [-1e9] * len(levels)]]))
    assert len(extreme[0].unique(dim=0)) == 2 and extreme.abs().max() <= 1


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_what_is_nothing_is_bounded_to_nothing(levels: list[int]) -> None:
    """Also where an even number of levels lies unevenly around 0."""
    nothing = torch.zeros(len(levels))
    torch.testing.assert_close(FiniteScalarQuantizer(levels).bounded(nothing), nothing)


def test_rounding_passes_the_gradient_of_the_bounded_value() -> None:
    quantizer = FiniteScalarQuantizer([8, 5])
    x = torch.randn(2, 3, 2, requires_grad=True)
    (found,) = torch.autograd.grad(quantizer(x)[0].sum(), x)
    (wanted,) = torch.autograd.grad((quantizer.bounded(x) / torch.tensor([4, 2])).sum(), x)
    torch.testing.assert_close(found, wanted)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 999))
def test_the_nearest_code_is_the_nearest(codes: int, dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    quantizer, x = VectorQuantizer(codes, dim, "ema"), torch.randn(3, 5, dim)
    e, indices = quantizer(x)
    distances = (x[:, :, None] - quantizer.codebook).norm(dim=-1)  # [3, 5, K]
    torch.testing.assert_close(distances.gather(2, indices[..., None])[..., 0], distances.min(2).values)
    assert torch.equal(e, quantizer.codes_at(indices))
    assert torch.equal(quantizer.index_of(quantizer.codebook), torch.arange(codes))


def test_indices_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    quantizer, x = VectorQuantizer(16, 3, "ema").eval(), torch.randn(8, 5, 3)
    whole = quantizer.index_of(x)
    assert torch.equal(whole, torch.cat([quantizer.index_of(part) for part in x.split(3)]))


def learn_once(quantizer: VectorQuantizer, x: Tensor) -> Tensor:
    _, indices = quantizer(x)
    quantizer.see(x, indices)
    quantizer.learn()
    return indices


def test_a_moving_average_without_memory_is_a_step_of_k_means() -> None:
    torch.manual_seed(0)
    quantizer, x = VectorQuantizer(4, 2, "ema", decay=0.0), torch.randn(50, 2, 2)
    indices = learn_once(quantizer, x)
    for code in range(4):
        torch.testing.assert_close(quantizer.codebook[code], x[indices == code].mean(0), rtol=1e-3, atol=1e-4)


def test_micro_batches_are_one_step() -> None:
    torch.manual_seed(0)
    whole, parts = (VectorQuantizer(4, 2, "ema") for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    x = torch.randn(40, 2, 2)
    learn_once(whole, x)
    for part in x.split(10):
        parts.see(part, parts.index_of(part))
    parts.learn()
    for name in ("codebook", "counts", "sums"):
        torch.testing.assert_close(parts.get_buffer(name), whole.get_buffer(name))


def test_moving_averages_by_hand() -> None:
    torch.manual_seed(0)
    quantizer, x = VectorQuantizer(2, 1, "ema", decay=0.9), torch.tensor([[[1.0], [1.5], [-2.0]]])
    quantizer.codebook.copy_(torch.tensor([[1.0], [-1.0]]))
    quantizer.sums.copy_(quantizer.codebook)
    learn_once(quantizer, x)
    # counts: 0.9 + 0.1 * 2 and 0.9 + 0.1 * 1; sums: 0.9 + 0.1 * 2.5 and -0.9 - 0.1 * 2
    torch.testing.assert_close(quantizer.counts, torch.tensor([1.1, 1.0]))
    torch.testing.assert_close(quantizer.codebook, torch.tensor([[1.15 / 1.1], [-1.1]]), rtol=1e-4, atol=0)


def test_by_default_a_hundredth_of_the_averages_is_new() -> None:
    """Van den Oord et al. 2017, appendix A.1: gamma is 0.99."""
    quantizer = VectorQuantizer(2, 1, "ema")
    quantizer.codebook.copy_(torch.tensor([[1.0], [-1.0]]))
    learn_once(quantizer, torch.tensor([[[1.0], [2.0], [3.0]]]))
    torch.testing.assert_close(quantizer.counts, torch.tensor([0.99 + 0.03, 0.99]))


def test_a_revived_code_stays_where_it_was_moved_to() -> None:
    """Its sum and its number are those of an average that had been there."""
    torch.manual_seed(0)
    quantizer, x = VectorQuantizer(3, 2, "ema"), 5 + torch.randn(20, 4, 2)
    quantizer.counts.copy_(torch.tensor([50.0, 50.0, 1e-4]))
    quantizer.codebook.copy_(torch.tensor([[5.0, 4.0], [5.0, 6.0], [1e3, 1e3]]))
    quantizer.sums.copy_(quantizer.codebook * quantizer.counts[:, None])
    learn_once(quantizer, x)
    moved = quantizer.codebook[2].clone()
    assert (x - moved).norm(dim=2).min() == 0 and quantizer.counts[2] > 10
    quantizer.learn()  # of nothing
    torch.testing.assert_close(quantizer.codebook[2], moved, rtol=1e-3, atol=0)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_a_dead_code_is_moved_onto_a_vector_of_the_batch(codebook: str) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(3, 2, codebook, decay=0.5)  # type: ignore[arg-type]
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1e3, 1e3]]))
    x = torch.randn(20, 4, 2)
    assert (quantizer.index_of(x) == 2).sum() == 0
    for _ in range(math.ceil(math.log2(1 / REVIVED_BELOW)) + 8):
        learn_once(quantizer, x)
    assert (quantizer.index_of(x) == 2).sum() > 0
    assert quantizer.codebook[2].norm() < 5


def test_a_code_in_use_stays_in_its_place() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(2, 2, "gradient")
    before = quantizer.codebook.detach().clone()
    for _ in range(300):
        learn_once(quantizer, before.expand(5, -1, -1))
    assert torch.equal(quantizer.codebook, before)


def test_usage_and_perplexity_by_hand() -> None:
    counts = usage_counts(torch.tensor([[0, 0, 1], [0, 3, 1]]), 5)
    assert counts.tolist() == [3, 2, 0, 1, 0]
    entropy = -(0.5 * math.log(0.5) + math.log(1 / 3) / 3 + math.log(1 / 6) / 6)
    assert perplexity(counts).item() == pytest.approx(math.exp(entropy))
    assert perplexity(torch.ones(7)).item() == pytest.approx(7)
    assert perplexity(torch.tensor([4.0, 0.0])).item() == pytest.approx(1)
