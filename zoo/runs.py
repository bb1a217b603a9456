"""A run from its first line to its last picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from zoo import interruption
from zoo.config import Config
from zoo.data import batches
from zoo.engine import folder
from zoo.engine.checkpoint import load, weights_of, write_weights
from zoo.engine.launch import again, command
from zoo.engine.provenance import plugin_digests, provenance
from zoo.engine.setup import Run, set_up
from zoo.engine.trackers import tracking
from zoo.engine.train import Trainer
from zoo.errors import UserError
from zoo.evaluation import complain, measure
from zoo.files import MODEL_FILE, PLUGINS_FOLDER, is_of_a_run
from zoo.memory import telling
from zoo.metrics.benchmark import asked_for
from zoo.records import read_history, read_results
from zoo.texts import printable

CHANGED_DATA = (
    "bring it back, or add --accept-data to go on with what is there: what the run has seen stays in its split, and "
    "nothing that it was trained on is ever tested by"
)


@telling("the run", "choose a smaller batch_size, eval_batch_size or data.size, or fewer samples in the loss")
def train(
    config: Config, resume: bool = False, dry_run: bool = False, overwrite: bool = False, accept_data: bool = False
) -> int:
    """Train a run, evaluate it, and leave its folder.

    Args:
        config: From `load_config`; its open ends (out, data.range, data.size) are filled in.
        resume: Go on from the run's newest checkpoint, if it has one.
        dry_run: Take two steps, print the summary, and write nothing.
        overwrite: Remove the run that lies in the folder.
        accept_data: Go on with data that is no longer what the run has seen; what it has seen stays in its split.

    Returns:
        0, or the signal that ended training early.

    Raises:
        UserError: if the config can't be run, or the folder holds another run.
        Diverged: if the loss stops being finite.
        Undelivered: if a metric that was asked for could not be computed.
    """
    run = set_up(config)
    asked_for(config, config.benchmark.metrics)  # now, and not when training is over
    if dry_run:
        return _dry_run(run)
    with ExitStack() as held:  # the folder's lock, by the main process
        changed = _take_folder(run, resume, overwrite, accept_data, held)
        return _train(run, resume, overwrite, changed, held)


def of_a_run(
    config: Config, file: Path, keeps_out: bool, plugins: Sequence[str], trust_plugins: bool
) -> dict[str, str]:
    """Keep to what the config of a run's own folder may say, which somebody may have handed over.

    The run is where its config lies, wherever that says it was made; of its plugins, only the copies are loaded, and
    these only if the user says so.

    Args:
        config: As it was read; changed.
        file: What it was read from.
        keeps_out: Whether the user has named the folder.
        plugins: Those that the user has named.
        trust_plugins: Whether the user trusts the copies.

    Returns:
        The names of the plugins that are not loaded.
    """
    folder = file.parent
    if not is_of_a_run(file):
        return {}
    if not keeps_out:
        config.out = folder
    named = [Path(plugin).name if plugin.endswith(".py") else plugin for plugin in config.plugins]
    trusted = [name for name in named if trust_plugins and name.endswith(".py")]
    config.plugins = [str(folder / PLUGINS_FOLDER / name) for name in trusted]
    given = {Path(plugin).name for plugin in plugins}
    return {name: "" for name in named if name not in given and name not in trusted}


def from_anywhere(config: Config, plugins: Sequence[str] = ()) -> None:
    """Let a run be found again from any folder: make the places that its config names absolute.

    Args:
        config: Changed.
        plugins: Files and modules to add. A file takes the place of one of the same name, which may have moved.
    """
    given = {Path(plugin).name for plugin in plugins if plugin.endswith(".py")}
    named = [*(plugin for plugin in config.plugins if Path(plugin).name not in given), *plugins]
    config.plugins = [str(Path(p).resolve()) if p.endswith(".py") else p for p in named]
    if config.data.root is not None:
        config.data.root = config.data.root.expanduser().resolve()


def _train(run: Run, resume: bool, overwrite: bool, changed: dict[str, Any], held: ExitStack) -> int:
    config, accelerator, main = run.config, run.accelerator, run.accelerator.is_main_process
    goes_on = resume and not overwrite and folder.holds_a_run(run.out)
    membership = folder.united(run.data.membership, folder.read_membership(run.out) if goes_on else None)
    if config.trackers:
        _start_trackers(run, goes_on, held)
    accelerator.wait_for_everyone()  # all have read what lies there
    if main:
        if overwrite and folder.holds_a_run(run.out):
            folder.clear(run.out)
        folder.begin(config, run.out, membership)
        print(run.summary(), flush=True)
    accelerator.wait_for_everyone()
    interruption.begun = True
    trainer = Trainer(run)
    resumed = resume and trainer.resume()
    if trainer.step > run.total_steps:
        raise UserError(
            f"{run.out} has taken {trainer.step:,} steps, and epochs={config.epochs}, steps={config.steps} end at "
            f"{run.total_steps:,}: a run can't be shortened"
        )
    if main:
        folder.drop_rows_after(run.out, trainer.step)
        folder.add_to_history(run.out, trainer.step, run.total_steps, changed, run.data)
        if resume:
            print(f"resumed at step {trainer.step:,}" if resumed else "no checkpoint yet: starting from the beginning")
        _tell_changes(changed, trainer.step)
    stopped_by, failed = trainer.fit(), []
    if main and trainer.given_up:
        print(
            f"stopped at step {trainer.step:,} of {run.total_steps:,}: in {config.patience} epochs no validation loss "
            f"was below that of step {trainer.best_step:,}"
        )
    if stopped_by:
        if main:
            print(f"stopped at step {trainer.step:,}, checkpoint written; to go on: {again()}", flush=True)
    else:
        failed = finish(run, trainer)
        if main and config.trackers:
            run.trackers.show(sorted(run.out.glob("*.png")), trainer.step)
            run.trackers.summarise(read_results(run.out), trainer.step)
    trainer.close()
    complain(failed, run.out)
    return stopped_by


def _take_folder(run: Run, resume: bool, overwrite: bool, accept_data: bool, held: ExitStack) -> dict[str, Any]:
    """Settle on the run's folder, and on its data, which a run that lies there may have split already.

    Returns:
        What a resumed run changes: key to [old, new].

    Raises:
        UserError: on all ranks alike.
    """
    config, main = run.config, run.accelerator.is_main_process
    chosen, changed, fault = _choose_folder(run, resume, overwrite, held) if main else (None, {}, None)
    run.out, changed, fault = broadcast_object_list([chosen, changed, fault])
    if fault:
        raise UserError(fault)
    config.out = run.out
    history = read_history(run.out) if resume and not overwrite and folder.holds_a_run(run.out) else []
    if history:
        known = history[-1]["data"]
        run.data = folder.same_data(config, run.data, run.out, known, None if accept_data else CHANGED_DATA)
        changed |= {"data": [known, run.data.digest]} if run.data.digest != known else {}
    return changed


def _choose_folder(run: Run, resume: bool, overwrite: bool, held: ExitStack) -> tuple[Path | None, dict[str, Any], str]:
    """Return the folder, locked, what a resumed run changes, and what is wrong with that."""
    try:
        out = folder.choose(run.config, run.out, resume, overwrite)
        held.enter_context(folder.locked(out))
        taken_up = resume and not overwrite and folder.holds_a_run(out)
        return out, folder.changes(run.config, out) if taken_up else {}, ""
    except UserError as error:
        return None, {}, str(error)


def _tell_changes(changed: dict[str, Any], step: int) -> None:
    for key, (old, new) in changed.items():
        print(printable(f"{key} is {new} from step {step:,} on, and was {old}: the run's history and its hash tell"))
    if {"epochs", "steps"} & changed.keys():
        print(
            "what follows the share of the run done (lr_schedule, a variant's warm-up) follows the new length from here"
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
    terms = trainer.log.passed.means(run.accelerator)
    trainer.check_finite(terms, saved=True)
    if run.accelerator.is_main_process:
        # Where a critic has several turns first, the model may not have had its own.
        loss = f"mean loss {terms['loss']:.6g}" if "loss" in terms else "the model's own turn comes later"
        print(f"dry run: two steps taken, {loss}; nothing written")
    trainer.close()
    return 0


def _start_trackers(run: Run, resumed: bool, held: ExitStack) -> None:
    """Begin them, on the main process.

    Raises:
        UserError: on all ranks alike.
    """
    fault = ""
    if run.accelerator.is_main_process:
        try:
            run.trackers = held.enter_context(tracking(run.config, run.out, resumed))
        except UserError as error:
            fault = str(error)
    [fault] = broadcast_object_list([fault])
    if fault:
        raise UserError(fault)


def finish(run: Run, trainer: Trainer) -> list[str]:
    """Save the final weights, measure them on the test split, and draw the pictures.

    Returns:
        The metrics that could not be computed.
    """
    config = run.config
    which = "final"
    if config.evaluate_on == "best":
        trainer.take_best()
        which = f"best by validation loss, of step {trainer.best_step}"
    model = trainer.evaluated
    weights = weights_of(model)
    if run.accelerator.is_main_process:
        write_weights(run.out / MODEL_FILE, weights, model.image, config.model, plugin_digests(config.plugins))
    if config.shard:
        run.accelerator.wait_for_everyone()
        model = load(run.out / MODEL_FILE, run.accelerator.device)
    facts = {
        "steps": trainer.step,
        "epochs": trainer.step * config.batch_size / len(run.data.train),
        "batch_size": config.batch_size,
        "weights": which if trainer.average is None else f"{which}, averaged (ema)",
        "data": run.data.describe(),
        "device": run.accelerator.device.type,
        "processes": run.accelerator.num_processes,
        "precision": run.precision,
        "choices": run.choices(),
        "command": command(),
    }
    if trainer.log.seconds:  # a finished run that is resumed takes no step
        facts["images_per_second"] = trainer.log.images / trainer.log.seconds
    if run.accelerator.is_main_process:
        facts |= provenance(config, model, run.data, read_history(run.out), run.started_from)
    return measure(run.out, model, run.data, config, run.accelerator, facts)
