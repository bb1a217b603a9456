"""What a run's numbers stand on: its settings and what became of them, the code, and how it was started."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoo.base import BaseVAE
from zoo.config import Config
from zoo.data import Data
from zoo.errors import UserError

# What no result depends on, or what is told apart elsewhere: the seed, and how the numbers were measured.
NO_PART_OF_IDENTITY = (
    *("out", "title", "seed", "seeds", "device", "shard", "threads", "trackers", "wandb", "keep", "plugins"),
    "benchmark",
)


def provenance(
    config: Config, model: BaseVAE, data: Data, history: Sequence[dict[str, Any]], started_from: str = ""
) -> dict[str, Any]:
    """Return variant, data, config and its hash, seed, size, code and versions, as `results.json` has them.

    Args:
        config: Resolved.
        model: Trained.
        data: What it was trained on.
        history: The run's starts, see `zoo.engine.folder`.
        started_from: The SHA-256 of the weights that it was given at its start, if it was.
    """
    return {
        "title": config.title,
        "variant": config.model.name,
        "dataset": data.title,
        "data_digest": data.digest,
        "classes": dict(zip(data.class_names, data.class_counts(data.train), strict=True)) if data.class_names else {},
        "image": list(model.image.shape),
        "latent_dim": getattr(model, "latent_dim", None),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": config.seed,
        "config_hash": config_hash(config, data.digest, history, started_from),
        "history": list(history),
        "plugins": plugin_digests(config.plugins),
        **code(),
    }


def config_hash(
    config: Config, data_digest: str, history: Sequence[dict[str, Any]] = (), started_from: str = ""
) -> str:
    """Return a digest of all that the weights depend on, but for the seed and the machine.

    Data is what it holds, wherever it lies and whatever it is called. A run whose length or learning rate was changed
    on the way is another than one that had them from the start.
    """
    settings = config.dump()
    for key in NO_PART_OF_IDENTITY:
        settings.pop(key, None)
    settings["data"] |= {"root": None, "title": None, "digest": data_digest}
    for key in ("cache", "verify"):
        settings["data"].pop(key, None)
    settings["init_from"] = started_from or None  # weights are what they hold, wherever they lie
    changes = [[life["step"], life["changed"]] for life in history if life["changed"]]
    if changes:
        settings["changes"] = changes
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def code() -> dict[str, Any]:
    """Return the zoo's version, its commit where it lies in its own repository, and those of what it stands on."""
    packages = ("torch", "torchvision", "accelerate", "torchmetrics")
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    return {"version": _version(), "commit": _commit(), "versions": versions}


def _version() -> str:
    try:
        return version("vae-zoo")
    except PackageNotFoundError:  # a checkout that nobody installed
        return "unknown"


def _commit() -> str:
    """Return the zoo's commit, "-dirty" where files differ from it; "" where the zoo lies in no repository of its own.

    A package installed below somebody's own repository is not part of that.
    """
    here = Path(__file__).parents[1]
    git = ["git", "-C", str(here)]
    try:
        _output([*git, "ls-files", "--error-unmatch", "__init__.py"])
        return _output([*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
    except (OSError, subprocess.CalledProcessError):
        return ""


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def plugin_digests(plugins: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of each plugin that is a file, by its name; of a module, its version or "".

    Raises:
        UserError: if two files have one name.
    """
    digests: dict[str, str] = {}
    for plugin in plugins:
        name = Path(plugin).name
        if plugin.endswith(".py"):
            digest = hashlib.sha256(Path(plugin).read_bytes()).hexdigest()
            if digests.setdefault(name, digest) != digest:
                raise UserError(f"two plugins are called {name}: rename one, as a run keeps a copy of each")
        else:
            digests[plugin] = ""
    return digests
