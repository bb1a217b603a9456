"""What a run says of itself: its results, its starts, its log. Somebody else may have written them: all is checked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, Strict, model_validator

from zoo.config import check
from zoo.errors import UserError
from zoo.files import (
    HISTORY_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    parse_json,
    read_json,
    read_lines,
    read_text,
    replace_file,
)
from zoo.texts import placeless_command, printable, without_places

ELSEWHERE = "elsewhere"  # key of the results under which those on other data are, by that data's name

WholeNumber = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=0, le=10**15)]
Number = Annotated[float, Strict(), Field(ge=-1e100, le=1e100, allow_inf_nan=False)]  # squares of these can be added up
Measured = Number | Annotated[float, Strict(), AfterValidator(lambda value: _not_finite(value))]  # PSNR of equals: inf
Speed = Annotated[Number, Field(ge=1e-9)]
Word = Annotated[str, Field(max_length=10_000), AfterValidator(lambda text: without_places(printable(text)))]
Command = Annotated[str, Field(max_length=100_000), AfterValidator(lambda text: placeless_command(printable(text)))]


def _not_finite(value: float) -> float:
    if math.isfinite(value):
        raise ValueError("it is too large a number to be true")
    return value


class Metric(BaseModel):
    """One number of a `results.json` and its protocol; see `zoo.metrics.core.Score`."""

    value: Measured
    se: Annotated[Number, Field(ge=0)] | None = None
    unit: Word = ""
    higher_is_better: bool | None = None
    protocol: Word = ""
    n: Count | None = None
    split: Word = ""
    sampler: Word | None = None
    commit: Word = ""  # of the code that measured it


class Life(BaseModel):
    """A start of a run, of its `history`."""

    started: Word = ""


class Start(Life):
    """A line of `history.jsonl`, which a resumed run goes by."""

    step: Count
    changed: dict[str, Any]
    data: str


class Progress(BaseModel):
    """What a checkpoint holds beside tensors: where the run stood, and the sums and counts of what it logs."""

    step: Count
    best_val: Annotated[float, Strict()]
    best_step: Count = 0  # absent from a checkpoint from before there was patience
    epoch_sums: dict[str, Annotated[float, Strict()]]
    epoch_counts: dict[str, Count]
    window_sums: dict[str, Annotated[float, Strict()]]
    window_counts: dict[str, Count]

    @model_validator(mode="after")
    def _counted(self) -> Progress:
        for sums, counts in ((self.epoch_sums, self.epoch_counts), (self.window_sums, self.window_counts)):
            if sums.keys() != counts.keys() or not all(counts.values()):
                raise ValueError("each sum needs its count")
        return self


class Written(BaseModel):
    """What a `results.json` may hold; of a run that is still scored, not all of it is there."""

    variant: Word = ""
    dataset: Word = ""
    image: tuple[Count, Count, Count] | None = None
    seed: WholeNumber = 0
    config_hash: Word = ""
    metrics: dict[Word, Metric] = {}
    terms: dict[Word, Measured] = {}
    commit: Word = "unknown"
    parameters: Count | None = None
    latent_dim: Count | None = None
    steps: Count | None = None
    epochs: Number | None = None
    batch_size: Count | None = None
    images_per_second: Speed | None = None
    device: Word = "unknown"
    title: Word | None = None
    data: Word = ""
    data_digest: Word | None = None
    classes: dict[str, Count] = {}
    version: Word = "unknown"
    processes: Count = 1
    precision: Word = "unknown"
    command: Command = ""
    history: list[Life] = []
    benchmarked: dict[str, str] = {}
    elsewhere: dict[str, Written] = {}


class Results(Written):
    """What is read from the `results.json` of a finished run."""

    variant: Word
    dataset: Word
    image: tuple[Count, Count, Count]
    seed: WholeNumber
    config_hash: Word
    metrics: dict[Word, Metric]


def read_results(out: Path, elsewhere: str | None = None) -> dict[str, Any]:
    """Return a run's results as they stand there, or an empty dictionary where there are none yet.

    Args:
        out: The run's folder.
        elsewhere: The name of other data than the run's own, to get the results on that.

    Raises:
        UserError: if the file is damaged, or holds what no run writes.
    """
    path = out / RESULTS_FILE
    results = read_json(path) if path.is_file() else {}
    if not isinstance(results, dict):
        raise UserError(f"{path} holds no results, but {type(results).__name__}")
    check(Written, results, str(path))
    return results if elsewhere is None else results.get(ELSEWHERE, {}).get(elsewhere, {})


def write_results(out: Path, results: dict[str, Any], elsewhere: str | None = None) -> None:
    """Lay `results` over those that the run's folder already holds, key by key, metric by metric."""
    old = read_results(out, elsewhere)
    merged = old | results | {"metrics": old.get("metrics", {}) | results.get("metrics", {})}
    if elsewhere is not None:
        own = read_results(out)
        merged = own | {ELSEWHERE: own.get(ELSEWHERE, {}) | {elsewhere: merged}}
    replace_file(out / RESULTS_FILE, json.dumps(merged, indent=1, default=_plain) + "\n")


def _plain(thing: object) -> object:
    """Write arrays and tensors, which JSON does not know, as lists, and all else as text."""
    return thing.tolist() if hasattr(thing, "tolist") else str(thing)


def read_history(out: Path) -> list[dict[str, Any]]:
    """Return a run's starts, the first one first; none of a run older than histories.

    Raises:
        UserError: if a line is no start.
    """
    path = out / HISTORY_FILE
    lives = []
    for number, line in enumerate(read_lines(path), 1):
        life = _object(line, f"{path}, line {number}")
        check(Start, life, f"{path}, line {number}")
        lives.append(life)
    return lives


def read_log(out: Path) -> list[dict[str, float]]:
    """Return what was logged while a run was trained, a row for each time; none where nothing was yet.

    Raises:
        UserError: if a line is no row.
    """
    path = out / METRICS_FILE
    return [read_row(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1)]


def read_row(line: str | bytes, where: str) -> dict[str, float]:
    """Return a row of a log: numbers by name, "step" among them.

    Raises:
        UserError: if it is none.
    """
    row = _object(line, where)
    for name, value in row.items():
        if not isinstance(value, float) and (not isinstance(value, int) or abs(value) > 10**15):
            raise UserError(f"{where}: {printable(name)} is no number that a run logs")
    if not isinstance(row.get("step"), int) or row["step"] < 0:
        raise UserError(f"{where}: there is no step in it")
    return row


def read_progress(path: Path) -> dict[str, Any]:
    """Return where a run stood at a checkpoint.

    Raises:
        UserError: if the file is damaged.
    """
    progress = _object(read_text(path), str(path))
    check(Progress, progress, str(path))
    return progress


def _object(line: str | bytes, where: str) -> dict[str, Any]:
    value = parse_json(line, where)
    if not isinstance(value, dict):
        raise UserError(f"{where} holds no object, but {type(value).__name__}")
    return value
