"""Invertible maps that make a Gaussian posterior flexible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zoo.parts.distributions import DiagonalGaussian

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
