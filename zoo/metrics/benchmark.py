"""Scores a trained model by the metrics that every run reports, and by those that its config asks for, each once."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from zoo.config import Config
from zoo.engine.provenance import code
from zoo.errors import DoesNotApply, PluginError, UserError, crash, is_ours, place, warn
from zoo.files import MODEL_FILE, RESULTS_FILE
from zoo.metrics.core import METRICS, Score, Subject
from zoo.metrics.samplers import SAMPLERS
from zoo.options import check_options, signature_options
from zoo.records import read_results, write_results
from zoo.registry import Entry
from zoo.texts import printable

EVERY_RUN = ("loss", "psnr")
NOT_APPLICABLE = " n/a"  # stands after the digest of what a metric was tried on


def asked_for(config: Config, metrics: Sequence[str]) -> list[tuple[Entry[Any], dict[str, Any]]]:
    """Return metrics with the options that a config has for them, checked; plugins are imported already.

    Raises:
        UserError: if a metric's name or option is wrong, or a sampler's name.
    """
    for name in config.benchmark.samplers:
        SAMPLERS.lookup(name)
    wanted = [(METRICS.lookup(name), config.benchmark.options.get(name, {})) for name in metrics]
    return [
        (entry, check_options(f"metric {entry.name!r}", signature_options(entry.target), options))
        for entry, options in wanted
    ]


def benchmark(
    out: Path, subject: Subject, metrics: Sequence[str], again: bool = False, elsewhere: str | None = None
) -> list[str]:
    """Compute metrics and add them to the run's `results.json`, each as soon as it is there.

    A metric is skipped if the results hold it already, or say that it does not apply, from the same weights and
    settings; one that can't be computed (weights missing, too few images, a mistake in a plugin) is named with its
    reason, and the others still come out. One of `EVERY_RUN` must come out. A collective; only the first process looks
    into the folder.

    Args:
        out: The run's folder, with its weights in it.
        subject: The model and what it is scored on; `subject.config.benchmark` holds the metrics' options.
        metrics: Their names.
        again: Compute anew what is there already.
        elsewhere: The name of the data, where it is not the run's own: results are kept beside the run's.

    Returns:
        The metrics, and the samples, that could not be computed, but for metrics that do not apply to the variant.

    Raises:
        UserError: if a metric's name or option is wrong, or one of `EVERY_RUN` can't be computed.
    """
    if not metrics:
        return []
    config, main = subject.config, subject.accelerator.is_main_process
    checked, failed = asked_for(config, metrics), []
    weights = _digest(subject.weights or out / MODEL_FILE) if main else ""
    bar = tqdm(checked, desc="metrics", unit="metric", disable=not main or not sys.stderr.isatty())
    for entry, options in bar:
        bar.set_postfix_str(entry.name)
        key = _key(weights, config, entry.name)
        results = read_results(out, elsewhere) if main else {}
        done, taken = results.get("benchmarked", {}), set(results.get("metrics", {}))
        if not done.get(entry.name, NOT_APPLICABLE).endswith(NOT_APPLICABLE):  # then its own rows are among them
            taken = set()
        lacks_its_row = entry.name in EVERY_RUN and entry.name not in results.get("metrics", {})
        known = done.get(entry.name) in (key, key + NOT_APPLICABLE) and not again and not lacks_its_row
        there, taken = broadcast_object_list([known, taken])
        if there:
            if main:
                how = "already in" if done[entry.name] == key else "does not apply, says"
                print(f"{entry.name}: {how} {printable(out / RESULTS_FILE)}; --again computes it anew")
            continue
        try:
            scores = _scores(entry, subject, options, taken)
        except UserError as error:
            if entry.name in EVERY_RUN:
                raise
            if main:
                warn(f"no {entry.name}: {error}")
            if not isinstance(error, DoesNotApply):
                failed.append(entry.name)
            elif main:
                found = subject.notes | {"benchmarked": done | {entry.name: key + NOT_APPLICABLE}}
                write_results(out, found, elsewhere)
            continue
        if main:
            rows = {name: {k: v for k, v in asdict(score).items() if v is not None} for name, score in scores.items()}
            rows = {name: row | {"commit": code()["commit"]} for name, row in rows.items()}
            found = subject.notes | {"metrics": rows, "benchmarked": done | {entry.name: key}}
            write_results(out, found, elsewhere)
    warned = ((name, subject.memo.get(f"warned {name}")) for name in config.benchmark.samplers)
    broken = [name for name, error in warned if error is not None and not isinstance(error, DoesNotApply)]
    return failed + [f"samples from {name!r}" for name in broken]


def _scores(entry: Entry[Any], subject: Subject, options: dict[str, Any], taken: set[str]) -> dict[str, Score]:
    """Call a metric, and see that it returns named scores: what it raises must not cost the run its other numbers.

    Args:
        entry: The metric; its result is only looked at closely if it is somebody else's than ours.
        subject: What it is given.
        options: Its options.
        taken: Rows that other metrics have written.
    """
    name = entry.target.__name__
    try:
        scores = entry.target(subject, **entry.defaults | options)
    except UserError:
        raise
    except Exception as error:
        raise crash(name, error, entry.target) from error
    if is_ours(entry.target):
        return scores
    fault, checked = _fault(scores, taken)
    if fault:
        right = f'{{"{entry.name}": Score(value, unit, higher_is_better, protocol, n)}}'
        raise PluginError(f"{name} returned {fault}; it must return named scores, as {right} ({place(entry.target)})")
    return checked


def _fault(scores: object, taken: set[str]) -> tuple[str, dict[str, Score]]:
    """Return what is wrong with what a metric returned, or nothing; and its scores in Python's own numbers."""
    if not isinstance(scores, dict) or not scores:
        return "an empty dict" if scores == {} else f"a {type(scores).__name__}, not a dict", {}
    checked = {}
    for row, score in scores.items():
        if not isinstance(score, Score):
            return f"a dict with a {type(score).__name__} in it", {}
        if row in taken:
            return f"the row {row!r}, which another metric has written already", {}
        fault, checked[row] = _plain(score)
        if fault:
            return f"a dict with a Score whose {fault}", {}
    return "", checked


def _plain(score: Score) -> tuple[str, Score]:
    """Return what is wrong with a score's fields, or nothing; and the score in Python's own numbers."""
    try:
        score = replace(score, value=float(score.value), n=int(score.n))
    except (TypeError, ValueError):
        return f"value or n is no number, but {score.value!r} and {score.n!r}", score
    if not math.isfinite(score.value):
        return f"value is {score.value}", score
    for field, kinds in (("unit", str), ("protocol", str), ("split", str), ("sampler", str | None)):
        if not isinstance(getattr(score, field), kinds):
            return f"{field} is {getattr(score, field)!r}, not a text", score
    if not isinstance(score.higher_is_better, bool | None):
        return f"higher_is_better is {score.higher_is_better!r}, not True, False or None", score
    return "", score


def _digest(weights: Path) -> str:
    return hashlib.blake2b(weights.read_bytes(), digest_size=16).hexdigest()


def _key(weights: str, config: Config, metric: str) -> str:
    """Return a digest of all that a metric's numbers depend on: weights, data, and the benchmark's settings."""
    settings: dict[str, Any] = config.benchmark.model_dump(mode="json", exclude={"metrics", "options"})
    settings |= {"options": config.benchmark.options.get(metric, {}), "data": config.data.model_dump(mode="json")}
    settings["eval_batch_size"] = config.eval_batch_size
    return hashlib.sha256(f"{weights} {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()[:16]
