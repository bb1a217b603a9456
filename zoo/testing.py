"""What every variant must satisfy, for the zoo's own tests and for yours.

    from zoo.testing import check_variant

    def test_my_vae():
        check_variant("my_vae", net="mlp", hidden_dims=[16])

Each check below can be called alone too. `StubVAE` is a whole model for tests of other things: inherit from it, and
write only what your test is about.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from zoo.base import UNIT, BaseVAE, Batch, ImageSpec, VAEOutput, random_batch
from zoo.config import ModelConfig
from zoo.engine.checkpoint import load, weights_of, write_weights
from zoo.engine.rehearsal import check_players, images_fault, loss_name, own_parameters_alone, terms_fault
from zoo.errors import DoesNotApply
from zoo.models import create, missing_methods, preferred_range
from zoo.parts.distributions import gaussian_kl, gaussian_sample, standard_normal
from zoo.properties import Variant, check_properties, checks_of_numbers


class StubVAE(BaseVAE):
    """The least that is a VAE: linear encoder and decoder, N(0, I) as prior, a Gaussian of unit variance over pixels.

    It has no `log_likelihood`, and needs neither net nor options.

    Args:
        image: The data's shape and range.
        latent_dim: D, dimensions of the latent.
    """

    def __init__(self, image: ImageSpec, *, latent_dim: int = 2) -> None:
        super().__init__(image)
        self.latent_dim = latent_dim
        self.encoder = nn.Linear(image.pixels, 2 * latent_dim)
        self.decoder = nn.Linear(latent_dim, image.pixels)

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return mu and logvar of q(z|x), each `[B, D]`."""
        mu, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        return mu, logvar

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return images in the image range: `[B, D]` -> `[B, C, H, W]`."""
        low, high = self.image.range
        return low + (high - low) * self.decoder(z).sigmoid().unflatten(1, self.image.shape)

    def forward(self, x: Tensor, y: Tensor | None = None, *, sample_posterior: bool = True) -> VAEOutput:
        """Encode, draw (or take the mean), decode; the images stand for their logits, too."""
        mu, logvar = self.encode(x, y)
        z = gaussian_sample(mu, logvar) if sample_posterior and logvar is not None else mu
        recon = self.decode(z, y)
        return VAEOutput(recon, mu, logvar, z, recon)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss, recon (but for a constant) and kl, nats per image."""
        out = self(*batch)
        recon = (out.recon - batch.x).square().flatten(1).sum(1).mean() / 2
        kl = recon.new_zeros(()) if out.logvar is None else gaussian_kl(out.mu, out.logvar).mean()
        return {"loss": recon + kl, "recon": recon, "kl": kl}

    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Decode `n` draws from N(0, I): `[n, C, H, W]`."""
        return self.decode(standard_normal((n, self.latent_dim), self.device, generator), y)


def check_variant(variant: Variant, image: ImageSpec | None = None, **options: Any) -> None:
    """Build a variant on tiny images, and check all that the loop and the benchmarks count on, and its numbers.

    Args:
        variant: A registered name, or a class. Only a name can be saved and loaded, so only then is that checked.
        image: Shape and range of the images; by default 3 x 16 x 16 with five classes and a training set of 100, in the
            range the name prefers.
        **options: The variant's, and its net's.

    Raises:
        AssertionError: one sentence about the first thing that is wrong, and what usually causes it.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = check_contract(variant, image, **options)
        check_properties(model, variant, options)


def check_contract(variant: Variant, image: ImageSpec | None = None, **options: Any) -> BaseVAE:
    """Check what the loop and the benchmarks count on: shapes, ranges, players, noise, saving; see `check_variant`.

    Returns:
        The model, in evaluation mode.
    """
    image = image or default_image(variant, options)
    with torch.random.fork_rng(devices=[]):
        with torch.enable_grad():
            model = check_building(variant, image, options)
            check_players(model)
            batch = random_batch(image)
            check_losses(model, batch)
            check_gradients(model, batch)
        model.eval()
        with torch.no_grad():
            check_shapes(model, batch)
            check_samples(model, batch)
            check_noise(model, batch)
            if isinstance(variant, str):
                check_saving(model, batch, ModelConfig(name=variant, **options))
    return model


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        stands_for: What the check stands for, in one sentence.
        fault: What is wrong, and what usually causes it; "" where nothing is, None where the check does not apply.
    """

    stands_for: str
    fault: str | None


def verdicts(variant: Variant, image: ImageSpec | None = None, **options: Any) -> Iterator[Verdict]:
    """Run every check of a variant, and go on after one that fails; without a loss, the others have nothing to try.

    Args:
        variant: A registered name, or a class.
        image: As in `check_variant`.
        **options: The variant's, and its net's.
    """
    image = image or default_image(variant, options)
    with torch.random.fork_rng(devices=[]):
        model = check_building(variant, image, options)
        check_players(model)
        torch.manual_seed(0)
        noise = random_batch(image)
        model.progress.fill_(0.5)
        losses = _verdict(check_losses, copy.deepcopy(model), noise)
        yield losses
        if losses.fault:
            return
        yield _verdict(check_gradients, copy.deepcopy(model), noise)
        model.eval()
        with torch.no_grad():
            for check in (check_shapes, check_samples, check_noise):
                yield _verdict(check, copy.deepcopy(model), noise)
            if isinstance(variant, str):
                yield _verdict(check_saving, copy.deepcopy(model), noise, ModelConfig(name=variant, **options))
            for numbers, arguments in checks_of_numbers(variant, model, options):
                yield _verdict(numbers, *arguments)


def _verdict(check: Callable[..., None], *arguments: Any) -> Verdict:
    sentence = (check.__doc__ or check.__name__).split("\n\n")[0]
    try:
        check(*arguments)
    except DoesNotApply:
        return Verdict(sentence, None)
    except AssertionError as error:
        return Verdict(sentence, str(error))
    except Exception as error:  # an author's code may raise anything
        return Verdict(sentence, f"{type(error).__name__}: {error}")
    return Verdict(sentence, "")


def default_image(variant: Variant, options: dict[str, Any]) -> ImageSpec:
    """Return what variants are tried on: 3 x 16 x 16 in the range the name prefers, five classes, 100 images."""
    pixel_range = preferred_range(variant, options) if isinstance(variant, str) else UNIT
    return ImageSpec(3, 16, 16, pixel_range, classes=5, train_size=100)


def check_building(variant: Variant, image: ImageSpec, options: dict[str, Any]) -> BaseVAE:
    """One seed gives one model, whatever was built before, and building leaves the caller's options alone."""
    if isinstance(variant, type):
        lacking = missing_methods(variant)
        assert not lacking, f"{variant.__name__} lacks {lacking}, which it must define"
    given = copy.deepcopy(options)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(create(variant, image, **options) if isinstance(variant, str) else variant(image, **options))
        assert options == given, f"building changed the caller's options from {given} to {options}"
    first, second = (model.state_dict() for model in models)
    same = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert same, "two models built from one seed and the same options differ"
    return models[0]


def check_losses(model: BaseVAE, batch: Batch) -> None:
    """Each player's loss returns finite scalars, "loss" among them, at any point of a schedule."""
    for progress in (1.0, 0.0, 0.5):  # the checks that follow find the run half done
        model.progress.fill_(progress)
        for player in model.players:
            terms = _terms(model, batch, player)
            fault = terms_fault(loss_name(player), terms)
            assert not fault, fault
            for name, term in terms.items():
                what = f"the term {name!r} of {loss_name(player)}"
                assert term.isfinite(), f"{what} is {term.item()} at progress {progress:g}"
            model.after_turn(player)


def check_gradients(model: BaseVAE, batch: Batch) -> None:
    """A player's loss reaches all parameters of that player, and no others."""
    for player in model.players:
        module = getattr(model, player, None)
        inside = {id(parameter) for parameter in module.parameters()} if isinstance(module, nn.Module) else set()
        for name, parameter in model.named_parameters(remove_duplicate=False):
            shared = id(parameter) in inside and not name.startswith(f"{player}.")
            assert not shared, f"{name} is also part of {player!r}: each parameter must belong to one player"
        with own_parameters_alone(model, player) as own:
            _terms(model, batch, player)["loss"].backward()
            for name, parameter in model.named_parameters():
                grad, method = parameter.grad, loss_name(player)
                if id(parameter) not in own:
                    assert grad is None, f"{method} reaches {name}, which another player owns"
                elif parameter.requires_grad:
                    assert grad is not None, f"{name} takes no part in {method}, the loss that should train it"
                    assert grad.isfinite().all(), f"the gradient of {method} in {name} is not finite"
            model.after_turn(player)


def check_shapes(model: BaseVAE, batch: Batch) -> None:
    """Encoder, decoder, `forward` and the likelihood agree on shapes; images lie in the image range."""
    x, y = batch
    mu, logvar = model.encode(x, y)
    assert mu.ndim == 2 and len(mu) == len(x), f"encode's mu has shape {list(mu.shape)}, not [{len(x)}, D]"
    out = model(x, y)
    given = {"encode's logvar": logvar, "forward's mu": out.mu, "forward's logvar": out.logvar, "forward's z": out.z}
    for name, latent in given.items():
        right = latent is None if logvar is None and name.endswith("logvar") else latent.shape == mu.shape
        what = "None" if latent is None else f"of shape {list(latent.shape)}"
        wanted = "None, as encode's" if logvar is None and name.endswith("logvar") else list(mu.shape)
        assert right, f"{name} is {what}, not {wanted}"
    outputs = getattr(getattr(model, "likelihood", None), "outputs", x.shape[1])
    raw = [len(x), outputs, *x.shape[2:]]
    assert list(out.logits.shape) == raw, f"forward's logits have shape {list(out.logits.shape)}, not {raw}"
    _check_images("forward's recon", out.recon, model, len(x))
    _check_images("decode of a latent far out", model.decode(100 * out.z, y), model, len(x))
    _check_images("reconstruct", model.reconstruct(x, y), model, len(x))
    for k in () if type(model).log_likelihood is BaseVAE.log_likelihood else (1, 3):
        bound = model.log_likelihood(x, k, y)
        assert bound.shape == (len(x),), f"log_likelihood returns shape {list(bound.shape)}, not one number per image"
        assert bound.isfinite().all(), f"log_likelihood with k={k} is not finite"


def check_samples(model: BaseVAE, batch: Batch) -> None:
    """`sample` draws images, and its generator alone decides which."""
    y = batch.y if batch.y is None else batch.y[:3]
    draws = [model.sample(3, y, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    _check_images("sample", draws[0], model, 3)
    same = torch.equal(draws[0], draws[1])
    assert same, "sample gives two results for generators of one seed: it must draw all its noise from the generator"
    assert not torch.equal(draws[0], draws[2]), "sample gives the same images whatever the generator's seed"


def check_noise(model: BaseVAE, batch: Batch) -> None:
    """`reconstruct` draws no noise; `generate` does, if the posterior has any."""
    same = torch.equal(model.reconstruct(*batch), model.reconstruct(*batch))
    assert same, "reconstruct gives two results for the same images: it must decode the posterior's mean"
    differs = not torch.equal(model.generate(*batch), model.generate(*batch))
    if model.stochastic:
        assert differs, "generate gives one result for the same images: it must decode a draw from the posterior"
    else:
        assert not differs, "generate gives two results for the same images, but the variant says `stochastic = False`"


def check_saving(model: BaseVAE, batch: Batch, config: ModelConfig) -> None:
    """A saved model comes back as it was."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_weights(path, weights_of(model), model.image, config, plugins={})
        loaded = load(path)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, loaded.get_buffer(name)), f"the buffer {name} is not saved with the model"
    same = torch.equal(model.reconstruct(*batch), loaded.reconstruct(*batch))
    assert same, "a model that was saved and loaded gives other reconstructions: some state is not in its state_dict"


def _terms(model: BaseVAE, batch: Batch, player: str) -> dict[str, Tensor]:
    return getattr(model, loss_name(player))(batch)


def _check_images(what: str, images: Tensor, model: BaseVAE, n: int) -> None:
    fault = images_fault(what, images, (n, *model.image.shape))
    assert not fault, fault
    low, high = model.image.range
    least, most = images.min().item(), images.max().item()
    inside = low <= least and most <= high  # also false for values that are not a number
    assert inside, f"{what} reaches from {least:g} to {most:g}, but the images lie in [{low:g}, {high:g}]"
