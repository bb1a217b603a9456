"""beta_capacity, beta_tc, factor, dip_i, dip_ii."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributions import Normal

import zoo
from tests.runs import make_config, rows, run, small
from zoo.base import Batch, ImageSpec, random_batch
from zoo.families.gaussian import GaussianVAE
from zoo.models import create
from zoo.parts.distributions import gaussian_kl
from zoo.parts.divergences import permute_dims
from zoo.variants.beta_tc import BetaTCVAE, stratified_log_weights
from zoo.variants.dip import DIPVAE
from zoo.variants.factor import FactorVAE


def model_of(name: str, n: int = 20, **options: Any) -> GaussianVAE:
    torch.manual_seed(0)
    model = create(name, ImageSpec(1, 8, 8, train_size=n), **small(name), **options)
    assert isinstance(model, GaussianVAE)
    return model


def posteriors(n: int, dim: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return 2 * torch.randn(n, dim), torch.randn(n, dim) - 1


# ---- beta_capacity


def capacity(progress: float) -> float:
    model = model_of("beta_capacity", capacity=20.0, anneal=0.5, gamma=100.0)
    model.progress.fill_(progress)
    batch = random_batch(model.image)
    terms = model.loss(batch)
    expected = terms["recon"] + 100 * (terms["kl"] - terms["capacity"]).abs()
    torch.testing.assert_close(terms["loss"], expected)
    return terms["capacity"].item()


def test_the_target_rises_in_a_line_and_stays() -> None:
    assert [capacity(progress) for progress in (0, 0.125, 0.25, 0.5, 0.9, 1)] == pytest.approx([0, 5, 10, 20, 20, 20])


def test_the_kl_is_drawn_to_the_target_from_both_sides() -> None:
    for target in (0.0, 50.0):
        model = model_of("beta_capacity", capacity=target, gamma=100.0)
        model.progress.fill_(1.0)
        batch = random_batch(model.image)
        before = model.loss(batch)["kl"].item()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            model.loss(batch)["loss"].backward()
            optimizer.step()
        assert abs(model.loss(batch)["kl"].item() - target) < abs(before - target) / 2 + 0.5


def test_the_target_is_one_for_the_mean_kl_not_for_each_image() -> None:
    """KLs of 0 and 9 nats are 4.5 on average, half a nat from a target of 5; each by itself is farther."""
    model = model_of("beta_capacity", capacity=5.0, gamma=100.0)
    model.progress.fill_(1.0)
    mu = torch.zeros(4, 3)
    mu[2:, 0] = 18**0.5
    model.encode = lambda x, y=None: (mu, torch.zeros(4, 3))  # type: ignore[method-assign]
    terms = model.loss(random_batch(model.image, 4))
    torch.testing.assert_close(terms["loss"] - terms["recon"], torch.tensor(50.0), rtol=1e-3, atol=0)


def test_capacity_is_restored_by_resume(tmp_path: Path) -> None:
    """A run that is cut at half and resumed logs the same targets as one that is not."""
    changes = {"model": {"name": "beta_capacity", **small("beta_capacity")}, "steps": 8, "log_every": 1}
    whole = make_config(tmp_path / "whole", **changes, checkpoint_every=4)
    assert run(whole) == 0
    targets = {row["step"]: row["train/capacity"] for row in rows(tmp_path / "whole") if "train/capacity" in row}
    saved = tmp_path / "whole" / "checkpoints" / "step_00000004"
    assert targets[4] < targets[8], "it still rises after the checkpoint"
    weights = [load_file(file) for file in saved.rglob("*.safetensors")]
    progress = next(tensors["progress"] for tensors in weights if "progress" in tensors)
    model = zoo.load(tmp_path / "whole")
    model.progress.copy_(progress)
    found = model.loss(random_batch(model.image))["capacity"].item()
    assert found == pytest.approx(targets[4])


# ---- beta_tc


@pytest.mark.parametrize(("batch", "n"), [(1, 10), (2, 10), (8, 8), (64, 60_000)])
def test_stratified_weights_are_a_distribution(batch: int, n: int) -> None:
    weights = stratified_log_weights(torch.arange(batch), batch, n).exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(batch))
    if batch > 1:
        torch.testing.assert_close(weights.diagonal(), torch.full((batch,), 1 / n))


def test_the_three_parts_add_up_to_the_kl() -> None:
    """To the KL at the drawn z exactly, and so to the KL on average."""
    model = model_of("beta_tc")
    assert isinstance(model, BetaTCVAE)
    mu, logvar = posteriors(20)
    totals = []
    for _ in range(2000):
        z = model.reparameterize(mu, logvar)
        total = sum(model.decompose(z, mu, logvar))
        sampled = Normal(mu, (logvar / 2).exp()).log_prob(z) - Normal(0, 1).log_prob(z)
        torch.testing.assert_close(total, sampled.sum(1).mean(), rtol=1e-4, atol=1e-4)
        totals.append(total)
    assert torch.stack(totals).mean().item() == pytest.approx(gaussian_kl(mu, logvar).mean().item(), rel=0.02)


def test_the_parts_of_the_whole_data_set_are_exact() -> None:
    """If the batch is the data set, q(z) is the mixture of all posteriors, and each part its textbook integral."""
    n = 6
    model = model_of("beta_tc", n=n)
    assert isinstance(model, BetaTCVAE)
    mu, logvar = posteriors(n, dim=2)
    draws = 20_000
    z = Normal(mu, (logvar / 2).exp()).sample(torch.Size([draws]))  # [draws, n, 2]
    log_q = Normal(mu, (logvar / 2).exp()).log_prob(z[:, :, None])  # [draws, n, n, 2]
    log_qz = log_q.sum(3).logsumexp(2) - math.log(n)
    log_marginals = (log_q.logsumexp(2) - math.log(n)).sum(2)
    log_qz_x = Normal(mu, (logvar / 2).exp()).log_prob(z).sum(2)
    mi = (log_qz_x - log_qz).mean()
    tc = (log_qz - log_marginals).mean()
    dwkl = (log_marginals - Normal(0, 1).log_prob(z).sum(2)).mean()
    found = torch.stack([torch.stack(model.decompose(row, mu, logvar)) for row in z[:4000]]).mean(0)
    torch.testing.assert_close(found, torch.stack([mi, tc, dwkl]), rtol=0.05, atol=0.02)
    assert 0 < mi < math.log(n) + 0.01 and tc > 0


def test_the_other_images_of_a_batch_stand_for_the_rest_of_the_data_set() -> None:
    """Of N = 50 images four are seen: one's own weighs 1 / 50, the other three 49 / 50 together."""
    model = model_of("beta_tc", n=50)
    assert isinstance(model, BetaTCVAE)
    mu, logvar = posteriors(4)
    z = model.reparameterize(mu, logvar)
    own = torch.eye(4)
    weights = own / 50 + (1 - own) * 49 / 50 / 3
    densities = Normal(mu, (logvar / 2).exp()).log_prob(z[:, None]).exp()  # of z_i's d-th under image j, [4, 4, 3]
    log_qz = (weights * densities.prod(2)).sum(1).log()
    log_marginals = (weights[:, :, None] * densities).sum(1).log().sum(1)
    log_qz_x = densities.prod(2).diagonal().log()
    log_pz = Normal(0, 1).log_prob(z).sum(1)
    expected = [(log_qz_x - log_qz).mean(), (log_qz - log_marginals).mean(), (log_marginals - log_pz).mean()]
    torch.testing.assert_close(model.decompose(z, mu, logvar), tuple(expected), rtol=1e-3, atol=1e-3)


def test_the_loss_weighs_each_part() -> None:
    model = model_of("beta_tc", alpha=0.5, beta=7.0, gamma=3.0)
    terms = model.loss(random_batch(model.image, 8))
    expected = terms["recon"] + 0.5 * terms["mi"] + 7 * terms["tc"] + 3 * terms["dwkl"]
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["elbo"], -(terms["recon"] + terms["kl"]))


def test_with_equal_weights_the_loss_is_the_vaes() -> None:
    """alpha = beta = gamma = 1 is the evidence lower bound with the KL by sample."""
    model = model_of("beta_tc", beta=1.0).eval()
    batch = random_batch(model.image, 8)
    with torch.no_grad():
        losses = torch.stack([model.loss(batch)["loss"] + model.loss(batch)["elbo"] for _ in range(3000)])
    assert abs(losses.mean()) < 5 * losses.std() / 3000**0.5


# ---- factor


def test_a_critic_that_knows_the_densities_gives_the_total_correlation() -> None:
    """The best critic's logit is log q(z) / prod_j q(z_j): of a correlated Gaussian, TC is -log(1 - rho^2) / 2."""
    torch.manual_seed(0)
    model = model_of("factor")
    assert isinstance(model, FactorVAE)
    rho = 0.9
    factor = torch.linalg.cholesky(torch.tensor([[1, rho, 0], [rho, 1, 0], [0, 0, 1.0]]))
    optimizer = torch.optim.Adam(model.critic.parameters(), lr=3e-3)
    model.reparameterize = lambda *_: torch.randn(512, 3) @ factor.T  # type: ignore[method-assign]
    for _ in range(800):
        optimizer.zero_grad()
        loss = model.critic_loss(Batch(torch.zeros(512, 1, 8, 8)))["loss"]
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        tc = model.critic(torch.randn(20_000, 3) @ factor.T).mean().item()
        independent = model.critic(permute_dims(torch.randn(20_000, 3) @ factor.T)).mean().item()
    assert tc == pytest.approx(-math.log(1 - rho**2) / 2, abs=0.2)
    assert independent < 0 and loss < math.log(2)


@pytest.mark.parametrize("n", [8, 9])
def test_the_critic_sees_one_half_as_it_is_and_the_other_permuted(n: int) -> None:
    model = model_of("factor")
    assert isinstance(model, FactorVAE)
    z = torch.arange(3.0 * n).view(n, 3)
    model.reparameterize = lambda *_: z  # type: ignore[method-assign]
    seen: list[Tensor] = []
    model.critic.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = random_batch(model.image, n)
    model.critic_loss(batch)
    joint, product = seen
    half = (n + 1) // 2
    assert torch.equal(joint, z[:half])
    assert torch.equal(product.sort(0).values, z[-half:]) and not torch.equal(product, z[-half:])
    torch.nn.init.zeros_(model.critic[-1].weight), torch.nn.init.zeros_(model.critic[-1].bias)
    assert model.critic_loss(batch)["loss"].item() == pytest.approx(math.log(2))  # who can't tell


def test_the_vaes_critic_sees_the_draws_that_are_decoded() -> None:
    model = model_of("factor")
    assert isinstance(model, FactorVAE)
    seen: list[Tensor] = []
    for part in (model.critic, model.from_latent):
        part.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.loss(random_batch(model.image))
    assert torch.equal(*seen)


def test_the_critics_turn_decodes_nothing() -> None:
    model = model_of("factor")
    model.decoder = torch.nn.Module()  # which can't be called
    model.critic_loss(random_batch(model.image, 8))


def test_each_player_of_factor_keeps_to_its_own_parameters() -> None:
    model = model_of("factor")
    batch = random_batch(model.image, 8)
    model.critic_loss(batch)["loss"].backward()
    critic = {id(p) for p in model.critic.parameters()}
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in critic), name
    model.zero_grad()
    model.critic.requires_grad_(False)  # as the loop does at the other player's step
    model.loss(batch)["loss"].backward()
    assert all(p.grad is None for p in model.critic.parameters())
    assert model.to_mu.weight.grad is not None


def test_total_correlation_enters_the_loss_with_its_weight() -> None:
    model = model_of("factor", gamma=7.0)
    terms = model.loss(random_batch(model.image))
    expected = terms["recon"] + terms["kl"] + 7 * terms["tc"]
    torch.testing.assert_close(terms["loss"], expected)
    weight = model.to_mu.weight
    found, wanted = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (terms["loss"], expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


# ---- dip


@pytest.mark.parametrize("name", ["dip_i", "dip_ii"])
def test_penalty_is_that_of_torchs_covariance(name: str) -> None:
    model = model_of(name)
    assert isinstance(model, DIPVAE)
    mu, logvar = posteriors(9)
    c = torch.cov(mu.T, correction=0)
    if name == "dip_ii":
        c = c + torch.diag(logvar.exp().mean(0))
    weight = {"dip_i": 100.0, "dip_ii": 10.0}[name]
    expected = sum(10 * c[i, j] ** 2 if i != j else weight * (c[i, i] - 1) ** 2 for i in range(3) for j in range(3))
    torch.testing.assert_close(model.penalty(mu, logvar), torch.as_tensor(expected))


def test_dip_ii_speaks_of_the_aggregate_posterior() -> None:
    """Its C is the covariance of draws of q(z)."""
    model = model_of("dip_ii")
    assert isinstance(model, DIPVAE)
    mu, logvar = posteriors(200_000)
    drawn = model.reparameterize(mu, logvar)
    point = torch.full_like(logvar, -100.0)
    torch.testing.assert_close(model.penalty(mu, logvar), model.penalty(drawn, point), rtol=0.02, atol=0)
    assert model.penalty(mu, point) < 0.8 * model.penalty(drawn, point)


@pytest.mark.parametrize("name", ["dip_i", "dip_ii"])
def test_the_penalty_is_part_of_the_loss(name: str) -> None:
    model = model_of(name)
    assert isinstance(model, DIPVAE)
    batch = random_batch(model.image)
    terms = model.loss(batch)
    torch.testing.assert_close(terms["dip"], model.penalty(*model.encode(batch.x)))  # of means, whatever was drawn
    torch.testing.assert_close(terms["loss"], terms["recon"] + terms["kl"] + terms["dip"])
