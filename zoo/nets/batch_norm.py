"""What a second pass through a net must not do to its BatchNorm layers.

A BatchNorm layer normalises by the batch it sees, and remembers it for evaluation. A pass over anything but the step's
images (learned pseudo-images, samples) would enter what it remembers; a second pass over the same, count them twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def _layers(module: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


@contextmanager
def as_evaluated(module: nn.Module) -> Iterator[None]:
    """Within it, BatchNorm layers normalise by what they remember, as in evaluation, and remember nothing new."""
    layers = [layer for layer in _layers(module) if layer.training]
    for layer in layers:
        layer.training = False
    yield
    for layer in layers:
        layer.training = True


@contextmanager
def unremembered(module: nn.Module) -> Iterator[None]:
    """Within it, BatchNorm layers normalise as they would, and remember nothing new."""
    layers = _layers(module)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    yield
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
