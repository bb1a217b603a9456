"""The page that looks into a run: what it computes, and, where Gradio is installed, the page in a browser."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.browser import Browser
from tests.runs import make_config, run
from zoo import explore
from zoo.errors import UserError
from zoo.explore import Explorer, page, shown
from zoo.pictures.of_models import tiles


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("runs")

    def of(variant: str) -> Path:
        out = folder / variant
        if not out.is_dir():
            model = {"name": variant, "net": "mlp", "hidden_dims": [16]}
            assert run(make_config(out, variant, steps=20, model=model)) == 0
        return out

    return of


def test_sliders_over_a_grid_tell_channel_and_place(tmp_path: Path) -> None:
    model = {"name": "beta", "net": "grid", "base_channels": 4, "blocks": 1, "latent": "grid", "latent_dim": 3}
    assert run(make_config(tmp_path / "grid", steps=5, model=model)) == 0
    explorer = Explorer(tmp_path / "grid")
    places = [f"c{dim // 4 + 1} ({dim % 4 // 2 + 1}, {dim % 2 + 1})" for dim in explorer.dims]
    assert explorer.names == places and len(set(places)) == 12


@pytest.mark.parametrize("variant", ["mlp", "conditional", "ae"])
def test_sliders_move_the_dimensions_that_do_most(variant: str, runs: Callable[[str], Path]) -> None:
    explorer = Explorer(runs(variant))
    model = zoo.load(runs(variant))
    image, z, label = explorer.start(5)
    test = explorer.data.test
    pixels, labels = test.batch(torch.tensor([5]))
    told = labels if variant == "conditional" else None
    assert torch.equal(image, pixels[0] / 255) and (label is None) == (told is None)
    mu, logvar = model.encode(pixels, told)
    torch.testing.assert_close(z, mu[0], rtol=1e-4, atol=1e-5)
    assert len(explorer.dims) == explore.DIMS and len(set(explorer.dims)) == explore.DIMS
    assert explorer.names == [f"z{dim + 1}" for dim in explorer.dims]
    spread = explorer.means.std(0, correction=0)
    if logvar is None:
        assert spread[explorer.dims].diff().max() <= 0 and spread[explorer.dims].min() >= spread.median()
        places = (z - explorer.means.mean(0)) / spread
    else:
        places = z
    assert explorer.places(z) == pytest.approx(places[explorer.dims].tolist(), abs=0.006)
    moved = explorer.moved(z, [2.0] * explore.DIMS)
    others = [dim for dim in range(len(z)) if dim not in explorer.dims]
    assert explorer.places(moved) == pytest.approx([2.0] * explore.DIMS, abs=0.006)
    assert torch.equal(moved[others], z[others])
    torch.testing.assert_close(explorer.decoded(z[None], label), model.decode(z[None], label))


def test_a_picture_of_ones_own_is_prepared_as_the_runs_data(runs: Callable[[str], Path], tmp_path: Path) -> None:
    explorer = Explorer(runs("mlp"))
    Image.fromarray(np.full((50, 40, 3), 200, np.uint8)).save(tmp_path / "own.png")
    image, z, _ = explorer.start(0, str(tmp_path / "own.png"))
    assert image.shape == explorer.known[0].shape and torch.allclose(image, torch.tensor(200 / 255), atol=0.01)
    torch.testing.assert_close(z, explorer.model.encode(image[None])[0][0])
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(UserError):
        explorer.start(0, str(tmp_path / "no.png"))


def test_a_property_is_the_difference_of_two_means(runs: Callable[[str], Path]) -> None:
    explorer = Explorer(runs("mlp"))
    assert explorer.labels is not None and explorer.properties == [str(digit) for digit in range(10)]
    has = explorer.labels == 3
    expected = explorer.means[has].mean(0) - explorer.means[~has].mean(0)
    torch.testing.assert_close(explorer.direction("3"), expected)


def test_a_line_leads_from_one_image_to_another(runs: Callable[[str], Path]) -> None:
    explorer = Explorer(runs("mlp"))
    line = explorer.between(2, 7, steps=3)
    assert torch.equal(line[0], explorer.known[2]) and torch.equal(line[4], explorer.known[7])
    middle = (explorer.means[2] + explorer.means[7]) / 2
    torch.testing.assert_close(line[2:3], explorer.decoded(middle[None], None))


def test_samples_are_the_samplers(runs: Callable[[str], Path]) -> None:
    explorer = Explorer(runs("conditional"))
    y = torch.arange(12) % 10
    expected = zoo.load(runs("conditional")).sample(12, y, torch.Generator().manual_seed(4))
    torch.testing.assert_close(explorer.samples(12, 4, "prior"), expected)
    assert explorer.samples(12, 4, "gaussian").shape == expected.shape
    with pytest.raises(UserError, match="nobody"):
        explorer.samples(12, 4, "nobody")


def test_a_point_of_the_map_shows_its_image(runs: Callable[[str], Path]) -> None:
    explorer = Explorer(runs("mlp"))
    text = explorer.map()
    places = [(float(x), float(y)) for x, y in re.findall(r"left:([\d.]+)%;top:([\d.]+)%", text)]
    assert len(places) == min(explore.MAPPED, len(explorer.known)) == text.count('src="data:image/webp')
    assert all(2 <= x <= 98 and 2 <= y <= 98 for x, y in places)
    centred = explorer.means[: len(places)] - explorer.means[: len(places)].mean(0)
    variance = torch.linalg.svdvals(centred).square()[:2]
    drawn = torch.tensor(places).var(0)
    assert (drawn > 0).all() and len(set(re.findall(r"hsl\((\d+)", text))) == 10
    assert variance[0] >= variance[1]
    assert all(f"test image {number}, {int(label)}" in text for number, label in enumerate(explorer.labels[:5]))


def test_images_are_shown_large_and_side_by_side() -> None:
    one = torch.rand(1, 1, 8, 8)
    assert shown(one).shape == (192, 192, 3)
    assert np.array_equal(shown(one)[::24, ::24], tiles(one)[0][::8, ::8].repeat(3, 2))
    assert shown(torch.rand(6, 3, 64, 64), 3).shape[2] == 3


def test_without_gradio_there_is_one_sentence(
    runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, cli: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, err = cli("explore", str(runs("mlp")))
    assert code == 2 and err == "error: explore needs Gradio: pip install 'vae-zoo[explore]'\n"


# ---- the page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    pytest.importorskip("gradio", reason="Gradio is not installed (vae-zoo[explore])")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_shows_what_a_slider_does(
    width: int, browser: Browser, runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "GRADIO_ANALYTICS_ENABLED", "False")
    blocks = page(Explorer(runs("mlp")))
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        browser.resize(width)
        browser._call("/url", {"url": url})
        browser.until("return document.querySelectorAll('#dim0 input[type=range]').length == 1")
        decoded = "return document.querySelectorAll('.image-frame img')[1]?.src ?? ''"
        browser.until(f"{decoded}")
        before = browser.run(decoded)
        browser.run(
            "const s = document.querySelector('#dim0 input[type=range]'); s.value = 3;"
            "s.dispatchEvent(new Event('input', {bubbles: true}));"
            "s.dispatchEvent(new PointerEvent('pointerup', {bubbles: true}));"
        )
        browser.until("return document.querySelectorAll('.image-frame img')[1].src != arguments[0]", before)
        assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut off"
        assert not browser.run("return [...document.querySelectorAll('.error')].length")
    finally:
        blocks.close()
