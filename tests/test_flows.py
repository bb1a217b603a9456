"""Flows are invertible, and their log-determinants are those of autograd's Jacobian."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import jacobian

from tests.runs import small
from zoo.base import ImageSpec
from zoo.families.flow import FlowVAE
from zoo.models import create
from zoo.parts.distributions import gaussian_log_prob
from zoo.parts.flows import AutoregressiveStep, planar

DIM = 4


def model_of(name: str, **options: int) -> FlowVAE:
    torch.manual_seed(0)
    model = create(name, ImageSpec(1, 8, 8), **small(name, latent_dim=DIM, **options))
    assert isinstance(model, FlowVAE)
    for parameter in model.parameters():
        parameter.data.mul_(3)  # far from the identity
    return model


@pytest.mark.parametrize("name", ["iaf", "planar"])
def test_log_determinant_is_autograds(name: str) -> None:
    model = model_of(name, flows=3)
    flow = model.flow(torch.randn(1, model.features))
    for z in torch.randn(5, DIM):
        matrix = jacobian(lambda z: flow(z[None, None])[0][0, 0], z)
        _, log_det = flow(z[None, None])
        assert log_det.item() == pytest.approx(torch.linalg.slogdet(matrix).logabsdet.item(), rel=1e-5)
        assert abs(log_det.item()) > 0.1


@pytest.mark.parametrize("name", ["iaf", "planar"])
def test_each_draw_of_each_image_has_its_own_flow(name: str) -> None:
    model = model_of(name)
    h, z = torch.randn(3, model.features), torch.randn(2, 3, DIM)
    together, log_det = model.flow(h)(z)
    for k in range(2):
        for b in range(3):
            alone, alone_det = model.flow(h[b : b + 1])(z[k : k + 1, b : b + 1])
            torch.testing.assert_close(alone[0, 0], together[k, b])
            torch.testing.assert_close(alone_det[0, 0], log_det[k, b])


@pytest.mark.parametrize("name", ["iaf", "planar"])
@torch.no_grad()
def test_density_of_draws_is_normalised(name: str) -> None:
    """E_q[p(z) / q(z)] = 1 for a normalised p that q covers."""
    model = model_of(name)
    q = model.posterior(torch.rand(1, 1, 8, 8))
    z, log_q = q.draw(200_000)
    centre, spread = z[:, 0].mean(0), z[:, 0].std(0)
    log_p = gaussian_log_prob(z[:, 0], centre, (spread / 2).square().log())
    assert (log_p - log_q[:, 0]).exp().mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_an_autoregressive_step_is_triangular_and_can_be_undone(dim: int) -> None:
    torch.manual_seed(0)
    step = AutoregressiveStep(dim, 3, 16).double()
    h, z = torch.randn(1, 3).double(), torch.randn(1, 1, dim).double()
    matrix = jacobian(lambda z: step(z, h)[0], z).view(dim, dim)
    assert torch.equal(matrix.triu(1), torch.zeros_like(matrix))
    assert (matrix.diagonal() > 0).all()
    if dim > 1:
        assert (matrix.tril(-1).abs().sum(1)[1:] > 0).all(), "every dimension but the first sees one before it"
    target, _ = step(z, h)
    found = torch.zeros_like(z)
    for i in range(dim):  # dimension by dimension, each from those before it
        with torch.no_grad():
            zero, one = (step(found.index_fill(2, torch.tensor(i), value), h)[0][..., i] for value in (0.0, 1.0))
        found[..., i] = (target[..., i] - zero) / (one - zero)
    torch.testing.assert_close(found, z)


def test_every_dimension_reaches_every_other_after_two_steps() -> None:
    model = model_of("iaf", flows=2)
    flow = model.flow(torch.randn(1, model.features))
    matrix = jacobian(lambda z: flow(z[None, None])[0][0, 0], torch.randn(DIM))
    assert (matrix != 0).all()


@given(st.integers(1, 6), st.integers(0, 1000), st.floats(0.1, 20))
def test_a_planar_step_never_folds(dim: int, seed: int, scale: float) -> None:
    """Along w, f is increasing for any u and w; hence one-to-one (appendix A.1)."""
    generator = torch.Generator().manual_seed(seed)
    u, w = (scale * torch.randn(dim, generator=generator).double() for _ in range(2))
    z = torch.linspace(-3, 3, 400).double()[:, None] * w / w.norm()
    f, log_det = planar(z, u, w, torch.zeros(()).double())
    assert log_det.isfinite().all()
    along: Tensor = f @ w
    assert (along.diff() > 0).all()
    # At the hyperplane tanh' = 1, and det = 1 + w.u' = 1 + m(w.u) = softplus(w.u).
    _, at_plane = planar(torch.zeros(dim).double(), u, w, torch.zeros(()).double())
    torch.testing.assert_close(at_plane.exp(), F.softplus(w @ u), rtol=1e-6, atol=1e-12)
