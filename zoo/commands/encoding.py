"""Commands that say what a trained run makes of a user's own pictures: their latents, and how odd they are."""

from __future__ import annotations

import argparse
import csv
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DoesNotApply, UserError
from zoo.texts import csv_cell, printable

if TYPE_CHECKING:
    import numpy as np

    from zoo.commands.own import Opened, Part

LATENTS = (".npz", ".parquet", ".safetensors")
SCORES = (".csv", ".json")
SHOWN = 20
DRAWS = 16  # of the posterior, by which a picture's likelihood is bounded


def run_encode(arguments: argparse.Namespace) -> int:
    """Write the latents of a user's own pictures: mean, log variance or codes, file names and labels."""
    import numpy as np

    from zoo.commands.own import found, opened, parts
    from zoo.data.own import classes_of
    from zoo.pictures.writing import check_ending

    ending, pictures = check_ending(arguments.out, LATENTS), found(arguments)
    run = opened(arguments)
    columns: dict[str, list[np.ndarray]] = {}
    kept = []
    for part in parts(run, arguments, pictures):
        for name, values in _latents(run, part).items():
            columns.setdefault(name, []).append(values)
        kept += part.pictures
    arrays = {name: np.concatenate(values) for name, values in columns.items()}
    labels, classes = classes_of(kept)
    if labels is not None:
        arrays["labels"] = labels.numpy()
    texts = {"names": [picture.name for picture in kept], "classes": list(classes)}
    _write_latents(arguments.out, ending, arrays, texts)
    shapes = ", ".join(f"{name} {' x '.join(map(str, values.shape))}" for name, values in arrays.items())
    print(f"{len(kept):,} picture{'s' if len(kept) > 1 else ''} in {printable(arguments.out)}: {shapes}")
    return 0


def _latents(run: Opened, part: Part) -> dict[str, np.ndarray]:
    mean, logvar = run.model.encode(part.pixels, part.y)
    found = {"mean": mean} | ({} if logvar is None else {"logvar": logvar})
    if run.model.codebook_size:
        found["codes"] = run.model.indices(part.pixels, part.y)
    return {name: values.cpu().numpy() for name, values in found.items()}


def _write_latents(out: Path, ending: str, arrays: dict[str, np.ndarray], texts: dict[str, list[str]]) -> None:
    """Write arrays `[N, …]` with the pictures' names, and the classes' where there are some.

    Raises:
        UserError: if it can't be written, or what writes it is not installed.
    """
    import numpy as np

    from zoo.files import writing

    if ending == ".parquet":
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise UserError(
                "a .parquet needs the library pyarrow: pip install 'vae-zoo[data]', or write .npz"
            ) from None
        columns = {"name": texts["names"]} | {name: list(values) for name, values in arrays.items() if name != "labels"}
        if "labels" in arrays:
            columns["label"] = [texts["classes"][label] for label in arrays["labels"]]
        with writing(out):
            parquet.write_table(pyarrow.table(columns), out)
    elif ending == ".safetensors":
        from safetensors.numpy import save

        with writing(out):
            out.write_bytes(save(arrays, {name: json.dumps(words) for name, words in texts.items()}))
    else:
        named = {name: np.array(words) for name, words in texts.items() if words}
        with writing(out):
            np.savez_compressed(out, **arrays, **named)  # type: ignore[arg-type]


def run_score(arguments: argparse.Namespace) -> int:
    """Say how well a trained model knows each of a user's own pictures, the oddest first."""
    from zoo.commands.own import found, opened, parts
    from zoo.files import writing
    from zoo.pictures.writing import check_ending

    ending = "" if arguments.out is None else check_ending(arguments.out, SCORES)
    pictures = found(arguments)
    run = opened(arguments)
    rows: list[dict[str, Any]] = []
    for part in parts(run, arguments, pictures):
        rows += _scores(run, part)
    by_bound = "bound" in rows[0]
    rows.sort(key=lambda row: row["bound"] if by_bound else -row["mse"])
    if ending:
        with writing(arguments.out), arguments.out.open("w", newline="", encoding="utf-8") as file:
            if ending == ".csv":
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
            else:
                json.dump(rows, file, indent=1)
    what = f"bound on log p(x) by {DRAWS} draws, nats; " if by_bound else ""
    print(f"the oddest first ({what}mean squared error of the reconstruction, pixels in [0, 1])")
    for row in rows[:SHOWN]:
        numbers = f"{row['bound']:>12,.1f}  " if by_bound else "  "
        print(f"{numbers}{row['mse']:.5f}  {row['name']}")
    if len(rows) > SHOWN:
        where = f"all are in {printable(arguments.out)}" if ending else "--out scores.csv writes all"
        print(f"and {len(rows) - SHOWN:,} more: {where}")
    return 0


def _scores(run: Opened, part: Part) -> list[dict[str, Any]]:
    """Return each picture's name, bound on its log-likelihood in nats if the model has one, and error."""
    errors = run.model.reconstruct(part.pixels, part.y).cpu() - part.pixels / 255
    known = {"mse": errors.square().mean((1, 2, 3)).tolist()}
    with suppress(DoesNotApply):  # where there is no density, the distance alone tells
        known = {"bound": run.model.log_likelihood(part.pixels, DRAWS, part.y).tolist()} | known
    names = [printable(picture.name) for picture in part.pictures]
    return [dict(zip(("name", *known), row, strict=True)) for row in zip(names, *known.values(), strict=True)]
