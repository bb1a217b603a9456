"""What a linear classifier finds in the latent: labels from posterior means. Alain & Bengio 2016, arXiv:1610.01644."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.data import Images, some
from zoo.errors import DoesNotApply
from zoo.metrics.core import Score, Subject, mean_score, register_metric

if TYPE_CHECKING:
    import numpy as np

IMAGES = 10_000  # of each split, at most
ROUNDS = 1000  # of the solver, which most often needs far fewer


@register_metric("linear_probe", "share of test labels that a linear classifier of the latent gets right")
def linear_probe(subject: Subject) -> dict[str, Score]:
    """Row linear_probe: accuracy over classes, or over attributes the mean of the accuracies of their two values.

    A logistic regression is fitted on the posterior means of training images, brought to mean 0 and variance 1.

    Raises:
        UserError: if there are no labels, the model is told them, or training images have one label alone.
    """
    if subject.model.needs_labels:
        raise DoesNotApply("the model is told the label, so linear_probe would say nothing of its latent")
    (z, y), (z_test, y_test) = (_latents(subject, split) for split in (subject.data.train, subject.data.test))
    mean, sd = z.mean(0), z.std(0, correction=0)
    z, z_test = ((each - mean) / torch.where(sd > 0, sd, 1) for each in (z, z_test))
    how = f"logistic regression on posterior means of {len(z)} training images, standardised"
    if y.dim() == 1:
        right = torch.from_numpy(_fitted(z, y, z_test)) == y_test
        return {"linear_probe": mean_score(right, "", True, f"share of test images classified right by {how}")}
    balanced = [
        accuracy
        for attribute in range(y.shape[1])
        if (accuracy := _balanced(z, y[:, attribute], z_test, y_test[:, attribute])) is not None
    ]
    if not balanced:
        raise DoesNotApply("no attribute has both of its values in training and test images: linear_probe has no label")
    protocol = f"mean over {len(balanced)} attributes, and their two values, of the share told right by {how}"
    return {"linear_probe": Score(sum(balanced) / len(balanced), "", True, protocol, len(z_test))}


def _balanced(z: Tensor, y: Tensor, z_test: Tensor, y_test: Tensor) -> float | None:
    """Return the mean accuracy over both values of an attribute; None where either split has one alone."""
    if any(len(each.unique()) < 2 for each in (y, y_test)):
        return None
    right = (torch.from_numpy(_fitted(z, y, z_test, "balanced")) == y_test).double()
    return torch.stack([right[y_test == value].mean() for value in y_test.unique()]).mean().item()


def _fitted(z: Tensor, y: Tensor, z_test: Tensor, weights: str | None = None) -> np.ndarray:
    """Learn labels `[N]` from `[N, D]`; return what is then said of others."""
    from sklearn.linear_model import LogisticRegression

    if len(y.unique()) < 2:
        raise DoesNotApply("all training images have one label: linear_probe has nothing to tell apart")
    probe = LogisticRegression(max_iter=ROUNDS, class_weight=weights)
    return probe.fit(z.numpy(), y.numpy()).predict(z_test.numpy())


@torch.no_grad()
def _latents(subject: Subject, split: Images) -> tuple[Tensor, Tensor]:
    """Return posterior means `[N, D]` and labels of a split's images, or of some."""
    means, labels = {}, {}
    for number, batch in subject.batches(some(split, IMAGES)):
        if batch.y is None:
            raise DoesNotApply("the data has no labels, so linear_probe can't be measured")
        means[number], labels[number] = subject.model.encode(batch.x)[0].double(), batch.y
    return subject.gather(means), subject.gather(labels)
