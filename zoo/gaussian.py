"""The VAE most variants start from: a diagonal Gaussian posterior, a standard normal prior, any net."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from zoo.base import BaseVAE, Batch, ImageSpec, VAEOutput
from zoo.distributions import Activation, Likelihood, Reconstruction, gaussian_kl, gaussian_log_prob, standard_normal
from zoo.nets import build_net

# Encoding is done once whatever K is; only decoding grows with it, so K is worked off in pieces of so many images.
IMAGES_PER_CHUNK = 4096


class GaussianVAE(BaseVAE):
    """q(z|x) = N(mu(x), diag exp(logvar(x))), p(z) = N(0, I), p(x|z) by `recon`.

    Args:
        image: The data's shape and range.
        net: Encoder and decoder, by name.
        latent_dim: D, dimensions of the latent.
        recon: The likelihood: "mse", "bce", "l1", or "gaussian" with a learned variance.
        reduction: "sum" over pixels, or "mean": the reconstruction term is then divided by the number of pixels, which
            amounts to `reduction="sum"` with beta times C x H x W, on a loss that much smaller.
        beta: Weight of the KL.
        out_activation: "sigmoid" for images in [0, 1], "tanh" for [-1, 1], "none"; by default what fits the images.
        **net_options: Options of the net.

    Raises:
        UserError: if net, size, activation, range and likelihood don't go together.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        net: str = "conv",
        latent_dim: PositiveInt = 32,
        recon: Reconstruction = "mse",
        reduction: Literal["sum", "mean"] = "sum",
        beta: NonNegativeFloat = 1.0,
        out_activation: Activation | None = None,
        **net_options: Any,
    ) -> None:
        super().__init__(image)
        self.latent_dim = latent_dim
        self.beta = beta
        self.likelihood = Likelihood(recon, out_activation, image)
        self.recon_weight = 1.0 if reduction == "sum" else 1.0 / image.pixels
        # A conditional model shows the encoder one more channel, and its labels to both ends of the latent.
        labels = image.label_dim if self.needs_labels else 0
        pair = build_net(net, image, image.channels + bool(labels), **net_options)
        self.encoder, self.decoder = pair.encoder, pair.decoder
        features = math.prod(pair.feature_shape)
        self.to_mu = nn.Linear(features, latent_dim)
        self.to_logvar = nn.Linear(features, latent_dim)
        self.from_latent = nn.Sequential(nn.Linear(latent_dim + labels, features), nn.Unflatten(1, pair.feature_shape))

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z|x), each `[B, D]`."""
        h = self.encoder(x).flatten(1)
        return self.to_mu(h).float(), self.to_logvar(h).float()

    def reparameterize(self, mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw z = mu + sigma * eps, with eps ~ N(0, I): `[B, D]`."""
        eps = standard_normal(tuple(mu.shape), mu.device, generator, mu.dtype)
        return mu + (0.5 * logvar).exp() * eps

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the decoder's raw output, `[B, C, H, W]`."""
        return self.decoder(self.from_latent(z)).float()

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z), `[B, C, H, W]` in the image range."""
        return self.likelihood.mean(self.logits(z, y))

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        sample_posterior: bool = True,
        generator: torch.Generator | None = None,
    ) -> VAEOutput:
        """Encode, draw (or take the mean), decode."""
        mu, logvar = self.encode(x, y)
        z = self.reparameterize(mu, logvar, generator) if sample_posterior else mu
        logits = self.logits(z, y)
        return VAEOutput(self.likelihood.mean(logits), mu, logvar, z, logits)

    def negative_elbo(self, batch: Batch, beta: Tensor | float) -> dict[str, Tensor]:
        """Minus the evidence lower bound with the KL weighted by beta. Kingma & Welling 2013, equation 10.

        Returns:
            loss, and in nats per image: recon, kl, and elbo, a lower bound on log p(x) with every constant in place.
        """
        out = self(batch.x, batch.y)
        recon = self.likelihood.nll(out.logits, batch.x)  # [B]
        kl = gaussian_kl(out.mu, out.logvar)  # [B]
        elbo = -(recon + self.likelihood.constant + kl)  # [B]
        loss = self.recon_weight * recon + beta * kl
        return {"loss": loss.mean(), "recon": recon.mean(), "kl": kl.mean(), "elbo": elbo.mean()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of `negative_elbo` at the variant's own beta."""
        return self.negative_elbo(batch, self.beta)

    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Decode `n` draws from N(0, I): `[n, C, H, W]`."""
        return self.decode(standard_normal((n, self.latent_dim), self.device, generator), y)

    def log_likelihood(self, x: Tensor, k: int, y: Tensor | None = None) -> Tensor:
        """Log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x), nats, `[B]`. Burda et al. 2015, arXiv:1509.00519, eq. 8."""
        mu, logvar = self.encode(x, y)
        per_chunk = max(1, IMAGES_PER_CHUNK // len(x))
        log_weights = []
        for done in range(0, k, per_chunk):
            m = min(per_chunk, k - done)
            z = self.reparameterize(mu.expand(m, -1, -1), logvar.expand(m, -1, -1))  # [m, B, D]
            log_prior, log_posterior = gaussian_log_prob(z), gaussian_log_prob(z, mu, logvar)  # [m, B]
            logits = self.logits(z.flatten(0, 1), None if y is None else torch.cat([y] * m))
            log_px = self.likelihood.log_prob(logits, torch.cat([x] * m)).view(m, -1)
            log_weights.append(log_px + log_prior - log_posterior)
        return torch.cat(log_weights).logsumexp(0) - math.log(k)
