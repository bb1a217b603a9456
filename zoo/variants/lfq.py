"""Lookup-free quantisation: codes are signs. Yu et al. 2023 (MAGVIT-v2), arXiv:2310.05737, section 3.1, equation 5.

    loss = -log p(x|e) + `entropy_weight` P (E[H(q(c|x))] - H(E[q(c|x)])) + `commitment` |z - sg[e]|^2
    e_d = sign(z_d),   q(c|x) prop. to exp(-|z - c|^2 / `temperature`) over c in {-1, 1}^k,   for each of P positions
    prior/loss = -log p(codes)

The 2^k codes are not looked up, nor learned: a code's number has the signs for binary digits. The first entropy makes
each position sure of its code; the second, of the average over a batch and its positions, makes use of all codes. Given
the image, bits are independent, with log odds 4 z_d / `temperature`. The decoder's gradient passes e straight to z. The
prior over codes, which samples are drawn from, is a small causal transformer and the second player; with it,
log p(x) >= log p(x|e) + log p(codes), as the posterior is a point.

Logs:
    entropy: P E[H(q(c|x))], of the codes of an image, nats.
    codebook_entropy: P H(E[q(c|x)]), of the average over images and positions, or its bound; at most P k log 2.
    commitment: |z - sg[e]|^2, before its weight.
    perplexity: of the codes used in the batch; 2^k if all are used alike.
    usage: share of the codes that the batch uses.
    prior/loss: minus log p(codes) under the learned prior, nats per image.

Departs from the paper: there is no discriminator and no perceptual term; the prior is trained along with the codes, and
is a causal transformer; the commitment is not in its text, but in what others trained after it. Beyond `group` bits the
average's entropy is the sum over groups of bits, which bounds it from above. Weight and temperature are of our own
choice, as terms are sums here.
"""

from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.discrete import SignVAE
from zoo.parts.quantizers import SignQuantizer, straight_through


@register("lfq", net="grid")
class LFQVAE(SignVAE):
    """A grid of codes, each the signs of k numbers.

    Args:
        image: The data's shape and range.
        entropy_weight: Of the difference of the two entropies.
        temperature: Of q(c|x): the lower, the surer.
        commitment: Weight of the encoder's distance from its code.
        **options: Those of `SignVAE`.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        entropy_weight: NonNegativeFloat = 0.1,
        temperature: PositiveFloat = 1.0,
        commitment: NonNegativeFloat = 0.25,
        **options: Any,
    ) -> None:
        super().__init__(image, **options)
        self.entropy_weight, self.temperature, self.commitment = entropy_weight, temperature, commitment
        self.quantizer = SignQuantizer(self.dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, entropy, codebook_entropy, commitment, perplexity and usage."""
        z = self.vectors(batch.x)  # [B, P, k]
        e, indices = self.quantizer(z)
        recon = self.likelihood.nll(self.logits(straight_through(z, e).flatten(1)), batch.x)  # [B], -log p(x|e)
        with torch.autocast(z.device.type, enabled=False):
            entropy, spread = self.entropies(4 * z / self.temperature)
        commitment = (z - e).square().sum((1, 2)).mean()
        loss = (self.recon_weight * recon).mean() + self.entropy_weight * (entropy - spread)
        rate = -self.prior.log_prob(indices).detach()  # [B]
        return {
            "loss": loss + self.commitment * commitment,
            **self.elbo_terms(recon, rate),
            **self.code_terms(indices),
            "entropy": entropy,
            "codebook_entropy": spread,
            "commitment": commitment,
        }
