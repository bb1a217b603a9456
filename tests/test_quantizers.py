"""Codes and their indices are one-to-one; codebooks learn as their paper says."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zoo.parts.quantizers import (
    REVIVED_BELOW,
    FiniteScalarQuantizer,
    LinearQuantizer,
    ResidualQuantizer,
    SignQuantizer,
    VectorQuantizer,
    k_means,
    perplexity,
    rotated,
    sign_entropy,
    sign_shares,
    usage_counts,
)

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


@pytest.mark.parametrize("kind", [VectorQuantizer, LinearQuantizer])
def test_a_code_has_its_own_index_in_every_precision(kind: type[VectorQuantizer | LinearQuantizer]) -> None:
    """Codes that lie close together, far from 0: bfloat16 takes one for another."""
    torch.manual_seed(0)
    quantizer = LinearQuantizer(128, 8) if kind is LinearQuantizer else VectorQuantizer(128, 8, "ema")
    with torch.no_grad():
        if isinstance(quantizer, LinearQuantizer):
            quantizer.random.div_(10).add_(1)
        else:
            quantizer.codebook.copy_(1 + 0.1 * torch.randn(128, 8))
    codes = quantizer.codebook.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.codebook, codes)
        assert torch.equal(quantizer.index_of(codes), torch.arange(128))


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


# ---- the rotation trick


def directions(dim: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(20, dim).double(), 3 * torch.randn(20, dim).double()


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_what_is_rotated_is_the_code_by_a_rotation_and_a_stretch(dim: int) -> None:
    x, q = directions(dim)
    x[0] = -2 * q[0]  # opposite
    for each, code in zip(x, q, strict=True):
        matrix = torch.autograd.functional.jacobian(lambda x, code=code: rotated(x, code), each)
        torch.testing.assert_close(matrix @ each, code, rtol=0, atol=1e-6)
        torch.testing.assert_close(rotated(each, code), code, rtol=0, atol=1e-12)
        stretch = code.norm() / each.norm()
        if dim > 1 and each is not x[0] and (each @ code) > -each.norm() * code.norm() * (1 - 1e-9):
            turn = matrix / stretch
            torch.testing.assert_close(turn @ turn.T, torch.eye(dim).double(), rtol=0, atol=1e-6)
            assert torch.linalg.det(turn).item() == pytest.approx(1)


def test_a_gradient_keeps_its_angle_through_a_rotation() -> None:
    """The angle that it has with the code, it has with the vector; straight through, it would have another."""
    x, q = directions(4)
    x.requires_grad_()
    at_code = torch.randn_like(q)
    (at_vector,) = torch.autograd.grad((rotated(x, q) * at_code).sum(), x)
    wanted, found = (torch.cosine_similarity(a, b) for a, b in ((at_code, q), (at_vector, x)))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(at_vector.norm(dim=1), at_code.norm(dim=1) * q.norm(dim=1) / x.norm(dim=1))
    assert (torch.cosine_similarity(at_code, x) - wanted).abs().max() > 0.1


def test_a_vector_of_zeros_is_rotated_to_its_code_too() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    code = torch.randn(2, 3)
    found = rotated(x, code)
    torch.testing.assert_close(found, code)
    assert torch.autograd.grad(found.sum(), x)[0].isfinite().all()


# ---- SimVQ


def test_one_vector_moves_all_codes_of_a_linear_codebook() -> None:
    torch.manual_seed(0)
    quantizer, x = LinearQuantizer(20, 4), torch.randn(1, 1, 4)
    before = quantizer.codebook.detach().clone()
    (quantizer(x)[0] - x).square().sum().backward()
    assert {name for name, p in quantizer.named_parameters() if p.grad is not None} == {"map.weight", "map.bias"}
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter -= 0.1 * parameter.grad  # type: ignore[operator]
    assert ((quantizer.codebook - before).norm(dim=1) > 1e-3).all()
    moved = VectorQuantizer(20, 4, "gradient")
    (moved(x)[0] - x).square().sum().backward()
    assert (moved.codebook.grad.norm(dim=1) > 0).sum() == 1  # type: ignore[union-attr]


# ---- k-means


def clusters(n: int = 400) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 7.0]])
    return centres, (centres[torch.arange(n) % 3] + 0.1 * torch.randn(n, 2))[:, None]


def test_k_means_finds_clusters_and_leaves_a_centre_without_vectors() -> None:
    centres, x = clusters()
    far = torch.tensor([[100.0, 100.0]])
    found, counts = k_means(x[:, 0], torch.cat([x[:3, 0] + 1, far]))
    torch.testing.assert_close(found[:3], centres, rtol=0, atol=0.05)
    assert torch.equal(found[3:], far) and counts.tolist() == [134, 133, 133, 0]


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_a_codebook_starts_from_the_first_steps_clusters_once(codebook: str) -> None:
    centres, x = clusters()
    quantizer = VectorQuantizer(12, 2, codebook, start="kmeans")  # type: ignore[arg-type]
    before = quantizer.codebook.detach().clone()
    learn_once(quantizer, x)
    assert (
        torch.cdist(quantizer.codebook, centres).min(1).values.max() < 1 < torch.cdist(before, centres).min(1)[0].max()
    )
    assert quantizer.counts.sum().item() == pytest.approx(400)
    if codebook == "ema":
        torch.testing.assert_close(quantizer.sums, quantizer.codebook * quantizer.counts[:, None])
    resumed = VectorQuantizer(12, 2, codebook, start="kmeans")  # type: ignore[arg-type]
    resumed.load_state_dict(quantizer.state_dict())
    for each in (quantizer, resumed):
        at = each.codebook.detach().clone()
        learn_once(each, x + 3)
        assert (each.codebook - at).norm(dim=1).median() < 0.1, "the second step moves it as any other does"


# ---- residual codes


def residual(stages: int = 4, start: str = "kmeans") -> tuple[ResidualQuantizer, Tensor]:
    torch.manual_seed(0)
    quantizer, x = ResidualQuantizer(stages, 16, 3, start), torch.randn(300, 2, 3)  # type: ignore[arg-type]
    for _ in range(30 if start == "kmeans" else 300):
        codes, indices = quantizer(x)
        quantizer.see(x, codes, indices)
        quantizer.learn()
    return quantizer, x


@pytest.mark.parametrize("start", ["kmeans", "noise"])
def test_each_stage_leaves_less_over(start: str) -> None:
    quantizer, x = residual(start=start)
    codes, indices = quantizer(x)
    each = codes.unflatten(1, (2, 4))
    errors = [(x - each[:, :, :stages].sum(2)).square().sum(2).mean().item() for stages in range(5)]
    assert all(after < 0.5 * before for before, after in itertools.pairwise(errors)), errors
    assert indices.shape == (300, 8)


def test_a_stage_quantises_what_those_before_it_leave_over() -> None:
    quantizer, x = residual(3)
    codes, indices = quantizer(x)
    rest = x
    for number, stage in enumerate(quantizer.in_order):
        e, index = stage(rest)
        torch.testing.assert_close(codes.unflatten(1, (2, 3))[:, :, number], e)
        assert torch.equal(indices.unflatten(1, (2, 3))[:, :, number], index)
        rest = rest - e
    assert torch.equal(quantizer.index_of(codes), indices) and torch.equal(quantizer.codes_at(indices), codes)


def test_residual_codebooks_start_from_clusters_of_what_is_left_over() -> None:
    """After one step each stage has come nearer, which codebooks of noise would not."""
    torch.manual_seed(0)
    quantizer, x = ResidualQuantizer(3, 16, 3, "kmeans"), 5 + torch.randn(300, 2, 3)
    codes, indices = quantizer(x)
    quantizer.see(x, codes, indices)
    quantizer.learn()
    each = quantizer(x)[0].unflatten(1, (2, 3))
    errors = [(x - each[:, :, :stages].sum(2)).square().sum(2).mean().item() for stages in range(4)]
    assert all(after < 0.7 * before for before, after in itertools.pairwise(errors)), errors


# ---- signs


@pytest.mark.parametrize("bits", [1, 3, 10])
def test_numbers_and_signs_are_one_to_one(bits: int) -> None:
    quantizer = SignQuantizer(bits, 0.5)
    indices = torch.arange(2**bits)
    codes = quantizer.codes_at(indices)
    assert quantizer.codes == len(codes.unique(dim=0)) == 2**bits
    assert torch.equal(codes.abs(), torch.full_like(codes, 0.5))
    assert torch.equal(quantizer.index_of(codes), indices)
    x = torch.randn(4, 5, bits)
    found, index = quantizer(x)
    assert torch.equal(found, 0.5 * x.sign()) and torch.equal(quantizer.codes_at(index), found)


def test_entropies_of_signs_are_those_of_all_combinations() -> None:
    """Brute force over 2^k codes, by their distance; the average's entropy is exact within a group."""
    torch.manual_seed(0)
    bits, temperature = 5, 0.7
    z = torch.randn(50, bits).double()
    codes = SignQuantizer(bits).codes_at(torch.arange(2**bits)).double()
    q = (-torch.cdist(z, codes).square() / temperature).softmax(1)  # [N, 2^k]
    logits = 4 * z / temperature
    torch.testing.assert_close(sign_entropy(logits), torch.special.entr(q).sum(1))
    (shares,) = sign_shares(logits, bits)
    torch.testing.assert_close(shares, q.mean(0))
    parts = sign_shares(logits, 2)
    assert [len(part) for part in parts] == [4, 4, 2]
    first = torch.stack([q[:, torch.arange(2**bits) % 4 == pair].sum(1) for pair in range(4)], 1).mean(0)
    torch.testing.assert_close(parts[0], first)
    bound = sum(torch.special.entr(part).sum() for part in parts)
    assert bound >= torch.special.entr(q.mean(0)).sum()
