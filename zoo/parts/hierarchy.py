"""Posteriors over layers of latents, each inferred from the image and from the layer above."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.parts.distributions import gaussian_log_prob, gaussian_sample

Gaussian = tuple[Tensor, Tensor]  # mean and log variance


def merged(a: Gaussian, b: Gaussian) -> Gaussian:
    """Multiply two Gaussian densities: the mean is weighted by precision, and precisions add up (equations 17, 18)."""
    logvar = -torch.logaddexp(-a[1], -b[1])
    return (a[0] * (-a[1]).exp() + b[0] * (-b[1]).exp()) * logvar.exp(), logvar


class LadderPosterior:
    """q(z|x) of a hierarchy of Gaussian layers, drawn from the top layer down.

    Args:
        evidence: What the image says of each layer, lowest first, `[B, D_l]` each.
        prior_of: From a layer's number and the layer above to p(z_l | z_{l+1}).
    """

    logvar = None

    def __init__(self, evidence: list[Gaussian], prior_of: Callable[[int, Tensor], Gaussian]) -> None:
        self.evidence, self.prior_of = evidence, prior_of

    def descend(self, k: int | None) -> tuple[list[Tensor], list[Gaussian], list[Gaussian]]:
        """Return z, q and p of each layer, lowest first; `k` draws each, or the means."""
        zs: list[Tensor] = []
        qs: list[Gaussian] = []
        ps: list[Gaussian] = []
        for layer in reversed(range(len(self.evidence))):
            mu, logvar = (part if k is None else part.expand(k, -1, -1) for part in self.evidence[layer])
            if zs:
                p = self.prior_of(layer, zs[0])
                q = merged((mu, logvar), p)
            else:
                p, q = (torch.zeros_like(mu), torch.zeros_like(mu)), (mu, logvar)
            zs.insert(0, q[0] if k is None else gaussian_sample(*q))
            qs.insert(0, q)
            ps.insert(0, p)
        return zs, qs, ps

    @property
    def point(self) -> Tensor:
        """The mean of each layer given that of the one above, `[B, D]`."""
        return torch.cat(self.descend(None)[0], -1)

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """Draw k latents per image, with their log density."""
        zs, qs, _ = self.descend(k)
        log_q = torch.stack([gaussian_log_prob(z, *q) for z, q in zip(zs, qs, strict=True)]).sum(0)
        return torch.cat(zs, -1), log_q
