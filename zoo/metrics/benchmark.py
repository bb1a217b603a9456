"""Scores a trained model by the metrics that every run reports, and by those that its config asks for, each once."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from zoo.config import Config
from zoo.errors import PluginError, UserError, crash, place
from zoo.files import MODEL_FILE, RESULTS_FILE, read_results, write_results
from zoo.metrics.core import METRICS, Score, Subject
from zoo.metrics.samplers import SAMPLERS
from zoo.options import check_options, signature_options
from zoo.registry import Entry

EVERY_RUN = ("loss", "psnr")


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


def benchmark(out: Path, subject: Subject, metrics: Sequence[str], again: bool = False) -> list[str]:
    """Compute metrics and add them to the run's `results.json`, each as soon as it is there.

    A metric is skipped if the results hold it already, from the same weights and settings; a metric that can't be
    computed (weights missing, too few images, a mistake in a plugin) is named with its reason, and the others still
    come out. One of `EVERY_RUN` must come out. A collective; only the first process looks into the folder.

    Args:
        out: The run's folder, with its weights in it.
        subject: The model and what it is scored on; `subject.config.benchmark` holds the metrics' options.
        metrics: Their names.
        again: Compute anew what is there already.

    Returns:
        The metrics, and the samples, that a mistake in somebody's code kept from being computed.

    Raises:
        UserError: if a metric's name or option is wrong, or one of `EVERY_RUN` can't be computed.
    """
    if not metrics:
        return []
    config, main = subject.config, subject.accelerator.is_main_process
    checked, failed = asked_for(config, metrics), []
    weights = hashlib.blake2b((out / MODEL_FILE).read_bytes(), digest_size=16).hexdigest() if main else ""
    bar = tqdm(checked, desc="metrics", unit="metric", disable=not main or not sys.stderr.isatty())
    for entry, options in bar:
        bar.set_postfix_str(entry.name)
        key = _key(weights, config, entry.name)
        done = read_results(out).get("benchmarked", {}) if main else {}
        [there] = broadcast_object_list([done.get(entry.name) == key and not again])
        if there:
            if main:
                print(f"{entry.name}: already in {out / RESULTS_FILE}; --again computes it anew")
            continue
        try:
            scores = _scores(entry, subject, options)
        except UserError as error:
            if entry.name in EVERY_RUN:
                raise
            if main:
                print(f"warning: no {entry.name}: {error}", file=sys.stderr)
            if isinstance(error, PluginError):
                failed.append(entry.name)
            continue
        if main:
            rows = {name: {k: v for k, v in asdict(score).items() if v is not None} for name, score in scores.items()}
            write_results(out, subject.notes | {"metrics": rows, "benchmarked": done | {entry.name: key}})
    broken = [name for name in config.benchmark.samplers if isinstance(subject.memo.get(f"warned {name}"), PluginError)]
    return failed + [f"samples from {name!r}" for name in broken]


def _scores(entry: Entry[Any], subject: Subject, options: dict[str, Any]) -> dict[str, Score]:
    """Call a metric, and see that it returns named scores: what it raises must not cost the run its other numbers."""
    name = entry.target.__name__
    try:
        scores = entry.target(subject, **entry.defaults | options)
    except UserError:
        raise
    except Exception as error:
        raise crash(name, error, entry.target) from error
    if not isinstance(scores, dict):
        what = f"returned a {type(scores).__name__}, not a dict"
    elif wrong := [score for score in scores.values() if not isinstance(score, Score)]:
        what = f"returned a dict with a {type(wrong[0]).__name__} in it"
    elif wrong := [key for key, score in scores.items() if not isinstance(score.value, Real)]:
        what = f"returned a Score whose value is a {type(scores[wrong[0]].value).__name__}, not a number, in a dict"
    else:
        return scores
    right = f'{{"{entry.name}": Score(value, unit, higher_is_better, protocol, n)}}'
    raise PluginError(f"{name} {what}; it must return named scores, as {right} ({place(entry.target)})")


def _key(weights: str, config: Config, metric: str) -> str:
    """Return a digest of all that a metric's numbers depend on: weights, data, and the benchmark's settings."""
    settings: dict[str, Any] = config.benchmark.model_dump(mode="json", exclude={"metrics", "options"})
    settings |= {"options": config.benchmark.options.get(metric, {}), "data": config.data.model_dump(mode="json")}
    settings["eval_batch_size"] = config.eval_batch_size
    return hashlib.sha256(f"{weights} {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()[:16]
