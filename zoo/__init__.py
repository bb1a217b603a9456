"""A zoo of variational autoencoders: every variant by name, one loop, honest numbers."""

from importlib import import_module
from typing import Any

# Imported when first asked for, so that `run.py --help` need not wait for torch.
_HOMES = {
    "BaseVAE": "zoo.base",
    "Batch": "zoo.base",
    "GaussianVAE": "zoo.families.gaussian",
    "ImageSpec": "zoo.base",
    "Config": "zoo.config",
    "Run": "zoo.interface",
    "UserError": "zoo.errors",
    "VAEOutput": "zoo.base",
    "create": "zoo.models",
    "export": "zoo.exporting",
    "load": "zoo.trained",
    "push_to_hub": "zoo.hub",
    "register": "zoo.base",
    "register_dataset": "zoo.data",
    "register_metric": "zoo.metrics.core",
    "register_net": "zoo.nets.pairs",
    "register_sampler": "zoo.metrics.samplers",
    "train": "zoo.interface",
    "transformer": "zoo.estimator",
}
__all__ = [*_HOMES, "testing"]


def __getattr__(name: str) -> Any:
    if name == "testing":
        return import_module("zoo.testing")
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # takes as long to import as all that Ctrl-C needs

        try:
            return version("vae-zoo")
        except PackageNotFoundError:  # a checkout that nobody installed
            return "unknown"
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
