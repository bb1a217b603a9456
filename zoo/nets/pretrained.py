"""Networks that were trained elsewhere: where their weights are found, and what images are compared by.

`Backbone` is any network of torchvision's as a feature extractor; a metric's own is registered in a line:

    register_extractor("resnet50", backbone="resnet50", weights="IMAGENET1K_V2")(Backbone)

`Perceptual` is the distance between the features of MobileNetV2's layers, for metrics and for losses.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.registry import did_you_mean

Places = Mapping[str, str | os.PathLike[str] | None]  # setting to the file that it names, None or "" if none

MOBILENET_VARIABLE = "VAE_ZOO_MOBILENET"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, which its networks expect
# The last layer of each resolution, from a half to a thirty-second of the side, with 16 to 1280 channels.
LAYERS = ("features.1", "features.3", "features.6", "features.13", "features.18")


def find_file(what: str, url: str, names: tuple[str, ...], places: Places) -> Path:
    """Find a weight file: where a setting says, in torch hub's cache, or by a download into it; in this order.

    Args:
        what: Whose weights, for messages: "MobileNetV2".
        url: Where they are published; the file's name ends in the first digits of its SHA-256.
        names: What the file may be called in the cache; the first is what it is downloaded to.
        places: Settings that may name the file.

    Raises:
        UserError: if a file that was named is not there, or there is none and it can't be downloaded.
    """
    for setting, value in places.items():
        if value:
            if not (path := Path(value).expanduser()).is_file():
                raise UserError(f"{setting} names {path}, but there is no such file")
            return path
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for name in names:
        if (cache / name).is_file():
            return cache / name
    path = cache / names[0]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{path.name}.lock"):
            if not path.is_file():  # another rank may have been faster
                torch.hub.download_url_to_file(url, str(path), _digest_in(url), progress=False)
    except Exception as error:  # what urllib raises has no common name
        raise UserError(
            f"{what}'s weights are not on this machine and could not be downloaded ({error}): put {url} into {cache}, "
            f"or name the file by {' or '.join(places)}"
        ) from None
    return path


def _digest_in(url: str) -> str:
    return url.rsplit("-", 1)[1].partition(".")[0]


def published(backbone: str, weights: str, places: Places) -> tuple[nn.Module, str]:
    """Build a network of torchvision's with its published weights, in evaluation mode.

    Args:
        backbone: Its name in `torchvision.models.list_models()`.
        weights: Of which of its weights: "IMAGENET1K_V1".
        places: Where the file is looked for before torch hub's cache, see `find_file`.

    Returns:
        The network, without gradients, and the first digits of the file's SHA-256.

    Raises:
        UserError: if there is no such network, or its weights are missing or others than the published ones.
    """
    from torchvision import models

    if backbone not in models.list_models(models):
        known = models.list_models(models)
        raise UserError(f"torchvision has no network {backbone!r}.{did_you_mean(backbone, known)}")
    kinds = models.get_model_weights(backbone)
    if weights not in kinds.__members__:
        raise UserError(f"{backbone} has no weights {weights!r}. Known: {', '.join(kinds.__members__)}")
    url = kinds[weights].url
    path = find_file(backbone, url, (url.rsplit("/", 1)[1],), places)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(_digest_in(url)):
        raise UserError(
            f"{path} does not hold the weights of {backbone}: its SHA-256 begins with {digest[:8]}, and that of {url} "
            f"with {_digest_in(url)}"
        )
    net = models.get_model(backbone, weights=None)
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False), digest[:8]


def as_imagenet(images: Tensor) -> Tensor:
    """Show `[B, 1 or 3, H, W]` in [0, 1] as ImageNet's networks expect it, `[B, 3, H, W]`: grey in all three channels.

    Raises:
        UserError: if images have another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise UserError(f"a network trained on ImageNet takes images of 1 or 3 channels, not {images.shape[1]}")
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


class Backbone(nn.Module):
    """A network of torchvision's without its last layer: what it makes of an image before it names the class.

    Args:
        backbone: Its name in `torchvision.models.list_models()`.
        weights: Of its published weights: "IMAGENET1K_V1".
        size: Pixels that images are resized to, bilinear with antialiasing.
        places: Where the file is looked for before torch hub's cache, see `find_file`.

    Raises:
        UserError: if there is no such network, or its weights are missing or others than the published ones.
    """

    def __init__(
        self,
        *,
        backbone: str,
        weights: str = "DEFAULT",
        size: int = 224,
        places: Places | None = None,
    ) -> None:
        super().__init__()
        self.net, self.digest = published(backbone, weights, places or {})
        linear = [(name, layer) for name, layer in self.net.named_modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UserError(f"{backbone} ends in no linear layer: its features before the classes can't be told")
        name, last = linear[-1]
        self.num_features = last.in_features
        parent, _, child = name.rpartition(".")
        setattr(self.net.get_submodule(parent), child, nn.Identity())
        self.size = size
        how = f"resized to {size} px bilinear with antialiasing"
        self.protocol = f"torchvision's {backbone} ({weights}), features before the classes, {how}"

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 1 or 3, H, W]` in [0, 1] to `[B, num_features]`."""
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return self.net(as_imagenet(images))


class MobileNet(Backbone):
    """MobileNetV2, trained on ImageNet, on images of 128 pixels. Sandler et al. 2018, arXiv:1801.04381.

    Args:
        mobilenet_weights: Its weight file; None: `$VAE_ZOO_MOBILENET`, torch hub's cache, or a download.
    """

    def __init__(self, *, mobilenet_weights: Path | None = None) -> None:
        super().__init__(
            backbone="mobilenet_v2", weights="IMAGENET1K_V1", size=128, places=mobilenet_places(mobilenet_weights)
        )


def mobilenet_places(configured: Path | None = None) -> Places:
    """Return where MobileNetV2's weights are looked for first."""
    return {"benchmark.mobilenet_weights": configured, MOBILENET_VARIABLE: os.environ.get(MOBILENET_VARIABLE)}


class Perceptual:
    """How far apart two images are to MobileNetV2: in what its layers say at each place, whatever their strength.

        d(x, y) = sum over layers of the mean over places of | f(x) / |f(x)| - f(y) / |f(y)| |^2

    It is LPIPS (Zhang et al. 2018, arXiv:1801.03924) over another network and without learned weights, from 0 to 4 for
    each of five layers. The network is no part of a model that holds this: it is neither trained nor saved, stays in
    evaluation mode and in float32, and passes the gradient on to the images.

    Args:
        mobilenet_weights: See `MobileNet`.
        places: Where the file is looked for before torch hub's cache, if not where `MobileNet`'s is.
    """

    protocol = "MobileNetV2 (IMAGENET1K_V1), five layers, unit features, squared distance"

    def __init__(self, *, mobilenet_weights: Path | None = None, places: Places | None = None) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        net, self.digest = published("mobilenet_v2", "IMAGENET1K_V1", places or mobilenet_places(mobilenet_weights))
        self.net = create_feature_extractor(net, list(LAYERS)).eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Perceptual:
        return self  # a copy of a model compares by the same

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Compare two `[B, 1 or 3, H, W]` in [0, 1] -> `[B]`.

        Raises:
            UserError: if images have another number of channels.
        """
        with torch.autocast(x.device.type, enabled=False):
            both = self.net.to(x.device)(as_imagenet(torch.cat([x, y]).float()))
            return torch.stack([_unit_distance(*maps.chunk(2)) for maps in both.values()]).sum(0)


def _unit_distance(f: Tensor, g: Tensor) -> Tensor:
    """Compare feature maps, two `[B, C, h, w]` -> `[B]`."""
    return (F.normalize(f, dim=1) - F.normalize(g, dim=1)).square().sum(1).mean((1, 2))
