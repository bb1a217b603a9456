"""A table beside pictures that says what each shows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from zoo.data.decode import size_of
from zoo.data.layout import naturally
from zoo.errors import UserError

ATTRIBUTE = {"0": 0, "1": 1, "-1": 0}


def read_labels(table: Path, names: Sequence[str]) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Read a CSV file whose first line names its columns: `file` and `label`, or `file` and one for each attribute.

    Args:
        table: The file.
        names: Of the images that it must speak of: paths, as the column `file` has them.

    Returns:
        Classes int64 `[N]` or attributes uint8 `[N, A]`, the classes' names, and the attributes'.

    Raises:
        UserError: if the table can't be read, lacks an image, or says anything else of an attribute.
    """
    try:
        size_of(table)
        with table.open(newline="", encoding="utf-8-sig") as lines:
            header, *rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if row]
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or "it is no text with a first line of column names"
        raise UserError(f"data.labels: {table.absolute()} can't be read: {why}") from None
    if "file" not in header or len(header) < 2:
        raise UserError(f"{table} must begin with a line of columns' names: file and label, or file and attributes")
    at = header.index("file")
    said: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"{table}: row {number} has {len(row)} values, and the first row {len(header)}")
        said[PurePosixPath(row[at].replace("\\", "/")).as_posix()] = row[:at] + row[at + 1 :]
    absent = [name for name in names if name not in said]
    if absent:
        raise UserError(f"{table} has no row about {absent[0]} ({len(absent):,} of {len(names):,} images are missing)")
    columns = tuple(header[:at] + header[at + 1 :])
    if columns == ("label",):
        classes = naturally({row[0] for row in said.values()})
        number_of = {name: i for i, name in enumerate(classes)}
        return torch.tensor([number_of[said[name][0]] for name in names]), tuple(classes), ()
    for name in names:
        for column, value in zip(columns, said[name], strict=True):
            if value not in ATTRIBUTE:
                raise UserError(f"{table} says {value!r} of {name}'s {column}: attributes are 0 and 1, or -1 and 1")
    attributes = [[ATTRIBUTE[value] for value in said[name]] for name in names]
    return torch.tensor(attributes, dtype=torch.uint8), (), columns
