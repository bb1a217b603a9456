"""Binary spherical quantisation: signs of a point on a sphere. Zhao et al. 2024, arXiv:2406.07548, section 3.2.

    u = z / |z|,   e_d = sign(u_d) / sqrt(k),   q(c|x) prop. to exp(`sharpness` c.u) over all c in {-1, 1}^k / sqrt(k)
    loss = -log p(x|e) + `entropy_weight` P (E[H(q(c|x))] - `spread_weight` H(E[q(c|x)])),   for each of P positions
    prior/loss = -log p(codes)

Point and code lie on one sphere, hence |u - e|^2 < 2 - 2 / sqrt(k): there is nothing to commit to. The first entropy
makes each position sure of its code; the second, of the average over a batch and its positions, makes use of all codes.
Given the image, bits are independent, with log odds 2 `sharpness` u_d / sqrt(k). The decoder's gradient passes e
straight to u. The prior over codes, which samples are drawn from, is a small causal transformer and the second player;
with it, log p(x) >= log p(x|e) + log p(codes), as the posterior is a point.

Logs:
    entropy: P E[H(q(c|x))], of the codes of an image, nats.
    codebook_entropy: P H(E[q(c|x)]), of the average over images and positions; at most P k log 2.
    perplexity: of the codes used in the batch; 2^k if all are used alike.
    usage: share of the codes that the batch uses.
    prior/loss: minus log p(codes) under the learned prior, nats per image.

Departs from the paper: there is no discriminator and no perceptual term, and the net is no transformer; the average's
entropy is exact within groups of `group` bits, as in the authors' code (the paper's text has groups of one); the
decoder's gradient passes to u as it is, where that code scales it by 1 / sqrt(k). Weight and sharpness are of our own
choice, as terms are sums here.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.errors import UserError
from zoo.families.discrete import SignVAE
from zoo.parts.quantizers import SignQuantizer, straight_through


@register("bsq", net="grid")
class BSQVAE(SignVAE):
    """A grid of codes, each the signs of a point on a sphere.

    Args:
        image: The data's shape and range.
        entropy_weight: Of the difference of the two entropies.
        spread_weight: Of the second one; the paper's gamma.
        sharpness: Of q(c|x): the higher, the surer; the paper's tau.
        **options: Those of `SignVAE`.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        entropy_weight: NonNegativeFloat = 0.1,
        spread_weight: NonNegativeFloat = 1.0,
        sharpness: PositiveFloat = 1.0,
        **options: Any,
    ) -> None:
        if options.get("bits") == 1:
            raise UserError("bsq's codes lie on a sphere, where one number can't move: set model.bits=2 or more")
        super().__init__(image, **options)
        self.entropy_weight, self.spread_weight, self.sharpness = entropy_weight, spread_weight, sharpness
        self.quantizer = SignQuantizer(self.dim, self.dim**-0.5)

    def vectors(self, x: Tensor) -> Tensor:
        """Return what is to be quantised, on the unit sphere: `[B, P, k]`."""
        return F.normalize(super().vectors(x), dim=2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, entropy, codebook_entropy, perplexity and usage."""
        u = self.vectors(batch.x)  # [B, P, k]
        e, indices = self.quantizer(u)
        recon = self.likelihood.nll(self.logits(straight_through(u, e).flatten(1)), batch.x)  # [B], -log p(x|e)
        with torch.autocast(u.device.type, enabled=False):
            entropy, spread = self.entropies(2 * self.sharpness * u / self.dim**0.5)
        loss = (self.recon_weight * recon).mean() + self.entropy_weight * (entropy - self.spread_weight * spread)
        rate = -self.prior.log_prob(indices).detach()  # [B]
        return {
            "loss": loss,
            **self.elbo_terms(recon, rate),
            **self.code_terms(indices),
            "entropy": entropy,
            "codebook_entropy": spread,
        }
