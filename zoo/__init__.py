"""A zoo of variational autoencoders: every variant by name, one loop, honest numbers."""

from typing import Any

__version__ = "0.1.0"

# Imported when first asked for, so that `run.py --help` need not wait for torch.
_HOMES = {
    "BaseVAE": "base",
    "Batch": "base",
    "ImageSpec": "base",
    "VAEOutput": "base",
    "register": "base",
    "GaussianVAE": "gaussian",
    "create": "models",
    "load": "checkpoint",
    "register_net": "nets",
    "register_dataset": "data",
}
__all__ = [
    "BaseVAE",
    "Batch",
    "GaussianVAE",
    "ImageSpec",
    "VAEOutput",
    "create",
    "load",
    "register",
    "register_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"zoo.{_HOMES[name]}"), name)
