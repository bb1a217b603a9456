"""The VAE: maximise the evidence lower bound. Kingma & Welling 2013, arXiv:1312.6114.

    loss = E_q(z|x)[-log p(x|z)] + KL(q(z|x) || N(0, I)),   z = mu(x) + sigma(x) * eps,   eps ~ N(0, I)

The five plain names are this one objective, each with a net and defaults of its own.

Departs from the paper: one draw of z per image, as the paper advises for batches of 100 and more; the likelihood `mse`
is a Gaussian of fixed variance 1/2, where the paper's decoder predicts a variance per pixel.
"""

from zoo.base import register
from zoo.families.gaussian import GaussianVAE


@register("mlp", "fully connected 784-400-20, binary cross-entropy", net="mlp", latent_dim=20, recon="bce")
@register("conv", "four stride-2 4x4 convolutions, squared error", net="conv", latent_dim=128)
@register("celeba", "conv blocks pooled to 4x4, tanh, squared error", net="celeba", latent_dim=256)
@register("mnist", "two convolutions, binary cross-entropy", net="mnist", latent_dim=8, recon="bce")
@register("vanilla", "five stride-2 3x3 convolutions, tanh, squared error", net="vanilla", latent_dim=128)
class PlainVAE(GaussianVAE):
    """The evidence lower bound and nothing else."""
