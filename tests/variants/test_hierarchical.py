"""ladder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Normal

from tests.runs import small
from zoo.base import ImageSpec, random_batch
from zoo.models import create
from zoo.parts.hierarchy import merged
from zoo.variants.ladder import LadderVAE


def model_of(**options: Any) -> LadderVAE:
    torch.manual_seed(0)
    model = create("ladder", ImageSpec(1, 8, 8), **small("ladder") | options)
    assert isinstance(model, LadderVAE)
    for parameter in (*model.to_evidence.parameters(), *model.down.parameters()):
        parameter.data.mul_(1.5)  # posteriors and priors apart
    return model


def test_merging_is_multiplying_densities() -> None:
    torch.manual_seed(0)
    a, b = ((torch.randn(4), torch.randn(4)) for _ in range(2))
    mu, logvar = merged(a, b)
    z = torch.linspace(-3, 3, 50)[:, None]

    def log_prob(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        return Normal(mu, (logvar / 2).exp()).log_prob(z)

    ratio = log_prob(*a) + log_prob(*b) - log_prob(mu, logvar)  # constant in z
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dims", [[3], [3, 2], [4, 3, 2]], ids=str)
@torch.no_grad()
def test_layers_kls_sum_to_the_joint_kl(dims: list[int]) -> None:
    model = model_of(latent_dims=dims).eval()
    batch = random_batch(model.image, 4)
    z, log_q = model.posterior(batch.x).draw(50_000)
    sampled = log_q - model.log_prior(z)  # [50000, 4]
    terms = [model.loss(batch) for _ in range(500)]
    kl = torch.stack([term["kl"] for term in terms]).mean().item()
    parts = sum(torch.stack([term[f"kl_{i}"] for term in terms]).mean().item() for i in range(1, len(dims) + 1))
    assert kl == pytest.approx(parts, rel=1e-5)
    assert kl == pytest.approx(sampled.mean().item(), rel=0.02)
    assert f"kl_{len(dims) + 1}" not in terms[0]


@torch.no_grad()
def test_log_densities_are_those_of_the_draws() -> None:
    """log q of draws, layer by layer from the top, by torch.distributions."""
    model = model_of()
    batch = random_batch(model.image, 3)
    q = model.posterior(batch.x)
    z, log_q = q.draw(5)
    low, high = z.split([3, 2], -1)
    (mu_low, logvar_low), top = q.evidence
    prior = model.prior_of(0, high)
    mu, logvar = merged((mu_low, logvar_low), prior)
    expected = Normal(top[0], (top[1] / 2).exp()).log_prob(high).sum(-1)
    expected = expected + Normal(mu, (logvar / 2).exp()).log_prob(low).sum(-1)
    torch.testing.assert_close(log_q, expected, rtol=1e-4, atol=1e-4)
    log_p = Normal(0, 1).log_prob(high).sum(-1) + Normal(prior[0], (prior[1] / 2).exp()).log_prob(low).sum(-1)
    torch.testing.assert_close(model.log_prior(z), log_p, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_draws_of_the_prior_have_its_density() -> None:
    """E_p[q(z) / p(z)] = 1 for the normalised q that the draws' moments give."""
    model = model_of()
    z = model.sample_prior(100_000, torch.Generator().manual_seed(0))
    narrow = Normal(z.mean(0), z.std(0) / 2)
    ratio = (narrow.log_prob(z).sum(1) - model.log_prior(z)).exp()
    assert ratio.mean().item() == pytest.approx(1, abs=0.05)


def test_the_kl_warms_up() -> None:
    model = model_of(warmup=0.5, beta=2.0)
    for progress, weight in ((0, 0), (0.25, 1), (0.5, 2), (1, 2)):
        model.progress.fill_(progress)
        terms = model.loss(random_batch(model.image))
        torch.testing.assert_close(terms["loss"], terms["recon"] + weight * terms["kl"])
        torch.testing.assert_close(terms["elbo"], -(terms["recon"] + terms["kl"]))
    assert torch.equal(model_of(warmup=0.0).loss(random_batch(model.image))["kl_1"].isfinite(), torch.tensor(True))


def test_the_image_is_decoded_from_the_lowest_layer_alone() -> None:
    model = model_of()
    z = torch.randn(2, 5)
    changed = z.clone()
    changed[:, 3:] += 1
    assert torch.equal(model.decode(z), model.decode(changed))
