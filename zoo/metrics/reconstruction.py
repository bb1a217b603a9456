"""How near reconstructions come to the test images they are of, each decoded from its posterior mean.

Pixels lie in [0, 1] and are not rounded, except for the distances over features. torchmetrics, which takes seconds to
import, is imported by the metric that needs it.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from zoo.errors import DoesNotApply, UserError
from zoo.metrics import features
from zoo.metrics.core import Score, Subject, mean_score, register_metric
from zoo.metrics.fid import frechet_distance, protocol, standard_error
from zoo.nets.pretrained import Perceptual
from zoo.parts.similarity import WINDOW, scale_weights
from zoo.pictures.of_models import to_unit

LPIPS_MIN_SIZE = 31

Compare = Callable[[Tensor, Tensor], Tensor]  # reconstructions and images, [B, C, H, W] each -> [B]


@register_metric("mse", "squared error per pixel of reconstructions")
def mse(subject: Subject) -> dict[str, Score]:
    """Score the squared error, mean over pixels and channels."""
    from torchmetrics.functional import mean_squared_error

    def compare(recon: Tensor, image: Tensor) -> Tensor:
        return mean_squared_error(recon.flatten(1).T, image.flatten(1).T, num_outputs=len(image)).reshape(-1)

    return {"mse": _image_mean(subject, compare, "", False, "squared error, mean over pixels")}


@register_metric("psnr", "peak signal-to-noise ratio of reconstructions")
def psnr(subject: Subject) -> dict[str, Score]:
    """Score 10 log10(1 / squared error) of each image, in dB."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    def compare(recon: Tensor, image: Tensor) -> Tensor:
        return peak_signal_noise_ratio(recon, image, data_range=1.0, dim=(1, 2, 3), reduction="none")

    return {"psnr": _image_mean(subject, compare, "dB", True, "")}


@register_metric("ssim", "structural similarity of reconstructions")
def ssim(subject: Subject) -> dict[str, Score]:
    """Score the structural similarity, at most 1. Wang et al. 2004, IEEE TIP 13(4).

    As in torchmetrics the mean is over all pixels, with reflected borders; scikit-image leaves out the five outermost.

    Raises:
        UserError: if the images are smaller than the window.
    """
    if (size := _size(subject)) < WINDOW:
        raise DoesNotApply(f"SSIM's window of {WINDOW} pixels does not fit into images of {size}")
    from torchmetrics.functional.image import structural_similarity_index_measure

    def compare(recon: Tensor, image: Tensor) -> Tensor:
        return cast(Tensor, structural_similarity_index_measure(recon, image, data_range=1.0, reduction="none"))

    how = f"SSIM, Gaussian window {WINDOW} px, sigma 1.5, borders reflected"
    return {"ssim": _image_mean(subject, compare, "", True, how)}


@register_metric("ms_ssim", "multi-scale structural similarity of reconstructions")
def ms_ssim(subject: Subject) -> dict[str, Score]:
    """Score the multi-scale structural similarity, at most 1. Wang et al. 2003, Asilomar.

    Its five scales need 176 pixels. Smaller images are compared at the finest of them, as many as fit, with their
    weights scaled to sum to 1; the protocol states these.

    Raises:
        UserError: if not even two scales fit.
    """
    betas = scale_weights(size := _size(subject))
    if len(betas) < 2:
        raise DoesNotApply(f"MS-SSIM needs images of {2 * WINDOW} pixels or more, not {size}: use ssim")
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    how = f"MS-SSIM, Gaussian window {WINDOW} px, sigma 1.5, betas {', '.join(f'{beta:.4f}' for beta in betas)}"

    def compare(recon: Tensor, image: Tensor) -> Tensor:
        return multiscale_structural_similarity_index_measure(
            recon, image, data_range=1.0, betas=betas, reduction="none"
        )

    return {"ms_ssim": _image_mean(subject, compare, "", True, how)}


@register_metric("lpips", "learned perceptual distance of reconstructions")
def lpips(subject: Subject) -> dict[str, Score]:
    """Score the distance of AlexNet features under learned weights. Zhang et al. 2018, arXiv:1801.03924.

    Raises:
        UserError: if images are grey or small, or AlexNet's weights are missing.
    """
    channels, size = subject.model.image.channels, _size(subject)
    if channels != 3 or size < LPIPS_MIN_SIZE:
        raise DoesNotApply(
            f"LPIPS compares colour images of {LPIPS_MIN_SIZE} pixels or more, not {channels} x {size} x {size}"
            if channels == 3
            else f"LPIPS compares images of 3 channels, not {channels}: use ssim"
        )
    network = _lpips_network().to(subject.model.device)

    def compare(recon: Tensor, image: Tensor) -> Tensor:
        return network(recon, image, normalize=True).reshape(-1)

    return {"lpips": _image_mean(subject, compare, "", False, "LPIPS 0.1, AlexNet")}


def _lpips_network() -> torch.nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    try:
        return cast(torch.nn.Module, LearnedPerceptualImagePatchSimilarity("alex", normalize=True).net).eval()
    except (OSError, RuntimeError, urllib.error.URLError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"LPIPS needs torchvision's AlexNet weights, which could not be read or downloaded ({reason}): put "
            f"{AlexNet_Weights.DEFAULT.url} into {torch.hub.get_dir()}/checkpoints"
        ) from None


@register_metric("perceptual_mobilenet", "distance of reconstructions between the features of MobileNetV2's layers")
def perceptual_mobilenet(subject: Subject) -> dict[str, Score]:
    """Score the perceptual distance, 0 for equal images; see `zoo.nets.pretrained.Perceptual`.

    Raises:
        UserError: if MobileNetV2's weights are missing, or images have neither 1 nor 3 channels.
    """
    if subject.model.image.channels not in (1, 3):
        raise DoesNotApply(f"MobileNetV2 looks at images of 1 or 3 channels, not {subject.model.image.channels}")
    distance = Perceptual(mobilenet_weights=subject.config.benchmark.mobilenet_weights)
    how = f"{distance.protocol}, weights {distance.digest}"
    return {"perceptual_mobilenet": _image_mean(subject, distance, "", False, how)}


@register_metric("rfid", "Fréchet distance of reconstructions to their test images, over 2015 Inception features")
@register_metric("rfd_lenet", "the same over the features of the zoo's own digit classifier", extractor="lenet")
@register_metric("rfd_mobilenet", "the same over MobileNetV2, for photographs", extractor="mobilenet")
@register_metric("rfd_dinov2", "the same over DINOv2, for photographs", extractor="dinov2")
def rfid(subject: Subject, *, extractor: str = "inception") -> dict[str, Score]:
    """Score the reconstructions of `benchmark.n` test images against these images.

    Args:
        subject: The model.
        extractor: What images are compared by; the result is called `rfid` over Inception, or else `rfd_<extractor>`.
    """
    network = features.load_extractor(subject, extractor)
    real = features.reference_features(subject, network)
    recon = features.reconstruction_features(subject, network)
    how = (
        f"{protocol(real, recon)}; {network.protocol}; posterior mean reconstructions of {features.compared(subject)} "
    )
    value, se = frechet_distance(real, recon), standard_error(real, recon)
    return {network.row("rfid", "rfd"): Score(value, "", False, f"{how}against these", len(recon), se=se)}


def _size(subject: Subject) -> int:
    return min(subject.model.image.height, subject.model.image.width)


@torch.no_grad()
def _image_mean(subject: Subject, compare: Compare, unit: str, higher_is_better: bool, how: str) -> Score:
    """Average what `compare` says of each test image and its reconstruction, both in [0, 1]; a collective."""
    model, test = subject.model, subject.data.test
    parts = {}
    for number, batch in subject.batches(test):
        recon, image = (to_unit(x, model.image.range) for x in (model.reconstruct(batch.x, batch.y), batch.x))
        parts[number] = compare(recon, image)
    shared = "mean over images, posterior mean reconstruction, pixels in [0, 1]"  # as every run's own PSNR has it
    return mean_score(subject.gather(parts), unit, higher_is_better, f"{shared}; {how}" if how else shared)
