"""What is held out of images that have no official split.

Of pictures that are files, each one's own content says where it belongs, together with `data.split_seed`: files may be
added, removed and renamed, and none moves from one split to another; copies of one picture are always together. Of all
else the order of the images says it.

In so small a set that a split would get no picture, it gets the one that is nearest to it, and that one may move once
the set has grown. No rule that looks at a set alone can do better, if each split is to have a picture: a run that goes
on with a set that changed gives its `Membership`, and then none moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.data.binarise import salt, scattered
from zoo.data.listing import shown
from zoo.data.sampler import permutation
from zoo.data.source import Images
from zoo.errors import UserError

Membership = Mapping[str, Tensor]  # "train", "val", "test": the sorted digests of a run's images, int64
HELD_OUT = ("val", "test")


def hold_out(
    images: Images, fraction: float, seed: int, splits: Sequence[str], left: int, run: Membership | None
) -> tuple[Images, Images]:
    """Divide images into those of a split that is held out, and all others; both in random order.

    Args:
        images: All that may be held out.
        fraction: The share that is wanted, of pictures that are files on average.
        seed: Decides, with the first of `splits`, which they are.
        splits: What they are for: "val", "test", or "test" and "val". Each needs a picture, if there are enough.
        left: How many different pictures must remain.
        run: Where pictures belong already.
    """
    if images.digests is None:
        order = permutation(len(images), seed, 0)
        held = round(fraction * len(images))
        return images.subset(order[:held]), images.subset(order[held:])
    digests = images.digests.numpy()
    places = _places(digests, seed, splits[0])
    in_it = _among(digests, run, splits)
    elsewhere = ~in_it & _among(digests, run, run or ())
    new = np.unique(places[~in_it & ~elsewhere])  # the different ones that no run has seen
    least = len(splits) - len(np.unique(digests[in_it]))
    left -= len(np.unique(digests[elsewhere]))
    wanted = max(int((new < fraction).sum()), least, 0) if fraction else 0
    chosen = new[: min(wanted, max(len(new) - max(left, 0), 0))]
    in_it |= ~elsewhere & np.isin(places, chosen)
    at = np.argsort(places, kind="stable")
    held_out, others = (images.subset(torch.from_numpy(at[chosen[at]])) for chosen in (in_it, ~in_it))
    return held_out, others


def _places(digests: np.ndarray, seed: int, split: str) -> np.ndarray:
    """Return where between 0 and 1 contents lie, evenly, and anew for each seed and split."""
    return (scattered(digests.view(np.uint64) ^ salt(f"{split} {seed}")) >> np.uint64(11)) / 2.0**53


def _among(digests: np.ndarray, run: Membership | None, splits: Iterable[str]) -> np.ndarray:
    """Return which contents were in any of a run's splits, bool `[N]`."""
    known = [run[split].numpy() for split in splits if run and split in run]
    return np.isin(digests, np.concatenate(known)) if known else np.zeros(len(digests), bool)


def membership(splits: Mapping[str, Images]) -> dict[str, Tensor]:
    """Return which pictures belong where, as sorted digests, int64; empty for images that are no files."""
    digests = {split: images.digests for split, images in splits.items()}
    return {split: torch.unique(known) for split, known in digests.items() if known is not None}


def check_membership(splits: Mapping[str, Images], run: Membership) -> None:
    """See that no picture that a run was tested by is now trained on, or the other way round.

    Raises:
        UserError: naming some that have moved from one official split to another.
    """
    held = [split for split in HELD_OUT if split in splits]
    for here, there, doing in ((["train"], held, "held out"), (held, ["train"], "trained on")):
        for split in here:
            images = splits[split]
            if images.digests is None:
                continue
            digests = images.digests.numpy()
            moved = _among(digests, run, there) & ~_among(digests, run, here)
            if moved.any():
                names = [name for name, is_moved in zip(images.names, moved, strict=True) if is_moved]
                raise UserError(
                    f"{len(names):,} {split} images are ones that the run has {doing}: {shown(names)}; move them back"
                )
