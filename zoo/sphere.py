"""The von Mises-Fisher distribution on the unit sphere S^{D-1}. Davidson et al. 2018, arXiv:1804.00891, section 3.

Its density is proportional to exp(kappa mu.z). The component w = mu.z has a density proportional to
exp(kappa w) (1 - w^2)^{(D-3)/2} on [-1, 1], whose integral Z(kappa) is computed by Gauss-Gegenbauer quadrature: the
weight (1 - w^2)^{(D-3)/2} is exact, exp(kappa w) is an entire function, and the result has gradients in kappa.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NODES = 128  # the error is below exp(-NODES^2 / kappa)
MAX_KAPPA = 1000.0
PROPOSALS = 16  # each accepted with a probability above 0.6 (Wood 1994): all 16 fail once in 10^6 draws or less often
STEPS = 24  # nodes of the quadrature for dw/dkappa


class Sphere(nn.Module):
    """Quadrature for one dimension.

    Args:
        dim: D, 2 or more.
    """

    nodes: Tensor
    log_weights: Tensor
    legendre: Tensor
    legendre_weights: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        from scipy.special import roots_gegenbauer, roots_legendre

        self.dim = dim
        nodes, weights = roots_gegenbauer(NODES, (dim - 2) / 2)
        s, s_weights = roots_legendre(STEPS)
        values = {"nodes": nodes, "log_weights": torch.tensor(weights).log()}
        values |= {"legendre": (s + 1) / 2, "legendre_weights": s_weights / 2}  # on [0, 1]
        for name, value in values.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), persistent=False)
        self.log_area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)

    def log_z(self, kappa: Tensor) -> Tensor:
        """Log Z(kappa): `[...]` -> `[...]`."""
        return (kappa[..., None] * self.nodes + self.log_weights).logsumexp(-1)

    def resultant(self, kappa: Tensor) -> Tensor:
        """A(kappa) = E[w] = d log Z / d kappa: `[...]` -> `[...]`."""
        return (kappa[..., None] * self.nodes + self.log_weights).softmax(-1) @ self.nodes

    def kl_to_uniform(self, kappa: Tensor) -> Tensor:
        """KL(vMF(mu, kappa) || U) = kappa A(kappa) - log Z(kappa) + log Z(0), nats: `[...]` -> `[...]`."""
        return kappa * self.resultant(kappa) - self.log_z(kappa) + self.log_weights.logsumexp(0)

    def slope(self, w: Tensor, kappa: Tensor) -> Tensor:
        """dw/dkappa at a fixed quantile of w, all `[...]`. Figurnov et al. 2018, arXiv:1805.08498, equation 8.

        It is the integral of (t - A) p(t) / p(w) over [w, 1], or minus that over [-1, w]; the side away from the mean
        is computed, with t = 1 - (1 - w) s^2, which smooths the density's end.
        """
        mean = self.resultant(kappa)
        side = torch.where(w > mean, 1.0, -1.0)
        w, mean, kappa = side * w, side * mean, side * kappa  # now the tail lies on the right
        reach = (1 - w).clamp(min=1e-7)[..., None]
        t = 1 - reach * self.legendre.square()  # [..., STEPS]
        power = (self.dim - 3) / 2
        # (1 - t^2) / (1 - w^2) = s^2 (1 + t) / (1 + w)
        bulge = ((1 + t) / (1 + w)[..., None].clamp(min=1e-7)) ** power * self.legendre ** (2 * power + 1)
        ratio = (kappa[..., None] * (t - w[..., None])).exp() * bulge
        return side * ((t - mean[..., None]) * ratio * 2 * reach * self.legendre_weights).sum(-1)

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
        norm = sphere.log_z(self.kappa) - sphere.log_weights.logsumexp(0) + sphere.log_area
        return self.kappa * along - norm

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """Draw k points per image, with their log density; gradients reach point and kappa."""
        kappa = self.kappa.detach().expand(k, -1)
        w = self._components(kappa)  # [k, B]
        w = w + (self.kappa - self.kappa.detach()) * self.sphere.slope(
            w, kappa
        )  # the value stays, the gradient is added
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
