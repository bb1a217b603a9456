"""Tiny runs for the tests of the loop: 8 x 8 digits, a net of sixteen units."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from zoo.config import Config, check
from zoo.models import model_options
from zoo.runs import train

PLUGINS = Path(__file__).parent / "plugins"
ROOT = Path(__file__).parent.parent
# What makes a variant that has such an option cheaper to try.
SMALLER: dict[str, Any] = {
    **{"critic_width": 16, "samples": 3, "groups": 2, "flows": 2, "flow_width": 16, "pseudo_inputs": 5},
    **{"codes": 8, "dim": 4, "positions": 4, "categories": 4, "levels": [3, 4], "latent_dims": [3, 2], "width": 16},
    **{"stages": 2, "bits": 3, "group": 2, "components": 2, "prior_steps": 2, "prior_width": 16},
    **{"latent": "flat", "patch_channels": 4, "patch_layers": 1},
}
# What a variant can't do without.
NEEDED: dict[str, dict[str, Any]] = {"eq": {"net": "grid", "base_channels": 4, "blocks": 1, "latent": "grid"}}


def settings(out: Path, variant: str = "mlp", **changes: Any) -> dict[str, Any]:
    """Return a config's values; `changes` replace whole top-level keys."""
    return {
        "model": {"name": variant, "net": "mlp", "hidden_dims": [16], "latent_dim": 3, "recon": "bce"},
        "data": {"name": "digits", "limit": 300},
        "plugins": [str(PLUGINS / f"{variant}.py")] if (PLUGINS / f"{variant}.py").is_file() else [],
        "out": str(out),
        "steps": 30,
        "batch_size": 32,
        "log_every": 5,
        "checkpoint_every": 10,
        "device": "cpu",
        "threads": 1,
        "mixed_precision": "no",  # the same on every machine
    } | changes


def make_config(out: Path, variant: str = "mlp", **changes: Any) -> Config:
    return check(Config, settings(out, variant, **changes), "test")


def run(config: Config, resume: bool = False) -> int:
    """Train in this process, as if it were a new one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return train(config, resume=resume)


def digest(run_folder: Path) -> str:
    return hashlib.sha256((run_folder / "model.safetensors").read_bytes()).hexdigest()


def rows(run_folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def small(name: str, **more: Any) -> dict[str, Any]:
    """Return those of the usual small options that a variant has; `more` go on top, where it has and can bear them."""
    options = {"net": "mlp", "hidden_dims": [16], "latent_dim": 3, "recon": "bce", **SMALLER, **more}
    options |= NEEDED.get(name, {})
    known = model_options(name, {"net": options["net"]})
    return {option: value for option, value in options.items() if option in known}
