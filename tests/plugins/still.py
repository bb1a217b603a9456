"""A VAE without noise: its loss is a function of the batch alone, so that runs on one and two processes must agree."""

import torch

from zoo import Batch, GaussianVAE, register
from zoo.parts.distributions import gaussian_kl


@register("still")
class StillVAE(GaussianVAE):
    """Decodes the posterior mean, in training too."""

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        out = self(batch.x, sample_posterior=False)
        recon = self.likelihood.nll(out.logits, batch.x)
        kl = gaussian_kl(out.mu, out.logvar)
        return {"loss": (recon + kl).mean(), "recon": recon.mean(), "kl": kl.mean()}
