"""Data sets, the decoded cache and the resumable sampler.

A data set is a function, registered by name, that returns its official splits as uint8 pixels:

    @register_dataset("noise")
    def noise(root: Path, size: int | None, limit: int | None, *, channels: int = 1) -> Source:
        '''Images of nothing.'''
        return Source(train=Images(torch.randint(256, (1000, channels, size or 32, size or 32), dtype=torch.uint8)))

Its keyword-only parameters are options of the config's `data:` section.
"""

from zoo.data.build import Data, build_data
from zoo.data.pixels import augmented, dequantise, mirror, random_crop, to_float
from zoo.data.sampler import batches, evaluation_batches, some, step_indices
from zoo.data.source import DATASETS, Images, Source, register_dataset
from zoo.data.splits import Membership

__all__ = [
    "DATASETS",
    "Data",
    "Images",
    "Membership",
    "Source",
    "augmented",
    "batches",
    "build_data",
    "dequantise",
    "evaluation_batches",
    "mirror",
    "random_crop",
    "register_dataset",
    "some",
    "step_indices",
    "to_float",
]
