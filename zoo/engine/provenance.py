"""What a run's numbers stand on."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoo.base import BaseVAE
from zoo.config import Config


def provenance(config: Config, model: BaseVAE) -> dict[str, Any]:
    """Return variant, data, config and its hash, seed, size, commit and versions, as `results.json` has them."""
    settings = config.dump()
    for key in ("out", "seed", "device", "shard", "threads", "trackers", "wandb", "keep", "plugins", "benchmark"):
        settings.pop(key)
    settings["data"].pop("root")
    packages = ("torch", "torchvision", "accelerate", "torchmetrics")
    return {
        "variant": config.model.name,
        "dataset": config.data.name,
        "image": list(model.image.shape),
        "latent_dim": getattr(model, "latent_dim", None),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": config.seed,
        "config_hash": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12],
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def _commit() -> str:
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
