"""Weights & Biases and TensorBoard: what a run that names them sends there, beside what it writes itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import yaml
from PIL import Image

from zoo.base import BaseVAE
from zoo.config import Config, flatten
from zoo.data import Images
from zoo.errors import UserError
from zoo.files import replace_file
from zoo.pictures.of_runs import write_images

ID_FILE = "id.txt"  # in the folder `wandb`: the run's, by which it is gone on with


class Tracker(Protocol):
    """Where a run's rows and pictures go."""

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Take a row of `metrics.jsonl`."""

    def show(self, pictures: Sequence[Path], step: int) -> None:
        """Take pictures, each called after its file."""

    def summarise(self, scores: Mapping[str, float], step: int) -> None:
        """Take what the finished run was scored."""

    def close(self, failed: bool) -> None:
        """Send what is left."""


class Wandb:
    """A run of Weights & Biases; one that is resumed goes on as the same run there."""

    def __init__(self, config: Config, out: Path, resumed: bool) -> None:
        import wandb

        known = out / "wandb" / ID_FILE
        stored = known.read_text().strip() if resumed and known.is_file() else None
        self.wandb = wandb
        # Of the environment wandb itself knows what there was when it was first used in this process.
        environment = os.environ.get
        self.run = wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity,
            group=config.wandb.group or environment("WANDB_RUN_GROUP"),
            tags=config.wandb.tags or None,
            job_type=environment("WANDB_JOB_TYPE", "train"),
            name=out.name,
            dir=str(out),
            mode=config.wandb.mode or cast(Any, environment("WANDB_MODE")),
            id=environment("WANDB_RUN_ID", stored),
            resume="allow",
            config=config.dump(),
        )
        if known.parent.is_dir():  # not if it is disabled
            replace_file(known, f"{self.run.id}\n")

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Send a row."""
        self.run.log(dict(row), step=step)

    def show(self, pictures: Sequence[Path], step: int) -> None:
        """Send copies of the files."""
        self.run.log({f"pictures/{path.stem}": self.wandb.Image(str(path)) for path in pictures}, step=step)

    def summarise(self, scores: Mapping[str, float], step: int) -> None:
        """Write the scores beside the last row's values."""
        self.run.summary.update(dict(scores))

    def close(self, failed: bool) -> None:
        """Send what is left."""
        self.run.finish(exit_code=1 if failed else 0)


class TensorBoard:
    """Events in the run's folder, under `tensorboard`; its table of settings knows no nesting, and has dotted names."""

    def __init__(self, config: Config, out: Path, resumed: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.writer = SummaryWriter(str(out / "tensorboard"))
        values = flatten(config.dump())
        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values.items()
        }
        for part in hparams(plain, {"val/loss": 0, "val/elbo": 0}):  # add_hparams would begin a folder of its own
            self.writer._get_file_writer().add_summary(part)
        text = yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True)
        self.writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Write a row's values, a curve each."""
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)

    def show(self, pictures: Sequence[Path], step: int) -> None:
        """Write the files' pixels."""
        for path in pictures:
            pixels = np.array(Image.open(path).convert("RGB"))
            self.writer.add_image(f"pictures/{path.stem}", pixels, step, dataformats="HWC")

    def summarise(self, scores: Mapping[str, float], step: int) -> None:
        """Write the scores as values of the last step."""
        self.log(scores, step)

    def close(self, failed: bool) -> None:
        """Write what is left."""
        self.writer.close()


KINDS: dict[str, Callable[[Config, Path, bool], Tracker]] = {"wandb": Wandb, "tensorboard": TensorBoard}


class Trackers:
    """All that a run has, none or more."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self.each = trackers

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Take a row of `metrics.jsonl`."""
        for tracker in self.each:
            tracker.log(row, step)

    def validated(self, model: BaseVAE, split: Images, step: int) -> None:
        """Draw reconstructions and samples, now, for the validation of this step."""
        if self.each:
            with tempfile.TemporaryDirectory() as folder:
                write_images(model, split, Path(folder))
                self.show(sorted(Path(folder).iterdir()), step)

    def show(self, pictures: Sequence[Path], step: int) -> None:
        """Take pictures, each called after its file."""
        for tracker in self.each:
            tracker.show(pictures, step)

    def summarise(self, results: Mapping[str, Any], step: int) -> None:
        """Take a finished run's results, as its file has them."""
        scores = {f"test/{name}": score["value"] for name, score in results["metrics"].items()}
        facts = {key: results[key] for key in ("parameters", "epochs", "images_per_second") if key in results}
        for tracker in self.each:
            tracker.summarise({k: v for k, v in (scores | facts).items() if isinstance(v, int | float)}, step)


@contextmanager
def tracking(config: Config, out: Path, resumed: bool) -> Iterator[Trackers]:
    """Begin what the config names, and end it with the run.

    Args:
        config: The run's.
        out: Its folder, in which each tracker has one of its own name.
        resumed: Whether it goes on with the run that lies there.

    Raises:
        UserError: if one can't begin; none has then, and none leaves anything.
    """
    for name in config.trackers:
        if find_spec(name) is None:
            raise UserError(f"the tracker {name!r} is not installed: pip install {name}, or set trackers=[]")
    fresh = [out / name for name in config.trackers if not (out / name).exists()]
    begun: list[Tracker] = []
    try:
        for name in config.trackers:
            begun.append(KINDS[name](config, out, resumed))
    except Exception as error:  # wandb has many ways to fail, all of which mean that the run would not be tracked
        _end(begun, failed=True)
        for folder in fresh:
            shutil.rmtree(folder, ignore_errors=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"the tracker {config.trackers[len(begun)]} can't start: {reason}; set wandb.mode=offline, or trackers=[]"
        ) from None
    try:
        yield Trackers(begun)
    except BaseException:
        _end(begun, failed=True)
        raise
    _end(begun, failed=False)


def _end(trackers: Sequence[Tracker], failed: bool) -> None:
    for tracker in trackers:
        tracker.close(failed)
