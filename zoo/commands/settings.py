"""What a config comes to, and what its keys mean."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from zoo.commands.listings import find_rows
from zoo.errors import UserError
from zoo.registry import did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

    from zoo.config import Config

WIDTH = 100
# Keys whose values are names: what lists them.
NAMES = {"model.name": "variants", "data.name": "datasets", "benchmark.metrics": "metrics", "model.net": "nets"}
NAMES |= {"benchmark.samplers": "samplers"}


class Meaning(NamedTuple):
    """What a key of a config is: what it does, which values it takes, which it has where it is not set."""

    about: str
    values: str
    default: str


def run_config(arguments: argparse.Namespace) -> int:
    """Print a config as a run would have it, every default written out; or what one of its keys means."""
    import yaml

    from zoo.config import flatten, load_config

    config = load_config(arguments.config, arguments.overrides)
    if arguments.explain is None:
        print(yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True), end="")
        return 0
    key, known = arguments.explain, meanings(config)
    within = [each for each in known if each.startswith(f"{key}.")]
    if key in known:
        meaning, found = known[key], flatten(config.dump())
        print(textwrap.fill(f"{key}: {meaning.about}", WIDTH, subsequent_indent="  "))
        print(textwrap.fill(f"  values   {meaning.values}", WIDTH, subsequent_indent=" " * 11))
        print(f"  default  {meaning.default}")
        print(f"  here     {_written(found[key]) if key in found else 'not set'}")
    elif within:
        print(f"{key} has the keys")
        for each in within:
            print(f"  {textwrap.shorten(f'{each}: {known[each].about}', WIDTH, placeholder=' …')}")
    else:
        section, dot, _ = key.rpartition(".")
        near = [each for each in known if each.startswith(section + dot)] or list(known)
        raise UserError(f"no config has a key {key!r}.{did_you_mean(key, near)}")
    return 0


def meanings(config: Config) -> dict[str, Meaning]:
    """Return every key that a config may have, with the options of its variant, net and data set."""
    from zoo.base import VARIANTS
    from zoo.config import Config, PlayerOptimizer
    from zoo.data import DATASETS
    from zoo.documentation import definitions, options_of
    from zoo.options import signature_options, type_name

    known = dict(_fields(Config, ""))
    for player in VARIANTS.lookup(config.model.name).target.players:
        known |= dict(_fields(PlayerOptimizer, f"optimizer.{player}."))
    for option in options_of(config.model.name, config.model.options):
        known[f"model.{option.name}"] = Meaning(option.about, option.kind, option.default)
    target = DATASETS.lookup(config.data.name).target
    prose = " ".join((inspect.getdoc(target) or "").split())
    about = definitions((inspect.getdoc(target) or "").partition("Args:\n")[2])
    for name, parameter in signature_options(target).items():
        default = "required" if parameter.default is parameter.empty else _written(parameter.default)
        said = [sentence for sentence in re.split(r"(?<=[.]) ", prose) if f"`{name}`" in sentence]
        meaning = about.get(name, " ".join(said) or prose)
        known[f"data.{name}"] = Meaning(meaning, type_name(parameter.annotation), default)
    for key, kind in NAMES.items():
        if key in known:
            names = ", ".join(sorted(row.name for row in find_rows(kind)))
            known[key] = known[key]._replace(values=f"{known[key].values}: {names}")
    return known


def _fields(schema: type[BaseModel], prefix: str) -> Iterator[tuple[str, Meaning]]:
    """Yield key and meaning of a schema's fields, and of those within them."""
    from pydantic import BaseModel

    from zoo.options import type_name

    comments, hints = _comments(schema), get_type_hints(schema, include_extras=True)
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else _written(field.default)
        yield f"{prefix}{name}", Meaning(comments.get(name, ""), type_name(hints[name]), default)


def _comments(schema: type[BaseModel]) -> dict[str, str]:
    """Return what is written of each field, behind it or above it."""
    comments: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(schema).splitlines():
        if line.strip().startswith("# "):
            above.append(line.strip().removeprefix("# "))
            continue
        code, _, comment = line.partition("  # ")
        name = code.strip().partition(":")[0]
        if name in schema.model_fields and code.startswith("    ") and not code.startswith("     "):
            comments[name] = " ".join([*above, *([comment] if comment else [])])
        above = []
    return comments


def _written(value: Any) -> str:
    """Write a value as a config has it, on one line."""
    return json.dumps(value, default=str, ensure_ascii=False)
