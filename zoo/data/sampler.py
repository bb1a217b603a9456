"""The order of images: for training, an endless stream that is a pure function of the seed and the step.

The stream is one shuffle of all images after another. Step `s` of global batch size `b` takes the stream's positions
`s * b` to `(s + 1) * b`, so every batch is full, no image is seen twice before all are seen once, and a run resumes at
any step without replaying those before it. Where classes are to be drawn evenly, the stream is made of rounds: an equal
share of each class's own stream of shuffles, shuffled. Where pixels are made black or white at each look, the place in
the stream says how. For evaluation, every image once, in the order of the split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from zoo.base import BaseVAE, Batch
from zoo.data.binarise import binarise
from zoo.data.pixels import to_float
from zoo.data.source import Images

GATHERED_BYTES = 2**20  # small enough for a processor's cache, large enough to hide what calling NumPy costs
MAPPED_BYTES = 2**22  # more, since a thread's turn costs the cores that train up to a millisecond


@lru_cache(maxsize=4)
def permutation(n: int, *seed: int) -> Tensor:
    """Return a shuffle of 0 to n - 1 as int64 `[n]`; do not write to it, since it is cached.

    The generator is NumPy's frozen one: the same seed gives the same shuffle on every machine and in every release, and
    no global random state is read or changed.
    """
    generator = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    return torch.from_numpy(generator.permutation(n).astype(np.int64, copy=False))


def some(images: Images, n: int, seed: int = 0) -> Images:
    """Return at most `n` images, drawn evenly and always alike: the first ones of a split may be of one class."""
    return images if len(images) <= n else images.subset(permutation(len(images), seed)[:n].sort().values)


def step_indices(n: int, batch_size: int, seed: int, step: int, rank: int = 0, world: int = 1) -> Tensor:
    """Return which images rank `rank` of `world` trains on at `step`.

    Args:
        n: How many training images there are.
        batch_size: Images per step over all ranks.
        seed: The run's.
        step: Counted from 0.
        rank: Counted from 0; each rank takes one contiguous slice of the global batch.
        world: How many ranks there are.

    Returns:
        int64 `[batch_size / world]`, each from 0 to n - 1.

    Raises:
        ValueError: if there are no images, or the ranks can't share the batch equally.
    """
    if n < 1:
        raise ValueError("there are no images to sample from")
    return _from_stream(n, lambda epoch: permutation(n, seed, epoch), batch_size, step, rank, world)


def _from_stream(
    length: int, shuffle: Callable[[int], Tensor], batch_size: int, step: int, rank: int, world: int
) -> Tensor:
    """Return a step's positions in a stream that is made of `shuffle(0)`, `shuffle(1)`, …, each of a length."""
    if batch_size % world:
        raise ValueError(f"batch_size {batch_size} can't be shared equally by {world} ranks")
    share = batch_size // world
    position = step * batch_size + rank * share
    pieces = []
    while share:
        epoch, start = divmod(position, length)
        piece = shuffle(epoch)[start : start + share]
        pieces.append(piece)
        position += len(piece)
        share -= len(piece)
    return torch.cat(pieces)


def balanced_indices(labels: Tensor, seed: int) -> Callable[[int, int, int, int], Tensor]:
    """Return what `step_indices` is where classes are drawn evenly: a function of batch size, step, rank and world.

    Args:
        labels: Of the training images, int64 `[N]`; a class without any is left out.
        seed: The run's.
    """
    members = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    share = -(-len(labels) // len(members))  # of each class in a round, so that a round is about an epoch

    @lru_cache(maxsize=2)
    def shuffle(number: int) -> Tensor:
        drawn = torch.cat([of_class[step_indices(len(of_class), share, seed, number)] for of_class in members])
        return drawn[permutation(len(drawn), seed, number)]

    return partial(_from_stream, share * len(members), shuffle)


def batches(
    images: Images, batch_size: int, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
) -> Generator[tuple[Tensor, Tensor | None], None, None]:
    """Yield this rank's batches of steps `start` to `stop - 1`, as `Images.batch` returns them.

    Images of several steps are gathered at once; those of a memory-mapped set by a thread, while the caller uses the
    ones before them.

    Raises:
        ValueError: as `step_indices` does.
    """
    seen = images.stored if images.redraw else images
    balanced = balanced_indices(images.labels, seed) if images.balance and images.labels is not None else None

    def indices_of(step: int) -> Tensor:
        if balanced is not None:
            return balanced(batch_size, step, rank, world)
        return step_indices(len(images), batch_size, seed, step, rank, world)

    size = MAPPED_BYTES if images.mapped else GATHERED_BYTES
    together = max(1, size // (batch_size * math.prod(images.shape)))

    def gather(first: int) -> list[tuple[Tensor, Tensor | None]]:
        steps = range(first, min(first + together, stop))
        indices = [indices_of(step) for step in steps]
        pixels, labels = seen.batch(torch.cat(indices))
        if images.redraw:  # by the image's place in the stream, which all ranks share
            looks = torch.tensor([step * batch_size + rank * len(indices[0]) for step in steps])
            numbers = (looks[:, None] + torch.arange(len(indices[0]))).flatten()
            pixels = binarise(pixels, numbers, f"look {seed}")
        parts = pixels.split(len(indices[0]))
        return list(zip(parts, [None] * len(steps) if labels is None else labels.split(len(indices[0])), strict=True))

    if not images.mapped:
        for step in range(start, stop, together):
            yield from gather(step)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming = None
        for step in range(start, stop, together):
            ready = coming or thread.submit(gather, step)
            coming = thread.submit(gather, step + together) if step + together < stop else None
            yield from ready.result()


def evaluation_batches(
    split: Images, model: BaseVAE, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[int, Batch]]:
    """Yield (number, batch) over a split, every image once over all ranks, in the model's range and on its device.

    Batches are cut the same way whatever the number of ranks, and noise seeded by their number: the result does not
    depend on how many processes computed it.
    """
    for number in range(rank, -(-len(split) // batch_size), world):
        indices = torch.arange(number * batch_size, min((number + 1) * batch_size, len(split)))
        images, labels = split.batch(indices)
        y = None if labels is None else labels.to(model.device)
        torch.manual_seed(number)
        yield number, Batch(to_float(images.to(model.device), model.image.range), y)
