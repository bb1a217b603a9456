"""VQ-VAE: latents out of a learned codebook. Van den Oord et al. 2017, arXiv:1711.00937, equation 3 and appendix A.1.

    loss = -log p(x|e) + |sg[z] - e|^2 + `commitment` |z - sg[e]|^2,   e the code nearest to z, for each of P positions
    prior/loss = -log p(codes)

sg stops the gradient; the decoder's gradient passes e straight to z. `codebook: ema` drops the second term and lets
each code follow the mean of the vectors that chose it. Codes that nothing chooses are moved onto vectors of the batch.
The prior over codes, which samples are drawn from, is a small causal transformer and the second player; with it,
log p(x) >= log p(x|e) + log p(codes), as the posterior is a point.

Logs:
    commitment: |z - sg[e]|^2, before its weight.
    codebook: |sg[z] - e|^2, of a learned codebook.
    perplexity: of the codes used in the batch; `codes` if all are used alike.
    prior/loss: minus log p(codes) under the learned prior, nats per image.

Departs from the paper: the prior is trained along with the codes, not afterwards, and is a transformer, not a PixelCNN;
dead codes are revived.
"""

from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.families.discrete import QuantisedVAE
from zoo.parts.quantizers import VectorQuantizer, straight_through


@register("vq")
class VQVAE(QuantisedVAE):
    """A grid of codes, each the nearest of a learned set.

    Args:
        image: The data's shape and range.
        codes: K, vectors in the codebook.
        dim: D, their length.
        codebook: "ema" follows the encoder by moving averages, "gradient" by the loss.
        commitment: Weight of the encoder's distance from its code; the paper's beta.
        **options: Those of `CodeVAE`.
    """

    quantizer: VectorQuantizer

    def __init__(
        self,
        image: ImageSpec,
        *,
        codes: PositiveInt = 128,
        dim: PositiveInt = 16,
        codebook: Literal["ema", "gradient"] = "ema",
        commitment: NonNegativeFloat = 0.25,
        **options: Any,
    ) -> None:
        super().__init__(image, dim=dim, **options)
        self.commitment = commitment
        self.quantizer = VectorQuantizer(codes, dim, codebook)
        self.build_prior(codes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, commitment, perplexity, and codebook if it is learned."""
        z = self.vectors(batch.x)
        with torch.autocast(z.device.type, enabled=False):
            e, indices = self.quantizer(z)
        if self.training:
            self.quantizer.see(z, indices)
        recon = self.likelihood.nll(self.logits(straight_through(z, e).flatten(1)), batch.x)  # [B], -log p(x|e)
        commitment = (z - e.detach()).square().sum((1, 2)).mean()
        loss = (self.recon_weight * recon).mean() + self.commitment * commitment
        rate = -self.prior.log_prob(indices).detach()  # [B]
        terms = self.elbo_terms(recon, rate) | self.code_terms(indices) | {"commitment": commitment}
        if self.quantizer.learned:
            terms["codebook"] = (z.detach() - e).square().sum((1, 2)).mean()
            loss = loss + terms["codebook"]
        return {"loss": loss, **terms}

    def after_turn(self, player: str) -> None:
        """Let the codebook follow the step's vectors."""
        if player == "vae":
            self.quantizer.learn()
