"""iwae, miwae, ciwae, piwae."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.runs import small
from zoo.base import Batch, ImageSpec, random_batch
from zoo.families.latent import LatentVAE
from zoo.models import create
from zoo.variants.iwae import IWAE, grouped_bound

NAMES = ("iwae", "miwae", "ciwae", "piwae")


def model_of(name: str, **options: Any) -> IWAE:
    torch.manual_seed(0)
    model = create(name, ImageSpec(1, 8, 8), **small(name) | options)
    assert isinstance(model, IWAE)
    return model


def double_loop(log_weights: Tensor, groups: int) -> Tensor:
    """1/M sum_m log 1/K sum_k w_mk, image by image."""
    k = len(log_weights) // groups
    bounds = []
    for image in log_weights.double().T:
        inner = [math.log(sum(math.exp(image[m * k + i]) for i in range(k)) / k) for m in range(groups)]
        bounds.append(sum(inner) / groups)
    return torch.tensor(bounds).float()


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 999))
def test_bound_of_groups_is_the_double_loop(m: int, k: int, images: int, seed: int) -> None:
    torch.manual_seed(seed)
    log_weights = 3 * torch.randn(m * k, images)
    torch.testing.assert_close(grouped_bound(log_weights, m), double_loop(log_weights, m), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("iwae", {"samples": 6}, lambda w: double_loop(w, 1)),
        ("miwae", {"samples": 2, "groups": 3}, lambda w: double_loop(w, 3)),
        ("miwae", {"samples": 3, "groups": 2}, lambda w: double_loop(w, 2)),
        ("ciwae", {"samples": 6, "elbo_weight": 0.3}, lambda w: 0.3 * w.mean(0) + 0.7 * double_loop(w, 1)),
        ("piwae", {"samples": 2, "groups": 3}, lambda w: double_loop(w, 1)),
    ],
)
def test_each_variants_bound(name: str, options: dict[str, Any], expected: Any) -> None:
    model = model_of(name, **options)
    torch.manual_seed(0)
    log_weights = 3 * torch.randn(6, 4)
    torch.testing.assert_close(model.bound(log_weights), expected(log_weights), rtol=1e-4, atol=1e-4)
    batch = random_batch(model.image)
    torch.manual_seed(1)
    drawn, _ = model.draw(batch)
    assert drawn.shape == (6, len(batch.x))
    torch.manual_seed(1)
    terms = model.loss(batch)
    torch.testing.assert_close(terms["loss"], -model.bound(drawn).mean())
    torch.testing.assert_close(terms["elbo"], drawn.mean())


@pytest.mark.parametrize("name", NAMES)
def test_one_sample_is_the_elbo(name: str) -> None:
    model = model_of(name, samples=1, **({"groups": 1} if name in ("miwae", "piwae") else {}))
    batch = random_batch(model.image)
    terms = model.loss(batch)
    assert torch.equal(terms["loss"], -terms["elbo"])
    torch.manual_seed(3)
    terms = model.loss(batch)
    torch.manual_seed(3)
    torch.testing.assert_close(terms["loss"], LatentVAE.loss(model, batch)["loss"])


@torch.no_grad()
def test_bound_grows_with_k_towards_log_p() -> None:
    """With p(x|z) = N(z, 1/2), p(z) = N(0, 1) of one pixel: p(x) = N(0, 3/2)."""
    model = create("iwae", ImageSpec(1, 1, 1), net="mlp", hidden_dims=[4], latent_dim=1, out_activation="none")
    assert isinstance(model, IWAE)
    model.logits = lambda z, y=None: z.view(-1, 1, 1, 1)  # type: ignore[method-assign]
    model.encode = lambda x, y=None: (  # type: ignore[method-assign]
        0.4 * x.flatten(1),
        torch.full((len(x), 1), math.log(0.6)),
    )
    x = torch.full((20_000, 1, 1, 1), 0.8)
    true = torch.distributions.Normal(0, math.sqrt(1.5)).log_prob(torch.tensor(0.8)).item()
    bounds = []
    for k in (1, 2, 5, 20):
        model.samples = k
        bounds.append(-model.loss(Batch(x))["loss"].item())
    assert bounds == sorted(bounds)
    assert bounds[-1] < true + 0.01 and bounds[-1] == pytest.approx(true, abs=0.01)
    assert bounds[0] < true - 0.05


def test_the_gradient_weighs_samples_by_their_share() -> None:
    log_weights = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)
    grouped_bound(log_weights, 1).sum().backward()
    assert log_weights.grad is not None
    torch.testing.assert_close(log_weights.grad, log_weights.detach().softmax(0))


def test_the_trained_bound_is_the_reported_one_and_has_its_gradient() -> None:
    model = model_of("iwae", samples=6)
    batch = random_batch(model.image)
    parameters = list(model.parameters())
    torch.manual_seed(0)
    bound = -model.loss(batch)["loss"]
    torch.manual_seed(0)
    reported = model.log_likelihood(batch.x, 6).mean()
    torch.testing.assert_close(bound, reported)
    found, wanted = (torch.autograd.grad(value, parameters) for value in (reported, bound))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_the_players_of_piwae_follow_different_bounds() -> None:
    model = model_of("piwae", samples=2, groups=3)
    inference = {id(p) for p in model.player_parameters("encoder")}
    generation = {id(p) for p in model.player_parameters("vae")}
    assert not inference & generation and len(inference | generation) == len(list(model.parameters()))
    for part in (model.encoder, model.to_mu, model.to_logvar):
        assert {id(p) for p in part.parameters()} <= inference
    for part in (model.from_latent, model.decoder):
        assert {id(p) for p in part.parameters()} <= generation
    batch = random_batch(model.image)
    torch.manual_seed(0)
    drawn, _ = model.draw(batch)
    torch.manual_seed(0)
    found = model.encoder_loss(batch)["loss"]
    torch.testing.assert_close(found, -double_loop(drawn.detach(), 3).mean(), rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    assert model.loss(batch)["loss"] < found, "one bound of six samples is above the mean of three bounds of two"
