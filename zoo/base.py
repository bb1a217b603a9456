"""The contract: what a variant is given, what it must offer, and what it may count on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from zoo import ranks
from zoo.errors import DoesNotApply, UserError
from zoo.registry import Registry

UNIT = (0.0, 1.0)
SYMMETRIC = (-1.0, 1.0)
PARTS = ("encoder", "decoder", "sampler")  # what of a model is exported


@dataclass(frozen=True)
class ImageSpec:
    """All that a model may know of its data.

    Attributes:
        channels: Colour channels, C.
        height: Pixels, H.
        width: Pixels, W.
        range: Least and greatest pixel value: (0, 1) or (-1, 1).
        classes: Number of classes; labels are then int64 `[B]`. 0 without classes.
        attributes: Number of yes-or-no attributes; labels are then float `[B, attributes]`. 0 without attributes.
        train_size: Number of training images, N; 0 where there is no training set.
    """

    channels: int
    height: int
    width: int
    range: tuple[float, float] = UNIT
    classes: int = 0
    attributes: int = 0
    train_size: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width

    @property
    def pixels(self) -> int:
        """How many numbers one image holds: C x H x W."""
        return self.channels * self.height * self.width

    @property
    def label_dim(self) -> int:
        """Length of a label written as a vector: one-hot classes, or attributes; 0 for unlabelled data."""
        return self.classes or self.attributes


class Batch(NamedTuple):
    """Images `[B, C, H, W]` in the range of the image spec, and labels where there are any."""

    x: Tensor
    y: Tensor | None = None


def random_batch(image: ImageSpec, n: int = 4) -> Batch:
    """Draw `n` images of noise in the image range, and labels where the data has them."""
    low, high = image.range
    x = low + (high - low) * torch.rand(n, *image.shape)
    if image.classes:
        return Batch(x, torch.randint(image.classes, (n,)))
    return Batch(x, torch.randint(2, (n, image.attributes)).float() if image.attributes else None)


@dataclass
class VAEOutput:
    """What `forward` returns.

    Attributes:
        recon: Reconstruction in the image range, `[B, C, H, W]`.
        mu: The latent that stands for the image, `[B, D]`: the posterior's mean, or its mode where it has no mean.
        logvar: Posterior log variance, `[B, D]`; None where the posterior is no diagonal Gaussian.
        z: The latent that was decoded, `[B, D]`.
        logits: The decoder's output before its activation, `[B, C, H, W]`; losses are computed from it where that is
            more exact (binary cross-entropy). A likelihood of several numbers a pixel has as many more channels.
    """

    recon: Tensor
    mu: Tensor
    logvar: Tensor | None
    z: Tensor
    logits: Tensor


torch.export.register_dataclass(VAEOutput, serialized_type_name="zoo.VAEOutput")  # so that `forward` can be exported


class BaseVAE(nn.Module, ABC):
    """What every variant is: an objective over images with a latent, trained by the one loop.

    A subclass must write `encode`, `decode`, `forward`, `loss` and `sample`, and, if it has one, `log_likelihood`. Its
    modules are pure: they see tensors, never files or data sets.

    Attributes:
        players: Who takes optimizer steps, in this order. Player "vae" minimises `loss(batch)` over all parameters that
            no other player owns; a player "critic" minimises `critic_loss(batch)` over those of `self.critic`.
        needs_labels: Whether `encode` and `decode` take labels.
        stochastic: Whether the posterior has any noise: of a plain autoencoder's, or a vector-quantised one's, it has
            none, and `generate` is `reconstruct`.
        codebook_size: How many codes each position of a discrete latent chooses from, see `indices`; 0 if the latent is
            continuous.
        codebooks: How many codebooks of that size take turns over the positions.
        latent_shape: C, h and w of a continuous latent that keeps the places of its image, whose vectors `[B, D]` are
            such maps, flattened; None of any other.
        batch_terms: Terms of the loss that compare a batch's images with one another (a covariance, a kernel distance),
            and so depend on its size; all others are means over images.
        own_bound: Whether the logged kl and elbo speak of the prior that `log_likelihood` and samples have.
        image: The data's shape and range.
        bf16_safe: Whether training under bfloat16 autocast reaches what float32 reaches.
        not_compiled: Why torch.compile can't take the training step; empty if it can.
        not_exported: Which parts (encoder, decoder, sampler; see `zoo.exporting`) no graph can hold, and why:
            `{"sampler": "it draws until a latent is accepted"}`.
        remarks: What a user should know before such a model is trained on such images: "has …, which …: choose …".
        settled: Options of parent classes that this one decides itself, and its users can't.
        optimizers: What a player's optimizer has of its own in the paper: `{"critic": {"lr": 1e-4}}`; a config may say
            otherwise. Keys: name, lr, betas, eps, weight_decay, centered.
        progress: Scalar buffer from 0 to 1, set by the loop before each step; read by schedules, kept in checkpoints.
    """

    players: ClassVar[tuple[str, ...]] = ("vae",)
    needs_labels: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    codebook_size: int = 0
    codebooks: int = 1
    latent_shape: tuple[int, int, int] | None = None
    batch_terms: tuple[str, ...] = ()
    own_bound: ClassVar[bool] = True
    bf16_safe: ClassVar[bool] = True
    not_compiled: ClassVar[str] = ""
    not_exported: ClassVar[Mapping[str, str]] = {}
    remarks: tuple[str, ...] = ()
    settled: ClassVar[tuple[str, ...]] = ()
    optimizers: ClassVar[dict[str, dict[str, Any]]] = {}
    progress: Tensor

    def __init__(self, image: ImageSpec) -> None:
        super().__init__()
        if self.needs_labels and not image.label_dim:
            raise UserError(
                f"{type(self).__name__} needs labels, but the data has none: choose data with classes or attributes "
                "(a data set of yours must name them: class_names or attribute_names)"
            )
        self.image = image
        self.register_buffer("progress", torch.zeros(()))

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the posterior's mean (or mode) and log variance, each `[B, D]`; None for it if it isn't Gaussian."""

    @abstractmethod
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the image of a latent: `[B, D]` -> `[B, C, H, W]` in the image range."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None = None, *, sample_posterior: bool = True) -> VAEOutput:
        """Encode, draw a latent (or take the posterior mean), decode."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss" to minimise (scalar) and any named terms to log (scalars, batch means, nats per image)."""

    @abstractmethod
    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` images from the model's own prior: `[n, C, H, W]`."""

    def log_likelihood(self, x: Tensor, k: int, y: Tensor | None = None) -> Tensor:
        """Return the importance-weighted bound on log p(x) with `k` samples: nats, `[B]`. Burda et al. 2015.

        Raises:
            UserError: if the variant has no density of images.
        """
        raise DoesNotApply(f"{type(self).__name__} has no density p(x), hence no log_likelihood")

    def indices(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the codes of a discrete latent, whole numbers below `codebook_size`: int64 `[B, P]`.

        Raises:
            UserError: if the latent is continuous.
        """
        raise DoesNotApply(f"{type(self).__name__} has a continuous latent, hence no indices")

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Decode the posterior mean: `[B, C, H, W]` -> `[B, C, H, W]`, without noise."""
        return self(x, y, sample_posterior=False).recon

    def generate(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Decode a draw from the posterior: `[B, C, H, W]` -> `[B, C, H, W]`; another call gives another image."""
        return self(x, y).recon

    def across_ranks(self, x: Tensor) -> Tensor:
        """Return the rows of all processes in training, with gradients, so that a batch's statistics are of all of it.

        Outside training processes have batches of their own, and not as many: x is returned as it is.
        """
        return ranks.gathered(x) if self.training else x

    def after_turn(self, player: str) -> None:
        """Update what no gradient moves, once `player` has taken its step: called on every rank."""

    def plays(self, player: str, step: int) -> bool:
        """Say whether `player` takes its optimizer step at `step`."""
        return True

    def player_parameters(self, player: str) -> list[nn.Parameter]:
        """Return the parameters that `player` steps."""
        owned = {other: list(getattr(self, other).parameters()) for other in self.players if other != "vae"}
        if player != "vae":
            return owned[player]
        taken = {id(p) for parameters in owned.values() for p in parameters}
        return [p for p in self.parameters() if id(p) not in taken]

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.progress.device


def _must_be_variant(name: str, cls: type[BaseVAE]) -> None:
    if not (isinstance(cls, type) and issubclass(cls, BaseVAE)):
        raise UserError(f"@register({name!r}) is for subclasses of zoo.BaseVAE; {cls!r} is not one")


VARIANTS: Registry[type[BaseVAE]] = Registry(
    "variant", package="zoo.variants", check=_must_be_variant, given=("image",)
)
register = VARIANTS.register
