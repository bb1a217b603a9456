"""From a config to everything a run needs: data, model, accelerator, and the folder it will leave."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from zoo.base import BaseVAE
from zoo.config import Config
from zoo.data import Data, build_data
from zoo.errors import UserError
from zoo.models import create, preferred_range
from zoo.registry import load_plugin


@dataclass
class Run:
    """Everything a config is turned into."""

    config: Config
    out: Path
    data: Data
    model: BaseVAE
    accelerator: Accelerator
    precision: str
    total_steps: int

    @property
    def images_per_rank(self) -> int:
        """Images a process sees in one micro-batch."""
        return self.config.batch_size // (self.accelerator.num_processes * self.config.accumulate)

    def summary(self) -> str:
        """Say in a few lines what will be trained, on what, and how."""
        config, model = self.config, self.model
        parameters = sum(p.numel() for p in model.parameters())
        ranks = self.accelerator.num_processes
        return "\n".join(
            [
                f"model   {config.model.name} ({type(model).__name__}), {parameters:,} parameters",
                f"data    {self.data.describe()}, pixels in [{model.image.range[0]:g}, {model.image.range[1]:g}]",
                f"steps   {self.total_steps:,} of {config.batch_size} images"
                f" ({self.total_steps * config.batch_size / len(self.data.train):.4g} epochs)",
                f"device  {self.accelerator.device.type}, {ranks} process{'es' if ranks > 1 else ''}, "
                f"{torch.get_num_threads()} threads, precision {self.precision}",
                f"out     {self.out}",
            ]
        )


def set_up(config: Config) -> Run:
    """Turn a config into data, model and accelerator, checking that they go together.

    Raises:
        UserError: one sentence about the first thing that doesn't.
    """
    for plugin in config.plugins:
        load_plugin(plugin)
    options = config.model.options
    pixel_range = config.data.range or preferred_range(config.model.name, options)
    accelerator, precision = make_accelerator(config)
    ranks = accelerator.num_processes
    if config.batch_size % (ranks * config.accumulate):
        raise UserError(
            f"batch_size {config.batch_size} can't be shared equally by {ranks} processes x {config.accumulate} "
            f"accumulated micro-batches: make it a multiple of {ranks * config.accumulate}"
        )
    with accelerator.main_process_first():  # the first process decodes or downloads, the others find it done
        data = build_data(config.data)
    torch.manual_seed(config.seed)
    model = create(config.model.name, data.spec(pixel_range), **options)
    config.data.range = pixel_range
    config.data.size = model.image.height
    if config.out is None:
        latent = f"_z{model.latent_dim}" if hasattr(model, "latent_dim") else ""
        name = f"{config.model.name}_{config.data.name}{latent}_s{model.image.height}_{config.seed}"
        config.out = Path("runs") / name
    total = config.steps or math.ceil(config.epochs * len(data.train) / config.batch_size)  # type: ignore[operator]
    return Run(config, config.out, data, model, accelerator, precision, total)


def make_accelerator(config: Config) -> tuple[Accelerator, str]:
    """Choose device, precision and threads.

    Returns:
        The accelerator, and the precision that `auto` came to.

    Raises:
        UserError: if the machine lacks what the config asks for.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is 'cuda', but no CUDA device is available here: set device=auto or device=cpu")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device is 'mps', but no Apple GPU is available here: set device=auto or device=cpu")
    on_cpu = config.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    precision = config.mixed_precision
    if precision == "auto":
        precision = "bf16" if has_bf16(on_cpu) else "no"
    if precision == "fp16" and on_cpu:
        raise UserError("mixed_precision 'fp16' needs a GPU: set mixed_precision=bf16, auto or no")
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        log_with=list(config.trackers) or None,
        project_dir="runs",  # the run's own folder is known only later: see _start_trackers
        kwargs_handlers=[DistributedDataParallelKwargs()],
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(config.threads or max(1, cores // ranks_here))  # torchrun would leave each process one
    return accelerator, precision


def has_bf16(on_cpu: bool) -> bool:
    """Say whether the processor multiplies bfloat16 in hardware."""
    if on_cpu:
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
