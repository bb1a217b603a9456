"""Distances between batches of latents, estimated from samples. All take `[B, D]` and `[M, D]` and return a scalar."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["imq", "rbf"]

# Tolstikhin et al. 2018, appendix C.2: the scales over which the kernel is summed.
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def kernel_matrix(a: Tensor, b: Tensor, kernel: Kernel) -> Tensor:
    """Evaluate k(a_i, b_j): `[N, D]` and `[M, D]` -> `[N, M]`.

    With C = 2 D, the expected squared distance between two draws of N(0, I):

    - imq: sum over s of s C / (s C + |a - b|^2), s from 0.1 to 10, the inverse multiquadric of Tolstikhin et al. 2018
      (arXiv:1711.01558);
    - rbf: exp(-|a - b|^2 / C), a Gaussian of that bandwidth.
    """
    squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)  # [N, M]
    c = 2.0 * a.shape[1]
    if kernel == "rbf":
        return (-squared / c).exp()
    return torch.stack([s * c / (s * c + squared) for s in SCALES]).sum(0)


def mmd(a: Tensor, b: Tensor, kernel: Kernel) -> Tensor:
    """Estimate the squared maximum mean discrepancy without bias, so that it may be negative.

    Gretton et al. 2012, JMLR 13, equation 3: the mean of k over pairs of distinct a, plus that over pairs of distinct
    b, minus twice that over all pairs of one a and one b. A batch of one has no pairs: those means are left out.
    """

    def distinct(x: Tensor) -> Tensor:
        n = len(x)
        matrix = kernel_matrix(x, x, kernel)
        return (matrix.sum() - matrix.diagonal().sum()) / max(1, n * (n - 1))

    return distinct(a) + distinct(b) - 2 * kernel_matrix(a, b, kernel).mean()


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int) -> Tensor:
    """Squared 2-Wasserstein distance of one-dimensional projections, averaged. Kolouri et al. 2018, arXiv:1804.01947.

    In one dimension the best transport pairs the smallest with the smallest.

    Args:
        a: `[B, D]`.
        b: As many, `[B, D]`.
        projections: How many directions, drawn uniformly from the unit sphere.
    """
    directions = torch.randn(a.shape[1], projections, device=a.device)
    directions = directions / directions.norm(dim=0)
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).square().mean()


def covariance(x: Tensor) -> Tensor:
    """Covariance over the batch, with 1/B: `[B, D]` -> `[D, D]`."""
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


def permute_dims(z: Tensor) -> Tensor:
    """Permute each dimension over the batch on its own, `[B, D]`: a draw from the product of the marginals.

    Kim & Mnih 2018, arXiv:1802.05983, Algorithm 1.
    """
    return z.gather(0, torch.rand_like(z).argsort(0))
