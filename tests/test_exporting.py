"""Exported models: what other programs read computes what the model computes, for any number of images."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from tests.runs import NEEDED, SMALLER, make_config, run, small
from zoo import exporting
from zoo.base import PARTS, SYMMETRIC, VARIANTS, BaseVAE, ImageSpec, VAEOutput, random_batch
from zoo.errors import Undelivered, UserError
from zoo.exporting import Given, Part, export, part_of, traced
from zoo.models import create, model_options, preferred_range
from zoo.testing import StubVAE
from zoo.trained import Trained

NAMES = [entry.name for entry in VARIANTS if entry.target.__module__.startswith("zoo.")]
NETS = ("conv", "celeba", "mnist", "vanilla", "resnet", "rae", "gated")
ONNX = all(importlib.util.find_spec(name) for name in exporting.NEEDED)
onnx = pytest.mark.skipif(not ONNX, reason="ONNX needs 'vae-zoo[export]', which is not installed")


def of_variant(name: str, image: ImageSpec | None = None, **options: Any) -> BaseVAE:
    """A tiny model, on its own net unless `options` say otherwise; its statistics are not those of a start."""
    torch.manual_seed(0)
    known = model_options(name, options)
    options = {
        key: value for key, value in {**SMALLER, "base_channels": 8, "latent_dim": 3}.items() if key in known
    } | (NEEDED.get(name, {}) | options)
    own = preferred_range(name, options)
    model = create(name, image or ImageSpec(1, 16, 16, own, classes=3, train_size=50), **options)
    for weight in model.state_dict().values():
        if weight.is_floating_point():
            weight += 0.05 * torch.rand_like(weight)
    return model.eval()


def written(model: BaseVAE, out: Path, format: str) -> dict[str, Path]:
    """Export, which holds each part against the model; see that it holds as much as is declared."""
    files = export(model, out, format)  # type: ignore[arg-type]
    assert list(files) == [part for part in PARTS if part not in model.not_exported]
    assert all(file.stat().st_size for file in files.values())
    return files


def held_against_onnx(model: BaseVAE, files: dict[str, Path], n: int) -> None:
    """Hold ONNX Runtime's outputs against the model's own methods, not those of `zoo.exporting`."""
    import onnxruntime

    batch = random_batch(model.image, n)
    low, high = model.image.range
    y = batch.y if model.needs_labels else None
    labels = {} if y is None else {"labels": y.numpy()}

    def ran(part: str, **inputs: np.ndarray) -> list[Tensor]:
        session = onnxruntime.InferenceSession(files[part], providers=["CPUExecutionProvider"])
        assert {i.name: i.shape[0] for i in session.get_inputs()} == dict.fromkeys(inputs, "batch")
        return list(map(torch.from_numpy, session.run(None, inputs)))

    unit = (batch.x - low) / (high - low)
    with torch.no_grad():
        mean, logvar = model.encode(batch.x, y)
        wanted = [mean, *([] if logvar is None else [logvar])]
        wanted += [model.indices(batch.x, y)] if model.codebook_size else []
        for ours, its in zip(wanted, ran("encoder", images=unit.numpy(), **labels), strict=True):
            torch.testing.assert_close(its, ours, rtol=1e-4, atol=1e-4)
        images = (model.decode(mean, y) - low) / (high - low)
        torch.testing.assert_close(
            ran("decoder", latents=mean.numpy(), **labels)[0], images.clamp(0, 1), rtol=1e-4, atol=1e-4
        )


@onnx
@pytest.mark.parametrize(("name", "options"), [("conditional", {"net": "mnist", "hidden_dim": 16})])
def test_onnx_computes_what_the_model_computes(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = of_variant(name, **options)
    held_against_onnx(model, written(model, tmp_path, "onnx"), 4)


@onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_variant_as_onnx(name: str, tmp_path: Path) -> None:
    model = of_variant(name)
    for n in (1, 4):
        held_against_onnx(model, written(model, tmp_path, "onnx"), n)


@onnx
@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("image", [ImageSpec(3, 32, 32, SYMMETRIC)], ids=["colour"])
def test_every_net_as_onnx(net: str, image: ImageSpec, tmp_path: Path) -> None:
    model = of_variant("beta", image, net=net)
    held_against_onnx(model, written(model, tmp_path, "onnx"), 2)


@pytest.mark.parametrize("name", ["vanilla"])
def test_torch_export_computes_what_the_model_computes(name: str, tmp_path: Path) -> None:
    written(of_variant(name), tmp_path, "torch")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_variant_by_torch_export(name: str, tmp_path: Path) -> None:
    written(of_variant(name), tmp_path, "torch")


def whole_is_exported(model: BaseVAE) -> None:
    """Export `forward` itself: it returns what the model returns, and trains on as before."""
    batch = random_batch(model.image, 3)
    y = batch.y if model.needs_labels else None
    rows = {0: torch.export.Dim("batch")}
    shapes = {"x": rows, "y": None if y is None else rows, "sample_posterior": None}
    program = torch.export.export(model, (batch.x, y), {"sample_posterior": False}, dynamic_shapes=shapes).module()
    more = random_batch(model.image, 5)
    y = more.y if model.needs_labels else None
    ours, its = model(more.x, y, sample_posterior=False), program(more.x, y, sample_posterior=False)
    assert isinstance(its, VAEOutput) and (its.logvar is None) == (ours.logvar is None)
    for name, value in vars(ours).items():
        if value is not None:
            torch.testing.assert_close(getattr(its, name), value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["conv", "celeba", "mnist", "vanilla", "conditional", "ae"])
def test_a_whole_model_is_exported(name: str) -> None:
    size = 32 if name == "vanilla" else 16
    model = of_variant(name, ImageSpec(1, size, size, preferred_range(name, {}), classes=3))
    assert any(parameter.requires_grad for parameter in model.parameters())
    whole_is_exported(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_whole_model_is_exported(name: str) -> None:
    whole_is_exported(of_variant(name))


def test_a_loaded_model_is_exported_with_images_from_0_to_1() -> None:
    model = Trained(of_variant("mlp", ImageSpec(1, 8, 8, SYMMETRIC), recon="mse"))
    x = torch.rand(3, 1, 8, 8)
    program = torch.export.export(
        model,
        (x,),
        {"sample_posterior": False},
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}, "sample_posterior": None},
    )
    again = torch.rand(6, 1, 8, 8)
    found = program.module()(again, sample_posterior=False).recon
    torch.testing.assert_close(found, model.reconstruct(again))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "conv", "vq", "conditional"])
def test_a_loaded_model_is_compiled(name: str) -> None:
    torch._dynamo.reset()
    model = Trained(of_variant(name))
    x = torch.rand(5, *model.image.shape)
    y = [0, 1, 2, 0, 1] if model.needs_labels else None
    compiled = torch.compile(model)
    torch.testing.assert_close(
        compiled(x, y, sample_posterior=False).recon, model(x, y, sample_posterior=False).recon, rtol=1e-4, atol=1e-4
    )
    with pytest.raises(UserError, match="images lie in"):
        compiled(x + 5, y)


# --- noise that is given


@pytest.mark.parametrize("name", NAMES)
def test_noise_that_is_given_is_all_that_a_sample_depends_on(name: str) -> None:
    model = of_variant(name, **small(name))
    with torch.no_grad():
        part = part_of(model, "sampler", 40)
        first, again = part.module(*part.inputs.values())[0], part.module(*part.inputs.values())[0]
        other = part.module(*[torch.randn_like(part.inputs["noise"]), *list(part.inputs.values())[1:]])[0]
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 1


def test_what_is_drawn_from_noise_has_the_right_distribution() -> None:
    n = 20_000
    shares = torch.tensor([0.1, 0.0, 0.6, 0.3])
    with Given(torch.randn(n, 5, generator=torch.Generator().manual_seed(0))) as given:
        normal, uniform = torch.randn(n, 1), torch.rand((n, 1))
        whole, from_two = torch.randint(4, (n,)), torch.randint(2, 5, (n,))
        drawn = torch.multinomial(shares.expand(n, -1), 1)
    assert given.used == 5
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.std() - 12**-0.5) < 0.01
    off = 4 * (0.25 / n) ** 0.5  # four standard errors, at most
    assert (whole.bincount(minlength=4) / n - 0.25).abs().max() < off
    assert (from_two.bincount(minlength=5) / n - torch.tensor([0, 0, 1, 1, 1]) / 3).abs().max() < off
    assert (drawn[:, 0].bincount(minlength=4) / n - shares).abs().max() < off


def test_a_sample_of_noise_is_a_sample() -> None:
    """The plain VAE's is the decoded noise itself."""
    model = of_variant("mlp")
    with torch.no_grad():
        part = part_of(model, "sampler")
        assert torch.equal(part.module(part.inputs["noise"])[0], model.decode(part.inputs["noise"]))


# --- what can't be exported, and what goes wrong


class Unsure(StubVAE):
    """It draws what no input can replace."""

    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return self.decode(torch.empty(n, self.latent_dim).exponential_(generator=generator), y)


class Says(Unsure):
    not_exported = {"sampler": "it draws exponential numbers"}


def test_what_is_declared_is_what_happens(tmp_path: Path) -> None:
    """A part that can't be exported says so, or exporting it is refused."""
    image = ImageSpec(1, 4, 4)
    with pytest.raises(UserError, match="the sampler of Unsure draws what can't be an input"):
        export(Unsure(image), tmp_path, "torch")
    files = written(Says(image), tmp_path / "says", "torch")
    assert "sampler" not in files
    assert json.loads((tmp_path / "says" / "export.json").read_text())["not_exported"] == dict(Says.not_exported)


class SpoiltDecoder(exporting.Decoder):
    def forward(self, latents: Tensor, labels: Tensor | None = None) -> tuple[Tensor]:
        return (super().forward(latents, labels)[0] + 1e-3,)


def test_what_computes_something_else_is_not_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = StubVAE(ImageSpec(1, 4, 4))

    def spoilt(part: Part) -> torch.export.ExportedProgram:
        return traced(part._replace(module=SpoiltDecoder(model)) if "latents" in part.inputs else part)

    monkeypatch.setattr(exporting, "traced", spoilt)
    with pytest.raises(Undelivered, match="decoder.pt2 differs from the model by 0.001"):
        export(model, tmp_path, "torch")


def test_a_file_holds_the_weights_that_it_reads(tmp_path: Path) -> None:
    model = of_variant("mlp", ImageSpec(1, 28, 28), net="mlp", hidden_dims=[100])
    files = export(model, tmp_path, "torch")
    whole = sum(weight.nbytes for weight in model.state_dict().values())
    for file in files.values():
        assert file.stat().st_size < 0.75 * whole


def test_exporting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = of_variant("mlp").train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    export(model, tmp_path, "torch")
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert fast == torch.backends.mha.get_fastpath_enabled()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_mistakes_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = StubVAE(ImageSpec(1, 4, 4))
    with pytest.raises(UserError, match="format is 'tflite': choose onnx or torch"):
        export(model, tmp_path, "tflite")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="name a folder"):
        export(model, tmp_path / "all.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        export(model, tmp_path / "file", "torch")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(UserError, match=r"ONNX needs onnxscript: pip install 'vae-zoo\[export\]'"):
        export(model, tmp_path)


def test_the_command(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert run(make_config(tmp_path / "run", steps=2)) == 0
    code, out, err = cli("export", tmp_path / "run", "--format", "torch", "--out", tmp_path / "made" / "here")
    assert code == 0, err
    lines = out.splitlines()[-4:]
    assert lines[0].startswith(f"{tmp_path}/made/here/encoder.pt2: images float32 [N, 1, 8, 8] -> ")
    assert lines[0].endswith("mean float32 [N, 3], logvar float32 [N, 3]")
    assert lines[2].endswith("sampler.pt2: noise float32 [N, 3] -> images float32 [N, 1, 8, 8]")
    sampler = torch.export.load(tmp_path / "made" / "here" / "sampler.pt2").module()
    noise = torch.randn(7, 3)
    torch.testing.assert_close(sampler(noise)[0], zoo.load(tmp_path / "run").decode(noise))
    code, _, err = cli("export", tmp_path / "nothing")
    assert code == 2 and "there is no trained model" in err and "Traceback" not in err
    code, out, _ = cli("describe", "vq")
    assert code == 0 and "Exported (`export RUN`): encoder, decoder, sampler" in out
