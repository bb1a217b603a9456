"""A run from its first line to its last picture, and the folder that it leaves."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator

from zoo.base import BaseVAE
from zoo.config import Config, load_config
from zoo.data import Data, batches, build_data
from zoo.data.cache import cache_folder
from zoo.engine.checkpoint import load, weights_of, write_weights
from zoo.engine.provenance import provenance
from zoo.engine.setup import Run, choose_device, choose_precision, make_accelerator, set_threads, set_up
from zoo.engine.train import Trainer
from zoo.errors import Undelivered, UserError
from zoo.files import CONFIG_FILE, METRICS_FILE, MODEL_FILE, read_results, write_results
from zoo.metrics.benchmark import EVERY_RUN, asked_for, benchmark
from zoo.metrics.core import Subject
from zoo.pictures.of_runs import write_pictures
from zoo.registry import load_plugin

# What a resumed run may change: how long it goes on, and what it writes on the way.
MAY_CHANGE = {
    *("epochs", "steps", "out", "plugins", "device", "shard", "threads", "keep", "trackers", "wandb"),
    *("log_every", "eval_every", "checkpoint_every", "eval_batch_size", "benchmark"),
}


def train(config: Config, resume: bool = False, dry_run: bool = False) -> int:
    """Train a run, evaluate it, and leave its folder.

    Args:
        config: From `load_config`; its open ends (out, data.range, data.size) are filled in.
        resume: Go on from the run's newest checkpoint, if it has one.
        dry_run: Take two steps, print the summary, and write nothing.

    Returns:
        0, or the signal that ended training early.

    Raises:
        UserError: if the config can't be run, or the folder holds another run.
        Diverged: if the loss stops being finite.
        Undelivered: if a metric that was asked for could not be computed.
    """
    run = set_up(config)
    asked_for(config, config.benchmark.metrics)  # now, and not when training is over
    accelerator, main = run.accelerator, run.accelerator.is_main_process
    if dry_run:
        return _dry_run(run)
    _check_folder(run, resume)
    accelerator.wait_for_everyone()
    if main:
        run.out.mkdir(parents=True, exist_ok=True)
        (run.out / CONFIG_FILE).write_text(yaml.safe_dump(config.dump(), sort_keys=False))
        print(run.summary(), flush=True)
    trainer = Trainer(run)
    resumed = resume and trainer.resume()
    if main:
        _truncate_metrics(run.out, trainer.step)
        if resume:
            print(f"resumed at step {trainer.step:,}" if resumed else "no checkpoint yet: starting from the beginning")
    _start_trackers(run)
    stopped_by, failed = trainer.fit(), []
    if stopped_by:
        if main:
            again = command() if "--resume" in sys.argv else f"{command()} --resume"
            print(f"stopped at step {trainer.step:,}, checkpoint written; to go on: {again}", flush=True)
    else:
        failed = finish(run, trainer)
    trainer.close()
    _complain(failed, run.out)
    return stopped_by


def _complain(failed: list[str], out: Path) -> None:
    if failed:
        names = ", ".join(failed)
        raise Undelivered(
            f"no {names}, for the reason above; all else is in {out}, and `evaluate` computes what is missing"
        )


def _dry_run(run: Run) -> int:
    if run.accelerator.is_main_process:
        print(run.summary(), flush=True)
    trainer = Trainer(run)
    stream = batches(
        run.data.train,
        run.config.batch_size,
        run.config.seed,
        0,
        2,
        run.accelerator.process_index,
        run.accelerator.num_processes,
    )
    for images, labels in stream:
        trainer.model.train()
        trainer.take_step(images, labels)
        trainer.step += 1
    loss = trainer.log.window.means(run.accelerator)["loss"]
    if run.accelerator.is_main_process:
        print(f"dry run: two steps taken, mean loss {loss:.6g}; nothing written")
    trainer.close()
    return 0


def _check_folder(run: Run, resume: bool) -> None:
    file = run.out / CONFIG_FILE
    if not file.is_file():
        return
    if not resume:
        raise UserError(f"{run.out} already holds a run: add --resume to go on with it, or choose another out=")
    before, now = yaml.safe_load(file.read_text()), run.config.dump()
    changed = [key for key in now if key not in MAY_CHANGE and now[key] != before.get(key)]
    if changed:
        key = changed[0]
        raise UserError(
            f"{run.out} can't be resumed with another {key}: it was {before.get(key)} and is now {now[key]}; "
            "choose another out= for a new run"
        )


def _truncate_metrics(out: Path, step: int) -> None:
    """Drop the rows that lie after `step`: a run that was killed wrote them, and the resumed one will again."""
    path = out / METRICS_FILE
    if path.is_file():
        rows = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        path.write_text("".join(f"{row}\n" for row in rows))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the killed process was in the middle of a line
        return math.inf


def _start_trackers(run: Run) -> None:
    config = run.config
    if not config.trackers:
        return
    started = [str(tracker) for tracker in run.accelerator.log_with]
    absent = [name for name in config.trackers if name not in started]  # Accelerate would go on without them
    if absent:
        raise UserError(f"the tracker {absent[0]!r} is not installed: pip install {absent[0]}, or set trackers=[]")
    run.accelerator.project_configuration.logging_dir = str(run.out)
    settings = {"name": run.out.name, "dir": str(run.out), "mode": config.wandb.mode}
    flat = {key: value if isinstance(value, int | float | str) else str(value) for key, value in config.dump().items()}
    try:
        run.accelerator.init_trackers(config.wandb.project, flat, {"wandb": settings})
    except Exception as error:  # wandb has many ways to fail, all of which mean that the run would not be tracked
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"the trackers {', '.join(config.trackers)} can't start: {reason}; set wandb.mode=offline, or trackers=[]"
        ) from None


def finish(run: Run, trainer: Trainer) -> list[str]:
    """Save the final weights, measure them on the test split, and draw the pictures.

    Returns:
        The metrics that could not be computed.
    """
    model, config = trainer.evaluated, run.config
    weights = weights_of(model)
    if run.accelerator.is_main_process:
        write_weights(run.out / MODEL_FILE, weights, model.image, config.model, config.plugins)
    if config.shard:
        run.accelerator.wait_for_everyone()
        model = load(run.out / MODEL_FILE, run.accelerator.device)
    facts = {
        "steps": trainer.step,
        "epochs": trainer.step * config.batch_size / len(run.data.train),
        "batch_size": config.batch_size,
        "weights": "final" if trainer.average is None else "final, averaged (ema)",
        "data": run.data.describe(),
        "device": run.accelerator.device.type,
        "processes": run.accelerator.num_processes,
        "precision": run.precision,
        "choices": run.choices(),
        "command": command(),
    }
    if trainer.log.seconds:  # a finished run that is resumed takes no step
        facts["images_per_second"] = trainer.log.images / trainer.log.seconds
    return _measure(run.out, model, run.data, config, run.accelerator, facts)


def evaluate_run(out: Path, overrides: list[str], again: bool = False) -> None:
    """Measure what a trained run lacks, and draw its pictures, as training does at its end.

    Args:
        out: The run's folder.
        overrides: Settings laid over its config.
        again: Compute metrics anew that are in `results.json` already.

    Raises:
        UserError: if the folder holds no finished run.
        Undelivered: if a metric that was asked for could not be computed.
    """
    if not (out / CONFIG_FILE).is_file():
        raise UserError(f"{out} holds no run: there is no {CONFIG_FILE} in it")
    if not (out / MODEL_FILE).is_file():
        raise UserError(f"the run in {out} is not finished: there is no {MODEL_FILE} in it; go on with --resume")
    config = load_config(out / CONFIG_FILE, [*overrides, f"out={out}"])
    for plugin in config.plugins:
        load_plugin(plugin)
    asked_for(config, config.benchmark.metrics)
    set_threads(config)
    accelerator = make_accelerator(config, choose_precision(config, choose_device(config)))
    with accelerator.main_process_first():
        data = build_data(config.data)
    failed = _measure(out, load(out, accelerator.device), data, config, accelerator, {}, again)
    accelerator.end_training()
    _complain(failed, out)


def _measure(
    out: Path,
    model: BaseVAE,
    data: Data,
    config: Config,
    accelerator: Accelerator,
    facts: dict[str, Any],
    again: bool = False,
) -> list[str]:
    subject = Subject(model.eval(), data, config, accelerator, cache_folder() / "references")
    benchmark(out, subject, EVERY_RUN, again)
    if accelerator.is_main_process:
        write_results(out, provenance(config, model) | facts)
        write_pictures(model, data, out)
    accelerator.wait_for_everyone()
    further = [name for name in config.benchmark.metrics if name not in EVERY_RUN]
    failed = benchmark(out, subject, further, again)
    if accelerator.is_main_process:
        print(report(out), flush=True)
    return failed


def report(out: Path) -> str:
    """Say in a few lines what a run's `results.json` holds."""
    results = read_results(out)
    rows, terms = results["metrics"], results["terms"]
    width = max(len(name) for name in rows | terms)
    lines = [f"  {name:<{width}}  {row['value']:<10.6g} {row['unit']}" for name, row in sorted(rows.items())]
    lines += [f"  {name:<{width}}  {value:<10.6g} (a term of this loss)" for name, value in sorted(terms.items())]
    return "\n".join([f"on {rows['loss']['n']:,} test images:", *lines, f"pictures and results in {out}"])


def command() -> str:
    """Return the command line that started this process, as it would be typed."""
    program = Path(sys.argv[0]).name
    launched = ["-m", "zoo"] if program == "__main__.py" else [program]
    return shlex.join(["python", *launched, *sys.argv[1:]])
