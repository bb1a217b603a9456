"""Checkpoints that survive a kill at any moment, and model files that hold no code.

    runs/NAME/checkpoints/step_00000500/   model.safetensors  state.pt  state.json  digests.json
    runs/NAME/checkpoints/latest, best     links to two of them

A checkpoint is written under a temporary name, renamed when complete, and only then are older ones removed. Tensors are
read with safetensors or `torch.load(weights_only=True)`: a file from a stranger can't run code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.operations import recursively_apply
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.base import SYMMETRIC, UNIT, BaseVAE, ImageSpec
from zoo.config import ModelConfig
from zoo.engine.sharding import put_together
from zoo.errors import DiskFull, PluginError, UserError, warn
from zoo.files import (
    CHECKPOINTS,
    MODEL_FILE,
    PLUGINS_FOLDER,
    parse_json,
    read_json,
    real_path,
    see_that_it_is_plain,
    sync_folder,
)
from zoo.models import create
from zoo.records import read_progress
from zoo.registry import load_plugin
from zoo.texts import printable
from zoo.weights import read_weights, weights_digest

DIGESTS_FILE = "digests.json"
PROGRESS_FILE = "state.json"
STEP = re.compile(r"step_[0-9]{8,18}")  # a checkpoint's folder
FULL = (errno.ENOSPC, errno.EDQUOT)


def snapshot(state: Any, memory_format: torch.memory_format = torch.preserve_format) -> Any:
    """Copy all tensors in nested containers to the CPU: what is copied may change while the copy is written.

    A collective where tensors are shared out over the processes.
    """

    def copy(tensor: Tensor) -> Tensor:
        return put_together(tensor.detach()).to("cpu", copy=True, memory_format=memory_format)

    return recursively_apply(copy, state)


def weights_of(model: BaseVAE) -> dict[str, Tensor]:
    """Copy a model's parameters and buffers to the CPU; none is channels-last there."""
    return snapshot(model.state_dict(), torch.contiguous_format)


def write_weights(
    path: Path, weights: dict[str, Tensor], image: ImageSpec, config: ModelConfig, plugins: dict[str, str]
) -> None:
    """Write contiguous weights with all it takes to build the model again: variant, options, image shape, plugins.

    Args:
        path: Where.
        weights: From `weights_of`.
        image: The data's shape and range.
        config: Variant and options.
        plugins: The SHA-256 of each, by name.
    """
    recipe = {
        "model": config.model_dump(),
        "image": asdict(image),
        "plugins": plugins,
        "digest": weights_digest(weights),
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # it might be a link
    save_file(weights, partial, {"zoo": json.dumps(recipe, sort_keys=True)})
    partial.chmod(0o644)  # safetensors writes for the owner alone; config and results beside it are for all
    os.replace(partial, path)


def load(
    run: Path | str,
    device: str | torch.device = "cpu",
    plugins: Sequence[str] = (),
    trust_plugins: bool = False,
) -> BaseVAE:
    """Build a run's variant with its trained weights, in evaluation mode, images in its own range.

    Users call `zoo.load` (zoo/trained.py), which takes the same arguments, and refuses the same.
    """
    path = weights_file(Path(run))
    recipe = recipe_of(path)
    for plugin in plugins:
        load_plugin(plugin)
    if trust_plugins:
        load_kept_plugins(path, recipe["plugins"])
    config = ModelConfig(**recipe["model"])
    image = recipe["image"] | {"range": tuple(recipe["image"]["range"])}
    with telling_of_plugins(recipe["plugins"]):
        model = create(config.name, ImageSpec(**image), **config.options)
    try:
        model.load_state_dict(read_weights(path, recipe.get("digest", "")))
    except RuntimeError:
        raise UserError(f"the weights in {path} do not fit the variant {config.name!r} as it is now") from None
    return model.to(device).eval()


def weights_file(run: Path) -> Path:
    """Return the file of a run's final weights, or of its newest checkpoint's; a file is taken for itself.

    Raises:
        UserError: if there is none, or the run's folder has links that lead out of it.
    """
    if any(os.path.lexists(run / name) for name in (MODEL_FILE, CHECKPOINTS)):  # not all of a disk that holds no run
        see_that_it_is_plain(run)
    candidates = (
        [run] if os.path.isfile(run) else [run / MODEL_FILE, pointed_to(run / CHECKPOINTS / "latest") / MODEL_FILE]
    )
    path = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if path is None:
        raise UserError(f"there is no trained model in {run}: looked for {MODEL_FILE} and for checkpoints/latest")
    return path


def recipe_of(run: Path) -> dict[str, Any]:
    """Return what a run's weights say of their model: variant and options, image, plugins by name with their SHA-256.

    Raises:
        UserError: if there are no weights, or the file is damaged or no model of this zoo.
    """
    path = weights_file(run)
    try:
        with safe_open(path, "pt") as file:
            recipe = parse_json((file.metadata() or {})["zoo"], f"{path}'s metadata")
        _Recipe.model_validate(recipe)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged, or not a model of this zoo ({type(error).__name__})") from None
    if isinstance(recipe["plugins"], list):  # of a run from before plugins were kept
        recipe["plugins"] = {Path(plugin).name: "" for plugin in recipe["plugins"]}
    return recipe


class _Image(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    channels: PositiveInt
    height: PositiveInt
    width: PositiveInt
    range: list[float]
    classes: NonNegativeInt = 0
    attributes: NonNegativeInt = 0
    train_size: NonNegativeInt = 0

    @field_validator("range")
    @classmethod
    def _known_range(cls, range: list[float]) -> list[float]:
        if tuple(range) not in (UNIT, SYMMETRIC):
            raise ValueError("range must be [0, 1] or [-1, 1]")
        return range


class _Recipe(BaseModel):
    """What weights say of their model, whoever wrote them."""

    model: ModelConfig
    image: _Image
    plugins: dict[str, str] | list[str]
    digest: str = ""


def load_kept_plugins(path: Path, plugins: dict[str, str]) -> None:
    """Import the copies of plugins that a run keeps, and nothing else, whatever its weights name.

    Raises:
        UserError: if a plugin is no copy in the run's own folder, or not the file that the run was made with.
    """
    run = path.parents[2] if path.parent.name.startswith("step_") or path.parent.name == "latest" else path.parent
    for name, digest in plugins.items():
        kept = run / PLUGINS_FOLDER / name
        if Path(name).name != name or not name.endswith(".py") or not os.path.isfile(kept):
            raise UserError(
                f"{run} keeps no copy of its plugin {printable(name)}: pass --plugin with it if you trust it"
            )
        if hashlib.sha256(kept.read_bytes()).hexdigest() != digest:
            raise UserError(f"{kept} is not the file that the run was made with: pass --plugin FILE if you trust it")
        load_plugin(str(kept))


@contextmanager
def telling_of_plugins(plugins: dict[str, str]) -> Iterator[None]:
    """Within it, a name that is not known may be that of a plugin, which is not loaded by itself: say so."""
    try:
        yield
    except PluginError:
        raise
    except UserError as error:
        if not plugins:
            raise
        known = {printable(name): printable(digest[:12]) for name, digest in plugins.items()}
        named = ", ".join(f"{name} (sha256 {digest}…)" if digest else name for name, digest in known.items())
        raise UserError(
            f"{error}; it was made with the plugin {named}, which is not loaded by itself: pass --plugin FILE, or "
            "--trust-plugins (trust_plugins=True) to run the code of the copy in the run's folder"
        ) from error


class Checkpoints:
    """The checkpoints of one run, each written by a thread while training goes on.

    Args:
        run: The run's folder.
        keep: How many of the newest to keep, beside the best.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self.folder = run / CHECKPOINTS
        self.keep = keep
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, oldest first."""
        names = (path.name for path in self.folder.glob("step_*") if path.is_dir())
        steps = {int(name.removeprefix("step_")): name for name in names if STEP.fullmatch(name)}
        return sorted(step for step, name in steps.items() if self.path(step).name == name)

    def best(self) -> int | None:
        """Return the step of the checkpoint with the lowest validation loss, by what the checkpoints themselves say."""
        for step in reversed(self.steps()):  # a later one is marked only if it is better
            try:
                progress = read_json(self.path(step) / PROGRESS_FILE)
                if isinstance(progress, dict) and progress.get("is_best"):
                    return step
            except UserError:
                continue
        return None

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step_{step:08d}"

    def save(
        self,
        step: int,
        save_weights: Callable[[Path], None],
        state: dict[str, Any],
        progress: dict[str, Any],
        best: bool,
    ) -> None:
        """Write a checkpoint, point `latest` (and `best`) to it, then remove what is no longer kept.

        Args:
            step: Optimizer steps done.
            save_weights: Writes the model to the path it is given.
            state: Optimizers and averages: nested containers of tensors and numbers.
            progress: Counters and sums, JSON.
            best: Whether no earlier validation loss was lower.
        """
        partial = self.folder / f".partial_{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            save_weights(partial / MODEL_FILE)
            torch.save(state, partial / "state.pt")
            (partial / PROGRESS_FILE).write_text(json.dumps(progress | {"step": step, "is_best": best}, indent=1))
            digests = {file.name: _digest(file) for file in sorted(partial.iterdir())}
            (partial / DIGESTS_FILE).write_text(json.dumps(digests, indent=1))
            _sync(partial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
            shutil.rmtree(partial, ignore_errors=True)
            raise _no_room(self.folder, step, state, error) from error
        final = self.path(step)
        if final.exists():  # a damaged one of the same step, which the resumed run has now reached again
            shutil.rmtree(final)
        os.rename(partial, final)
        sync_folder(self.folder)
        best_step = self.point(final)
        for old in self.steps()[: -self.keep]:
            if old != best_step:
                shutil.rmtree(self.path(old))

    def point(self, latest: Path) -> int | None:
        """Point `latest` and `best` to where they belong; a kill may have come before. Return the best one's step."""
        self._link("latest", latest)
        best_step = self.best()
        if best_step is not None:
            self._link("best", self.path(best_step))
        return best_step

    def save_meanwhile(self, *arguments: Any) -> None:
        """Have `save` done by the writing thread, after the one before."""
        self.finish()
        self.writing = self.writer.submit(self.save, *arguments)

    def finish(self) -> None:
        """Wait for the checkpoint that is being written; what went wrong with it is raised here."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            writing.result()

    def close(self) -> None:
        """Write no more."""
        self.writer.shutdown()

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest undamaged checkpoint's folder and counters, naming the damaged ones passed over."""
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                names = {file.name for file in path.iterdir()} - {DIGESTS_FILE}
                if {name: _digest(path / name) for name in names} == read_json(path / DIGESTS_FILE):
                    progress = read_progress(path / PROGRESS_FILE)
                    if progress["step"] == step:
                        return path, progress
            except (OSError, UserError):
                pass
            warn(f"the checkpoint {path} is damaged; falling back to the one before")
        return None

    def _link(self, name: str, target: Path) -> None:
        """Point `name` to a checkpoint: by a symbolic link, or where the file system has none, a file with its name."""
        partial = self.folder / f".{name}.partial"
        partial.unlink(missing_ok=True)
        try:
            partial.symlink_to(target.name)
        except OSError:
            partial.write_text(target.name)
        pointer = self.folder / name
        if pointer.is_dir() and not pointer.is_symlink():  # a copy that followed links made a folder of it
            shutil.rmtree(pointer)
        os.replace(partial, pointer)


def _sync(folder: Path) -> None:
    """Bring a folder's files to the disk: what is renamed next must not be empty after a power cut."""
    for file in folder.iterdir():
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
    sync_folder(folder)


def _no_room(folder: Path, step: int, state: dict[str, Any], error: Exception) -> Exception:
    """Return what to say of a checkpoint that could not be written: the disk is full, or the error as it is."""
    there = shutil.disk_usage(folder).free
    need = 2 * sum(tensor.nbytes for tensor in _tensors(state))  # Adam's two moments are twice the weights
    full = isinstance(error, OSError) and error.errno in FULL
    if not full and there > need:
        return error
    return DiskFull(
        f"the disk is full: the checkpoint of step {step:,} needs about {need / 1e6:,.1f} MB in {folder}, and "
        f"{there / 1e6:,.1f} MB are free; make room, and go on with --resume"
    )


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    for part in state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ():
        yield from _tensors(part)


def pointed_to(pointer: Path) -> Path:
    """Return the checkpoint that `latest` or `best` stands for; the pointer itself where it stands for none."""
    if os.path.isfile(pointer) and not pointer.is_symlink():
        name = pointer.read_bytes().decode(errors="replace").strip() if pointer.stat().st_size < 100 else ""
        return pointer.with_name(name) if STEP.fullmatch(name) else pointer
    return real_path(pointer)


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint's optimizers and averages, without unpickling anything but tensors and plain containers.

    Raises:
        UserError: if the file is damaged, or not of this kind.
    """
    try:
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path / 'state.pt'} can't be read: {error.strerror or error}") from None
    except MemoryError:  # it says nothing of the file
        raise
    except Exception as error:  # a broken pickle raises anything
        raise UserError(
            f"{path / 'state.pt'} is damaged, or holds more than tensors and numbers ({type(error).__name__})"
        ) from None
    if not isinstance(state, dict):
        raise UserError(f"{path / 'state.pt'} is damaged: it holds {type(state).__name__}, and not a state by player")
    return state


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
