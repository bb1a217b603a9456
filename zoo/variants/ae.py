"""Autoencoder: reconstruct, nothing else. The baseline of Ghosh et al. 2020, arXiv:1903.12436, section 5.

    loss = -log p(x|z),   z = f(x)

Nothing shapes the latents, so there is no prior to draw from: samples decode z ~ N(0, I), for want of a better one, and
mostly show nothing. A density fitted to the latents after training (the benchmark's sampler `gmm10`) is the fair way.

Departs from the paper: the latent is not normalised, and its size is an option.
"""

from torch import Tensor

from zoo.base import Batch, register
from zoo.families.deterministic import Autoencoder


@register("ae")
class PlainAutoencoder(Autoencoder):
    """The reconstruction term and nothing else."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss and recon."""
        recon = self.likelihood.nll(self(batch.x).logits, batch.x).mean()
        return {"loss": self.recon_weight * recon, "recon": recon}
