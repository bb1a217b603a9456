"""Maps from a Gaussian to what is more flexible: invertible ones, and paths along a velocity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zoo.parts.distributions import DiagonalGaussian, standard_normal

Steps = Annotated[int, Field(gt=0, le=1000)]  # one after another: more would take for ever
# From z `[k, B, D]` to f(z) `[k, B, D]` and log |det df/dz| `[k, B]`.
Flow = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass
class FlowPosterior:
    """The distribution of f(z_0), z_0 from a diagonal Gaussian: log q(z) = log q_0(z_0) - log |det df/dz_0|."""

    base: DiagonalGaussian
    flow: Flow
    logvar: None = None

    @property
    def point(self) -> Tensor:
        """Where the Gaussian's mean is taken, `[B, D]`."""
        return self.flow(self.base.point[None])[0][0]

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """Draw k latents per image, with their log density."""
        start, log_q = self.base.draw(k)
        z, log_det = self.flow(start)
        return z, log_q - log_det


def planar(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One planar step. Rezende & Mohamed 2015, arXiv:1505.05770, equations 10 to 12 and appendix A.1.

    f(z) = z + u' tanh(w.z + b), with u' = u + (m(w.u) - w.u) w / |w|^2 and m(x) = softplus(x) - 1, so that w.u' > -1
    and f can be inverted.

    Args:
        z: `[..., D]`.
        u: `[..., D]`, broadcast against z as w and b are.
        w: `[..., D]`.
        b: `[...]`.

    Returns:
        f(z) `[..., D]` and log |det df/dz| `[...]`.
    """
    wu = (w * u).sum(-1, keepdim=True)
    slack = F.softplus(wu)  # 1 + w.u', above 0
    u = u + (slack - 1 - wu) * w / w.square().sum(-1, keepdim=True).clamp(min=1e-8)
    bent = ((w * z).sum(-1) + b).tanh()  # [...]
    squared = bent.square()
    # 1 + tanh' w.u' with tanh' = 1 - tanh^2, without the difference of two numbers near 1.
    det = squared + (1 - squared) * slack[..., 0]
    return z + u * bent[..., None], det.clamp(min=1e-30).log()


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are zero for ever."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., inputs]` -> `[..., outputs]`."""
        return F.linear(x, self.weight * self.mask, self.bias)


class AutoregressiveStep(nn.Module):
    """One inverse autoregressive step. Kingma et al. 2016, arXiv:1606.04934, equations 10 and 14.

    z' = sigma z + (1 - sigma) m, where m_i and sigma_i depend on z_1 .. z_{i-1} and the context, by one masked hidden
    layer (Germain et al. 2015, arXiv:1502.03509). The Jacobian is triangular: log det = sum_i log sigma_i.

    Args:
        dim: D.
        context: Size of the context.
        width: Units in the hidden layer.
    """

    def __init__(self, dim: int, context: int, width: int) -> None:
        super().__init__()
        inputs = torch.arange(dim)
        hidden = torch.arange(width) % max(1, dim - 1)  # the last input that a unit sees
        self.hidden = MaskedLinear(hidden[:, None] >= inputs)
        self.m = MaskedLinear(inputs[:, None] > hidden)
        self.gate = MaskedLinear(inputs[:, None] > hidden)
        self.to_hidden = nn.Linear(context, width)
        self.to_m = nn.Linear(context, dim)  # what z_1 follows, which sees no other dimension
        self.to_gate = nn.Linear(context, dim)
        nn.init.constant_(self.gate.bias, 1.5)  # starts near z' = z, as the paper advises

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Take z `[k, B, D]` and context `[B, context]` to z' `[k, B, D]` and log det `[k, B]`."""
        hidden = (self.hidden(z) + self.to_hidden(h)).relu()
        m = (self.m(hidden) + self.to_m(h)).float()
        gate = (self.gate(hidden) + self.to_gate(h)).float()
        sigma = gate.sigmoid()
        return sigma * z + (1 - sigma) * m, F.logsigmoid(gate).sum(-1)


class Coupling(nn.Module):
    """One affine coupling step. Dinh et al. 2017 (Real NVP), arXiv:1605.08803, equations 4 and 5.

    Of every other dimension, u = z exp(s) + t, where s and t depend on the dimensions between, which stay. Its
    log-determinant is sum s; s is kept within [-2, 2], for z far out.

    Args:
        dim: D.
        width: Units in each of two hidden layers.
        parity: Which dimensions stay: the even ones (0) or the odd ones (1).
    """

    stays: Tensor

    def __init__(self, dim: int, width: int, parity: int) -> None:
        super().__init__()
        self.register_buffer("stays", (torch.arange(dim) % 2 == parity).float(), persistent=False)
        hidden = (nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.net = nn.Sequential(*hidden, nn.Linear(width, 2 * dim))
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)  # starts as u = z

    def _scale_and_shift(self, z: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.net(z * self.stays).float().chunk(2, -1)
        return 2 * (s / 2).tanh() * (1 - self.stays), t * (1 - self.stays)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Take z `[..., D]` to u `[..., D]` and log |det du/dz| `[...]`."""
        s, t = self._scale_and_shift(z)
        return z * s.exp() + t, s.sum(-1)

    def inverse(self, u: Tensor) -> Tensor:
        """Take u `[..., D]` back to z."""
        s, t = self._scale_and_shift(u)  # what they depend on is the same in u and z
        return (u - t) * (-s).exp()


class RectifiedFlow(nn.Module):
    """A velocity that carries N(0, I) to where latents lie. Liu et al. 2023, arXiv:2209.03003, equation 1.

    v(z_t, t) is fitted to z_1 - z_0 at z_t = (1 - t) z_0 + t z_1, z_0 ~ N(0, I), z_1 a latent, t uniform: it is their
    mean, given z_t. Draws follow dz/dt = v from t = 0 to 1. What is learned is how v differs from that of latents that
    are N(0, I) themselves, z_t (2 t - 1) / (t^2 + (1 - t)^2), from which training starts.

    Args:
        dim: D.
        width: Units in each of three hidden layers.
        frequencies: By which the layers see t: cosines and sines of so many.
    """

    times: Tensor

    def __init__(self, dim: int, width: int = 256, frequencies: int = 8) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("times", math.pi * 2.0 ** torch.arange(frequencies) / 2, persistent=False)
        widths = [dim + 2 * frequencies + 1, width, width, width]
        hidden: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            hidden += [nn.Linear(before, after), nn.SiLU()]
        self.net = nn.Sequential(*hidden, nn.Linear(width, dim))
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """v(z, t): `[B, D]` and `[B, 1]` -> `[B, D]`."""
        angles = t * self.times
        of_normal = z * (2 * t - 1) / (t.square() + (1 - t).square())
        return of_normal + self.net(torch.cat([z, t, angles.cos(), angles.sin()], 1))

    def loss(self, z: Tensor) -> Tensor:
        """|v(z_t, t) - (z_1 - z_0)|^2 of latents z_1, `[B, D]`, averaged over the batch."""
        start, t = torch.randn_like(z), torch.rand(len(z), 1, device=z.device)
        target = z - start
        return (self.velocity(start + t * target, t) - target).square().sum(1).mean()

    def sample(self, n: int, generator: torch.Generator | None = None, steps: int = 25) -> Tensor:
        """Draw z_0 and follow the velocity, by the midpoint rule: `[n, D]`."""
        z = standard_normal((n, self.dim), self.times.device, generator)
        for step in range(steps):
            t = torch.full_like(z[:, :1], step / steps)
            middle = z + self.velocity(z, t) / (2 * steps)
            z = z + self.velocity(middle, t + 1 / (2 * steps)) / steps
        return z
