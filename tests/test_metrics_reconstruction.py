"""Reconstruction metrics against scikit-image and torchmetrics, image by image."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from tests.test_features import pictures
from tests.test_samplers import Flat, Rank, make_subject
from zoo.base import SYMMETRIC, UNIT, ImageSpec
from zoo.data import Images
from zoo.errors import UserError
from zoo.metrics.core import METRICS, Score, Subject
from zoo.metrics.reconstruction import lpips, ms_ssim, mse, psnr, rfid, ssim
from zoo.parts.similarity import BETAS, scale_weights


class Noisy(Flat):
    """Reconstructs with errors that grow from image to image, seeded by the image; in either range of pixels."""

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        low, high = self.image.range
        unit = ((x - low) / (high - low)).double()
        return torch.stack([self.spoil(image) for image in unit]).float() * (high - low) + low

    @staticmethod
    def spoil(image: Tensor) -> Tensor:
        amount = 0.02 + 0.3 * image.mean() ** 2
        eps = torch.randn(image.shape, generator=torch.Generator().manual_seed(int(255 * image.sum() + 0.5)))
        return (image + amount * eps).clamp(0, 1)


def subject_of(
    tmp_path: Path, channels: int = 3, size: int = 32, n: int = 10, range: tuple[float, float] = UNIT, **options: Any
) -> Subject:
    scale = torch.linspace(0.3, 1, n).view(-1, 1, 1, 1)
    test = Images((pictures(n, size, 7)[:, :channels] * scale).byte())
    return make_subject(tmp_path, Noisy(ImageSpec(channels, size, size, range)), test, **options)


def pairs(subject: Subject) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and reconstructions in [0, 1], height x width x channels."""
    originals = subject.data.test.pixels / 255.0
    spoilt = [Noisy.spoil(image.double()).float() for image in originals]
    return [(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()) for a, b in zip(originals, spoilt, strict=True)]


def torchmetrics_ssim(image: np.ndarray, recon: np.ndarray) -> float:
    x, y = (torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels in (recon, image))
    similarity, full = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    # What scikit-image averages is the same map without its borders.
    by_skimage = structural_similarity(
        image, recon, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert full[..., 5:-5, 5:-5].mean().item() == pytest.approx(by_skimage, rel=1e-3)
    return similarity.item()


REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mse": mean_squared_error,
    "psnr": lambda image, recon: peak_signal_noise_ratio(image, recon, data_range=1.0),
    "ssim": torchmetrics_ssim,
}


def value(subject: Subject, metric: str) -> Score:
    rows = METRICS.lookup(metric).target(subject)
    assert list(rows) == [metric]
    return rows[metric]


@pytest.mark.parametrize("metric", sorted(REFERENCES))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("range", [UNIT, SYMMETRIC])
def test_each_image_is_measured_as_by_scikit_image_or_torchmetrics(
    tmp_path: Path, metric: str, channels: int, range: tuple[float, float]
) -> None:
    subject = subject_of(tmp_path, channels, range=range)
    expected = [REFERENCES[metric](image, recon) for image, recon in pairs(subject)]
    assert np.std(expected) > 0.02 * np.mean(expected)
    row = value(subject, metric)
    assert row.value == pytest.approx(np.mean(expected), rel=1e-3)
    assert row.n == 10 and row.split == "test" and "mean over images" in row.protocol


@pytest.mark.parametrize(("size", "scales"), [(28, 2), (64, 3)])
def test_ms_ssim_is_torchmetrics_at_fewer_scales(tmp_path: Path, size: int, scales: int) -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    subject = subject_of(tmp_path, size=size, n=5)
    betas = tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])
    images, recons = (
        torch.from_numpy(np.stack(column)).permute(0, 3, 1, 2) for column in zip(*pairs(subject), strict=True)
    )
    expected = multiscale_structural_similarity_index_measure(recons, images, data_range=1.0, betas=betas)
    row = value(subject, "ms_ssim")
    assert 0.2 < expected < 0.999
    assert row.value == pytest.approx(expected.item(), rel=1e-4)
    assert ", ".join(f"{beta:.4f}" for beta in betas) in row.protocol


def test_as_many_scales_as_fit() -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    assert [len(scale_weights(size)) for size in (22, 43, 44, 98, 99, 175, 176, 256)] == [2, 2, 3, 3, 4, 4, 5, 5]
    for size in (22, 44, 99, 176):
        betas, x = scale_weights(size), pictures(1, size, 9) / 255
        assert sum(betas) == pytest.approx(1)
        similarity = multiscale_structural_similarity_index_measure(x, x, data_range=1.0, betas=betas)
        assert similarity.item() == pytest.approx(1)
    assert scale_weights(256) == pytest.approx(BETAS, rel=1e-3)
    assert scale_weights(21) == (1.0,)  # plain SSIM


@pytest.mark.parametrize("metric", ["mse", "psnr", "ssim", "ms_ssim"])
def test_an_image_counts_once_whatever_its_batch(tmp_path: Path, metric: str) -> None:
    subject = subject_of(tmp_path)
    whole = value(subject, metric).value
    subject.config.eval_batch_size = 4  # 4 + 4 + 2
    assert value(subject, metric).value == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("metric", ["mse", "ssim"])
def test_two_ranks_measure_what_one_does(tmp_path: Path, metric: str) -> None:
    subject = subject_of(tmp_path)
    subject.config.eval_batch_size = 3
    expected = value(subject, metric).value
    gathered: dict[int, Tensor] = {}

    class Half(Subject):
        def gather(self, parts: dict[int, Tensor]) -> Tensor:
            gathered.update(parts)
            return torch.zeros(1)

    for rank in range(2):
        before = len(gathered)
        value(Half(subject.model, subject.data, subject.config, Rank(rank, 2), subject.cache), metric)
        assert len(gathered) == before + 2
    assert torch.cat(list(gathered.values())).mean().item() == pytest.approx(expected)


def test_small_images_are_refused(tmp_path: Path) -> None:
    small = subject_of(tmp_path, size=8)
    with pytest.raises(UserError, match="window of 11 pixels does not fit into images of 8"):
        ssim(small)
    with pytest.raises(UserError, match="needs images of 22 pixels or more, not 8: use ssim"):
        ms_ssim(small)
    assert mse(small)["mse"].higher_is_better is False and psnr(small)["psnr"].unit == "dB"


def test_what_lpips_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 channels, not 1: use ssim"):
        lpips(subject_of(tmp_path, channels=1))
    with pytest.raises(UserError, match="31 pixels or more, not 3 x 28 x 28"):
        lpips(subject_of(tmp_path, size=28))


def test_lpips_without_weights_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(UserError, match="no network here.*put https://.*alexnet.*pth into .*checkpoints") as caught:
        lpips(subject_of(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_lpips_is_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.AlexNet_Weights.DEFAULT.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet().state_dict(), tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[1])

    subject = subject_of(tmp_path, n=4)
    images, recons = (
        torch.from_numpy(np.stack(column)).permute(0, 3, 1, 2) for column in zip(*pairs(subject), strict=True)
    )
    expected = learned_perceptual_image_patch_similarity(recons, images, "alex", normalize=True).item()
    subject.config.eval_batch_size = 3
    assert expected > 0
    assert lpips(subject)["lpips"].value == pytest.approx(expected, rel=1e-3)


def test_rfid_compares_reconstructions_with_their_images(tmp_path: Path) -> None:
    noisy = subject_of(tmp_path, channels=1, n=40)
    noisy.config.benchmark.n = 30
    row = rfid(noisy, extractor="lenet")["rfd_lenet"]
    assert row.value > 0.1 and row.n == 30 and row.sampler is None
    assert "posterior mean reconstructions of 30 of 40 test images, drawn by a fixed seed" in row.protocol
    assert "LeNet" in row.protocol and "covariances singular" in row.protocol
    exact = replace(noisy, model=Flat(noisy.model.image).eval(), memo={})
    assert rfid(exact, extractor="lenet")["rfd_lenet"].value == pytest.approx(0, abs=1e-3 * row.value)
    entry = METRICS.lookup("rfd_lenet")
    assert list(entry.target(noisy, **entry.defaults)) == ["rfd_lenet"]
