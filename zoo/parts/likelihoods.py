"""Likelihoods of pixels that lie in a range, or take one of 256 levels: nothing of them lies outside the images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.base import ImageSpec
from zoo.errors import UserError
from zoo.parts.distributions import Activation, Likelihood, Reconstruction, bounded_logvar

COMPONENTS = 5
LEVELS = 256
LEAST_LOG_SCALE = -7.0  # of a range of 2: a tenth of a level
NEAR_EVEN = 0.2  # log odds below which a series is more exact than the closed form


def build_likelihood(kind: Reconstruction, activation: Activation | None, image: ImageSpec) -> Likelihood:
    """Return the likelihood that `recon` names.

    Raises:
        UserError: if kind, activation and range don't go together.
    """
    if kind not in ("continuous_bernoulli", "logistic_mixture"):
        return Likelihood(kind, activation, image)
    if activation is not None:
        raise UserError(
            f"recon {kind!r} makes images in the range of the data by itself: leave out_activation out, not "
            f"{activation!r}"
        )
    return ContinuousBernoulli(image) if kind == "continuous_bernoulli" else LogisticMixture(image)


class ContinuousBernoulli(Likelihood):
    """p(x|z) = C(l) exp(l x) on [0, 1], each pixel. Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845, equation 7.

    The decoder gives the log odds l = log(lambda / (1 - lambda)), by which C = l / (e^l - 1): the Bernoulli's formula
    and the logarithm of l / tanh(l/2), that makes it a density. Images in [-1, 1] are shifted and halved.

    Args:
        image: The data's shape and range.
    """

    def __init__(self, image: ImageSpec) -> None:
        super().__init__("continuous_bernoulli", "none", image)
        self.low, self.width = image.range[0], image.range[1] - image.range[0]

    def mean(self, logits: Tensor) -> Tensor:
        """Raw output to image, same shape: the density's mean, 1 / (1 - e^-l) - 1 / l, which is not lambda."""
        even = logits.abs() < NEAR_EVEN
        safe = torch.where(even, torch.ones_like(logits), logits)
        mean = torch.where(even, 0.5 + logits / 12 - logits**3 / 720, -1 / torch.expm1(-safe) - 1 / safe)
        return self.low + self.width * mean.clamp(0, 1)

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """Minus log p(x|z), nats: two `[B, C, H, W]` -> `[B]`."""
        unit = (x - self.low) / self.width
        half = logits.abs() / 2
        even = half < NEAR_EVEN / 2
        safe = torch.where(even, torch.ones_like(half), half)
        series = half**2 / 3 - 7 * half**4 / 90
        log_norm = math.log(2) + torch.where(even, series, safe.log() - safe.tanh().log())  # log(l / tanh(l / 2))
        bernoulli = F.binary_cross_entropy_with_logits(logits, unit, reduction="none")
        return (bernoulli - log_norm + math.log(self.width)).flatten(1).sum(1)


class LogisticMixture(Likelihood):
    """Probabilities of a pixel's 256 levels. Salimans et al. 2017 (PixelCNN++), arXiv:1701.05517, sections 2.1 and 2.2.

    P(x) = sum_i w_i prod_c [F((x_c + 1/255 - m_ic) / s_ic) - F((x_c - 1/255 - m_ic) / s_ic)], F the logistic function,
    x in [-1, 1]; the outermost levels have all that lies beyond them. The mean of a channel follows those before it in
    the pixel: m_ic + sum_d a_icd x_d. A component is one of all channels.

    Args:
        image: The data's shape and range.
        components: How many there are.
    """

    def __init__(self, image: ImageSpec, components: int = COMPONENTS) -> None:
        super().__init__("logistic_mixture", "none", image)
        self.low, self.width = image.range[0], image.range[1] - image.range[0]
        self.components, self.channels = components, image.channels
        self.pairs = [(c, d) for c in range(image.channels) for d in range(c)]  # channel c follows channel d
        self.outputs = components * (1 + 2 * image.channels + len(self.pairs))

    def parameters_of(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log w `[B, I, H, W]`, m and log s `[B, I, C, H, W]`, and a `[B, I, pairs, H, W]`."""
        each = logits.float().unflatten(1, (self.components, -1))
        w, m, log_s, a = each.split([1, self.channels, self.channels, len(self.pairs)], 2)
        return w.squeeze(2).log_softmax(1), m, bounded_logvar(log_s, LEAST_LOG_SCALE), a.tanh()

    def _following(self, m: Tensor, a: Tensor, x: Tensor) -> Tensor:
        """Let each channel's mean follow the channels before it, x `[B, 1, C, H, W]`."""
        means = list(m.unbind(2))
        for number, (c, d) in enumerate(self.pairs):
            means[c] = means[c] + a[:, :, number] * x[:, :, d]
        return torch.stack(means, 2)

    def mean(self, logits: Tensor) -> Tensor:
        """Raw output to image, `[B, C, H, W]`: the mean of each channel, those before it in the pixel at theirs.

        Of a component it is that of a logistic variable of which what lies beyond an end counts as the end:
        -1 + s [softplus((m + 1) / s) - softplus((m - 1) / s)].
        """
        log_w, m, log_s, a = self.parameters_of(logits)
        s = log_s.exp()
        found: list[Tensor] = []  # of each channel, `[B, I, H, W]`
        for c in range(self.channels):
            centre = m[:, :, c]
            for number, (one, d) in enumerate(self.pairs):
                if one == c:
                    centre = centre + a[:, :, number] * found[d]
            spread = s[:, :, c]
            inside = F.softplus((centre + 1) / spread) - F.softplus((centre - 1) / spread)
            # Where s is large the two are one but for rounding, which s would blow up. There it is what lies between
            # them: the integral of F, by Gauss and Legendre's three nodes.
            at, aside = centre / spread, math.sqrt(0.6) / spread
            between = (8 * at.sigmoid() + 5 * ((at - aside).sigmoid() + (at + aside).sigmoid())) / 18
            found.append(torch.where(spread > 2, 2 * between - 1, spread * inside - 1).clamp(-1, 1))
        mean = (log_w.exp()[:, :, None] * torch.stack(found, 2)).sum(1)
        return self.low + self.width * (mean.clamp(-1, 1) + 1) / 2

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """Minus log P(x|z), nats: raw output `[B, outputs, H, W]` and images `[B, C, H, W]` -> `[B]`."""
        log_w, m, log_s, a = self.parameters_of(logits)
        x = (2 * (x - self.low) / self.width - 1)[:, None]  # [B, 1, C, H, W], in [-1, 1]
        half = 1 / (LEVELS - 1)  # of the step from one level to the next
        centred, inverse = x - self._following(m, a, x), (-log_s).exp()
        up_to = F.logsigmoid((centred + half) * inverse)  # log F(b) of the level's upper end
        from_on = F.logsigmoid((half - centred) * inverse)  # log(1 - F(a)) of its lower end
        # log(F(b) - F(a)) = log F(b) + log(1 - F(a)) + log(1 - exp(a - b)), whatever their size
        inside = up_to + from_on + (-torch.expm1(-2 * half * inverse)).log()
        first, last = x < half - 1, x > 1 - half
        log_p = torch.where(first, up_to, torch.where(last, from_on, inside))
        return -(log_w + log_p.sum(2)).logsumexp(1).flatten(1).sum(1)
