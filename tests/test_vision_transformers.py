"""DINOv2 and CLIP by `transformers`: loaded from a folder, and what is done with what they say. Weights are random."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.test_metrics_samples import Flat, make_subject, random_images
from zoo.base import ImageSpec
from zoo.errors import UserError
from zoo.metrics.cmmd import cmmd, gaussian_discrepancy
from zoo.metrics.fid import fid
from zoo.nets import vision_transformers
from zoo.nets.pretrained import MEAN, STD
from zoo.nets.vision_transformers import CLIP_MEAN, CLIP_STD, CLIP_VARIABLE, DINOV2_VARIABLE, Clip, DinoV2

transformers = pytest.importorskip("transformers", reason="transformers is not installed (vae-zoo[features])")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is downloaded, or found by chance."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for variable in (DINOV2_VARIABLE, CLIP_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    net = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)).eval()
    net.save_pretrained(folder := tmp_path_factory.mktemp("dinov2"))
    return folder, net


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(**SMALL, projection_dim=8, intermediate_size=32)
    net = transformers.CLIPVisionModelWithProjection(config).eval()
    net.save_pretrained(folder := tmp_path_factory.mktemp("clip"))
    return folder, net


def normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_dinov2_gives_its_class_token(dinov2: tuple[Path, nn.Module]) -> None:
    folder, net = dinov2
    extractor, x = DinoV2(dinov2_weights=folder), torch.rand(3, 3, 28, 28)
    assert extractor.num_features == 16 and not any(p.requires_grad for p in extractor.parameters())
    with torch.no_grad():
        hidden = net(normalised(x, MEAN, STD)).last_hidden_state  # [3, 1 + 4, 16], normalised
    torch.testing.assert_close(extractor(x), hidden[:, 0])
    grey = torch.rand(2, 1, 50, 40)
    torch.testing.assert_close(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(UserError, match="images of 1 or 3 channels, not 2"):
        extractor(torch.rand(1, 2, 28, 28))


def test_clip_gives_a_unit_embedding(clip: tuple[Path, nn.Module]) -> None:
    folder, net = clip
    extractor, x = Clip(clip_weights=folder), torch.rand(3, 3, 28, 28)
    with torch.no_grad():
        embedded = net(normalised(x, CLIP_MEAN, CLIP_STD)).image_embeds
    torch.testing.assert_close(extractor(x), embedded / embedded.norm(dim=1, keepdim=True))
    assert extractor(torch.rand(2, 3, 64, 64)).shape == (2, 8)


def test_weights_are_found_by_setting_and_by_environment(
    dinov2: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="benchmark.dinov2_weights names .*nowhere, but there is no config.json"):
        DinoV2(dinov2_weights=tmp_path / "nowhere")
    monkeypatch.setenv(DINOV2_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=f"{DINOV2_VARIABLE} names .*, but there is no config.json"):
        DinoV2()
    monkeypatch.setenv(DINOV2_VARIABLE, str(dinov2[0]))
    assert DinoV2().num_features == 16


def test_without_weights_or_with_others_there_is_one_sentence(
    dinov2: tuple[Path, nn.Module], clip: tuple[Path, nn.Module], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UserError, match="facebook/dinov2-large could not be read or downloaded .*VAE_ZOO_DINOV2"
    ) as told:
        DinoV2()
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"does not hold the weights of facebook/dinov2-large: by its config.json they"):
        DinoV2(dinov2_weights=clip[0])
    with pytest.raises(UserError, match=r"does not hold the weights of .*: \d+ of a Dinov2Model are missing"):
        DinoV2(
            dinov2_weights=changed(dinov2[0], tmp_path / "padded", {"padding": torch.zeros(100_000)}, "layernorm.bias")
        )
    for content in (b"", b"\x80\x04K\x01.", (dinov2[0] / "model.safetensors").read_bytes()[:-100]):
        (tmp_path / "config.json").write_bytes((dinov2[0] / "config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="model.safetensors is damaged, or no file of safetensors"):
            DinoV2(dinov2_weights=tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(dinov2[1].state_dict(), tmp_path / "pytorch_model.bin")  # a pickle
    indices = [
        None,
        *({"weight_map": dict.fromkeys(dinov2[1].state_dict(), to)} for to in ("pytorch_model.bin", "../x")),
    ]
    for index in indices:
        if index:
            (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(
            UserError, match="no model.safetensors in .*: weights that are pickled, or in shards, are not"
        ):
            DinoV2(dinov2_weights=tmp_path)
    assert capfd.readouterr().err.count("\n") == 0


def changed(folder: Path, to: Path, weights: dict[str, Tensor], without: str = "", **settings: Any) -> Path:
    """Copy a folder of weights with some tensors, and some of its config, others."""
    to.mkdir(exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | settings))
    kept = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if name != without}
    save_file(kept | weights, to / "model.safetensors", {"format": "pt"})
    return to


LOADS = {
    **{"attn_implementation": ["org/kernel", "flash_attention_2", 5], "_attn_implementation": ["org/kernel:f", []]},
    "quantization_config": [{"quant_method": "gptq", "bits": 4}, {}, 5],
    "auto_map": [{"AutoModel": "modeling_evil.E", "Dinov2Model": "modeling_evil.E"}],
}
SHAPES: dict[str, list[Any]] = {
    "image_size": [0, -1, None, "x", [28, 28], 1e9, 10**9, 13, {}, True],
    **{"patch_size": [0, None, [14, 14], 1000], "hidden_size": [0, 17, 10**6, 10**9, None, 1.5]},
    **{"num_hidden_layers": [0, -1, 1000, 10**5, 10**9, "x"], "num_attention_heads": [0, -1, 3, None]},
    **{"hidden_act": ["x", "../x", None, 5], "layer_norm_eps": [None, "x", -1], "num_channels": [1, 4]},
}


@pytest.mark.parametrize("network", ["dinov2", "clip"])
def test_a_folder_is_taken_for_sizes_and_numbers_alone(
    network: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(network)[0]

    def load(to: Path) -> DinoV2 | Clip:
        return DinoV2(dinov2_weights=to) if network == "dinov2" else Clip(clip_weights=to)

    for key, values in LOADS.items():
        for value in values:
            with pytest.raises(UserError, match=f"config.json names code to load by '{key}', which is not done"):
                load(changed(folder, tmp_path, {}, **{key: value}))
    for key, values in SHAPES.items():
        for value in values:
            with pytest.raises(UserError, match="config.json (describes no network of this kind|they are)") as told:
                load(changed(folder, tmp_path, {}, **{key: value}))
            assert "\n" not in str(told.value) and len(str(told.value)) < 500
    for text in ("", "[]", "5", "null", "{", "[" * 100_000, "{}", '{"hidden_size": NaN}', '{"vision_config": 3}'):
        changed(folder, tmp_path, {})
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json"):
            load(tmp_path)
    name, tensor = next(iter(load_file(folder / "model.safetensors").items()))
    with pytest.raises(UserError, match=r"the weights in .*model.safetensors are not all finite"):
        load(changed(folder, tmp_path, {name: tensor * torch.nan}))
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/nowhere", "peft_type": "LORA"})
    )
    ignored = {
        "dtype": "os.system",
        "transformers_weights": "../x.safetensors",
        "configuration_files": ["config.9.json"],
    }
    assert load(changed(folder, tmp_path, {}, **ignored))(torch.rand(2, 3, 28, 28)).isfinite().all()


def test_clip_takes_images_of_the_size_that_it_was_trained_on(clip: tuple[Path, nn.Module], tmp_path: Path) -> None:
    positions = {"vision_model.embeddings.position_embedding.weight": torch.zeros(785, 16)}
    with pytest.raises(UserError, match="CLIP takes images of one size: 336 px, not 392"):
        Clip(clip_weights=changed(clip[0], tmp_path, positions, image_size=392))


def test_the_part_of_clip_that_sees_is_found_in_the_whole(tmp_path: Path, clip: tuple[Path, nn.Module]) -> None:
    config = {
        "model_type": "clip",
        "projection_dim": 8,
        "vision_config": clip[1].config.to_dict() | {"projection_dim": 512},
    }
    changed(clip[0], tmp_path, {"text_projection.weight": torch.zeros(8, 8)})
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = torch.rand(2, 3, 28, 28)
    assert torch.equal(Clip(clip_weights=tmp_path)(x), Clip(clip_weights=clip[0])(x))


def test_without_the_library_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"transformers, which is not installed: pip install 'vae-zoo\[features\]'"):
        vision_transformers.Clip()


def test_the_discrepancy_is_that_of_all_pairs() -> None:
    torch.manual_seed(0)
    x, y = F.normalize(torch.randn(7, 5), dim=1).double(), F.normalize(torch.randn(9, 5) + 1, dim=1).double()

    def mean(a: Tensor, b: Tensor) -> float:
        return sum(torch.exp(-(p - q).square().sum() / 200).item() for p in a for q in b) / (len(a) * len(b))

    assert gaussian_discrepancy(x, y) == pytest.approx(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), rel=1e-9)
    assert gaussian_discrepancy(x, x.flip(0)) == pytest.approx(0, abs=1e-9)
    opposite = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert gaussian_discrepancy(*opposite) == pytest.approx(1000 * (2 - 2 * torch.tensor(-4 / 200.0).exp().item()))


def test_samples_are_scored(dinov2: tuple[Path, nn.Module], clip: tuple[Path, nn.Module], tmp_path: Path) -> None:
    subject = make_subject(
        *(tmp_path, Flat(ImageSpec(3, 16, 16)), random_images(20), random_images(20, seed=1)),
        n=20,
        dinov2_weights=str(dinov2[0]),
        clip_weights=str(clip[0]),
    )
    score = cmmd(subject)["cmmd"]
    assert score.value > 0 and not score.higher_is_better and "CLIP of 8 numbers" in score.protocol
    assert fid(subject, extractor="dinov2")["fd_dinov2"].value > 0
