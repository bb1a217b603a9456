"""The zoo from Python, in a script or a notebook: train a run, look at it, measure it, compare it."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from zoo import runs
from zoo.config import Config, apply_overrides, check, load_config
from zoo.engine.checkpoint import telling_of_plugins
from zoo.engine.launch import take_up_launch
from zoo.errors import UserError, warn
from zoo.evaluation import evaluate_run
from zoo.files import CONFIG_FILE, MODEL_FILE
from zoo.hub import local
from zoo.records import read_log, read_results
from zoo.trained import Trained, load

SHOWN = ("reconstructions", "generated_samples")  # pictures that a notebook shows


class Run:
    """A run's folder, as Python sees it: `run = zoo.Run("runs/mlp_mnist_z20_s28_1")`.

    What it says is read from the folder when it is asked for, so that it is what lies there.

    Args:
        out: The folder; or "hf://user/name", of which `out` is then the copy on this machine.
        plugins: Files or modules to load, such as that of the run's variant.
        trust_plugins: Load the copies of plugins in the folder: their code is run.

    Raises:
        UserError: if there is no run in it.
    """

    def __init__(
        self, out: Path | str | os.PathLike[str], plugins: Sequence[str] = (), trust_plugins: bool = False
    ) -> None:
        self.out = local(out, trust_plugins)
        self.plugins, self.trust_plugins = tuple(plugins), trust_plugins
        if not os.path.isfile(self.out / CONFIG_FILE):
            raise UserError(f"{self.out} holds no run: there is no {CONFIG_FILE} in it")

    def __fspath__(self) -> str:
        return str(self.out)

    @property
    def config(self) -> Config:
        """What was trained, every setting resolved."""
        return load_config(self.out / CONFIG_FILE)

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return (self.out / MODEL_FILE).is_file()

    @cached_property
    def model(self) -> Trained:
        """The trained model, or that of the newest checkpoint where training was stopped."""
        return load(self.out, plugins=self.plugins, trust_plugins=self.trust_plugins)

    @property
    def results(self) -> dict[str, Any]:
        """What was measured, and what it stands on: `results.json`; empty where nothing was yet."""
        return read_results(self.out)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of `results`, by name."""
        return {name: row["value"] for name, row in self._rows().items()}

    def _rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows of `results` that hold a number: somebody else may have written them."""
        rows = self.results.get("metrics")
        known = rows.items() if isinstance(rows, dict) else ()
        return {name: row for name, row in known if isinstance(row, dict) and isinstance(row.get("value"), int | float)}

    @property
    def log(self) -> list[dict[str, Any]]:
        """What was logged while it trained, a row for each time."""
        return read_log(self.out)

    @property
    def pictures(self) -> dict[str, Image.Image]:
        """The pictures in the folder, by their files' names without the ending: "reconstructions"."""
        found = {}
        for file in sorted(self.out.glob("*.png")):
            try:
                with Image.open(file, formats=("PNG",)) as picture:
                    found[file.stem] = picture.copy()
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                warn(f"{file} is damaged, or no PNG ({type(error).__name__})")
        return found

    def evaluate(
        self, metrics: Sequence[str], samplers: Sequence[str] | None = None, again: bool = False, **settings: Any
    ) -> dict[str, float]:
        """Measure what the run lacks, and return all its metrics.

        Args:
            metrics: Registered metrics, see `vae-zoo metrics`.
            samplers: Where samples are drawn from, see `vae-zoo samplers`; by default the run's own.
            again: Compute anew what is there already.
            **settings: Further ones of how it is measured: `benchmark={"n": 1000}`, `device="cpu"`.

        Raises:
            UserError: if the run is not finished, or a setting would make it another.
            Undelivered: if a metric that was asked for could not be computed.
        """
        settings = {"benchmark.metrics": list(metrics)} | settings
        if samplers is not None:
            settings["benchmark.samplers"] = list(samplers)
        evaluate_run(self.out, _overrides(settings), again, self.plugins, self.trust_plugins)
        return self.metrics

    def leaderboard(self, out: Path | str | None = None) -> Path:
        """Compare this run with the finished ones beside it; print the board, and return its page.

        Args:
            out: The folder to write; by default `leaderboard`, beside the run.
        """
        from zoo.reports.leaderboard import write

        beside = self.out.resolve().parent
        folder = beside / "leaderboard" if out is None else Path(out)
        write(beside, folder)
        return folder / "leaderboard.html"

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {value:.6g}" for name, value in sorted(self.metrics.items()))
        return f"Run({str(self.out)!r}): {numbers or ('nothing measured yet' if self.finished else 'not finished')}"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the numbers, and pictures."""
        config, rows = self.config, sorted(self._rows().items())
        head = f"{config.model.name} on {config.data.name}, {self.out}" + ("" if self.finished else ": not finished")
        cells = ""
        for name, row in rows:
            unit = html.escape(str(row.get("unit", "")))
            cells += f"<tr><td>{html.escape(name)}</td><td>{row['value']:.6g}</td><td>{unit}</td></tr>"
        known = self.pictures
        shown = "".join(_embedded(name, known[name]) for name in SHOWN if name in known)
        return f"<div><b>{html.escape(head)}</b><table>{cells}</table>{shown}</div>"


def _embedded(name: str, picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG")
    text = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{name}" style="max-width:48%;vertical-align:top" src="data:image/png;base64,{text}">'


def train(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_data: bool = False,
    trust_plugins: bool = False,
    **settings: Any,
) -> Run:
    """Train a run, evaluate it, and return it: `run = zoo.train("mlp_mnist", epochs=1, model={"latent_dim": 8})`.

    An interrupt (Ctrl-C, or a notebook's stop button) writes a checkpoint, and the run so far is returned;
    `resume=True` goes on with it.

    Args:
        config: The name of one of the zoo's configs, a YAML file, its values, or a `Config`; it is not changed.
        resume: Go on from the run's newest checkpoint, if it has one.
        overwrite: Remove the run that lies in the folder.
        accept_data: Go on with data that is no longer what the run has seen.
        trust_plugins: Of the config of somebody's run, load the copies of plugins beside it: their code is run.
        **settings: Laid over the config, key by key: `lr=3e-4`, `data={"size": 32}`, `plugins=["my_vae.py"]`.

    Raises:
        UserError: if the config can't be run, or the folder holds another run.
        Diverged: if the loss stops being finite.
        Undelivered: if a metric that was asked for could not be computed.
    """
    overrides = _overrides(settings)
    untrusted: dict[str, str] = {}
    if isinstance(config, Config | Mapping):
        values = config.dump() if isinstance(config, Config) else dict(config)
        resolved: Config = check(Config, apply_overrides(values, overrides), "the config")
    elif isinstance(config, str | os.PathLike):
        resolved = load_config(Path(config), overrides)
        untrusted = runs.of_a_run(resolved, Path(config), "out" in settings, settings.get("plugins", ()), trust_plugins)
    else:
        kind = type(config).__name__
        raise UserError(f"zoo.train was given a {kind}, and takes a config's name, a file, its values, or a zoo.Config")
    runs.from_anywhere(resolved)
    take_up_launch(resolved)
    with telling_of_plugins(untrusted):
        runs.train(resolved, resume, overwrite=overwrite, accept_data=accept_data)
    assert resolved.out is not None  # the run has settled on it
    return Run(resolved.out, resolved.plugins)


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    """Write settings as a command line has them."""
    return [f"{key}={_written(key, value)}" for key, value in settings.items()]


def _written(key: str, value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key} is {value}: it must be a finite number")
    try:
        return json.dumps(value, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError):
        raise UserError(f"{key} is a {type(value).__name__}, which no config can hold") from None


def _plain(value: Any) -> Any:
    """Write paths, models of settings, and NumPy's and torch's numbers as JSON has them."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError
