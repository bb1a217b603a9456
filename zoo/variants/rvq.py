"""Residual quantisation: each code is of what those before it leave. Lee et al. 2022, arXiv:2203.01941, section 3.1.

    r_0 = z,   e_s the code of stage s nearest to r_{s-1},   r_s = r_{s-1} - e_s,   s = 1 .. S = `stages`
    loss = -log p(x | e_1 + .. + e_n) + `commitment` 1/S sum_s |z - sg[e_1 + .. + e_s]|^2,   for each of P positions
    prior/loss = -log p(codes)

n is S, but in training and for a share `dropout` of the images it is drawn from 1 .. S, so that the first codes alone
give an image, too, and more of them a better one: Zeghidour et al. 2021 (SoundStream), arXiv:2107.03312, section III-C.
Each stage has a codebook, whose codes follow the mean of the vectors that chose them, from the clusters of the first
step's; codes that nothing chooses are moved onto vectors of the batch. The decoder's gradient passes straight to z. The
prior, which samples are drawn from, is a small causal transformer over all codes, position by position from coarse to
fine, and the second player; log p(x) >= log p(x|e) + log p(codes), as the posterior is a point.

Logs:
    commitment: the mean of the stages' squared distances, before its weight.
    rest: |z - e_1 - .. - e_S|^2, what all stages leave over, nothing dropped.
    perplexity: of the codes used in the batch, mean over the stages; `codes` if all are used alike.
    usage: share of the codes that the batch uses.
    prior/loss: minus log p(codes) under the learned prior, nats per image.

Departs from the paper: Lee et al. have one codebook for all stages and no dropout, and their prior is a transformer of
two levels; SoundStream draws n for every image, and its later stages learn only from images that use them. In training
recon and elbo are those of the codes that were kept, the rate that of all.
"""

from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.families.discrete import QuantisedVAE
from zoo.parts.quantizers import ResidualQuantizer, StageSums, Start

Stages = Annotated[int, Field(gt=0, le=64)]
Share = Annotated[float, Field(ge=0, le=1)]


@register("rvq", net="grid")
class RVQVAE(QuantisedVAE):
    """A grid of sums of codes.

    Args:
        image: The data's shape and range.
        stages: S, codes of a position.
        codes: K, vectors in each stage's codebook.
        dim: D, their length.
        dropout: Share of the images that are decoded from some of their stages, in training.
        start: Of each codebook: the clusters of the first step's vectors ("kmeans"), or "noise".
        commitment: Weight of the encoder's distance from its codes; the paper's beta.
        **options: Those of `CodeVAE`.
    """

    quantizer: ResidualQuantizer

    def __init__(
        self,
        image: ImageSpec,
        *,
        stages: Stages = 4,
        codes: PositiveInt = 128,
        dim: PositiveInt = 16,
        dropout: Share = 0.5,
        start: Start = "kmeans",
        commitment: NonNegativeFloat = 0.25,
        **options: Any,
    ) -> None:
        super().__init__(image, dim=dim, **options)
        self.commitment, self.dropout = commitment, dropout
        self.codebooks = stages
        self.quantizer = ResidualQuantizer(stages, codes, dim, start)
        self.from_latent = nn.Sequential(StageSums(self.positions, stages, dim), self.from_latent)
        self.positions *= stages  # of codes: those of a place come one after another
        self.latent_dim *= stages
        self.build_prior(codes)

    def prefix(self, z: Tensor, stages: int | Tensor) -> Tensor:
        """Leave only the first codes of each position, of latents `[B, P S D]`: one number, or one per image, `[B]`."""
        kept = torch.arange(self.codebooks, device=z.device) < torch.as_tensor(stages, device=z.device).view(-1, 1)
        each = z.unflatten(1, (-1, self.codebooks, self.dim))  # [B, P, S, D]
        return (each * kept[:, None, :, None]).flatten(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, commitment, rest, perplexity and usage."""
        z = self.vectors(batch.x)  # [B, P, D]
        codes, indices = self.quantizer(z)  # [B, P S, D], [B, P S]
        if self.training:
            self.quantizer.see(z, codes, indices)
        sums = codes.unflatten(1, (-1, self.codebooks)).cumsum(2)  # [B, P, S, D], e_1 + .. + e_s
        squared = (z[:, :, None] - sums).square().sum((1, 3))  # [B, S]
        kept = self.prefix(codes.flatten(1), self._drawn(len(z)) if self.training else self.codebooks)
        through = (z - z.detach())[:, :, None].expand_as(sums).flatten(1) / self.codebooks  # 0, with z's gradient
        recon = self.likelihood.nll(self.logits(kept + through), batch.x)  # [B], -log p(x | e_1 + .. + e_n)
        commitment = squared.mean(1).mean()
        rate = -self.prior.log_prob(indices).detach()  # [B]
        return {
            "loss": (self.recon_weight * recon).mean() + self.commitment * commitment,
            **self.elbo_terms(recon, rate),
            **self.code_terms(indices),
            "commitment": commitment,
            "rest": squared[:, -1].mean(),
        }

    def _drawn(self, n: int) -> Tensor:
        """Draw how many stages each image keeps, `[n]`."""
        some = (torch.rand(n, device=self.device) * self.codebooks).long() + 1  # 1 .. S
        return torch.where(torch.rand(n, device=self.device) < self.dropout, some, self.codebooks)

    def after_turn(self, player: str) -> None:
        """Let the codebooks follow the step's vectors."""
        if player == "vae":
            self.quantizer.learn()
