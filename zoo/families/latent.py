"""Between a net and a variant: an encoder, a decoder and a likelihood, and the bound of any model p(z) p(x|z)."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from zoo.base import BaseVAE, Batch, ImageSpec, VAEOutput
from zoo.config import Fraction
from zoo.errors import UserError
from zoo.nets.convolutions import Conv2d
from zoo.nets.pairs import build_net
from zoo.parts.distributions import (
    Activation,
    Likelihood,
    Posterior,
    Reconstruction,
    gaussian_log_prob,
    standard_normal,
)
from zoo.parts.likelihoods import build_likelihood

Layout = Literal["flat", "grid"]

# Only decoding is costly, so K samples of an image are worked off in pieces of so many images.
IMAGES_PER_CHUNK = 4096


class NetVAE(BaseVAE):
    """An encoder, a decoder and a likelihood; what lies between features and latent, a subclass says.

    A subclass sets `from_latent`, which turns latents `[B, D]` into the features that the decoder takes; see
    `features_from`.

    Args:
        image: The data's shape and range.
        net: Encoder and decoder, by name.
        likelihood: In place of the one that `recon` and `out_activation` name.
        recon: The likelihood: "mse", "bce", "l1", "logcosh", "gaussian" with a learned variance,
            "continuous_bernoulli", or "logistic_mixture", five logistic distributions over a pixel's 256 levels.
        reduction: "sum" over pixels, or "mean": the reconstruction term is then divided by the number of pixels, which
            amounts to `reduction="sum"` with every other weight times C x H x W, on a loss that much smaller.
        out_activation: "sigmoid" for images in [0, 1], "tanh" for [-1, 1], "none"; by default what fits the images.
        **net_options: Options of the net.

    Attributes:
        feature_shape: `(F,)` or `(F, h, w)`, of what the encoder returns and the decoder takes.
        features: Their number, of an encoder's.
        decoder_shape: What the decoder takes, where the net has another shape for it.

    Raises:
        UserError: if net, size, activation, range and likelihood don't go together.
    """

    from_latent: nn.Module
    latent_dim: int

    def __init__(
        self,
        image: ImageSpec,
        likelihood: Likelihood | None = None,
        *,
        net: str = "conv",
        recon: Reconstruction = "mse",
        reduction: Literal["sum", "mean"] = "sum",
        out_activation: Activation | None = None,
        **net_options: Any,
    ) -> None:
        super().__init__(image)
        self.likelihood = likelihood or build_likelihood(recon, out_activation, image)
        self.recon_weight = 1.0 if reduction == "sum" else 1.0 / image.pixels
        # A conditional model shows the encoder one more channel; a decoder gives what the likelihood takes.
        decoded = replace(image, channels=self.likelihood.outputs)
        pair = build_net(net, decoded, image.channels + self.needs_labels, **net_options)
        self.encoder, self.decoder = pair.encoder, pair.decoder
        self.feature_shape = pair.feature_shape
        self.features = math.prod(pair.feature_shape)
        self.decoder_shape = pair.decoder_shape or pair.feature_shape

    def lay_out(self, latent: Layout, dim: int) -> None:
        """Settle what latents are: `dim` numbers, or so many at each position of the net's features.

        Sets `latent_dim`, the numbers in all, and `latent_shape`. All but the net sees vectors `[B, latent_dim]`.

        Raises:
            UserError: if there is to be a grid, and the net has none.
        """
        if latent == "grid":
            _, *grid = self.feature_shape
            if not grid or grid != list(self.decoder_shape[1:]):
                raise UserError(
                    "model.latent=grid keeps the places of a net's features, and this net's encoder and decoder have "
                    "none, or not the same: set model.latent=flat, or choose net 'ldm', 'grid', 'conv' or 'resnet'"
                )
            self.latent_shape = (dim, grid[0], grid[1])
        self.latent_dim = math.prod(self.latent_shape) if self.latent_shape else dim

    def read(self, x: Tensor) -> Tensor:
        """Return what `to_latents` takes: the encoder's features `[B, F]`, or as a map where latents are one."""
        features = self.encoder(x)
        return features if self.latent_shape else features.flatten(1)

    def to_latents(self) -> nn.Linear | Conv2d:
        """Build a linear map from features to one number for each of a latent's, to be flattened; see `read`."""
        if self.latent_shape:
            return Conv2d(self.feature_shape[0], self.latent_shape[0], 1)
        return nn.Linear(self.features, self.latent_dim)

    def features_from(self, latent_dim: int) -> nn.Module:
        """Build the linear map from latents `[B, latent_dim]` to the decoder's features.

        Where latents keep a grid, what a vector has beyond them (labels) is shown at every position.
        """
        if self.latent_shape:
            return FromGrid(self.latent_shape, latent_dim - self.latent_dim, self.decoder_shape[0])
        return nn.Sequential(nn.Linear(latent_dim, math.prod(self.decoder_shape)), nn.Unflatten(1, self.decoder_shape))

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the decoder's raw output, `[B, C, H, W]`, or as many channels as the likelihood has `outputs`."""
        return self.decoder(self.from_latent(z)).float()

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z), `[B, C, H, W]` in the image range."""
        return self.likelihood.mean(self.logits(z, y))


class FromGrid(nn.Module):
    """Restores a latent's grid, and maps each position to a decoder's features.

    Args:
        shape: C, h, w of the latent.
        more: Numbers that follow it in the vector, and that every position sees.
        features: Channels of the map that the decoder takes.
    """

    def __init__(self, shape: tuple[int, int, int], more: int, features: int) -> None:
        super().__init__()
        self.shape = shape
        self.conv = Conv2d(shape[0] + more, features, 1)

    def forward(self, z: Tensor) -> Tensor:
        """`[B, C h w + more]` -> `[B, features, h, w]`."""
        size = math.prod(self.shape)
        shared = z[:, size:, None, None].expand(-1, -1, *self.shape[1:])
        return self.conv(torch.cat([z[:, :size].unflatten(1, self.shape), shared], 1))


class LatentVAE(NetVAE):
    """A prior p(z), a likelihood p(x|z), a posterior q(z|x): the evidence lower bound by sample.

    A subclass writes `posterior`, and where the prior is not N(0, I), `log_prior` and `sample_prior`.

    Args:
        image: The data's shape and range.
        latent_dim: D, dimensions of the latent.
        beta: Weight of the KL.
        warmup: Share of the run over which the KL's weight rises from 0. Bowman et al. 2016, arXiv:1511.06349.
        free_bits: λ, the nats of KL that each latent dimension may have without its counting in the loss, as a mean
            over the batch; of a KL that is known for the whole latent alone, D λ. Kingma et al. 2016, arXiv:1606.04934.
        **options: Those of `NetVAE`.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        beta: NonNegativeFloat = 1.0,
        warmup: Fraction = 0.0,
        free_bits: NonNegativeFloat = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(image, **options)
        self.beta = beta
        self.warmup = warmup
        self.free_bits = free_bits
        if free_bits:
            self.batch_terms = (*self.batch_terms, "loss")

    @abstractmethod
    def posterior(self, x: Tensor, y: Tensor | None = None) -> Posterior:
        """Return q(z|x) of a batch."""

    def log_prior(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats: `[..., D]` -> `[...]`."""
        return gaussian_log_prob(z)

    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from p(z): `[n, D]`."""
        return standard_normal((n, self.latent_dim), self.device, generator)

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the posterior's point and, of a Gaussian one, the log variance, each `[B, D]`."""
        q = self.posterior(x, y)
        return q.point, q.logvar

    def forward(self, x: Tensor, y: Tensor | None = None, *, sample_posterior: bool = True) -> VAEOutput:
        """Encode, draw a latent (or take the posterior's point), decode."""
        q = self.posterior(x, y)
        z = q.draw(1)[0].squeeze(0) if sample_posterior else q.point
        logits = self.logits(z, y)
        return VAEOutput(self.likelihood.mean(logits), q.point, q.logvar, z, logits)

    def risen(self) -> Tensor | float:
        """Return the share of the KL's weight that is in force: it rises to 1 over the first `warmup` of the run."""
        return (self.progress / self.warmup).clamp(max=1) if self.warmup else 1.0

    def kl_weight(self) -> Tensor | float:
        """Return β(t), the weight of the KL in force, from 0 to `beta`."""
        return self.beta * self.risen()

    def free(self, kl: Tensor, dims: int = 1) -> Tensor:
        """Add a KL up over the latent, no part of which counts for less than its `free_bits`: `[B, G]` -> `[B]`.

        sum_g max(λ, mean over the batch of KL_g). Kingma et al. 2016, arXiv:1606.04934, section C.8.

        Args:
            kl: Of G parts of the latent, nats.
            dims: How many dimensions each part has.
        """
        if not self.free_bits:
            return kl.sum(1)
        means = self.across_ranks(kl.mean(0, keepdim=True)).mean(0)  # [G]
        return means.clamp(min=self.free_bits * dims).sum().expand(len(kl))

    def elbo_terms(self, recon: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """Return the batch means of recon and kl, `[B]` nats each, and elbo, to be logged beside the loss.

        The elbo is a lower bound on log p(x) with every constant in place, whatever the loss weighs the KL by.
        """
        elbo = -(recon + self.likelihood.constant + kl)  # [B]
        return {"recon": recon.mean(), "kl": kl.mean(), "elbo": elbo.mean()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon, kl and elbo, the KL by one sample. Kingma & Welling 2013, equation 6."""
        z, log_q = self.posterior(batch.x, batch.y).draw(1)  # [1, B, D], [1, B]
        recon = self.likelihood.nll(self.logits(z[0], batch.y), batch.x)  # [B]
        kl = (log_q - self.log_prior(z))[0]  # [B]
        loss = self.recon_weight * recon + self.kl_weight() * self.free(kl[:, None], self.latent_dim)  # [B]
        return {"loss": loss.mean(), **self.elbo_terms(recon, kl)}

    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Decode `n` draws from the prior: `[n, C, H, W]`."""
        return self.decode(self.sample_prior(n, generator), y)

    def log_weights(self, q: Posterior, x: Tensor, k: int, y: Tensor | None = None) -> Tensor:
        """Log p(x, z) - log q(z|x) at k draws of q, nats, `[k, B]`; differentiable."""
        z, log_q = q.draw(k)  # [k, B, D], [k, B]
        logits = self.logits(z.flatten(0, 1), None if y is None else torch.cat([y] * k))
        log_px = self.likelihood.log_prob(logits, torch.cat([x] * k)).view(k, -1)
        return log_px + self.log_prior(z) - log_q

    def log_likelihood(self, x: Tensor, k: int, y: Tensor | None = None) -> Tensor:
        """Log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x), nats, `[B]`. Burda et al. 2015, arXiv:1509.00519, eq. 8."""
        q = self.posterior(x, y)
        k = k if self.stochastic else 1  # all draws of a point are one
        most = max(1, IMAGES_PER_CHUNK // len(x))
        chunks = [self.log_weights(q, x, min(most, k - done), y) for done in range(0, k, most)]
        return torch.cat(chunks).logsumexp(0) - math.log(k)
