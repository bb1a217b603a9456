"""Black and white pixels: each drawn once, by whatever processes and lives a run has, and scored as what they are."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from tests.test_metrics_likelihood import LinearGaussian, bernoulli, closed_form_nll, noise, subject_of
from zoo.base import ImageSpec
from zoo.config import DataConfig
from zoo.data import Data, Images, batches, build_data
from zoo.data.binarise import binarise
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.metrics.likelihood import elbo, nll
from zoo.metrics.loss import loss
from zoo.parts.distributions import Posterior, gaussian_log_prob


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "own cache"))


def whole(images: Images) -> Tensor:
    return images.batch(torch.arange(len(images)))[0]


def digits(kind: str, seed: int = 0, **keys: Any) -> Data:
    return build_data(DataConfig.model_validate({"name": "digits", "limit": 200, "binarize": kind} | keys), seed=seed)


# ---- the draw


def test_pixels_are_white_with_their_grey_level_as_probability() -> None:
    n = 4000
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(n, 1, 16, 16)
    drawn = binarise(ramp, torch.arange(n), "a key")
    assert drawn.unique().tolist() == [0, 255]
    grey = torch.arange(256) / 255
    mean = drawn.double().mean(0).flatten() / 255
    deviation = (grey * (1 - grey) / n).sqrt()
    assert ((mean - grey).abs() <= 4.5 * deviation).all()  # black and white pixels have no deviation
    assert (mean - grey).mean().abs() < 4.5 * deviation.mean() / 16
    half = binarise(torch.full((n, 1, 4, 4), 128, dtype=torch.uint8), torch.arange(n), "a key").double().flatten(1)
    together = torch.cat([half[1:], half[:-1]], 1)  # the pixels of an image, and of the one after it
    assert torch.corrcoef(together.T).fill_diagonal_(0).abs().max() < 5 / math.sqrt(n)


def test_an_images_draw_depends_on_key_and_number_alone() -> None:
    images = whole(noise(50, 1, 3, 3))
    every = binarise(images, torch.arange(50), "a")
    some = torch.tensor([40, 3, 17])
    assert torch.equal(binarise(images[some], some, "a"), every[some])
    assert not torch.equal(binarise(images, torch.arange(50), "b"), every)
    assert not torch.equal(binarise(images, torch.arange(50) + 1, "a"), every)
    # These never change: published results stand on them.
    assert (every == 255).sum(0).flatten().tolist() == [26, 23, 22, 24, 26, 26, 24, 24, 20]


def test_two_processes_see_each_image_binarised_once_and_anew_at_the_next_look() -> None:
    grey = noise(40, 1, 4, 4)
    images = replace(grey, redraw=True, draw="train dynamic 3")
    alone = [x for x, _ in batches(images, 8, 3, 0, 10)]
    ranks = [[x for x, _ in batches(images, 8, 3, 0, 10, rank, 2)] for rank in (0, 1)]
    assert all(torch.equal(torch.cat(parts), x) for *parts, x in zip(*ranks, alone, strict=True))
    late = [x for x, _ in batches(images, 8, 3, 7, 10)]  # as a resumed run has them
    assert all(torch.equal(x, y) for x, y in zip(late, alone[7:], strict=True))
    # The draw is of the images that are trained on, and an image's next look, an epoch later, is another.
    seen = torch.cat([x for x, _ in batches(grey, 8, 3, 0, 10)])
    drawn = torch.cat(alone)
    assert drawn[seen == 0].eq(0).all() and drawn[seen == 255].eq(255).all() and drawn.unique().tolist() == [0, 255]
    first, second = (torch.argsort(part.flatten(1)[:, :3].double() @ torch.tensor([65536.0, 256, 1]).double())
                     for part in seen.split(40))  # fmt: skip
    assert torch.equal(seen[:40][first], seen[40:][second]) and not torch.equal(drawn[:40][first], drawn[40:][second])
    assert not torch.equal(drawn, torch.cat([x for x, _ in batches(images, 8, 4, 0, 10)]))


# ---- which draw a split has


def test_dynamic_draws_follow_the_seed_and_fixed_ones_do_not() -> None:
    for kind, moves in (("dynamic", True), ("fixed", False)):
        first, same, other = (digits(kind, seed).splits for seed in (0, 0, 1))
        for split in ("train", "val", "test"):
            assert whole(first[split]).unique().tolist() == [0, 255]
            assert torch.equal(whole(first[split]), whole(same[split]))
            assert torch.equal(whole(first[split]), whole(other[split])) != moves
    fixed = digits("fixed")
    assert not torch.equal(whole(fixed.test), whole(replace(fixed.test, draw="train fixed 1")))
    assert not fixed.train.redraw and digits("dynamic").train.redraw
    (batch, _), *_ = batches(fixed.train, 30, 5, 0, 1)
    rows = {tuple(image.flatten().tolist()) for image in whole(fixed.train)}
    assert all(tuple(image.flatten().tolist()) in rows for image in batch)


def test_a_fixed_draw_stays_when_the_splits_are_cut_otherwise() -> None:
    def by_grey(data: Data) -> dict[bytes, bytes]:
        return {
            bytes(grey.flatten().tolist()): bytes(pixels.flatten().tolist())
            for images in data.splits.values()
            for grey, pixels in zip(whole(images.stored), whole(images), strict=True)
        }

    assert by_grey(digits("fixed")) == by_grey(digits("fixed", val_fraction=0.3))


def test_a_pictures_draw_stays_when_others_come(tmp_path: Path) -> None:
    def save(*numbers: int) -> dict[str, bytes]:
        for number in numbers:
            grey = np.random.default_rng(number).integers(0, 256, (6, 6), dtype=np.uint8)
            Image.fromarray(grey).save(tmp_path / f"{number}.png")
        config = {"name": "image_folder", "root": tmp_path, "size": 6, "channels": 1, "binarize": "fixed"}
        splits = build_data(DataConfig.model_validate(config)).splits.values()
        return {
            name: bytes(pixels.flatten().tolist())
            for images in splits
            for name, pixels in zip(images.names, whole(images), strict=True)
        }

    before = save(*range(20, 60))
    after = save(*range(10, 20))  # whose names come first
    assert len(after) == 50 and {name: after[name] for name in before} == before
    assert all(set(pixels) <= {0, 255} for pixels in after.values())


def test_the_data_stays_what_it_is() -> None:
    assert digits("none").digest == digits("dynamic", 1).digest == digits("fixed").digest


def test_noise_below_grey_levels_has_nothing_to_be_added_to() -> None:
    with pytest.raises(ValueError, match="binarize leaves none"):
        DataConfig(name="digits", binarize="fixed", dequantise=True)


# ---- what is scored


class TwoCoins(GaussianVAE):
    """Each image is one of two kinds of independent coins, by the sign of z; the posterior is exact."""

    def __init__(self, chances: Tensor) -> None:
        image = ImageSpec(1, 2, chances.shape[1] // 2)
        super().__init__(image, net="mlp", hidden_dims=[1], latent_dim=1, recon="bce")
        self.chances = chances  # [2, pixels]

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.chances.logit()[(z[:, 0] > 0).long()].view(-1, *self.image.shape)

    def log_joint(self, x: Tensor) -> Tensor:
        """Log 1/2 p(x|kind), `[B, 2]`."""
        x = x.flatten(1)
        return x @ self.chances.log().T + (1 - x) @ (1 - self.chances).log().T - math.log(2)

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Posterior:
        return Sides(self.log_joint(x).log_softmax(1))


class Sides:
    logvar = None

    def __init__(self, log_shares: Tensor) -> None:
        self.log_shares = log_shares  # [B, 2]
        self.point = log_shares[:, 1:] - log_shares[:, :1]

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        side = torch.distributions.Categorical(logits=self.log_shares).sample((k,))  # [k, B]
        z = torch.randn(side.shape).abs() * (2 * side - 1)
        chosen = self.log_shares.expand(k, -1, -1).gather(2, side[..., None])[..., 0]
        return z[..., None], chosen + math.log(2) + gaussian_log_prob(z[..., None])


def test_nll_of_two_kinds_of_coins_is_the_closed_form(tmp_path: Path) -> None:
    chances = torch.tensor([[0.9, 0.2, 0.6, 0.5, 0.1, 0.7], [0.1, 0.3, 0.2, 0.9, 0.8, 0.4]])
    images = replace(noise(120, 1, 2, 3), draw="test fixed 0")
    model = TwoCoins(chances)
    rows = nll(subject_of(model, images, tmp_path), k=1)
    expected = -model.log_joint(whole(images).flatten(1) / 255).logsumexp(1).mean().item()
    assert rows["nll"].value == pytest.approx(expected, abs=1e-5)
    assert rows["bits_per_dim"].value == pytest.approx(expected / 6 / math.log(2), abs=1e-5)


def test_nll_of_a_linear_gaussian_on_binarised_pixels_is_the_closed_form(tmp_path: Path) -> None:
    images = replace(noise(120, 1, 2, 2), draw="test fixed 0")
    row = nll(subject_of(LinearGaussian(1.0), images, tmp_path), k=1)["nll"]
    assert row.value == pytest.approx(closed_form_nll(Images(whole(images))), abs=1e-4)
    assert row.value != pytest.approx(closed_form_nll(images.stored), abs=0.1)


@pytest.mark.parametrize("k", [1, 50])
def test_one_half_everywhere_costs_a_bit_a_pixel(k: int, tmp_path: Path) -> None:
    model = TwoCoins(torch.full((2, 784), 0.5))
    images = replace(noise(20, 1, 2, 392), draw="test dynamic 0")
    rows = nll(subject_of(model, images, tmp_path), k=k)
    assert rows["nll"].value == pytest.approx(-math.log(0.5) * 784, rel=1e-6)
    assert rows["bits_per_dim"].value == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "words"), [("dynamic", "at each look"), ("fixed", "for ever"), ("none", "not a normalised density")]
)
def test_numbers_say_which_pixels_they_are_of(kind: str, words: str, tmp_path: Path) -> None:
    draw = "" if kind == "none" else f"test {kind} 0"
    images = replace(noise(60, 1, 2, 2), draw=draw)
    subject = subject_of(bernoulli(), images, tmp_path, data={"name": "toy", "binarize": kind})
    rows = nll(subject, k=2) | elbo(subject) | loss(subject)
    likelihoods = ("nll", "elbo", "distortion", "rate")
    assert all(words in rows[name].protocol for name in likelihoods)
    assert ("bits_per_dim" in rows) == (kind != "none")
    assert (words in rows["recon"].protocol) == (kind != "none")
    if kind != "none":
        with pytest.raises(UserError, match="this run's are black or white"):
            nll(subject, k=2, binarise="fixed")


# ---- Larochelle & Murray's files

SPLITS = {"train": 5, "valid": 3, "test": 2}


def write_files(folder: Path, matlab: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    bits = {split: generator.integers(0, 2, (n, 784), dtype=np.uint8) for split, n in SPLITS.items()}
    for split, rows in bits.items():
        file = folder / f"binarized_mnist_{split}.amat"
        if matlab:
            savemat(file, {"X": rows}, appendmat=False)
        else:
            file.write_text("".join(" ".join(map(str, row)) + " \n" for row in rows))
    return bits


@pytest.mark.parametrize("matlab", [False, True])
@pytest.mark.parametrize("folder", [".", "binarized_mnist"])
def test_the_fixed_binarisation_is_read_in_both_forms(folder: str, matlab: bool, tmp_path: Path) -> None:
    bits = write_files(tmp_path / "root" / folder, matlab)
    config = DataConfig(name="binarized_mnist", root=tmp_path / "root")
    first = build_data(config)
    kept = list((tmp_path / "own cache").glob("*.bits"))
    assert sorted(file.stat().st_size for file in kept) == [4 + 98 * n for n in sorted(SPLITS.values())]
    for data in (first, build_data(config)):  # parsed, and as it was kept
        for split, mine in zip(SPLITS, data.splits.values(), strict=True):
            assert np.array_equal(whole(mine).numpy().reshape(-1, 784), 255 * bits[split])
            assert mine.shape == (1, 28, 28) and mine.labels is None
    content = kept[0].read_bytes()
    for damaged in (b"", content[:-98], content[:50] + bytes([content[50] ^ 1]) + content[51:], content[4:]):
        kept[0].write_bytes(damaged)
        again = build_data(config)
        assert all(torch.equal(whole(mine), whole(first.splits[split])) for split, mine in again.splits.items())
    framed = build_data(DataConfig(name="binarized_mnist", root=tmp_path / "root", size=32, limit=2))
    assert torch.equal(whole(framed.train)[:, :, 2:-2, 2:-2], whole(first.train)[:2])
    assert whole(framed.train).sum() == whole(first.train)[:2].sum()


def test_what_is_not_the_fixed_binarisation_is_one_sentence(tmp_path: Path) -> None:
    config = DataConfig(name="binarized_mnist", root=tmp_path / "root")
    with pytest.raises(UserError, match=r"binarized_mnist_train.amat was not found.*larocheh.*ARM-gradient.*DATA_ROOT"):
        build_data(config)
    write_files(tmp_path / "root", matlab=False)
    with pytest.raises(UserError, match="stays black and white at 28 and 32 alone"):
        build_data(DataConfig(name="binarized_mnist", root=tmp_path / "root", size=14))
    for content in (b"0 1 2\n", b"0 1 1\n", b"", b"MATLAB 5.0 nothing", b"01" * 392, b"0 " * 783 + b"x\n"):
        (tmp_path / "root" / "binarized_mnist_test.amat").write_bytes(content)
        with pytest.raises(UserError, match=r"binarized_mnist_test.amat is damaged, or not binarized_mnist"):
            build_data(config)


def test_the_published_files(real_binarized_mnist: Path) -> None:
    data = build_data(DataConfig(name="binarized_mnist", root=real_binarized_mnist))
    assert [len(images) for images in data.splits.values()] == [50_000, 10_000, 10_000]
    assert whole(data.test).unique().tolist() == [0, 255]
    white = [whole(images).double().mean().item() / 255 for images in data.splits.values()]
    assert white == pytest.approx([0.13056, 0.13113, 0.13251], abs=1e-4)
