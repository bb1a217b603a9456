"""The Gaussian VAE: its loss in the conventions of its sources, its draws, and its bound on the likelihood."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from zoo.base import SYMMETRIC, Batch, ImageSpec, random_batch
from zoo.families import latent
from zoo.families.gaussian import GaussianVAE

IMAGE = ImageSpec(1, 6, 6)


def tiny(image: ImageSpec = IMAGE, **options: Any) -> GaussianVAE:
    torch.manual_seed(0)
    return GaussianVAE(image, **{"net": "mlp", "hidden_dims": [32], "latent_dim": 4} | options)


@torch.no_grad()
def terms_and_output(model: GaussianVAE, batch: Batch) -> tuple[dict[str, Tensor], Any]:
    """The loss, and the forward pass that it was computed from."""
    torch.manual_seed(1)
    terms = model.loss(batch)
    torch.manual_seed(1)
    return terms, model(*batch)


def test_loss_of_the_mnist_notebook() -> None:
    model = tiny(recon="bce")
    batch = random_batch(IMAGE, 5)
    terms, out = terms_and_output(model, batch)
    bce = F.binary_cross_entropy(out.recon, batch.x, reduction="sum")
    kld = -0.5 * torch.sum(1 + out.logvar - out.mu.pow(2) - out.logvar.exp())
    torch.testing.assert_close(terms["loss"], (bce + kld) / 5)
    torch.testing.assert_close(terms["recon"], bce / 5)
    torch.testing.assert_close(terms["kl"], kld / 5)
    torch.testing.assert_close(terms["elbo"], -terms["loss"])


def test_loss_of_the_teaching_vae_with_mean_reduction() -> None:
    """Also that of PyTorch-VAE: mean squared error plus weight times KL."""
    model = tiny(reduction="mean", beta=0.3)
    batch = random_batch(IMAGE, 5)
    terms, out = terms_and_output(model, batch)
    kld = (-0.5 * torch.sum(1 + out.logvar - out.mu.pow(2) - out.logvar.exp(), dim=1)).mean()
    torch.testing.assert_close(terms["loss"], F.mse_loss(out.recon, batch.x) + 0.3 * kld)
    constant = IMAGE.pixels * math.log(math.pi) / 2
    torch.testing.assert_close(terms["elbo"], -(terms["recon"] + constant + kld))


@pytest.mark.parametrize("recon", ["mse", "bce", "l1", "gaussian"])
def test_mean_reduction_is_a_larger_beta_on_a_smaller_loss(recon: str) -> None:
    batch = random_batch(IMAGE)
    mean, _ = terms_and_output(tiny(recon=recon, reduction="mean", beta=0.5), batch)
    total, _ = terms_and_output(tiny(recon=recon, reduction="sum", beta=0.5 * IMAGE.pixels), batch)
    torch.testing.assert_close(mean["loss"] * IMAGE.pixels, total["loss"])
    for name in ("recon", "kl", "elbo"):
        torch.testing.assert_close(mean[name], total[name])


def test_beta_means_the_same_at_every_image_size() -> None:
    """Under the sum, four copies of an image side by side have four times its error and one KL, at any beta."""
    small, large = tiny(beta=3), tiny(ImageSpec(1, 12, 12), beta=3)
    for model in (small, large):
        nn.init.zeros_(model.decoder[1].weight)  # type: ignore[index]
        nn.init.zeros_(model.decoder[1].bias)  # type: ignore[index]
        for head in (model.to_mu, model.to_logvar):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, 0.5)
    x = random_batch(IMAGE).x
    one, four = small.loss(Batch(x)), large.loss(Batch(x.repeat(1, 1, 2, 2)))
    torch.testing.assert_close(four["kl"], one["kl"])
    torch.testing.assert_close(four["recon"], 4 * one["recon"])
    torch.testing.assert_close(four["loss"], 4 * one["recon"] + 3 * one["kl"])


@pytest.mark.parametrize(
    ("recon", "image"),
    [
        *((recon, IMAGE) for recon in ("mse", "bce", "l1", "gaussian")),
        *((recon, ImageSpec(1, 6, 6, SYMMETRIC)) for recon in ("mse", "l1", "gaussian")),
    ],
)
def test_every_likelihood_trains(recon: str, image: ImageSpec) -> None:
    model = tiny(image, recon=recon)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = random_batch(image, 8)
    losses = []
    for _ in range(30):
        loss = model.loss(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.98 * sum(losses[:5])


def test_reparameterize_is_mean_plus_deviation_times_noise() -> None:
    model = tiny()
    mu, logvar = torch.tensor([[1.0, -0.5]]), torch.tensor([[0.0, -2.0]])
    z = model.reparameterize(mu.expand(50_000, -1), logvar.expand(50_000, -1))
    torch.testing.assert_close(z.mean(0), mu[0], rtol=0, atol=0.02)
    torch.testing.assert_close(z.std(0), torch.tensor([1.0, math.exp(-1)]), rtol=0.02, atol=0)
    eps = torch.randn(1, 2, generator=torch.Generator().manual_seed(5))
    drawn = model.reparameterize(mu, logvar, torch.Generator().manual_seed(5))
    torch.testing.assert_close(drawn, mu + (0.5 * logvar).exp() * eps)


def test_forward_takes_the_mean_or_follows_its_generator() -> None:
    model = tiny()
    x = random_batch(IMAGE).x
    mean = model(x, sample_posterior=False)
    assert torch.equal(mean.z, mean.mu)
    draws = [model(x, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0].z, draws[1].z)
    for draw in draws:
        assert torch.equal(draw.recon, model.decode(draw.z)) and torch.equal(draw.recon, draw.logits.sigmoid())
        assert torch.equal(draw.mu, mean.mu)
    assert not torch.equal(draws[0].z, draws[2].z)
    assert not torch.equal(draws[0].z, mean.z)


# ---- the importance-weighted bound


def linear_gaussian(posterior_scale: float = 1.0) -> tuple[GaussianVAE, MultivariateNormal]:
    """p(x|z) = N(Wz + b, I/2), z ~ N(0, I) in two dimensions, on 1 x 2 x 3 images, with its exact posterior.

    The columns of W are orthogonal, so that the posterior's covariance is diagonal.
    """
    torch.manual_seed(0)
    model = GaussianVAE(ImageSpec(1, 2, 3), net="mlp", hidden_dims=[6], latent_dim=2, out_activation="none")
    columns = torch.linalg.qr(torch.randn(6, 2)).Q * torch.tensor([0.7, 1.6])  # W, [6, 2]
    b = torch.rand(6)
    precision = 1 + 2 * columns.square().sum(0)  # of the posterior, [2]: I + W^T W / (1/2)
    model.encoder, model.to_mu, model.to_logvar = nn.Flatten(), nn.Linear(6, 2), nn.Linear(6, 2)
    model.from_latent, model.decoder = nn.Sequential(nn.Linear(2, 6)), nn.Unflatten(1, (1, 2, 3))
    with torch.no_grad():
        model.from_latent[0].weight.copy_(columns)
        model.from_latent[0].bias.copy_(b)
        model.to_mu.weight.copy_(2 * columns.T / precision[:, None])
        model.to_mu.bias.copy_(-model.to_mu.weight @ b)
        model.to_logvar.weight.zero_()
        model.to_logvar.bias.copy_((posterior_scale**2 / precision).log())
    return model, MultivariateNormal(b, columns @ columns.T + torch.eye(6) / 2)


@pytest.mark.parametrize("k", [1, 7])
@torch.no_grad()
def test_bound_is_exact_with_the_exact_posterior(k: int) -> None:
    model, evidence = linear_gaussian()
    x = 2 * torch.randn(5, 1, 2, 3)
    torch.testing.assert_close(model.log_likelihood(x, k), evidence.log_prob(x.flatten(1)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_elbo_term_is_exact_with_the_exact_posterior() -> None:
    model, evidence = linear_gaussian()
    x = torch.randn(1, 1, 2, 3).expand(20_000, -1, -1, -1)
    assert model.loss(Batch(x))["elbo"].item() == pytest.approx(evidence.log_prob(x[0].flatten()).item(), abs=0.03)


@torch.no_grad()
def test_bound_approaches_the_likelihood_from_a_wrong_posterior() -> None:
    model, evidence = linear_gaussian(posterior_scale=1.5)
    x = torch.randn(3, 1, 2, 3)
    torch.testing.assert_close(model.log_likelihood(x, 20_000), evidence.log_prob(x.flatten(1)), rtol=0, atol=0.05)


@torch.no_grad()
def test_bound_with_one_sample_is_the_elbo_and_grows_with_k() -> None:
    model, evidence = linear_gaussian(posterior_scale=1.5)
    x = torch.randn(1, 1, 2, 3)
    many = x.expand(4000, -1, -1, -1)
    bounds = [model.log_likelihood(many, k).mean().item() for k in (1, 2, 4, 16)]
    assert bounds[0] == pytest.approx(model.loss(Batch(many))["elbo"].item(), abs=0.05)
    assert bounds == sorted(bounds)
    assert bounds[1] - bounds[0] > 0.05
    assert bounds[-1] < evidence.log_prob(x.flatten()).item() + 0.02


@torch.no_grad()
def test_each_image_has_its_own_bound() -> None:
    """Weights are summed over an image's own draws, not over the batch."""
    model, evidence = linear_gaussian(posterior_scale=1.2)
    near, far = torch.zeros(1, 1, 2, 3), torch.full((1, 1, 2, 3), 4.0)
    together = model.log_likelihood(torch.cat([near, far]), 5000)
    expected = evidence.log_prob(torch.cat([near, far]).flatten(1))
    assert (expected[0] - expected[1]) > 10
    torch.testing.assert_close(together, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("k", [1, 5, 9, 12])
@torch.no_grad()
def test_exactly_k_samples_are_used_in_chunks(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    x = random_batch(IMAGE, 3).x
    decoded: list[int] = []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda z, y: decoded.append(len(z)) or logits(z, y))
    torch.manual_seed(2)
    whole = model.log_likelihood(x, k)
    assert decoded == [3 * k]
    decoded.clear()
    monkeypatch.setattr(latent, "IMAGES_PER_CHUNK", 14)  # four draws of three images at a time
    torch.manual_seed(2)
    chunked = model.log_likelihood(x, k)
    assert sum(decoded) == 3 * k and max(decoded) <= 14
    assert len(decoded) == math.ceil(k / 4)
    # The draws differ in order but not in number: both are bounds with k samples.
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1.0)
    monkeypatch.setattr(latent, "IMAGES_PER_CHUNK", 2)  # fewer than one batch: one draw at a time
    decoded.clear()
    model.log_likelihood(x, k)
    assert decoded == [3] * k


def test_posterior_draws_carry_gradients_to_the_encoder() -> None:
    model = tiny()
    out = model(random_batch(IMAGE).x)
    grads = torch.autograd.grad(out.recon.sum(), [model.to_mu.weight, model.to_logvar.weight])
    assert all(grad.abs().sum() > 0 for grad in grads)
