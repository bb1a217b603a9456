"""What every variant with a KL has from one place: warm-up of its weight, free bits, bounds on log variances."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runs import small
from zoo.base import VARIANTS, Batch, ImageSpec, random_batch
from zoo.families.gaussian import GaussianVAE
from zoo.families.latent import LatentVAE
from zoo.models import create, model_options
from zoo.parts.distributions import LOGVAR_BOUNDS, bounded_logvar

NAMES = [entry.name for entry in VARIANTS]
WARMED = [name for name in NAMES if "warmup" in model_options(name, {})]
FREED = [name for name in NAMES if "free_bits" in model_options(name, {})]
IMAGE = ImageSpec(1, 8, 8, classes=4, train_size=20)


def model_of(name: str, **options: Any) -> LatentVAE:
    torch.manual_seed(0)
    model = create(name, IMAGE, **small(name, **options))
    assert isinstance(model, LatentVAE)
    return model.eval()


def terms_at(model: LatentVAE, progress: float) -> dict[str, Tensor]:
    """The loss's terms on the same images, with the same noise."""
    torch.manual_seed(1)
    batch = random_batch(IMAGE, 6)
    model.progress.fill_(progress)
    torch.manual_seed(2)
    return model.loss(batch)


def test_who_has_a_kl_that_can_be_weighed() -> None:
    without = {"ae", "aae", "wae_mmd", "swae", "rae_l2", "rae_gp"}  # no KL
    without |= {"iwae", "miwae", "ciwae", "piwae"}  # bounds that no weight of the KL leaves in place
    without |= {"vq", "vqgan", "rvq", "lfq", "bsq", "fsq"}  # a point, whose code length the prior alone learns
    without |= {"beta_capacity"}  # a target for the KL in place of a weight
    assert set(WARMED) == set(NAMES) - without
    assert set(FREED) == set(WARMED) - {"beta_tc"}  # whose KL is three terms, each with its weight


@pytest.mark.parametrize("name", WARMED)
def test_the_weight_rises_from_nothing_to_its_own(name: str) -> None:
    # By default the one has no KL, and the others' is lost in rounding.
    options = {"info": {"alpha": 0.5}, "kl_gan": {"beta": 1.0}, "eq": {"beta": 1.0}}.get(name, {})
    model, plain = model_of(name, warmup=0.5, **options), model_of(name, warmup=0.0, **options)
    none, half, full, end = (terms_at(model, progress)["loss"] for progress in (0.0, 0.25, 0.5, 1.0))
    size = terms_at(plain, 1.0)["recon"].abs() + full.abs()
    assert full == end == terms_at(plain, 0.0)["loss"]
    assert (half - (none + full) / 2).abs() < 1e-6 * size
    assert (full - none).abs() > 1e-5 * size
    if "beta" in model_options(name, {}):
        other = model_of(name, warmup=0.5, beta=7.0)
        assert terms_at(other, 0.0)["loss"] == none and terms_at(other, 1.0)["loss"] != full


@pytest.mark.parametrize("name", FREED)
def test_a_kl_below_its_free_bits_counts_as_these(name: str) -> None:
    options: dict[str, Any] = {"warmup": 0.0, "alpha": 0.0} | (
        {"beta": 2.0} if "beta" in model_options(name, {}) else {}
    )
    plain, free = model_of(name, **options), model_of(name, **options, free_bits=100.0)
    terms, freed = terms_at(plain, 1.0), terms_at(free, 1.0)
    kl = terms.get("kl_uniform", terms["kl"])
    variables = plain.positions if name == "categorical" else plain.latent_dim
    floor = plain.kl_weight() * (100.0 * variables - kl)
    torch.testing.assert_close(freed["loss"] - terms["loss"], floor, rtol=1e-4, atol=1e-3)
    assert freed["kl"] == terms["kl"], "what is logged is the KL itself"
    assert "loss" in free.batch_terms and ("loss" in plain.batch_terms) == ("loss" in type(plain).batch_terms)


def test_each_part_is_free_by_its_mean_over_the_batch() -> None:
    model = model_of("mlp", free_bits=0.5)
    kl = torch.tensor([[0.0, 3.0, 0.2], [0.8, 1.0, 0.6]], requires_grad=True)  # means 0.4, 2, 0.4
    free = model.free(kl)
    assert free.tolist() == pytest.approx([3.0, 3.0])  # 0.5 + 2 + 0.5
    free.mean().backward()
    assert kl.grad is not None and kl.grad.tolist() == [[0, 0.5, 0], [0, 0.5, 0]]
    assert model.free(kl, dims=4).tolist() == pytest.approx([6.0, 6.0])  # 2 + 2 + 2


@pytest.mark.parametrize(("name", "family"), [("mlp", GaussianVAE), ("iaf", LatentVAE)])
@pytest.mark.parametrize("free_bits", [0.0, 100.0])
def test_a_familys_loss_is_what_its_variants_write_out(name: str, family: type[LatentVAE], free_bits: float) -> None:
    """A plugin need not write the sum of its terms."""
    model = model_of(name, warmup=0.5, beta=3.0, free_bits=free_bits, reduction="mean")
    expected = terms_at(model, 0.25)
    model.loss = partial(family.loss, model)  # type: ignore[method-assign]
    torch.testing.assert_close(terms_at(model, 0.25), expected)


@pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("iaf", "planar", "ladder"))]
)
def test_free_bits_keep_the_kl_of_a_posterior_that_would_collapse(name: str) -> None:
    """Images of noise are worth no nat: the KL falls to nothing, or else to what is free."""
    kls = []
    for free_bits in (0.0, 0.5):
        model = trained_on_noise(name, free_bits)
        kls.append(model.loss(random_batch(IMAGE, 512))["kl"].item() / model.latent_dim)
    assert kls[0] < 0.1
    assert 0.3 < kls[1] < 0.6


def test_free_bits_keep_each_dimension() -> None:
    for free_bits, low, high in ((0.0, 0.0, 0.1), (0.5, 0.25, 0.6)):
        mu, logvar = trained_on_noise("mlp", free_bits).encode(random_batch(IMAGE, 512).x)
        assert logvar is not None
        kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).mean(0)  # [D]
        assert low <= kl.min() and kl.max() < high


def trained_on_noise(name: str, free_bits: float) -> LatentVAE:
    """Start where each dimension has a nat or so of KL, and train."""
    model = model_of(name, warmup=0.0, free_bits=free_bits).train()
    with torch.no_grad():
        for head in heads(model):
            head.bias[len(head.bias) // 2 if name == "ladder" else 0 :] = -3.0
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    torch.manual_seed(3)
    for _ in range(800):
        optimizer.zero_grad()
        model.loss(random_batch(IMAGE, 64))["loss"].backward()
        optimizer.step()
    return model


# ---- bounds on the log variance


def heads(model: LatentVAE) -> list[torch.nn.Linear]:
    """Those whose output is a log variance; in a ladder, its second half."""
    if hasattr(model, "to_logvar"):
        return [model.to_logvar]
    return [*model.to_evidence, *(down[-1] for down in model.down)] if hasattr(model, "to_evidence") else []


BOUNDED = [name for name in NAMES if hasattr(create(name, IMAGE, **small(name)), "to_logvar") or name == "ladder"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("extreme", [-1000.0, -100.0, -30.0, 30.0, 100.0, 1000.0])
@pytest.mark.parametrize("name", BOUNDED)
def test_extreme_log_variances_give_finite_losses_and_gradients(name: str, extreme: float, precision: str) -> None:
    model = model_of(name).train()
    with torch.no_grad():
        for head in heads(model):
            head.bias[len(head.bias) // 2 if name == "ladder" else 0 :] = extreme
    batch = random_batch(IMAGE, 4)
    for player in model.players:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            terms = model.loss(batch) if player == "vae" else getattr(model, f"{player}_loss")(batch)
        assert all(term.isfinite() for term in terms.values()), terms
        terms["loss"].backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), key


def test_the_bound_keeps_values_and_gradients_within_and_gradients_beyond() -> None:
    low, high = LOGVAR_BOUNDS
    logvar = torch.tensor([low - 1e30, low, -1.7, 0.0, 12.34567, high, 1e30], requires_grad=True)
    bounded = bounded_logvar(logvar)
    assert bounded.tolist() == [low, *logvar[1:-1].tolist(), high]
    bounded.sum().backward()
    assert logvar.grad is not None and logvar.grad.eq(1).all()


def test_an_encoder_beyond_the_bound_finds_its_way_back() -> None:
    model = model_of("mlp").train()
    with torch.no_grad():
        model.to_logvar.bias.fill_(LOGVAR_BOUNDS[1] + 5)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    torch.manual_seed(0)
    batch: Batch = random_batch(IMAGE, 16)
    for _ in range(300):
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
    assert model.encode(batch.x)[1].max() < 5
