"""From a name to a model, and from a run's folder back to one."""

from __future__ import annotations

import inspect
from typing import Any

from zoo.base import UNIT, VARIANTS, BaseVAE, ImageSpec
from zoo.errors import PluginError, UserError, crash, is_ours, place
from zoo.memory import Budget
from zoo.nets.pairs import NETS
from zoo.options import check_options, signature_options
from zoo.parts.distributions import ACTIVATION_RANGE
from zoo.registry import Entry, did_you_mean


def model_options(name: str, options: dict[str, Any]) -> dict[str, inspect.Parameter]:
    """Return everything that `model: {name: …}` may hold: the variant's own options and its net's."""
    entry = _complete(name)
    known = signature_options(entry.target)
    for option, default in entry.defaults.items():
        if option not in known:
            raise PluginError(
                f"@register({name!r}) gives a default to {option!r}, which {entry.target.__name__} ({entry.file}) does "
                f"not have.{did_you_mean(option, known)}"
            )
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
        PluginError: if the class lacks a method, or its `__init__` fails.
    """
    entry = _complete(name)
    checked = check_options(f"model {name!r}", model_options(name, options), options)
    what = f"model {name!r}, on images of {' x '.join(map(str, image.shape))},"
    with Budget(what, "choose smaller images, or fewer and narrower layers"):
        return _build(entry.target, image, {**entry.defaults, **checked})


def _complete(name: str) -> Entry[type[BaseVAE]]:
    """Look a variant up, and see that it has all its methods."""
    entry = VARIANTS.lookup(name)
    if lacking := missing_methods(entry.target):
        raise PluginError(f"model {name!r} lacks {lacking}, which {entry.target.__name__} ({entry.file}) must define")
    return entry


def missing_methods(cls: type[BaseVAE]) -> str:
    """Return the abstract methods that a class leaves undefined: "decode, loss and sample"; "" if there are none."""
    *others, last = sorted(getattr(cls, "__abstractmethods__", ())) or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _build(cls: type[BaseVAE], image: ImageSpec, options: dict[str, Any]) -> BaseVAE:
    """Call the class; tell its author what is wrong with `__init__`."""
    model = cls.__new__(cls)  # in two steps, as a call takes them: so it can be told how far `__init__` came
    try:
        cls.__init__(model, image, **options)
    except UserError:
        raise
    except Exception as error:
        if is_ours(cls):
            raise
        if not _has_begun(model) and isinstance(error, AttributeError) and _means_no_super(cls, error):
            raise _no_super(cls) from error
        raise crash(f"{cls.__name__}.__init__", error, cls) from error
    if not _has_begun(model):
        raise _no_super(cls)
    if getattr(model, "image", None) != image:
        raise PluginError(f"{cls.__name__}.__init__ ({place(cls)}) sets self.image, which must stay what it was given")
    return model


def _has_begun(model: BaseVAE) -> bool:
    return "progress" in vars(model).get("_buffers", {})


def _means_no_super(cls: type[BaseVAE], error: AttributeError) -> bool:
    words = ("Module.__init__() call", f"{cls.__name__!r} object has no attribute")  # torch's words
    return any(word in str(error) for word in words)


def _no_super(cls: type[BaseVAE]) -> PluginError:
    return PluginError(
        f"{cls.__name__}.__init__ ({place(cls)}) does not call super().__init__(image, **options), which must come "
        "before all else"
    )


def preferred_range(name: str, options: dict[str, Any]) -> tuple[float, float]:
    """Return the image range that a model would choose: its activation's, or its likelihood's, or else its net's."""
    defaults = {option: parameter.default for option, parameter in model_options(name, options).items()} | options
    if str(defaults.get("out_activation")) in ACTIVATION_RANGE:
        return ACTIVATION_RANGE[defaults["out_activation"]]
    if defaults.get("recon") == "bce" or "net" not in defaults:
        return UNIT
    return NETS.lookup(defaults["net"]).defaults.get("range", UNIT)
