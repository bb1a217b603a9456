"""What every variant's numbers must satisfy, whatever its paper: the properties that mistakes in a loss break.

Each check takes a model and a batch, and raises AssertionError with one sentence: what was seen, and what usually
causes it; or DoesNotApply, where the variant has nothing to hold it against. `zoo.testing.check_variant` runs them all.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.base import BaseVAE, Batch, ImageSpec, random_batch
from zoo.engine.rehearsal import loss_name
from zoo.errors import DoesNotApply, UserError
from zoo.families.latent import LatentVAE
from zoo.models import create
from zoo.nets.batch_norm import as_evaluated
from zoo.options import signature_options
from zoo.parts.distributions import Likelihood

Variant = str | type[BaseVAE]  # a registered name, or a class
SIGMAS = 7  # a mean may be off by so many standard errors, which are estimated from few draws themselves
FAINT = 1e-3  # of a loss: so small a share of it can not be told from its other terms
RESOLVED = 1e6  # nats: far beyond, float32's rounding may be all that a term consists of
NO_SIZE = 0.05  # nats a pixel: sums of so small terms, of any sign, need not grow with the image
# Options of zoo.families.latent that a loss written anew may forget: a value that no default is near, the attribute
# that it is kept in, and what to write.
INHERITED: dict[str, tuple[Any, str, str]] = {
    "beta": (7.0, "beta", "self.kl_weight() * kl"),
    "warmup": (0.9, "warmup", "self.kl_weight() * kl"),
    "free_bits": (9.0, "free_bits", "self.free(kl)"),
    "reduction": ("mean", "recon_weight", "self.recon_weight * recon"),
}
SPREADS = (1.0, 1.5, 2.2, 3.3, 5.0, 7.5)  # what an encoder's parameters are multiplied by, so that posteriors differ


def differing_images(image: ImageSpec, n: int = 4) -> Batch:
    """Draw `n` images that differ: from dark to light, from smooth to noise, with labels in turn."""
    low, high = image.range
    noise = random_batch(image, n)
    level = torch.linspace(0.05, 0.95, n)[:, None, None, None]
    rough = torch.linspace(0.0, 1.0, n)[:, None, None, None]
    x = low + (high - low) * (level + rough * ((noise.x - low) / (high - low) - 0.5)).clamp(0, 1)
    return Batch(x, torch.arange(n) % image.classes if image.classes else noise.y)


def check_state(model: BaseVAE, batch: Batch) -> None:
    """Evaluation changes nothing: neither a buffer, nor the next loss under the same seed."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    losses = []
    for _ in range(2):
        losses.append(_loss(model, batch))
        model(*batch)
        model.sample(2, _labels(batch, 2))
        if _has_density(model):
            model.log_likelihood(batch.x, 2, batch.y)
    for name, buffer in model.named_buffers():
        same = torch.equal(buffer, before[name])
        assert same, f"the buffer {name} changes in evaluation: let it follow the data only `if self.training`"
    assert losses[0] == losses[1], (
        f"in evaluation, under one seed, the loss is {losses[0]:g} and then {losses[1]:g}: something remembers"
    )


def check_sizes(model: BaseVAE, batch: Batch) -> None:
    """A batch of one image and one of three have finite losses."""
    for n in (1, 3):
        part = Batch(batch.x[:n], _labels(batch, n))
        for player in model.players:
            try:
                terms = _terms(model, part, player)
            except Exception as error:  # an author's code may raise anything
                raise AssertionError(f"{loss_name(player)} can't take a batch of {n}: {error}") from error
            for name, term in terms.items():
                assert term.isfinite(), (
                    f"the term {name!r} of {loss_name(player)} is {term.item()} for a batch of {n}: "
                    "a variance over one image, or a half of an odd batch?"
                )


def check_labels(model: BaseVAE, batch: Batch) -> None:
    """Another label gives another reconstruction and other samples."""
    if not model.needs_labels or batch.y is None:
        raise DoesNotApply
    other = batch.y.roll(1, 0) if batch.y.ndim == 1 else 1 - batch.y
    images = [model.reconstruct(batch.x, y) for y in (batch.y, other)]
    assert not torch.equal(*images), (
        "reconstructions are the same whatever the labels, though the variant says `needs_labels`: does anything see y?"
    )
    draws = [model.sample(len(y), y, torch.Generator().manual_seed(0)) for y in (batch.y, other)]
    assert not torch.equal(*draws), "samples are the same whatever the labels: does decode see y?"


def check_images_alone(model: BaseVAE, batch: Batch) -> None:
    """A batch's terms are the means of its halves', but for `batch_terms`: in training, too, and far from the prior."""
    half = len(batch.x) // 2
    # Which images are in a half matters where they are sorted, or counted on both sides of a target.
    orders = ([0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2])
    ways = [(spread, False) for spread in SPREADS] + [(SPREADS[0], True), (SPREADS[-1], True)]
    for (spread, training), order in itertools.product(ways, orders):
        each = _spread(model, batch, spread).train(training)
        parts = [
            Batch(batch.x[rows], None if batch.y is None else batch.y[rows])
            for rows in (order, order[:half], order[half:])
        ]
        with as_evaluated(each), RepeatedNoise(half):
            whole, first, second = (_terms(each, part) for part in parts)
        for name in whole.keys() - {*each.batch_terms}:
            mean = (first[name] + second[name]) / 2
            size = max(whole[name].abs().item(), mean.abs().item(), 1.0)
            if size > RESOLVED:
                continue
            assert (whole[name] - mean).abs() < 1e-4 * size, (
                f"the term {name!r} is {whole[name]:g} for a batch, but {mean:g} on average for its two halves: "
                "terms are means over the batch, of sums over pixels or dimensions, unless `batch_terms` names them"
            )


def check_pixels(variant: Variant, model: BaseVAE, options: dict[str, Any]) -> None:
    """Of images with twice the side, four times the reconstruction term: a sum over pixels, not a mean."""
    image = replace(model.image, height=2 * model.image.height, width=2 * model.image.width)
    try:
        larger = build(variant, image, options)
    except UserError:  # the net is for images of one size
        raise DoesNotApply from None
    small, large = (_terms(each, differing_images(each.image)) for each in (model, larger))
    if isinstance(likelihood := getattr(model, "likelihood", None), Likelihood):
        batch = differing_images(model.image)
        if likelihood.nll(model(*batch).logits, batch.x).mean().abs() < NO_SIZE * model.image.pixels:
            raise DoesNotApply  # a density of 1 has a logarithm of 0; check_reconstruction knows what there should be
    name = "recon" if "recon" in small else "loss"
    assert large[name] > 1.8 * small[name], (
        f"the term {name!r} is {small[name]:g} for images of {model.image.height} pixels a side, and {large[name]:g} "
        "for images of twice the side: sum over pixels, do not average"
    )


def check_inherited_options(variant: Variant, model: BaseVAE, options: dict[str, Any]) -> None:
    """Options that a parent class brings along have a part in the loss, or `settled` takes them back."""
    cls = type(model)
    known = signature_options(cls)
    batch = differing_images(model.image)
    read = _attributes_read(model, batch)
    loss = _loss(model, batch)
    for option, (value, attribute, advice) in INHERITED.items():
        if option not in known or attribute in read:
            continue
        other = build(variant, model.image, options | {option: value})
        other.load_state_dict(model.state_dict())
        assert _loss(other, batch) != loss, (
            f"the option {option!r}, which {cls.__name__} has from a parent class, changes nothing: write {advice} in "
            f"the loss, or take the option back with settled = ({option!r},)"
        )


def check_encoder(model: BaseVAE, batch: Batch) -> None:
    """The encoder learns, and from the reconstruction, too."""
    if model.codebook_size:  # a code is a number, and passes its gradient in ways of its own
        raise DoesNotApply
    with torch.enable_grad():
        mu, _ = model.encode(*batch)
        assert mu.requires_grad, "encode has no gradient: are its parameters frozen, or is its result detached?"
        parameters = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(mu.square().sum(), parameters, allow_unused=True)
        encoder = [p for p, grad in zip(parameters, grads, strict=True) if grad is not None and grad.any()]
        recon = _terms(model, batch).get("recon")
        if recon is None or not recon.requires_grad:
            return
        grads = torch.autograd.grad(recon, encoder, allow_unused=True)
    reached = any(grad is not None and grad.any() for grad in grads)
    assert reached, "the term 'recon' has no gradient to what encode uses: is z detached?"


def check_signals(model: BaseVAE, batch: Batch) -> None:
    """Each player's loss has a gradient other than zero, in some draw."""
    for player in model.players:
        parameters = [p for p in model.player_parameters(player) if p.requires_grad]
        norms = []
        for _ in range(3):
            with torch.enable_grad():
                loss = _terms(model, batch, player)["loss"]
                grads = torch.autograd.grad(loss, parameters, allow_unused=True)
            norms.append(max(grad.abs().max().item() for grad in grads if grad is not None))
        assert max(norms) > 0, (
            f"the gradient of {loss_name(player)} is zero in all that player {player!r} owns, in three draws: "
            "does it compare what is the same, or is something times 0?"
        )


def check_pull(model: BaseVAE, batch: Batch) -> None:
    """A KL that is logged is minimised: posteriors farther from the prior cost more than their reconstruction."""
    if not model.stochastic or not {"kl", "recon"} <= _terms(model, batch).keys():
        raise DoesNotApply
    far = _spread(model, batch, SPREADS[-1])
    costs = []
    for each in (model, far):
        each.progress.fill_(1.0)
        torch.manual_seed(0)
        terms = _terms(each, batch)
        costs.append((terms["kl"].item(), (terms["loss"] - terms["recon"]).item()))
    model.progress.fill_(0.5)
    (low, without), (high, with_it) = costs
    weight = model.kl_weight() if isinstance(model, LatentVAE) else 1.0
    if high >= low + 1 and float(weight) * (high - low) < FAINT * max(1.0, abs(without)):
        raise DoesNotApply  # its weight is so small that the rest of the loss hides it
    assert high < low + 1 or with_it - without > FAINT * max(1.0, abs(without)), (
        f"the term 'kl' rises from {low:g} to {high:g} nats, and the loss but for 'recon' goes from {without:g} to "
        f"{with_it:g}: is the KL in the loss, not times 0, and not subtracted?"
    )


def check_reconstruction(model: BaseVAE, batch: Batch) -> None:
    """The logged reconstruction term is that of the model's likelihood and a draw of z, and the loss falls with it."""
    if "recon" not in _terms(model, batch):
        raise DoesNotApply
    recon = torch.stack([_terms(model, batch)["recon"] for _ in range(3)])
    errors = torch.stack([(model(*batch).recon - batch.x).square().sum() for _ in range(3)])
    visible = errors.max() - errors.min() > 1e-4 * errors.mean()  # in an untrained deep net, rounding hides the noise
    assert not (model.stochastic and visible) or recon.unique().numel() > 1, (
        "the term 'recon' is the same in each draw, though the posterior has noise: is the mean decoded, not z?"
    )
    if isinstance(likelihood := getattr(model, "likelihood", None), Likelihood) and model.own_bound:
        with RepeatedNoise(len(batch.x), everywhere=True):  # forward draws what the loss does
            logged, nll = _terms(model, batch)["recon"], likelihood.nll(model(*batch).logits, batch.x).mean()
        assert (logged - nll).abs() <= 1e-4 * max(1.0, nll.abs().item()), (
            f"the term 'recon' is {logged:g} nats, but likelihood.nll(forward's logits, x) is {nll:g} with the same "
            "noise: another target, images for logits, or a mean for a sum?"
        )
    with torch.enable_grad():
        z = model(*batch).z.detach()
        parameters = [p for p in model.player_parameters("vae") if p.requires_grad]
        reached = torch.autograd.grad(model.decode(z, batch.y).sum(), parameters, allow_unused=True)
        decoder = [p for p, grad in zip(parameters, reached, strict=True) if grad is not None]
        torch.manual_seed(0)
        terms = _terms(model, batch)
        if not decoder or not terms["recon"].requires_grad:
            return
        of_loss, of_recon = (
            _flat(torch.autograd.grad(terms[name], decoder, retain_graph=True, allow_unused=True))
            for name in ("loss", "recon")
        )
    cosine = torch.nn.functional.cosine_similarity(of_loss, of_recon, dim=0)
    assert cosine > -0.5, (
        f"what lowers the loss raises the term 'recon' (cosine of their gradients in the decoder: {cosine:.2f}): is a "
        "sign turned?"
    )


def check_spread(model: BaseVAE, batch: Batch) -> None:
    """Drawn latents have the mean and the standard deviation that encode says."""
    each, draws = _spread(model, batch, 2.0), 60
    mu, logvar = each.encode(*batch)
    if logvar is None:
        raise DoesNotApply
    z = torch.stack([each(*batch).z for _ in range(draws)])
    normal = (z - mu) * (-0.5 * logvar).exp()  # N(0, 1), [draws, B, D]
    n = normal.numel()
    shift, scale = normal.mean().abs().item(), normal.square().mean().item()
    assert shift < SIGMAS / n**0.5, "the mean of forward's z is not forward's mu: how is it drawn?"
    assert abs(scale - 1) < SIGMAS * (2 / n) ** 0.5, (
        f"forward's z has {scale:.3g} times the variance exp(logvar): is sigma confused with its square?"
    )
    for other, what in ((normal.roll(1, 1), "images of a batch"), (normal.roll(1, 2), "dimensions of a latent")):
        if torch.equal(other, normal):
            continue  # of one dimension
        common = (normal * other).mean().abs().item()
        assert common < SIGMAS / n**0.5, f"forward's z has the same noise in different {what}: draw it in mu's shape"


def check_kl(model: BaseVAE, batch: Batch) -> None:
    """The logged KL is that of the posterior to the prior, by many draws of it."""
    posterior, log_prior = getattr(model, "posterior", None), getattr(model, "log_prior", None)
    if posterior is None or log_prior is None or not model.own_bound or "kl" not in _terms(model, batch):
        raise DoesNotApply
    draws, few = 300, 10
    for spread in (1.0, 2.2, 5.0):
        each = _spread(model, batch, spread)
        z, log_q = each.posterior(*batch).draw(draws)  # type: ignore[operator]
        sampled = (log_q - each.log_prior(z)).mean(1)  # type: ignore[operator]  # [draws]
        kl = torch.stack([_terms(each, batch)["kl"] for _ in range(few)])
        error = (sampled.var() * (1 / draws + 1 / few * (kl.var() > 0))).sqrt().item()
        off = (kl.mean() - sampled.mean()).abs().item()
        assert off <= SIGMAS * error + 1e-3 * max(1.0, sampled.mean().abs().item()), (
            f"the term 'kl' is {kl.mean():g} nats, but log q(z|x) - log p(z) is {sampled.mean():g} over {draws} draws: "
            "a sign, a variance for its log, another prior?"
        )


def check_bound(model: BaseVAE, batch: Batch) -> None:
    """The elbo is the mean of `log_likelihood` with one sample, and of many equal samples each counts as one."""
    if not _has_density(model):
        raise DoesNotApply
    with RepeatedNoise(len(batch.x), everywhere=True):
        one, seven = (model.log_likelihood(batch.x, k, batch.y) for k in (1, 7))
    size = max(1.0, one.abs().max().item())
    more = (seven - one).mean().item()
    assert abs(more) < 1e-4 * size, (
        f"log_likelihood of seven equal samples is {more:g} nats more than of one: it is the log of the weights' mean, "
        "so subtract log k"
    )
    if "elbo" not in _terms(model, batch) or not model.own_bound:
        return
    few = 20
    elbo = torch.stack([_terms(model, batch)["elbo"] for _ in range(few)])
    ones = torch.stack([model.log_likelihood(batch.x, 1, batch.y).mean() for _ in range(few)])
    error = (torch.stack([elbo.var(), ones.var()]).max() * 2 / few).sqrt().item()
    off = (elbo.mean() - ones.mean()).abs().item()
    assert off <= SIGMAS * error + 1e-4 * size, (
        f"the term 'elbo' is {elbo.mean():g} nats, but log_likelihood with one sample is {ones.mean():g} on average: "
        "a constant left out, or a weight left in?"
    )


def check_prior(model: BaseVAE, batch: Batch) -> None:
    """Samples are decoded draws of the prior that `sample_prior` and `log_prior` speak of."""
    sample_prior = getattr(model, "sample_prior", None)
    if sample_prior is None:
        raise DoesNotApply
    y = _labels(batch, 3)
    drawn = model.sample(3, y, torch.Generator().manual_seed(0))
    decoded = model.decode(sample_prior(3, torch.Generator().manual_seed(0)), y)
    assert torch.allclose(drawn, decoded, atol=1e-5), (
        "sample does not decode a draw of sample_prior: does it draw from N(0, I) where the prior is learned?"
    )


def check_density(model: BaseVAE, batch: Batch) -> None:
    """The density `log_prior` is that of `sample_prior`'s draws, whatever the prior has learned."""
    sample_prior, log_prior = getattr(model, "sample_prior", None), getattr(model, "log_prior", None)
    if sample_prior is None or log_prior is None or model.codebook_size or not model.own_bound:
        raise DoesNotApply
    n = 4000
    for learned in (False, True):
        if learned:
            _perturb_prior(model)
        z = sample_prior(2 * n, torch.Generator().manual_seed(0))
        if z.norm(dim=1).std() < 1e-4:  # on a sphere, which no Gaussian is close to
            raise DoesNotApply
        fitted = torch.distributions.Normal(z[:n].mean(0), z[:n].std(0))
        # Over draws of p, the mean of q / p is the integral of q: 1, for any density q.
        ratio = (fitted.log_prob(z[n:]).sum(-1) - log_prior(z[n:])).double().exp()
        error = ratio.std().item() / n**0.5
        if not ratio.isfinite().all() or error > 0.03 * ratio.mean():  # too far from a Gaussian to tell
            raise DoesNotApply
        off = abs(ratio.mean().item() - 1)
        assert off < SIGMAS * error + 1e-3, (
            f"a density that integrates to 1 comes out as {ratio.mean():.3g} by log_prior at draws of sample_prior: "
            "is a constant or the log determinant left out of log_prior, or a scale out of sample_prior?"
        )


def check_modes(model: BaseVAE, batch: Batch) -> None:
    """Training and evaluation agree, once BatchNorm remembers the same images."""
    settled = copy.deepcopy(model)
    layers = [layer for layer in settled.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # remembers the mean of all batches
    if not layers:
        raise DoesNotApply
    n = 16
    y = None if batch.y is None else batch.y.repeat(n // len(batch.y), *[1] * (batch.y.ndim - 1))
    many = Batch(differing_images(model.image, n).x, y)
    settled.progress.fill_(1.0)
    settled.train()
    for _ in range(4):
        settled.loss(many)
    trained = _mean_terms(settled, many)
    evaluated = _mean_terms(settled.eval(), many)
    for name in trained.keys() & {"recon", "kl"}:
        size = max(2.0, abs(evaluated[name]))
        assert abs(trained[name] - evaluated[name]) < 0.5 * size, (
            f"the term {name!r} is {trained[name]:g} in training and {evaluated[name]:g} in evaluation, on the images "
            "that BatchNorm remembers: does anything but the batch's images pass such a layer? See zoo.nets.batch_norm"
        )


def check_precision(model: BaseVAE, batch: Batch) -> None:
    """bfloat16 gives the loss that float32 gives, but for its rounding."""
    if not model.bf16_safe:
        raise DoesNotApply
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.manual_seed(0)
            found.append({name: term.float() for name, term in model.loss(batch).items()})
    size = max(1.0, *(term.abs().item() for term in found[0].values()))
    for name, term in found[0].items():
        off = (found[1][name] - term).abs()
        assert off < 0.05 * size, (
            f"the term {name!r} is {term:g} in float32 and {found[1][name]:g} in bfloat16: compute differences of "
            "large numbers, such as variances, with autocast off"
        )


class RepeatedNoise(TorchDispatchMode):
    """Within it, all that is random is a fixed pattern that repeats after `period` rows.

    So each image has the same noise in a batch and in its half, and different images of a half have different noise.
    With `everywhere`, all rows have the same: draws of one image are equal.
    """

    def __init__(self, period: int, everywhere: bool = False) -> None:
        super().__init__()
        self.period = 1 if everywhere else period

    def __torch_dispatch__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and isinstance(result, Tensor):
            if result.is_floating_point():
                result.copy_(self._pattern(result.shape, result.device))
            else:
                result.fill_(0)
        return result

    def _pattern(self, shape: torch.Size, device: torch.device) -> Tensor:
        columns = torch.arange(shape[-1] if len(shape) > 1 else 1, device=device)
        rows = torch.arange(shape[-2] if len(shape) > 1 else (shape[0] if shape else 1), device=device) % self.period
        pattern = 0.1 + 0.8 * (0.37 + 0.618 * columns + 0.271 * rows[:, None]).frac()
        return (pattern if len(shape) > 1 else pattern[:, 0]).expand(shape) if shape else pattern[0, 0]


def _terms(model: BaseVAE, batch: Batch, player: str = "vae") -> dict[str, Tensor]:
    return getattr(model, loss_name(player))(batch)


def _loss(model: BaseVAE, batch: Batch) -> float:
    torch.manual_seed(0)
    return model.loss(batch)["loss"].item()


def _attributes_read(model: BaseVAE, batch: Batch) -> set[str]:
    """Return the names of a model's attributes that its losses look at."""
    read = set()

    class Watched(type(model)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    watched = copy.deepcopy(model)
    watched.__class__ = Watched
    for player in model.players:
        _terms(watched, batch, player)
    return read


def _mean_terms(model: BaseVAE, batch: Batch, draws: int = 4) -> dict[str, float]:
    rows = [model.loss(batch) for _ in range(draws)]
    return {name: torch.stack([row[name] for row in rows]).mean().item() for name in rows[0]}


def _labels(batch: Batch, n: int) -> Tensor | None:
    return None if batch.y is None else batch.y[:n]


def _has_density(model: BaseVAE) -> bool:
    return type(model).log_likelihood is not BaseVAE.log_likelihood


def _spread(model: BaseVAE, batch: Batch, factor: float) -> BaseVAE:
    """Copy a model, what `encode` depends on multiplied by `factor`: posteriors far from each other and the prior."""
    if factor == 1.0:
        return copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    with torch.enable_grad():
        outputs = [part for part in model.encode(*batch) if part is not None and part.requires_grad]
        if not outputs:
            return copy.deepcopy(model)
        total = torch.stack([output.square().sum() for output in outputs]).sum()
        tuned = {name: p for name, p in parameters.items() if p.requires_grad}
        grads = torch.autograd.grad(total, list(tuned.values()), allow_unused=True)
    of_encoder = {name for name, grad in zip(tuned, grads, strict=True) if grad is not None and grad.any()}
    spreaded = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in spreaded.named_parameters():
            if name in of_encoder:
                p.mul_(factor)
    return spreaded


def _flat(grads: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([grad.flatten() for grad in grads if grad is not None] or [torch.zeros(1)])


def _perturb_prior(model: BaseVAE) -> None:
    """Move the parameters that `log_prior` depends on, as learning would: what starts at 0 hides a wrong scale.

    A layer's output moves by as much whether it has few inputs or many.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        density = model.log_prior(model.sample_prior(8)).sum()  # type: ignore[operator]
        if not density.requires_grad:
            return
        grads = torch.autograd.grad(density, parameters, allow_unused=True)
    for parameter, grad in zip(parameters, grads, strict=True):
        if grad is not None:
            inputs = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.add_(0.3 * inputs**-0.5 * torch.randn_like(parameter))


def build(variant: Variant, image: ImageSpec, options: dict[str, Any]) -> BaseVAE:
    """Build a variant as it is checked: half-way through its schedules, in evaluation mode."""
    model = create(variant, image, **options) if isinstance(variant, str) else variant(image, **options)
    model.progress.fill_(0.5)
    return model.eval()


def checks_of_numbers(
    variant: Variant, model: BaseVAE, options: dict[str, Any]
) -> Iterator[tuple[Callable[..., None], tuple[Any, ...]]]:
    """Yield all checks of this module with what they take: copies of a model, in evaluation mode, half-way."""
    torch.manual_seed(0)  # a verdict does not change from call to call
    batch = differing_images(model.image)
    model.progress.fill_(0.5)
    for check in CHECKS:
        yield check, (copy.deepcopy(model), batch)
    for check_building in CHECKS_THAT_BUILD:
        yield check_building, (variant, copy.deepcopy(model), options)


def check_properties(model: BaseVAE, variant: Variant, options: dict[str, Any]) -> None:
    """Run all checks of this module."""
    for check, arguments in checks_of_numbers(variant, model, options):
        with suppress(DoesNotApply):
            check(*arguments)


CHECKS: tuple[Callable[[BaseVAE, Batch], None], ...] = (
    check_state,
    check_sizes,
    check_labels,
    check_images_alone,
    check_encoder,
    check_signals,
    check_pull,
    check_reconstruction,
    check_spread,
    check_kl,
    check_bound,
    check_prior,
    check_density,
    check_modes,
    check_precision,
)
CHECKS_THAT_BUILD: tuple[Callable[[Variant, BaseVAE, dict[str, Any]], None], ...] = (
    check_pixels,
    check_inherited_options,
)
