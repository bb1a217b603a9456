"""Published numbers, and whether a run reproduces them: `run.py reference RUN`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveFloat, model_validator

from zoo.config import check, flatten, parse_yaml
from zoo.errors import UserError, warn
from zoo.files import CONFIG_FILE, RESULTS_FILE, read_json, read_text, see_that_it_is_plain
from zoo.records import Results, read_log
from zoo.values import unfit

LIKELIHOODS = ("nll", "elbo", "distortion", "bits_per_dim")
BLACK_AND_WHITE = ("binarized_mnist",)
REFERENCE_FILE = Path(__file__).with_name("reference.yaml")


@dataclass(frozen=True)
class Run:
    """A finished run's folder.

    Attributes:
        folder: Where it lies.
        results: Its `results.json`.
        config: Its `config.yaml` with the variant's own defaults written out, flat: "model.latent_dim" to 20.
    """

    folder: Path
    results: Results
    config: dict[str, Any]


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        UserError: if it isn't finished, or its files can't be read.
    """
    path = folder / RESULTS_FILE
    if os.path.lexists(path):
        see_that_it_is_plain(folder)
    if not path.is_file():
        raise UserError(f"{folder} is no finished run: there is no {RESULTS_FILE} in it")
    try:
        values = read_json(path)
    except UserError as error:
        raise UserError(f"{error}: score the run again with `run.py evaluate {folder}`") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no results, but a {type(values).__name__}")
    results = check(Results, values, str(path))
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{folder} is no complete run: there is no {CONFIG_FILE} in it")
    config = parse_yaml(read_text(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    if fault := unfit(config):
        raise UserError(f"{folder / CONFIG_FILE}: {fault}")
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise UserError(f"{folder / CONFIG_FILE} is cut off: it names no model")
    return Run(folder, results, settings_of(config))


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config's values flat, the variant's own defaults written out."""
    return flatten(config | {"model": _with_defaults(config["model"])})


def _with_defaults(model: dict[str, Any]) -> dict[str, Any]:
    from zoo.models import model_options  # brings torch along

    given = {name: value for name, value in model.items() if name != "name"}
    try:
        options = model_options(model["name"], given)
    except UserError:  # a plugin's variant: what the config says is all there is to know
        return model
    return model | {name: option.default for name, option in options.items()} | given


class Table(BaseModel):
    """An entry of `reference.yaml`; the file's own head explains it."""

    model_config = ConfigDict(extra="forbid")

    source: str
    metric: str
    unit: str
    dataset: str
    protocol: str
    tolerance: PositiveFloat | None
    conditions: dict[str, Any] | None
    values: dict[str, float | list[float]]
    sd: dict[str, float] = {}

    @model_validator(mode="after")
    def _compared_or_not(self) -> Table:
        if (self.tolerance is None) != (self.conditions is None) or self.conditions == {}:
            raise ValueError("give both tolerance and conditions, or null for both")
        drawn = flatten(self.conditions or {}).get("data.binarize") in ("dynamic", "fixed")
        if self.conditions and self.metric in LIKELIHOODS and not drawn and self.dataset not in BLACK_AND_WHITE:
            raise ValueError(
                f"{self.metric} of grey pixels is no likelihood that a paper prints: let conditions name data.binarize"
            )
        return self


@dataclass(frozen=True)
class Reference:
    """One published number, or one per epoch."""

    variant: str
    values: tuple[float, ...]
    table: Table

    @property
    def sd(self) -> float | None:
        """The published spread, if there is one."""
        return self.table.sd.get(self.variant)

    def allowed(self, value: float) -> float:
        """How far from a published value ours may lie: by the tolerance, or the published spread if that is larger."""
        return max((self.table.tolerance or 0) * abs(value), self.sd or 0)

    @property
    def margin(self) -> str:
        """The same in words."""
        percent = f"{100 * (self.table.tolerance or 0):g} %"
        return f"{percent} or {self.sd:g}" if self.sd else percent


@dataclass(frozen=True)
class Comparison:
    """A published number beside ours."""

    reference: Reference
    ours: tuple[float, ...]

    @property
    def differences(self) -> list[float]:
        """Relative differences: positive where ours are above the published ones, also below zero."""
        pairs = zip(self.reference.values, self.ours, strict=True)
        return [(ours - published) / abs(published) for published, ours in pairs]

    @property
    def worst(self) -> float:
        """The largest of them, with its sign."""
        return max(self.differences, key=abs)

    @property
    def within(self) -> bool:
        """Whether all of them are within what is allowed."""
        pairs = zip(self.reference.values, self.ours, strict=True)
        return all(abs(ours - published) <= self.reference.allowed(published) for published, ours in pairs)

    def __str__(self) -> str:
        table, word = self.reference.table, "within" if self.within else "outside"
        return f"{table.metric} {100 * self.worst:+.2f} %, {word} {self.reference.margin} of {table.source}"


def load_references(path: Path = REFERENCE_FILE) -> list[Reference]:
    """Read and check all published numbers.

    Raises:
        UserError: if the file doesn't fit its own format.
    """
    references = []
    for number, values in enumerate(parse_yaml(read_text(path), str(path)), 1):
        table: Table = check(Table, values, f"{path.name}, table {number}")
        for variant, value in table.values.items():
            references.append(Reference(variant, tuple(value) if isinstance(value, list) else (value,), table))
    return references


def candidates(references: Sequence[Reference], results: Results) -> Iterator[Reference]:
    """Yield what is published with conditions for a run's variant and data set."""
    for reference in references:
        same = (reference.variant, reference.table.dataset) == (results.variant, results.dataset)
        if same and reference.table.conditions is not None:
            yield reference


def unmet(reference: Reference, run: Run) -> str | None:
    """Return the first condition that a run does not meet, as a sentence's end, or None if it meets all."""
    facts = run.config | flatten(run.results.model_dump(mode="json"), "results.")
    score = run.results.metrics.get(reference.table.metric)
    facts |= flatten(score.model_dump(), "score.") if score else {}
    for key, wanted in flatten(reference.table.conditions or {}).items():
        if key not in facts or facts[key] != wanted:
            return f"it needs {key} {wanted}, and the run has {facts.get(key, 'no such setting')}"
    return None


def measured(reference: Reference, run: Run) -> tuple[float, ...] | None:
    """Return a run's own values of a published metric, or None if it has not (all of) them."""
    metric, wanted = reference.table.metric, len(reference.values)
    if metric in run.results.metrics:
        score = run.results.metrics[metric]
        return (score.value,) if wanted == 1 and score.unit == reference.table.unit else None
    try:
        values = [row[metric] for row in read_log(run.folder) if metric in row]
    except UserError as error:
        warn(f"{error}: it is held against no published {metric}")
        return None
    return tuple(values[:wanted]) if len(values) >= wanted else None


def compare(reference: Reference, runs: Sequence[Run]) -> Comparison | None:
    """Hold the mean over runs (seeds) against a published number; None unless every run meets its conditions."""
    if any(unmet(reference, run) for run in runs):
        return None
    ours = [values for run in runs if (values := measured(reference, run)) is not None]
    return Comparison(reference, tuple(map(fmean, zip(*ours, strict=True)))) if len(ours) == len(runs) else None


def compare_all(references: Sequence[Reference], runs: Sequence[Run]) -> list[Comparison]:
    """Return every comparison that the protocol of `runs`, one config with several seeds, allows."""
    found = (compare(reference, runs) for reference in candidates(references, runs[0].results))
    return [comparison for comparison in found if comparison is not None]


def report(comparison: Comparison) -> str:
    """Write a comparison as a table."""
    table = comparison.reference.table
    epochs = table.metric.startswith("train/epoch_")
    lines = [f"{table.source}: {table.metric}, {table.unit}", f"  ({table.protocol})"]
    lines.append(f"{'epoch' if epochs else '':>6} {'published':>10} {'ours':>10} {'difference':>11}")
    rows = zip(comparison.reference.values, comparison.ours, comparison.differences, strict=True)
    for epoch, (published, ours, difference) in enumerate(rows, 1):
        verdict = "within" if abs(ours - published) <= comparison.reference.allowed(published) else "outside"
        percent = f"{100 * difference:+.2f} %"
        lines.append(f"{epoch if epochs else '':>6} {published:>10.4f} {ours:>10.4f} {percent:>11}  {verdict}")
    verdict = "within" if comparison.within else "outside"
    return "\n".join([*lines, f"{verdict} the tolerance of {comparison.reference.margin}"])


def compare_run(folder: Path) -> bool:
    """Hold a run against published numbers of the same protocol, and print how they compare.

    Returns:
        Whether all are within their tolerance.

    Raises:
        UserError: if there is nothing to compare.
    """
    run = read_run(folder)
    references = list(candidates(load_references(), run.results))
    comparisons = compare_all(references, [run])
    if not comparisons:
        raise UserError(f"{run.folder} can't be compared: {_why_not(references, run)}")
    print("\n\n".join(report(comparison) for comparison in comparisons))
    return all(comparison.within for comparison in comparisons)


def _why_not(references: Sequence[Reference], run: Run) -> str:
    if not references:
        return f"nothing is published for {run.results.variant} on {run.results.dataset} in {REFERENCE_FILE.name}"
    first = references[0]
    reason = unmet(first, run) or f"it has not all of the {len(first.values)} values of {first.table.metric}"
    return f"for {first.table.metric} of {first.table.source}, {reason}"
