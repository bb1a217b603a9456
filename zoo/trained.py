"""A trained model as its users meet it: images in [0, 1], bytes or arrays, and no gradients.

Training and metrics use a variant itself, in its own range, with gradients; `Trained.model` is that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.base import UNIT, BaseVAE, Batch, ImageSpec, VAEOutput
from zoo.data import to_float
from zoo.data.source import described
from zoo.engine import checkpoint
from zoo.errors import UserError
from zoo.hub import local
from zoo.memory import require
from zoo.pictures.of_models import to_unit

PIECE = 2**22  # numbers of the images that go through a model at once: some 5,000 of MNIST, 341 of 3 x 64 x 64
SLACK = 1e-3  # that rounding may take a pixel beyond [0, 1]
FACTS = BaseVAE.__annotations__.keys() - {"progress"}  # what the contract says of a variant; progress is a buffer

Images = Tensor | np.ndarray
Labels = Tensor | np.ndarray | Sequence[int] | int


class Trained(BaseVAE):
    """A trained variant whose images lie in [0, 1], whatever range it was trained in.

    Its methods are those of every variant, and keep no gradients (but for `loss`). They take images as uint8, or as
    floats in [0, 1], tensors or NumPy arrays: `[N, C, H, W]`, `[N, H, W, C]`, or of one channel `[N, H, W]`; labels as
    numbers of classes `[N]`, one number for all, or attributes `[N, A]`. However many there are, they go through the
    model some at a time. Tensors come back, on the model's device. What is not told of here is the variant's own, and
    as the variant has it.

    Attributes:
        model: The variant itself, as it was trained: images in its own range, gradients and all.
    """

    def __init__(self, model: BaseVAE) -> None:
        nn.Module.__init__(self)  # the buffer that BaseVAE makes is the variant's
        self.image = replace(model.image, range=UNIT)
        for fact in FACTS:
            setattr(self, fact, getattr(model, fact))
        self.model = model
        self.train(model.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the variant's weights, as `model.safetensors` names them."""
        return self.model.state_dict(*arguments, **options)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Take weights as `state_dict` returns them."""
        return self.model.load_state_dict(*arguments, **options)

    def encode(self, x: Images, y: Labels | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the posterior's mean (or mode) and log variance, each `[N, D]`; None for it if it isn't Gaussian."""
        parts = self._in_pieces(self.model.encode, x, y)
        means, logvars = zip(*parts, strict=True)
        return torch.cat(means), None if logvars[0] is None else torch.cat(logvars)

    def indices(self, x: Images, y: Labels | None = None) -> Tensor:
        """Return the codes of a discrete latent, int64 `[N, P]`."""
        return torch.cat(self._in_pieces(self.model.indices, x, y))

    def reconstruct(self, x: Images, y: Labels | None = None) -> Tensor:
        """Decode the posterior's mean: `[N, C, H, W]` in [0, 1]."""
        return torch.cat(self._in_pieces(lambda *part: self._unit(self.model.reconstruct(*part)), x, y))

    def generate(self, x: Images, y: Labels | None = None) -> Tensor:
        """Decode a draw from the posterior: `[N, C, H, W]` in [0, 1]; another call gives another image."""
        return torch.cat(self._in_pieces(lambda *part: self._unit(self.model.generate(*part)), x, y))

    def log_likelihood(self, x: Images, k: int, y: Labels | None = None) -> Tensor:
        """Return the importance-weighted bound on log p(x) with `k` samples, x in the variant's own range, `[N]`."""
        return torch.cat(self._in_pieces(lambda x, y: self.model.log_likelihood(x, k, y), x, y))

    @torch.no_grad()
    def decode(self, z: Images, y: Labels | None = None) -> Tensor:
        """Return the images of latents `[N, D]`, or of grids `[N, *latent_shape]`: `[N, C, H, W]` in [0, 1]."""
        latents = torch.as_tensor(z).to(self.device, torch.float32)
        wanted = getattr(self.model, "latent_dim", None)
        if self.model.latent_shape and latents.shape[1:] == self.model.latent_shape:
            latents = latents.flatten(1)
        if latents.ndim != 2 or (wanted is not None and latents.shape[1] != wanted):
            grid = f" or {['N', *self.model.latent_shape]}".replace("'", "") if self.model.latent_shape else ""
            raise UserError(f"latents are {described(z)}, and this model takes [N, {wanted or 'D'}]{grid}")
        self._see_room(len(latents))
        labels = self._labels(y, len(latents))
        return torch.cat(
            [
                self._unit(self.model.decode(latents[start:stop], None if labels is None else labels[start:stop]))
                for start, stop in self._pieces(len(latents))
            ]
        )

    @torch.no_grad()
    def sample(self, n: int, y: Labels | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` images from the model's own prior: `[n, C, H, W]` in [0, 1]."""
        if n < 1:
            raise UserError(f"n is {n}: draw at least one image")
        self._see_room(n)
        labels = self._labels(y, n)
        return torch.cat(
            [
                self._unit(self.model.sample(stop - start, None if labels is None else labels[start:stop], generator))
                for start, stop in self._pieces(n)
            ]
        )

    @torch.no_grad()
    def forward(self, x: Images, y: Labels | None = None, *, sample_posterior: bool = True) -> VAEOutput:
        """Encode, draw a latent (or take the posterior's mean), decode, all images at once; `recon` is in [0, 1]."""
        images = self._seen(x)
        out = self.model(images, self._labels(y, images.shape[0]), sample_posterior=sample_posterior)
        return replace(out, recon=self._unit(out.recon))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the variant's own loss and terms of a batch, with gradients."""
        images = self._seen(batch.x)
        return self.model.loss(Batch(images, batch.y))

    @torch.no_grad()
    def _in_pieces(self, function: Callable[..., Any], x: Images, y: Labels | None) -> list[Any]:
        """Call a function with some images and their labels at a time; return all that it returned."""
        images = tensor_of(x, self.image)
        labels = self._labels(y, len(images))
        return [
            function(self._ranged(images[start:stop]), None if labels is None else labels[start:stop])
            for start, stop in self._pieces(len(images))
        ]

    def _pieces(self, n: int) -> list[tuple[int, int]]:
        size = max(1, PIECE // self.image.pixels)
        return [(start, min(start + size, n)) for start in range(0, n, size)]

    def _seen(self, x: Images) -> Tensor:
        return self._ranged(tensor_of(x, self.image))

    def _ranged(self, images: Tensor) -> Tensor:
        """Bring uint8, or floats in [0, 1], to the variant's range and device."""
        low, high = self.model.image.range
        images = images.to(self.device)
        if images.dtype == torch.uint8:
            return to_float(images, (low, high))
        return checked(images).mul(high - low).add(low)

    def _unit(self, images: Tensor) -> Tensor:
        return to_unit(images.float(), self.model.image.range)

    def _see_room(self, n: int) -> None:
        require(4 * n * self.image.pixels, f"{n:,} images", "ask for fewer at a time")

    def _labels(self, y: Labels | None, n: int) -> Tensor | None:
        """Return labels as the variant takes them; None if it takes none, or was given none."""
        if y is None or not self.needs_labels:
            return None
        labels = torch.as_tensor(y)
        labels = labels.expand(n) if labels.ndim == 0 else labels
        if self.image.classes:
            wanted = f"[{n}] whole numbers from 0 to {self.image.classes - 1}"
            right = labels.shape == (n,) and not labels.dtype.is_floating_point
            if right and not torch.compiler.is_exporting():  # a graph can't refuse what it is given
                right = bool(((labels >= 0) & (labels < self.image.classes)).all())
            dtype = torch.int64
        else:
            wanted = f"[{n}, {self.image.attributes}] numbers, 0 or 1"
            right, dtype = labels.shape == (n, self.image.attributes), torch.float32
        if not right:
            found = described(y) if isinstance(y, Tensor | np.ndarray) else repr(y)
            raise UserError(f"labels are {found}, and this model takes {wanted}")
        return labels.to(self.device, dtype)


def tensor_of(x: Images, image: ImageSpec) -> Tensor:
    """Return images as `[N, C, H, W]`, uint8 or float32, where they are.

    Args:
        x: Images in any order of dimensions that can be told.
        image: What they are to be.

    Raises:
        UserError: if they are of another shape or type; says what would be right.
    """
    channels, height, width = image.shape
    wanted = f"this model takes [N, {channels}, {height}, {width}]"
    if not isinstance(x, Tensor | np.ndarray):
        raise UserError(f"images are {described(x)}, and must be a tensor or a NumPy array: {wanted}")
    images = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))
    shape = tuple(images.shape)
    if shape[1:] == (height, width, channels) != image.shape:
        images = images.permute(0, 3, 1, 2)
    elif shape[1:] == (height, width) and channels == 1:
        images = images.unsqueeze(1)
    elif shape[1:] != image.shape or len(shape) != 4:
        one = shape in (image.shape, (height, width, channels), (height, width))
        advice = "; of one image, write x[None]" if one else "; `reconstruct RUN PICTURES` brings pictures to that size"
        raise UserError(f"images are {described(x)}, and {wanted}{advice if one or len(shape) == 4 else ''}")
    if not images.shape[0]:
        raise UserError(f"images are {described(x)}: there must be one at least")
    if images.dtype == torch.uint8:
        return images
    if not images.dtype.is_floating_point and images.dtype != torch.bool:
        raise UserError(f"images are {described(x)}, and must be uint8, or floats in [0, 1]")
    return images.float()


def checked(images: Tensor) -> Tensor:
    """Return floats that are in [0, 1], but for rounding.

    Raises:
        UserError: if they aren't; says what may bring them there.
    """
    if torch.compiler.is_exporting():  # a graph can't refuse what it is given
        return images.clamp(0, 1)
    least, most = (value.item() for value in images.aminmax())
    if least >= -SLACK and most <= 1 + SLACK:
        return images.clamp(0, 1)
    if not least <= most:
        raise UserError("images hold what is no number (NaN), and must be in [0, 1]")
    advice = "scale them to it"
    if least >= -1 - SLACK and most <= 1 + SLACK:
        advice = "from [-1, 1], write (x + 1) / 2"
    elif least >= -SLACK and most <= 255 + SLACK:
        advice = "from [0, 255], write x / 255, or give them as uint8"
    raise UserError(f"images lie in [{least:g}, {most:g}], and must be uint8, or floats in [0, 1]: {advice}")


def load(
    run: Path | str | os.PathLike[str],
    device: str | torch.device = "cpu",
    plugins: Sequence[str] = (),
    trust_plugins: bool = False,
) -> Trained:
    """Load a trained model, ready to use: `model = zoo.load("runs/mlp_mnist_z20_s28_0")`.

    No code that a run names is imported, unless you say so.

    Args:
        run: A run's folder (its final weights, or those of the newest checkpoint), a `model.safetensors`, or a run on
            Hugging Face's hub: "hf://user/name", "hf://user/name@revision".
        device: Where to put the model.
        plugins: Files or modules to load, such as that of the run's variant.
        trust_plugins: Load the copies of plugins in the run's folder: their code is run.

    Raises:
        UserError: if there are no weights, the file is damaged or no model of this zoo, a plugin is not loaded, or the
            hub can't be reached.
    """
    return Trained(checkpoint.load(local(run, trust_plugins), device, plugins, trust_plugins))
