"""β-VAE: weigh the KL by β, and let β grow. Higgins et al. 2017, ICLR, openreview.net/forum?id=Sy2fzU9gl.

    loss = E_q(z|x)[-log p(x|z)] + β(t) KL(q(z|x) || N(0, I))

β(t) rises from 0 to `beta` over the first `warmup` share of the run: linearly (Bowman et al. 2016,
arXiv:1511.06349), as half a cosine, or again and again in `cycles` (Fu et al. 2019, arXiv:1903.10145), where each
cycle rises over its own first `warmup` share.

Logs:
    beta: the weight in force.

Departs from the paper: warm-up is not in it; `warmup: 0`, the default, is the paper's constant β.
"""

from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.config import Fraction
from zoo.families.gaussian import GaussianVAE


@register("beta")
class BetaVAE(GaussianVAE):
    """The evidence lower bound with its KL weighted.

    Args:
        image: The data's shape and range.
        beta: Final weight of the KL.
        warmup: Share of the run (of each cycle) over which the weight rises from 0.
        schedule: How it rises.
        cycles: How many times, if cyclical.
        **options: Those of `GaussianVAE`.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        beta: NonNegativeFloat = 4.0,
        warmup: Fraction = 0.0,
        schedule: Literal["linear", "cosine", "cyclical"] = "linear",
        cycles: PositiveInt = 4,
        **options: Any,
    ) -> None:
        super().__init__(image, beta=beta, **options)
        self.warmup = warmup
        self.schedule = schedule
        self.cycles = cycles

    def kl_weight(self) -> Tensor | float:
        """β(t), from 0 to `beta`."""
        if not self.warmup:
            return self.beta
        # The run ends at the top of its last cycle, not at the start of another.
        t = (self.progress * self.cycles) % 1 + (self.progress == 1) if self.schedule == "cyclical" else self.progress
        risen = (t / self.warmup).clamp(max=1)
        return self.beta * (0.5 - 0.5 * (torch.pi * risen).cos() if self.schedule == "cosine" else risen)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, and the weight in force."""
        weight = self.kl_weight()
        return self.negative_elbo(batch, weight) | {"beta": torch.as_tensor(weight, device=batch.x.device)}
