"""What `explore` shows of a trained run: what its latent dimensions do, samples, pictures of one's own, a map.

`Explorer` computes all of it; `page` lays it out with Gradio, which is an extra.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.config import Config
from zoo.data import Data
from zoo.data.own import find_pictures, form_of, prepared
from zoo.errors import DoesNotApply, UserError
from zoo.evaluation import data_of, sampler_of
from zoo.metrics.samplers import SAMPLERS
from zoo.parts.distributions import gaussian_kl_per_dim
from zoo.pictures.of_models import dimension_name, tiles, to_unit
from zoo.pictures.of_runs import first_batch
from zoo.pictures.writing import sheet
from zoo.texts import printable
from zoo.trained import Trained, load

if TYPE_CHECKING:
    import gradio

DIMS = 12  # sliders
REACH = 3.0  # standard deviations to either side of the middle
KNOWN = 2000  # test images that spread, vectors and map are taken from, at most
MAPPED = 400  # of these, with their pictures on the map
SEEN = 224  # pixels that the longer side of a single image is shown at, at least
STEPS = 9  # from one image to another
NOTHING = "nothing"  # to add
MAP_STYLE = """
.map{position:relative;width:100%;max-width:720px;aspect-ratio:1}
.point{position:absolute;width:12px;height:12px;margin:-6px;border-radius:50%}
.point img{display:none;position:absolute;left:8px;top:8px;width:96px;max-width:none;
  image-rendering:pixelated;border:2px solid #fff}
.point:hover{z-index:9} .point:hover img{display:block}
.key{margin-right:12px;white-space:nowrap}
.key i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:4px}
"""


class Explorer:
    """A trained run and its test images.

    Args:
        out: The run's folder.
        plugins: Files or modules to load, such as that of the run's variant.
        trust_plugins: Load the copies of plugins in the run's folder.

    Attributes:
        model: The trained model.
        known: Test images in [0, 1], `[N, C, H, W]`.
        labels: Their classes `[N]` or attributes `[N, A]`, or None.
        means: Their posterior means, `[N, D]`.
        dims: The latent dimensions that do most, the first the most: by KL, or by spread where that is not Gaussian.
        names: What these are called.

    Raises:
        UserError: as `zoo.load` does, or if the run's data is not there, or the model is told attributes.
    """

    model: Trained
    config: Config
    data: Data

    def __init__(self, out: Path, plugins: Sequence[str] = (), trust_plugins: bool = False) -> None:
        self.out = out
        self.model = load(out, plugins=plugins, trust_plugins=trust_plugins)
        if self.model.needs_labels and not self.model.image.classes:
            raise UserError(f"{out} is conditioned on attributes, which this page can't give: use zoo.load(run)")
        self.config, self.data = data_of(out, self.model.model)
        batch = first_batch(self.data.test, self.model.model, KNOWN)
        self.known, self.labels = to_unit(batch.x, self.model.model.image.range), batch.y
        self.told = batch.y if self.model.needs_labels else None
        means, logvar = self.model.encode(self.known, self.told)
        self.means = means.cpu()
        self.middle, self.spread = self.means.mean(0), self.means.std(0, correction=0)
        weight = self.spread if logvar is None else gaussian_kl_per_dim(means, logvar).mean(0)
        if logvar is not None:
            self.middle, self.spread = torch.zeros_like(self.middle), torch.ones_like(self.spread)
        self.dims = weight.argsort(descending=True)[:DIMS].tolist()
        self.names = [dimension_name(self.model.model.latent_shape, dim) for dim in self.dims]

    def start(self, number: int, own: str | None = None) -> tuple[Tensor, Tensor, int | None]:
        """Return an image, `[C, H, W]`, its posterior mean, `[D]`, and the class that the model is told.

        Args:
            number: Of a test image.
            own: A file with a picture instead, which is prepared as the run's own.
        """
        label = None if self.told is None else int(self.told[number])
        if own is None:
            return self.known[number], self.means[number], label
        form = form_of(self.config.data, self.model.image)
        draw = "" if self.config.data.binarize == "none" else f"own {self.config.data.split_seed}"
        parts = list(prepared(find_pictures([Path(own)]), form, draw))
        if not parts:
            raise UserError("this file holds no picture")
        image = parts[0][1][:1]
        return image[0].float() / 255, self.model.encode(image, label)[0][0].cpu(), label

    def moved(self, z: Tensor, values: Sequence[float]) -> Tensor:
        """Set the dimensions of `dims` to so many standard deviations from the middle: `[D]` -> `[D]`."""
        z = z.clone()
        for dim, value in zip(self.dims, values, strict=True):
            z[dim] = self.middle[dim] + value * self.spread[dim]
        return z

    def places(self, z: Tensor) -> list[float]:
        """Return where `z` lies along `dims`, in standard deviations from the middle, to the hundredth."""
        spread = torch.where(self.spread > 0, self.spread, 1)
        return [round(place, 2) for place in ((z - self.middle) / spread)[self.dims].tolist()]

    def decoded(self, z: Tensor, label: int | None) -> Tensor:
        """Return the images of latents, `[N, D]` -> `[N, C, H, W]` in [0, 1]."""
        return self.model.decode(z, label).cpu()

    @property
    def properties(self) -> list[str]:
        """Names of what test images have and lack: classes or attributes, of which there are some of both."""
        if self.labels is None:
            return []
        return [name for name, has in self._columns().items() if has.any() and not has.all()]

    def _columns(self) -> dict[str, Tensor]:
        """Which test images have a property, `[N]`, by its name."""
        assert self.labels is not None
        if self.labels.dim() == 1:
            names = self.data.class_names or [str(number) for number in range(int(self.labels.max()) + 1)]
            return {name: self.labels == number for number, name in enumerate(names)}
        names = self.data.attribute_names or [str(number) for number in range(self.labels.shape[1])]
        return {name: self.labels[:, number] > 0.5 for number, name in enumerate(names)}

    def direction(self, name: str) -> Tensor:
        """Return from the mean latent of test images without a property to that of those with it, `[D]`."""
        has = self._columns()[name]
        return self.means[has].mean(0) - self.means[~has].mean(0)

    def between(self, first: int, second: int, steps: int = STEPS) -> Tensor:
        """Decode the straight line from one test image's mean to another's, with both images at the ends."""
        along = torch.linspace(0, 1, steps)[:, None]
        label = None if self.told is None else int(self.told[first])
        made = self.decoded(torch.lerp(self.means[first], self.means[second], along), label)
        return torch.cat([self.known[first : first + 1], made, self.known[second : second + 1]])

    def samples(self, n: int, seed: int, sampler: str) -> Tensor:
        """Draw images `[n, C, H, W]` in [0, 1], of all classes in turn where the model is told one.

        Raises:
            UserError: if the sampler can't serve this model.
        """
        y = torch.arange(n) % self.model.image.classes if self.model.needs_labels else None
        generator = torch.Generator().manual_seed(seed)
        if sampler == "prior":
            return self.model.sample(n, y, generator).cpu()
        with torch.no_grad():
            drawn = sampler_of(self.out, self.model.model, sampler)(n, y, generator)
        return to_unit(drawn, self.model.model.image.range).cpu()

    def map(self) -> str:
        """Return test images by the first two principal components of their means, as HTML; a point shows its image."""
        centred = self.means[:MAPPED] - self.means[:MAPPED].mean(0)
        plane = centred @ torch.pca_lowrank(centred, min(2, *centred.shape), center=False)[2][:, :2]
        plane = torch.cat([plane, torch.zeros(len(plane), 2 - plane.shape[1])], 1)
        low, high = plane.amin(0), plane.amax(0)
        at = 2 + 96 * (plane - low) / torch.where(high > low, high - low, 1)  # [N, 2], percent of the map's sides
        columns = self._columns() if self.labels is not None and self.labels.dim() == 1 else {}
        classes = {printable(name): has for name, has in columns.items()}
        hues = {name: 137.5 * number % 360 for number, name in enumerate(classes)}  # far apart, however many
        points = []
        for (left, top), image, number in zip(at.tolist(), tiles(self.known[:MAPPED]), range(MAPPED), strict=False):
            name = next((name for name, has in classes.items() if has[number]), "")
            alt = html.escape(f"test image {number}{f', {name}' if name else ''}")
            points.append(
                f'<span class="point" style="left:{left:.2f}%;top:{top:.2f}%;{_colour(hues.get(name, 210.0))}">'
                f'<img src="{_data_uri(image)}" alt="{alt}" title="{alt}"></span>'
            )
        legend = "".join(
            f'<span class="key"><i style="{_colour(hue)}"></i>{html.escape(name)}</span>' for name, hue in hues.items()
        )
        return f'<style>{MAP_STYLE}</style><div class="keys">{legend}</div><div class="map">{"".join(points)}</div>'


def _colour(hue: float) -> str:
    return f"background:hsl({hue:.0f} 65% 45%)"


def _data_uri(image: np.ndarray) -> str:
    picture = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB").save(picture, "WEBP", quality=60)
    return "data:image/webp;base64," + base64.b64encode(picture.getvalue()).decode()


def shown(images: Tensor, columns: int | None = None) -> np.ndarray:
    """Put images `[N, C, H, W]` in [0, 1] on a sheet, or one alone, enlarged: uint8 `[h, w, 3]`."""
    pixels = tiles(images)
    if columns is None:
        factor = max(1, SEEN // max(pixels.shape[1:3]))
        pixels = pixels[0].repeat(factor, 0).repeat(factor, 1)
    else:
        pixels = sheet(pixels, columns)
    return pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels


def page(explorer: Explorer) -> gradio.Blocks:
    """Lay out the page.

    Raises:
        UserError: if Gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError:
        raise UserError("explore needs Gradio: pip install 'vae-zoo[explore]'") from None
    last = len(explorer.known) - 1
    variant, data = explorer.config.model.name, explorer.data.title
    with gr.Blocks(title=f"{variant} on {data}", analytics_enabled=False) as blocks:
        size = " x ".join(map(str, explorer.model.image.shape))
        gr.Markdown(f"# `{variant}` on {data}\n{size}, {explorer.means.shape[1]} latent dimensions")
        with gr.Tab("Latent dimensions"):
            start = _latent_tab(gr, explorer, last)
        with gr.Tab("Samples"):
            _samples_tab(gr, explorer)
        with gr.Tab("Between two images"):
            with gr.Row():
                first = gr.Slider(0, last, 0, step=1, label="From test image")
                second = gr.Slider(0, last, min(1, last), step=1, label="to")
            line = gr.Image(lambda: shown(explorer.between(0, min(1, last)), STEPS + 2), show_label=False)
            for slider in (first, second):
                slider.release(lambda a, b: shown(explorer.between(a, b), STEPS + 2), [first, second], line)
        with gr.Tab("Map"):
            gr.Markdown("Test images where their latents lie: the two principal components. A point shows its image.")
            gr.HTML(explorer.map())
        blocks.load(*start)
    return blocks


def _latent_tab(gr: Any, explorer: Explorer, last: int) -> tuple[Any, list[Any], list[Any]]:
    """An image, what its latent is changed to, and what becomes of it; return what is to be done at the start."""
    gr.Markdown(
        "An image is encoded; each slider moves one latent dimension, those of most KL first, in standard deviations."
    )
    with gr.Row():
        with gr.Column():
            number = gr.Slider(0, last, 0, step=1, label="Test image")
            own = gr.Image(label="or a picture of your own", type="filepath", sources=["upload"], height=160)
            properties = explorer.properties
            name = gr.Dropdown([NOTHING, *properties], label="Add what makes it …", visible=bool(properties))
            strength = gr.Slider(-3, 3, 1, step=0.1, label="times", visible=bool(properties))
        with gr.Column():
            with gr.Row():
                original = gr.Image(label="image", interactive=False)
                result = gr.Image(label="decoded", interactive=False)
            with gr.Row():
                sliders = [
                    gr.Slider(-REACH, REACH, 0, step=0.05, label=name, elem_id=f"dim{place}", min_width=200)
                    for place, name in enumerate(explorer.names)
                ]

    def begin(number: int, own: str | None, name: str, strength: float) -> list[Any]:
        image, z, label = _told(gr, lambda: explorer.start(int(number), own))
        if name != NOTHING:
            z = z + strength * explorer.direction(name)
        made = explorer.decoded(z[None], label)
        return [shown(image[None]), shown(made), *explorer.places(z)]

    def move(number: int, own: str | None, name: str, strength: float, *values: float) -> np.ndarray:
        _, z, label = _told(gr, lambda: explorer.start(int(number), own))
        if name != NOTHING:
            z = z + strength * explorer.direction(name)
        return shown(explorer.decoded(explorer.moved(z, values)[None], label))

    chosen = [number, own, name, strength]
    for event in (number.release, own.change, name.change, strength.release):
        event(begin, chosen, [original, result, *sliders])
    for slider in sliders:
        slider.release(move, [*chosen, *sliders], result)
    return begin, chosen, [original, result, *sliders]


def _samples_tab(gr: Any, explorer: Explorer) -> None:
    """Draw from each sampler."""
    with gr.Row():
        sampler = gr.Dropdown([entry.name for entry in SAMPLERS], value="prior", label="Sampler")
        seed = gr.Number(0, label="Seed", precision=0)
        draw = gr.Button("Draw")
    drawn = gr.Image(lambda: shown(explorer.samples(32, 0, "prior"), 8), show_label=False)
    draw.click(
        lambda sampler, seed: shown(_told(gr, lambda: explorer.samples(32, int(seed), sampler)), 8),
        [sampler, seed],
        drawn,
    )


def _told(gr: Any, work: Any) -> Any:
    """Show a user's mistake as such."""
    try:
        return work()
    except (UserError, DoesNotApply) as error:
        raise gr.Error(str(error)) from None
