"""Scores a trained model by every metric that its config asks for, once."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from zoo.base import BaseVAE
from zoo.config import Config
from zoo.data import Data
from zoo.data.cache import cache_folder
from zoo.errors import UserError
from zoo.files import MODEL_FILE, read_results, write_results
from zoo.metrics.core import METRICS, Subject
from zoo.options import check_options, signature_options


def benchmark(
    out: Path, model: BaseVAE, data: Data, config: Config, accelerator: Accelerator, again: bool = False
) -> None:
    """Compute `config.benchmark.metrics` and add them to the run's `results.json`, each as soon as it is there.

    A metric is skipped if the results hold it already, from the same weights and settings; a metric that can't be
    computed (weights missing, too few images) is named with its reason, and the others still come out. A collective.

    Args:
        out: The run's folder, with its weights in it.
        model: In evaluation mode.
        data: What the model was trained on.
        config: The run's resolved config.
        accelerator: Shares the work out.
        again: Compute anew what is there already.

    Raises:
        UserError: if a metric's name or option is wrong.
    """
    wanted = [(METRICS.lookup(name), config.benchmark.options.get(name, {})) for name in config.benchmark.metrics]
    checked = [
        (entry, check_options(f"metric {entry.name!r}", signature_options(entry.target), options))
        for entry, options in wanted
    ]
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
            scores = entry.target(subject, **entry.defaults | options)
        except UserError as error:
            if main:
                print(f"warning: no {entry.name}: {error}", file=sys.stderr)
            continue
        if main:
            rows = {name: {k: v for k, v in asdict(score).items() if v is not None} for name, score in scores.items()}
            write_results(out, {"metrics": rows, "benchmarked": done | {entry.name: key}})
        accelerator.wait_for_everyone()  # nobody looks for what is done before it is written


def _key(out: Path, config: Config, metric: str) -> str:
    """Return a digest of all that a metric's numbers depend on: weights, data, and the benchmark's settings."""
    settings: dict[str, Any] = config.benchmark.model_dump(mode="json", exclude={"metrics", "options"})
    settings |= {"options": config.benchmark.options.get(metric, {}), "data": config.data.model_dump(mode="json")}
    settings["eval_batch_size"] = config.eval_batch_size
    weights = hashlib.blake2b((out / MODEL_FILE).read_bytes(), digest_size=16).hexdigest()
    return hashlib.sha256(f"{weights} {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()[:16]
