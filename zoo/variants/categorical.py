"""Categorical VAE: discrete latents by Gumbel-softmax. Jang et al. 2016, arXiv:1611.01144, equation 2.

    c_p ~ q(c_p|x) = softmax(logits_p),   p = 1 .. P positions, K categories each
    z_p = softmax((logits_p + g) / t),   g ~ Gumbel(0, 1),   t falls from `temperature` to `temperature_min`
    loss = E[-log p(x|z)] + KL(q(c|x) || uniform)
    prior/loss = -log p(c),   c ~ q(c|x)

In training the decoder sees relaxed categories, whose temperature falls exponentially over the run; otherwise it sees
one-hot ones. The prior over categories, which samples are drawn from, is a small causal transformer and the second
player, trained on draws of q; recon, kl and elbo are those of one and the same hard draw, under it.

Logs:
    kl_uniform: KL of q(c|x) to the uniform distribution, which the loss has, nats per image.
    temperature: t, in force.
    perplexity: of the categories drawn in the batch.
    usage: share of the categories that the batch uses.
    prior/loss: minus log p(c) under the learned prior, nats per image.

Departs from the paper: the learned prior; on a net with a feature map each of its positions is a variable, else there
are 16 of 16 categories by default, 30 of 10 in the paper; the temperature follows the run's progress rather than a rate
per step.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.errors import UserError
from zoo.families.discrete import CategoricalPosterior, CodeVAE
from zoo.nets.batch_norm import as_evaluated


@register("categorical", net="grid")
class CategoricalVAE(CodeVAE):
    """A grid of categorical variables.

    Args:
        image: The data's shape and range.
        categories: K, values of each variable.
        temperature: Of the relaxation at the start.
        temperature_min: At the end; below `temperature`.
        **options: Those of `CodeVAE`.

    Raises:
        UserError: if the temperature would not fall.
    """

    settled = (*CodeVAE.settled, "dim")

    def __init__(
        self,
        image: ImageSpec,
        *,
        categories: PositiveInt = 16,
        temperature: PositiveFloat = 1.0,
        temperature_min: PositiveFloat = 0.5,
        **options: Any,
    ) -> None:
        if temperature_min >= temperature:
            raise UserError(
                f"model 'categorical': temperature_min is {temperature_min:g}; make it less than temperature, "
                f"{temperature:g}"
            )
        super().__init__(image, dim=categories, **options)
        self.temperature, self.temperature_min = temperature, temperature_min
        self.build_prior(categories)

    def indices_of(self, z: Tensor) -> Tensor:
        """Return the categories of latents: `[..., P K]` -> int64 `[..., P]`."""
        return z.unflatten(-1, (self.positions, self.dim)).argmax(-1)

    def codes_at(self, indices: Tensor) -> Tensor:
        """Return one-hot vectors: int64 `[B, P]` -> `[B, P, K]`."""
        return F.one_hot(indices, self.dim).float()

    def posterior(self, x: Tensor, y: Tensor | None = None) -> CategoricalPosterior:
        """Return q(c|x) of a batch."""
        return CategoricalPosterior(self.vectors(x).log_softmax(2))

    def annealed(self) -> Tensor:
        """The temperature in force."""
        return self.temperature * (self.temperature_min / self.temperature) ** self.progress

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, kl_uniform, temperature, perplexity and usage."""
        q = self.posterior(batch.x)
        hard, log_q = q.draw(1)  # [1, B, P K], [1, B]
        kl = (log_q - self.log_prior(hard))[0].detach()  # [B], of the draw, under the learned prior
        t = self.annealed()
        if self.training:
            noise = torch.empty_like(q.log_probs).exponential_()
            relaxed = ((q.log_probs - noise.log()) / t).softmax(2).flatten(1)
            recon = self.likelihood.nll(self.logits(relaxed), batch.x)  # [B], what is minimised
            with torch.no_grad(), as_evaluated(self.decoder):
                hard_recon = self.likelihood.nll(self.logits(hard[0]), batch.x)  # relaxed categories have no bound
        else:
            recon = hard_recon = self.likelihood.nll(self.logits(hard[0]), batch.x)
        kl_uniform = (q.log_probs.exp() * (q.log_probs + math.log(self.dim))).sum(2)  # [B, P]
        loss = (self.recon_weight * recon).mean() + self.kl_weight() * self.free(kl_uniform).mean()
        return {
            "loss": loss,
            **self.elbo_terms(hard_recon, kl),
            **self.code_terms(self.indices_of(hard[0])),
            "kl_uniform": kl_uniform.sum(1).mean(),
            "temperature": t.clone(),
        }
