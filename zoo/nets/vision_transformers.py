"""Vision transformers that were trained elsewhere, to compare images by: DINOv2 and CLIP, by `transformers`.

Weights are a folder with `config.json` and `model.safetensors`, as that library saves and downloads them; pickled ones
are not read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.nets.pretrained import MEAN, STD

DINOV2, DINOV2_VARIABLE = "facebook/dinov2-large", "VAE_ZOO_DINOV2"
CLIP, CLIP_VARIABLE = "openai/clip-vit-large-patch14-336", "VAE_ZOO_CLIP"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class _Transformer(nn.Module):
    """A network of `transformers` on images in [0, 1]: a subclass says of which class, and what its features are.

    Args:
        kind: The class's name in `transformers`.
        name: Of the weights on Hugging Face's hub.
        size: Pixels that images are resized to, bicubic with antialiasing.
        mean: Of the images that it was trained on, `[3]`.
        std: Theirs, `[3]`.
        setting: Which setting names a folder with the weights.
        configured: Its value.
        variable: The variable of the environment that may name it as well.

    Raises:
        UserError: if `transformers` is not installed, or weights are missing or others than those of this network.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        setting: str,
        configured: Path | None,
        variable: str,
    ) -> None:
        super().__init__()
        self.net = _published(kind, name, {setting: configured, variable: os.environ.get(variable)})
        self.size = min(size, self.net.config.image_size)
        self.resize = f"resized to {self.size} px bicubic with antialiasing"
        self.mean, self.std = mean, std

    def _prepared(self, images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise UserError(f"a network trained on photographs takes images of 1 or 3 channels, not {images.shape[1]}")
        x = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return (x - x.new_tensor(self.mean).view(3, 1, 1)) / x.new_tensor(self.std).view(3, 1, 1)


class DinoV2(_Transformer):
    """The class token of DINOv2 ViT-L/14 on images of 224 pixels. Oquab et al. 2023, arXiv:2304.07193.

    As Stein et al. 2023, arXiv:2306.04675, compare images, who find that it agrees with people better than Inception.

    Args:
        dinov2_weights: A folder with its weights; None: `$VAE_ZOO_DINOV2`, the hub's cache, or a download (1.2 GB).
    """

    def __init__(self, *, dinov2_weights: Path | None = None) -> None:
        setting = "benchmark.dinov2_weights"
        super().__init__("Dinov2Model", DINOV2, 224, MEAN, STD, setting, dinov2_weights, DINOV2_VARIABLE)
        self.num_features = self.net.config.hidden_size
        self.protocol = f"DINOv2 of {self.num_features} features, class token, {self.resize}"

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 1 or 3, H, W]` in [0, 1] to `[B, num_features]`."""
        return self.net(self._prepared(images)).pooler_output


class Clip(_Transformer):
    """The unit embedding of CLIP ViT-L/14 on images of 336 pixels. Radford et al. 2021, arXiv:2103.00020.

    Args:
        clip_weights: A folder with its weights; None: `$VAE_ZOO_CLIP`, the hub's cache, or a download (1.7 GB).
    """

    def __init__(self, *, clip_weights: Path | None = None) -> None:
        kind, setting = "CLIPVisionModelWithProjection", "benchmark.clip_weights"
        super().__init__(kind, CLIP, 336, CLIP_MEAN, CLIP_STD, setting, clip_weights, CLIP_VARIABLE)
        self.num_features = self.net.config.projection_dim
        self.protocol = f"CLIP of {self.num_features} numbers, unit length, {self.resize}"

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 1 or 3, H, W]` in [0, 1] to `[B, num_features]`, each of length one."""
        return F.normalize(self.net(self._prepared(images)).image_embeds, dim=1)


def _published(kind: str, name: str, places: dict[str, Any]) -> Any:
    """Build a network with its weights: from a folder that a setting names, the hub's cache, or a download."""
    try:
        import transformers
    except ImportError:
        missing = "transformers, which is not installed: pip install 'vae-zoo[features]'"
        raise UserError(f"{name} is a network of {missing}") from None
    source = name
    for setting, value in places.items():
        if value:
            source = str(Path(value).expanduser())
            if not os.path.isfile(Path(source) / "config.json"):
                raise UserError(f"{setting} names {source}, but there is no config.json, with weights beside it")
            break
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it prints tables of what fits and what does not
    transformers.logging.disable_progress_bar()
    try:
        net, told = getattr(transformers, kind).from_pretrained(source, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # its own, the hub's, those of a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        named = " or ".join(places)
        raise UserError(
            f"the weights of {source} could not be read or downloaded ({reason}): name a folder by {named}"
        ) from None
    finally:
        transformers.logging.set_verbosity(verbosity)
    if missing := told["missing_keys"]:
        raise UserError(f"{source} does not hold the weights of {name}: {len(missing)} of a {kind} are missing")
    return net.eval().requires_grad_(False)
