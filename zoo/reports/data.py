"""What a run would see of its data, before it starts: `python run.py data CONFIG`."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from zoo.config import Config
from zoo.data import Data, Images, augmented, batches, build_data, dequantise, to_float
from zoo.data.decode import FORMATS
from zoo.files import writing
from zoo.models import preferred_range
from zoo.pictures.of_models import examples, to_unit
from zoo.registry import load_plugin
from zoo.texts import printable

COLUMNS = 10
TRAIN_ROWS = 3
LOOKED_AT = 1000  # images of a split, for the range of their pixels
SHOWN = 3


def show(config: Config, sheet: Path) -> str:
    """Build a config's data, draw some of its pictures, and say what it is; bad files are told on the way.

    Args:
        config: Of a run.
        sheet: The PNG to write.
    """
    for plugin in config.plugins:
        load_plugin(plugin)
    pixel_range = config.data.range or preferred_range(config.model.name, config.model.options)
    data = build_data(config.data, seed=config.seed)
    low, high = pixel_range
    lines = [f"data     {data.describe()}, digest {data.digest}"]
    for split, images in data.splits.items():
        seen = images.batch(torch.arange(min(LOOKED_AT, len(images))))[0]
        least, mean, greatest = int(seen.min()), seen.float().mean().item(), int(seen.max())
        sizes = _sizes(images)
        lines.append(
            f"{split:<8} {len(images):,} images, grey levels {least} to {greatest}, on average {mean:.0f}{sizes}"
        )
    lines += [f"pixels   as the model gets them: [{low:g}, {high:g}]", *_labels(data), *_copies(data)]
    rows = {}
    for split, images in data.splits.items():
        drawn = _as_trained_on(images, config, pixel_range) if split == "train" else _first(images)
        for number, part in enumerate(drawn.split(COLUMNS)):
            rows[f"{split} {number + 1}" if len(drawn) > COLUMNS else split] = part
    with writing(sheet):
        examples(rows, sheet)
    return "\n".join(map(printable, [*lines, f"pictures {sheet}"]))


def _sizes(images: Images) -> str:
    """Return the most frequent heights and widths of the first pictures as they are stored; "" if they are no files."""
    if images.files is None or images.files.folder is None:
        return ""
    found: Counter[str] = Counter()
    for name in images.names[:LOOKED_AT]:
        with suppress(OSError), Image.open(images.files.folder / name, formats=FORMATS) as picture:
            found[f"{picture.height} x {picture.width}"] += 1
    frequent = ", ".join(size for size, _ in found.most_common(SHOWN))
    return f", stored as {frequent}{', …' if len(found) > SHOWN else ''}"


def _first(images: Images) -> Tensor:
    return to_float(images.batch(torch.arange(min(COLUMNS, len(images))))[0], (0, 1))


def _as_trained_on(images: Images, config: Config, pixel_range: tuple[float, float]) -> Tensor:
    """Return the first images of a run's order, augmented as they would be, in [0, 1]."""
    cfg = config.data
    torch.manual_seed(config.seed)
    pixels = next(batches(images, COLUMNS * TRAIN_ROWS, config.seed, 0, 1))[0]
    pixels = augmented(pixels, cfg.flip, cfg.random_crop, torch.contiguous_format)
    return to_unit((dequantise if cfg.dequantise else to_float)(pixels, pixel_range), pixel_range)


def _labels(data: Data) -> list[str]:
    """Return a line for each class or attribute: how many images of each split have it."""
    names = data.class_names or data.attribute_names
    if not names or data.train.labels is None:
        return []
    counts = zip(*(data.class_counts(images) for images in data.splits.values()), strict=True)
    names = tuple(map(printable, names))
    width = max(map(len, names))
    kind = "classes" if data.class_names else "attributes"
    lines = [f"{kind:<8} {len(names)}: how many images of {', '.join(data.splits)} have each"]
    return lines + [
        f"  {name:<{width}} {' '.join(f'{n:>9,}' for n in of_splits)}"
        for name, of_splits in zip(names, counts, strict=True)
    ]


def _copies(data: Data) -> list[str]:
    """Return a line about each two splits that share images, and one about copies within the splits."""
    contents = {split: _contents(images) for split, images in data.splits.items()}
    lines = []
    for one, other in (("test", "train"), ("test", "val"), ("val", "train")):
        places = {content: i for i, content in enumerate(contents[other])}
        pairs = [(i, places[content]) for i, content in enumerate(contents[one]) if content in places]
        if pairs:
            first = [f"{_name(data.splits[one], i)} = {_name(data.splits[other], k)}" for i, k in pairs[:SHOWN]]
            rest = ", …" if len(pairs) > SHOWN else ""
            lines.append(f"copies   {len(pairs):,} {one} images are in {other}, too: {', '.join(first)}{rest}")
    within = {split: len(contents[split]) - len(set(contents[split])) for split in contents}
    if any(within.values()):
        counts = ", ".join(f"{n:,} in {split}" for split, n in within.items() if n)
        lines.append(f"copies   of other images in the same split: {counts}")
    return lines or ["copies   no image is there twice"]


def _contents(images: Images) -> list[int]:
    """Return what stands for the content of each image: of its file, or else of its pixels."""
    if images.digests is not None:
        return images.digests.tolist()
    contents = []
    for positions in torch.arange(len(images)).split(LOOKED_AT):
        for image in images.stored.batch(positions)[0].contiguous().numpy():
            contents.append(int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little"))
    return contents


def _name(images: Images, position: int) -> str:
    return printable(images.subset(torch.tensor([position])).names[0]) if images.files else f"image {position:,}"
