"""vq, rvq, lfq, bsq, fsq, categorical."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runs import small
from tests.test_samplers import make_subject
from zoo.base import Batch, ImageSpec, random_batch
from zoo.data import Images
from zoo.errors import UserError
from zoo.families.discrete import CategoricalPosterior, CodeVAE, SignVAE
from zoo.models import create
from zoo.variants.categorical import CategoricalVAE
from zoo.variants.rvq import RVQVAE
from zoo.variants.vq import VQVAE

NAMES = ("vq", "rvq", "lfq", "bsq", "fsq", "categorical")
NETS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_dims": [16]},
    "conv": {"base_channels": 2},  # with a feature map of 2 x 2
}


def model_of(name: str, image: ImageSpec | None = None, net: str = "mlp", **options: Any) -> CodeVAE:
    torch.manual_seed(0)
    image = image or ImageSpec(1, 32, 32)
    model = create(name, image, **small(name, net=net, **NETS[net]) | options)
    assert isinstance(model, CodeVAE)
    return model


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", NAMES)
def test_codes_and_latents_are_one_to_one(name: str, net: str) -> None:
    model = model_of(name, net=net).eval()
    indices = torch.randint(model.codebook_size, (50, model.positions))
    z = model.codes_at(indices).flatten(1)
    assert z.shape == (50, model.latent_dim)
    assert torch.equal(model.indices_of(z), indices)
    batch = random_batch(model.image, 6)
    found = model.indices(batch.x)
    torch.testing.assert_close(model.codes_at(found).flatten(1), model.encode(batch.x)[0])
    assert found.dtype == torch.int64 and found.min() >= 0 and found.max() < model.codebook_size


@pytest.mark.parametrize("name", NAMES)
def test_a_position_of_the_feature_map_is_a_code(name: str) -> None:
    """Codes of a convolutional net follow the image's places: a change in one corner leaves the far corner's code."""
    model = model_of(name, ImageSpec(1, 64, 64), net="conv", base_channels=8).eval()
    places = 16
    assert model.positions == places * model.codebooks and model.feature_shape[1:] == (4, 4)
    x = random_batch(model.image, 1).x
    changed = x.clone()
    changed[:, :, :8, :8] = 1 - changed[:, :, :8, :8]
    features = [model.to_codes(model.encoder(images)).transpose(1, 2) for images in (changed, x)]  # [1, P, D]
    vectors = (features[0] - features[1]).abs().sum(2)[0]
    assert vectors[0] > 0 and vectors[15] == 0
    indices = torch.zeros(1, model.positions, dtype=torch.long)
    other = indices.clone()
    other[0, 0] = 1
    images = [model.decode(model.codes_at(i).flatten(1)) for i in (indices, other)]
    difference = (images[0] - images[1]).abs()[0, 0]
    assert difference[:8, :8].sum() > 0 and difference[-8:, -8:].sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_codes_do_not_depend_on_the_batch(name: str) -> None:
    model = model_of(name).eval()
    x = random_batch(model.image, 6).x
    assert torch.equal(model.indices(x), torch.cat([model.indices(part) for part in x.split(4)]))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_samples_come_from_the_learned_prior(name: str) -> None:
    """A prior that knows one sequence gives that sequence's image, whatever the seed."""
    model = model_of(name)
    model.prior.head.weight.zero_()
    model.prior.head.bias.fill_(-100)
    model.prior.head.bias[1] = 100
    wanted = model.decode(model.codes_at(torch.ones(3, model.positions, dtype=torch.long)).flatten(1))
    torch.testing.assert_close(model.sample(3), wanted)
    z = model.sample_prior(2)
    torch.testing.assert_close(model.log_prior(z), torch.zeros(2))


@pytest.mark.parametrize("name", NAMES)
def test_the_prior_learns_from_codes_and_the_codes_not_from_the_prior(name: str) -> None:
    model = model_of(name).eval()
    batch = random_batch(model.image)
    model.prior_loss(batch)["loss"].backward()
    prior = {id(p) for p in model.prior.parameters()}
    for parameter_name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in prior), parameter_name
    model.zero_grad()
    model.loss(batch)["loss"].backward()
    assert all(parameter.grad is None for parameter in model.prior.parameters())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_priors_loss_is_minus_the_log_probability_of_the_codes(name: str) -> None:
    """Of a prior that knows only each code's share, whatever comes before: the sum of these shares' logarithms."""
    model = model_of(name).eval()
    model.prior.head.weight.zero_()
    torch.nn.init.normal_(model.prior.head.bias)
    shares = model.prior.head.bias.log_softmax(0)
    batch = random_batch(model.image, 5)
    torch.manual_seed(0)
    found = model.prior_loss(batch)["loss"]
    torch.manual_seed(0)
    codes = model.indices_of(model.posterior(batch.x).draw(1)[0][0])
    torch.testing.assert_close(found, -shares[codes].sum(1).mean())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_elbo_is_a_bound_under_the_prior_over_codes(name: str) -> None:
    """log p(x) is the sum over all sequences, which a tiny model allows; the bound stays below."""
    options: dict[str, dict[str, Any]] = {"fsq": {"levels": [3]}, "rvq": {"positions": 1}}
    model = model_of(name, ImageSpec(1, 4, 4), **{"positions": 2} | options.get(name, {})).eval()
    batch = random_batch(model.image, 3)
    sequences = torch.tensor(list(itertools.product(range(model.codebook_size), repeat=2)))
    z = model.codes_at(sequences).flatten(1)
    log_p = torch.stack(
        [
            (model.likelihood.log_prob(model.logits(z), x.expand(len(z), -1, -1, -1)) + model.log_prior(z)).logsumexp(0)
            for x in batch.x
        ]
    )
    elbo = torch.stack([model.loss(batch)["elbo"] for _ in range(200)]).mean()
    assert elbo < log_p.mean()
    many = model.log_likelihood(batch.x, 20_000)
    if name == "categorical":  # its posterior covers every sequence
        torch.testing.assert_close(many, log_p, atol=0.05, rtol=0)
    else:
        assert (many < log_p).all()


# ---- vq


def test_vq_terms_by_hand() -> None:
    model = model_of("vq", codebook="gradient", commitment=0.5)
    assert isinstance(model, VQVAE)
    batch = random_batch(model.image)
    terms = model.eval().loss(batch)
    z = model.vectors(batch.x)
    e = model.codes_at(model.indices(batch.x))
    squared = (z - e).square().sum((1, 2)).mean()
    torch.testing.assert_close(terms["commitment"], squared)
    torch.testing.assert_close(terms["codebook"], squared)
    torch.testing.assert_close(terms["loss"], terms["recon"] + 1.5 * squared)


def gradients(model: VQVAE, term: str, batch: Batch) -> dict[str, Tensor | None]:
    model.zero_grad()
    model.loss(batch)[term].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_each_term_of_vq_teaches_its_part() -> None:
    model = model_of("vq", codebook="gradient").eval()
    assert isinstance(model, VQVAE)
    batch = random_batch(model.image)
    commitment, codebook, recon = (gradients(model, term, batch) for term in ("commitment", "codebook", "recon"))
    assert commitment["quantizer.codebook"] is None and commitment["to_codes.0.weight"] is not None
    assert codebook["quantizer.codebook"] is not None and codebook["to_codes.0.weight"] is None
    assert recon["quantizer.codebook"] is None, "the decoder's gradient goes to the encoder, past the codebook"
    assert recon["to_codes.0.weight"] is not None


def test_the_decoders_gradient_goes_straight_to_the_encoder() -> None:
    """d loss / d z through the code equals d loss / d e."""
    model = model_of("vq").eval()
    assert isinstance(model, VQVAE)
    batch = random_batch(model.image)
    z = model.vectors(batch.x).detach().requires_grad_()
    model.vectors = lambda _: z  # type: ignore[method-assign]
    (found,) = torch.autograd.grad(model.loss(batch)["recon"], z)
    e = model.codes_at(model.quantizer.index_of(z)).detach().requires_grad_()
    recon = model.likelihood.nll(model.logits(e.flatten(1)), batch.x).mean()
    (wanted,) = torch.autograd.grad(recon, e)
    torch.testing.assert_close(found, wanted)


def test_an_ema_codebook_moves_in_training_alone() -> None:
    model = model_of("vq")
    assert isinstance(model, VQVAE)
    batch = random_batch(model.image)
    before = model.quantizer.codebook.clone()
    model.eval().loss(batch)
    assert torch.equal(model.quantizer.codebook, before)
    model.train().loss(batch)
    assert torch.equal(model.quantizer.codebook, before), "not before the step is over, with all its micro-batches"
    model.after_turn("vae")
    assert not torch.equal(model.quantizer.codebook, before)


def test_the_codebook_learns_at_its_own_players_turn_alone() -> None:
    model = model_of("vq").train()
    batch = random_batch(model.image)
    model.loss(batch)
    model.after_turn("vae")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.prior_loss(batch)
    model.after_turn("prior")
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("gradient", ["straight_through", "rotation", "sim"])
def test_what_vq_decodes_is_the_code_however_its_gradient_goes(gradient: str) -> None:
    model = model_of("vq", gradient=gradient).eval()
    batch = random_batch(model.image)
    expected = model.likelihood.nll(model.logits(model.encode(batch.x)[0]), batch.x).mean()
    torch.testing.assert_close(model.loss(batch)["recon"], expected)


def test_a_rotated_gradient_comes_back_turned() -> None:
    """d loss / d z is d loss / d e, turned as e is turned to z."""
    model = model_of("vq", gradient="rotation").eval()
    assert isinstance(model, VQVAE)
    batch = random_batch(model.image)
    z = model.vectors(batch.x).detach().requires_grad_()
    model.vectors = lambda _: z  # type: ignore[method-assign]
    (found,) = torch.autograd.grad(model.loss(batch)["recon"], z)
    e = model.codes_at(model.quantizer.index_of(z)).detach().requires_grad_()
    (at_code,) = torch.autograd.grad(model.likelihood.nll(model.logits(e.flatten(1)), batch.x).mean(), e)
    angles = [torch.cosine_similarity(a, b, dim=2) for a, b in ((found, z), (at_code, e))]
    torch.testing.assert_close(*angles, rtol=1e-3, atol=1e-4)


def test_a_linear_codebook_learns_by_its_map_alone() -> None:
    model = model_of("vq", gradient="sim").eval()
    assert isinstance(model, VQVAE)
    found = gradients(model, "codebook", random_batch(model.image))
    assert {name for name, grad in found.items() if grad is not None} == {"quantizer.map.weight", "quantizer.map.bias"}
    with pytest.raises(UserError, match="start=kmeans moves codes.*set start=noise"):
        model_of("vq", gradient="sim", start="kmeans")


@pytest.mark.parametrize("name", ["vq", "rvq"])
def test_codebooks_start_from_the_first_step_and_not_in_evaluation(name: str) -> None:
    model = model_of(name, start="kmeans")
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    model.eval().loss(random_batch(model.image))
    assert all(torch.equal(buffer, before[key]) for key, buffer in model.named_buffers())
    batch = random_batch(model.image, 64)
    model.train().loss(batch)
    model.after_turn("vae")
    model.eval()
    assert model.loss(batch)["commitment"] < 0.8 * model_of(name, start="kmeans").eval().loss(batch)["commitment"]


# ---- codes in use


@pytest.mark.parametrize("name", NAMES)
def test_usage_and_perplexity_are_those_of_the_codes(name: str) -> None:
    model = model_of(name).eval()
    batch = random_batch(model.image, 6)
    torch.manual_seed(0)
    terms = model.loss(batch)
    torch.manual_seed(0)
    codes = model.indices_of(model.posterior(batch.x).draw(1)[0][0])
    each = [
        codes[:, turn :: model.codebooks].flatten().bincount(minlength=model.codebook_size)
        for turn in range(model.codebooks)
    ]
    used = [(counts > 0).double().mean().item() for counts in each]
    assert terms["usage"].item() == pytest.approx(sum(used) / len(used))
    entropies = [torch.distributions.Categorical(counts.float()).entropy().exp().item() for counts in each]
    assert terms["perplexity"].item() == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)


@pytest.mark.parametrize(
    ("size", "channels", "net", "told"),
    [(64, 3, "conv", True), (32, 3, "grid", False), (32, 1, "conv", False), (64, 3, "mlp", False)],
)
def test_a_grid_too_coarse_for_photographs_is_spoken_of(size: int, channels: int, net: str, told: bool) -> None:
    options = {"base_channels": 2} if net != "mlp" else {"hidden_dims": [4]}
    torch.manual_seed(0)
    for name in NAMES:
        model = create(name, ImageSpec(channels, size, size), **small(name, net=net, **options))
        assert bool(model.remarks) == told
        assert not told or "has 4 x 4 codes for a photograph of 64 x 64 pixels" in model.remarks[0]


# ---- rvq


def rvq(**options: Any) -> RVQVAE:
    model = model_of("rvq", stages=3, **options)
    assert isinstance(model, RVQVAE)
    batch = random_batch(model.image, 32)
    for _ in range(3):
        model.train().loss(batch)
        model.after_turn("vae")
    return model


def test_rvq_terms_by_hand() -> None:
    model = rvq(commitment=0.5).eval()
    batch = random_batch(model.image)
    z = model.vectors(batch.x)
    each = model.encode(batch.x)[0].unflatten(1, (4, 3, model.dim))  # [B, P, S, D]
    squared = [(z - each[:, :, : stages + 1].sum(2)).square().sum((1, 2)).mean() for stages in range(3)]
    terms = model.loss(batch)
    torch.testing.assert_close(terms["rest"], squared[-1])
    torch.testing.assert_close(terms["commitment"], torch.stack(squared).mean())
    torch.testing.assert_close(terms["loss"], terms["recon"] + 0.5 * terms["commitment"])


def test_a_prefix_of_the_stages_decodes() -> None:
    """The sum of the first codes is what the decoder sees; all of them are the image that `reconstruct` gives."""
    model = rvq().eval()
    x = random_batch(model.image).x
    z = model.encode(x)[0]
    torch.testing.assert_close(model.decode(model.prefix(z, 3)), model.reconstruct(x))
    inner = model.from_latent[1]
    sums = z.unflatten(1, (4, 3, model.dim))[:, :, :2].sum(2).flatten(1)
    expected = model.likelihood.mean(model.decoder(inner(sums)))
    torch.testing.assert_close(model.decode(model.prefix(z, 2)), expected)
    mixed = model.prefix(z, torch.tensor([1, 2, 3, 3]))
    torch.testing.assert_close(mixed[1], model.prefix(z, 2)[1])
    assert not torch.allclose(model.decode(mixed)[0], expected[0])


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_stages_are_dropped_in_training_alone(dropout: float) -> None:
    model = rvq(dropout=dropout)
    batch = Batch(random_batch(model.image, 1).x.expand(600, -1, -1, -1))
    seen: list[Tensor] = []
    logits = model.logits
    model.logits = lambda z, y=None: (seen.append(z), logits(z, y))[1]  # type: ignore[func-returns-value,method-assign]
    for training in (True, False):
        model.train(training).loss(batch)
    kept = [(z.unflatten(1, (4, 3, model.dim)).abs().sum((1, 3)) > 1e-6).sum(1) for z in seen]
    assert (kept[1] == 3).all()
    shares = kept[0].bincount(minlength=4) / 600
    assert (kept[0] == 3).all() if dropout == 0 else (shares[1:] - 1 / 3).abs().max() < 5 * (2 / 9 / 600) ** 0.5


def test_rvqs_gradient_goes_straight_to_the_encoder() -> None:
    model = rvq().eval()
    batch = random_batch(model.image)
    z = model.vectors(batch.x).detach().requires_grad_()
    model.vectors = lambda _: z  # type: ignore[method-assign]
    (found,) = torch.autograd.grad(model.loss(batch)["recon"], z)
    e = model.quantizer(z)[0].unflatten(1, (4, 3)).sum(2).detach().requires_grad_()
    inner = model.from_latent[1]
    recon = model.likelihood.nll(model.decoder(inner(e.flatten(1))).float(), batch.x).mean()
    torch.testing.assert_close(found, torch.autograd.grad(recon, e)[0])


# ---- lfq, bsq


def test_one_number_on_a_sphere_is_refused() -> None:
    with pytest.raises(UserError, match="one number can't move: set model.bits=2 or more"):
        model_of("bsq", bits=1)
    assert model_of("lfq", bits=1).codebook_size == 2


@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_terms_of_sign_codes_by_brute_force(name: str) -> None:
    """Entropies of q(c|x) over all 2^k codes, by the papers' softmax."""
    options = {"lfq": {"temperature": 0.5}, "bsq": {"sharpness": 3.0, "spread_weight": 0.7}}[name]
    model = model_of(name, entropy_weight=0.2, group=3, **options).eval()
    assert isinstance(model, SignVAE)
    batch = random_batch(model.image, 5)
    z = 4 * model.vectors(batch.x) if name == "lfq" else model.vectors(batch.x)
    model.vectors = lambda _: z  # type: ignore[method-assign]
    codes = model.quantizer.codes_at(torch.arange(8))
    if name == "lfq":
        q = (-torch.cdist(z.flatten(0, 1), codes).square() / 0.5).softmax(1)
    else:
        torch.testing.assert_close(z.norm(dim=2), torch.ones(z.shape[:2]))
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(8))
        q = (3 * z.flatten(0, 1) @ codes.T).softmax(1)
    entropy = 4 * torch.special.entr(q).sum(1).mean()
    spread = 4 * torch.special.entr(q.mean(0)).sum()
    terms = model.loss(batch)
    torch.testing.assert_close(terms["entropy"], entropy)
    torch.testing.assert_close(terms["codebook_entropy"], spread)
    extra = 0.2 * (entropy - (1.0 if name == "lfq" else 0.7) * spread)
    if name == "lfq":
        commitment = (z - model.encode(batch.x)[0].view_as(z)).square().sum((1, 2)).mean()
        torch.testing.assert_close(terms["commitment"], commitment)
        extra = extra + 0.25 * commitment
    torch.testing.assert_close(terms["loss"], terms["recon"] + extra)


def test_the_entropies_alone_lead_to_sure_and_even_codes() -> None:
    model = model_of("lfq", positions=1, group=3)
    assert isinstance(model, SignVAE)
    logits = torch.randn(64, 1, 3, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        entropy, spread = model.entropies(logits)
        optimizer.zero_grad()
        (entropy - spread).backward()
        optimizer.step()
    assert entropy < 0.1 and spread > 0.97 * 3 * math.log(2)


def test_a_code_that_is_never_likely_leaves_the_gradient_finite() -> None:
    """At a share of 0 the entropy's derivative is infinite."""
    model = model_of("lfq", positions=1, group=3)
    assert isinstance(model, SignVAE)
    logits = torch.tensor([[[200.0, -200.0, 0.5]], [[300.0, -0.1, 200.0]]], requires_grad=True)
    entropy, spread = model.entropies(logits)
    (grad,) = torch.autograd.grad(entropy - spread, logits)
    assert grad.isfinite().all() and grad.abs().sum() > 0


# ---- categorical


@torch.no_grad()
def test_draws_of_a_categorical_posterior_have_its_probabilities() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(2, 3, 4).log_softmax(2)
    z, log_q = CategoricalPosterior(log_probs).draw(20_000)
    shares = z.view(20_000, 2, 3, 4).mean(0)
    assert (shares - log_probs.exp()).abs().max() < 5 * 0.5 / 20_000**0.5
    expected = torch.distributions.Categorical(logits=log_probs).log_prob(z.view(20_000, 2, 3, 4).argmax(3)).sum(2)
    torch.testing.assert_close(log_q, expected)


def test_kl_to_the_uniform_distribution_is_torchs() -> None:
    model = model_of("categorical").eval()
    assert isinstance(model, CategoricalVAE)
    batch = random_batch(model.image)
    q = torch.distributions.Categorical(logits=model.posterior(batch.x).log_probs)
    uniform = torch.distributions.Categorical(logits=torch.zeros_like(q.logits))
    expected = torch.distributions.kl_divergence(q, uniform).sum(1).mean()
    terms = model.loss(batch)
    torch.testing.assert_close(terms["kl_uniform"], expected)
    torch.testing.assert_close(terms["loss"], terms["recon"] + expected)


def test_the_temperature_falls_exponentially() -> None:
    model = model_of("categorical", temperature=2.0, temperature_min=0.5)
    found = []
    for progress in (0, 0.5, 1):
        model.progress.fill_(progress)
        found.append(model.loss(random_batch(model.image))["temperature"].item())
    assert found == pytest.approx([2, 1, 0.5])


def test_relaxed_categories_become_hard_as_the_temperature_falls() -> None:
    """Training decodes relaxed categories: soft at a high temperature, one-hot near 0."""
    model = model_of("categorical", temperature=20.0, temperature_min=1e-3).train()
    seen: list[Tensor] = []
    logits = model.logits
    model.logits = lambda z, y=None: (seen.append(z), logits(z, y))[1]  # type: ignore[func-returns-value,method-assign]
    for progress in (0.0, 1.0):
        model.progress.fill_(progress)
        model.loss(random_batch(model.image))
    soft, _, hard, _ = (z.unflatten(1, (model.positions, model.dim)) for z in seen)
    torch.testing.assert_close(soft.sum(2), torch.ones(soft.shape[:2]))
    assert soft.max() < 0.5 and hard.max(2).values.min() > 0.99
    model.eval().loss(random_batch(model.image))
    assert set(seen[-1].unique().tolist()) == {0.0, 1.0}


def test_what_relaxed_categories_harden_to_is_a_draw_of_the_posterior() -> None:
    model = model_of("categorical", temperature=1.0, temperature_min=1e-4).train()
    assert isinstance(model, CategoricalVAE)
    model.progress.fill_(1.0)
    uneven = torch.tensor([3.0, 2.0, 0.0, -1.0]).expand(4000, model.positions, 4)
    model.vectors = lambda x: uneven  # type: ignore[method-assign]
    seen: list[Tensor] = []
    logits = model.logits
    model.logits = lambda z, y=None: (seen.append(z), logits(z, y))[1]  # type: ignore[func-returns-value,method-assign]
    model.loss(Batch(random_batch(model.image, 1).x.expand(4000, -1, -1, -1)))
    shares, wanted = seen[0].view(4000, model.positions, 4).mean(0), uneven[0].softmax(1)
    assert ((shares - wanted).abs() < 5 * (wanted * (1 - wanted) / 4000).sqrt()).all()


def test_the_prior_is_shown_draws_of_the_posterior() -> None:
    """Not its modes: of an image that the encoder is unsure of, the prior sees many codes."""
    model = model_of("categorical")
    assert isinstance(model, CategoricalVAE)
    batch = random_batch(model.image, 1)
    shown: list[Tensor] = []
    log_prob = model.prior.log_prob
    model.prior.log_prob = lambda indices: (shown.append(indices), log_prob(indices))[1]  # type: ignore
    for _ in range(30):
        model.prior_loss(batch)
    assert len({tuple(indices[0].tolist()) for indices in shown}) > 10
    probabilities = model.posterior(batch.x).log_probs.exp()[0]  # [P, K]
    shares = torch.nn.functional.one_hot(torch.cat(shown), model.dim).float().mean(0)
    assert (shares - probabilities).abs().max() < 5 * 0.5 / 30**0.5


@pytest.mark.parametrize("net", NETS)
def test_what_is_logged_in_training_is_a_bound_by_one_draw(net: str) -> None:
    model = model_of("categorical", net=net).train()
    assert isinstance(model, CategoricalVAE)
    batch = random_batch(model.image)
    for _ in range(300):  # BatchNorm's memory settles
        model.logits(torch.randn(64, model.latent_dim))
    drawn: list[Tensor] = []
    logits = model.logits
    model.logits = lambda z, y=None: (drawn.append(z), logits(z, y))[1]  # type: ignore[func-returns-value,method-assign]
    terms = model.loss(batch)
    relaxed, hard = drawn
    assert set(hard.unique().tolist()) == {0.0, 1.0} and not torch.equal(relaxed, hard)
    log_q = (model.posterior(batch.x).log_probs.flatten(1) * hard).sum(1)
    kl = log_q - model.log_prior(hard)
    torch.testing.assert_close(terms["kl"], kl.mean())
    model.eval()
    recon = model.likelihood.nll(logits(hard), batch.x)
    torch.testing.assert_close(terms["recon"], recon.mean())
    torch.testing.assert_close(terms["elbo"], -(recon + kl).mean() - model.likelihood.constant)


# ---- fsq


def test_every_code_of_fsq_can_be_reached_at_a_single_position() -> None:
    model = model_of("fsq", ImageSpec(1, 16, 16), net="conv", levels=[8, 5, 5])
    assert model.positions == 1
    vectors = 2 * torch.randn(20_000, 3, 1)
    model.to_codes = torch.nn.Identity()
    model.encoder = torch.nn.Identity()
    model.train()
    for _ in range(100):
        model.vectors(vectors)  # type: ignore[arg-type]
    codes = model.eval().indices(vectors)
    assert codes.unique().numel() == 200


def test_codebook_metric_counts_by_hand(tmp_path: Path) -> None:
    from zoo.metrics.codebook import codebook

    model = model_of("vq", ImageSpec(1, 8, 8), codes=5, positions=2)
    codes = torch.tensor([[0, 0], [1, 0], [3, 1]])
    numbered = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    numbered[:, 0, 0, 0] = torch.arange(3)
    model.indices = lambda x, y=None: codes[(255 * x[:, 0, 0, 0]).round().long()]  # type: ignore[method-assign]
    scores = codebook(make_subject(tmp_path, model, Images(numbered)))
    assert scores["codebook_usage"].value == pytest.approx(3 / 5)
    entropy = -(3 / 6 * math.log(3 / 6) + 2 / 6 * math.log(2 / 6) + 1 / 6 * math.log(1 / 6))
    assert scores["codebook_perplexity"].value == pytest.approx(math.exp(entropy))
    assert "of 5 codes at 2 positions" in scores["codebook_usage"].protocol
    assert scores["codebook_dead"].value == 2
    model.codebooks = 2  # which take turns: 0, 1, 3 and 0, 0, 1
    scores = codebook(make_subject(tmp_path, model, Images(numbered)))
    assert scores["codebook_usage"].value == pytest.approx(5 / 10) and scores["codebook_dead"].value == 5
    second = math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert scores["codebook_perplexity"].value == pytest.approx((3 + second) / 2)
    assert "of 2 x 5 codes at 2 positions" in scores["codebook_usage"].protocol
