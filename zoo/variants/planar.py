"""Planar flow: bend the posterior along hyperplanes. Rezende & Mohamed 2015, arXiv:1505.05770, equations 10 and 15.

    z_0 ~ N(mu(x), diag sigma^2(x)),   z_k = z_{k-1} + u_k tanh(w_k.z_{k-1} + b_k),   k = 1 .. `flows`
    loss = E[-log p(x|z_K) + log q_0(z_0|x) - sum_k log |1 + u_k.psi_k(z_{k-1})| - log p(z_K)]

psi_k(z) = (1 - tanh^2(w_k.z + b_k)) w_k. u_k, w_k and b_k come from the encoder, image by image; u_k is moved so that
each step can be inverted.

Departs from the paper: no annealing of the likelihood during training.
"""

from typing import Any

from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.families.flow import FlowVAE
from zoo.parts.flows import Flow, Steps, planar


@register("planar")
class PlanarVAE(FlowVAE):
    """A VAE whose posterior passes through planar steps.

    Args:
        image: The data's shape and range.
        flows: K, how many steps.
        **options: Those of `FlowVAE`.
    """

    def __init__(self, image: ImageSpec, *, flows: Steps = 10, **options: Any) -> None:
        super().__init__(image, **options)
        self.flows = flows
        self.to_flow = nn.Linear(self.features, flows * (2 * self.latent_dim + 1))

    def flow(self, h: Tensor) -> Flow:
        """Return the K steps of images whose features are h, `[B, F]`."""
        steps = self.to_flow(h).float().unflatten(1, (self.flows, -1)).unbind(1)  # K of [B, 2 D + 1]

        def through(z: Tensor) -> tuple[Tensor, Tensor]:
            log_det = z.new_zeros(z.shape[:-1])  # [k, B]
            for step in steps:
                u, w, b = step.split([self.latent_dim, self.latent_dim, 1], 1)
                z, more = planar(z, u, w, b[:, 0])
                log_det = log_det + more
            return z, log_det

        return through

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        z, log_q = self.posterior(batch.x, batch.y).draw(1)  # [1, B, D], [1, B]; z_K and log q(z_K|x)
        recon = self.likelihood.nll(self.logits(z[0], batch.y), batch.x)  # [B], -log p(x|z)
        kl = (log_q - self.log_prior(z))[0]  # [B]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl[:, None], self.latent_dim)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl)}
