"""Finite scalar quantisation: VQ-VAE made simple. Mentzer et al. 2023, arXiv:2309.15505, section 3.

    loss = -log p(x|e),   e_d = round(bounded(z_d)) with `levels`[d] values, for each of P positions
    prior/loss = -log p(codes)

All combinations of levels are the codebook: nothing to learn, to commit to or to revive. The decoder's gradient passes
e straight to z. The prior over codes, which samples are drawn from, is a small causal transformer and the second
player; with it, log p(x) >= log p(x|e) + log p(codes), as the posterior is a point.

Logs:
    perplexity: of the codes used in the batch; the product of the levels if all are used alike.
    usage: share of the codes that the batch uses.
    prior/loss: minus log p(codes) under the learned prior, nats per image.

Departs from the paper: each of the numbers z is normalised to mean 0 and variance 1 over a batch's images and positions
before it is bounded: within a hundred steps at 1e-3 it else lies where the bound is flat, and stays. The bound's shift
for an even number of levels is atanh(1/2 / half), for which the paper's listing has tan. The prior is trained along
with the codes.
"""

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.families.discrete import QuantisedVAE
from zoo.parts.quantizers import FiniteScalarQuantizer

Levels = Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=1, max_length=100)]


@register("fsq", net="grid")
class FSQVAE(QuantisedVAE):
    """A grid of codes, each rounded number by number.

    Args:
        image: The data's shape and range.
        levels: How many values each of a code's numbers takes; 3 or more each; the paper advises 5 or more.
        **options: Those of `CodeVAE`.
    """

    settled = (*QuantisedVAE.settled, "dim")

    def __init__(self, image: ImageSpec, *, levels: Levels = [8, 5, 5], **options: Any) -> None:  # noqa: B006
        super().__init__(image, dim=len(levels), **options)
        self.norm = nn.BatchNorm1d(len(levels), affine=False)
        self.quantizer = FiniteScalarQuantizer(levels)
        self.build_prior(self.quantizer.codes)

    def vectors(self, x: Tensor) -> Tensor:
        """Return what is to be rounded, `[B, P, D]`."""
        z = super().vectors(x)
        return self.norm(z.transpose(1, 2)).transpose(1, 2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, perplexity and usage."""
        e, indices = self.quantizer(self.vectors(batch.x))
        recon = self.likelihood.nll(self.logits(e.flatten(1)), batch.x)  # [B], -log p(x|e)
        rate = -self.prior.log_prob(indices).detach()  # [B]
        loss = self.recon_weight * recon
        return {"loss": loss.mean(), **self.elbo_terms(recon, rate), **self.code_terms(indices)}
