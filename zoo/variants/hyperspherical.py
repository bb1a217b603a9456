"""Hyperspherical VAE: latents on a sphere, with a uniform prior. Davidson et al. 2018, arXiv:1804.00891.

    q(z|x) = vMF(mu(x), kappa(x)),   p(z) uniform on S^{D-1}
    loss = E_q(z|x)[-log p(x|z)] + KL(q || p),   KL = kappa A(kappa) - log Z(kappa) + log Z(0)

A uniform prior pulls no latent to an origin, and its KL depends on kappa alone. `latent_dim` is D, of the space that
the sphere S^{D-1} lies in. kappa(x) = softplus(.) + 1, at most 1000. Latents are projected onto the sphere before they
are decoded.

Logs:
    kappa: concentration of the posteriors, mean over the batch.

Departs from the paper: Z and its gradient come from quadrature, not from Bessel functions; the gradient of draws in
kappa is that of implicit reparameterisation, where the paper differentiates its rejection sampler; kappa is cut at
1000, and has no gradient there.
"""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.families.latent import LatentVAE
from zoo.parts.sphere import MAX_KAPPA, Sphere, VonMisesFisher


@register("hyperspherical")
class HypersphericalVAE(LatentVAE):
    """A VAE with von Mises-Fisher posteriors.

    Args:
        image: The data's shape and range.
        latent_dim: D, dimensions of the space around the sphere.
        **options: Those of `LatentVAE`.
    """

    def __init__(self, image: ImageSpec, *, latent_dim: Annotated[int, Field(ge=2)] = 32, **options: Any) -> None:
        super().__init__(image, **options)
        self.latent_dim = latent_dim
        self.sphere = Sphere(latent_dim)
        self.to_mu = nn.Linear(self.features, latent_dim)
        self.to_kappa = nn.Linear(self.features, 1)
        self.from_latent = self.features_from(latent_dim)

    def posterior(self, x: Tensor, y: Tensor | None = None) -> VonMisesFisher:
        """Return q(z|x) of a batch."""
        h = self.encoder(x).flatten(1)
        kappa = F.softplus(self.to_kappa(h).float().squeeze(1)) + 1
        return VonMisesFisher(F.normalize(self.to_mu(h).float(), dim=1), kappa.clamp(max=MAX_KAPPA), self.sphere)

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the decoder's raw output at latents that are first projected onto the sphere."""
        return super().logits(F.normalize(z, dim=1))

    def log_prior(self, z: Tensor) -> Tensor:
        """Minus the log of the sphere's area: `[..., D]` -> `[...]`."""
        return z.new_full(z.shape[:-1], -self.sphere.log_area)

    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw uniformly from the sphere: `[n, D]`."""
        return self.sphere.uniform(n, self.device, generator)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo and kappa."""
        q = self.posterior(batch.x)
        z, _ = q.draw(1)
        recon = self.likelihood.nll(self.logits(z[0]), batch.x)  # [B]
        kl = self.sphere.kl_to_uniform(q.kappa)  # [B]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl[:, None], self.latent_dim)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl), "kappa": q.kappa.mean()}
