"""A trained model in formats that other programs read: its encoder, decoder and sampler by `torch.export`, or as ONNX.

Each part is a graph of its own, for any number of images. Images lie in [0, 1], as those of a loaded model do; what is
drawn at random comes in from outside, as noise from N(0, 1), so that a part gives one result for one input.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.base import PARTS, BaseVAE, random_batch
from zoo.errors import Undelivered, UserError
from zoo.files import writing
from zoo.pictures.of_models import to_unit
from zoo.trained import Trained, load

Format: TypeAlias = Literal["onnx", "torch"]
ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
LISTING = "export.json"  # what each part takes and gives
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TRACED, HELD = 3, (1, 5)  # images of a trace, and of the trials that hold what was written against torch
TOLERANCE = 1e-4


class Given(TorchFunctionMode):
    """Within it, what torch draws at random is taken from a noise instead, part by part.

    Args:
        noise: N(0, 1), `[N, M]`; each draw takes the next of the M, and is one row for each image. None: torch draws,
            and `used` says how many numbers of N(0, 1) would have been taken.
    """

    def __init__(self, noise: Tensor | None) -> None:
        super().__init__()
        self.noise, self.used = noise, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Give what was asked for: normal and uniform numbers, whole ones, categories by their shares."""
        kwargs = dict(kwargs or {})
        if func is torch.randn:
            return self._normal(_shape(args, kwargs))
        if func is torch.randn_like:
            return self._normal(args[0].shape)
        if func is torch.rand:
            return self._uniform(_shape(args, kwargs))
        if func is torch.rand_like:
            return self._uniform(args[0].shape)
        if func is torch.randint:
            low, high, shape = (0, *args) if len(args) == 2 else args
            return low + (self._uniform(shape) * (high - low)).long().clamp(max=high - low - 1)
        if func is torch.multinomial and args[1] == 1:
            below = args[0].cumsum(1)
            return (below < self._uniform((args[0].shape[0], 1)) * below[:, -1:]).sum(1, keepdim=True)
        return func(*args, **kwargs)

    def _normal(self, shape: Sequence[int]) -> Tensor:
        count, start = math.prod(shape[1:]), self.used
        self.used += count
        if self.noise is None:
            return torch.randn(*shape)
        return self.noise[:, start : start + count].reshape(*shape)

    def _uniform(self, shape: Sequence[int]) -> Tensor:
        return (1 + torch.erf(self._normal(shape) / math.sqrt(2))) / 2


def _shape(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[int]:
    size = kwargs.get("size", args)
    return size[0] if len(size) == 1 and isinstance(size[0], list | tuple) else size


class Encoder(nn.Module):
    """Images in [0, 1] to latents: mean, log variance of a Gaussian, codes of a discrete one."""

    def __init__(self, model: BaseVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """`[N, C, H, W]` -> `[N, D]`, `[N, D]` of a Gaussian, int64 `[N, P]` of codes."""
        low, high = self.model.image.range
        x = images * (high - low) + low
        mean, logvar = self.model.encode(x, labels)
        found = (mean,) if logvar is None else (mean, logvar)
        return (*found, self.model.indices(x, labels)) if self.model.codebook_size else found


class Decoder(nn.Module):
    """Latents to images in [0, 1]."""

    def __init__(self, model: BaseVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> tuple[Tensor]:
        """`[N, D]` -> `[N, C, H, W]`."""
        return (to_unit(self.model.decode(latents, labels).float(), self.model.image.range),)


class Sampler(nn.Module):
    """Noise to images in [0, 1], drawn from the model's own prior."""

    def __init__(self, model: BaseVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> tuple[Tensor]:
        """`[N, M]` of N(0, 1) -> `[N, C, H, W]`."""
        with Given(noise):
            images = self.model.sample(noise.shape[0], labels)
        return (to_unit(images.float(), self.model.image.range),)


MODULES: dict[str, type[nn.Module]] = {"encoder": Encoder, "decoder": Decoder, "sampler": Sampler}


class Part(NamedTuple):
    """What is to be written.

    Attributes:
        module: What it computes.
        inputs: The name of what each input is, and an example.
        outputs: The names of what it returns.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def part_of(model: BaseVAE, name: str, n: int = TRACED) -> Part:
    """Return a model's encoder, decoder or sampler, with inputs of noise for `n` images.

    Raises:
        UserError: if what the sampler draws at random can't come in from outside.
    """
    batch = random_batch(model.image, n)
    labels = {"labels": batch.y} if model.needs_labels and batch.y is not None else {}
    low, high = model.image.range
    if name == "encoder":
        outputs = ("mean", *(["logvar"] if model.encode(batch.x, batch.y)[1] is not None else []))
        outputs = (*outputs, *(["codes"] if model.codebook_size else []))
        return Part(Encoder(model), {"images": (batch.x - low) / (high - low), **labels}, outputs)
    if name == "decoder":
        mean, _ = model.encode(batch.x, batch.y)
        # Of codes, such as there are; else anything.
        return Part(
            Decoder(model), {"latents": mean if model.codebook_size else torch.randn_like(mean), **labels}, ("images",)
        )
    with Given(None) as draws:
        model.sample(n, labels.get("labels"))
    part = Part(Sampler(model), {"noise": torch.randn(n, draws.used), **labels}, ("images",))
    first, second = _run(part), _run(part)
    if not all(map(torch.equal, first, second)):
        raise UserError(
            f"the sampler of {type(model).__name__} draws what can't be an input: write it with torch.randn"
        )
    return part


def export(
    run: BaseVAE | str | os.PathLike[str],
    out: Path | str = "exported",
    format: Format = "onnx",
    plugins: Sequence[str] = (),
    trust_plugins: bool = False,
) -> dict[str, Path]:
    """Write a model's encoder, decoder and sampler, each as a file: `zoo.export("runs/mlp_mnist_z20_s28_0", "out")`.

    Each takes any number of images, and labels where the model does. What was written is run once more, and held
    against the model. A file beside them, export.json, says what goes in and what comes out.

    Args:
        run: A trained run, its folder, or a model.
        out: The folder to write.
        format: "onnx", or "torch" for what `torch.export.load` reads.
        plugins: Files or modules to load, such as that of the run's variant.
        trust_plugins: Load the copies of plugins in the run's folder: their code is run.

    Returns:
        The files, by the part that each holds; those that `model.not_exported` names are left out.

    Raises:
        UserError: as `zoo.load` does; or if a library is missing, or the folder can't be written.
        Undelivered: if torch can't write a part, or what was written computes something else.
    """
    folder = Path(out).expanduser()
    if format not in ENDINGS:
        raise UserError(f"format is {format!r}: choose {' or '.join(ENDINGS)}")
    if folder.suffix in (*ENDINGS.values(), ".json"):
        raise UserError(f"{folder} would be a file, and each part is one: name a folder")
    if format == "onnx":
        _see_that_onnx_is_there()
    trained = run if isinstance(run, BaseVAE) else load(run, plugins=plugins, trust_plugins=trust_plugins)
    model = trained.model if isinstance(trained, Trained) else trained
    model = copy.deepcopy(model).cpu().eval()  # its layers are to stay as they are
    files, told = {}, {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _quiet():
        for name in PARTS:
            if name in model.not_exported:
                continue
            part, file = part_of(model, name), folder / f"{name}{ENDINGS[format]}"
            with writing(file):
                _write(part, file, format, f"the {name} of {type(model).__name__}")
            difference = _difference(model, name, file, format)
            if not difference <= TOLERANCE:
                raise Undelivered(f"{file} differs from the model by {difference:.2g}, more than {TOLERANCE:g}")
            files[name] = file
            told[name] = _signature(part, file) | {"differs_by": difference}
        listing = {"variant": type(model).__name__, "format": format, "torch": torch.__version__}
        with writing(folder / LISTING):
            text = json.dumps(listing | {"parts": told, "not_exported": dict(model.not_exported)}, indent=1)
            (folder / LISTING).write_text(f"{text}\n", encoding="utf-8")
    return files


def _see_that_onnx_is_there() -> None:
    from importlib.util import find_spec

    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install 'vae-zoo[export]', or choose the format torch")


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, exporters say nothing on the way; layers take the way that every exporter knows."""
    fast, loggers = torch.backends.mha.get_fastpath_enabled(), [logging.getLogger(n) for n in ("torch", "onnxscript")]
    levels = [logger.level for logger in loggers]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def traced(part: Part) -> torch.export.ExportedProgram:
    """Return a part as `torch.export` has it, for any number of images."""
    return torch.export.export(part.module, tuple(part.inputs.values()), dynamic_shapes=_shapes(part))


def _shapes(part: Part) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in part.inputs)


def _write(part: Part, file: Path, format: Format, what: str) -> None:
    try:
        if format == "torch":
            torch.export.save(_without_idle_weights(traced(part)), file)
            return
        program = torch.onnx.export(
            part.module,
            tuple(part.inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_shapes=_shapes(part),
        )
        assert program is not None
        program.save(file)
    except OSError:
        raise
    except Exception as error:  # exporters raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Undelivered(f"torch {torch.__version__} can't write {what} in the format {format}: {reason}") from error


def _without_idle_weights(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Take weights that a program holds and never reads out of it: a file of the encoder would be as large as all."""
    signature = program.graph_signature
    named = signature.inputs_to_parameters | signature.inputs_to_buffers
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and node.name in named and not node.users:
            program.graph.erase_node(node)
            program.state_dict.pop(named[node.name], None)
            signature.input_specs[:] = [spec for spec in signature.input_specs if spec.arg.name != node.name]
    program.graph_module.recompile()
    return program


def _run(part: Part) -> tuple[Tensor, ...]:
    return part.module(*part.inputs.values())


def _difference(model: BaseVAE, name: str, file: Path, format: Format) -> float:
    """Return by how much the outputs of a file differ from the model's at most; relative, of numbers beyond 1."""
    most = 0.0
    written = _opened(file, format)
    for n in HELD:
        part = part_of(model, name, n)
        for ours, its in zip(_run(part), written(part.inputs), strict=True):
            off = (ours.double() - its.double()).abs() / ours.double().abs().clamp(min=1)
            most = max(most, off.max().item() if ours.shape == its.shape else math.inf)
    return most


def _opened(file: Path, format: Format) -> Callable[[dict[str, Tensor]], Sequence[Tensor]]:
    if format == "torch":
        module = torch.export.load(file).module()
        return lambda inputs: module(*inputs.values())
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: [
        torch.from_numpy(each) for each in session.run(None, {key: value.numpy() for key, value in inputs.items()})
    ]


def _signature(part: Part, file: Path) -> dict[str, Any]:
    """Return what a part takes and gives."""

    def described(tensors: Mapping[str, Tensor]) -> dict[str, str]:
        return {
            name: f"{str(tensor.dtype).removeprefix('torch.')} [{', '.join(map(str, ['N', *tensor.shape[1:]]))}]"
            for name, tensor in tensors.items()
        }

    outputs = dict(zip(part.outputs, _run(part), strict=True))
    return {"file": file.name, "takes": described(part.inputs), "gives": described(outputs)}
