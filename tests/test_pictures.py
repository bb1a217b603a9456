"""Pictures: what is seen where, read back from the pixels; and what drawing them must leave alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageSequence
from torch import Tensor, nn

import zoo
from zoo.base import BaseVAE, Batch, ImageSpec, VAEOutput
from zoo.pictures import drawing
from zoo.pictures import of_models as pictures
from zoo.pictures.drawing import BREAK, MARGIN, PAD
from zoo.pictures.of_models import CELL
from zoo.testing import StubVAE

TONE = 1 / 255  # half a step of rounding, and more


class Flat(StubVAE):
    """Images of one tone: the latent is the first D pixels, an image shows the latent's sum; every call draws noise."""

    def __init__(self, image: ImageSpec, latent: int = 3) -> None:
        super().__init__(image)
        self.latent = latent
        self.noise = nn.Sequential(nn.Dropout(), nn.Dropout())
        self.asked: list[Tensor] = []
        self.decoded: list[tuple[Tensor, Tensor | None]] = []

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert not self.training and not self.noise[0].training and not torch.is_grad_enabled()
        torch.rand(3)
        return x[:, 0].flatten(1)[:, : self.latent], torch.zeros(len(x), self.latent)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        torch.rand(3)
        self.decoded.append((z, y))
        return z.sum(1).view(-1, 1, 1, 1).expand(-1, *self.image.shape)

    def forward(self, x: Tensor, y: Tensor | None = None, *, sample_posterior: bool = True) -> VAEOutput:
        assert not sample_posterior
        torch.rand(3)
        return VAEOutput(x / 2, x, x, x, x)

    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        torch.rand(3)
        if y is None:
            return torch.rand(n, *self.image.shape, generator=generator)
        self.asked.append(y)
        tone = y / 10 if y.dim() == 1 else y.mean(1)
        return tone.view(-1, 1, 1, 1).expand(-1, *self.image.shape)


class Labelled(Flat):
    needs_labels = True


def save_grid(images: torch.Tensor, path: Path, columns: int) -> None:
    drawing.sheet(pictures.tiles(images), path, columns)


def constant(*tones: float, channels: int = 1, size: int = 8) -> Tensor:
    return torch.tensor(tones).view(-1, 1, 1, 1).expand(-1, channels, size, size).contiguous()


def read(path: Path) -> np.ndarray:
    """Grey tones in [0, 1], after looking at the file itself."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("L")) / 255


def tones(path: Path, rows: int, columns: int, size: int = CELL, step_down: list[int] | None = None) -> np.ndarray:
    """The tone in the middle of each cell `[rows, columns]`, counted from the bottom right: titles are top left."""
    pixels = read(path)
    downs = [0, *np.cumsum(step_down or [size + PAD] * (rows - 1))]
    bottom, right = pixels.shape[0] - MARGIN - size // 2, pixels.shape[1] - MARGIN - size // 2
    return np.array(
        [
            [pixels[bottom - downs[-1] + down, right - (size + PAD) * (columns - 1 - k)] for k in range(columns)]
            for down in downs
        ]
    )


def moving(path: Path, images: int) -> np.ndarray:
    """The tone in the middle of each of at most 2 x 2 images, frame by frame: `[frames, images]`."""
    with Image.open(path) as film:
        assert film.format == "WEBP"
        frames = []
        for frame in ImageSequence.Iterator(film):
            tones = np.asarray(frame.convert("L")) / 255
            frames += [tones] * (frame.info["duration"] // drawing.FRAME_MS)  # of equal ones, one is kept for longer
    middles = [MARGIN + CELL // 2 + cell * (CELL + PAD) for cell in range(2)]
    return np.array([[frame[middles[i // 2], middles[i % 2]] for i in range(images)] for frame in frames])


def to_and_fro(lines: np.ndarray) -> np.ndarray:
    """From rows of tones, `[rows, columns]`, the frames that go through the columns and back."""
    return np.concatenate([lines.T, lines.T[-2:0:-1]])


def write_metrics(path: Path, rows: list[dict[str, float]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures as they were saved; they are saved all the same."""
    saved: list[Any] = []
    save = drawing.save_figure

    def keep(drawn: Figure, path: Path) -> None:
        saved.append(drawn)
        save(drawn, path)

    monkeypatch.setattr(drawing, "save_figure", keep)
    return saved


def test_to_unit() -> None:
    assert torch.equal(pictures.to_unit(torch.tensor([-1.0, 0.0, 1.0, 7.0]), (-1, 1)), torch.tensor([0, 0.5, 1, 1]))
    assert torch.equal(pictures.to_unit(torch.tensor([-1.0, 0.25]), (0, 1)), torch.tensor([0, 0.25]))


def test_grid_puts_every_image_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    save_grid(constant(0.0, 0.2, 0.4, 0.6, 0.8), path, columns=3)
    pixels = read(path)
    assert pixels.shape == (2 * CELL + PAD + 2 * MARGIN, 3 * CELL + 2 * PAD + 2 * MARGIN)
    assert np.allclose(tones(path, 2, 3), [[0, 0.2, 0.4], [0.6, 0.8, 1]], atol=TONE)
    gap = MARGIN + CELL
    assert np.allclose(pixels[:, gap : gap + PAD], 1) and np.allclose(pixels[MARGIN:gap, gap - 1], 0, atol=TONE)


def test_grid_keeps_colours_and_shows_the_first_of_other_channels(tmp_path: Path) -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    save_grid(red, tmp_path / "red.png", columns=1)
    with Image.open(tmp_path / "red.png") as image:
        assert image.convert("RGB").getpixel((40, 40)) == (255, 0, 0)
    two = torch.cat([constant(0.4), constant(0.9)], 1)
    save_grid(two, tmp_path / "two.png", columns=1)
    assert np.allclose(tones(tmp_path / "two.png", 1, 1), 0.4, atol=TONE)


@pytest.mark.parametrize(
    ("shape", "cell"),
    [
        ((1, 8, 8), (64, 64)),
        ((1, 28, 28), (84, 84)),
        ((3, 64, 64), (64, 64)),
        ((2, 37, 51), (74, 102)),
        ((3, 80, 160), (80, 160)),
    ],
)
def test_small_images_are_enlarged_by_whole_factors_and_others_left(
    shape: tuple[int, int, int], cell: tuple[int, int], tmp_path: Path
) -> None:
    save_grid(torch.rand(6, *shape), tmp_path / "grid.png", columns=2)
    assert read(tmp_path / "grid.png").shape == (3 * cell[0] + 2 * PAD + 2 * MARGIN, 2 * cell[1] + PAD + 2 * MARGIN)


def test_enlarging_does_not_blur(tmp_path: Path) -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., ::2] = 1
    save_grid(image, tmp_path / "stripes.png", columns=1)
    inside = read(tmp_path / "stripes.png")[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.array_equal(inside, np.tile(np.repeat([1, 0, 1, 0, 1, 0, 1, 0], 8), (64, 1)))


def test_originals_lie_above_their_reconstructions_in_separate_bands(tmp_path: Path) -> None:
    x = torch.linspace(0.1, 1.0, 14)
    path = tmp_path / "reconstructions.png"
    pictures.reconstructions(Flat(ImageSpec(1, 8, 8)), Batch(constant(*x.tolist())), path)
    near, far = CELL + PAD, CELL + BREAK
    seen = tones(path, 4, 10, step_down=[near, far, near])
    expected = np.ones((4, 10))
    expected[0], expected[1] = x[:10], x[:10] / 2
    expected[2, :4], expected[3, :4] = x[10:], x[10:] / 2
    assert np.allclose(seen, expected, atol=TONE)
    between = read(path)[-MARGIN - 2 * CELL - PAD - BREAK : -MARGIN - 2 * CELL - PAD, -10 * CELL :]
    assert np.allclose(between, 1)


def test_reconstructions_stop_at_three_bands_and_respect_the_range(tmp_path: Path) -> None:
    path = tmp_path / "reconstructions.png"
    pictures.reconstructions(Flat(ImageSpec(1, 8, 8, range=(-1, 1))), Batch(constant(*[-0.6] * 50)), path)
    near, far = CELL + PAD, CELL + BREAK
    assert np.allclose(tones(path, 6, 10, step_down=[near, far, near, far, near])[:, 0], [0.2, 0.35] * 3, atol=TONE)
    assert read(path).shape[0] < 7 * CELL + 3 * BREAK


def test_samples_of_a_model_with_classes_are_a_row_per_class(tmp_path: Path) -> None:
    model = Labelled(ImageSpec(1, 8, 8, classes=10))
    pictures.generated_samples(model, tmp_path / "samples.png")
    assert model.asked[0].tolist() == [label for label in range(10) for _ in range(8)]
    assert np.allclose(tones(tmp_path / "samples.png", 10, 8), np.arange(10)[:, None] / 10, atol=TONE)


def test_samples_of_a_model_with_many_classes_stop_at_twenty(tmp_path: Path) -> None:
    model = Labelled(ImageSpec(1, 8, 8, classes=100))
    pictures.generated_samples(model, tmp_path / "samples.png")
    assert model.asked[0].unique().tolist() == list(range(20))
    pictures.generated_samples(model, tmp_path / "samples.png", y=torch.tensor([7, 55]))
    assert model.asked[1].tolist() == [7] * 8 + [55] * 8


def test_samples_of_a_model_with_attributes_are_a_row_per_vector(tmp_path: Path) -> None:
    model = Labelled(ImageSpec(1, 8, 8, attributes=4))
    vectors = torch.tensor([[0.0, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    pictures.generated_samples(model, tmp_path / "samples.png", y=vectors)
    assert torch.equal(model.asked[0], vectors.repeat_interleave(8, 0))
    assert np.allclose(tones(tmp_path / "samples.png", 3, 8), np.array([[0.25], [0.5], [0.75]]), atol=TONE)
    with pytest.raises(ValueError, match="need y"):
        pictures.generated_samples(model, tmp_path / "samples.png")


def test_large_images_of_many_colours_are_drawn_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 100, 130, 3), dtype=np.uint8)
    save_grid(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, tmp_path / "grid.png", columns=2)
    with Image.open(tmp_path / "grid.png") as opened:
        drawn = np.asarray(opened)
    inside = drawn[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.array_equal(inside[:100, :130], images[0]) and np.array_equal(inside[100 + PAD :, 130 + PAD :], images[3])


def test_large_images_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SHEET_PIXELS", 30 * 8 * 8)
    drawn: dict[str, int] = {}
    monkeypatch.setattr(drawing, "sheet", lambda images, path, *_, **__: drawn.update({path.stem: len(images)}))
    monkeypatch.setattr(drawing, "film", lambda *_: None)
    labelled, batch = Labelled(ImageSpec(1, 8, 8, classes=10), 4), Batch(torch.rand(40, 1, 8, 8), torch.arange(40) % 10)
    for name, call in CALLS.items():
        call(labelled, batch, tmp_path / f"{name}.png")
    pictures.generated_samples(Flat(labelled.image), tmp_path / "plain.png")
    # 15 pairs fit, which fill two rows of ten with blanks; three labels of eight images
    sheets = {"reconstructions": 40, "generated_samples": 24, "interpolations": 22, "traversals": 27}
    assert drawn == sheets | {"plain": 30}


def test_samples_are_the_same_at_every_call_unless_a_generator_is_given(tmp_path: Path) -> None:
    model = Flat(ImageSpec(1, 8, 8))
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    pictures.generated_samples(model, paths[0])
    torch.rand(1)
    pictures.generated_samples(model, paths[1])
    pictures.generated_samples(model, paths[2], generator=torch.Generator().manual_seed(1))
    a, b, c = map(read, paths)
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert a.shape[1] == 8 * CELL + 7 * PAD + 2 * MARGIN


def test_interpolations_run_from_one_original_to_the_other(tmp_path: Path) -> None:
    path = tmp_path / "interpolations.png"
    x = constant(0.1, 0.9, 0.6, 0.2, 0.5)  # the fifth has no partner
    model = Labelled(ImageSpec(1, 8, 8, classes=10), latent=1)
    pictures.interpolations(model, Batch(x, torch.arange(5)), path, columns=9)
    z, y = model.decoded[0]
    lines = np.array([np.linspace(0.1, 0.9, 9), np.linspace(0.6, 0.2, 9)])
    assert np.allclose(z.view(2, 9), lines, atol=1e-6)
    assert y is not None and y.tolist() == [0] * 9 + [2] * 9
    assert np.allclose(moving(tmp_path / "interpolations.webp", 2), to_and_fro(lines), atol=0.02)
    seen = tones(path, 2, 1)[:, 0]
    assert np.allclose(seen, [0.9, 0.2], atol=TONE)
    pixels = read(path)
    left = MARGIN + CELL // 2
    middles = [left, *(left + CELL + BREAK + k * (CELL + PAD) for k in range(9)), pixels.shape[1] - left]
    for row, line, (first, second) in zip(
        (-CELL * 3 // 2 - PAD, -CELL // 2), lines, ((0.1, 0.9), (0.6, 0.2)), strict=True
    ):
        assert np.allclose(pixels[row - MARGIN, middles], [first, *line, second], atol=TONE)


def test_traversals_move_one_dimension_each_the_most_informative_first(tmp_path: Path) -> None:
    x = torch.zeros(5, 1, 8, 8)
    x[:, 0, 0, :4] = torch.tensor([0.1, 0.9, 0.3, 0.6])
    model = Labelled(ImageSpec(1, 8, 8, classes=10), latent=4)
    pictures.traversals(model, Batch(x, torch.arange(3, 8)), tmp_path / "traversals.png", dims=3)
    z, y = model.decoded[0]
    assert y is not None and y.tolist() == [3] * 27
    for row, dim in zip(z.view(3, 9, 4), (1, 3, 2), strict=True):
        assert torch.allclose(row[:, dim], torch.linspace(-3, 3, 9))
        others = [d for d in range(4) if d != dim]
        assert torch.equal(row[:, others], x[:1, 0, 0, others].expand(9, -1))
    seen = tones(tmp_path / "traversals.png", 3, 9)
    assert np.allclose(seen, z.sum(1).clamp(0, 1).view(3, 9), atol=TONE)
    # two rows of two, of which the last is empty
    film = moving(tmp_path / "traversals.webp", 4)
    assert np.allclose(film[:, :3], to_and_fro(seen), atol=0.02) and np.allclose(film[:, 3], 1, atol=0.02)


def test_traversals_draw_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict = {}
    monkeypatch.setattr(drawing, "sheet", lambda *_, **names: drawn.update(names))
    x = torch.rand(1, 1, 8, 8)
    x[0, 0, 0, :2] = torch.tensor([0.1, 0.9])
    pictures.traversals(Flat(ImageSpec(1, 8, 8), latent=2), Batch(x), tmp_path / "traversals.png", columns=3)
    assert drawn["row_names"] == ["z2", "z1"] and drawn["column_names"] == ["-3", "0", "3"]


def test_traversals_of_a_grid_tell_channel_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict = {}
    monkeypatch.setattr(drawing, "sheet", lambda *_, **names: drawn.update(names))
    x = torch.rand(1, 1, 8, 12) / 10
    model = Flat(ImageSpec(1, 8, 12), latent=24)
    model.latent_shape = (4, 2, 3)
    x[0, 0].view(-1)[[13, 8, 23]] = torch.tensor([0.9, 0.8, 0.7])  # 13 = 2 * 6 + 0 * 3 + 1
    pictures.traversals(model, Batch(x), tmp_path / "traversals.png", dims=3, columns=3)
    assert drawn["row_names"] == ["c3 (1, 2)", "c2 (1, 3)", "c4 (2, 3)"]
    assert x[0, 0].flatten()[:24].unflatten(0, model.latent_shape)[2, 0, 1] == x[0, 0].view(-1)[13]


def test_row_names_are_visible_left_of_their_row(tmp_path: Path) -> None:
    model = Labelled(ImageSpec(1, 8, 8, classes=2))
    pictures.generated_samples(model, tmp_path / "samples.png")
    pixels = read(tmp_path / "samples.png")
    left = pixels.shape[1] - MARGIN - 8 * CELL - 7 * PAD
    for row in range(2):
        bottom = pixels.shape[0] - MARGIN - (1 - row) * (CELL + PAD)
        assert pixels[bottom - 44 : bottom - 20, :left].min() < 0.3
        assert np.allclose(pixels[bottom - 12 : bottom, :left], 1)


def test_latent_space_beyond_two_dimensions_shows_principal_components(tmp_path: Path, figure: list[Any]) -> None:
    x = torch.zeros(200, 1, 8, 8)
    x[:, 0, 0, :3] = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 2.0])
    y = torch.arange(200) % 3
    pictures.latent_space(Flat(ImageSpec(1, 8, 8)), [Batch(x[:90], y[:90]), Batch(x[90:], y[90:])], tmp_path / "l.png")
    axes = figure[0].axes[0]
    variances = torch.linalg.eigvalsh(x[:, 0, 0, :3].T.cov()).flip(0)
    first, second = (variances / variances.sum() * 100).round().int().tolist()[:2]
    assert (
        axes.get_xlabel() == f"PC 1 ({first} % of variance)" and axes.get_ylabel() == f"PC 2 ({second} % of variance)"
    )
    points = axes.collections[0].get_offsets()
    assert np.allclose(np.cov(points.T), np.diag(variances[:2]), rtol=1e-3, atol=1e-3)
    colours = axes.collections[0].get_facecolors()
    assert len(np.unique(colours, axis=0)) == 3 and np.array_equal(colours[0], colours[3])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0", "1", "2"]
    read(tmp_path / "l.png")


def test_latent_space_of_two_dimensions_shows_them_as_they_are(tmp_path: Path, figure: list[Any]) -> None:
    x = torch.rand(30, 1, 8, 8)
    y = torch.arange(30) % 2
    pictures.latent_space(Flat(ImageSpec(1, 8, 8), latent=2), [Batch(x, y)], tmp_path / "latent.png", ["cat", "dog"])
    axes = figure[0].axes[0]
    assert np.allclose(axes.collections[0].get_offsets(), x[:, 0, 0, :2])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z1", "z2")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cat", "dog"]


def test_latent_space_of_one_dimension_is_a_histogram_per_class(tmp_path: Path, figure: list[Any]) -> None:
    x = torch.rand(30, 1, 8, 8)
    pictures.latent_space(Flat(ImageSpec(1, 8, 8), latent=1), [Batch(x, torch.arange(30) % 2)], tmp_path / "latent.png")
    axes = figure[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z1", "images")
    assert len(axes.patches) == 2 and len(axes.get_legend().get_texts()) == 2


@pytest.mark.parametrize("y", [None, torch.arange(40), torch.eye(40)], ids=["none", "too many classes", "attributes"])
def test_latent_space_is_of_one_colour_without_few_classes(y: Tensor | None, tmp_path: Path, figure: list[Any]) -> None:
    pictures.latent_space(Flat(ImageSpec(1, 8, 8)), [Batch(torch.rand(40, 1, 8, 8), y)], tmp_path / "latent.png")
    axes = figure[0].axes[0]
    assert len(np.unique(axes.collections[0].get_facecolors(), axis=0)) == 1 and axes.get_legend() is None


def test_latent_space_stops_at_its_limit(tmp_path: Path, figure: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_POINTS", 50)

    def batches() -> Iterator[Batch]:
        for _ in range(3):
            yield Batch(torch.rand(20, 1, 8, 8), torch.arange(20) % 2)
        raise AssertionError("asked for more than it needs")

    pictures.latent_space(Flat(ImageSpec(1, 8, 8)), batches(), tmp_path / "latent.png")
    assert len(figure[0].axes[0].collections[0].get_offsets()) == 50


@pytest.mark.filterwarnings("error")
def test_latent_space_of_a_collapsed_posterior(tmp_path: Path, figure: list[Any]) -> None:
    pictures.latent_space(Flat(ImageSpec(1, 8, 8)), [Batch(torch.zeros(40, 1, 8, 8))], tmp_path / "latent.png")
    assert figure[0].axes[0].get_xlabel() == "PC 1 (0 % of variance)"


def test_training_losses(tmp_path: Path, figure: list[Any]) -> None:
    rows: list[dict[str, float]] = [
        {"step": s, "epoch": 1 + s // 50, "train/loss": 200 - s, "train/recon": 150.0, "train/kl": 50 - s}
        for s in range(100)
    ]
    rows[0]["train/loss"] = 1e9
    rows[1]["train/loss"] = float("nan")
    rows.insert(50, {"step": 49, "epoch": 1, "train/epoch_loss": 170.0, "val/loss": 160.0, "val/kl": 3.0})
    drawing.training_losses(write_metrics(tmp_path / "metrics.jsonl", rows), tmp_path / "losses.png")
    loss, recon, kl = figure[0].axes
    assert [axes.get_title("left") for axes in (loss, recon, kl)] == ["Loss", "Reconstruction", "KL"]
    assert {axes.get_ylabel() for axes in figure[0].axes} == {"nats per image"}
    lines = {line.get_label(): line.get_xydata().tolist() for line in loss.get_lines()}
    assert lines["validation"] == [[49, 160]] and lines["training, epoch's mean"] == [[49, 170]]
    assert lines["training batches"][:2] == [[0, 1e9], [2, 198]] and len(lines["training batches"]) == 99
    assert len(loss.get_legend().get_texts()) == 3
    low, high = loss.get_ylim()
    assert 80 < low < 101 and 190 < high < 220 and "1e+09" in loss.get_title("right")
    assert len(kl.get_lines()) == 2 and kl.get_title("right") == ""
    assert "epoch 2, step 99" in figure[0].get_suptitle()
    read(tmp_path / "losses.png")


@pytest.mark.filterwarnings("error")
def test_training_losses_of_one_row_show_a_point(tmp_path: Path, figure: list[Any]) -> None:
    one = [{"step": 10, "epoch": 1, "train/loss": -3.0}]
    drawing.training_losses(write_metrics(tmp_path / "metrics.jsonl", one), tmp_path / "losses.png")
    (axes,) = figure[0].axes
    (line,) = axes.get_lines()
    assert line.get_marker() == "o" and line.get_xydata().tolist() == [[10, -3]]
    low, high = axes.get_ylim()
    assert low < -3 < high
    blue = np.asarray(Image.open(tmp_path / "losses.png").convert("RGB")).astype(int)
    assert ((blue[..., 2] - blue[..., 0]) > 40).any()


CALLS: dict[str, Callable[[BaseVAE, Batch, Path], None]] = {
    "reconstructions": pictures.reconstructions,
    "generated_samples": lambda model, batch, path: pictures.generated_samples(model, path, n=5),
    "interpolations": pictures.interpolations,
    "latent_space": lambda model, batch, path: pictures.latent_space(model, [batch], path, None),
    "traversals": pictures.traversals,
}


@pytest.mark.parametrize("name", CALLS)
def test_random_state_and_modes_are_left_alone(name: str, tmp_path: Path) -> None:
    model = Flat(ImageSpec(1, 8, 8)).train()
    model.noise[1].eval()  # a part that someone froze
    batch = Batch(torch.rand(6, 1, 8, 8))
    before = torch.get_rng_state()
    CALLS[name](model, batch, tmp_path / "picture.png")
    assert torch.equal(before, torch.get_rng_state())
    assert [module for module in model.modules() if not module.training] == [model.noise[1]]
    assert torch.is_grad_enabled()


def test_modes_are_restored_after_a_failure(tmp_path: Path) -> None:
    model = Flat(ImageSpec(1, 8, 8)).train()
    model.decode = None  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError):
        pictures.traversals(model, Batch(torch.rand(6, 1, 8, 8)), tmp_path / "picture.png")
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("variant", "shape"),
    [("conditional", (1, 8, 8)), ("mlp", (1, 28, 28)), ("mlp", (3, 64, 64)), ("conditional", (2, 37, 51))],
)
def test_every_picture_of_a_real_variant(variant: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    model = zoo.create(variant, ImageSpec(*shape, classes=4), net="mlp", hidden_dims=[8], latent_dim=5)
    batch = Batch(torch.rand(7, *shape), torch.arange(7) % 4)
    for name, call in CALLS.items():
        path = tmp_path / f"{name}.png"
        call(model, batch, path)
        assert read(path).std() > 0.01


def test_a_picture_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grid.png"
    save_grid(constant(0.2), path, 1)
    earlier = path.read_bytes()

    def fail(source: Path, target: Path) -> None:
        assert target == path and Image.open(source).size == (CELL + 2 * MARGIN,) * 2
        raise OSError("killed")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(drawing.os, "replace", fail)
        save_grid(constant(0.8), path, 1)
    assert path.read_bytes() == earlier
    save_grid(constant(0.8), path, 1)
    assert np.allclose(tones(path, 1, 1), 0.8, atol=TONE) and [p.name for p in tmp_path.iterdir()] == ["grid.png"]


# ---- a painter


def test_a_painter_draws_the_same(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    metrics = write_metrics(tmp_path / "metrics.jsonl", [{"step": 10, "epoch": 1, "train/loss": 3.0}])
    drawing.sheet(images, tmp_path / "sheet.png", 3, title="Nine")
    drawing.training_losses(metrics, tmp_path / "losses.png")
    painter = drawing.Painter()
    painter.sheet(images, tmp_path / "painted_sheet.png", 3, title="Nine")
    painter.training_losses(metrics, tmp_path / "painted_losses.png")
    painter.close()
    for name in ("sheet", "losses"):
        assert (tmp_path / f"{name}.png").read_bytes() == (tmp_path / f"painted_{name}.png").read_bytes()


def test_a_painter_outlives_its_process(tmp_path: Path) -> None:
    painter = drawing.Painter()
    one = np.zeros((1, 8, 8, 1), dtype=np.uint8)
    painter.sheet(one, tmp_path / "absent" / "sheet.png", 1)  # kills the process
    painter.sender.submit(lambda: painter.process.wait() if painter.process else None)
    painter.sheet(one, tmp_path / "sheet.png", 1)
    painter.close()
    assert (tmp_path / "sheet.png").is_file()


def test_a_painter_that_can_t_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drawing.sys, "executable", str(tmp_path / "absent"))
    painter = drawing.Painter()
    painter.sheet(np.zeros((1, 8, 8, 1), dtype=np.uint8), tmp_path / "sheet.png", 1)
    painter.close()
    assert "No such file" in caplog.text


def test_a_painter_starts_without_torch() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); sys.exit('torch' in sys.modules or 'zoo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, drawing.__file__], check=False).returncode == 0


def test_a_long_log_is_thinned_out(tmp_path: Path) -> None:
    rows = [{"step": step, "epoch": step / 1000, "train/loss": 1.0} for step in range(1, 50_001)]
    for row in rows[999::1000]:
        row["val/loss"] = 2.0
    rows[-1]["last"] = 1
    text = "".join(json.dumps(row) + "\n" for row in rows)
    log = tmp_path / "metrics.jsonl"
    log.write_text(text + '{"step": 50001, "tra')
    read = drawing.read_rows(log, 500)
    assert 500 <= len(read) <= 600 and read[-1]["step"] == 50_000
    assert sum("val/loss" in row for row in read) == 50
    assert [row["step"] for row in read] == sorted(row["step"] for row in read)
    log.write_text("")
    assert drawing.read_rows(log) == []
