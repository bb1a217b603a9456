"""VAE-GAN: compare images by a discriminator's features. Larsen et al. 2015, arXiv:1512.09300, Algorithm 1.

    encoder:        KL(q(z|x) || N(0, I)) + L_feat,   L_feat = `feature_weight` |Dis_l(x) - Dis_l(x~)|^2 / 2
    decoder:        L_feat - `gan_weight` L_GAN
    discriminator:  L_GAN = softplus(-Dis(x)) + softplus(Dis(x~)) + softplus(Dis(x_p)), to be minimised

x~ decodes z ~ q(z|x), x_p decodes z ~ N(0, I); Dis_l are the discriminator's last features. The adversarial term
reaches the decoder alone: for it, latents are decoded anew without a gradient to the encoder.

Logs:
    features: L_feat, nats under a Gaussian over features.
    fooled: the decoder's adversarial term, the mean of softplus(-Dis) over reconstructions and samples.
    discriminator/loss: L_GAN, three cross-entropies; 3 log 2 where it can't tell.

Departs from the paper: the decoder minimises softplus(-Dis), which has gradients where the discriminator is sure, and
not minus L_GAN, and its mean over x~ and x_p, not their sum; the discriminator is an encoder of the same net, with
GroupNorm in place of BatchNorm; features are averaged per unit before their weight. There is no density of pixels,
hence no elbo and no likelihood; recon, the usual pixel error, is only logged.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from zoo.base import BaseVAE, Batch, ImageSpec, register
from zoo.families.gaussian import GaussianVAE
from zoo.nets.batch_norm import unremembered
from zoo.nets.pairs import build_net
from zoo.options import signature_options
from zoo.parts.distributions import gaussian_kl_per_dim


class Discriminator(nn.Module):
    """An encoder of images and one linear unit on its features, with GroupNorm wherever the encoder has BatchNorm.

    BatchNorm would tell real batches from decoded ones by their statistics, and win within a hundred steps.
    """

    def __init__(self, encoder: nn.Module, features: int) -> None:
        super().__init__()
        for module in list(encoder.modules()):
            for name, layer in module.named_children():
                if isinstance(layer, nn.BatchNorm2d):
                    setattr(module, name, nn.GroupNorm(1, layer.num_features))
        self.encoder = encoder
        self.head = nn.Linear(features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, H, W]` -> logits `[B, 1]` and features `[B, F]`."""
        features = self.encoder(x).flatten(1)
        return self.head(features).float(), features.float()


@register("vae_gan")
class VAEGAN(GaussianVAE):
    """A VAE whose decoder is also a generator.

    Args:
        image: The data's shape and range.
        feature_weight: Of the squared difference of features, which stands in for the reconstruction term.
        gan_weight: Of the adversarial term, for the decoder.
        n_critic: The discriminator plays at every step, encoder and decoder at each n-th.
        **options: Those of `GaussianVAE`.
    """

    players = ("vae", "discriminator")
    optimizers = dict.fromkeys(players, {"name": "rmsprop", "betas": (0.0, 0.9)})  # at 3e-4; here the run's lr
    settled = ("beta", "reduction")
    log_likelihood = BaseVAE.log_likelihood

    def __init__(
        self,
        image: ImageSpec,
        *,
        feature_weight: NonNegativeFloat = 1000.0,
        gan_weight: NonNegativeFloat = 1.0,
        n_critic: PositiveInt = 1,
        net: str = "conv",
        **options: Any,
    ) -> None:
        super().__init__(image, net=net, **options)
        self.feature_weight, self.gan_weight, self.n_critic = feature_weight, gan_weight, n_critic
        net_options = {name: value for name, value in options.items() if name not in signature_options(GaussianVAE)}
        self.discriminator = Discriminator(build_net(net, image, **net_options).encoder, self.features)

    def plays(self, player: str, step: int) -> bool:
        """Let encoder and decoder rest while the discriminator catches up."""
        return player != "vae" or step % self.n_critic == self.n_critic - 1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl, features and fooled."""
        out = self(batch.x, batch.y)
        kl = gaussian_kl_per_dim(out.mu, out.logvar)  # [B, D]
        _, wanted = self.discriminator(batch.x)
        _, found = self.discriminator(out.recon)
        features = self.feature_weight * (found - wanted).square().mean(1) / 2  # [B]
        latents = torch.cat([out.z.detach(), torch.randn_like(out.z)])
        with unremembered(self.decoder):
            logits, _ = self.discriminator(self.decode(latents))
        fooled = F.softplus(-logits).mean()
        return {
            "loss": (self.kl_weight() * self.free(kl) + features).mean() + self.gan_weight * fooled,
            "recon": self.likelihood.nll(out.logits, batch.x).mean(),
            "kl": kl.sum(1).mean(),
            "features": features.mean(),
            "fooled": fooled,
        }

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return L_GAN on images, reconstructions and samples."""
        with torch.no_grad(), unremembered(self):
            out = self(batch.x, batch.y)
            sampled = self.decode(torch.randn_like(out.z))
        told = [self.discriminator(images)[0] for images in (batch.x, out.recon, sampled)]
        return {"loss": F.softplus(-told[0]).mean() + F.softplus(told[1]).mean() + F.softplus(told[2]).mean()}
