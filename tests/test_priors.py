"""Learned priors are distributions, and learn the one they are shown."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.runs import small
from zoo.base import ImageSpec, random_batch
from zoo.errors import UserError
from zoo.models import create
from zoo.parts.distributions import gaussian_log_prob
from zoo.parts.flows import Coupling
from zoo.parts.priors import AutoregressivePrior, FlowPrior, SecondStage
from zoo.variants.flow_prior import FlowPriorVAE
from zoo.variants.two_stage import TwoStageVAE
from zoo.variants.vamp import VampVAE

CODES, POSITIONS = 3, 4


def all_sequences() -> Tensor:
    return torch.tensor(list(itertools.product(range(CODES), repeat=POSITIONS)))


@pytest.fixture(scope="module")
def trained() -> AutoregressivePrior:
    """Shown sequences that count up, modulo 3, from 0 (three in four) or 1 (one in four)."""
    torch.manual_seed(0)
    prior = AutoregressivePrior(CODES, POSITIONS, width=16, layers=1)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(200):
        first = (torch.rand(64, 1) < 0.25).long()
        loss = -prior.log_prob((first + torch.arange(POSITIONS)) % CODES).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prior.eval()


@torch.no_grad()
def test_probabilities_of_all_sequences_sum_to_one(trained: AutoregressivePrior) -> None:
    torch.manual_seed(0)
    for prior in (trained, AutoregressivePrior(CODES, POSITIONS, width=8)):
        assert prior.log_prob(all_sequences()).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_a_code_is_predicted_from_those_before_it_alone() -> None:
    torch.manual_seed(0)
    prior = AutoregressivePrior(CODES, POSITIONS, width=8)
    first = torch.tensor([[0, 1, 2]])
    before = prior.logits(first)
    for position in range(3):
        changed = first.clone()
        changed[0, position] = (changed[0, position] + 1) % CODES
        differs = (prior.logits(changed) - before).abs().amax(2)[0] > 1e-6
        assert differs.tolist() == [False] * (position + 1) + [True] * (3 - position)


@torch.no_grad()
def test_what_it_draws_by_is_what_it_gives_codes_probability_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values that are kept from position to position stand for those that `logits` makes anew."""
    torch.manual_seed(0)
    prior = AutoregressivePrior(CODES, POSITIONS, width=8)
    for parameter in prior.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    made: list[Tensor] = []
    step = prior._next_logits
    monkeypatch.setattr(prior, "_next_logits", lambda x, seen: made.append(step(x, seen)) or made[-1])
    drawn = prior.sample(20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.stack(made, 1), prior.logits(drawn[:, :-1]))


@torch.no_grad()
def test_it_learns_and_draws_what_it_was_shown(trained: AutoregressivePrior) -> None:
    shown = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 1]])
    torch.testing.assert_close(trained.log_prob(shown).exp(), torch.tensor([0.75, 0.25]), atol=0.05, rtol=0)
    drawn = trained.sample(4000, torch.Generator().manual_seed(0))
    wanted = trained.log_prob(all_sequences()).exp()
    place = CODES ** torch.arange(POSITIONS - 1, -1, -1)
    found = ((drawn * place).sum(1)).bincount(minlength=len(wanted)) / len(drawn)
    assert (found - wanted).abs().max() < 5 * math.sqrt(0.25 / 4000)


# ---- two_stage


def linear_stage(scale: float, logvar: float) -> SecondStage:
    """p(z|u) = N(scale u, exp(-1)), whose marginal is known; q(u|z) of the given variance around its best mean."""
    stage = SecondStage(2)
    torch.nn.init.constant_(stage.log_gamma, -1.0)
    gamma = math.exp(-1.0)

    class Encoder(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.cat([z * scale / (scale**2 + gamma), torch.full_like(z, logvar)], -1)

    class Decoder(torch.nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return scale * u

    stage.encoder, stage.decoder = Encoder(), Decoder()  # type: ignore[assignment]
    return stage


@torch.no_grad()
def test_the_second_stages_estimate_has_mean_p_of_z() -> None:
    torch.manual_seed(0)
    gamma, scale = math.exp(-1.0), 1.5
    stage = linear_stage(scale, logvar=0.0)
    z = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    true = gaussian_log_prob(z, 0.0, math.log(scale**2 + gamma))
    estimate = stage.log_prob_estimate(z.expand(100_000, -1, -1))
    torch.testing.assert_close(estimate.logsumexp(0) - math.log(100_000), true, atol=0.02, rtol=0)
    assert (estimate.mean(0) < true).all(), "on average, it is a lower bound"
    # With the exact posterior every draw gives the exact value, and the loss is minus it.
    exact = linear_stage(scale, logvar=math.log(gamma / (scale**2 + gamma)))
    torch.testing.assert_close(exact.log_prob_estimate(z), true)
    draws = stage.sample(50_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.var(0), torch.full((2,), scale**2 + gamma), atol=0.06, rtol=0)


@torch.no_grad()
def test_the_second_stages_loss_is_minus_its_bound() -> None:
    torch.manual_seed(0)
    stage, z = SecondStage(3, width=8), torch.randn(4, 3)
    bound = stage.log_prob_estimate(z.expand(20_000, -1, -1)).mean()
    loss = torch.stack([stage.loss(z) for _ in range(5000)]).mean()
    assert loss.item() == pytest.approx(-bound.item(), rel=2e-3)


def test_two_stage_draws_from_its_second_stage() -> None:
    torch.manual_seed(0)
    model = create("two_stage", ImageSpec(1, 8, 8), **small("two_stage"))
    assert isinstance(model, TwoStageVAE)
    model.second = linear_stage(0.0, 0.0)
    model.second.dim = 3
    with torch.no_grad():
        model.second.log_gamma.fill_(-60.0)  # all of p(z) in one point, the origin
        wanted = model.decode(torch.zeros(1, 3)).expand(5, -1, -1, -1)
        torch.testing.assert_close(model.sample(5), wanted)


def test_the_second_stage_is_shown_draws_of_the_posterior() -> None:
    """Not means: it is the density of what is decoded."""
    torch.manual_seed(0)
    model = create("two_stage", ImageSpec(1, 8, 8), **small("two_stage"))
    assert isinstance(model, TwoStageVAE)
    shown: list[Tensor] = []
    loss = model.second.loss
    model.second.loss = lambda z: (shown.append(z), loss(z))[1]  # type: ignore[func-returns-value,method-assign]
    batch = random_batch(model.image, 4000)
    model.second_loss(batch)
    mu, logvar = model.encode(batch.x)
    noise = (shown[0] - mu) * (-0.5 * logvar).exp()
    assert not shown[0].requires_grad
    assert noise.mean(0).abs().max() < 5 / 4000**0.5 and (noise.var(0) - 1).abs().max() < 5 * (2 / 4000) ** 0.5


# ---- vamp


def vamp(pseudo_inputs: int = 4) -> VampVAE:
    torch.manual_seed(0)
    model = create("vamp", ImageSpec(1, 8, 8), **small("vamp", pseudo_inputs=pseudo_inputs))
    assert isinstance(model, VampVAE)
    with torch.no_grad():
        model.to_mu.weight.mul_(20)
    return model


def mixture(model: VampVAE) -> torch.distributions.MixtureSameFamily:
    mu, logvar = model.components()
    parts = torch.distributions.Independent(torch.distributions.Normal(mu, (logvar / 2).exp()), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(len(mu))), parts)


@torch.no_grad()
def test_the_vamp_prior_is_the_mixture_of_its_pseudo_images_posteriors() -> None:
    model = vamp()
    z = 2 * torch.randn(5, 7, 3)
    torch.testing.assert_close(model.log_prior(z), mixture(model).log_prob(z), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.components(), model.encode(model.likelihood.mean(model.pseudo)))


@torch.no_grad()
@pytest.mark.parametrize("logvar", [-4.0, -8.0, -12.0, -20.0])
def test_the_vamp_prior_is_exact_where_variances_are_small(logvar: float) -> None:
    model = create("vamp", ImageSpec(1, 8, 8), **small("vamp", latent_dim=20, pseudo_inputs=50))
    assert isinstance(model, VampVAE)
    torch.manual_seed(0)
    mu = 1 + torch.randn(50, 20)
    model.components = lambda: (mu, torch.full_like(mu, logvar))  # type: ignore[method-assign]
    z = mu[:8] + math.exp(logvar / 2) * torch.randn(8, 20)
    each = torch.distributions.Normal(mu.double(), math.exp(logvar / 2)).log_prob(z.double()[:, None]).sum(2)  # [8, 50]
    torch.testing.assert_close(model.log_prior(z).double(), each.logsumexp(1) - math.log(50), rtol=1e-5, atol=1e-3)


def test_the_vamp_prior_is_drawn_from() -> None:
    model = vamp()
    z = model.sample_prior(50_000, torch.Generator().manual_seed(0))
    wanted = mixture(model)
    spread = wanted.variance.sqrt()
    assert ((z.mean(0) - wanted.mean).abs() < 5 * spread / math.sqrt(50_000)).all()
    torch.testing.assert_close(z.std(0), spread, rtol=0.03, atol=0)
    assert (wanted.log_prob(z).mean() - wanted.log_prob(wanted.sample(torch.Size([50_000]))).mean()).abs() < 0.05


def test_the_pseudo_images_learn_through_the_kl() -> None:
    model = vamp()
    model.loss(random_batch(model.image))["loss"].backward()
    assert model.pseudo.grad is not None and (model.pseudo.grad.flatten(1).norm(dim=1) > 0).all()


# ---- flow_prior


def flow_prior(dim: int = 2) -> FlowPriorVAE:
    torch.manual_seed(0)
    model = create("flow_prior", ImageSpec(1, 8, 8), **small("flow_prior", latent_dim=dim, prior_steps=4))
    assert isinstance(model, FlowPriorVAE)
    for parameter in model.prior.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))  # far from the identity, where it starts
    return model.eval()


@torch.no_grad()
def test_a_flow_prior_integrates_to_one_on_a_grid() -> None:
    model = flow_prior()
    side = torch.linspace(-20, 20, 401)
    grid = torch.cartesian_prod(side, side)
    density = model.log_prior(grid).double().exp()
    assert density.sum().item() * (side[1] - side[0]).item() ** 2 == pytest.approx(1, abs=2e-3)
    assert (density - gaussian_log_prob(grid).exp()).abs().max() > 0.05


@torch.no_grad()
def test_draws_of_a_flow_prior_have_its_density() -> None:
    """Shares of draws in the cells of a grid are those of the density."""
    model = flow_prior()
    z = model.sample_prior(40_000, torch.Generator().manual_seed(0))
    side = torch.linspace(-8, 8, 9)
    found = torch.histogramdd(z, [side, side])[0] / len(z)
    fine = (torch.arange(800) + 0.5) / 50 - 8
    density = model.log_prior(torch.cartesian_prod(fine, fine)).exp().view(8, 100, 8, 100).sum((1, 3)) / 50**2
    assert (found - density).abs().max() < 5 * 0.5 / 40_000**0.5 and density.max() > 0.05


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_a_coupling_step_can_be_undone_and_knows_its_volume(dim: int) -> None:
    torch.manual_seed(0)
    for parity in (0, 1):
        step = Coupling(dim, 8, parity)
        torch.testing.assert_close(step(torch.randn(3, dim))[1], torch.zeros(3))
        torch.nn.init.normal_(step.net[-1].weight)
        z = torch.randn(5, dim)
        u, log_det = step(z)
        torch.testing.assert_close(step.inverse(u), z, rtol=1e-4, atol=1e-5)
        stay = torch.arange(dim) % 2 == parity
        assert torch.equal(u[:, stay], z[:, stay]) and (u[:, ~stay] != z[:, ~stay]).all()
        for i in range(5):
            matrix = torch.autograd.functional.jacobian(lambda z, step=step: step(z)[0], z[i])
            assert log_det[i].item() == pytest.approx(torch.linalg.slogdet(matrix).logabsdet.item(), abs=1e-4)


def test_a_flow_prior_starts_as_the_standard_normal_and_learns_where_latents_lie() -> None:
    torch.manual_seed(0)
    prior = FlowPrior(2, 4, 32)
    z = torch.randn(256, 2)
    torch.testing.assert_close(prior.log_prob(z), gaussian_log_prob(z))
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)
    for _ in range(200):
        side = 4 * torch.randint(2, (256, 1)).float() - 2
        z = torch.cat([side, side * side.sign()], 1) + 0.3 * torch.randn(256, 2)  # two clusters
        loss = -prior.log_prob(z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    exact = math.log(2) + math.log(2 * math.pi * math.e) + 2 * math.log(0.3)  # of the mixture, but for its overlap
    assert exact - 0.1 < loss.item() < exact + 0.5
    near = (prior.sample(500).abs() - 2).norm(dim=1) < 1.2
    assert near.float().mean() > 0.8


def test_the_loss_of_flow_prior_is_the_bound_under_its_prior() -> None:
    model = flow_prior(3)
    batch = random_batch(model.image)
    torch.manual_seed(0)
    terms = model.loss(batch)
    torch.manual_seed(0)
    z, log_q = model.posterior(batch.x).draw(1)
    torch.testing.assert_close(terms["kl"], (log_q - model.prior.log_prob(z)).mean())
    torch.testing.assert_close(terms["loss"], terms["recon"] + terms["kl"])


def test_a_flow_prior_of_one_dimension_is_refused() -> None:
    with pytest.raises(UserError, match="latent_dim is 1, and each step needs two"):
        create("flow_prior", ImageSpec(1, 8, 8), **small("flow_prior", latent_dim=1))


@pytest.mark.parametrize("variant", ["vq", "categorical"])
def test_weights_too_large_to_draw_by_are_told(variant: str) -> None:
    model = create(variant, ImageSpec(1, 8, 8, (0, 1)), **small(variant)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3e38)  # finite, and no product of two is
    with pytest.raises(UserError, match="the learned prior's shares of the codes are not finite"):
        model.sample(2)
