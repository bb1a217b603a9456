"""The command that puts runs beside each other in one picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.texts import printable

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from zoo.trained import Trained

GAP = 10  # pixels between two data sets
IMAGES = "images"  # the name of the row with the test images themselves


@dataclass
class Section:
    """What runs on one data set show: rows of images in [0, 1], `[N, C, H, W]`, by name."""

    title: str
    seen: int  # reconstructions to a row, as many as asked for or as there are test images
    rows: dict[str, Tensor] = field(default_factory=dict)


def run_gallery(arguments: argparse.Namespace) -> int:
    """Draw a row for each run: reconstructions of the first test images, and samples."""
    import numpy as np
    import torch

    from zoo.evaluation import data_of
    from zoo.pictures import writing
    from zoo.pictures.of_models import to_unit
    from zoo.pictures.of_runs import first_batch
    from zoo.trained import load

    made = arguments.samples
    if min(made, arguments.reconstructions) < 0 or not made + arguments.reconstructions:
        raise UserError("a gallery has --reconstructions, --samples or both in a row: say how many of each, 0 or more")
    writing.check_ending(arguments.out, list(writing.STILL))
    sections: dict[tuple[str, tuple[int, ...]], Section] = {}
    for out in arguments.runs:
        model = load(out, plugins=arguments.plugin, trust_plugins=arguments.trust_plugins)
        config, data = data_of(out, model.model)
        key = (data.name, model.image.shape)
        seen = min(arguments.reconstructions, len(data.test))
        section = sections.setdefault(key, Section(printable(data.title), seen))
        seen = section.seen
        batch = first_batch(data.test, model.model, max(1, seen))
        originals = to_unit(batch.x, model.model.image.range)[:seen]
        if config.data.name in arguments.originals and not section.rows:
            section.rows[IMAGES] = torch.cat([originals, torch.ones(made, *originals.shape[1:])])
        y = batch.y[:seen] if model.needs_labels and batch.y is not None else None
        parts = [model.reconstruct(originals, y)] if seen else []
        if made:
            parts.append(_samples(model, out, arguments.sampler, made, arguments.seed))
        name = printable(config.title or config.model.name)
        section.rows[name if name not in section.rows else str(out)] = torch.cat([part.cpu() for part in parts])
    pictures = [_drawn(section, made) for section in sections.values()]
    writing.write_picture(np.asarray(_stacked(pictures)), arguments.out)
    count = len(arguments.runs)
    print(f"{count:,} run{'s' if count > 1 else ''} in {printable(arguments.out)}")
    return 0


def _samples(model: Trained, out: Path, sampler: str, n: int, seed: int) -> Tensor:
    """Draw `n` images, of the classes in turn where the model takes one."""
    import torch

    from zoo.commands.own import see_that_labels_can_be_given
    from zoo.evaluation import sampler_of
    from zoo.pictures.of_models import to_unit

    see_that_labels_can_be_given(model)
    y = torch.arange(n, device=model.device) % model.image.classes if model.needs_labels else None
    generator = torch.Generator().manual_seed(seed)
    if sampler == "prior":
        return model.sample(n, y, generator)
    with torch.no_grad():
        return to_unit(sampler_of(out, model.model, sampler)(n, y, generator), model.model.image.range)


def _drawn(section: Section, made: int) -> Image:
    """Draw a data set's runs, a row each."""
    import torch

    from zoo.pictures import drawing
    from zoo.pictures.of_models import tiles

    seen = section.seen
    parts = ["reconstructions"] * bool(seen) + ["samples"] * bool(made)
    return drawing.drawn(
        tiles(torch.cat(list(section.rows.values()))),
        seen + made,
        title=f"{section.title}: {' and '.join(parts)}",
        row_names=list(section.rows),
        breaks_below={0} if IMAGES in section.rows else set(),
        breaks_right={seen - 1} if seen and made else set(),
    )


def _stacked(pictures: Sequence[Image]) -> Image:
    """Put pictures below each other, on white."""
    from PIL import Image

    width = max(picture.width for picture in pictures)
    height = sum(picture.height + GAP for picture in pictures) - GAP
    whole = Image.new("RGB", (width, height), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height + GAP
    return whole
