"""The pictures in a run's folder, which need no explanation: what a model makes of images, handed over to be drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import matplotlib
import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from zoo.base import BaseVAE, Batch
from zoo.parts.distributions import gaussian_kl_per_dim
from zoo.pictures import drawing

CELL = 64  # pixels that an image's longer side has at least: smaller ones are enlarged
SHEET_PIXELS = 2e7  # of all images of a sheet, in their full size: large ones are fewer
MAX_CLASSES = 20  # that have a row or a colour each
MAX_POINTS = 5_000
PER_CLASS = 8

Draws = ModuleType | drawing.Painter  # the module `zoo.pictures.drawing`, at once; or a painter, meanwhile


def to_unit(images: Tensor, range: tuple[float, float]) -> Tensor:
    """Bring images from `range` to [0, 1] and clamp them there, same shape."""
    low, high = range
    return ((images - low) / (high - low)).clamp(0, 1)


def tiles(images: Tensor) -> np.ndarray:
    """`[N, C, H, W]` in [0, 1] to uint8 `[N, h, w, 1 or 3]`, small ones enlarged without blur."""
    images = images.detach().cpu()
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    factor = math.ceil(CELL / max(images.shape[2:]))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return (255 * images).round().byte().permute(0, 2, 3, 1).numpy()


def dimension_name(grid: tuple[int, int, int] | None, dim: int) -> str:
    """Call a vector's first dimension z1, and that of a grid of shape C, h, w c1 (1, 1): channel, row and column."""
    if grid is None:
        return f"z{dim + 1}"
    channel, row, column = np.unravel_index(dim, grid)
    return f"c{channel + 1} ({row + 1}, {column + 1})"


def examples(rows: Mapping[str, Tensor], path: Path) -> None:
    """Save a row of images for each name: `[N, C, H, W]` in [0, 1], of any N each."""
    columns = max(map(len, rows.values()))
    filled = [
        torch.cat([images, images.new_ones(columns - len(images), *images.shape[1:])]) for images in rows.values()
    ]
    drawing.sheet(tiles(torch.cat(filled)), path, columns, title="Images as a model gets them", row_names=list(rows))


def reconstructions(model: BaseVAE, batch: Batch, path: Path, by: Draws = drawing, *, originals: bool = True) -> None:
    """Save up to 30 images of the batch, and the reconstruction from its posterior mean right below each.

    There are fewer of large images. Without `originals`, up to 60 reconstructions, and none of the images.
    """
    with _at_rest(model):
        x, y = _first(model, batch, _fitting(model, 30 if originals else 60, together=1 + originals))
        seen = _unit(model, model.reconstruct(x, y))
    if not originals:
        by.sheet(tiles(seen), path, min(10, len(x)), title="Reconstructions")
        return
    pairs = [_unit(model, x), seen]
    columns = min(10, len(x))
    blank = torch.ones(-len(x) % columns, *x.shape[1:])
    rows = [
        torch.cat([images, blank]).unflatten(0, (-1, columns)) for images in pairs
    ]  # each [bands, columns, C, H, W]
    sheet = torch.stack(rows, 1)  # [bands, 2, columns, C, H, W]
    bands = len(sheet)
    by.sheet(
        tiles(sheet.flatten(0, 2)),
        path,
        columns,
        title="Images and their reconstructions",
        row_names=["original", "reconstruction"] * bands,
        breaks_below={2 * band + 1 for band in range(bands)},
    )


def generated_samples(
    model: BaseVAE,
    path: Path,
    n: int = 64,
    y: Tensor | None = None,
    generator: torch.Generator | None = None,
    by: Draws = drawing,
) -> None:
    """Save images drawn from the model's own prior.

    Args:
        model: Any variant.
        path: The PNG.
        n: How many, for a model without labels; fewer, if they are large.
        y: For a model with labels, one row of images for each: classes `[R]` (by default the first 20), or attributes
            `[R, A]`, which must be given.
        generator: Source of the draws; by default they are the same at every call, so that pictures can be compared.
        by: Who draws.

    Raises:
        ValueError: if the model is conditioned on attributes and `y` is missing.
    """
    generator = generator or torch.Generator().manual_seed(0)
    if not model.needs_labels:
        n = _fitting(model, n)
        with _at_rest(model):
            images = _unit(model, model.sample(n, generator=generator))
        by.sheet(tiles(images), path, math.ceil(math.sqrt(n)), title="Samples from the prior")
        return
    if y is None:
        if not model.image.classes:
            raise ValueError("samples of a model conditioned on attributes need y: one attribute vector for each row")
        y = torch.arange(min(model.image.classes, MAX_CLASSES))
    y = y[: _fitting(model, len(y), together=PER_CLASS)]
    of_class = y.dim() == 1
    with _at_rest(model):
        labels = y.repeat_interleave(PER_CLASS, 0).to(model.device)
        images = _unit(model, model.sample(len(labels), labels, generator=generator))
    by.sheet(
        tiles(images),
        path,
        PER_CLASS,
        title="Samples from the prior, class by class" if of_class else "Samples from the prior, a label to each row",
        row_names=[f"class {label}" for label in y.tolist()] if of_class else (),
    )


def interpolations(model: BaseVAE, batch: Batch, path: Path, rows: int = 6, columns: int = 9) -> None:
    """Save images decoded along the straight line between two posterior means, with the two originals at the ends.

    Beside it, under the same name as .webp, the same in motion.

    Args:
        model: Any variant; with labels, the first image's holds for the whole row.
        batch: At least two images; each two make a row.
        path: The PNG.
        rows: Pairs, as far as the batch goes; fewer, if they are large.
        columns: Steps from the first mean to the second, both included.
    """
    rows = min(_fitting(model, rows, together=columns + 2), len(batch.x) // 2)
    with _at_rest(model):
        x, y = _first(model, batch, 2 * rows)
        mu, _ = model.encode(x, y)
        along = torch.linspace(0, 1, columns, device=mu.device, dtype=mu.dtype).view(1, columns, 1)
        z = torch.lerp(mu[0::2].unsqueeze(1), mu[1::2].unsqueeze(1), along)  # [rows, columns, D]
        labels = None if y is None else y[0::2].repeat_interleave(columns, 0)
        between = _unit(model, model.decode(z.flatten(0, 1), labels)).unflatten(0, (rows, columns))
    ends = _unit(model, x).unflatten(0, (rows, 2))
    percent = [f"{100 * step / (columns - 1):.0f} %" for step in range(columns)]
    drawing.sheet(
        tiles(torch.cat([ends[:, :1], between, ends[:, 1:]], 1).flatten(0, 1)),
        path,
        columns + 2,
        title="From one image to another, on a straight line through the latent space",
        column_names=["original", *percent, "original"],
        breaks_right={0, columns},
    )
    _film(between, path)


def latent_space(
    model: BaseVAE, batches: Iterable[Batch], path: Path, class_names: Sequence[str] | None = None
) -> None:
    """Save where up to 5,000 images lie in the latent space: their posterior means in two dimensions.

    Latents of more than two dimensions are shown by their first two principal components, those of one dimension by a
    histogram. Up to 20 classes are told apart by colour.

    Args:
        model: Any variant.
        batches: Images, and classes `[B]` if they are to be coloured.
        path: The PNG.
        class_names: By default, the classes' numbers.
    """
    mu, y = _posterior_means(model, batches)
    x_label, y_label = "z1", "z2"
    if mu.shape[1] > 2:
        mu, shares = _principal_components(mu)
        x_label, y_label = (f"PC {i} ({share:.0%} of variance)".replace("%", " %") for i, share in enumerate(shares, 1))

    names: Sequence[str] = ()
    if y is not None and y.ndim == 1:
        names = class_names or [str(label) for label in range(int(y.max()) + 1)]
    if y is None or not 1 <= len(names) <= MAX_CLASSES:
        y, names = np.zeros(len(mu), dtype=np.int64), [""]
    palette = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
    colours = [to_hex(palette(i)) for i in range(len(names))]

    figure = Figure(figsize=(7, 5.6), layout="constrained")
    axes = drawing.style(figure.subplots(), f"Latent space: posterior means of {len(mu):,} images", x_label, y_label)
    if mu.shape[1] == 1:
        axes.set_ylabel("images")
        edges = np.histogram_bin_edges(mu, bins=40).tolist()
        for label, colour in enumerate(colours):
            axes.hist(mu[y == label, 0], edges, histtype="step", linewidth=1.5, color=colour)
    else:
        axes.set_aspect("equal", adjustable="datalim")
        axes.scatter(mu[:, 0], mu[:, 1], s=9, alpha=0.75, linewidths=0, c=[colours[label] for label in y])
    if len(names) > 1:
        keys = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
        axes.legend(keys, names, title="class", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    drawing.save_figure(figure, path)


def traversals(model: BaseVAE, batch: Batch, path: Path, dims: int = 10, columns: int = 9) -> None:
    """Save what single latent dimensions do to the batch's first image.

    Each row moves one dimension (see `dimension_name`) by up to three standard deviations and leaves the others at the
    posterior mean. They are the prior's, N(0, 1), for a Gaussian posterior, and the batch's latents' for any other.
    Beside it, under the same name as .webp, the same in motion.

    Args:
        model: Any variant.
        batch: The KL averaged over it, or else its latents' variance, chooses the dimensions: the largest first.
        path: The PNG.
        dims: Rows, as far as the latent has dimensions; fewer, if images are large.
        columns: Steps from -3 to 3.
    """
    with _at_rest(model):
        x, y = _first(model, batch, len(batch.x))
        mu, logvar = model.encode(x, y)
        values = torch.linspace(-3, 3, columns, device=mu.device, dtype=mu.dtype)
        if logvar is None:
            spread, centre = mu.std(0), mu.mean(0)  # [D]
            weight = spread
        else:
            spread, centre = torch.ones_like(mu[0]), torch.zeros_like(mu[0])
            weight = gaussian_kl_per_dim(mu, logvar).mean(0)  # [D]
        chosen = weight.argsort(descending=True)[: _fitting(model, dims, together=columns)]
        z = mu[0].repeat(len(chosen), columns, 1)  # [rows, columns, D]
        for row, dim in zip(z, chosen, strict=True):
            row[:, dim] = centre[dim] + spread[dim] * values
        labels = None if y is None else y[:1].repeat_interleave(len(chosen) * columns, 0)
        images = _unit(model, model.decode(z.flatten(0, 1), labels))
    drawing.sheet(
        tiles(images),
        path,
        columns,
        title="Traversals: one latent dimension at a time, the most informative first",
        row_names=[dimension_name(model.latent_shape, dim) for dim in chosen.tolist()],
        column_names=[f"{value:.3g}" for value in values.tolist()],
    )
    _film(images.unflatten(0, (len(chosen), columns)), path)


@contextmanager
def _at_rest(model: BaseVAE) -> Iterator[None]:
    """Evaluate without gradients; afterwards every module's mode and the random state are what they were."""
    modes = {module: module.training for module in model.modules()}
    devices = [] if model.device.type == "cpu" else [model.device]
    with torch.no_grad(), torch.random.fork_rng(devices, device_type=model.device.type):
        try:
            model.eval()
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def _first(model: BaseVAE, batch: Batch, n: int) -> tuple[Tensor, Tensor | None]:
    """The first `n` images on the model's device, and their labels if the model takes any."""
    y = batch.y[:n].to(model.device) if model.needs_labels and batch.y is not None else None
    return batch.x[:n].to(model.device), y


def _unit(model: BaseVAE, images: Tensor) -> Tensor:
    return to_unit(images.float(), model.image.range).cpu()


def _posterior_means(model: BaseVAE, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray | None]:
    means: list[Tensor] = []
    labels: list[Tensor] = []
    left = MAX_POINTS
    with _at_rest(model):
        for batch in batches:
            x, y = _first(model, batch, left)
            means.append(model.encode(x, y)[0].float().cpu())
            if batch.y is not None:
                labels.append(batch.y[:left].cpu())
            left -= len(x)
            if not left:
                break
    return torch.cat(means).numpy(), torch.cat(labels).numpy() if labels else None


def _principal_components(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two components `[N, 2]` and their shares of the variance `[2]`; all 0 for a single point."""
    if len(points) == 1:
        return np.zeros((1, 2)), np.zeros(2)
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # all points in one place, as a collapsed posterior has them: 0 / 0
        pca = PCA(2, random_state=0).fit(points)
    return pca.transform(points), np.nan_to_num(pca.explained_variance_ratio_)


def _film(images: Tensor, path: Path) -> None:
    """Save what moves to and fro from column to column, `[rows, columns, C, H, W]`, the rows side by side."""
    rows, columns = images.shape[:2]
    frames = np.stack([tiles(images[:, column]) for column in range(columns)])  # [columns, rows, h, w, 1 or 3]
    drawing.film(np.concatenate([frames, frames[-2:0:-1]]), path.with_suffix(".webp"), math.ceil(math.sqrt(rows)))


def _fitting(model: BaseVAE, n: int, together: int = 1) -> int:
    """Return `n`, or how many times `together` images of a model's size fit on a sheet, if these are fewer."""
    return min(n, max(1, int(SHEET_PIXELS / (together * model.image.height * model.image.width))))
