"""What a metric is given, what it returns, and how it is found by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from zoo.base import BaseVAE, Batch
from zoo.config import Config
from zoo.data import Data, Images, evaluation_batches
from zoo.engine.validation import Terms, batch_terms
from zoo.registry import Registry


@dataclass(frozen=True)
class Score:
    """One number and what it stands on.

    Attributes:
        value: The number.
        unit: "nats", "dB", "bits/dim", or "" for a plain number.
        higher_is_better: None for a number that describes rather than ranks.
        protocol: All that must agree before two numbers may be compared, in one line.
        n: How many images, samples or points it is computed from.
        split: The images it is computed from or compared with.
        sampler: What the samples were drawn from, for metrics of samples.
        se: The standard error of the value, had other images been drawn; None where nobody knows it.
    """

    value: float
    unit: str
    higher_is_better: bool | None
    protocol: str
    n: int
    split: str = "test"
    sampler: str | None = None
    se: float | None = None


def mean_score(values: Tensor, unit: str, higher_is_better: bool | None, protocol: str) -> Score:
    """Average over images, and say how far that is from the mean over all there could be.

    Args:
        values: One an image, `[N]`.
        unit: See `Score`, as of the others.
        higher_is_better: Which way is up.
        protocol: What must agree.
    """
    values = values.double()
    se = (values.std() / len(values) ** 0.5).item() if len(values) > 1 else math.nan
    return Score(
        values.mean().item(), unit, higher_is_better, protocol, len(values), se=se if math.isfinite(se) else None
    )


@dataclass
class Subject:
    """A trained model on the bench.

    Attributes:
        model: In evaluation mode, on the accelerator's device.
        data: What it was trained on.
        config: The run's resolved config; `config.benchmark` says what is asked for.
        accelerator: Shares the work out; every rank calls every metric.
        cache: Folder for reference statistics.
        memo: Whatever several metrics share (features, fitted samplers), by name, so that it is computed once.
        notes: What a metric has to say beside its scores: keys of `results.json`, written with them.
        weights: The file that the model is from; None: the run's own.
    """

    model: BaseVAE
    data: Data
    config: Config
    accelerator: Accelerator
    cache: Path
    memo: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None

    @property
    def given(self) -> str:
        """What a protocol must add where the model is told the label: its numbers compare with their like alone."""
        return "; given the label" if self.model.needs_labels else ""

    def batches(self, split: Images, batch_size: int | None = None) -> Iterator[tuple[int, Batch]]:
        """Yield this rank's (number, batch) of a split, in the model's range; see `evaluation_batches`."""
        size = batch_size or self.config.eval_batch_size
        return evaluation_batches(
            split, self.model, size, self.accelerator.process_index, self.accelerator.num_processes
        )

    def terms(self, split: Images) -> Terms:
        """Return the terms of the model's loss over a split's batches, of the test images once; see `batch_terms`."""
        if split is self.data.test and "terms of test images" in self.memo:
            return self.memo["terms of test images"]
        terms = batch_terms(self.model, split, self.accelerator, self.config.eval_batch_size)
        if split is self.data.test:
            self.memo["terms of test images"] = terms
        return terms

    def gather(self, parts: dict[int, Tensor]) -> Tensor:
        """Concatenate the rows that all ranks computed, in the order of their batch numbers; a collective.

        Args:
            parts: Batch number to rows `[b, ...]`.

        Returns:
            `[N, ...]` on the CPU, the same on every rank and for any number of ranks.
        """
        merged = {number: rows.detach().cpu() for number, rows in parts.items()}
        if self.accelerator.num_processes > 1:
            merged = {number: rows for rank in gather_object([merged]) for number, rows in rank.items()}
        return torch.cat([merged[number] for number in sorted(merged)])


METRICS: Registry[Callable[..., dict[str, Score]]] = Registry(
    "metric", package="zoo.metrics", decorator="register_metric", given=("subject",)
)
register_metric = METRICS.register
