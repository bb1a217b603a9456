"""Image data sets that the library `datasets` reads: parquet files, folders, and what lies on Hugging Face's hub."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from zoo.data import decode
from zoo.data.cache import VERSION, kept
from zoo.data.digests import Files
from zoo.data.folder import DEFAULT_SIZE, Fit, Loaded, OnBadImage, check_bad, split_images, warn_of_twins
from zoo.data.layout import CLASS_NUMBER, MOST_CLASSES, SPLITS
from zoo.data.pixels import Size, sides
from zoo.data.source import Source, register_dataset
from zoo.errors import UserError


@register_dataset("huggingface", "any image data set that the library `datasets` reads, by data.path: a folder, a name")
def huggingface(
    root: Path,
    size: Size | None,
    limit: int | None,
    *,
    path: str,
    subset: str | None = None,
    image: str | None = None,
    label: str | None = None,
    channels: Literal[1, 3] = 3,
    fit: Fit = "crop",
    on_bad_image: OnBadImage = "skip",
) -> Source:
    """Images that `datasets.load_dataset(path, subset)` finds: `path` is a folder in `data.root`, or a name on the hub.

    `image` and `label` name the columns; without them they are the only one of images, and the only one of classes, if
    there is one. Splits called train, test, validation and so on are the official ones. Pictures are decoded once into
    the cache, as those of `image_folder`, whose `channels`, `fit` and `on_bad_image` these are.
    """
    loaded = _load(root, path, subset)
    parts: dict[str, Any] = {}
    for name, rows in loaded.items():
        if (role := SPLITS.get(name.casefold())) in parts:
            raise UserError(f"{path} has two splits for {role!r}: {', '.join(loaded)}")
        if role or len(loaded) == 1:
            parts[role or "train"] = rows if limit is None else rows.select(range(min(limit, len(rows))))
    if "train" not in parts:
        raise UserError(f"{path} has the splits {', '.join(loaded)}, and none is for training")
    image = _column(path, parts["train"], "Image", image, "image")
    label = _column(path, parts["train"], "ClassLabel", label, "label") if label or _has(parts, "ClassLabel") else None
    form = decode.Form(*sides(size or DEFAULT_SIZE), channels, None, fit)
    names = {split: [f"{split}/{i}" for i in range(len(rows))] for split, rows in parts.items()}
    images = split_images(_decoded(path, parts, image, form, on_bad_image), names, _labels(path, parts, label))
    warn_of_twins(images)
    classes = _classes(parts, label)
    return Source(images["train"], images.get("test"), images.get("val"), classes, title=Path(path).name)


def _load(root: Path, path: str, subset: str | None) -> dict[str, Any]:
    try:
        import datasets
    except ImportError:
        raise UserError("data set 'huggingface' needs the library datasets: pip install 'vae-zoo[data]'") from None
    place = str((root / path).resolve()) if (root / path).exists() else path
    try:
        return dict(datasets.load_dataset(place, subset))
    except Exception as error:  # the library raises what its many formats and the network raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"data.path is {path!r}, which is no data set in {root.absolute()}, nor could it be read as one ({reason})"
        ) from None


def _has(parts: dict[str, Any], kind: str) -> bool:
    return any(type(feature).__name__ == kind for feature in parts["train"].features.values())


def _column(path: str, rows: Any, kind: str, name: str | None, option: str) -> str:
    """Return a column's name: the one that is given, else the only one of a kind."""
    fitting = [column for column, feature in rows.features.items() if type(feature).__name__ == kind]
    chosen = fitting if name is None else [column for column in rows.features if column == name]
    if len(chosen) != 1:
        columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in rows.features.items())
        raise UserError(f"{path} has the columns {columns}: name the {option}s' one as data.{option}")
    return chosen[0]


def _decoded(path: str, parts: dict[str, Any], image: str, form: decode.Form, on_bad_image: OnBadImage) -> Loaded:
    """Return the pictures of all splits, one after another, from the cache, which decodes them if need be."""
    count = sum(map(len, parts.values()))
    marks = [VERSION, form, image, [(split, rows._fingerprint, len(rows)) for split, rows in parts.items()]]

    def build(out: Path) -> tuple[dict[str, str], list[int]]:
        bad: dict[str, str] = {}
        digests: list[int] = []
        with out.open("wb") as file:
            bar = tqdm(_contents(parts, image), f"decoding {path}", count, unit=" images", disable=None)
            for name, stored in bar:
                try:
                    content = stored["bytes"] if stored["bytes"] is not None else decode.content_of(stored["path"])
                    file.write(decode.decode(content, form))
                    digests.append(decode.digest(io.BytesIO(content)))
                except decode.BadImage as error:
                    bad[name] = str(error)
        return bad, digests

    key = hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:32]
    names = [f"{split}/{i}" for split, rows in parts.items() for i in range(len(rows))]
    pixels, bad, digests = kept(key, names, form, build)
    check_bad(bad, count, on_bad_image)
    good = [i for i, name in enumerate(names) if name not in bad]
    return Loaded(pixels, torch.tensor(good), Files([names[i] for i in good], digests))


def _contents(parts: dict[str, Any], image: str) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import Image

    for split, rows in parts.items():
        for i, row in enumerate(rows.select_columns(image).cast_column(image, Image(decode=False))):
            yield f"{split}/{i}", row[image] or {"bytes": b""}


def _labels(path: str, parts: dict[str, Any], label: str | None) -> Tensor | None:
    if label is None:
        return None
    values = [value for rows in parts.values() for value in rows[label]]
    if not all(isinstance(value, int) and 0 <= value < MOST_CLASSES for value in values):
        raise UserError(f"{path}: the column {label} must hold the {CLASS_NUMBER}, for each image")
    return torch.tensor(values)


def _classes(parts: dict[str, Any], label: str | None) -> tuple[str, ...]:
    if label is None:
        return ()
    feature = parts["train"].features[label]
    if type(feature).__name__ == "ClassLabel":
        return tuple(feature.names)
    return tuple(map(str, range(max(max(rows[label]) for rows in parts.values()) + 1)))
