"""Where samples are drawn from: the model's prior, or a density fitted to the latents of the training images.

A sampler is a function, registered by name, that fits itself to a subject and returns how to draw:

    @register_sampler("origin", "always the latent 0")
    def origin(subject: Subject) -> Draw:
        return lambda n, y, generator: subject.model.decode(torch.zeros(n, subject.model.latent_dim), y)

The fitted ones stand in for the prior wherever latents are continuous vectors `[B, D]`. Every training image is
represented by one draw of its posterior, not by its mean: what the decoder was trained on. For a conditional model they
fit p(z) over all labels, and labels come from the training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from zoo.data import evaluation_batches
from zoo.errors import DoesNotApply, PluginError, UserError, crash, is_ours, place
from zoo.metrics.core import Subject
from zoo.parts.distributions import standard_normal
from zoo.parts.flows import RectifiedFlow
from zoo.parts.priors import SecondStage
from zoo.pictures.of_models import to_unit
from zoo.registry import Registry

LATENT_BATCH = 500
GMM_COMPONENTS = 10
GMM_POINTS = 10_000
STAGE_STEPS = 3000
STAGE_BATCH = 256

T = TypeVar("T")
S = TypeVar("S", SecondStage, RectifiedFlow)


class Draw(Protocol):
    """Draws `n` images `[n, C, H, W]` in the model's range, of labels `y` where it needs them."""

    def __call__(self, n: int, y: Tensor | None, generator: torch.Generator, /) -> Tensor:
        """Draw with the generator, which lives on the CPU."""


SAMPLERS: Registry[Callable[[Subject], Draw]] = Registry("sampler", decorator="register_sampler", given=("subject",))
register_sampler = SAMPLERS.register


@register_sampler("prior", "the model's own prior")
def prior(subject: Subject) -> Draw:
    """Draw from the model's own prior."""
    return subject.model.sample


@register_sampler("gaussian", "full-covariance Gaussian fitted to one posterior draw per training image")
def gaussian(subject: Subject) -> Draw:
    """Draw from the aggregate posterior, seen as one Gaussian."""
    z = training_latents(subject).double()
    mean = z.mean(0)
    root = _root(torch.cov(z.T).view(z.shape[1], -1))
    return _decoded(subject, lambda n, g: mean + standard_normal((n, len(mean)), z.device, g, z.dtype) @ root.T)


@register_sampler(
    "gmm10", f"mixture of {GMM_COMPONENTS} full Gaussians fitted to one posterior draw of up to {GMM_POINTS} images"
)
def gmm10(subject: Subject) -> Draw:
    """Draw from the aggregate posterior, seen as a mixture. Ghosh et al. 2020, arXiv:1903.12436, section 4."""
    from sklearn.mixture import GaussianMixture

    z = training_latents(subject)
    if len(z) < GMM_COMPONENTS:
        raise UserError(f"sampler 'gmm10' needs at least {GMM_COMPONENTS} training images, not {len(z)}")
    chosen = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:GMM_POINTS]
    mixture = GaussianMixture(GMM_COMPONENTS, covariance_type="full", random_state=0).fit(z[chosen].double().numpy())
    weights, means = torch.from_numpy(mixture.weights_), torch.from_numpy(mixture.means_)  # [K], [K, D]
    roots = torch.stack([_root(covariance) for covariance in torch.from_numpy(mixture.covariances_)])  # [K, D, D]

    def draw(n: int, generator: torch.Generator) -> Tensor:
        component = torch.multinomial(weights, n, replacement=True, generator=generator)
        eps = standard_normal((n, means.shape[1]), means.device, generator, means.dtype)
        return means[component] + (roots[component] @ eps[:, :, None]).squeeze(2)

    return _decoded(subject, draw)


@register_sampler(
    "second_stage", f"second VAE on the latents, {STAGE_STEPS} steps, one posterior draw per training image"
)
def second_stage(subject: Subject) -> Draw:
    """Draw from a second VAE that was trained on the first one's latents. Dai & Wipf 2019, arXiv:1903.05789, sec. 4.

    Departs from the paper: latents are scaled to unit variance and drawn once per image, the nets are smaller (two
    hidden layers of 512), and training is 3000 steps of 256 latents, with Adam's rate falling from 1e-3 to 0. Gamma
    starts at exp(-3): from the paper's 1, so few steps do not leave the solution that ignores u.
    """
    device = subject.model.device
    z = training_latents(subject)
    mean, scale = z.mean(0), z.std(0).clamp(min=1e-6)
    with torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        stage = _fit(SecondStage(z.shape[1]).to(device), ((z - mean) / scale).to(device))
    return _decoded(subject, lambda n, g: stage.sample(n, g).cpu() * scale + mean)


@register_sampler(
    "rectified_flow", f"rectified flow to the latents, {STAGE_STEPS} steps, one posterior draw per training image"
)
def rectified_flow(subject: Subject) -> Draw:
    """Draw noise, and follow a velocity that was fitted to carry it to the latents. Liu et al. 2023, arXiv:2209.03003.

    Departs from the paper: the net is three layers of 256 on latents that are whitened, and there is no reflow; 3000
    steps of 256 latents, with Adam's rate falling from 1e-3 to 0. Draws take 25 midpoint steps.
    """
    device = subject.model.device
    z = training_latents(subject)
    mean, root = z.mean(0), _root(torch.cov(z.T.double()).view(z.shape[1], -1)).float()
    white = (z - mean) @ torch.linalg.pinv(root, rtol=1e-3).T
    with torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        flow = _fit(RectifiedFlow(z.shape[1]).to(device), white.to(device))
    return _decoded(subject, lambda n, g: flow.sample(n, g).cpu() @ root.T + mean)


def _fit(stage: S, z: Tensor) -> S:
    optimizer = torch.optim.Adam(stage.parameters(), lr=1e-3)
    for step in range(STAGE_STEPS):
        optimizer.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * step / STAGE_STEPS))
        rows = torch.randint(len(z), (STAGE_BATCH,)).to(z.device)
        loss = stage.loss(z[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return stage.eval().requires_grad_(False)


@torch.no_grad()
def sample_batches(subject: Subject, sampler: str, n: int, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield this rank's (number, samples) of `n` in all, `[b, C, H, W]` in [0, 1].

    All noise, and the labels of a conditional model, are seeded by the batch's number: any number of ranks draws the
    same samples. A collective where the sampler is not fitted yet.

    Raises:
        UserError: if there is no such sampler, or it can't serve this model.
    """
    target = SAMPLERS.lookup(sampler).target
    draw = once(subject, f"sampler {sampler}", lambda: fitted(subject, sampler))
    model, train = subject.model, subject.data.train
    for number in range(subject.accelerator.process_index, -(-n // batch_size), subject.accelerator.num_processes):
        size = min(batch_size, n - number * batch_size)
        generator = torch.Generator().manual_seed(number)
        torch.manual_seed(number)  # for what a model draws without the generator
        y = None
        if model.needs_labels:
            assert train.labels is not None
            y = train.labels[torch.randint(len(train), (size,), generator=generator)].to(model.device)
            y = y if y.ndim == 1 else y.float()
        images = _guarded(f"what sampler {sampler!r} returned", lambda: draw(size, y, generator), target)  # noqa: B023
        if not isinstance(images, Tensor) or images.shape != (size, *model.image.shape):
            found = f"shape {list(images.shape)}" if isinstance(images, Tensor) else f"type {type(images).__name__}"
            raise PluginError(
                f"sampler {sampler!r}: what {target.__name__} returned draws images of {found}, not "
                f"{[size, *model.image.shape]} ({place(target)})"
            )
        fault = "" if is_ours(target) else _images_fault(images, model.image.range)
        if fault:
            raise PluginError(f"sampler {sampler!r}: what {target.__name__} returned {fault} ({place(target)})")
        yield number, to_unit(images, model.image.range)


def _images_fault(images: Tensor, range: tuple[float, float]) -> str:
    if images.dtype != torch.float32:
        return f"draws images of {str(images.dtype).removeprefix('torch.')}, not of float32"
    low, high = range
    least, most = images.min().item(), images.max().item()
    inside = low - 1e-3 <= least and most <= high + 1e-3  # false, too, for what is no number
    return "" if inside else f"draws images from {least:g} to {most:g}, and the model's lie in [{low:g}, {high:g}]"


def fitted(subject: Subject, sampler: str) -> Draw:
    """Fit a sampler, and see that it returns how to draw.

    Raises:
        UserError: if there is no such sampler, or it can't serve this model.
    """
    target = SAMPLERS.lookup(sampler).target
    draw = _guarded(f"sampler {sampler!r}: {target.__name__}", lambda: target(subject), target)
    if not callable(draw):
        raise PluginError(
            f"sampler {sampler!r}: {target.__name__} returned a {type(draw).__name__}; it must return a function "
            f"draw(n, y, generator) ({place(target)})"
        )
    return draw


def _guarded(what: str, call: Callable[[], T], target: Callable[..., Any]) -> T:
    try:
        return call()
    except UserError:
        raise
    except Exception as error:
        raise crash(what, error, target) from error


def training_latents(subject: Subject) -> Tensor:
    """Return one draw of q(z|x) for each training image, float32 `[N, D]` on the CPU; a collective.

    Raises:
        UserError: if the model's latents are no vectors, or no finite numbers.
    """

    @torch.no_grad()
    def compute() -> Tensor:
        model, train = subject.model, subject.data.train
        _, probe = next(evaluation_batches(train.subset(torch.arange(1)), model, 1))  # the same on every rank
        if model.codebook_size or not model.encode(*probe)[0].ndim == model(*probe).z.ndim == 2:
            raise DoesNotApply(
                f"a density can't be fitted to the latents of {subject.config.model.name!r}, which are not one "
                "continuous vector per image: leave benchmark.samplers at [prior]"
            )
        batches = subject.batches(train, LATENT_BATCH)
        z = subject.gather({number: model(*batch).z.float() for number, batch in batches})
        if len(z) < 2:
            raise UserError("a density can't be fitted to the latent of a single training image")
        if not z.isfinite().all():
            raise UserError(
                "the latents of the training images are not all finite, so no density can be fitted to them: the "
                "model's weights are too large, damaged or of a run that diverged"
            )
        return z

    return once(subject, "training latents", compute)


def once(subject: Subject, key: str, compute: Callable[[], T]) -> T:
    """Return `compute()`, or what it returned, or the `UserError` it raised, the first time under this key."""
    memo = subject.memo
    if key not in memo:
        try:
            memo[key] = compute()
        except UserError as error:
            memo[key] = error
    if isinstance(memo[key], UserError):
        raise memo[key]
    return memo[key]


def _decoded(subject: Subject, latents: Callable[[int, torch.Generator], Tensor]) -> Draw:
    model = subject.model
    return lambda n, y, generator: model.decode(latents(n, generator).float().to(model.device), y)


def _root(covariance: Tensor) -> Tensor:
    """Return R with R R^T = covariance `[D, D]`, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()
