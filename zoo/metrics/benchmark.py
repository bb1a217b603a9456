"""Scores a trained model by every metric that its config asks for, once."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from zoo.base import BaseVAE
from zoo.config import Config
from zoo.data import Data
from zoo.data.cache import cache_folder
from zoo.engine.checkpoint import MODEL_FILE
from zoo.engine.evaluate import read_results, write_results
from zoo.errors import PluginError, UserError, crash, place
from zoo.metrics.core import METRICS, Score, Subject
from zoo.metrics.samplers import SAMPLERS
from zoo.options import check_options, signature_options
from zoo.registry import Entry


def asked_for(config: Config) -> list[tuple[Entry[Any], dict[str, Any]]]:
    """Return the metrics that a config asks for, with their checked options; plugins are imported already.

    Raises:
        UserError: if a metric's name or option is wrong, or a sampler's name.
    """
    for name in config.benchmark.samplers:
        SAMPLERS.lookup(name)
    wanted = [(METRICS.lookup(name), config.benchmark.options.get(name, {})) for name in config.benchmark.metrics]
    return [
        (entry, check_options(f"metric {entry.name!r}", signature_options(entry.target), options))
        for entry, options in wanted
    ]


def benchmark(
    out: Path, model: BaseVAE, data: Data, config: Config, accelerator: Accelerator, again: bool = False
) -> list[str]:
    """Compute `config.benchmark.metrics` and add them to the run's `results.json`, each as soon as it is there.

    A metric is skipped if the results hold it already, from the same weights and settings; a metric that can't be
    computed (weights missing, too few images, a mistake in a plugin) is named with its reason, and the others still
    come out. A collective.

    Args:
        out: The run's folder, with its weights in it.
        model: In evaluation mode.
        data: What the model was trained on.
        config: The run's resolved config.
        accelerator: Shares the work out.
        again: Compute anew what is there already.

    Returns:
        The metrics, and the samples, that a mistake in somebody's code kept from being computed.

    Raises:
        UserError: if a metric's name or option is wrong.
    """
    checked, failed = asked_for(config), []
    main = accelerator.is_main_process
    subject = Subject(model, data, config, accelerator, cache_folder() / "references")
    bar = tqdm(checked, desc="benchmarks", unit="metric", disable=not main or not sys.stderr.isatty())
    for entry, options in bar:
        bar.set_postfix_str(entry.name)
        key = _key(out, config, entry.name)
        done = read_results(out).get("benchmarked", {})
        if done.get(entry.name) == key and not again:
            if main:
                print(f"{entry.name}: already in {out / 'results.json'}; --again computes it anew")
            continue
        try:
            scores = _scores(entry, subject, options)
        except UserError as error:
            if main:
                print(f"warning: no {entry.name}: {error}", file=sys.stderr)
            if isinstance(error, PluginError):
                failed.append(entry.name)
            continue
        if main:
            rows = {name: {k: v for k, v in asdict(score).items() if v is not None} for name, score in scores.items()}
            write_results(out, {"metrics": rows, "benchmarked": done | {entry.name: key}})
        accelerator.wait_for_everyone()  # nobody looks for what is done before it is written
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


def _key(out: Path, config: Config, metric: str) -> str:
    """Return a digest of all that a metric's numbers depend on: weights, data, and the benchmark's settings."""
    settings: dict[str, Any] = config.benchmark.model_dump(mode="json", exclude={"metrics", "options"})
    settings |= {"options": config.benchmark.options.get(metric, {}), "data": config.data.model_dump(mode="json")}
    settings["eval_batch_size"] = config.eval_batch_size
    weights = hashlib.blake2b((out / MODEL_FILE).read_bytes(), digest_size=16).hexdigest()
    return hashlib.sha256(f"{weights} {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()[:16]
