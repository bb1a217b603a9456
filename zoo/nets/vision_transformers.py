"""Vision transformers that were trained elsewhere, to compare images by: DINOv2 and CLIP, by `transformers`.

Weights are a folder with `config.json` and `model.safetensors`, as that library saves and downloads them; pickled ones
are not read, nor those in shards. Of `config.json` sizes are taken, and nothing that would load code.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.files import read_json
from zoo.nets.pretrained import MEAN, STD
from zoo.values import shown
from zoo.weights import read_weights

DINOV2, DINOV2_VARIABLE = "facebook/dinov2-large", "VAE_ZOO_DINOV2"
CLIP, CLIP_VARIABLE = "openai/clip-vit-large-patch14-336", "VAE_ZOO_CLIP"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LOADERS = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config")  # of a config.json


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
        if self.size != self.net.config.image_size:
            raise UserError(f"CLIP takes images of one size: {self.size} px, not {self.net.config.image_size}")
        self.num_features = self.net.config.projection_dim
        self.protocol = f"CLIP of {self.num_features} numbers, unit length, {self.resize}"

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 1 or 3, H, W]` in [0, 1] to `[B, num_features]`, each of length one."""
        return F.normalize(self.net(self._prepared(images)).image_embeds, dim=1)


Side = Annotated[int, Field(gt=0, le=2**20)]


class _Architecture(BaseModel):
    """What is taken from a `config.json`: sizes, and no word on what to load, import or download."""

    model_config = ConfigDict(extra="ignore", strict=True)

    hidden_size: Side
    num_hidden_layers: Annotated[int, Field(gt=0, le=1000)]
    num_attention_heads: Side
    image_size: Side
    patch_size: Side
    num_channels: Literal[3] = 3
    hidden_act: Literal["gelu", "quick_gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"] = "gelu"
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    intermediate_size: Side = 3072
    projection_dim: Side = 512
    mlp_ratio: Side = 4
    qkv_bias: bool = True
    use_mask_token: bool = True
    use_swiglu_ffn: bool = False

    @model_validator(mode="after")
    def _divides(self) -> _Architecture:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be divisible by num_attention_heads")
        if self.patch_size > self.image_size:
            raise ValueError("patch_size must be no more than image_size")
        return self


def _published(kind: str, name: str, places: dict[str, Any]) -> Any:
    """Build a network with its weights: from a folder that a setting names, the hub's cache, or a download."""
    try:
        import transformers
    except ImportError:
        missing = "transformers, which is not installed: pip install 'vae-zoo[features]'"
        raise UserError(f"{name} is a network of {missing}") from None
    setting, folder = next(
        ((setting, Path(value).expanduser()) for setting, value in places.items() if value), ("", None)
    )
    if folder is not None and not os.path.isfile(folder / "config.json"):
        raise UserError(f"{setting} names {folder}, but there is no config.json, with weights beside it")
    network = getattr(transformers, kind)
    given: dict[str, Any] = {"pretrained_model_name_or_path": name, "use_safetensors": True}
    if folder is not None:
        given = _of_folder(network, name, folder)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it prints tables of what fits and what does not
    transformers.logging.disable_progress_bar()
    try:
        net, told = network.from_pretrained(**given, attn_implementation="sdpa", output_loading_info=True)
    except Exception as error:  # its own, the hub's, those of a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the weights of {folder or name} could not be read or downloaded ({reason}): name a folder by "
            f"{' or '.join(places)}"
        ) from None
    finally:
        transformers.logging.set_verbosity(verbosity)
    if missing := told["missing_keys"]:
        raise UserError(f"{folder or name} does not hold the weights of {name}: {len(missing)} of a {kind} are missing")
    return net.eval().requires_grad_(False)


def _of_folder(network: Any, name: str, folder: Path) -> dict[str, Any]:
    """Read weights and sizes of a folder that anybody may have made; `from_pretrained` sees nothing else of it.

    That one would follow a `config.json` and files beside it to kernels, quantizers, adapters and indices of shards.

    Raises:
        UserError: if they are damaged, ask for such things, or do not go together.
    """
    config = _architecture(network, folder / "config.json")
    if not os.path.isfile(folder / "model.safetensors"):
        raise UserError(
            f"there is no model.safetensors in {folder}: weights that are pickled, or in shards, are not read"
        )
    weights = {key: tensor.float() for key, tensor in read_weights(folder / "model.safetensors").items()}
    there = sum(tensor.numel() for tensor in weights.values())
    with torch.device("meta"):
        needed = sum(parameter.numel() for parameter in network(config).parameters())
    if needed > there:
        raise UserError(
            f"{folder} does not hold the weights of {name}: by its config.json they are {needed:,} numbers, and "
            f"model.safetensors has {there:,}"
        )
    return {"pretrained_model_name_or_path": None, "config": config, "state_dict": weights}


def _architecture(network: Any, path: Path) -> Any:
    """Read a `config.json` of a network, or of one that it is a part of."""
    values = read_json(path)
    part = values.get("vision_config") if isinstance(values, dict) else None
    if isinstance(part, dict):
        values = {**part, **{key: values[key] for key in ("projection_dim", *LOADERS) if key in values}}
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings, but {type(values).__name__}")
    for key in LOADERS:
        if values.get(key) not in (None, "sdpa", "eager"):
            raise UserError(f"{path} names code to load by {key!r}, which is not done: remove it")
    try:
        sizes = _Architecture.model_validate(values)
        return network.config_class(**sizes.model_dump(exclude_unset=True))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        fault = f"{key} is {shown(first['input'])}: " if key and first["type"] != "missing" else f"{key} " * bool(key)
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path} describes no network of this kind: {fault}{message[0].lower()}{message[1:]}") from None
