"""kl_gan and vqgan: what they compare images by, who learns from what, and how the game is weighed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torchvision import models

import zoo
from tests.runs import make_config, small
from tests.variants.test_adversarial import step_of
from zoo.base import SYMMETRIC, Batch, ImageSpec, random_batch
from zoo.config import ModelConfig
from zoo.engine.checkpoint import weights_of, write_weights
from zoo.engine.setup import set_up
from zoo.errors import UserError
from zoo.families.adversarial import PatchGame
from zoo.models import create
from zoo.nets import pretrained
from zoo.nets.patches import PatchDiscriminator
from zoo.nets.pretrained import Perceptual
from zoo.parts.adversarial import balance, gradient_penalty, last_weight, mistaken, told_apart
from zoo.parts.distributions import gaussian_kl
from zoo.variants.vqgan import VQGAN

BOTH = ("kl_gan", "vqgan")
LDM: dict[str, Any] = {"net": "ldm", "hidden_dims": [4, 6], "blocks": 1, "z_channels": 2, "recon": "l1"}


def model_of(name: str, image: ImageSpec | None = None, **options: Any) -> PatchGame:
    """On net `ldm` with a grid, in training, the game begun."""
    torch.manual_seed(0)
    given = small(name, **LDM) | ({"latent": "grid", "latent_dim": 2} if name == "kl_gan" else {})
    model = create(name, image or ImageSpec(1, 16, 16, SYMMETRIC), **given | options)
    assert isinstance(model, PatchGame)
    model.progress.fill_(0.5)
    return model.train()


def loss_of(model: PatchGame, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return model.loss(batch)


@pytest.fixture
def random_mobilenet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights, in place of the published ones."""
    torch.manual_seed(5)
    net = models.mobilenet_v2(weights=None).eval().requires_grad_(False)
    monkeypatch.setattr(pretrained, "published", lambda *_: (net, "0"))


# ---- the perceptual term


@pytest.mark.parametrize("name", BOTH)
def test_the_perceptual_terms_gradient_reaches_encoder_and_decoder(name: str, random_mobilenet: None) -> None:
    model = model_of(name, perceptual_weight=0.5)
    parts = step_of(model, "vae", "perceptual", random_batch(model.image))
    assert {"encoder", "from_latent", "decoder"} <= parts and "discriminator" not in parts


@pytest.mark.parametrize("name", BOTH)
def test_the_perceptual_distance_counts_once_a_pixel(name: str, random_mobilenet: None) -> None:
    batch = random_batch(ImageSpec(1, 16, 16, SYMMETRIC))
    found = [loss_of(model_of(name, perceptual_weight=w, gan_start=0.9), batch) for w in (0.0, 0.5)]
    assert "perceptual" not in found[0] and found[1]["perceptual"] > 0
    torch.testing.assert_close(found[1]["loss"] - found[0]["loss"], 0.5 * 256 * found[1]["perceptual"])


def test_the_network_sees_images_in_its_own_range(random_mobilenet: None) -> None:
    x, y = torch.rand(2, 3, 1, 16, 16)
    expected = Perceptual()(x, y)
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        model = model_of("kl_gan", ImageSpec(1, 16, 16, (low, high)), perceptual_weight=1.0)
        torch.testing.assert_close(model.seen(low + (high - low) * x, low + (high - low) * y), expected)


def test_the_network_is_neither_trained_nor_saved(random_mobilenet: None) -> None:
    with_it, without = model_of("kl_gan", perceptual_weight=1.0), model_of("kl_gan")
    loss_of(with_it, random_batch(with_it.image))
    assert with_it.state_dict().keys() == without.state_dict().keys()
    assert not with_it.perceptual.net.training


@pytest.mark.usefixtures("no_network")
def test_missing_weights_are_told_before_the_first_step_and_no_matter_to_a_trained_model(
    tmp_path: Path,
) -> None:
    options = small("kl_gan", perceptual_weight=1.0)
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(UserError, match=r"are not on this machine .* VAE_ZOO_MOBILENET; or set model.perc") as error:
        set_up(make_config(tmp_path / "none", model={"name": "kl_gan", **options}))
    assert "benchmark" not in str(error.value)
    model = create("kl_gan", ImageSpec(1, 8, 8), **options)
    path = tmp_path / "model.safetensors"
    write_weights(path, weights_of(model), model.image, ModelConfig(name="kl_gan", **options), plugins={})
    assert zoo.load(path).sample(2).shape == (2, 1, 8, 8)


# ---- the game


@pytest.mark.parametrize("name", BOTH)
def test_neither_players_gradient_touches_the_other(name: str) -> None:
    model = model_of(name, r1=1.0)
    batch = random_batch(model.image)
    assert step_of(model, "discriminator", "loss", batch) == {"discriminator"}
    assert step_of(model, "discriminator", "r1", batch) == {"discriminator"}
    for term in ("fooled", "loss"):
        parts = step_of(model, "vae", term, batch)
        assert {"encoder", "decoder", "from_latent"} <= parts and not parts & {"discriminator", "prior"}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("net", ["ldm", "conv"])
def test_the_adaptive_weight_is_the_ratio_of_both_gradients_at_the_last_layer(name: str, net: str) -> None:
    torch.manual_seed(0)
    given: dict[str, Any] = LDM if net == "ldm" else {"net": "conv", "base_channels": 2, "recon": "l1"}
    given = given | ({"latent": "grid", "latent_dim": 2} if name == "kl_gan" else {"codes": 8, "dim": 4})
    model = create(name, ImageSpec(1, 32, 32, SYMMETRIC), patch_channels=4, **given).train()
    assert isinstance(model, PatchGame)
    model.progress.fill_(0.5)
    batch = random_batch(model.image)
    last = [layer for layer in model.decoder.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][-1].weight
    terms = loss_of(model, batch)
    gradients = []
    for term in ("recon", "fooled"):
        again = loss_of(model, batch)
        gradients.append(torch.autograd.grad(again[term], last)[0].norm())
    expected = gradients[0] / (gradients[1] + 1e-4)
    assert expected > 10, "the game's gradient is far smaller than the error's here"
    torch.testing.assert_close(terms["adaptive_weight"], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", BOTH)
def test_the_game_is_weighed_against_errors_and_features(name: str, random_mobilenet: None) -> None:
    model = model_of(name, perceptual_weight=0.5)
    batch = random_batch(model.image)
    last = last_weight(model.decoder)
    found, terms = loss_of(model, batch)["adaptive_weight"], loss_of(model, batch)
    fidelity = terms["recon"] + 0.5 * 256 * terms["perceptual"]
    norms = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (fidelity, terms["fooled"])]
    torch.testing.assert_close(found, norms[0] / (norms[1] + 1e-4), rtol=1e-4, atol=0)


def test_the_loss_of_kl_gan_is_the_papers_sum() -> None:
    model = model_of("kl_gan", beta=0.3, gan_weight=0.7)
    batch = random_batch(model.image)
    terms = loss_of(model, batch)
    torch.manual_seed(1)
    out = model(batch.x)
    recon = (out.recon - batch.x).abs().sum((1, 2, 3)).mean()
    fooled = -model.discriminator(out.recon).mean()
    kl = gaussian_kl(out.mu, out.logvar).mean()
    torch.testing.assert_close(terms["fooled"], fooled)
    torch.testing.assert_close(terms["kl"], kl)
    torch.testing.assert_close(terms["loss"], recon + 0.3 * kl + 0.7 * terms["adaptive_weight"] * fooled)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_the_loss_of_vqgan_is_the_papers_sum(codebook: str) -> None:
    model = model_of("vqgan", codebook=codebook, commitment=0.4, gan_weight=0.7)
    assert isinstance(model, VQGAN)
    batch = random_batch(model.image)
    z = model.vectors(batch.x)
    distances = torch.cdist(z.flatten(0, 1), model.quantizer.codebook)
    nearest = model.quantizer.codebook[distances.argmin(1)].view_as(z)
    images = model.decode(nearest.flatten(1))
    squared = (z - nearest).square().sum((1, 2)).mean()
    fooled = -model.discriminator(images).mean()
    terms = loss_of(model, batch)
    torch.testing.assert_close(terms["commitment"], squared)
    expected = (images - batch.x).abs().sum((1, 2, 3)).mean() + 0.4 * squared
    expected = expected + 0.7 * terms["adaptive_weight"] * fooled + (squared if codebook == "gradient" else 0)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_each_term_of_vqgan_teaches_its_part(codebook: str) -> None:
    """The encoder commits itself, the codebook follows, and neither term moves the other's weights."""
    model = model_of("vqgan", codebook=codebook, gan_weight=0.0, gan_start=0.9)
    batch = random_batch(model.image)
    terms = loss_of(model, batch)
    learned = {name: parameter for name, parameter in model.named_parameters() if name.startswith(("to_c", "quant"))}

    def moved(term: Tensor) -> set[str]:
        found = torch.autograd.grad(term, list(learned.values()), retain_graph=True, allow_unused=True)
        return {
            name.split(".")[0] for name, each in zip(learned, found, strict=True) if each is not None and each.any()
        }

    assert moved(terms["commitment"]) == {"to_codes"}
    assert moved(terms["loss"] - terms["recon"]) == {"to_codes"} | ({"quantizer"} if codebook == "gradient" else set())
    if codebook == "gradient":
        assert moved(terms["codebook"]) == {"quantizer"}


def test_perplexity_of_vqgan_is_that_of_its_codes() -> None:
    model = model_of("vqgan")
    assert isinstance(model, VQGAN)
    batch = random_batch(model.image, 16)
    shares = torch.bincount(model.indices(batch.x).flatten(), minlength=8).double()
    shares = shares / shares.sum()
    expected = torch.special.entr(shares).sum().exp().item()
    terms = model.eval().loss(batch)
    assert terms["perplexity"].item() == pytest.approx(expected, rel=1e-5) and 1 < expected < 8
    assert terms["usage"].item() == pytest.approx((shares > 0).double().mean().item())


@pytest.mark.parametrize("name", BOTH)
def test_before_its_start_there_is_no_game(name: str) -> None:
    model = model_of(name, gan_start=0.5, gan_weight=1.0, **({"beta": 0.0} if name == "kl_gan" else {}))
    batch = random_batch(model.image)
    model.progress.fill_(0.49)
    before = loss_of(model, batch)
    assert model.discriminator_loss(batch)["loss"] == 0
    parts = before["recon"] + (before["commitment"] if name == "vqgan" else 0)
    torch.testing.assert_close(before["loss"], parts)
    model.progress.fill_(0.5)
    after = loss_of(model, batch)
    torch.testing.assert_close(after["loss"], parts + after["adaptive_weight"] * after["fooled"])
    assert model.discriminator_loss(batch)["loss"] > 0.5


def test_evaluation_remembers_the_last_steps_weight() -> None:
    model = model_of("kl_gan")
    batch = random_batch(model.image)
    assert model.eval().loss(batch)["adaptive_weight"] == 0
    weight = model.train().loss(batch)["adaptive_weight"]
    assert weight > 0 and model.adaptive_weight == weight
    other = Batch(-batch.x)
    assert model.eval().loss(other)["adaptive_weight"] == weight == model.adaptive_weight
    with torch.no_grad():
        assert model.train().loss(other)["adaptive_weight"] == weight
    assert model.train().loss(other)["adaptive_weight"] != weight
    assert not model.loss(batch)["adaptive_weight"].requires_grad


@pytest.mark.parametrize("name", BOTH)
def test_a_frozen_decoder_is_one_sentence_and_a_frozen_encoder_none(name: str, tmp_path: Path) -> None:
    for part, words in (("encoder", ""), ("decoder", "last layer, which is frozen: leave the decoder out of freeze")):
        AcceleratorState._reset_state(reset_partial_state=True)
        config = make_config(tmp_path / part, model={"name": name, **small(name)}, freeze=[part])
        if not words:
            set_up(config)
            continue
        with pytest.raises(UserError, match=words):
            set_up(config)


@pytest.mark.parametrize("name", BOTH)
def test_the_discriminator_learns_to_tell_images_from_reconstructions(name: str) -> None:
    model = model_of(name, patch_channels=8)
    batch = random_batch(model.image, 16)
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.discriminator_loss(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.3) and losses[-1] < 0.3


# ---- the parts


def test_both_games_are_what_their_papers_say() -> None:
    real, fake = torch.randn(2, 5, 1, 3, 4) * 2
    hinge = ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()) / 2
    torch.testing.assert_close(told_apart(real, fake, "hinge"), hinge)
    entropy = [F.binary_cross_entropy_with_logits(each, torch.full_like(each, y)) for each, y in ((real, 1), (fake, 0))]
    torch.testing.assert_close(told_apart(real, fake, "logistic"), (entropy[0] + entropy[1]) / 2)
    torch.testing.assert_close(mistaken(fake, "hinge"), -fake.mean())
    fooled = F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    torch.testing.assert_close(mistaken(fake, "logistic"), fooled)


def test_the_gradient_penalty_of_a_linear_judge_is_its_weights_norm() -> None:
    weight = torch.randn(2, 4, 5, requires_grad=True)

    def judge(x: Tensor) -> Tensor:
        patches = torch.einsum("bchw,chw->b", x, weight)
        return torch.stack([patches, 3 * patches], 1)  # two patches: D is their mean

    x = torch.randn(7, 2, 4, 5)
    penalty = gradient_penalty(judge, x)
    torch.testing.assert_close(penalty, (2 * weight).square().sum() / 2)
    with torch.no_grad():
        torch.testing.assert_close(gradient_penalty(judge, x), penalty)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 4 * weight.detach())


def test_the_balance_has_a_limit_and_no_gradient() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert balance((3 * weight).sum(), (2 * weight).sum(), weight, 1).item() == pytest.approx(1.5, rel=1e-3)
    found = balance((1e9 * weight).sum(), (2 * weight).sum(), weight, 1)
    assert found == 1e4 and not found.requires_grad
    assert balance(weight.sum(), 0 * weight.sum(), weight, 1) == 1e4


def test_the_balance_of_a_large_image_is_no_more_limited_than_that_of_a_small_one() -> None:
    """A sum over four times the pixels weighs four times as much, up to a limit that does too."""
    weight = torch.ones(3, requires_grad=True)
    for pixels in (300, 1200):
        for error, expected in ((1e3, 500), (1e9, 1e4)):
            found = balance((pixels * error * weight).sum(), (2 * weight).sum(), weight, pixels)
            assert found.item() == pytest.approx(pixels * expected, rel=1e-3)


def test_the_last_layer_is_the_one_that_makes_the_image() -> None:
    model = model_of("kl_gan")
    assert last_weight(model.decoder) is model.decoder.conv_out.weight  # type: ignore[union-attr]


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch(layers: int, side: int) -> None:
    net = PatchDiscriminator(ImageSpec(1, 160, 160), channels=2, layers=layers)
    net.body = nn.Sequential(*(layer for layer in net.body if not isinstance(layer, nn.GroupNorm)))
    x = torch.randn(1, 1, 160, 160, requires_grad=True)
    logits = net(x)
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    assert x.grad is not None
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == side


@pytest.mark.parametrize(
    ("size", "patches"),
    [((8, 8), (2, 2)), ((16, 16), (2, 2)), ((28, 28), (5, 5)), ((64, 64), (6, 6)), ((9, 70), (2, 33))],
)
def test_small_images_have_patches_too(size: tuple[int, int], patches: tuple[int, int]) -> None:
    net = PatchDiscriminator(ImageSpec(3, *size), channels=2, layers=3)
    assert net(torch.zeros(2, 3, *size)).shape == (2, 1, *patches)


def test_images_without_room_for_a_patch_are_refused() -> None:
    with pytest.raises(UserError, match="images of 8 pixels a side or more, not 7 x 30: set data.size=8 or more"):
        PatchDiscriminator(ImageSpec(1, 7, 30))


def test_an_image_is_judged_whatever_else_is_in_the_batch() -> None:
    net = PatchDiscriminator(ImageSpec(1, 32, 32), channels=4).train()
    x = torch.randn(6, 1, 32, 32)
    torch.testing.assert_close(net(x)[:2], net(x[:2]))
