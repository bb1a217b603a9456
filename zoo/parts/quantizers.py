"""From vectors `[B, P, D]` to codes out of a finite set, `[B, P, D]` and their indices `[B, P]`, and back."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import ranks

REVIVED_BELOW = 0.01  # of an equal share of the positions: a code used less is moved to where it is needed
VECTORS_PER_CODE = 16  # that k-means starts from
K_MEANS_STEPS = 10
LEAST_NORM = 1e-6

Start = Literal["noise", "kmeans"]


def straight_through(x: Tensor, quantised: Tensor) -> Tensor:
    """Return `quantised`, with the gradient of x. Bengio et al. 2013, arXiv:1308.3432."""
    return x + (quantised - x).detach()


def rotated(x: Tensor, quantised: Tensor) -> Tensor:
    """Return `quantised`, as x turned and stretched onto it, both held constant. Fifty et al. 2024, arXiv:2410.06424.

    q = s (x - 2 (x.r) r + 2 (x.u) w), with u and w the directions of x and q, r that of u + w, s = |q| / |x| (equation
    4 and section 4.2). The gradient comes back turned the other way: it has with x the angle that it had with q.

    Args:
        x: `[..., D]`.
        quantised: `[..., D]`.
    """
    with torch.no_grad():
        norm, target = (each.norm(dim=-1, keepdim=True) for each in (x, quantised))
        u, w = x / norm.clamp(min=LEAST_NORM), quantised / target.clamp(min=LEAST_NORM)
        r = F.normalize(u + w, dim=-1, eps=LEAST_NORM)
        stretch = target / norm.clamp(min=LEAST_NORM)
    turned = x - 2 * (x * r).sum(-1, keepdim=True) * r + 2 * (x * u).sum(-1, keepdim=True) * w
    return straight_through(stretch * turned, quantised)  # but for rounding, it is there already


def usage_counts(indices: Tensor, codes: int) -> Tensor:
    """Count how often each code occurs: int64 of any shape -> float `[codes]`."""
    flat = indices.flatten()
    return torch.zeros(codes, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))


def perplexity(counts: Tensor) -> Tensor:
    """Exp of the entropy of the codes' shares, `[..., K]` counts -> `[...]`: K if all are used alike, 1 if one is."""
    shares = counts / counts.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


def k_means(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Move centres to the means of the vectors nearest to them, ten times; one without vectors stays.

    Args:
        x: Vectors, `[N, D]`.
        centres: Where to start, `[K, D]`.

    Returns:
        Centres `[K, D]`, and how many vectors are nearest to each, `[K]`.
    """
    counts = x.new_zeros(len(centres))
    for _ in range(K_MEANS_STEPS):
        chosen = nearest(x, centres)
        counts = usage_counts(chosen, len(centres))
        means = torch.zeros_like(centres).index_add_(0, chosen, x) / counts.clamp(min=1)[:, None]
        centres = torch.where(counts[:, None] > 0, means, centres)
    return centres, counts


def nearest(x: Tensor, centres: Tensor) -> Tensor:
    """Return the number of the centre that each vector is nearest to: `[N, D]` and `[K, D]` -> int64 `[N]`.

    In float32 whatever a run computes in: bfloat16 can't tell near centres apart, not even a centre's own.
    """
    with torch.autocast(x.device.type, enabled=False):
        distance = centres.square().sum(1) - 2 * x @ centres.T  # but for |x|^2, `[N, K]`
    return distance.argmin(1)


class NearestQuantizer(nn.Module):
    """The nearest of K vectors, `codebook`, `[K, D]`: what every such quantizer does, however its vectors learn."""

    codebook: Tensor
    learned = True  # by the gradient of the loss

    def index_of(self, x: Tensor) -> Tensor:
        """Return the index of each vector's nearest code: `[..., D]` -> int64 `[...]`."""
        return nearest(x.flatten(0, -2), self.codebook).view(x.shape[:-1])

    def codes_at(self, indices: Tensor) -> Tensor:
        """Return the codes of indices: `[...]` -> `[..., D]`."""
        return F.embedding(indices, self.codebook)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise `[B, P, D]`: codes, with a gradient to a learned codebook, and indices."""
        indices = self.index_of(x)
        return self.codes_at(indices), indices

    def see(self, x: Tensor, indices: Tensor) -> None:
        """Take note of the vectors `[B, P, D]` that chose `indices`."""

    def learn(self) -> None:
        """Follow the vectors seen since the last time, those of all ranks and micro-batches."""


class LinearQuantizer(NearestQuantizer):
    """The nearest of K vectors that are random ones for ever, seen through one learned linear map.

    SimVQ: Zhu et al. 2024, arXiv:2411.02038, section 4. Any code's loss moves the map, and so all codes: none dies.

    Args:
        codes: K.
        dim: D.
    """

    random: Tensor

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("random", torch.randn(codes, dim) * dim**-0.5)
        self.map = nn.Linear(dim, dim)

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """The codes, `[K, D]`, with a gradient to the map."""
        with torch.autocast(self.random.device.type, enabled=False):  # the same codes for whoever looks
            return self.map(self.random)


class VectorQuantizer(NearestQuantizer):
    """The nearest of K vectors. Van den Oord et al. 2017, arXiv:1711.00937, section 3 and appendix A.1.

    The codebook follows the vectors that chose it by a moving average of their sum and number ("ema"), or by the
    gradient of the loss ("gradient"). A code that hardly any vector chooses is moved onto a random one of the batch.

    Args:
        codes: K.
        dim: D.
        codebook: How it learns.
        decay: Of the moving averages.
        start: "noise", or after the first step the means of clusters of its vectors ("kmeans").
    """

    counts: Tensor
    begun: Tensor
    sums: Tensor
    seen_counts: Tensor
    seen_sums: Tensor
    picked: Tensor

    def __init__(
        self,
        codes: int,
        dim: int,
        codebook: Literal["ema", "gradient"],
        decay: float = 0.99,
        start: Start = "noise",
    ) -> None:
        super().__init__()
        self.decay = decay
        self.learned = codebook == "gradient"
        noise = torch.randn(codes, dim)
        if self.learned:
            self.codebook = nn.Parameter(noise)
        else:
            self.register_buffer("codebook", noise)
            self.register_buffer("sums", noise.clone())
        self.register_buffer("counts", torch.ones(codes))
        # What was seen since the last `learn`: how many vectors chose each code, their sum, and some of them.
        self.register_buffer("seen_counts", torch.zeros(codes), persistent=False)
        self.register_buffer("seen_sums", torch.zeros(codes, dim), persistent=False)
        picked = codes * (VECTORS_PER_CODE if start == "kmeans" else 1)
        self.register_buffer("picked", torch.zeros(picked, dim), persistent=False)
        if start == "kmeans":
            self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self._waits = start == "kmeans"

    @torch.no_grad()
    def see(self, x: Tensor, indices: Tensor) -> None:
        """Take note of the vectors `[B, P, D]` that chose `indices`."""
        flat, chosen = x.detach().flatten(0, -2), indices.flatten()
        self.seen_counts += usage_counts(chosen, len(self.codebook))
        self.seen_sums.index_add_(0, chosen, flat)
        self.picked.copy_(flat[torch.randint(len(flat), (len(self.picked),), device=flat.device)])

    @property
    def waits(self) -> bool:
        """Whether the codebook still waits for its first vectors."""
        self._waits = self._waits and not bool(self.begun)  # asks the device no more once it has begun
        return self._waits

    @torch.no_grad()
    def begin(self, x: Tensor) -> None:
        """Start from the clusters of vectors `[N, D]`, the first K of which are where their search begins."""
        centres, found = k_means(x, x[: len(self.codebook)])
        shares = found / found.sum() * ranks.summed(self.seen_counts).sum()
        self.codebook.copy_(centres)
        self.counts.copy_(shares)
        if not self.learned:
            self.sums.copy_(centres * shares[:, None])
        self.begun.fill_(True)
        self._forget()

    @torch.no_grad()
    def learn(self) -> None:
        """Follow the vectors seen since the last time, those of all ranks and micro-batches; revive what none chose."""
        if self.waits:
            self.begin(ranks.from_first(self.picked))
            return
        self.counts.lerp_(ranks.summed(self.seen_counts), 1 - self.decay)
        if not self.learned:
            self.sums.lerp_(ranks.summed(self.seen_sums), 1 - self.decay)
            # Laplace smoothing: a code without vectors keeps its place instead of dividing by zero.
            total, eps = self.counts.sum(), 1e-5
            smoothed = (self.counts + eps) / (total + len(self.counts) * eps) * total
            self.codebook.copy_(self.sums / smoothed[:, None])
        self._revive()
        self._forget()

    def _forget(self) -> None:
        for seen in (self.seen_counts, self.seen_sums, self.picked):
            seen.zero_()

    def _revive(self) -> None:
        share = self.counts.sum() / len(self.counts)
        dead = (self.counts < REVIVED_BELOW * share)[:, None]
        picked = ranks.from_first(self.picked[: len(self.codebook)])
        self.codebook.copy_(torch.where(dead, picked, self.codebook))
        self.counts.copy_(torch.where(dead[:, 0], share, self.counts))
        if not self.learned:
            self.sums.copy_(torch.where(dead, picked * share, self.sums))


class FiniteScalarQuantizer(nn.Module):
    """Each dimension rounded to a few levels. Mentzer et al. 2023, arXiv:2309.15505, section 3 and appendix A.1.

    Dimension d takes `levels[d]` values, evenly spaced on [-1, 1]; the codes are all their combinations.

    Args:
        levels: 3 or more for each dimension.
    """

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.codes = math.prod(levels)
        strides = [math.prod(levels[:d]) for d in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    def bounded(self, x: Tensor) -> Tensor:
        """Squash `[..., D]` so that rounding gives each dimension's levels, centred on 0 or half a step below."""
        half = (self.levels - 1) / 2 * (1 - 1e-3)  # a little less, lest -1/2 below the lowest be rounded down
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = (offset / half).atanh()
        return (x + shift).tanh() * half - offset

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise `[B, P, D]`: codes in [-1, 1] with a straight-through gradient, and indices."""
        bounded = self.bounded(x)
        rounded = straight_through(bounded, bounded.round())
        codes = rounded / (self.levels // 2)
        return codes, self.index_of(codes.detach())

    def index_of(self, codes: Tensor) -> Tensor:
        """Return the numbers of codes: `[..., D]` -> int64 `[...]`."""
        half = self.levels // 2
        return ((codes * half + half).round().long() * self.strides).sum(-1)

    def codes_at(self, indices: Tensor) -> Tensor:
        """Return the codes of indices: `[...]` -> `[..., D]`."""
        half = self.levels // 2
        return ((indices[..., None] // self.strides) % self.levels - half) / half


class ResidualQuantizer(nn.Module):
    """S codebooks, each of what those before it leave over. Zeghidour et al. 2021, arXiv:2107.03312, algorithm 1.

    Codes of a position come side by side, coarse to fine: P positions have P S codes, the sums of whose S are near x.

    Args:
        stages: S.
        codes: K, of each stage.
        dim: D.
        start: Of each codebook; see `VectorQuantizer`.
    """

    def __init__(self, stages: int, codes: int, dim: int, start: Start) -> None:
        super().__init__()
        self.stages = nn.ModuleList(VectorQuantizer(codes, dim, "ema", start=start) for _ in range(stages))

    @property
    def in_order(self) -> tuple[VectorQuantizer, ...]:
        """The stages."""
        return tuple(self.stages)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise `[B, P, D]`: codes `[B, P S, D]` and indices `[B, P S]`."""
        rest, codes, indices = x.detach(), [], []
        for stage in self.in_order:
            e, index = stage(rest)
            rest = rest - e
            codes.append(e)
            indices.append(index)
        return torch.stack(codes, 2).flatten(1, 2), torch.stack(indices, 2).flatten(1)

    def index_of(self, codes: Tensor) -> Tensor:
        """Return the index of each code in its stage's codebook: `[..., P S, D]` -> int64 `[..., P S]`."""
        each = codes.unflatten(-2, (-1, len(self.stages))).unbind(-2)
        return torch.stack([stage.index_of(e) for stage, e in zip(self.in_order, each, strict=True)], -1).flatten(-2)

    def codes_at(self, indices: Tensor) -> Tensor:
        """Return the codes of indices: `[..., P S]` -> `[..., P S, D]`."""
        each = indices.unflatten(-1, (-1, len(self.stages))).unbind(-1)
        return torch.stack([stage.codes_at(i) for stage, i in zip(self.in_order, each, strict=True)], -2).flatten(
            -3, -2
        )

    def see(self, x: Tensor, codes: Tensor, indices: Tensor) -> None:
        """Take note of the vectors `[B, P, D]`, and of what `forward` made of them."""
        rest = x.detach()
        each = (part.unflatten(1, (-1, len(self.stages))).unbind(2) for part in (codes, indices))
        for stage, e, index in zip(self.in_order, *each, strict=True):
            stage.see(rest, index)
            rest = rest - e

    @torch.no_grad()
    def learn(self) -> None:
        """Let each codebook follow what it saw; at the start, what the new ones before it leave over."""
        first = self.in_order[0]
        rest = ranks.from_first(first.picked).clone() if first.waits else None
        for stage in self.in_order:
            if rest is None:
                stage.learn()
                continue
            stage.begin(rest)
            rest = rest - stage.codes_at(stage.index_of(rest))


class StageSums(nn.Module):
    """From the codes of P positions, S each, to their sums: `[B, P S D]` -> `[B, P D]`."""

    def __init__(self, positions: int, stages: int, dim: int) -> None:
        super().__init__()
        self.shape = (positions, stages, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add up."""
        return x.unflatten(1, self.shape).sum(2).flatten(1)


class SignQuantizer(nn.Module):
    """The sign of each of k numbers: 2^k codes, the corners of a cube. Yu et al. 2023, arXiv:2310.05737, section 3.1.

    Args:
        bits: k.
        size: Of each number of a code.
    """

    powers: Tensor

    def __init__(self, bits: int, size: float = 1.0) -> None:
        super().__init__()
        self.codes = 2**bits
        self.size = size
        self.register_buffer("powers", 2 ** torch.arange(bits), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise `[B, P, k]`: codes, without a gradient, and indices."""
        indices = self.index_of(x)
        return self.codes_at(indices), indices

    def index_of(self, x: Tensor) -> Tensor:
        """Return the number whose binary digits are 1 where x is positive: `[..., k]` -> int64 `[...]`."""
        return ((x > 0) * self.powers).sum(-1)

    def codes_at(self, indices: Tensor) -> Tensor:
        """Return the codes of indices: `[...]` -> `[..., k]`."""
        return self.size * (2.0 * (indices[..., None] // self.powers % 2) - 1)


def sign_shares(logits: Tensor, group: int) -> list[Tensor]:
    """Return how likely each combination of signs is, a group of bits at a time, on average over vectors.

    Args:
        logits: Log odds of each bit, `[N, k]`; bits are independent, given the vector.
        group: How many bits a group has; the last may have fewer.

    Returns:
        For each group of g bits, the shares of its 2^g combinations, `[2^g]`, numbered as `SignQuantizer` does.
    """
    shares = []
    for bits in logits.split(group, 1):
        joint = bits.new_ones(len(bits), 1)
        for bit in bits.unbind(1):  # the first bit counts 1, the next 2
            on = bit.sigmoid()[:, None]
            joint = torch.cat([joint * (1 - on), joint * on], 1)
        shares.append(joint.mean(0))
    return shares


def sign_entropy(logits: Tensor) -> Tensor:
    """Entropy of independent bits with these log odds, summed over bits, nats: `[N, k]` -> `[N]`."""
    return (F.softplus(logits) - logits * logits.sigmoid()).sum(1)
