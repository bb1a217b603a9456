"""Encoder / decoder pairs. A variant is an objective; a net is what it runs on, and any variant runs on any net.

An encoder turns images `[B, C, H, W]` into features; a decoder turns features of the same shape (or of one that the net
names) into an image's raw values `[B, C, H, W]`, before any activation. What lies between belongs to the variant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from zoo.base import SYMMETRIC, ImageSpec
from zoo.errors import PluginError, UserError, crash, is_ours, place
from zoo.nets.convolutions import Conv2d, ConvTranspose2d
from zoo.options import check_options, signature_options
from zoo.registry import Registry

Widths = Annotated[list[PositiveInt], Field(min_length=1, max_length=100)]
LEAST_OF_A_GROUP = 4  # channels: the narrowest level of latent diffusion's nets has 128, in 32 groups
Hidden = Literal["relu", "tanh", "softplus", "leaky_relu", "elu", "gelu"]
HIDDEN: dict[str, type[nn.Module]] = {
    **{"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU},
    "gelu": nn.GELU,
}


@dataclass
class Net:
    """A pair.

    Attributes:
        encoder: `[B, in_channels, H, W]` -> `[B, *feature_shape]`.
        decoder: `[B, *feature_shape]` -> `[B, C, H, W]`, raw.
        feature_shape: `(F,)` for fully connected nets, `(F, h, w)` for convolutional ones.
        decoder_shape: What the decoder takes, if not features of the shape that the encoder returns.
    """

    encoder: nn.Module
    decoder: nn.Module
    feature_shape: tuple[int, ...]
    decoder_shape: tuple[int, ...] | None = None


NETS: Registry[Callable[..., Net]] = Registry(
    "net", package="zoo.nets", decorator="register_net", given=("image", "in_channels")
)
register_net = NETS.register


def build_net(name: str, image: ImageSpec, in_channels: int | None = None, **options: Any) -> Net:
    """Build a net by name.

    Args:
        name: A registered net.
        image: Shape of the images.
        in_channels: Channels the encoder sees, if not the image's own: a conditional model adds some.
        **options: The net's own.

    Raises:
        UserError: if the name or an option is unknown, or the net can't take images of this size.
        PluginError: if the function fails, or returns anything but an encoder and a decoder that fit the images.
    """
    entry = NETS.lookup(name)
    checked = check_options(f"net {name!r}", signature_options(entry.target), options)
    channels = in_channels or image.channels
    if is_ours(entry.target):
        return entry.target(image, channels, **checked)
    what = f"net {name!r}: {entry.target.__name__}"
    try:
        net = entry.target(image, channels, **checked)
    except UserError:
        raise
    except Exception as error:
        raise crash(what, error, entry.target) from error
    fault = _fault(net, image, channels, what)
    if fault:
        raise PluginError(f"{fault} ({place(entry.target)})")
    return net


def _fault(net: object, image: ImageSpec, channels: int, what: str) -> str:
    """Say what is wrong with what somebody's function returned, having tried it on two images of noise; "" if nothing.

    Neither its weights and statistics nor the random state change.
    """
    if not isinstance(net, Net):
        kind = type(net).__name__
        return f"{what} returned a {kind}; it must return zoo.nets.pairs.Net(encoder, decoder, feature_shape)"
    shape = net.feature_shape
    if not isinstance(shape, tuple) or len(shape) not in (1, 3) or not all(isinstance(n, int) for n in shape):
        return f"{what} returned a Net whose feature_shape is {shape!r}; it must be (F,) or (F, h, w)"
    given = {"encoder": (channels, image.height, image.width), "decoder": net.decoder_shape or shape}
    wanted = {"encoder": shape, "decoder": image.shape}
    for part, size in given.items():
        module = getattr(net, part)
        if not isinstance(module, nn.Module):
            return f"{what} returned a Net whose {part} is a {type(module).__name__}; it must be a torch.nn.Module"
        modes = {each: each.training for each in module.modules()}
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                found = module.eval()(torch.rand(2, *size))
        except Exception as error:
            raise crash(f"{what}: its {part}, given {[2, *size]},", error, module.forward) from error
        finally:
            for each, training in modes.items():
                each.training = training
        if not isinstance(found, Tensor):
            return f"{what}: its {part} returns a {type(found).__name__}; it must return a tensor"
        if found.shape != (2, *wanted[part]):
            return f"{what}: its {part} turns {[2, *size]} into {list(found.shape)}; it must be {[2, *wanted[part]]}"
    return ""


@register_net("mlp", "fully connected, 784-400 by default")
def mlp(
    image: ImageSpec,
    in_channels: int,
    *,
    hidden_dims: Widths = [400],  # noqa: B006 (never changed)
    activation: Hidden = "relu",
) -> Net:
    """Fully connected layers with an activation between them; any image size.

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        hidden_dims: Widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: Of the hidden layers: relu, tanh, softplus, leaky_relu, elu or gelu.
    """
    act = HIDDEN[activation]
    widths = [in_channels * image.height * image.width, *hidden_dims]
    encoder: list[nn.Module] = [nn.Flatten()]
    for before, after in zip(widths, widths[1:], strict=False):
        encoder += [nn.Linear(before, after), act()]
    widths = [*reversed(hidden_dims), image.pixels]
    decoder: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        decoder += [act(), nn.Linear(before, after)]
    decoder.append(nn.Unflatten(1, image.shape))
    return Net(nn.Sequential(*encoder), nn.Sequential(*decoder), (hidden_dims[-1],))


def conv_block(before: int, after: int, *, norm: bool = True, slope: float = 0.0) -> nn.Sequential:
    """Halve height and width: 4x4 convolution, stride 2, then BatchNorm and (leaky) ReLU."""
    return _block(Conv2d(before, after, 4, stride=2, padding=1), after, norm, slope)


def deconv_block(before: int, after: int, *, norm: bool = True, slope: float = 0.0) -> nn.Sequential:
    """Double height and width: 4x4 transposed convolution, stride 2, then BatchNorm and (leaky) ReLU."""
    return _block(ConvTranspose2d(before, after, 4, stride=2, padding=1), after, norm, slope)


def _block(convolution: nn.Module, channels: int, norm: bool, slope: float) -> nn.Sequential:
    layers = [convolution, nn.BatchNorm2d(channels)] if norm else [convolution]
    return nn.Sequential(*layers, nn.LeakyReLU(slope) if slope else nn.ReLU())


def must_divide(name: str, image: ImageSpec, factor: int) -> None:
    """See that an image can be halved down to a grid.

    Raises:
        UserError: if it can't.
    """
    if image.height % factor or image.width % factor:
        height, width = (max(factor, factor * round(side / factor)) for side in (image.height, image.width))
        size = height if height == width else [height, width]
        raise UserError(
            f"net {name!r} needs height and width divisible by {factor}, not {image.height} x {image.width}: "
            f"set data.size={size}, or choose net 'vanilla' or 'mlp', which take any size"
        )


@register_net("conv", "four stride-2 4x4 convolutions with BatchNorm")
def conv(image: ImageSpec, in_channels: int, *, base_channels: PositiveInt = 64) -> Net:
    """DCGAN-like; sizes divisible by 16.

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        base_channels: Width of the outermost layer; the others are 2, 4 and 8 times as wide.
    """
    must_divide("conv", image, 16)
    c = base_channels
    encoder = nn.Sequential(
        conv_block(in_channels, c, norm=False), conv_block(c, 2 * c), conv_block(2 * c, 4 * c), conv_block(4 * c, 8 * c)
    )
    decoder = nn.Sequential(
        deconv_block(8 * c, 4 * c),
        deconv_block(4 * c, 2 * c),
        deconv_block(2 * c, c),
        ConvTranspose2d(c, image.channels, 4, stride=2, padding=1),
    )
    return Net(encoder, decoder, (8 * c, image.height // 16, image.width // 16))


@register_net("celeba", "conv blocks down to a pooled 4x4, deconv blocks up again", range=SYMMETRIC)
def celeba(image: ImageSpec, in_channels: int, *, base_channels: PositiveInt = 32) -> Net:
    """Blocks with BatchNorm and LeakyReLU, averaged to 4x4; square sizes 8, 16, 32, 64, ….

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        base_channels: Width of the outermost block; each further one is twice as wide.
    """
    blocks = int(math.log2(image.height / 4)) if image.height >= 8 else 0
    if image.height != image.width or image.height != 4 * 2**blocks or not blocks:
        raise UserError(
            f"net 'celeba' needs square images of 8, 16, 32, 64, 128, … pixels, not {image.height} x {image.width}: "
            "set data.size=64, or choose net 'vanilla', which takes any size"
        )
    widths = [base_channels * 2**i for i in range(blocks)]
    encoder = [conv_block(a, b, slope=0.2) for a, b in zip([in_channels, *widths], widths, strict=False)]
    up = widths[::-1]
    decoder = [deconv_block(a, b, slope=0.2) for a, b in zip(up, [*up[1:], base_channels], strict=True)]
    return Net(
        nn.Sequential(*encoder, nn.AdaptiveAvgPool2d(4)),
        nn.Sequential(*decoder, Conv2d(base_channels, image.channels, 3, padding=1)),
        (widths[-1], 4, 4),
    )


@register_net("mnist", "two stride-2 convolutions and a hidden layer, for small grey images")
def mnist(image: ImageSpec, in_channels: int, *, base_channels: PositiveInt = 32, hidden_dim: PositiveInt = 256) -> Net:
    """Convolutions to a quarter of the size, then one fully connected layer; sizes divisible by 4.

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        base_channels: Width of the first convolution; the second is twice as wide.
        hidden_dim: Width of the fully connected layer.
    """
    must_divide("mnist", image, 4)
    c = base_channels
    small = (2 * c, image.height // 4, image.width // 4)
    encoder = nn.Sequential(
        conv_block(in_channels, c, norm=False),
        conv_block(c, 2 * c, norm=False),
        nn.Flatten(),
        nn.Linear(math.prod(small), hidden_dim),
        nn.ReLU(),
    )
    decoder = nn.Sequential(
        nn.ReLU(),
        nn.Linear(hidden_dim, math.prod(small)),
        nn.ReLU(),
        nn.Unflatten(1, small),
        deconv_block(2 * c, c, norm=False),
        ConvTranspose2d(c, image.channels, 4, stride=2, padding=1),
    )
    return Net(encoder, decoder, (hidden_dim,))


@register_net("vanilla", "stride-2 3x3 convolutions with BatchNorm and LeakyReLU, any size", range=SYMMETRIC)
def vanilla(
    image: ImageSpec,
    in_channels: int,
    *,
    hidden_dims: Widths = [32, 64, 128, 256, 512],  # noqa: B006 (never changed)
) -> Net:
    """Stride-2 3x3 convolutions; odd sizes are halved upwards and doubled back to what they were.

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        hidden_dims: Widths, one convolution each; the decoder has them in reverse.
    """
    sizes = _halvings(image, len(hidden_dims))
    encoder = [
        _block(Conv2d(before, after, 3, stride=2, padding=1), after, norm=True, slope=0.01)
        for before, after in zip([in_channels, *hidden_dims], hidden_dims, strict=False)
    ]
    widths = [*reversed(hidden_dims), hidden_dims[0]]
    decoder = [
        _block(_double_3x3(before, after, size), after, norm=True, slope=0.01)
        for before, after, size in zip(widths, widths[1:], reversed(sizes[:-1]), strict=False)
    ]
    to_image = Conv2d(hidden_dims[0], image.channels, 3, padding=1)
    return Net(nn.Sequential(*encoder), nn.Sequential(*decoder, to_image), (hidden_dims[-1], *sizes[-1]))


def _halvings(image: ImageSpec, times: int) -> list[tuple[int, int]]:
    """Heights and widths before, between and after so many halvings that round up."""
    sizes = [(image.height, image.width)]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append((math.ceil(height / 2), math.ceil(width / 2)))
    return sizes


def _double_3x3(before: int, after: int, size: tuple[int, int]) -> ConvTranspose2d:
    # h -> 2h - 1 + output_padding: the padding is 1 for an even target and 0 for an odd one.
    padding = (1 - size[0] % 2, 1 - size[1] % 2)
    return ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=padding)


def group_norm(channels: int, most: int, eps: float = 1e-5) -> nn.GroupNorm:
    """Return a GroupNorm of up to so many groups, each of four channels or more where there are as many.

    Where a channel is normalised alone, a decoder learns to draw a bright spot into each image, by which it sets how
    strong all else is (Karras et al. 2020, arXiv:1912.04958, section 2).
    """
    groups = math.gcd(most, channels)
    while groups > 1 and channels < LEAST_OF_A_GROUP * groups:
        groups //= 2
    return nn.GroupNorm(groups, channels, eps=eps)


class ResidualBlock(nn.Module):
    """x + conv(conv(x)), each convolution behind GroupNorm and SiLU; a 1x1 convolution where the width changes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            group_norm(before, 8),
            nn.SiLU(),
            Conv2d(before, after, 3, padding=1),
            group_norm(after, 8),
            nn.SiLU(),
            Conv2d(after, after, 3, padding=1),
        )
        self.skip = Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, before, H, W]` -> `[B, after, H, W]`."""
        return self.skip(x) + self.body(x)


class UpsampleTo(nn.Module):
    """Nearest-neighbour upsampling to a fixed size, then a 3x3 convolution: no checkerboard."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` -> `[B, C, *size]`."""
        return self.conv(F.interpolate(x, size=self.size, mode="nearest"))


@register_net("resnet", "residual blocks with GroupNorm and SiLU, for quality")
def resnet(
    image: ImageSpec,
    in_channels: int,
    *,
    hidden_dims: Widths = [32, 64, 128, 128],  # noqa: B006 (never changed)
    blocks: Annotated[int, Field(gt=0, le=100)] = 1,
) -> Net:
    """Residual blocks; any size. No BatchNorm: ranks need no synchronising.

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        hidden_dims: Widths, one halving of the size each; the decoder has them in reverse.
        blocks: Residual blocks at each width.
    """
    sizes = _halvings(image, len(hidden_dims))
    encoder: list[nn.Module] = [Conv2d(in_channels, hidden_dims[0], 3, padding=1)]
    before = hidden_dims[0]
    for width in hidden_dims:
        encoder.append(Conv2d(before, before, 3, stride=2, padding=1))
        encoder += _residual(before, width, blocks)
        before = width
    decoder: list[nn.Module] = []
    for width, size in zip([*reversed(hidden_dims[:-1]), hidden_dims[0]], reversed(sizes[:-1]), strict=True):
        decoder += [*_residual(before, width, blocks), UpsampleTo(width, size)]
        before = width
    decoder += [*_residual(before, before, 1), group_norm(before, 8), nn.SiLU()]
    decoder.append(Conv2d(before, image.channels, 3, padding=1))
    return Net(nn.Sequential(*encoder), nn.Sequential(*decoder), (hidden_dims[-1], *sizes[-1]))


def _residual(before: int, after: int, blocks: int) -> Sequence[nn.Module]:
    return [ResidualBlock(before if i == 0 else after, after) for i in range(blocks)]


def label_vector(y: Tensor, image: ImageSpec) -> Tensor:
    """Write labels as float vectors `[B, label_dim]`: classes `[B]` one-hot, attributes `[B, A]` as they are."""
    return F.one_hot(y, image.classes).to(torch.float32) if image.classes else y.float()


def latent_critic(latent_dim: int, width: int, layers: int) -> nn.Sequential:
    """Build what tells two kinds of latents apart: `[B, latent_dim]` -> one logit each, `[B, 1]`; LeakyReLU(0.2)."""
    widths = [latent_dim, *[width] * layers]
    hidden: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        hidden += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*hidden, nn.Linear(width, 1))
