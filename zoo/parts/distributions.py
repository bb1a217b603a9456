"""Posteriors and likelihoods: densities in nats, summed over dimensions or pixels, one number per image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.base import SYMMETRIC, UNIT, ImageSpec
from zoo.errors import UserError

Reconstruction = Literal["bce", "mse", "l1", "logcosh", "gaussian", "continuous_bernoulli", "logistic_mixture"]
Activation = Literal["sigmoid", "tanh", "none"]

ACTIVATION_RANGE = {"sigmoid": UNIT, "tanh": SYMMETRIC}
PosteriorScale = Literal["exp", "softplus"]
LOGVAR_BOUNDS = (-30.0, 20.0)
LEAST_LOG_VARIANCE = -12.0  # of pixels: sigma = exp(-6), less than a grey level


def standard_normal(
    shape: tuple[int, ...],
    device: torch.device,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw from N(0, I); a generator draws on its own device, so that one seed gives one result everywhere."""
    source = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=source, dtype=dtype).to(device)


def bounded_logvar(logvar: Tensor, least: float = LOGVAR_BOUNDS[0]) -> Tensor:
    """Hold log variances within [`least`, 20], where their exponentials are finite and exact; gradients pass unchanged.

    Beyond the bounds exp would overflow, or leave nothing of a sum of squares; a gradient that were cut there, as
    clamp's is, would leave the encoder where it is.
    """
    return logvar.clamp(least, LOGVAR_BOUNDS[1]).detach() + (logvar - logvar.detach())


def posterior_logvar(raw: Tensor, scale: PosteriorScale) -> Tensor:
    """Take what an encoder says of a posterior's width for its log variance, or for softplus^-1 of its sigma."""
    return bounded_logvar(raw if scale == "exp" else 2 * _log_softplus(raw))


def _log_softplus(x: Tensor) -> Tensor:
    low = -20.0  # below it softplus(x) is exp(x) to the last digit, and further below 0, whose logarithm has no slope
    return torch.where(x < low, x, F.softplus(x.clamp(min=low)).log())


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, I)) in nats: `[B, D]` -> `[B]`. Kingma & Welling 2013, appendix B."""
    return gaussian_kl_per_dim(mu, logvar).sum(1)


def gaussian_kl_per_dim(mu: Tensor, logvar: Tensor) -> Tensor:
    """The same of each dimension: `[..., D]` -> `[..., D]`."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp())


def gaussian_kl_between_per_dim(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(prior_mu, exp(prior_logvar))) of each dimension, nats, same shape."""
    squared = (mu - prior_mu).square() + logvar.exp()
    return 0.5 * (prior_logvar - logvar + squared * (-prior_logvar).exp() - 1)


def gaussian_log_prob(z: Tensor, mu: Tensor | float = 0.0, logvar: Tensor | float = 0.0) -> Tensor:
    """Log N(z; mu, exp(logvar)) in nats, summed over the last dimension: `[..., D]` -> `[...]`."""
    logvar = torch.as_tensor(logvar, dtype=z.dtype, device=z.device)
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu).square() * (-logvar).exp()).sum(-1)


def gaussian_sample(mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw mu + sigma * eps, eps ~ N(0, I), same shape. Kingma & Welling 2013, section 2.4."""
    return mu + (0.5 * logvar).exp() * standard_normal(tuple(mu.shape), mu.device, generator, mu.dtype)


class Posterior(Protocol):
    """q(z|x) for each image of a batch.

    Attributes:
        point: The latent that stands for the image, `[B, D]`: its mean, or its mode where it has no mean.
        logvar: Log variance `[B, D]` of a diagonal Gaussian; None for any other.
    """

    @property
    def point(self) -> Tensor: ...  # noqa: D102 (see the class)
    @property
    def logvar(self) -> Tensor | None: ...  # noqa: D102

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """Draw k latents per image: z `[k, B, D]` and log q(z|x) `[k, B]`, nats; gradients flow through both."""
        ...


@dataclass
class DiagonalGaussian:
    """N(point, diag exp(logvar)), both `[B, D]`."""

    point: Tensor
    logvar: Tensor

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """Draw k latents per image, with their log density."""
        z = gaussian_sample(self.point.expand(k, -1, -1), self.logvar.expand(k, -1, -1))
        return z, gaussian_log_prob(z, self.point, self.logvar)


def log_cosh_constant(a: float) -> float:
    """Log of the integral of cosh(a e)^(-1/a) over the real line, which is B(1/2, 1/(2a)) / a."""
    return 0.5 * math.log(math.pi) + math.lgamma(0.5 / a) - math.lgamma(0.5 / a + 0.5) - math.log(a)


class Likelihood(nn.Module):
    """p(x | z), pixel by pixel, from a decoder's raw output.

    | kind | density | `nll`, summed over pixels |
    | --- | --- | --- |
    | bce | Bernoulli, pixels in [0, 1] | binary cross-entropy, computed from logits |
    | mse | Gaussian of variance 1/2 | squared error; the constant log(pi)/2 a pixel is left out |
    | l1 | Laplace of scale 1 | absolute error; the constant log(2) a pixel is left out |
    | logcosh | proportional to cosh(a e)^(-1/a), a is `sharpness` | log cosh(a e) / a; its constant is left out |
    | gaussian | Gaussian, one learned variance for all pixels | complete |

    Two more kinds have classes of their own, in `zoo.parts.likelihoods`.

    Args:
        kind: One of the above.
        activation: From raw output to image: sigmoid for [0, 1], tanh for [-1, 1], none; by default what fits.
        image: The data's shape and range.
        sharpness: Of "logcosh": errors well below 1/a count squared, those well above by their size.

    Attributes:
        outputs: Channels of the raw output: the image's own, where each pixel has one number.

    Raises:
        UserError: if kind, activation and range don't go together.
    """

    def __init__(
        self, kind: Reconstruction, activation: Activation | None, image: ImageSpec, sharpness: float = 10.0
    ) -> None:
        super().__init__()
        low, high = image.range
        if activation is None:
            activation = "sigmoid" if image.range == UNIT else "tanh"
        needed = ACTIVATION_RANGE.get(activation, image.range)
        if image.range != needed:
            raise UserError(
                f"out_activation {activation!r} covers [{needed[0]:g}, {needed[1]:g}], but the images lie in "
                f"[{low:g}, {high:g}]: set data.range=[{needed[0]:g},{needed[1]:g}] or another out_activation"
            )
        if kind == "bce" and (image.range != UNIT or activation != "sigmoid"):
            raise UserError(
                f"recon 'bce' needs images in [0, 1] and out_activation 'sigmoid', not [{low:g}, {high:g}] and "
                f"{activation!r}: set data.range=[0,1] and model.out_activation=sigmoid, or model.recon=mse"
            )
        self.kind = kind
        self.activation = activation
        self.outputs = image.channels
        # What `nll` leaves out, nats per image.
        constants = {"mse": 0.5 * math.log(math.pi), "l1": math.log(2), "logcosh": log_cosh_constant(sharpness)}
        self.constant = image.pixels * constants.get(kind, 0.0)
        self.sharpness = sharpness
        if kind == "gaussian":
            self.logvar = nn.Parameter(torch.zeros(()))

    @property
    def of_levels(self) -> bool:
        """Whether it gives probabilities of the values that pixels can take, not a density of them."""
        return self.kind in ("bce", "logistic_mixture")

    @property
    def log_variance(self) -> Tensor:
        """Of pixels under "gaussian", a scalar: -12 or more, or images that are met exactly would drive it to -inf."""
        return bounded_logvar(self.logvar, LEAST_LOG_VARIANCE)

    def mean(self, logits: Tensor) -> Tensor:
        """Raw output to image, same shape."""
        if self.activation == "sigmoid":
            return logits.sigmoid()
        return logits.tanh() if self.activation == "tanh" else logits

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """The reconstruction term of a loss, in nats: two `[B, C, H, W]` -> `[B]`."""
        if self.kind == "bce":
            errors = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        elif self.kind == "mse":
            errors = F.mse_loss(self.mean(logits), x, reduction="none")
        elif self.kind == "l1":
            errors = F.l1_loss(self.mean(logits), x, reduction="none")
        elif self.kind == "logcosh":
            scaled = self.sharpness * (self.mean(logits) - x).abs()
            errors = (scaled + F.softplus(-2 * scaled) - math.log(2)) / self.sharpness  # log cosh without overflow
        else:
            squared = F.mse_loss(self.mean(logits), x, reduction="none")
            logvar = self.log_variance
            errors = 0.5 * (math.log(2 * math.pi) + logvar + squared * (-logvar).exp())
        return errors.flatten(1).sum(1)

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """Log p(x | z) in nats with every constant in place: two `[B, C, H, W]` -> `[B]`."""
        return -(self.nll(logits, x) + self.constant)
