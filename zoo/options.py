"""Options of variants, nets and data sets: the function's own signature is the schema they are checked against."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from zoo.errors import PluginError, UserError, place
from zoo.registry import constructors, did_you_mean
from zoo.values import shown, unfit


def signature_options(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of a function, or of a class and, where it takes `**kwargs`, of its parents.

    Those that a class names in `settled` are left out: it gives them to its parents itself.

    Annotations come resolved, so that `"PositiveInt"` reads as the type it names.

    Raises:
        PluginError: if an annotation can't be resolved, or `settled` is no tuple of options.
    """
    options: dict[str, inspect.Parameter] = {}
    for function, parameters in constructors(target):
        try:
            hints = get_type_hints(function, include_extras=True)
        except NameError as error:
            raise PluginError(
                f"an annotation of {function.__qualname__} names {error.name!r}, which is not known there "
                f"({place(function)})"
            ) from error
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY:
                hint = hints.get(parameter.name, Any)
                options.setdefault(parameter.name, parameter.replace(annotation=hint))
    settled = getattr(target, "settled", ())
    if isinstance(settled, str):
        raise PluginError(
            f"{target.__name__}.settled is {settled!r}, not a tuple: write ({settled!r},) ({place(target)})"
        )
    for name in settled:
        if name not in options:
            raise PluginError(
                f"{target.__name__}.settled names {name!r}, which is no option of it ({place(target)})."
                f"{did_you_mean(name, options)}"
            )
    return {name: option for name, option in options.items() if name not in settled}


def check_options(owner: str, known: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given`, each value checked and converted by the annotation of the parameter it is for.

    Args:
        owner: Whose options they are, for messages: "model 'beta'".
        known: From `signature_options`.
        given: From a config or a caller.

    Raises:
        UserError: if an option is unknown, missing, or does not fit its type.
    """
    checked = {}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{owner} has no option {name!r}.{did_you_mean(name, known)}")
        if fault := unfit(value, name):
            raise UserError(f"{owner}: {fault}")
        try:
            adapter = TypeAdapter(
                known[name].annotation, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
            )
            checked[name] = adapter.validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UserError(f"{owner}: {name} is {shown(value)}: {message[0].lower()}{message[1:]}") from None
    missing = [n for n, p in known.items() if p.default is p.empty and n not in given]
    if missing:
        raise UserError(f"{owner} needs the option {missing[0]!r}")
    return checked


def type_name(annotation: Any) -> str:
    """Write an annotation the way a user would say it: `"mse" | "bce"`, `int > 0`, `list of int > 0`."""
    if metadata := getattr(annotation, "__metadata__", None):
        limits = [limit for meta in metadata for limit in getattr(meta, "metadata", [meta])]
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        bounds = [f"{s} {getattr(limit, n)}" for limit in limits for n, s in signs.items() if hasattr(limit, n)]
        return " ".join([type_name(get_args(annotation)[0]), ", ".join(bounds)]).strip()
    if get_origin(annotation) is Literal:
        return " | ".join(repr(value) for value in get_args(annotation))
    if get_origin(annotation) is list:
        return f"list of {type_name(get_args(annotation)[0])}"
    if get_origin(annotation) in (tuple, dict):
        return f"{get_origin(annotation).__name__}[{', '.join(map(type_name, get_args(annotation)))}]"
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join("None" if part is NoneType else type_name(part) for part in get_args(annotation))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).removeprefix("typing.")
