"""Ladder VAE: layers of latents, inferred from above and below. Sønderby et al. 2016, arXiv:1602.02282, section 2.2.

    p(x, z) = p(x|z_1) p(z_1|z_2) .. p(z_{L-1}|z_L) p(z_L),   p(z_L) = N(0, I)
    q(z_L|x) = N(mu^_L, sigma^_L^2),   q(z_l|z_{l+1}, x) proportional to N(z_l; mu^_l, sigma^_l^2) p(z_l|z_{l+1})
    loss = -log p(x|z_1) + β(t) sum_l KL(q(z_l|z_{l+1}, x) || p(z_l|z_{l+1}))

mu^ and sigma^ come from a bottom-up pass over the net's features; z is drawn from the top down. β(t) rises from 0 to 1
over the first `warmup` share of the run. A latent is all layers side by side, the lowest first; the decoder sees that.

Logs:
    kl_1: KL of the lowest layer given the one above, nats; kl_2 and so on likewise.
    kl_2: KL of the second layer, nats.

Departs from the paper: one hidden layer of `width` units with LeakyReLU between two layers of latents, without
BatchNorm; layers give log variances, where the paper's give variances by a softplus; warm-up is a share of the run.
"""

from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.families.latent import LatentVAE
from zoo.parts.distributions import (
    bounded_logvar,
    gaussian_kl_between_per_dim,
    gaussian_log_prob,
    gaussian_sample,
    standard_normal,
)
from zoo.parts.hierarchy import Gaussian, LadderPosterior


def mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, width), nn.LeakyReLU(0.1), nn.Linear(width, outputs))


@register("ladder", warmup=0.2)
class LadderVAE(LatentVAE):
    """A hierarchy of latents.

    Args:
        image: The data's shape and range.
        latent_dims: Dimensions of the layers, lowest first.
        width: Units of the hidden layers between them.
        **options: Those of `LatentVAE`.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        latent_dims: Annotated[list[PositiveInt], Field(min_length=1, max_length=100)] = [32, 16],  # noqa: B006 (never changed)
        width: PositiveInt = 128,
        **options: Any,
    ) -> None:
        super().__init__(image, **options)
        self.latent_dims = list(latent_dims)
        self.latent_dim = sum(latent_dims)
        layers = len(latent_dims)
        self.up = nn.ModuleList(mlp(self.features if i == 0 else width, width, width) for i in range(layers))
        self.to_evidence = nn.ModuleList(nn.Linear(width, 2 * dim) for dim in latent_dims)
        self.down = nn.ModuleList(mlp(latent_dims[i + 1], width, 2 * latent_dims[i]) for i in range(layers - 1))
        self.from_latent = self.features_from(latent_dims[0])

    def prior_of(self, layer: int, above: Tensor) -> Gaussian:
        """Return p(z_l | z_{l+1}) given the layer above, `[..., D_{l+1}]`."""
        mu, logvar = self.down[layer](above).float().chunk(2, -1)
        return mu, bounded_logvar(logvar)

    def posterior(self, x: Tensor, y: Tensor | None = None) -> LadderPosterior:
        """Return q(z|x) of a batch."""
        h = self.encoder(x).flatten(1)
        evidence: list[Gaussian] = []
        for up, head in zip(self.up, self.to_evidence, strict=True):
            h = up(h)
            mu, logvar = head(h).float().chunk(2, 1)
            evidence.append((mu, bounded_logvar(logvar)))
        return LadderPosterior(evidence, self.prior_of)

    def log_prior(self, z: Tensor) -> Tensor:
        """Log p(z_L) + sum_l log p(z_l | z_{l+1}): `[..., D]` -> `[...]`."""
        zs = z.split(self.latent_dims, -1)
        terms = [gaussian_log_prob(zs[i], *self.prior_of(i, zs[i + 1])) for i in range(len(zs) - 1)]
        return torch.stack([*terms, gaussian_log_prob(zs[-1])]).sum(0)

    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw layer by layer, from the top: `[n, D]`."""
        zs = [standard_normal((n, self.latent_dims[-1]), self.device, generator)]
        for layer in reversed(range(len(self.latent_dims) - 1)):
            zs.insert(0, gaussian_sample(*self.prior_of(layer, zs[0]), generator))
        return torch.cat(zs, 1)

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the decoder's raw output at the lowest layer of z."""
        return super().logits(z[:, : self.latent_dims[0]])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, and each layer's KL."""
        zs, qs, ps = self.posterior(batch.x).descend(1)
        recon = self.likelihood.nll(self.logits(torch.cat(zs, -1)[0]), batch.x)  # [B], -log p(x|z_1)
        kls = [gaussian_kl_between_per_dim(*q, *p)[0] for q, p in zip(qs, ps, strict=True)]  # [B, D_l] each
        free = torch.stack([self.free(kl) for kl in kls]).sum(0)  # [B]
        loss = self.recon_weight * recon + self.kl_weight() * free  # [B]
        layers = torch.stack([kl.sum(1) for kl in kls])  # [L, B]
        of_layers = {f"kl_{i}": kl.mean() for i, kl in enumerate(layers, 1)}
        return {"loss": loss.mean(), **self.elbo_terms(recon, layers.sum(0)), **of_layers}
