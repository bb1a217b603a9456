"""From a name to a model, and from a run's folder back to one."""

from __future__ import annotations

import inspect
from typing import Any

from zoo.base import UNIT, VARIANTS, BaseVAE, ImageSpec
from zoo.nets.pairs import NETS
from zoo.options import check_options, signature_options
from zoo.parts.distributions import ACTIVATION_RANGE


def model_options(name: str, options: dict[str, Any]) -> dict[str, inspect.Parameter]:
    """Return everything that `model: {name: …}` may hold: the variant's own options and its net's."""
    entry = VARIANTS.lookup(name)
    known = signature_options(entry.target)
    for option, default in entry.defaults.items():
        known[option] = known[option].replace(default=default)
    if "net" in known:
        net = str(options.get("net", known["net"].default))
        known |= signature_options(NETS.lookup(net).target)
    return known


def create(name: str, image: ImageSpec, **options: Any) -> BaseVAE:
    """Build a variant: `zoo.create("beta", image=zoo.ImageSpec(3, 64, 64), net="conv", latent_dim=32)`.

    Args:
        name: A registered variant.
        image: The data's shape and range.
        **options: The variant's, and its net's.

    Raises:
        UserError: if a name, an option or a value is wrong, or doesn't go with the image.
    """
    entry = VARIANTS.lookup(name)
    checked = check_options(f"model {name!r}", model_options(name, options), options)
    return entry.target(image, **{**entry.defaults, **checked})


def preferred_range(name: str, options: dict[str, Any]) -> tuple[float, float]:
    """Return the image range that a model would choose: its activation's, or its likelihood's, or else its net's."""
    defaults = {option: parameter.default for option, parameter in model_options(name, options).items()} | options
    if defaults.get("out_activation") in ACTIVATION_RANGE:
        return ACTIVATION_RANGE[defaults["out_activation"]]
    if defaults.get("recon") == "bce" or "net" not in defaults:
        return UNIT
    return NETS.lookup(defaults["net"]).defaults.get("range", UNIT)
