"""A VAE whose loss is fine for ten steps and then not a number."""

import torch

from zoo import Batch, GaussianVAE, register


@register("explosive")
class ExplosiveVAE(GaussianVAE):
    """Divides by zero once two thirds of the run are over."""

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        terms = super().loss(batch)
        return terms | {"loss": terms["loss"] / (self.progress < 0.66)} if self.training else terms
