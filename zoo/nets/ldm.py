"""The autoencoder under latent diffusion, whose weights go over to diffusers' `AutoencoderKL` and come from there."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.base import SYMMETRIC, BaseVAE, ImageSpec
from zoo.errors import UserError
from zoo.files import read_json
from zoo.nets.convolutions import Conv2d
from zoo.nets.pairs import Net, group_norm, must_divide, register_net

GROUPS = 32  # of diffusers, unless its config says otherwise
FILE = "diffusion_pytorch_model.safetensors"
MOST_CHANNELS = 1024  # of a latent; published ones have 4 to 128
# Names that diffusers gave its attention's maps before, and that most published files still have.
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

Widths = Annotated[list[PositiveInt], Field(min_length=1, max_length=5)]
Blocks = Annotated[int, Field(gt=0, le=100)]


def _norm(channels: int, groups: int | None) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6) if groups else group_norm(channels, GROUPS, eps=1e-6)


class ResnetBlock(nn.Module):
    """x + conv(conv(x)), each convolution behind GroupNorm and SiLU; a 1x1 convolution where the width changes."""

    def __init__(self, before: int, after: int, groups: int | None) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(before, groups), Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = _norm(after, groups), Conv2d(after, after, 3, padding=1)
        if before != after:
            self.conv_shortcut = Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, before, H, W]` -> `[B, after, H, W]`."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Attention(nn.Module):
    """x + attention of all positions to all, one head as wide as the map, behind GroupNorm."""

    def __init__(self, channels: int, groups: int | None) -> None:
        super().__init__()
        self.group_norm = _norm(channels, groups)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> the same shape."""
        h = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]  # [B, 1 head, H W, C]: ONNX knows attention by heads
        h = F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))[:, 0]
        return x + self.to_out(h).transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Halve height and width: a 3x3 convolution of stride 2, padded on the right and at the bottom alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C, H / 2, W / 2]`."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width by repetition, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C, 2 H, 2 W]`."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one width, and what leads to the next size, if anything does."""

    def __init__(
        self, before: int, after: int, blocks: int, groups: int | None, *, down: bool = False, up: bool = False
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(before if i == 0 else after, after, groups) for i in range(blocks))
        self.downsamplers = nn.ModuleList([Downsample(after)] if down else [])
        self.upsamplers = nn.ModuleList([Upsample(after)] if up else [])

    def forward(self, x: Tensor) -> Tensor:
        """`[B, before, H, W]` -> `[B, after, h, w]`."""
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class Middle(nn.Module):
    """A residual block, attention, a residual block."""

    def __init__(self, channels: int, groups: int | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> the same shape."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    """Levels down, the middle, and a convolution to the features; modules are named as in diffusers."""

    def __init__(self, in_channels: int, widths: list[int], blocks: int, features: int, groups: int | None) -> None:
        super().__init__()
        self.widths, self.blocks = widths, blocks
        self.conv_in = Conv2d(in_channels, widths[0], 3, padding=1)
        befores = [widths[0], *widths[:-1]]
        self.down_blocks = nn.ModuleList(
            Level(before, after, blocks, groups, down=i < len(widths) - 1)
            for i, (before, after) in enumerate(zip(befores, widths, strict=True))
        )
        self.mid_block = Middle(widths[-1], groups)
        self.conv_norm_out = _norm(widths[-1], groups)
        self.conv_out = Conv2d(widths[-1], features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, in_channels, H, W]` -> `[B, features, h, w]`."""
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """A convolution from the features, the middle, and levels up; modules are named as in diffusers."""

    def __init__(self, features: int, widths: list[int], blocks: int, out_channels: int, groups: int | None) -> None:
        super().__init__()
        up = widths[::-1]
        self.conv_in = Conv2d(features, up[0], 3, padding=1)
        self.mid_block = Middle(up[0], groups)
        self.up_blocks = nn.ModuleList(
            Level(before, after, blocks + 1, groups, up=i < len(up) - 1)
            for i, (before, after) in enumerate(zip([up[0], *up[:-1]], up, strict=True))
        )
        self.conv_norm_out = _norm(up[-1], groups)
        self.conv_out = Conv2d(up[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, features, h, w]` -> `[B, out_channels, H, W]`."""
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


@register_net("ldm", "latent diffusion's: residual blocks, attention in the middle, few channels", range=SYMMETRIC)
def ldm(
    image: ImageSpec,
    in_channels: int,
    *,
    hidden_dims: Widths = [32, 64, 128],  # noqa: B006 (never changed)
    blocks: Blocks = 2,
    z_channels: PositiveInt = 4,
    norm_groups: PositiveInt | None = None,
) -> Net:
    """The autoencoder of Rombach et al. 2022, arXiv:2112.10752; of diffusers' `AutoencoderKL` where the latent fits.

    Each width but the last is followed by a halving of the size: three widths for f = 4, four for f = 8, five for
    f = 16. The published ones of f = 4 are 128, 256 and 512 wide. Attention is in the middle alone, as theirs of f = 4
    and 8 have it; that of f = 16 has some in its levels too, and can't be taken over.

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        hidden_dims: Widths of the levels, one halving of the size between two; the decoder has them in reverse.
        blocks: Residual blocks of a level; the decoder has one more.
        z_channels: Channels that the decoder begins with; the encoder ends with twice as many, for mean and variance.
        norm_groups: Groups of a GroupNorm, diffusers' `norm_num_groups`; None: 32, or fewer where one would have less
            than four channels, which leaves bright spots in images.

    Raises:
        UserError: if the image can't be halved so often, or the groups do not divide a width.
    """
    factor = 2 ** (len(hidden_dims) - 1)
    must_divide("ldm", image, factor)
    if norm_groups is not None and any(width % norm_groups for width in hidden_dims):
        raise UserError(f"model.norm_groups={norm_groups} must divide each of model.hidden_dims, {hidden_dims}")
    grid = (image.height // factor, image.width // factor)
    return Net(
        Encoder(in_channels, hidden_dims, blocks, 2 * z_channels, norm_groups),
        Decoder(z_channels, hidden_dims, blocks, image.channels, norm_groups),
        feature_shape=(2 * z_channels, *grid),
        decoder_shape=(z_channels, *grid),
    )


# ---- to diffusers and back


def is_of_diffusers(names: Container[str]) -> bool:
    """Say whether these are the names of an `AutoencoderKL`'s weights."""
    return "encoder.down_blocks.0.resnets.0.conv1.weight" in names and "to_mu.weight" not in names


def from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an `AutoencoderKL` to those of a Gaussian variant on net `ldm` with `latent=grid`.

    Its `quant_conv` becomes the maps to mean and log variance; where it has none, they pass on what they are given.

    Raises:
        UserError: if the tensors that say how many latent channels there are contradict each other.
    """
    own: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for old, new in OLDER.items():
            name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
        of_attention = ".attentions.0.to_" in name and tensor.ndim == 4
        own[name] = (tensor.flatten(1) if of_attention else tensor).float()
    first = tuple(own["decoder.conv_in.weight"].shape) if "decoder.conv_in.weight" in own else ()
    if len(first) != 4 or not 0 < first[1] <= MOST_CHANNELS:
        raise UserError(
            f"decoder.conv_in.weight {f'is {list(first)}' if first else 'is not there, or one number'}, where [widest, "
            f"latent channels, 3, 3] would be right, with at most {MOST_CHANNELS:,} latent channels"
        )
    for conv, size in (("quant_conv", 2 * first[1]), ("post_quant_conv", first[1])):
        own.setdefault(f"{conv}.weight", torch.eye(size)[:, :, None, None])
        own.setdefault(f"{conv}.bias", torch.zeros(size))
        for part, shape in (("weight", (size, size, 1, 1)), ("bias", (size,))):
            if (given := own[f"{conv}.{part}"].shape) != shape:
                raise UserError(
                    f"{conv}.{part} is {list(given)}, where {list(shape)} would be right, as decoder.conv_in.weight "
                    f"takes {first[1]} latent channels"
                )
    for part in ("weight", "bias"):
        own[f"to_mu.{part}"], own[f"to_logvar.{part}"] = own.pop(f"quant_conv.{part}").chunk(2)
        own[f"from_latent.conv.{part}"] = own.pop(f"post_quant_conv.{part}")
    return own


def see_that_groups_agree(model: nn.Module, weights: Path) -> None:
    """See that a model on net `ldm` normalises the groups that an `AutoencoderKL` does.

    They stand in the config beside its weights; without one they are diffusers' default, where that can be.

    Raises:
        UserError: if it does not.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        return
    config = read_json(weights.parent / "config.json") if (weights.parent / "config.json").is_file() else {}
    groups = config.get("norm_num_groups") if isinstance(config, dict) else None
    groups = groups if isinstance(groups, int) else GROUPS
    ours = _groups(encoder)
    if ours != {groups} and (config or not any(width % GROUPS for width in encoder.widths)):
        raise UserError(
            f"the AutoencoderKL in {weights.parent} normalises {groups} groups of channels, and this model "
            f"{' and '.join(map(str, sorted(ours)))}: set model.norm_groups={groups}"
        )


def _groups(encoder: Encoder) -> set[int]:
    return {layer.num_groups for layer in encoder.modules() if isinstance(layer, nn.GroupNorm)}


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of such a variant to those of an `AutoencoderKL`: the inverse of `from_diffusers`."""
    theirs = {name: tensor for name, tensor in weights.items() if name.startswith(("encoder.", "decoder."))}
    for part in ("weight", "bias"):
        theirs[f"quant_conv.{part}"] = torch.cat([weights[f"to_mu.{part}"], weights[f"to_logvar.{part}"]])
        theirs[f"post_quant_conv.{part}"] = weights[f"from_latent.conv.{part}"]
    return theirs


def write_for_diffusers(model: BaseVAE, folder: Path) -> None:
    """Write what `diffusers.AutoencoderKL.from_pretrained(folder)` reads: the weights, and a `config.json`.

    Args:
        model: A Gaussian variant on net `ldm` with `latent=grid` and as many channels as the net's `z_channels`, on
            images in [-1, 1] without an activation (`out_activation=none`), as diffusers has them.
        folder: Where.

    Raises:
        UserError: if it is another model.
    """
    encoder, decoder, grid = (getattr(model, name, None) for name in ("encoder", "decoder", "latent_shape"))
    if not (isinstance(encoder, Encoder) and isinstance(decoder, Decoder) and grid and hasattr(model, "to_logvar")):
        raise UserError(
            "diffusers' AutoencoderKL is a Gaussian variant on net 'ldm' with latent=grid, and this is none"
        )
    likelihood: Any = model.likelihood
    if likelihood.outputs != model.image.channels:
        raise UserError(
            f"diffusers' AutoencoderKL gives a pixel's channels as they are, and this {likelihood.outputs} numbers a "
            "pixel: train it with another model.recon"
        )
    if model.image.range != SYMMETRIC or likelihood.activation != "none":
        low, high = model.image.range
        raise UserError(
            f"diffusers' AutoencoderKL makes images in [-1, 1] without an activation, and this in [{low:g}, {high:g}] "
            f"with {likelihood.activation}: train it with data.range=[-1,1] and model.out_activation=none"
        )
    if model.needs_labels:
        raise UserError("diffusers' AutoencoderKL takes no labels, and this model does")
    if grid[0] != decoder.conv_in.in_channels:
        raise UserError(
            f"diffusers' AutoencoderKL has as many latent channels as its decoder begins with, and this has {grid[0]} "
            f"and {decoder.conv_in.in_channels}: set model.latent_dim and model.z_channels alike"
        )
    groups = _groups(encoder)
    if len(groups) > 1:
        raise UserError(
            "diffusers' AutoencoderKL normalises one number of groups, and this model "
            f"{' and '.join(map(str, sorted(groups)))}: train it with one model.norm_groups"
        )
    settings: dict[str, Any] = {
        "_class_name": "AutoencoderKL",
        "in_channels": encoder.conv_in.in_channels,
        "out_channels": decoder.conv_out.out_channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(encoder.widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(encoder.widths),
        "block_out_channels": encoder.widths,
        "layers_per_block": encoder.blocks,
        "act_fn": "silu",
        "latent_channels": grid[0],
        "norm_num_groups": groups.pop(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in to_diffusers(model.state_dict()).items()}
    save_file(weights, folder / FILE, {"format": "pt"})
