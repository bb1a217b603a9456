"""A trained model's numbers and pictures: what `results.json` and the PNG files of a run hold."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from zoo.base import BaseVAE, Batch
from zoo.config import Config
from zoo.data import Data, Images, to_float
from zoo.families.latent import NetVAE
from zoo.files import METRICS_FILE
from zoo.pictures import drawing
from zoo.pictures import of_models as pictures

UNITS = {"loss": "nats", "elbo": "nats", "recon": "nats", "kl": "nats", "psnr": "dB"}
LATENT_POINTS = 5000


def evaluation_batches(
    split: Images, model: BaseVAE, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[int, Batch]]:
    """Yield (number, batch) over a split, every image once over all ranks.

    Batches are cut the same way whatever the number of ranks, and noise seeded by their number: the result does not
    depend on how many processes computed it.
    """
    for number in range(rank, -(-len(split) // batch_size), world):
        indices = torch.arange(number * batch_size, min((number + 1) * batch_size, len(split)))
        images, labels = split.batch(indices)
        y = None if labels is None else labels.to(model.device)
        torch.manual_seed(number)
        yield number, Batch(to_float(images.to(model.device), model.image.range), y)


@torch.no_grad()
def evaluate_terms(
    model: BaseVAE, split: Images, accelerator: Accelerator, batch_size: int, psnr: bool = False
) -> dict[str, float]:
    """Average a model's loss terms over a split, with every schedule at its end (progress 1).

    The weights a schedule gives to the terms change during training; measured at its end, losses of different steps
    can be compared, and the best checkpoint means something.

    Args:
        model: Left in evaluation mode.
        split: Images to average over.
        accelerator: Shares the batches out and adds the sums up; a collective.
        batch_size: Images per batch and process.
        psnr: Also reconstruct each image and report the mean over images of its peak signal-to-noise ratio, in dB.
    """
    model.eval()
    progress = model.progress.clone()
    model.progress.fill_(1.0)
    sums: dict[str, Tensor] = {}
    rank, world = accelerator.process_index, accelerator.num_processes
    for _, batch in evaluation_batches(split, model, batch_size, rank, world):
        terms = model.loss(batch)
        if psnr:
            terms["psnr"] = image_psnr(model, batch).mean()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term * len(batch.x)
    model.progress.copy_(progress)
    own = {name: total.item() for name, total in sums.items()}
    # Objects, because a rank that had no batch does not even know the names.
    every = gather_object([own]) if world > 1 else [own]
    return {name: sum(part.get(name, 0.0) for part in every) / len(split) for name in every[0]}


def image_psnr(model: BaseVAE, batch: Batch) -> Tensor:
    """Peak signal-to-noise ratio of each image's reconstruction, pixels in [0, 1]: dB, `[B]`."""
    from torchmetrics.functional.image import peak_signal_noise_ratio  # takes seconds, which no run should start with

    recon = pictures.to_unit(model.reconstruct(batch.x, batch.y), model.image.range)
    original = pictures.to_unit(batch.x, model.image.range)
    return peak_signal_noise_ratio(recon, original, data_range=1.0, dim=(1, 2, 3), reduction="none")


def score(
    model: BaseVAE, data: Data, config: Config, accelerator: Accelerator
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Measure a model on the test split; a collective.

    Returns:
        Metric names, each with value, unit, split, number of images and, where one is needed, its protocol; and the
        values of the terms that only this variant's loss has.
    """
    terms = evaluate_terms(model, data.test, accelerator, config.eval_batch_size, psnr=True)
    low, high = model.image.range
    given = ", given the label" if model.needs_labels else ""
    likelihood = f", likelihood {model.likelihood.kind!r}" if isinstance(model, NetVAE) else ""
    pixels = f"pixels in [{low:g}, {high:g}]{likelihood}{given}"
    protocols = {
        "psnr": f"mean over images, reconstruction from the posterior mean, pixels in [0, 1]{given}",
        "elbo": f"{pixels}; one posterior sample per image; all constants of the likelihood included",
    }
    rows = {}
    own = {name: terms.pop(name) for name in list(terms) if name not in UNITS}
    for name, value in terms.items():
        protocol = protocols.get(name, f"{pixels}; one posterior sample per image; as the training loss has it")
        if name in model.batch_terms:
            protocol += f"; over batches of {config.eval_batch_size}"
        rows[name] = {
            "value": value,
            "unit": UNITS.get(name, ""),
            "higher_is_better": True if name in ("elbo", "psnr") else None,
            "split": "test",
            "n": len(data.test),
            "protocol": protocol,
        }
    return rows, own


def provenance(config: Config, model: BaseVAE) -> dict[str, Any]:
    """Return what a number stands on: config and its hash, seed, size, commit, versions."""
    settings = config.dump()
    for key in ("out", "seed", "device", "shard", "threads", "trackers", "wandb", "keep", "plugins", "benchmark"):
        settings.pop(key)
    settings["data"].pop("root")
    packages = ("torch", "torchvision", "accelerate", "torchmetrics")
    return {
        "variant": config.model.name,
        "dataset": config.data.name,
        "image": list(model.image.shape),
        "latent_dim": getattr(model, "latent_dim", None),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": config.seed,
        "config_hash": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12],
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def _commit() -> str:
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def first_batch(split: Images, model: BaseVAE, n: int) -> Batch:
    """Return a split's first `n` images, for pictures."""
    return next(evaluation_batches(split, model, min(n, len(split))))[1]


def picture_labels(split: Images, model: BaseVAE) -> Tensor | None:
    """Return attribute vectors to draw samples for, one picture row each; None where classes, or no labels, do."""
    if not (model.needs_labels and model.image.attributes):
        return None
    return first_batch(split, model, 8).y


def write_progress_pictures(model: BaseVAE, split: Images, out: Path, by: pictures.Draws = drawing) -> None:
    """Draw what shows a run's progress, over the pictures of the validation before."""
    pictures.reconstructions(model, first_batch(split, model, 30), out / "reconstructions.png", by)
    pictures.generated_samples(model, out / "generated_samples.png", y=picture_labels(split, model), by=by)
    by.training_losses(out / METRICS_FILE, out / "training_losses.png")


def write_pictures(model: BaseVAE, data: Data, out: Path) -> None:
    """Draw all the pictures of a finished run, from test images."""
    write_progress_pictures(model, data.test, out)
    batch = first_batch(data.test, model, 100)
    pictures.interpolations(model, batch, out / "interpolations.png")
    points = (b for number, b in evaluation_batches(data.test, model, 500) if number * 500 < LATENT_POINTS)
    pictures.latent_space(model, points, out / "latent_space.png", data.class_names)
    if data.test.factors is not None:
        pictures.traversals(model, batch, out / "traversals.png")
