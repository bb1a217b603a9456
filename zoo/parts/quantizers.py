"""From vectors `[B, P, D]` to codes out of a finite set, `[B, P, D]` and their indices `[B, P]`, and back."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import ranks

REVIVED_BELOW = 0.01  # of an equal share of the positions: a code used less is moved to where it is needed


def straight_through(x: Tensor, quantised: Tensor) -> Tensor:
    """Return `quantised`, with the gradient of x. Bengio et al. 2013, arXiv:1308.3432."""
    return x + (quantised - x).detach()


def usage_counts(indices: Tensor, codes: int) -> Tensor:
    """Count how often each code occurs: int64 of any shape -> float `[codes]`."""
    flat = indices.flatten()
    return torch.zeros(codes, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))


def perplexity(counts: Tensor) -> Tensor:
    """Exp of the entropy of the codes' shares, `[K]` counts -> scalar: K if all are used alike, 1 if one alone is."""
    shares = counts / counts.sum()
    return torch.special.entr(shares).sum().exp()


class VectorQuantizer(nn.Module):
    """The nearest of K vectors. Van den Oord et al. 2017, arXiv:1711.00937, section 3 and appendix A.1.

    The codebook follows the vectors that chose it by a moving average of their sum and number ("ema"), or by the
    gradient of the loss ("gradient"). A code that hardly any vector chooses is moved onto a random one of the batch.

    Args:
        codes: K.
        dim: D.
        codebook: How it learns.
        decay: Of the moving averages.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    seen_counts: Tensor
    seen_sums: Tensor
    picked: Tensor

    def __init__(self, codes: int, dim: int, codebook: Literal["ema", "gradient"], decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.learned = codebook == "gradient"
        start = torch.randn(codes, dim)
        if self.learned:
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
            self.register_buffer("sums", start.clone())
        self.register_buffer("counts", torch.ones(codes))
        # What was seen since the last `learn`: how many vectors chose each code, their sum, and some of them.
        self.register_buffer("seen_counts", torch.zeros(codes), persistent=False)
        self.register_buffer("seen_sums", torch.zeros(codes, dim), persistent=False)
        self.register_buffer("picked", torch.zeros(codes, dim), persistent=False)

    def index_of(self, x: Tensor) -> Tensor:
        """Return the index of each vector's nearest code: `[B, P, D]` -> int64 `[B, P]`."""
        flat = x.flatten(0, -2)
        distance = self.codebook.square().sum(1) - 2 * flat @ self.codebook.T  # but for |x|^2, `[B P, K]`
        return distance.argmin(1).view(x.shape[:-1])

    def codes_at(self, indices: Tensor) -> Tensor:
        """Return the codes of indices: `[B, P]` -> `[B, P, D]`."""
        return F.embedding(indices, self.codebook)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise `[B, P, D]`: codes, with a gradient to a learned codebook, and indices."""
        indices = self.index_of(x)
        return self.codes_at(indices), indices

    @torch.no_grad()
    def see(self, x: Tensor, indices: Tensor) -> None:
        """Take note of the vectors `[B, P, D]` that chose `indices`."""
        flat, chosen = x.detach().flatten(0, -2), indices.flatten()
        self.seen_counts += usage_counts(chosen, len(self.codebook))
        self.seen_sums.index_add_(0, chosen, flat)
        self.picked.copy_(flat[torch.randint(len(flat), (len(self.codebook),), device=flat.device)])

    @torch.no_grad()
    def learn(self) -> None:
        """Follow the vectors seen since the last time, those of all ranks and micro-batches; revive what none chose."""
        self.counts.lerp_(ranks.summed(self.seen_counts), 1 - self.decay)
        if not self.learned:
            self.sums.lerp_(ranks.summed(self.seen_sums), 1 - self.decay)
            # Laplace smoothing: a code without vectors keeps its place instead of dividing by zero.
            total, eps = self.counts.sum(), 1e-5
            smoothed = (self.counts + eps) / (total + len(self.counts) * eps) * total
            self.codebook.copy_(self.sums / smoothed[:, None])
        self._revive()
        for seen in (self.seen_counts, self.seen_sums, self.picked):
            seen.zero_()

    def _revive(self) -> None:
        share = self.counts.sum() / len(self.counts)
        dead = (self.counts < REVIVED_BELOW * share)[:, None]
        picked = ranks.from_first(self.picked)
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
