"""The files of a run's folder: what they are called, and how its results are read and written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.yaml"  # resolved: it makes the same run again
METRICS_FILE = "metrics.jsonl"  # what was logged, a row a line
MODEL_FILE = "model.safetensors"  # the final weights; each checkpoint's folder holds its own under this name
RESULTS_FILE = "results.json"  # what was measured, and what it stands on


def read_results(out: Path) -> dict[str, Any]:
    """Return a run's results, or an empty dictionary where there are none yet."""
    path = out / RESULTS_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def write_results(out: Path, results: dict[str, Any]) -> None:
    """Lay `results` over those that the run's folder already holds, key by key, metric by metric."""
    path = out / RESULTS_FILE
    old = read_results(out)
    merged = old | results | {"metrics": old.get("metrics", {}) | results.get("metrics", {})}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(merged, indent=1, default=_plain) + "\n")
    os.replace(partial, path)


def _plain(thing: object) -> object:
    """Write arrays and tensors, which JSON does not know, as lists, and all else as text."""
    return thing.tolist() if hasattr(thing, "tolist") else str(thing)
