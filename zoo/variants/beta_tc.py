"""β-TCVAE: weigh only the total correlation. Chen et al. 2018, arXiv:1802.04942, equation 4 and appendix C.2.

    KL(q(z|x) || p(z)) = I(z; x) + KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j))
                       = MI      + TC                        + dimension-wise KL
    loss = E_q(z|x)[-log p(x|z)] + `alpha` MI + `beta` TC + `gamma` dimension-wise KL

The aggregate posterior q(z) = 1/N sum_n q(z|x_n) over the N training images is estimated from the batch's B by
minibatch stratified sampling: for z_i, its own image weighs 1/N, the batch's other images (N - 1)/N together. Weights
enter each log-density once.

Logs:
    mi: estimated mutual information of latent and image, nats.
    tc: estimated total correlation, nats.
    dwkl: estimated dimension-wise KL, nats; the three add up to kl's estimate at the drawn z.

Departs from the paper: of the B - 1 other images the paper lets one, chosen at random, weigh less than the rest; here
all weigh the same, which is the mean over that choice.
"""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from zoo import ranks
from zoo.base import Batch, ImageSpec, register
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl, gaussian_log_prob


def stratified_log_weights(own: Tensor, batch: int, n: int) -> Tensor:
    """Return log w_ij, `[R, B]`, with rows that sum to 1: 1/N at the row's own image, the rest spread over the others.

    Args:
        own: Which of the batch's images each row is of, int64 `[R]`.
        batch: B.
        n: N.
    """
    if batch == 1:
        return torch.zeros(1, 1, device=own.device)
    rest = (n - 1) / (n * (batch - 1))
    weights = torch.full((len(own), batch), rest, device=own.device)
    return weights.scatter(1, own[:, None], 1 / n).log()


@register("beta_tc")
class BetaTCVAE(GaussianVAE):
    """A VAE whose KL is split in three, each with its weight.

    Args:
        image: The data's shape and range; its `train_size` is N.
        alpha: Weight of the mutual information.
        beta: Weight of the total correlation.
        gamma: Weight of the dimension-wise KL.
        **options: Those of `GaussianVAE`.

    Raises:
        UserError: if the number of training images is not known.
    """

    settled = ("free_bits",)
    batch_terms = ("loss", "mi", "tc", "dwkl")

    def __init__(
        self,
        image: ImageSpec,
        *,
        alpha: NonNegativeFloat = 1.0,
        beta: NonNegativeFloat = 6.0,
        gamma: NonNegativeFloat = 1.0,
        **options: Any,
    ) -> None:
        if not image.train_size:
            raise UserError("model 'beta_tc' needs the number of training images: give the ImageSpec its train_size")
        super().__init__(image, beta=beta, **options)
        self.alpha = alpha
        self.gamma = gamma

    def decompose(self, z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate MI, TC and dimension-wise KL from z ~ q(z|x), all `[B, D]`: three scalars, nats."""
        log_qz_x = gaussian_log_prob(z, mu, logvar)  # [R], of this rank's images
        first = ranks.number() * len(z) if self.training else 0
        mu, logvar = self.across_ranks(mu), self.across_ranks(logvar)  # [B, D]
        scaled = (z[:, None] - mu).square() * (-logvar).exp()  # [R, B, D]
        log_q = -0.5 * (math.log(2 * math.pi) + logvar + scaled)  # log q(z_i's d-th | x_j)
        own = first + torch.arange(len(z), device=z.device)
        log_weights = stratified_log_weights(own, len(mu), max(self.image.train_size, len(mu)))  # [R, B]
        log_qz = (log_q.sum(2) + log_weights).logsumexp(1)  # [R]
        log_marginals = (log_q + log_weights[:, :, None]).logsumexp(1).sum(1)  # [R]
        mi = log_qz_x - log_qz
        tc = log_qz - log_marginals
        dwkl = log_marginals - gaussian_log_prob(z)
        return mi.mean(), tc.mean(), dwkl.mean()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, mi, tc and dwkl."""
        mu, logvar = self.encode(batch.x, batch.y)
        z = self.reparameterize(mu, logvar)
        recon = self.likelihood.nll(self.logits(z, batch.y), batch.x)  # [B]
        mi, tc, dwkl = self.decompose(z, mu, logvar)
        w = self.risen()
        loss = (self.recon_weight * recon).mean() + w * self.alpha * mi + w * self.beta * tc + w * self.gamma * dwkl
        terms = self.elbo_terms(recon, gaussian_kl(mu, logvar))
        return {"loss": loss, **terms, "mi": mi, "tc": tc, "dwkl": dwkl}
