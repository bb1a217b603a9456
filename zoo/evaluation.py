"""Score a trained model and draw its pictures: at the end of its training, or later, on its own data or on other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from zoo.base import BaseVAE
from zoo.config import Config, flatten, load_config
from zoo.data import Data, build_data
from zoo.data.cache import cache_folder
from zoo.engine import folder
from zoo.engine.checkpoint import load, pointed_to, recipe_of, telling_of_plugins
from zoo.engine.setup import choose_device, choose_precision, forget_earlier_run, make_accelerator, set_threads
from zoo.errors import Undelivered, UserError
from zoo.files import CHECKPOINTS, CONFIG_FILE, MODEL_FILE, see_that_it_is_plain
from zoo.memory import telling
from zoo.metrics.benchmark import EVERY_RUN, asked_for, benchmark
from zoo.metrics.core import Subject
from zoo.metrics.samplers import SAMPLERS, Draw, fitted
from zoo.pictures.of_runs import write_pictures
from zoo.records import read_results, write_results
from zoo.texts import printable

# How a trained run is measured; all else is what it is. Of its data, the place; other data is measured beside its own.
MAY_BE_SET = ("benchmark", "eval_batch_size", "device", "threads", "data.root", "data.cache", "data.verify")

CHANGED_DATA = (
    "bring it back, or score what is there beside it, under a name of its own, as data.title=now: nothing that was "
    "trained on will be in that test"
)


@telling("evaluation", "choose a smaller eval_batch_size or benchmark.n")
def evaluate_run(
    out: Path,
    overrides: Sequence[str] = (),
    again: bool = False,
    plugins: Sequence[str] = (),
    trust_plugins: bool = False,
    checkpoint: Literal["best", "last"] | None = None,
) -> None:
    """Measure what a trained run lacks, and draw its pictures, as training does at its end.

    Settings of `data` but for its place make it other data: that is scored alone, and its results are kept beside the
    run's own, under its `data.title` or name.

    Args:
        out: The run's folder.
        overrides: Settings laid over its config: how to measure, or other data.
        again: Compute metrics anew that are in `results.json` already.
        plugins: Files or modules to load, such as that of the run's variant.
        trust_plugins: Load the copies that the run keeps of its plugins: code from its folder is run.
        checkpoint: Which weights: where they are not what the run is, by `evaluate_on`, they are scored alone, and
            their results kept beside the run's own.

    Raises:
        UserError: if the folder holds no finished run, or not the weights, or a setting would make it another run.
        Undelivered: if a metric that was asked for could not be computed.
    """
    if os.path.lexists(out / CONFIG_FILE):
        see_that_it_is_plain(out)
    if not os.path.isfile(out / CONFIG_FILE):
        raise UserError(f"{out} holds no run: there is no {CONFIG_FILE} in it")
    if not (out / MODEL_FILE).is_file():
        raise UserError(f"the run in {out} is not finished: there is no {MODEL_FILE} in it; go on with --resume")
    trained = load_config(out / CONFIG_FILE)
    config = load_config(out / CONFIG_FILE, overrides)
    other = elsewhere = _other_data(trained, config)
    weights = None
    if checkpoint not in (None, trained.evaluate_on):
        weights = _checkpoint(out, trained, checkpoint)
        elsewhere = ", ".join(filter(None, [other, f"checkpoint {checkpoint}"]))
    device = choose_device(config)
    model = load(weights or out, device, plugins, trust_plugins)
    set_threads(config)
    forget_earlier_run()
    accelerator = make_accelerator(config, choose_precision(config, device))
    with telling_of_plugins(recipe_of(out)["plugins"]), accelerator.main_process_first():
        asked_for(config, config.benchmark.metrics)
        data = build_data(config.data, folder.read_membership(out) if other else None, config.seed)
        if other is None:
            known = read_results(out).get("data_digest")
            data = folder.same_data(config, data, out, known, CHANGED_DATA)
    _see_that_they_fit(model, data)
    failed = measure(out, model.to(accelerator.device), data, config, accelerator, {}, again, elsewhere, weights)
    accelerator.end_training()
    complain(failed, out)


@telling("fitting a sampler", "choose --sampler prior")
def data_of(out: Path, model: BaseVAE) -> tuple[Config, Data]:
    """Return a run's config, and the data that it was trained on.

    Raises:
        UserError: if it is no run's folder, or its data is not there or no longer fits the model.
    """
    if not os.path.isfile(out / CONFIG_FILE):
        raise UserError(f"{out} is no run's folder: it has no {CONFIG_FILE}, which names its data")
    config = load_config(out / CONFIG_FILE)
    forget_earlier_run()
    with telling_of_plugins(recipe_of(out)["plugins"]):
        data = build_data(config.data, folder.read_membership(out), config.seed)
    _see_that_they_fit(model, data)
    return config, data


def sampler_of(out: Path, model: BaseVAE, name: str) -> Draw:
    """Fit a sampler to the latents of a run's training images, and return how to draw.

    Args:
        out: The run's folder.
        model: Its variant, as `zoo.engine.checkpoint.load` returns it.
        name: A registered sampler.

    Raises:
        UserError: if there is no such sampler, it can't serve this model, or the run's data is not there.
    """
    SAMPLERS.lookup(name)
    if not os.path.isfile(out / CONFIG_FILE):
        raise UserError(f"sampler {name!r} is fitted to a run's training images, and {out} names none: give its folder")
    config, data = data_of(out, model)
    accelerator = make_accelerator(config, choose_precision(config, choose_device(config)))
    return fitted(Subject(model, data, config, accelerator, cache_folder() / "references"), name)


def _checkpoint(out: Path, trained: Config, which: str) -> Path:
    """Return the file of a run's best or last weights.

    Raises:
        UserError: if there is none.
    """
    if trained.ema is not None:
        raise UserError(f"--checkpoint {which}: the run's numbers are those of its average (ema), which no file holds")
    path = pointed_to(out / CHECKPOINTS / ("best" if which == "best" else "latest")) / MODEL_FILE
    if not path.is_file():
        raise UserError(f"--checkpoint {which}: there is no such checkpoint in {out / CHECKPOINTS}")
    return path


def _other_data(trained: Config, config: Config) -> str | None:
    """Return the name of the data that a run is measured on, where it is not its own.

    Raises:
        UserError: if anything else would be another, or if two data sets would have one name.
    """
    before, now = flatten(trained.dump()), flatten(config.dump())
    other = False
    for key in sorted({*before, *now}):
        if before.get(key) == now.get(key) or any(key == each or key.startswith(f"{each}.") for each in MAY_BE_SET):
            continue
        if not key.startswith("data."):
            raise UserError(
                f"{key}={now.get(key)} would make it another run, whose {key} is {before.get(key)}: evaluate takes "
                f"{', '.join(MAY_BE_SET)}, and other data to measure it on"
            )
        other = True
    if not other:
        return None
    own, name = (each.data.title or each.data.name for each in (trained, config))
    if name == own:
        raise UserError(f"this is other data than the run's {own!r}: give it a name of its own, as data.title=more")
    return name


def _see_that_they_fit(model: BaseVAE, data: Data) -> None:
    """See that a model takes a data set's images and labels.

    Raises:
        UserError: if not.
    """
    if data.test.shape != model.image.shape:
        found, wanted = (" x ".join(map(str, shape)) for shape in (data.test.shape, model.image.shape))
        raise UserError(f"the images of {data.name!r} are {found}, and the model takes {wanted}: set data.size")
    spec = data.spec(model.image.range)
    if model.needs_labels and (spec.classes, spec.attributes) != (model.image.classes, model.image.attributes):
        raise UserError(
            f"the labels of {data.name!r} are not those that the model was trained with: it takes "
            f"{model.image.classes} classes and {model.image.attributes} attributes"
        )


def measure(
    out: Path,
    model: BaseVAE,
    data: Data,
    config: Config,
    accelerator: Accelerator,
    facts: dict[str, Any],
    again: bool = False,
    elsewhere: str | None = None,
    weights: Path | None = None,
) -> list[str]:
    """Score a trained model, and draw its pictures.

    Args:
        out: Its run's folder, with its weights in it.
        model: It.
        data: What to score it on.
        config: How.
        accelerator: On what.
        facts: What is to stand in the results beside the numbers.
        again: Compute anew what is there already.
        elsewhere: The data's name, where it is not the run's own; no pictures are drawn then.
        weights: The file that the model is from, where it is not the run's own.

    Returns:
        What could not be computed.
    """
    subject = Subject(model.eval(), data, config, accelerator, cache_folder() / "references", weights=weights)
    benchmark(out, subject, EVERY_RUN, again, elsewhere)
    if accelerator.is_main_process:
        found = facts if elsewhere is None else {"data": data.describe(), "data_digest": data.digest}
        write_results(out, found, elsewhere)
        if elsewhere is None:
            write_pictures(model, data, out)
    accelerator.wait_for_everyone()
    further = [name for name in config.benchmark.metrics if name not in EVERY_RUN]
    failed = benchmark(out, subject, further, again, elsewhere)
    if accelerator.is_main_process:
        print(report(out, elsewhere), flush=True)
    return failed


def complain(failed: Sequence[str], out: Path) -> None:
    """Say what could not be computed.

    Raises:
        Undelivered: if anything.
    """
    if failed:
        names = ", ".join(failed)
        raise Undelivered(
            f"no {names}, for the reason above; all else is in {out}, and `evaluate` computes what is missing"
        )


def report(out: Path, elsewhere: str | None = None) -> str:
    """Say in a few lines what a run's `results.json` holds."""
    results = read_results(out, elsewhere)
    rows = {printable(name): row for name, row in sorted(results["metrics"].items())}
    terms = {printable(name): value for name, value in sorted(results.get("terms", {}).items())}
    width = max(len(name) for name in rows | terms)
    lines = [f"  {name:<{width}}  {row['value']:<10.6g} {printable(row.get('unit', ''))}" for name, row in rows.items()]
    lines += [f"  {name:<{width}}  {value:<10.6g} (a term of this loss)" for name, value in terms.items()]
    on = f"on {rows['loss'].get('n', 0):,} test images" + (f" of {printable(elsewhere)}" if elsewhere else "")
    return "\n".join([f"{on}:", *lines, f"pictures and results in {printable(out)}"])
