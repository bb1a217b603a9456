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
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl_per_dim


@register("beta")
class BetaVAE(GaussianVAE):
    """The evidence lower bound with its KL weighted.

    Args:
        image: The data's shape and range.
        beta: Final weight of the KL.
        schedule: How the weight rises over `warmup`, or over that share of each cycle.
        cycles: How many times, if cyclical.
        **options: Those of `GaussianVAE`.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        beta: NonNegativeFloat = 4.0,
        schedule: Literal["linear", "cosine", "cyclical"] = "linear",
        cycles: PositiveInt = 4,
        **options: Any,
    ) -> None:
        super().__init__(image, beta=beta, **options)
        self.schedule = schedule
        self.cycles = cycles

    def risen(self) -> Tensor | float:
        """β(t) / β, from 0 to 1."""
        if not self.warmup:
            return 1.0
        # The run ends at the top of its last cycle, not at the start of another.
        t = (self.progress * self.cycles) % 1 + (self.progress == 1) if self.schedule == "cyclical" else self.progress
        risen = (t / self.warmup).clamp(max=1)
        return 0.5 - 0.5 * (torch.pi * risen).cos() if self.schedule == "cosine" else risen

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, and the weight in force."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log p(x|z)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        beta = self.kl_weight()
        loss = self.recon_weight * recon + beta * self.free(kl)  # [B]
        weight = torch.as_tensor(beta, device=batch.x.device)
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1)), "beta": weight}
