"""info, wae_mmd, swae, aae: the latents of a batch are compared with draws of N(0, I), by the weight that is set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runs import small
from zoo.base import BaseVAE, ImageSpec, random_batch
from zoo.models import create

# The weight of the distance, and of the KL, beside the recon's; and where the distance is looked up.
VARIANTS: dict[str, tuple[dict[str, Any], str, dict[str, float]]] = {
    "info": ({"alpha": 0.25, "scale": 7.0}, "mmd", {"mmd": 6.25, "kl": 0.75}),
    "wae_mmd": ({"scale": 7.0}, "mmd", {"mmd": 7.0}),
    "swae": ({"scale": 7.0}, "sliced_wasserstein", {"sw": 7.0}),
    "aae": ({"weight": 7.0}, "", {"fooled": 7.0}),
}
COMPARING = [name for name, (_, distance, _) in VARIANTS.items() if distance]


def model_of(name: str, **options: Any) -> BaseVAE:
    torch.manual_seed(0)
    return create(name, ImageSpec(1, 8, 8), **small(name, **VARIANTS[name][0]) | options)


def is_standard_normal(z: Tensor) -> bool:
    """Whether means, variances, correlations and tails of `[N, D]` are within five standard errors of N(0, I)'s."""
    error = 5 / len(z) ** 0.5
    moments = z.T @ z / len(z) - torch.eye(z.shape[1])
    tails = (z.abs() > 2).double().mean() - 0.0455
    return bool(z.mean(0).abs().max() < error and moments.abs().max() < 2**0.5 * error and tails.abs() < 0.21 * error)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_and_its_gradient_weigh_each_term(name: str, reduction: str) -> None:
    model = model_of(name, reduction=reduction)
    terms = model.loss(random_batch(model.image, 6))
    weights = {"recon": 1.0 if reduction == "sum" else 1 / 64, **VARIANTS[name][2]}
    expected = torch.stack([weight * terms[term] for term, weight in weights.items()]).sum()
    torch.testing.assert_close(terms["loss"], expected)
    parameters = model.player_parameters("vae")
    found, wanted = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (terms["loss"], expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", COMPARING)
def test_decoded_latents_are_compared_with_draws_of_the_prior(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    compared: list[tuple[Any, ...]] = []
    decoded: list[Tensor] = []
    module = f"zoo.variants.{name}.{VARIANTS[name][1]}"
    monkeypatch.setattr(module, lambda *given: (compared.append(given), torch.zeros(()))[1])
    model.get_submodule("from_latent").register_forward_pre_hook(lambda _, given: decoded.append(given[0]))
    model.loss(random_batch(model.image, 5000))
    (latents, prior, how), (z,) = compared[0], decoded
    assert torch.equal(latents, z)
    assert is_standard_normal(prior)
    assert how == {"info": "rbf", "wae_mmd": "imq", "swae": 50}[name]


def test_the_critic_of_aae_is_shown_draws_of_the_prior_and_codes() -> None:
    model = model_of("aae")
    shown: list[Tensor] = []
    model.get_submodule("critic").register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    batch = random_batch(model.image, 5000)
    model.critic_loss(batch)  # type: ignore[operator]
    prior, codes = shown
    assert is_standard_normal(prior)
    torch.testing.assert_close(codes, model.encode(batch.x)[0])


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_samples_decode_draws_of_the_prior(name: str) -> None:
    model = model_of(name)
    decoded: list[Tensor] = []
    model.get_submodule("from_latent").register_forward_pre_hook(lambda _, given: decoded.append(given[0]))
    model.sample(5000, generator=torch.Generator().manual_seed(0))
    assert is_standard_normal(decoded[0])


@pytest.mark.parametrize("name", COMPARING)
def test_latents_far_from_the_prior_are_drawn_to_it(name: str) -> None:
    model = model_of(name, scale=1e3)
    head = model.get_submodule("to_mu" if name == "info" else "to_latent")
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.bias.fill_(2.0)
    batch = random_batch(model.image, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
    assert model.encode(batch.x)[0].mean(0).abs().max() < 1
