"""Two players: a critic tells latents from noise, the VAE tries to fool it. The critic plays every second step."""

import torch
import torch.nn.functional as F
from torch import nn

from zoo import Batch, GaussianVAE, register


@register("duel")
class DuelVAE(GaussianVAE):
    """A VAE and a critic of its latents."""

    players = ("vae", "critic")

    def __init__(self, image, **options):
        super().__init__(image, **options)
        self.critic = nn.Sequential(nn.Linear(self.latent_dim, 8), nn.ReLU(), nn.Linear(8, 1))

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        out = self(batch.x)
        recon = self.likelihood.nll(out.logits, batch.x).mean()
        fooled = F.softplus(-self.critic(out.z)).mean()
        return {"loss": recon + fooled, "recon": recon, "fooled": fooled}

    def critic_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            z = self(batch.x).z
        return {"loss": F.softplus(self.critic(z)).mean() + F.softplus(-self.critic(torch.randn_like(z))).mean()}

    def plays(self, player: str, step: int) -> bool:
        return player == "vae" or step % 2 == 0
