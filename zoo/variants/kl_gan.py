"""The autoencoder under latent diffusion. Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G.

    fidelity = -log p(x|z) + `perceptual_weight` C H W d(x, x~)
    loss = fidelity + β KL(q(z|x) || N(0, I)) + `gan_weight` w L_adv(x~),   w = |grad fidelity| / |grad L_adv|
    discriminator/loss = (relu(1 - D(x)) + relu(1 + D(x~))) / 2 + `r1` |grad_x D(x)|^2 / 2

x~ decodes z ~ q(z|x), a Gaussian at each position of a grid; D judges patches, and L_adv = -D(x~). Both gradients of w
are those of the decoder's last layer, over all processes' images: whatever its scale, the game pulls as fidelity does,
up to w = 10^4 C H W. β is so small that it only keeps latents from running away: samples come from a second model on
them, as the sampler `rectified_flow`, and hardly from N(0, I). d compares features of a network trained on ImageNet.
Weights of diffusers' `AutoencoderKL` are taken over by `init_from` (net `ldm`, `out_activation: none`).

Logs:
    perceptual: d, before its weight; where it has one.
    fooled: L_adv, before its weights.
    adaptive_weight: w.
    discriminator/loss: what the discriminator minimises, without `r1` 1 (of "logistic" log 2) if it can't tell; 0
        before the game begins.
    discriminator/r1: half the squared gradient of its logit at images; where `r1` is not 0.

Departs from the paper: the features are MobileNetV2's, not those of LPIPS over VGG, and off by default, since their
weights are a file of their own; their weight is 1 in the paper. The authors' code has w at most 10^4 for the sum over
pixels, which large images reach. The net has attention in the middle alone; the discriminator has GroupNorm and torch's
initial weights, not N(0, 0.02^2); the game begins at a share of the run; of "logistic", the decoder minimises
softplus(-D); images end in the activation of their range; R1 is an option of ours. The elbo is that of the likelihood
alone, which is not what is minimised.
"""

from torch import Tensor

from zoo.base import Batch, register
from zoo.families.adversarial import PatchGame
from zoo.families.gaussian import GaussianVAE
from zoo.parts.distributions import gaussian_kl_per_dim


@register("kl_gan", net="ldm", latent="grid", latent_dim=4, recon="l1", beta=1e-6)
class KLGAN(PatchGame, GaussianVAE):
    """A Gaussian at each position, hardly regularised; errors, features and patches are compared."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, elbo, fooled, adaptive_weight, and perceptual if it has a weight."""
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B]
        distance = self.seen(out.recon, batch.x)  # [B]
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        fidelity = (recon + self.perceptual_weight * self.image.pixels * distance).mean()
        fooled = self.fooled(out.recon)
        weight = self.balanced(fidelity, fooled)
        loss = fidelity + (self.kl_weight() * self.free(kl)).mean() + self.gan_weight * self.started() * weight * fooled
        terms = {"fooled": fooled, "adaptive_weight": weight, **self.elbo_terms(recon, kl.sum(1))}
        return {"loss": loss, **terms} | ({"perceptual": distance.mean()} if self.perceptual_weight else {})
