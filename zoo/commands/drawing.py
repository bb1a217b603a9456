"""Commands that make pictures with a trained run: samples, reconstructions, and what lies between two pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.texts import printable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from zoo.commands.own import Opened

COLUMNS = 8
PAIRS = 10  # side by side
MOST_STEPS = 1000


def run_sample(arguments: argparse.Namespace) -> int:
    """Draw images from a trained model: a sheet, single files, or arrays."""
    import numpy as np

    from zoo.commands.own import class_number, opened, see_that_labels_can_be_given
    from zoo.memory import require
    from zoo.pictures import writing

    n, out = arguments.n, arguments.out or Path("samples" if arguments.each else "samples.png")
    if n < 1:
        raise UserError(f"--n is {n}: draw at least one image")
    if arguments.each and out.suffix.lower() in (*writing.STILL, writing.ARRAYS):
        raise UserError(f"--out is {out}, and --each writes many files: name a folder")
    ending = "" if arguments.each else writing.check_ending(out, [*writing.STILL, writing.ARRAYS])
    run = opened(arguments)
    model = run.model
    see_that_labels_can_be_given(model)
    label = None if arguments.label is None else class_number(arguments.label, model, arguments.run)
    classes = model.image.classes if model.needs_labels else 0
    if arguments.each:
        width = len(str(n - 1))
        for start, images, _ in _drawn(run, arguments, classes, label):
            for i, image in enumerate(images, start):
                writing.write_picture(image, out / f"{i:0{width}}.png")
    else:
        require(2 * n * model.image.pixels, f"{n:,} images", "choose a smaller --n")
        batches = [(images, labels) for _, images, labels in _drawn(run, arguments, classes, label)]
        images = np.concatenate([images for images, _ in batches])
        if ending == writing.ARRAYS:
            labels = {"labels": np.concatenate([labels for _, labels in batches])} if classes else {}
            writing.write_arrays(out, {"images": images, **labels})
        else:
            columns = classes if classes and label is None else min(COLUMNS, n)
            writing.write_picture(writing.sheet(images, columns), out)
    print(f"{n:,} image{'s' if n > 1 else ''} in {printable(out)}")
    return 0


def _drawn(
    run: Opened, arguments: argparse.Namespace, classes: int, label: int | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the number of the first of some images, the images, uint8 `[B, H, W, C]`, and their classes, `[B]`."""
    import torch

    from zoo.pictures.of_models import to_unit
    from zoo.pictures.writing import to_bytes
    from zoo.trained import PIECE

    model, generator = run.model, torch.Generator().manual_seed(arguments.seed)
    draw = model.sample
    if arguments.sampler != "prior":
        from zoo.evaluation import sampler_of

        fitted = sampler_of(arguments.run, model.model, arguments.sampler)

        @torch.no_grad()
        def draw(n: int, y: Tensor | None, generator: torch.Generator) -> Tensor:  # type: ignore[misc]
            return to_unit(fitted(n, None if y is None else y.to(model.device), generator), model.model.image.range)

    size = max(1, PIECE // model.image.pixels)
    for start in range(0, arguments.n, size):
        n = min(size, arguments.n - start)
        y = None
        if classes:
            y = torch.arange(start, start + n) % classes if label is None else torch.full((n,), label)
        yield start, to_bytes(draw(n, y, generator)), (y if y is not None else torch.zeros(0)).numpy()


def run_reconstruct(arguments: argparse.Namespace) -> int:
    """Encode and decode a user's own pictures: single files in a folder, pairs on a sheet, or arrays."""
    import numpy as np

    from zoo.commands.own import found, opened, parts
    from zoo.memory import require
    from zoo.pictures import writing

    out, pictures = arguments.out, found(arguments)
    ending = "" if writing.is_folder(out) else writing.check_ending(out, [*writing.STILL, writing.ARRAYS])
    run = opened(arguments)
    names = _png_names([picture.name for picture in pictures])
    if ending:
        require(4 * len(pictures) * run.model.image.pixels, f"{len(pictures):,} pictures", "name a folder in --out")
    done, originals, images = [], [], []
    for part in parts(run, arguments, pictures):
        made = writing.to_bytes(run.model.reconstruct(part.pixels, part.y))
        done += [picture.name for picture in part.pictures]
        if ending:
            originals.append(part.pixels.permute(0, 2, 3, 1).numpy())
            images.append(made)
            continue
        for picture, image in zip(part.pictures, made, strict=True):
            writing.write_picture(image, out / names[picture.name])
    if ending:
        both = np.concatenate(originals), np.concatenate(images)
        if ending == writing.ARRAYS:
            writing.write_arrays(out, {"images": both[0], "reconstructions": both[1], "names": np.array(done)})
        else:
            columns = min(PAIRS, len(done))
            writing.write_picture(writing.sheet(_in_pairs(*both, columns), columns, rows_together=2), out)
    print(f"{len(done):,} reconstruction{'s' if len(done) > 1 else ''} in {printable(out)}")
    return 0


def _in_pairs(originals: np.ndarray, images: np.ndarray, columns: int) -> np.ndarray:
    """Put a row of images below each row of originals, all `[N, H, W, C]`, with white where the last ones end."""
    import numpy as np

    blank = np.full((-len(images) % columns, *images.shape[1:]), 255, np.uint8)
    rows = [np.concatenate([each, blank]).reshape(-1, columns, *each.shape[1:]) for each in (originals, images)]
    return np.stack(rows, 1).reshape(-1, *images.shape[1:])


def _png_names(names: list[str]) -> dict[str, str]:
    """Return what the PNG of each picture is called: as the picture, or where two would be one, with its own ending."""
    short = {name: str(PurePosixPath(name).with_suffix(".png")) for name in names}
    return short if len(set(short.values())) == len(names) else {name: f"{name}.png" for name in names}


def run_interpolate(arguments: argparse.Namespace) -> int:
    """Decode the straight line between the latents of pictures: a film, a sheet, single files, or arrays."""
    import numpy as np
    import torch

    from zoo.commands.own import found, opened, parts
    from zoo.memory import require
    from zoo.pictures import writing

    out, pictures, steps = arguments.out, found(arguments), arguments.steps
    endings = list(dict.fromkeys([*writing.MOVING, *writing.STILL, writing.ARRAYS]))
    ending = "" if writing.is_folder(out) else writing.check_ending(out, endings)
    if len(pictures) < 2:
        raise UserError("an interpolation leads from one picture to another: name two or more")
    if not 2 <= steps <= MOST_STEPS:
        raise UserError(f"--steps is {steps}: it must be 2 to {MOST_STEPS:,}, the pictures' own latents included")
    run = opened(arguments)
    count = (len(pictures) - 1) * steps
    require(8 * count * run.model.image.pixels, f"{count:,} images", "choose fewer --steps, or pictures")
    known = list(parts(run, arguments, pictures))
    pixels, y = torch.cat([part.pixels for part in known]), known[0].y
    if len(pixels) < 2:
        raise UserError("of the pictures, one alone can be used: an interpolation needs two")
    means = [run.model.encode(part.pixels, part.y)[0] for part in known]
    mu = torch.cat(means)
    along = torch.linspace(0, 1, steps, device=mu.device).view(1, steps, 1)
    z = torch.lerp(mu[:-1, None], mu[1:, None], along).flatten(0, 1)  # [pairs * steps, D]
    images = writing.to_bytes(run.model.decode(z, None if y is None else int(y[0])))
    if not ending:
        width = len(str(len(images) - 1))
        for i, image in enumerate(images):
            writing.write_picture(image, out / f"{i:0{width}}.png")
    elif ending == writing.ARRAYS:
        writing.write_arrays(out, {"images": images, "latents": z.cpu().numpy()})
    elif ending in writing.MOVING:
        there_and_back = np.concatenate([images, images[-2:0:-1]])
        writing.write_film(there_and_back, out)
    else:
        ends = pixels.permute(0, 2, 3, 1).numpy()
        rows = zip(ends[:-1], images.reshape(-1, steps, *images.shape[1:]), ends[1:], strict=True)
        strip = np.concatenate([np.concatenate([a[None], between, b[None]]) for a, between, b in rows])
        writing.write_picture(writing.sheet(strip, steps + 2), out)
    print(f"{len(images):,} steps in {printable(out)}")
    return 0
