"""Inverse autoregressive flow: each latent dimension follows those before it. Kingma et al. 2016, arXiv:1606.04934.

    z_0 ~ N(mu(x), diag sigma_0^2(x)),   z_t = sigma_t z_{t-1} + (1 - sigma_t) m_t,   t = 1 .. `flows`
    loss = E[-log p(x|z_T) + log q_0(z_0|x) - sum_t sum_i log sigma_{t,i} - log p(z_T)]

m_t and sigma_t = sigmoid(s_t) of dimension i depend on dimensions before i of z_{t-1}, and on a context that the
encoder gives (Algorithm 1). The order of dimensions is reversed after each step.

Departs from the paper: one layer of latents, not a deep hierarchy; the autoregressive nets have one hidden layer of
`flow_width` units.
"""

from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from zoo.base import Batch, ImageSpec, register
from zoo.families.flow import FlowVAE
from zoo.parts.flows import AutoregressiveStep, Flow, Steps


@register("iaf")
class IAFVAE(FlowVAE):
    """A VAE whose posterior passes through autoregressive steps.

    Args:
        image: The data's shape and range.
        flows: T, how many steps.
        flow_width: Units in each step's hidden layer, and in the context.
        **options: Those of `FlowVAE`.
    """

    def __init__(self, image: ImageSpec, *, flows: Steps = 4, flow_width: PositiveInt = 128, **options: Any) -> None:
        super().__init__(image, **options)
        self.to_context = nn.Linear(self.features, flow_width)
        self.steps = nn.ModuleList(AutoregressiveStep(self.latent_dim, flow_width, flow_width) for _ in range(flows))

    def flow(self, h: Tensor) -> Flow:
        """Return the T steps of images whose features are h, `[B, F]`."""
        context = self.to_context(h)

        def through(z: Tensor) -> tuple[Tensor, Tensor]:
            log_det = z.new_zeros(z.shape[:-1])  # [k, B]
            for step in self.steps:
                z, more = step(z, context)
                z, log_det = z.flip(-1), log_det + more
            return z, log_det

        return through

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        z, log_q = self.posterior(batch.x, batch.y).draw(1)  # [1, B, D], [1, B]; z_T and log q(z_T|x)
        recon = self.likelihood.nll(self.logits(z[0], batch.y), batch.x)  # [B], -log p(x|z)
        kl = (log_q - self.log_prior(z))[0]  # [B]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl[:, None], self.latent_dim)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl)}
