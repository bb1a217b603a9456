"""The VAE: maximise the evidence lower bound. Kingma & Welling 2013, arXiv:1312.6114.

    loss = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I)),   z = mu(x) + sigma(x) * eps,   eps ~ N(0, I)

The five plain names are this one objective, each with a net and defaults of its own.

Departs from the paper: one draw of z per image, as the paper advises for batches of 100 and more; the likelihood `mse`
is a Gaussian of fixed variance 1/2, where the paper's decoder predicts a variance per pixel.
"""

from torch import Tensor

from zoo.base import Batch, register
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl_per_dim


@register("mlp", "fully connected 784-400-20, binary cross-entropy", net="mlp", latent_dim=20, recon="bce")
@register("conv", "four stride-2 4x4 convolutions, squared error", net="conv", latent_dim=128)
@register("celeba", "conv blocks pooled to 4x4, tanh, squared error", net="celeba", latent_dim=256)
@register("mnist", "two convolutions, binary cross-entropy", net="mnist", latent_dim=8, recon="bce")
@register("vanilla", "five stride-2 3x3 convolutions, tanh, squared error", net="vanilla", latent_dim=128)
class PlainVAE(GaussianVAE):
    """The evidence lower bound and nothing else."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B], -log p(x|z)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl.sum(1))}
