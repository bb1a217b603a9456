"""The von Mises-Fisher distribution on the unit sphere S^{D-1}. Davidson et al. 2018, arXiv:1804.00891, section 3.

Its density is proportional to exp(kappa mu.z). The component w = mu.z = cos(theta) has a density proportional to
exp(kappa (w - 1)) sin(theta)^(D-2) in theta, whose integral Z(kappa) is computed by Gauss-Legendre quadrature around
its mode. That holds where Bessel functions underflow, and has gradients in kappa.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

NODES = 64
REACH = 10.0  # standard deviations on either side of the mode: beyond lies less than e^-50
MAX_KAPPA = 1000.0
PROPOSALS = 16  # each accepted with a probability above 0.6 (Wood 1994): all 16 fail once in 10^6 draws or less often


class Sphere(nn.Module):
    """Quadrature for one dimension.

    Args:
        dim: D, 2 or more.
    """

    nodes: Tensor
    log_weights: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        self.register_buffer("nodes", torch.tensor((nodes + 1) / 2).float(), persistent=False)  # on [0, 1]
        self.register_buffer("log_weights", torch.tensor(weights / 2).log().float(), persistent=False)
        self.log_area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
        # Z(0) is the Beta function at 1/2 and (D - 1) / 2.
        self.log_z0 = 0.5 * math.log(math.pi) + math.lgamma((dim - 1) / 2) - math.lgamma(dim / 2)

    def rule(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - w at nodes, and the logarithm of weight times density, each `[..., NODES]`.

        The density here is exp(kappa (w - 1)) sin(theta)^(D-2), and integrates to Z(kappa) exp(-kappa).
        """
        fixed, m = kappa.detach()[..., None], self.dim - 2
        # cos of the mode, from kappa sin^2 = m cos; and the curvature of the logarithm there.
        cos = 2 * fixed / (m + (m**2 + 4 * fixed.square()).sqrt()).clamp(min=1e-30)
        curvature = fixed * cos + (m / (1 - cos.square()).clamp(min=1e-30) if m else 0)
        mode, reach = cos.clamp(max=1).acos(), REACH * curvature.rsqrt()
        low, high = (mode - reach).clamp(min=0), (mode + reach).clamp(max=math.pi)
        theta = low + (high - low) * self.nodes
        below = 2 * (theta / 2).sin().square()  # 1 - w, exact near w = 1
        log_f = (
            self.log_weights + (high - low).log() - kappa[..., None] * below + m * theta.sin().clamp(min=1e-30).log()
        )
        return below, log_f

    def log_z(self, kappa: Tensor) -> Tensor:
        """Log Z(kappa) - kappa: `[...]` -> `[...]`."""
        return self.rule(kappa)[1].logsumexp(-1)

    def shortfall(self, kappa: Tensor) -> Tensor:
        """1 - A(kappa), A = E[w] = d log Z / d kappa the mean resultant length: `[...]` -> `[...]`."""
        below, log_f = self.rule(kappa)
        return (log_f.softmax(-1) * below).sum(-1)

    def kl_to_uniform(self, kappa: Tensor) -> Tensor:
        """KL(vMF(mu, kappa) || U) = kappa A(kappa) - log Z(kappa) + log Z(0), nats: `[...]` -> `[...]`."""
        return self.log_z0 - kappa * self.shortfall(kappa) - self.log_z(kappa)

    def slope(self, w: Tensor, kappa: Tensor) -> Tensor:
        """dw/dkappa at a fixed quantile of w, all `[...]`. Figurnov et al. 2018, arXiv:1805.08498, equation 8.

        It is the integral of (t - A) p(t) / p(w) over [w, 1], or minus that over [-1, w]; the side away from the mean
        is computed, as far as the density reaches.
        """
        below, log_f = self.rule(kappa)
        shares = log_f.softmax(-1)
        shortfall = (shares * below).sum(-1)
        deviation = (shares * (below - shortfall[..., None]).square()).sum(-1).sqrt()
        mean = 1 - shortfall
        side = torch.where(w > mean, 1.0, -1.0)
        w, mean, kappa = side * w, side * mean, side * kappa  # now the tail lies on the right
        whole = (1 - w).clamp(min=1e-7)
        reach = torch.minimum(whole, REACH * deviation + 2 * REACH / kappa.abs())
        # t = 1 - (1 - w) s^2, which smooths the density's end; s falls from 1, where t = w.
        first = (1 - reach / whole).sqrt()[..., None]
        s = first + (1 - first) * self.nodes
        t = 1 - whole[..., None] * s.square()
        power = (self.dim - 3) / 2
        # (1 - t^2) / (1 - w^2) = s^2 (1 + t) / (1 + w)
        bulge = ((1 + t) / (1 + w)[..., None].clamp(min=1e-7)) ** power * s ** (2 * power + 1)
        ratio = (kappa[..., None] * (t - w[..., None])).exp() * bulge * 2 * whole[..., None] * (1 - first)
        return ((t - mean[..., None]) * ratio * self.log_weights.exp()).sum(-1)

    def uniform(self, n: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the uniform distribution on the sphere: `[n, D]`."""
        source = device if generator is None else generator.device
        return F.normalize(torch.randn(n, self.dim, generator=generator, device=source).to(device), dim=1)


@dataclass
class VonMisesFisher:
    """VMF(point, kappa): points `[B, D]` on the sphere, kappa `[B]`."""

    point: Tensor
    kappa: Tensor
    sphere: Sphere
    logvar: None = None

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density on the sphere, nats: `[..., B, D]` -> `[..., B]`."""
        sphere = self.sphere
        along = (z * self.point).sum(-1)
        return self.kappa * (along - 1) - sphere.log_z(self.kappa) + sphere.log_z0 - sphere.log_area

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """Draw k points per image, with their log density; gradients reach point and kappa."""
        kappa = self.kappa.detach().expand(k, -1)
        w = self._components(kappa)  # [k, B]
        if self.kappa.requires_grad:  # the value stays, the gradient is added
            w = w + (self.kappa - self.kappa.detach()) * self.sphere.slope(w, kappa)
        tangent = F.normalize(torch.randn(*w.shape, self.sphere.dim - 1, device=w.device), dim=-1)
        across = (1 - w.square()).clamp(min=1e-7).sqrt()[..., None] * tangent
        z = self._rotated(torch.cat([w[..., None], across], -1))
        return z, self.log_prob(z)

    def _components(self, kappa: Tensor) -> Tensor:
        """Draw w by rejection, the first accepted of a fixed number of proposals. Wood 1994; Ulrich 1984."""
        m = self.sphere.dim - 1
        b = m / (2 * kappa + (4 * kappa.square() + m**2).sqrt())
        x = (1 - b) / (1 + b)
        c = kappa * x + m * torch.log1p(-x.square())
        shape = (PROPOSALS, *kappa.shape)
        # Beta(m/2, m/2) as a ratio of Gammas.
        gammas = torch._standard_gamma(torch.full((2, *shape), m / 2, device=kappa.device))
        eps = (gammas[0] / gammas.sum(0).clamp(min=1e-30)).clamp(0, 1)
        w = (1 - (1 + b) * eps) / (1 - (1 - b) * eps)
        accepted = (
            kappa * w + m * torch.log1p(-(x * w).clamp(max=1 - 1e-7)) - c
            >= torch.rand(shape, device=kappa.device).log()
        )
        first = accepted.byte().argmax(0, keepdim=True)  # 0 where none was
        return w.gather(0, first).squeeze(0).clamp(-1, 1)

    def _rotated(self, z: Tensor) -> Tensor:
        """Reflect the first axis onto the point: `[k, B, D]`. A Householder reflection."""
        first = torch.zeros_like(self.point)
        first[:, 0] = 1
        normal = F.normalize(first - self.point, dim=1)
        return z - 2 * (z * normal).sum(-1, keepdim=True) * normal
