"""vae_gan and aae: who learns from what, and when."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.runs import make_config, rows, run, small
from zoo.base import BaseVAE, Batch, ImageSpec, random_batch
from zoo.errors import UserError
from zoo.models import create
from zoo.variants.aae import AdversarialAutoencoder
from zoo.variants.vae_gan import VAEGAN


def model_of(name: str, **options: Any) -> BaseVAE:
    torch.manual_seed(0)
    return create(name, ImageSpec(1, 8, 8), **small(name) | options)


def touched(model: BaseVAE, loss: Tensor, player: str) -> set[str]:
    """Parts of the model that a loss has a gradient for, at that player's step."""
    model.zero_grad()
    own = {id(p) for p in model.player_parameters(player)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)
    loss.backward()
    return {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


ENCODER, DECODER = {"encoder", "to_mu", "to_logvar"}, {"from_latent", "decoder"}


def step_of(model: BaseVAE, player: str, term: str, batch: Batch) -> set[str]:
    own = {id(p) for p in model.player_parameters(player)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)
    loss = model.loss(batch) if player == "vae" else getattr(model, f"{player}_loss")(batch)
    return touched(model, loss[term], player)


def test_each_term_of_vae_gan_reaches_its_player() -> None:
    model = model_of("vae_gan")
    batch = random_batch(model.image)
    assert step_of(model, "vae", "kl", batch) == ENCODER
    assert step_of(model, "vae", "features", batch) == ENCODER | DECODER
    assert step_of(model, "vae", "fooled", batch) == DECODER, "the adversarial term is the decoder's alone"
    assert step_of(model, "vae", "loss", batch) == ENCODER | DECODER
    assert step_of(model, "discriminator", "loss", batch) == {"discriminator"}


def test_the_loss_of_vae_gan_has_no_pixel_error() -> None:
    model = model_of("vae_gan", feature_weight=3.0, gan_weight=0.5)
    terms = model.loss(random_batch(model.image))
    torch.testing.assert_close(terms["loss"], terms["kl"] + terms["features"] + 0.5 * terms["fooled"])


def test_features_are_compared_by_their_squared_difference() -> None:
    model = model_of("vae_gan", feature_weight=3.0)
    assert isinstance(model, VAEGAN)
    batch = random_batch(model.image)
    torch.manual_seed(0)
    terms = model.loss(batch)
    torch.manual_seed(0)
    recon = model(batch.x).recon
    difference = model.discriminator(recon)[1] - model.discriminator(batch.x)[1]
    torch.testing.assert_close(terms["features"], 3 * (difference**2).mean(1).mean() / 2)


def test_the_decoder_of_vae_gan_fools_with_reconstructions_and_samples() -> None:
    model = model_of("vae_gan")
    assert isinstance(model, VAEGAN)
    decoded: list[Tensor] = []
    model.from_latent.register_forward_pre_hook(lambda _, given: decoded.append(given[0].detach()))
    terms = model.loss(random_batch(model.image, 3000))
    posterior, both = decoded
    assert torch.equal(both[:3000], posterior)
    prior = both[3000:]
    assert prior.shape == (3000, 3)
    assert prior.mean(0).abs().max() < 5 / 3000**0.5 and (prior.var(0) - 1).abs().max() < 5 * (2 / 3000) ** 0.5
    logits = model.discriminator(model.decode(both))[0]
    expected = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))  # they pass for images
    torch.testing.assert_close(terms["fooled"], expected)


def test_the_discriminator_of_vae_gan_has_no_batch_statistics() -> None:
    """Which would tell real batches from decoded ones."""
    torch.manual_seed(0)
    model = create("vae_gan", ImageSpec(1, 16, 16), net="conv", base_channels=4, latent_dim=3)
    assert isinstance(model, VAEGAN)
    x = random_batch(model.image, 6).x
    whole, part = model.discriminator(x)[0], model.discriminator(x[:2])[0]
    torch.testing.assert_close(whole[:2], part)


def test_the_discriminators_loss_is_three_cross_entropies() -> None:
    model = model_of("vae_gan")
    assert isinstance(model, VAEGAN)
    batch = random_batch(model.image)
    torch.manual_seed(0)
    found = model.discriminator_loss(batch)["loss"]
    torch.manual_seed(0)
    out = model(batch.x)
    images = torch.cat([batch.x, out.recon, model.decode(torch.randn_like(out.z))])
    real = torch.cat([torch.ones(4, 1), torch.zeros(8, 1)])
    logits = model.discriminator(images)[0]
    expected = 3 * F.binary_cross_entropy_with_logits(logits, real)
    torch.testing.assert_close(found, expected)
    torch.nn.init.zeros_(model.discriminator.head.weight)
    torch.nn.init.zeros_(model.discriminator.head.bias)
    assert model.discriminator_loss(batch)["loss"].item() == pytest.approx(3 * math.log(2))


def test_n_critic_lets_the_discriminator_run_ahead(tmp_path: Path) -> None:
    model = model_of("vae_gan", n_critic=3)
    assert [model.plays("vae", step) for step in range(7)] == [False, False, True, False, False, True, False]
    assert all(model.plays("discriminator", step) for step in range(7))

    options = {"name": "vae_gan", **small("vae_gan"), "n_critic": 3}
    assert run(make_config(tmp_path / "run", model=options, steps=6, log_every=1, checkpoint_every=6)) == 0
    logged = [row for row in rows(tmp_path / "run") if "train/discriminator/loss" in row]
    played = ["train/kl" in row for row in logged]
    assert played == [False, False, True, False, False, True]


def test_each_term_of_aae_reaches_its_player() -> None:
    model = model_of("aae")
    batch = random_batch(model.image)
    assert step_of(model, "vae", "fooled", batch) == {"encoder", "to_latent"}
    assert step_of(model, "vae", "recon", batch) == {"encoder", "to_latent"} | DECODER
    assert step_of(model, "critic", "loss", batch) == {"critic"}


def test_the_critic_of_aae_learns_to_tell_codes_from_the_prior() -> None:
    model = model_of("aae")
    assert isinstance(model, AdversarialAutoencoder)
    with torch.no_grad():
        model.to_latent.bias.fill_(2.0)
    batch = random_batch(model.image, 64)
    optimizer = torch.optim.Adam(model.critic.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = model.critic_loss(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(2), abs=0.1) and losses[-1] < 0.2
    assert model.loss(batch)["fooled"] > 1.5, "codes far from the prior are not mistaken for it"


@pytest.mark.parametrize("name", ["aae", "vae_gan", "ms_ssim", "ae"])
def test_what_has_no_density_claims_none(name: str) -> None:
    model = model_of(name)
    assert "elbo" not in model.loss(random_batch(model.image))
    with pytest.raises(UserError, match="has no density p.x., hence no log_likelihood"):
        model.log_likelihood(random_batch(model.image).x, 2)
    with pytest.raises(UserError, match="has a continuous latent, hence no indices"):
        model.indices(random_batch(model.image).x)
