"""How fast the loop is, beside the bare step and its peers: `python -m benchmarks.speed.throughput mlp_mnist`.

Everything is measured in one run, in turns, some rounds of some steps each; what counts is the median over rounds, and
the ratio of two contenders, which a slow or busy machine moves least. Ours share a process; a peer has one of its own,
with the data and the threads of ours, and none of our other settings. Contenders:

- `loop`: the whole loop of a run, with data, logging and noise seeding (validation, checkpoints and pictures excepted);
- `bare step`: the same model, optimizer and precision on one batch that lies on the device: forward, backward, and
  torch's own `optimizer.step()`;
- `data alone`: the batches of the loop, fetched and thrown away: what each step waits for its images;
- `notebook`: the MNIST notebook's loop: DataLoader, ToTensor image by image, probabilities, `loss.item()`;
- `pythae`: the trainer of pythae on the same network, data and batch, if `--pythae` names its source folder;
- `pytorch-vae`: one training step of PyTorch-VAE's VanillaVAE as shipped, on one batch, if `--pytorch-vae` names it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from io import StringIO
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from zoo.base import Batch
from zoo.config import Config, load_config
from zoo.data import batches, build_data, to_float
from zoo.data.source import Images
from zoo.engine.optimizers import make_optimizer, player_settings
from zoo.engine.setup import Run, choose_device, set_threads, set_up
from zoo.engine.train import Trainer
from zoo.errors import UserError

WORKLOADS = {
    "mlp_mnist": ("configs/mlp_mnist.yaml", []),
    "vanilla_celeba": ("configs/vanilla_celeba.yaml", ["batch_size=64"]),  # PyTorch-VAE's
}
WARM_UP = 20  # steps; until then the kernel still hands out new memory

Contender = Callable[[int], float]  # steps to seconds


class Unsaved(Trainer):
    """The loop without checkpoints: they are written beside the steps that follow, and take a core from them."""

    def save(self, best: bool) -> None:
        """Write nothing."""


class Loop:
    """The loop of a run, some steps further at each call."""

    def __init__(self, run: Run, trainer: type[Trainer] = Unsaved) -> None:
        self.trainer = trainer(run)
        run.out.mkdir(parents=True)

    def __call__(self, steps: int) -> float:
        """Take `steps` steps; return the seconds that they took, without the validation that ends them."""
        trainer = self.trainer
        trainer.run.total_steps = trainer.step + steps
        before = trainer.log.seconds
        with redirect_stdout(StringIO()):
            trainer.fit()
        return trainer.log.seconds - before


def bare_step(run: Run) -> Contender:
    """Forward, backward and optimizer step on one batch, nothing else.

    Of the loop's own model: where two copies of its weights happen to lie in memory can tell more than the loop.
    """
    device = run.accelerator.device
    model = run.model.to(device).train()
    settings = player_settings(run.config, model, "vae")
    optimizer = make_optimizer(settings, run.config.optimizer.fused, list(model.parameters()))
    images, labels = next(batches(run.data.train, run.config.batch_size, 0, 0, 1))
    x = to_float(images.to(device), model.image.range)
    if run.channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    batch = Batch(x, None if labels is None else labels.to(device))
    loss_of = torch.compile(model.loss) if run.config.compile else model.loss

    def steps(n: int) -> float:
        start = _now(device)
        for _ in range(n):
            with _autocast(device, run.precision):
                loss = loss_of(batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return _now(device) - start

    return steps


def data_alone(run: Run) -> Contender:
    """The loop's batches, without a step between them."""
    device = run.accelerator.device

    def steps(n: int) -> float:
        start = _now(device)
        for images, _ in batches(run.data.train, run.config.batch_size, 0, 0, n):
            images.to(device, non_blocking=True)
        return _now(device) - start

    return steps


class Peer:
    """A contender that is built, and takes its steps, in a process of its own."""

    def __init__(self, build: Callable[[Config, Path], Contender], config: Config, source: Path = Path()) -> None:
        context = get_context("spawn")
        self.connection, other_end = context.Pipe()
        context.Process(target=_serve, args=(other_end, build, config, source), daemon=True).start()
        other_end.close()

    def __call__(self, steps: int) -> float:
        """Take `steps` steps; return the seconds that they took."""
        try:
            self.connection.send(steps)
            return self.connection.recv()
        except (EOFError, ConnectionError):
            raise UserError("a peer's process ended; what it said stands above") from None


def _serve(connection: Connection, build: Callable[[Config, Path], Contender], config: Config, source: Path) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    set_threads(config)
    contender = build(config, source)
    with suppress(EOFError), redirect_stdout(sys.stderr):  # the other end is closed when all is measured
        while True:
            connection.send(contender(connection.recv()))


def notebook(config: Config, _: Path) -> Contender:
    """The notebook's loop and network, 784-400-20, on pictures that become tensors one by one."""
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    to_tensor = transforms.ToTensor()

    class Digits(Dataset[tuple[Tensor, int]]):
        def __init__(self, images: Images) -> None:
            self.images = images

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            pixels, _ = self.images.batch(torch.tensor([index]))
            return to_tensor(to_pil_image(pixels[0])), 0

    device = torch.device(choose_device(config))
    model = Notebook().to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(Digits(build_data(config.data).train), batch_size=config.batch_size, shuffle=True)

    def steps(n: int) -> float:
        start, total = _now(device), 0.0
        source = iter(loader)
        for _ in range(n):
            data = next(source)[0].view(-1, 784).to(device)
            optimizer.zero_grad()
            recon, mu, logvar = model(data)
            bce = F.binary_cross_entropy(recon, data, reduction="sum")
            loss = bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            loss.backward()
            total += loss.item()
            optimizer.step()
        return _now(device) - start

    return steps


class Notebook(nn.Module):
    """784-400-20-400-784, ReLU and sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.mu, self.logvar = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.up, self.out = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, 784]` in [0, 1] to reconstruction, mu and logvar."""
        h = F.relu(self.hidden(x))
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.out(F.relu(self.up(z)))), mu, logvar


def pythae(config: Config, source: Path) -> Contender:
    """One epoch of pythae's BaseTrainer over as many images as the steps need, its model and data as it has them."""
    sys.path.insert(0, str(source / "src"))
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    train, size = build_data(config.data).train, config.batch_size
    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=20, reconstruction_loss="bce"))
    model.encoder.layers = nn.ModuleList([nn.Sequential(nn.Linear(784, 400), nn.ReLU())])
    model.encoder.embedding, model.encoder.log_var = nn.Linear(400, 20), nn.Linear(400, 20)

    def steps(n: int) -> float:
        pixels, _ = train.batch(torch.arange(n * size) % len(train))
        data = BaseDataset(to_float(pixels, (0.0, 1.0)), torch.zeros(len(pixels)))
        with tempfile.TemporaryDirectory() as out:
            settings = BaseTrainerConfig(
                output_dir=out, num_epochs=1, per_device_train_batch_size=size, no_cuda=not torch.cuda.is_available()
            )
            trainer = BaseTrainer(model, train_dataset=data, training_config=settings)
            trainer.prepare_training()
            start = time.perf_counter()
            trainer.train_step(1)
            return time.perf_counter() - start

    return steps


def pytorch_vae(config: Config, source: Path) -> Contender:
    """One step of its VanillaVAE, 64 px, fp32, Adam: forward, its own loss, backward, step."""
    sys.path.insert(0, str(source))
    from models.vanilla_vae import VanillaVAE

    device = torch.device(choose_device(config))
    model = VanillaVAE(in_channels=3, latent_dim=128).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    images, _ = build_data(config.data).train.batch(torch.arange(config.batch_size))
    x = to_float(images.to(device), (-1.0, 1.0))

    def steps(n: int) -> float:
        start = _now(device)
        for _ in range(n):
            losses = model.loss_function(*model(x), M_N=0.00025)
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        return _now(device) - start

    return steps


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    if precision == "no":
        return nullcontext()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision])


def measure(contenders: dict[str, Contender], steps: int, rounds: int) -> dict[str, list[float]]:
    """Return seconds per step of each contender, one number a round, taken in turns.

    Every other round goes backwards: the first turn after a peer's process had the cores is the slower by 1 to 2 %, and
    would always be the same contender's.
    """
    for contender in contenders.values():
        contender(WARM_UP)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in reversed(contenders) if number % 2 else contenders:
            seconds[name].append(contenders[name](steps) / steps)
    return seconds


def compare(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all contenders of a workload; return what was measured, where, and how."""
    contenders: dict[str, Contender] = {
        "loop": Loop(run),
        "bare step": bare_step(run),
        "data alone": data_alone(run),
    }
    if arguments.workload == "mlp_mnist":
        contenders["notebook"] = Peer(notebook, run.config)
        if arguments.pythae is not None:
            contenders["pythae"] = Peer(pythae, run.config, arguments.pythae)
    elif arguments.pytorch_vae is not None:
        contenders["pytorch-vae"] = Peer(pytorch_vae, run.config, arguments.pytorch_vae)
    seconds = measure(contenders, arguments.steps, arguments.rounds)
    size = run.config.batch_size
    gpu = run.accelerator.device.type == "cuda"
    return {
        "workload": arguments.workload,
        "batch_size": size,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "choices": run.choices(),
        "processor": torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} {platform.machine()} cores",
        "torch": torch.__version__,
        "images_per_second": {name: size / median(values) for name, values in seconds.items()},
        # Round by round, so that what slows a round down slows both.
        "loop_is_faster_by": {
            name: median(other / own for other, own in zip(values, seconds["loop"], strict=True))
            for name, values in seconds.items()
        },
        "milliseconds_per_step": {name: [1e3 * value for value in values] for name, values in seconds.items()},
    }


def table(result: dict[str, Any]) -> str:
    """Write the medians and ratios for reading."""
    head = f"{result['workload']}, batch {result['batch_size']}, {result['processor']}; {result['choices']}"
    lines = [
        f"  {name:<12} {result['images_per_second'][name]:>10,.0f} images/s   loop / this: {ratio:.3f}"
        for name, ratio in result["loop_is_faster_by"].items()
    ]
    return "\n".join([head, *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write JSON where asked to; exit code 2 for what can't be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.throughput",
        description="Measure training speed beside the bare step and peers.",
    )
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings laid over the workload's config")
    parser.add_argument("--steps", type=int, default=200, help="per round and contender (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--pythae", type=Path, help="folder of pythae's source")
    parser.add_argument("--pytorch-vae", type=Path, help="folder of PyTorch-VAE's source")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args(argv)
    file, settings = WORKLOADS[arguments.workload]
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = load_config(file, [*settings, f"out={folder}/run", "steps=1000000", *arguments.overrides])
            result = compare(set_up(config), arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(result))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
