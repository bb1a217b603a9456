"""Net `ldm`: what it takes and gives is diffusers' `AutoencoderKL`, name by name and number by number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.runs import make_config
from zoo.base import SYMMETRIC, ImageSpec
from zoo.engine.setup import init_from, set_up
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.models import create
from zoo.nets.ldm import (
    FILE,
    Attention,
    Downsample,
    ResnetBlock,
    Upsample,
    from_diffusers,
    is_of_diffusers,
    to_diffusers,
    write_for_diffusers,
)
from zoo.nets.pairs import build_net

WIDTHS, BLOCKS, CHANNELS = (32, 64), 2, 3
IMAGE = ImageSpec(3, 16, 24, SYMMETRIC)


def ours(**options: Any) -> GaussianVAE:
    torch.manual_seed(0)
    given: dict[str, Any] = {"hidden_dims": list(WIDTHS), "blocks": BLOCKS, "norm_groups": 32}
    given |= {"z_channels": CHANNELS, "latent_dim": CHANNELS}
    model = create("beta", IMAGE, **{"net": "ldm", "latent": "grid", "out_activation": "none", **given, **options})
    assert isinstance(model, GaussianVAE)
    return model.eval()


def theirs(quantised: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of `AutoencoderKL` (diffusers 0.42), written out by its rules."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def resnet(name: str, before: int, after: int) -> None:
        add(f"{name}.norm1", before)
        add(f"{name}.conv1", after, before, 3, 3)
        add(f"{name}.norm2", after)
        add(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            add(f"{name}.conv_shortcut", after, before, 1, 1)

    def middle(name: str, width: int) -> None:
        for i in (0, 1):
            resnet(f"{name}.resnets.{i}", width, width)
        add(f"{name}.attentions.0.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            add(f"{name}.attentions.0.{part}", width, width)

    first, last = WIDTHS
    add("encoder.conv_in", first, 3, 3, 3)
    for i in range(BLOCKS):
        resnet(f"encoder.down_blocks.0.resnets.{i}", first, first)
        resnet(f"encoder.down_blocks.1.resnets.{i}", first if i == 0 else last, last)
    add("encoder.down_blocks.0.downsamplers.0.conv", first, first, 3, 3)
    middle("encoder.mid_block", last)
    add("encoder.conv_norm_out", last)
    add("encoder.conv_out", 2 * CHANNELS, last, 3, 3)
    add("decoder.conv_in", last, CHANNELS, 3, 3)
    middle("decoder.mid_block", last)
    for i in range(BLOCKS + 1):
        resnet(f"decoder.up_blocks.0.resnets.{i}", last, last)
        resnet(f"decoder.up_blocks.1.resnets.{i}", last if i == 0 else first, first)
    add("decoder.up_blocks.0.upsamplers.0.conv", last, last, 3, 3)
    add("decoder.conv_norm_out", first)
    add("decoder.conv_out", 3, first, 3, 3)
    if quantised:
        add("quant_conv", 2 * CHANNELS, 2 * CHANNELS, 1, 1)
        add("post_quant_conv", CHANNELS, CHANNELS, 1, 1)
    return shapes


def random_weights(**options: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in theirs(**options).items()}


def load(model: GaussianVAE, weights: dict[str, Tensor]) -> GaussianVAE:
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["progress"] and not unexpected
    return model


def test_names_and_shapes_are_those_of_diffusers() -> None:
    given = to_diffusers(ours().state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in given.items()} == theirs()


def test_there_and_back_is_the_same() -> None:
    weights = random_weights()
    assert is_of_diffusers(weights) and not is_of_diffusers(from_diffusers(weights))
    back = to_diffusers(from_diffusers(weights))
    assert back.keys() == weights.keys() and all(torch.equal(back[name], weights[name]) for name in weights)


def test_older_names_are_read_too() -> None:
    weights, older = random_weights(), {}
    for name, tensor in weights.items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f"attentions.0.{new}", f"attentions.0.{old}")
        of_attention = any(word in name for word in ("query.w", "key.w", "value.w", "proj_attn.w"))
        older[name] = (tensor[:, :, None, None] if of_attention else tensor).half()
    assert older.keys() != weights.keys()
    found, expected = from_diffusers(older), from_diffusers(weights)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)


def test_the_moments_and_the_image_are_those_of_the_convolutions_by_hand() -> None:
    """What `AutoencoderKL` has around encoder and decoder: a 1x1 convolution split in two, and one back."""
    weights = random_weights()
    model = load(ours(), from_diffusers(weights))
    x = torch.rand(2, *IMAGE.shape) * 2 - 1
    with torch.no_grad():
        features = model.encoder(x)
        moments = F.conv2d(features, weights["quant_conv.weight"], weights["quant_conv.bias"])
        mu, logvar = model.encode(x)
        torch.testing.assert_close(torch.cat([mu, logvar], 1), moments.flatten(1), rtol=0, atol=1e-5)
        z = mu.unflatten(1, (CHANNELS, 8, 12))
        back = F.conv2d(z, weights["post_quant_conv.weight"], weights["post_quant_conv.bias"])
        torch.testing.assert_close(model.logits(mu), model.decoder(back), rtol=0, atol=1e-5)


def test_without_its_convolutions_the_features_are_the_moments() -> None:
    weights = random_weights(quantised=False)
    model = load(ours(), from_diffusers(weights))
    x = torch.rand(2, *IMAGE.shape)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(model.encode(x), 1), model.encoder(x).flatten(1))  # type: ignore[arg-type]


@pytest.fixture
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason="diffusers is not installed")


def test_outputs_equal_diffusers(diffusers: Any, tmp_path: Path) -> None:
    """On random weights, taken over and written out."""
    torch.manual_seed(3)
    settings = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    other = diffusers.AutoencoderKL(
        block_out_channels=WIDTHS, layers_per_block=BLOCKS, latent_channels=CHANNELS, **settings
    ).eval()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = load(ours(), from_diffusers(other.state_dict()))
    write_for_diffusers(model, tmp_path / "out")
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path / "out").eval()
    x = torch.rand(2, *IMAGE.shape) * 2 - 1
    with torch.no_grad():
        mu, logvar = model.encode(x)
        for each in (other, again):
            posterior = each.encode(x).latent_dist
            torch.testing.assert_close(posterior.mean.flatten(1), mu, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(posterior.logvar.flatten(1), logvar, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(each.decode(posterior.mean).sample, model.logits(mu), rtol=1e-5, atol=1e-5)


def test_what_is_written_says_how_to_build_it(tmp_path: Path) -> None:
    write_for_diffusers(ours(), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderKL" and config["latent_channels"] == CHANNELS
    assert (config["block_out_channels"], config["layers_per_block"]) == (list(WIDTHS), BLOCKS)
    assert config["norm_num_groups"] == 32 and len(config["up_block_types"]) == 2
    assert load_file(tmp_path / "out" / FILE).keys() == theirs().keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"net": "grid", "z_channels": None, "hidden_dims": None, "blocks": 1}, "net 'ldm' with latent=grid, and this"),
        ({"latent": "flat"}, "net 'ldm' with latent=grid, and this is none"),
        (
            {"out_activation": "tanh"},
            r"and this in \[-1, 1\] with tanh: train it with data.range=\[-1,1\] and",
        ),
        (
            {"recon": "logistic_mixture", "out_activation": None},
            "gives a pixel's channels as they are, and this \\d+ numbers",
        ),
        ({"latent_dim": 5}, "this has 5 and 3: set model.latent_dim and model.z_channels alike"),
        ({"hidden_dims": [64, 128], "norm_groups": None}, "and this model 16 and 32: train it with one model.norm_gr"),
    ],
)
def test_what_diffusers_does_not_have_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = ours(**options) if options.get("net") != "grid" else create("beta", IMAGE, net="grid", latent="grid")
    with pytest.raises(UserError, match=words):
        write_for_diffusers(model, tmp_path / "out")  # type: ignore[arg-type]


def test_a_model_of_other_images_or_of_labels_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"net": "ldm", "latent": "grid", "hidden_dims": [4, 4], "blocks": 1, "latent_dim": 4}
    for name, image, words in (
        ("beta", ImageSpec(1, 8, 8), "and this in [0, 1] with none"),
        ("conditional", ImageSpec(1, 8, 8, SYMMETRIC, classes=3), "takes no labels, and this model does"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            write_for_diffusers(create(name, image, out_activation="none", **options), tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_run_starts_from_diffusers_weights(as_folder: bool, tmp_path: Path, capsys: Any) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    weights = random_weights()
    weights["encoder.conv_in.weight"] = weights["encoder.conv_in.weight"][:, :1].contiguous()
    weights["decoder.conv_out.weight"] = weights["decoder.conv_out.weight"][:1].contiguous()
    weights["decoder.conv_out.bias"] = weights["decoder.conv_out.bias"][:1].contiguous()
    (tmp_path / "vae").mkdir()
    save_file(weights, tmp_path / "vae" / FILE, {"format": "pt"})
    options = {"name": "beta", "net": "ldm", "latent": "grid", "hidden_dims": list(WIDTHS), "blocks": BLOCKS}
    options |= {"norm_groups": 32}
    options |= {"z_channels": CHANNELS, "latent_dim": CHANNELS, "out_activation": "none"}
    source = tmp_path / "vae" if as_folder else tmp_path / "vae" / FILE
    run = set_up(make_config(tmp_path / "r", model=options, init_from=str(source)))
    given = from_diffusers(weights)
    state = run.model.state_dict()
    assert all(torch.equal(state[name], given[name]) for name in given)
    assert f"init    {len(given)} of {len(given)} tensors from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "groups", "theirs"),
    [
        (None, 32, None),
        (None, None, 32),  # diffusers' default
        ({"norm_num_groups": 16}, 16, None),
        ({"norm_num_groups": 16}, None, 16),
        ({"act_fn": "silu"}, 16, 32),
        ({"norm_num_groups": [8]}, 16, 32),
    ],
)
def test_weights_are_normalised_as_they_were_trained(
    config: dict[str, Any] | None, groups: int | None, theirs: int | None, tmp_path: Path
) -> None:
    save_file(random_weights(), tmp_path / FILE)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    model = ours(norm_groups=groups)
    if theirs is None:
        init_from(model, tmp_path)
    else:
        with pytest.raises(UserError, match=f"normalises {theirs} groups.* set model.norm_groups={theirs}$"):
            init_from(model, tmp_path)


def groups(net: str, *widths: int, **options: Any) -> list[tuple[int, int]]:
    built = build_net(net, ImageSpec(3, 32, 32), hidden_dims=list(widths), blocks=1, **options)
    modules = [*built.encoder.modules(), *built.decoder.modules()]
    return sorted({(m.num_channels, m.num_groups) for m in modules if isinstance(m, torch.nn.GroupNorm)})


def test_no_channel_is_normalised_alone() -> None:
    """Karras et al. 2020 (StyleGAN2) find that it leaves spots; the published widths keep the 32 groups they have."""
    assert groups("ldm", 16, 32, 64) == [(16, 4), (32, 8), (64, 16)]
    assert groups("ldm", 128, 256, 320) == [(128, 32), (256, 32), (320, 32)]
    assert groups("ldm", 6, 30) == [(6, 1), (30, 2)]
    assert groups("resnet", 8, 32) == [(8, 2), (32, 8)]


def test_groups_are_given_and_divide_each_width() -> None:
    assert groups("ldm", 16, 32, norm_groups=8) == [(16, 8), (32, 8)]
    with pytest.raises(UserError, match=r"model.norm_groups=8 must divide each of model.hidden_dims, \[12, 16\]"):
        groups("ldm", 12, 16, norm_groups=8)


def _mutated(weights: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the weights with one tensor gone, or of another shape or type."""
    for name, tensor in weights.items():
        yield f"no {name}", {other: weights[other] for other in weights if other != name}
        changes = [torch.tensor(1.0), torch.zeros(1000), tensor * torch.nan]
        if name == "decoder.conv_in.weight" or "quant_conv" in name:
            changes += [torch.zeros(0), torch.zeros(1), torch.zeros(3, 3), torch.zeros(1, 1, 1, 1), tensor.half()]
            changes += [torch.zeros(0, 3, 3, 3), torch.zeros(5, 5, 5, 5).bool(), torch.zeros(2).long()]
            changes += [torch.zeros(2, 2).to(dtype) for dtype in (torch.cfloat, torch.float8_e4m3fn, torch.double)]
        for changed in changes:
            yield f"{name} {list(changed.shape)} {changed.dtype}", weights | {name: changed}
    for kept in ((), ("post_quant_conv",), ("quant_conv",)):
        bare = {name: tensor for name, tensor in weights.items() if not name.startswith(("quant_conv", "post_quant"))}
        bare |= {name: tensor for name, tensor in weights.items() if name.startswith(kept)}
        for channels in (5000, 10**6, 10**9, 2**40):
            yield f"{channels} and {kept}", bare | {"decoder.conv_in.weight": torch.zeros(0, channels, 1, 1)}
        yield f"a million and {kept}", bare | {"decoder.conv_in.weight": torch.zeros(1, 10**6, 1, 1)}


def test_other_weights_than_diffusers_are_one_sentence_or_do(tmp_path: Path) -> None:
    small = {"hidden_dims": [4], "blocks": 1, "z_channels": 2, "latent_dim": 2, "norm_groups": 4}
    model, file = ours(**small), tmp_path / FILE
    weights = {name: tensor.contiguous() for name, tensor in to_diffusers(model.state_dict()).items()}
    refused = []
    for what, changed in _mutated(weights):
        save_file(changed, file)
        try:
            init_from(model, tmp_path)
        except UserError as error:
            refused.append(what)
            assert str(file) in str(error) and "\n" not in str(error), what
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values()), what
    sizes = {"decoder.conv_in.weight", "quant_conv.weight", "quant_conv.bias", "post_quant_conv.bias"}
    assert all(any(what.startswith(f"{name} [] ") for what in refused) for name in sizes)
    assert sum("and (" in what for what in refused) == 15


def test_halvings_follow_the_widths() -> None:
    for widths, factor in (([4, 4, 4], 4), ([4, 4, 4, 4], 8), ([4, 4, 4, 4, 4], 16)):
        net = build_net("ldm", ImageSpec(1, 32, 48), hidden_dims=widths, blocks=1)
        assert net.feature_shape == (8, 32 // factor, 48 // factor) and net.decoder_shape == (4, *net.feature_shape[1:])
    with pytest.raises(UserError, match="net 'ldm' needs height and width divisible by 4, not 30 x 28"):
        build_net("ldm", ImageSpec(1, 30, 28))


def test_every_position_attends_to_every_other() -> None:
    model = ours()
    middle = model.encoder.mid_block  # type: ignore[union-attr]
    x = torch.zeros(1, 64, 4, 6, requires_grad=True)
    middle.attentions[0](x + torch.randn(1, 64, 4, 6))[0, :, 0, 0].sum().backward()  # type: ignore[operator, index]
    assert x.grad is not None and x.grad[0].abs().sum(0).gt(0).all()


# ---- the layers by hand, where diffusers is not there to compare with


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    layer, x = Attention(32, None), torch.randn(2, 32, 3, 5)
    h = layer.group_norm(x).flatten(2).transpose(1, 2)
    scores = (layer.to_q(h) @ layer.to_k(h).transpose(1, 2) / 32**0.5).softmax(2)
    expected = x + layer.to_out[0](scores @ layer.to_v(h)).transpose(1, 2).reshape(2, 32, 3, 5)
    torch.testing.assert_close(layer(x), expected)


def test_halving_pads_on_the_right_and_at_the_bottom() -> None:
    torch.manual_seed(0)
    layer, x = Downsample(2), torch.randn(1, 2, 4, 6)
    found = layer(x)
    assert found.shape == (1, 2, 2, 3)
    weight, bias = layer.conv.weight, layer.conv.bias
    torch.testing.assert_close(found[0, :, 0, 1], torch.einsum("chw,dchw->d", x[0, :, :3, 2:5], weight) + bias)
    corner = torch.einsum("chw,dchw->d", x[0, :, 2:, 4:], weight[:, :, :2, :2]) + bias
    torch.testing.assert_close(found[0, :, 1, 2], corner)


def test_doubling_repeats_pixels() -> None:
    torch.manual_seed(0)
    layer, x = Upsample(2), torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(layer(x), layer.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3)))


def test_a_residual_block_is_the_published_one() -> None:
    torch.manual_seed(0)
    layer, x = ResnetBlock(32, 64, 32), torch.randn(2, 32, 4, 4)
    h = F.group_norm(x, 32, layer.norm1.weight, layer.norm1.bias, 1e-6)
    h = layer.conv1(h * h.sigmoid())
    h = F.group_norm(h, 32, layer.norm2.weight, layer.norm2.bias, 1e-6)
    torch.testing.assert_close(layer(x), layer.conv_shortcut(x) + layer.conv2(h * h.sigmoid()))
