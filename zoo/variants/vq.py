"""VQ-VAE: latents out of a learned codebook. Van den Oord et al. 2017, arXiv:1711.00937, equation 3 and appendix A.1.

    loss = -log p(x|e) + |sg[z] - e|^2 + `commitment` |z - sg[e]|^2,   e the code nearest to z, for each of P positions
    prior/loss = -log p(codes)

sg stops the gradient; the decoder's gradient passes e straight to z. `codebook: ema` drops the second term and lets
each code follow the mean of the vectors that chose it. Codes that nothing chooses are moved onto vectors of the batch.

    gradient: rotation    the decoder sees |e|/|z| R z, R the rotation of z onto e, both constant: it is e, and the
                          gradient keeps its angle. Fifty et al. 2024, arXiv:2410.06424, equation 4
    gradient: sim         e = W c + b, c the random codes, W and b learned. Zhu et al. 2024 (SimVQ), arXiv:2411.02038

The prior over codes, which samples are drawn from, is a small causal transformer and the second player; with it,
log p(x) >= log p(x|e) + log p(codes), as the posterior is a point. Digits want `recon: bce`: squared errors of a
sigmoid hardly move pixels that are black, and the decoder may stay with an image that is black all over.

Logs:
    commitment: |z - sg[e]|^2, before its weight.
    codebook: |sg[z] - e|^2, of a learned codebook.
    perplexity: of the codes used in the batch; `codes` if all are used alike.
    usage: share of the codes that the batch uses.
    prior/loss: minus log p(codes) under the learned prior, nats per image.

Departs from the paper: the prior is trained along with the codes, not afterwards, and is a transformer, not a PixelCNN;
dead codes are revived, but under `gradient: sim`, where all move together.
"""

from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo.base import Batch, ImageSpec, register
from zoo.errors import UserError
from zoo.families.discrete import QuantisedVAE
from zoo.parts.quantizers import LinearQuantizer, Start, VectorQuantizer, rotated, straight_through


@register("vq", net="grid")
class VQVAE(QuantisedVAE):
    """A grid of codes, each the nearest of a learned set.

    Args:
        image: The data's shape and range.
        codes: K, vectors in the codebook.
        dim: D, their length.
        codebook: "ema" follows the encoder by moving averages, "gradient" by the loss.
        gradient: How the decoder's gradient reaches the encoder: "straight_through" or by "rotation"; "sim" is the
            first, with a codebook that one linear map learns to place, whatever `codebook` says.
        start: Of the codebook: "noise", or the clusters of the first step's vectors ("kmeans").
        commitment: Weight of the encoder's distance from its code; the paper's beta.
        **options: Those of `CodeVAE`.

    Raises:
        UserError: if a codebook that is placed by a map should start from clusters.
    """

    quantizer: VectorQuantizer | LinearQuantizer

    def __init__(
        self,
        image: ImageSpec,
        *,
        codes: PositiveInt = 128,
        dim: PositiveInt = 16,
        codebook: Literal["ema", "gradient"] = "ema",
        gradient: Literal["straight_through", "rotation", "sim"] = "straight_through",
        start: Start = "noise",
        commitment: NonNegativeFloat = 0.25,
        **options: Any,
    ) -> None:
        super().__init__(image, dim=dim, **options)
        self.commitment = commitment
        self.towards = rotated if gradient == "rotation" else straight_through
        if gradient == "sim":
            if start == "kmeans":
                raise UserError(
                    "start=kmeans moves codes, and those of gradient=sim are random ones for ever, seen "
                    "through a map: set start=noise"
                )
            self.quantizer = LinearQuantizer(codes, dim)
        else:
            self.quantizer = VectorQuantizer(codes, dim, codebook, start=start)
        self.build_prior(codes)

    def coded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return z and e `[B, P, D]`, what the decoder sees, `[B, P D]`, and codes `[B, P]`; the codebook sees z."""
        z = self.vectors(x)
        e, indices = self.quantizer(z)
        with torch.autocast(z.device.type, enabled=False):
            decoded = self.towards(z, e).flatten(1)
        if self.training:
            self.quantizer.see(z, indices)
        return z, e, decoded, indices

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, commitment, perplexity, usage, and codebook if it is learned."""
        z, e, decoded, indices = self.coded(batch.x)
        recon = self.likelihood.nll(self.logits(decoded), batch.x)  # [B], -log p(x|e)
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
