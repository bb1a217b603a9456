"""Commands that draw from a trained run."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.errors import UserError


def run_sample(arguments: argparse.Namespace) -> int:
    """Write a grid of images drawn from a trained model."""
    import torch

    from zoo.engine.checkpoint import load
    from zoo.files import writing
    from zoo.memory import require
    from zoo.pictures import of_models as pictures

    if arguments.n < 1:
        raise UserError(f"--n is {arguments.n}: draw at least one image")
    if not 0 <= arguments.seed < 2**63:
        raise UserError(f"--seed is {arguments.seed}: it must be 0 or more, and below 2^63")
    model = load(arguments.run, plugins=arguments.plugin, trust_plugins=arguments.trust_plugins)
    y = None
    classes = model.image.classes if model.needs_labels else 0
    label = None if arguments.label is None else _class_number(arguments.label, classes, arguments.run)
    needed = 2 * 4 * arguments.n * model.image.pixels  # as they are made, and as they are drawn
    require(needed, f"{arguments.n:,} images", "choose a smaller --n")
    if classes:
        y = torch.arange(arguments.n) % classes if label is None else torch.full((arguments.n,), label)
    elif model.needs_labels:
        raise UserError(
            "this model is conditioned on attributes, which the command line can't give: use model.sample(n, y)"
        )
    with torch.no_grad():
        images = model.sample(arguments.n, y, torch.Generator().manual_seed(arguments.seed))
    columns = classes if classes and label is None else min(8, arguments.n)
    with writing(arguments.out):
        pictures.save_grid(pictures.to_unit(images, model.image.range), arguments.out, columns)
    print(f"{arguments.n} images in {arguments.out}")
    return 0


def _class_number(label: str, classes: int, run: Path) -> int:
    """Return the number of a class that is given by name or number."""
    from zoo.files import read_results

    names = list(read_results(run).get("classes", {})) if run.is_dir() else []
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < classes:
        return int(label)
    known = f" or one of {', '.join(names)}" if names else ""
    allowed = f"choose 0 to {classes - 1}{known}" if classes else "this model takes no class labels"
    raise UserError(f"--label is {label}: {allowed}")
