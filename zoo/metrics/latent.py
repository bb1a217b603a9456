"""How a model uses its latent: which dimensions are active, what the KL is spent on, and how latents are distributed.

The posterior q(z|x) is the diagonal Gaussian that `encode` returns, or a point where that returns no log variance. It
is taken over test images, 10,000 at most.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.data import Images, some
from zoo.engine.validation import average
from zoo.errors import DoesNotApply
from zoo.metrics.core import Score, Subject, register_metric
from zoo.metrics.likelihood import elbo_and_kl
from zoo.parts.distributions import gaussian_kl_per_dim, gaussian_log_prob, standard_normal

POINTS = 10_000
ACTIVE_VARIANCE = 0.01
POINTS_PER_CHUNK = 1000


def count_active_units(mu: Tensor) -> int:
    """Count the dimensions whose posterior mean varies by more than 0.01 (variance) over the data.

    Burda et al. 2016, arXiv:1509.00519, section 5.2: A_u = Cov_x(E_q(u|x)[u]).

    Args:
        mu: Posterior means, `[N, D]`.
    """
    return int((mu.var(0) > ACTIVE_VARIANCE).sum())


def mean_kl_per_dim(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z_d|x) || N(0, 1)) of each dimension, averaged over the data: two `[N, D]` -> `[D]`, nats."""
    return gaussian_kl_per_dim(mu, logvar).mean(0)


def estimate_mutual_information(mu: Tensor, logvar: Tensor, seed: int = 0) -> float:
    """I(n; z) = E_n E_q(z|x_n)[log q(z|x_n) - log q(z)], q(z) = 1/N sum_m q(z|x_m), in nats: at most log N.

    Hoffman & Johnson 2016, "ELBO surgery": the expected KL(q(z|x) || p(z)) is this plus KL(q(z) || p(z)). One z is
    drawn per point; the sum over all N points is exact, and worked off in chunks.

    Args:
        mu: Posterior means, `[N, D]`.
        logvar: Posterior log variances, `[N, D]`.
        seed: Of the draws.
    """
    mu, logvar = mu.double(), logvar.double()
    z = mu + (0.5 * logvar).exp() * standard_normal(tuple(mu.shape), mu.device, torch.Generator().manual_seed(seed))
    precision = (-logvar).exp()
    log_scale = (math.log(2 * math.pi) + logvar).sum(1)  # [N]
    log_aggregate = []
    for rows in z.split(POINTS_PER_CHUNK):
        # (z - mu)^2 / sigma^2, multiplied out so that all pairs are two matrix products: [chunk, N]
        distance = rows.square() @ precision.T - 2 * rows @ (mu * precision).T + (mu.square() * precision).sum(1)
        log_aggregate.append((-0.5 * (distance + log_scale)).logsumexp(1) - math.log(len(mu)))
    return (gaussian_log_prob(z, mu, logvar) - torch.cat(log_aggregate)).mean().item()


def moment_kl(z: Tensor) -> float:
    """KL(N(m, S) || N(0, I)) of the mean m and covariance S of points, in nats.

    The part of KL(q(z) || p(z)) that mean and covariance tell; from N points of N(0, I), about D (D + 3) / 4N.

    Args:
        z: `[N, D]`.

    Returns:
        Infinity, where the points lie in a subspace.
    """
    z = z.double()
    mean, covariance = z.mean(0), torch.cov(z.T).reshape(z.shape[1], -1)
    return 0.5 * (covariance.trace() + mean @ mean - z.shape[1] - torch.linalg.slogdet(covariance)[1]).item()


def excess_kurtosis(z: Tensor) -> Tensor:
    """E[(z - m)^4] / sd^4 - 3 of each dimension: 0 if Gaussian, -1.2 if uniform, 3 if Laplace: `[N, D]` -> `[D]`.

    Dimensions that don't vary are left out.
    """
    centred = (z - z.mean(0)).double()
    variance = centred.square().mean(0)
    centred, variance = centred[:, variance > 0], variance[variance > 0]
    return centred.pow(4).mean(0) / variance.square() - 3


def effective_rank(z: Tensor) -> float:
    """Exp of the entropy of the covariance's eigenvalues, divided by their sum: between 1 and D; 0 if nothing varies.

    Roy & Vetterli 2007, "The effective rank", over variances.

    Args:
        z: `[N, D]`.
    """
    variances = torch.linalg.eigvalsh(torch.cov(z.double().T).reshape(z.shape[1], -1)).clamp(min=0)
    if not variances.sum() > 0:
        return 0.0
    return torch.special.entr(variances / variances.sum()).sum().exp().item()


@register_metric("active_units", "latent dimensions whose posterior mean varies over test images")
def active_units(subject: Subject) -> dict[str, Score]:
    """Row active_units: see `count_active_units`."""
    mu = _posteriors(subject)[0]
    protocol = f"dimensions of {mu.shape[1]} whose posterior mean has a variance above {ACTIVE_VARIANCE} over images"
    return {"active_units": Score(count_active_units(mu), "", None, protocol, len(mu))}


@register_metric("kl_per_dim", "how the KL is spread over the latent's dimensions")
def kl_per_dim(subject: Subject) -> dict[str, Score]:
    """Rows kl_per_dim_max and kl_per_dim_median: of `mean_kl_per_dim`, which gives all dimensions.

    Raises:
        UserError: if the posterior is no diagonal Gaussian.
    """
    mu, logvar = _gaussians(subject)
    kl = mean_kl_per_dim(mu, logvar)
    protocol = f"of {len(kl)} dimensions' KL(q(z_d|x) || N(0, 1)), closed form, mean over images"
    return {
        "kl_per_dim_max": Score(kl.max().item(), "nats", None, f"greatest {protocol}", len(mu)),
        "kl_per_dim_median": Score(kl.quantile(0.5).item(), "nats", None, f"median {protocol}", len(mu)),
    }


@register_metric("mutual_information", "the rate split into mutual information and marginal KL")
def mutual_information(subject: Subject) -> dict[str, Score]:
    """Rows mutual_information and marginal_kl, which add up to the rate. Hoffman & Johnson 2016, "ELBO surgery".

    The rate is the variant's own KL, whatever its prior; see `estimate_mutual_information` for the other term.

    Raises:
        UserError: if the variant's loss does not report elbo and kl, or its posterior is no diagonal Gaussian.
    """
    mu, logvar = _gaussians(subject)
    n = len(mu)
    mi = estimate_mutual_information(mu, logvar)
    rate = average(elbo_and_kl(subject, _images(subject)))["kl"]
    protocol = f"aggregate posterior over N={n} images, one z per image, so at most log N = {math.log(n):.3f} nats"
    return {
        "mutual_information": Score(mi, "nats", None, f"E[log q(z|x) - log q(z)]; {protocol}", n),
        "marginal_kl": Score(
            rate - mi, "nats", None, f"KL(q(z) || p(z)) as rate - mutual information, that with the {protocol}", n
        ),
    }


@register_metric("gaussianity", "how far the latents of test images are from N(0, I)")
def gaussianity(subject: Subject) -> dict[str, Score]:
    """Rows latent_moment_kl and latent_kurtosis, of one draw from each image's posterior.

    See `moment_kl`, and `excess_kurtosis`, of which the absolute value is averaged over dimensions.

    Raises:
        UserError: if latents lie in a subspace, so that no density is theirs.
    """
    mu, *logvar = _posteriors(subject)
    z = mu
    if logvar:
        z = mu + (0.5 * logvar[0]).exp() * standard_normal(tuple(mu.shape), mu.device, torch.Generator().manual_seed(0))
    distance, kurtosis = moment_kl(z), excess_kurtosis(z)
    if not math.isfinite(distance) or not len(kurtosis):
        raise DoesNotApply(
            f"the latents of {len(z):,} test images lie in a subspace of the {z.shape[1]} dimensions, so gaussianity "
            "can't be measured"
        )
    how = f"one draw z per image, {z.shape[1]} dimensions"
    return {
        "latent_moment_kl": Score(distance, "nats", None, f"KL(N(mean, covariance of z) || N(0, I)); {how}", len(z)),
        "latent_kurtosis": Score(
            kurtosis.abs().mean().item(), "", None, f"mean over dimensions of |excess kurtosis| of z; {how}", len(z)
        ),
    }


@register_metric("spectrum", "over how many directions the latents' variance is spread")
def spectrum(subject: Subject) -> dict[str, Score]:
    """Row effective_rank, of the posterior means: see `effective_rank`."""
    mu = _posteriors(subject)[0]
    protocol = f"exp of the entropy of the eigenvalues of the posterior means' covariance, {mu.shape[1]} dimensions"
    return {"effective_rank": Score(effective_rank(mu), "", None, protocol, len(mu))}


def _images(subject: Subject) -> Images:
    return some(subject.data.test, POINTS)


@torch.no_grad()
def _posteriors(subject: Subject) -> tuple[Tensor, ...]:
    """Return mu and, where there is one, logvar of the test images, each `[N, D]` on the CPU; computed once."""
    if "posteriors" not in subject.memo:
        parts = {}
        for number, batch in subject.batches(_images(subject)):
            latents = [latent for latent in subject.model.encode(batch.x, batch.y) if latent is not None]
            parts[number] = torch.stack(latents, dim=1)  # [B, 1 or 2, D]
        subject.memo["posteriors"] = subject.gather(parts).unbind(1)
    return subject.memo["posteriors"]


def _gaussians(subject: Subject) -> tuple[Tensor, Tensor]:
    posteriors = _posteriors(subject)
    if len(posteriors) != 2:
        raise DoesNotApply(
            f"the posterior of {subject.config.model.name!r} is no diagonal Gaussian, so kl_per_dim and "
            "mutual_information can't be measured"
        )
    return posteriors[0], posteriors[1]
