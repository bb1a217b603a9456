"""From a config to everything a run needs: data, model, accelerator, and the folder it will leave."""

from __future__ import annotations

import copy
import ctypes
import hashlib
import itertools
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo.base import VARIANTS, BaseVAE, Batch, random_batch
from zoo.config import Config, OptimizerConfig
from zoo.data import Data, build_data
from zoo.engine.checkpoint import recipe_of, weights_file
from zoo.engine.initial import bias_from_data, initialise
from zoo.engine.optimizers import player_settings
from zoo.engine.rehearsal import rehearse
from zoo.engine.trackers import Trackers
from zoo.errors import UserError, warn
from zoo.files import CONFIG_FILE, is_of_a_run, see_that_it_is_plain
from zoo.memory import require
from zoo.models import create, model_options, preferred_range
from zoo.nets import ldm
from zoo.registry import did_you_mean, load_plugin
from zoo.texts import printable
from zoo.weights import read_weights

if torch.distributed.is_available():
    # These functions have the default group as a default argument: imported once there is one, as torchmetrics does,
    # they hold it for good, and with it the threads that `Trainer.close` wants gone.
    import torch.distributed.nn.functional

TUNING_STEPS = 6
SHOWN = 8  # of what does not fit
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@dataclass
class Run:
    """Everything a config is turned into; `started_from` is the SHA-256 of the weights that it was given, or ""."""

    config: Config
    out: Path
    data: Data
    model: BaseVAE
    accelerator: Accelerator
    precision: str
    channels_last: bool
    total_steps: int
    started_from: str = ""
    trackers: Trackers = field(default_factory=Trackers)  # begun once the folder is taken

    @property
    def images_per_rank(self) -> int:
        """Images a process sees in one micro-batch."""
        return self.config.batch_size // (self.accelerator.num_processes * self.config.accumulate)

    @property
    def splits_batch_terms(self) -> bool:
        """Whether a loss that compares a batch's images sees a micro-batch of them only."""
        return self.config.accumulate > 1 and "loss" in self.model.batch_terms

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the model and its images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def choices(self) -> str:
        """Say in one line how it will be computed."""
        config = self.config
        ranks, threads = self.accelerator.num_processes, torch.get_num_threads()
        return ", ".join(
            [
                f"{self.accelerator.device.type}",
                f"{ranks} process{'es' if ranks > 1 else ''}",
                f"{threads} thread{'s' if threads > 1 else ''}",
                f"precision {self.precision}",
                *(["channels-last"] if self.channels_last else []),
                *(["compiled"] if config.compile else []),
                *(["sharded"] if config.shard else []),
                *self._optimizers(),
                *(["tuned"] if config.tune else []),
                *([f"terms of a batch over {self.images_per_rank * ranks} images"] if self.splits_batch_terms else []),
            ]
        )

    def _optimizers(self) -> list[str]:
        """Name the first player's, and those that differ from it."""
        first, *others = (player_settings(self.config, self.model, player) for player in self.model.players)
        fused = "fused " if self.config.optimizer.fused and first.name in ("adam", "adamw") else ""
        differing = [
            f"{player}'s {settings.name} at {settings.lr:g}"
            for player, settings in zip(self.model.players[1:], others, strict=True)
            if settings != first
        ]
        return [f"{fused}{first.name}", *differing]

    def summary(self) -> str:
        """Say in a few lines what will be trained, on what, and how."""
        config, model = self.config, self.model
        parameters, labels = sum(p.numel() for p in model.parameters()), self.data.describe_labels()
        return "\n".join(
            printable(line)
            for line in [
                f"model   {config.model.name} ({type(model).__name__}), {parameters:,} parameters",
                f"data    {self.data.describe()}, pixels in [{model.image.range[0]:g}, {model.image.range[1]:g}]"
                + (f", binarised ({config.data.binarize})" if config.data.binarize != "none" else ""),
                *([f"labels  {labels}"] if labels else []),
                f"steps   {self.total_steps:,} of {config.batch_size} images"
                f" ({self.total_steps * config.batch_size / len(self.data.train):.4g} epochs)",
                f"how     {self.choices()}",
                f"out     {self.out}",
            ]
        )


def set_up(config: Config) -> Run:
    """Turn a config into data, model and accelerator, checking that they go together.

    Raises:
        UserError: one sentence about the first thing that doesn't.
    """
    forget_earlier_run()
    for plugin in config.plugins:
        load_plugin(plugin)
    options = config.model.options
    variant = VARIANTS.lookup(config.model.name).target
    if config.compile and variant.not_compiled:
        raise UserError(f"model {config.model.name!r} can't be compiled: {variant.not_compiled}; set compile=false")
    pixel_range = config.data.range or preferred_range(config.model.name, options)
    device = choose_device(config)
    processes = PartialState(cpu=device == "cpu")
    set_threads(config)
    spare_processor()
    ranks = processes.num_processes
    if config.batch_size % (ranks * config.accumulate):
        raise UserError(
            f"batch_size {config.batch_size} can't be shared equally by {ranks} processes x {config.accumulate} "
            f"accumulated micro-batches: make it a multiple of {ranks * config.accumulate}"
        )
    with processes.main_process_first():  # the first process decodes or downloads, the others find it done
        data = build_data(config.data, seed=config.seed)
    margin, side = config.data.random_crop, min(data.train.shape[1:])
    if margin >= side:
        raise UserError(f"data.random_crop is {margin}, but must be less than the {side} pixels of an image's side")
    per_rank = config.batch_size // (ranks * config.accumulate)
    require(
        5 * per_rank * math.prod(data.train.shape),  # as bytes, and as floats
        f"batches of {per_rank:,} images",
        "choose a smaller batch_size or data.size",
    )
    total = config.steps or math.ceil(config.epochs * len(data.train) / config.batch_size)  # type: ignore[operator]
    options |= warmup(config, total * config.batch_size / len(data.train))
    torch.manual_seed(config.seed)
    model = create(config.model.name, data.spec(pixel_range), **options)
    for remark in model.remarks:
        warn(f"model {config.model.name!r} {remark}")
    if config.data.dequantise and getattr(getattr(model, "likelihood", None), "kind", "") == "logistic_mixture":
        raise UserError(
            "recon 'logistic_mixture' gives probabilities of the 256 levels, and data.dequantise moves pixels between "
            "them: leave one of them out"
        )
    for player in config.optimizer.players:
        if player not in model.players:
            known = did_you_mean(player, (*model.players, *OptimizerConfig.model_fields))
            raise UserError(f"optimizer.{player}: model {config.model.name!r} has no such player.{known}")
    if device == "cpu" and not config.shard:
        require(
            3 * sum(p.nbytes for p in model.parameters()),
            f"the gradients and Adam's moments of model {config.model.name!r}",
            "choose fewer and narrower layers",
        )
    if config.init != "default":
        initialise(model, config.init)
    if config.init_bias_from_data:
        bias_from_data(model, data.train)
    started_from = init_from(model, config.init_from) if config.init_from else ""
    freeze(model, config)
    precision = choose_precision(config, device, variant.bf16_safe)
    if not config.shard or device == "cpu":  # on a GPU there may be no room for a second of what is to be shared out
        rehearse(model, processes.device, precision, per_rank)
    if config.shard:
        check_shardable(config, model, ranks)
    convolutions = any(isinstance(module, nn.Conv2d) for module in model.modules())
    channels_last = config.channels_last and convolutions and not config.shard  # FSDP takes contiguous weights alone
    if config.tune:
        precision, channels_last = tune(config, model, precision, channels_last, per_rank, processes.device)
    accelerator = make_accelerator(config, precision)
    if accelerator.distributed_type not in PLAIN:
        raise UserError(
            f"the launch asks for {accelerator.distributed_type.value}, which the loop does not support: launch with "
            "--multi_gpu, and set shard=true for a model too large for one device"
        )
    config.data.range = pixel_range
    height, width = model.image.height, model.image.width
    config.data.size = height if height == width else (height, width)
    latent = f"_z{model.latent_dim}" if hasattr(model, "latent_dim") else ""
    size = f"{height}" if height == width else f"{height}x{width}"
    out = config.out or Path("runs") / f"{config.model.name}_{config.data.name}{latent}_s{size}_{config.seed}"
    return Run(config, out, data, model, accelerator, precision, channels_last, total, started_from)


def warmup(config: Config, epochs: float) -> dict[str, float]:
    """Return the model's option `warmup`, a share of a run of so many epochs, where the config gives it in epochs.

    Raises:
        UserError: if the model has no such option, has it set already, or the run is too short for it.
    """
    if config.warmup_epochs is None:
        return {}
    name, given, asked = config.model.name, config.model.options, f"warmup_epochs is {config.warmup_epochs:g}"
    if "warmup" not in model_options(name, given):
        raise UserError(f"{asked}, but model {name!r} has no warmup of its KL")
    if "warmup" in given:
        raise UserError(f"{asked} and model.warmup is {given['warmup']}: leave one of them out")
    if config.warmup_epochs >= epochs:
        raise UserError(f"{asked}, and must be less than the run's {epochs:.4g} epochs")
    return {"warmup": config.warmup_epochs / epochs}


def init_from(model: BaseVAE, source: Path) -> str:
    """Give a model what fits of another's weights, and say what does.

    Args:
        model: Just built.
        source: A run's folder, or a `model.safetensors`; or those of diffusers' `AutoencoderKL`.

    Returns:
        The SHA-256 of the weights' file.

    Raises:
        UserError: if there are no weights, they are damaged, or nothing fits.
    """
    source = source.expanduser()
    path = source / ldm.FILE
    if not path.is_file():
        path = weights_file(source)
    elif is_of_a_run(source / CONFIG_FILE):  # not so in the hub's cache, where every file is a link
        see_that_it_is_plain(source)
    given, own = given_weights(path, model), model.state_dict()
    own.pop("progress")
    fitting = {name: given[name] for name, tensor in own.items() if name in given and given[name].shape == tensor.shape}
    if not fitting:
        raise UserError(f"init_from: nothing in {path} fits {type(model).__name__}, by name and shape")
    model.load_state_dict(fitting, strict=False)
    lacking = [
        f"{name} {list(tensor.shape)}" + (f" (there {list(given[name].shape)})" if name in given else "")
        for name, tensor in own.items()
        if name not in fitting
    ]
    if os.environ.get("RANK", "0") == "0":
        print(f"init    {len(fitting)} of {len(own)} tensors from {printable(path)}")
        if lacking:
            print(f"        new: {printable(', '.join(lacking[:SHOWN]))}" + (", …" if len(lacking) > SHOWN else ""))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def given_weights(path: Path, model: BaseVAE) -> dict[str, Tensor]:
    """Read weights of the zoo, or of diffusers' `AutoencoderKL` under the zoo's names.

    Raises:
        UserError: if they are neither, or damaged, or computed otherwise by the `model` that is to have them.
    """
    names: list[str] = []
    with suppress(SafetensorError, OSError), safe_open(path, "pt") as file:  # of a damaged file `recipe_of` tells
        names = file.keys()
    if not ldm.is_of_diffusers(names):
        return read_weights(path, recipe_of(path).get("digest", ""))
    ldm.see_that_groups_agree(model, path)
    try:
        return ldm.from_diffusers(read_weights(path))
    except UserError as error:
        raise UserError(f"{path} does not hold the weights of diffusers' AutoencoderKL: {error}") from None


def freeze(model: BaseVAE, config: Config) -> None:
    """Keep the modules that a config names as they are.

    Raises:
        UserError: if there is no such module.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in config.freeze:
        if name not in known:
            raise UserError(
                f"freeze names {name!r}, which is no module of {type(model).__name__}.{did_you_mean(name, known)}"
            )
        model.get_submodule(name).requires_grad_(False)


def check_shardable(config: Config, model: BaseVAE, ranks: int) -> None:
    """See that a model can be shared out over the processes.

    Raises:
        UserError: if it can't, or if that does not go together with another setting.
    """
    name, scalar = config.model.name, next((name for name, p in model.named_parameters() if not p.ndim), None)
    if ranks == 1:
        raise UserError("shard=true shares a model out over several processes, but there is one: set shard=false")
    if len(model.players) > 1:
        raise UserError(
            f"model {name!r} has several players ({', '.join(model.players)}), and shard=true takes one model with one "
            "optimizer: set shard=false"
        )
    if scalar is not None:
        raise UserError(f"the parameter {scalar!r} of model {name!r} is one number, which FSDP can't: set shard=false")
    for setting, chosen in (
        ("ema", config.ema is not None),
        ("compile", config.compile),
        ("mixed_precision=fp16", config.mixed_precision == "fp16"),
    ):
        if chosen:
            raise UserError(f"shard=true does not go together with {setting}: leave one of them out")


def choose_device(config: Config) -> str:
    """Return "cuda", "mps" or "cpu".

    Raises:
        UserError: if the machine lacks what the config asks for.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if config.device != "auto" and not there[config.device]:
        what = {"cuda": "no CUDA device", "mps": "no Apple GPU"}[config.device]
        raise UserError(f"device is {config.device!r}, but {what} is available here: set device=auto or device=cpu")
    return config.device if config.device != "auto" else next(d for d in ("cuda", "mps", "cpu") if there[d])


def choose_precision(config: Config, device: str, bf16_safe: bool = True) -> str:
    """Return "no", "fp16" or "bf16".

    Raises:
        UserError: if the device can't do what the config asks for.
    """
    if config.mixed_precision == "fp16" and device == "cpu":
        raise UserError("mixed_precision 'fp16' needs a GPU: set mixed_precision=bf16, auto or no")
    if config.mixed_precision == "auto":
        return "bf16" if bf16_safe and has_bf16(device) else "no"
    return config.mixed_precision


def forget_earlier_run() -> None:
    """Let a run choose device and precision anew: of those in one process, Accelerate keeps what the first one chose.

    A process group stays as it is, since its processes can't leave it one by one.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        AcceleratorState._reset_state(reset_partial_state=True)


def make_accelerator(config: Config, precision: str) -> Accelerator:
    """Build the accelerator."""
    return Accelerator(
        cpu=choose_device(config) == "cpu",
        mixed_precision=precision,
        kwargs_handlers=[DistributedDataParallelKwargs()],
    )


def set_threads(config: Config) -> None:
    """Share the machine's cores out to its processes: torchrun would leave each process one thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(config.threads or max(1, cores // ranks_here))


def spare_processor() -> None:
    """Rid a training step on CPU of two kinds of work that serve nobody.

    - Adam's mean of a gradient that has become zero (of a dead unit, of a pixel that is always black) decays into the
      denormal numbers, below 1e-38, which processors compute slowly: after a thousand steps of `mlp` on MNIST, a fifth
      of every step. They are taken for zero instead.
    - glibc's malloc returns large blocks to the kernel, which then clears every page anew: a fifth (bfloat16) to two
      fifths (float32) of a step of the 64-pixel network. It is told to keep them for the next step.
    """
    torch.set_flush_denormal(True)
    with suppress(OSError, AttributeError):  # no glibc, hence nothing to be told
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.mallopt(M_MMAP_MAX, 0)


def has_bf16(device: str) -> bool:
    """Say whether the processor multiplies bfloat16 in hardware."""
    if device == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # a torch older than that
            return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def tune(
    config: Config, model: BaseVAE, precision: str, channels_last: bool, size: int, device: torch.device
) -> tuple[str, bool]:
    """Time a few steps of each choice that the config leaves open, on noise, and return the fastest.

    Args:
        config: `mixed_precision: auto` and `channels_last: true` are open choices.
        model: Copied, not trained.
        precision: The fastest, as far as is known without trying.
        channels_last: Likewise.
        size: Images in a micro-batch.
        device: Where to try.

    Returns:
        Precision and layout, the same on every rank.
    """
    precisions = ["no", "bf16"] if config.mixed_precision == "auto" and precision == "bf16" else [precision]
    layouts = [True, False] if channels_last else [False]
    seconds: dict[tuple[str, bool], float] = {}
    with torch.random.fork_rng():
        x, y = random_batch(model.image, size)
        for choice in itertools.product(precisions, layouts):
            seconds[choice] = _time_steps(copy.deepcopy(model).to(device), Batch(x, y), *choice)
    return broadcast_object_list([min(seconds, key=lambda choice: seconds[choice])])[0]


def _time_steps(model: BaseVAE, batch: Batch, precision: str, channels_last: bool) -> float:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout).train()
    x = batch.x.to(model.device, memory_format=layout)
    y = None if batch.y is None else batch.y.to(model.device)
    times = []
    for _ in range(TUNING_STEPS):
        start = time.perf_counter()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model.loss(Batch(x, y))["loss"]
        loss.backward()
        loss.item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first one builds kernels
