"""Published rows, each with the config that remakes it: `vae-zoo papers`, and `vae-zoo papers NAME` for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from zoo import shipped
from zoo.config import Config, flatten, load_config
from zoo.errors import UserError
from zoo.files import RESULTS_FILE
from zoo.registry import did_you_mean
from zoo.reports.reference import Comparison, Reference, Run, load_references, measured, read_run, settings_of, unmet
from zoo.reports.suite import MAY_DIFFER, Job, Stop, run_suite

CONFIGS = shipped.CONFIGS / "papers"
PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results" / "papers"  # the project's own attempts, in a checkout
RUNS = Path("runs/papers")


@dataclass(frozen=True)
class Attempt:
    """A published number, and what the runs of its config came to.

    Attributes:
        name: The config's, without its ending.
        reference: What is published.
        ours: By seed, as many numbers as are published; empty before there is a run.
        fault: Why the runs there are can't be held against it, or "".
    """

    name: str
    reference: Reference
    ours: dict[int, tuple[float, ...]]
    fault: str = ""

    @property
    def published(self) -> float:
        """What is printed; of a number per epoch, the last."""
        return self.reference.values[-1]

    @property
    def means(self) -> list[float]:
        """Ours, each over seeds."""
        return [fmean(values) for values in zip(*self.ours.values(), strict=True)]

    @property
    def comparison(self) -> Comparison:
        """Of ours with what is published."""
        return Comparison(self.reference, tuple(self.means))

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if not self.ours:
            return self.fault or "not run"
        return "within" if self.comparison.within else "outside"

    @property
    def cells(self) -> list[str]:
        """Its row of a table: published, obtained, difference, verdict."""
        sd = self.reference.sd
        obtained = difference = ""
        if self.ours:
            mean, last = self.means[-1], [values[-1] for values in self.ours.values()]
            obtained = (
                f"{mean:.2f} ± {stdev(last):.2f} ({len(last)} seeds)" if len(last) > 1 else f"{mean:.2f} (1 seed)"
            )
            difference = f"{mean - self.published:+.2f} ({100 * self.comparison.differences[-1]:+.1f} %)"
        published = f"{self.published:.2f}" + (f" ± {sd:.2f}" if sd else "")
        return [published, obtained, difference, self.verdict]


def names() -> list[str]:
    """Return the names of all rows that have a config."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def config_path(name: str) -> Path:
    """Return a row's config.

    Raises:
        UserError: if there is none of that name.
    """
    known = names()
    if name not in known:
        raise UserError(f"there is no paper's row {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
    return CONFIGS / f"{name}.yaml"


def published_for(config: Config, references: Sequence[Reference]) -> list[Reference]:
    """Return the published numbers whose conditions a config meets, as far as a config can."""
    flat = settings_of(config.dump())
    return [
        reference
        for reference in references
        if (reference.variant, reference.table.dataset) == (config.model.name, config.data.name)
        and reference.table.conditions is not None
        and all(
            key in flat and flat[key] == wanted
            for key, wanted in flatten(reference.table.conditions).items()
            if key.partition(".")[0] not in ("results", "score")
        )
    ]


def attempts(name: str, folders: Sequence[Path], references: Sequence[Reference]) -> list[Attempt]:
    """Hold a row's finished runs against what is published for it.

    Args:
        name: The row's.
        folders: Where runs may lie, as `<folder>/<name>/seed0`; the first that has one of this row is taken.
        references: All that is published.
    """
    rows = published_for(load_config(config_path(name)), references)
    found = next((runs for folder in folders if (runs := _finished(folder / name))), [])
    return [_attempt(name, reference, found) for reference in rows]


def _finished(folder: Path) -> list[Run]:
    return [read_run(path.parent) for path in sorted(folder.glob(f"seed*/{RESULTS_FILE}"))]


def _attempt(name: str, reference: Reference, runs: Sequence[Run]) -> Attempt:
    ours: dict[int, tuple[float, ...]] = {}
    for run in runs:
        if fault := unmet(reference, run):
            return Attempt(name, reference, {}, f"not the protocol: {fault}")
        values = measured(reference, run)
        if values is None:
            return Attempt(name, reference, {}, f"not measured: {reference.table.metric}")
        ours[run.results.seed] = values
    return Attempt(name, reference, ours)


def jobs(name: str, overrides: Sequence[str], out: Path = RUNS) -> list[Job]:
    """Return a row's runs, one per seed of its config.

    Args:
        name: The row's.
        overrides: `key=value`, for the machine alone: a row's protocol stands in its config.
        out: The runs lie in `<out>/<name>/seed<seed>`.

    Raises:
        UserError: if there is no such row, or an override would change the protocol.
    """
    path = config_path(name)
    for override in overrides:
        key = override.partition("=")[0]
        if key.split(".")[0] not in MAY_DIFFER and key != "data.root":
            raise UserError(f"{key} is part of the row's protocol: change it in a copy of {path}, and train that")
    config = load_config(path, overrides)
    made = []
    for seed in config.seeds or [config.seed]:
        folder = out / name / f"seed{seed}"
        made.append(Job(folder, path, [*overrides, f"seed={seed}", f"out={folder}", f"title={name}"]))
    return made


def run(name: str, overrides: Sequence[str]) -> int:
    """Train and score a row's runs, as far as they aren't finished, and say how they compare.

    Returns:
        The exit code: 0 if all numbers are within what is allowed, 1 if one is not or a run failed, 130 if stopped.
    """
    work = jobs(name, overrides)
    try:
        failures = run_suite(work)
    except (Stop, KeyboardInterrupt):
        print("stopped; the same command goes on from here")
        return 130
    found = attempts(name, [RUNS], load_references())
    print(table(found))
    return 1 if failures or any(attempt.verdict != "within" for attempt in found) else 0


def show() -> str:
    """Return all rows: what is published, and what the runs here, or else the project's own, came to."""
    references = load_references()
    found = [attempt for name in names() for attempt in attempts(name, [RUNS, PUBLISHED], references)]
    return f"{table(found)}\nobtained: by runs in {RUNS}, else by the project's own; `vae-zoo papers NAME` runs a row"


def table(found: Sequence[Attempt]) -> str:
    """Write attempts as text, a line each."""
    lines = [["row", "metric", "published", "by", "obtained", "difference", "verdict"]]
    for attempt in found:
        of = attempt.reference.table
        published, *rest = attempt.cells
        lines.append([attempt.name, of.metric, published, of.source.split(",")[0], *rest])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
