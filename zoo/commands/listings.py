"""Commands that say what there is."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import UserError, crash

ZOO = Path(__file__).parents[1]
VARIANTS_FOLDER = ZOO / "variants"
# What can be listed: where its built-in entries lie, and what they are registered by.
KINDS = {
    "variants": ("variants", "register"),
    "nets": ("nets", "register_net"),
    "datasets": ("data", "register_dataset"),
    "metrics": ("metrics", "register_metric"),
    "samplers": ("metrics", "register_sampler"),
}
# What variants start from, see `zoo.families`; the nearest of a class's parents counts.
FAMILIES = {
    "GaussianVAE": "Gaussian posterior",
    "FlowVAE": "Posterior that a flow bends",
    "LatentVAE": "Posterior of another kind",
    "CodeVAE": "Codes",
    "QuantisedVAE": "Codes",
    "Autoencoder": "Autoencoders without noise",
}
GROUPED = ("variants", "nets", "metrics")  # of the others each file has one


class Row(NamedTuple):
    """One line of a listing.

    Attributes:
        name: What users type.
        about: One line.
        group: What stands above it.
        file: Where it is.
    """

    name: str
    about: str
    group: str
    file: str


def run_list(arguments: argparse.Namespace) -> int:
    """Print every variant: its name and one line. Reads the files without importing them, and so without torch."""
    rows = find_rows("variants", arguments.plugin)
    width = max(len(row.name) for row in rows)
    for row in sorted(rows):
        print(f"{row.name:<{width}}  {row.about}")
    return 0


def run_listing(arguments: argparse.Namespace) -> int:
    """Print all variants, nets, data sets, metrics or samplers, or write them as JSON. Imports none of them."""
    rows = find_rows(arguments.command, arguments.plugin)
    if arguments.json:
        print(json.dumps([row._asdict() for row in sorted(rows)], indent=1, ensure_ascii=False))
        return 0
    width = max(len(row.name) for row in rows)
    columns = max(shutil.get_terminal_size((120, 0)).columns, width + 30)
    order = [*FAMILIES.values(), *(row.group for row in rows)]
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (order.index(row.group), row.name)):
        groups.setdefault(row.group if arguments.command in GROUPED else "", []).append(row)
    for number, (group, members) in enumerate(groups.items()):
        if group:
            print(("\n" if number else "") + textwrap.fill(group, columns))
        for row in members:
            head = f"  {row.name:<{width}}  "
            print(textwrap.fill(row.about, columns, initial_indent=head, subsequent_indent=" " * len(head)))
    return 0


def run_completion(arguments: argparse.Namespace) -> int:
    """Print what completes commands, options and files in a shell."""
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs the package shtab: pip install shtab") from None
    from zoo.commands.parser import parser
    from zoo.interruption import COMMAND

    top, commands = parser()
    top.prog = COMMAND  # the one word that a shell completes
    for command in (top, *commands.values()):
        for action in command._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(top, arguments.shell))
    return 0


def find_rows(kind: str, plugins: Sequence[str] = ()) -> list[Row]:
    """Return what there is of a kind, the zoo's own and that of plugins; their files are read, and not imported.

    Args:
        kind: One of `KINDS`.
        plugins: Files, or modules by their names.
    """
    folder, decorator = KINDS[kind]
    files = [*sorted((ZOO / folder).glob("*.py")), *(plugin_file(plugin) for plugin in plugins)]
    trees = {file: _parsed(file) for file in files}
    bases = {
        node.name: [ast.unparse(base).split(".")[-1] for base in node.bases]
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    rows = []
    for file, tree in trees.items():
        title = _title(tree)
        for name, about, owner in _registered(tree, decorator):
            if kind == "variants":
                group, line = _family(owner, bases), (f"{title} Here: {about}" if about else title)
            else:
                group, line = re.split(r"[:.](?:\s|$)", title)[0], about
            rows.append(Row(name, line, group, str(file)))
    return rows


def registered_names(file: Path) -> list[tuple[str, str]]:
    """Return (name, line about it) for each `@register("name", …)` in a Python file."""
    tree = _parsed(file)
    title = _title(tree)
    return [(name, f"{title} Here: {about}" if about else title) for name, about, _ in _registered(tree, "register")]


def _parsed(file: Path) -> ast.Module:
    from zoo.files import read_text

    try:
        return ast.parse(read_text(file), str(file))
    except (SyntaxError, ValueError) as error:  # the second of a zero byte, before Python 3.12
        raise crash(f"plugin {str(file)!r}", error) from error


def _title(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")


def _registered(tree: ast.Module, decorator: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, line about it, and class or function, of all that is registered by a decorator."""
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == decorator and call.args:
                words = [_text(argument, constants) for argument in call.args]
                if words[0]:  # a name that is computed can't be read off
                    yield words[0], words[1] if len(words) > 1 else "", getattr(node, "name", "")


def _text(node: ast.expr, constants: Mapping[str, Any]) -> str:
    """Return what an expression says where that can be read off: a text, or one with the module's numbers in it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, constants) for part in node.values)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return str(constants.get(node.value.id, ""))
    return ""


def _family(owner: str, bases: Mapping[str, Sequence[str]]) -> str:
    seen, parents = {owner}, list(bases.get(owner, ()))
    while parents:
        parent = parents.pop(0)
        if parent in FAMILIES:
            return FAMILIES[parent]
        if parent not in seen:
            seen.add(parent)
            parents += bases.get(parent, ())
    return "From scratch"


def plugin_file(plugin: str) -> Path:
    """Return the file that a plugin is, by its path or its module's name.

    Raises:
        UserError: if there is none.
    """
    from zoo.registry import find_module

    if plugin.endswith(".py"):
        if not os.path.isfile(plugin):
            raise UserError(f"plugin {plugin!r}: there is no file {Path(plugin).absolute()}")
        return Path(plugin)
    try:
        found = find_module(plugin)
    except UserError:
        raise
    except Exception as error:  # the packages that it lies in are imported, and may raise anything
        raise crash(f"plugin {plugin!r}", error) from error
    if found.origin is None:
        raise UserError(f"plugin {plugin!r} is a folder without code; a file's name would end in .py")
    return Path(found.origin)


def run_describe(arguments: argparse.Namespace) -> int:
    """Print a variant's paper, equation, departures, options and logged terms."""
    from zoo.base import PARTS
    from zoo.documentation import document
    from zoo.registry import load_plugin

    for plugin in arguments.plugin:
        load_plugin(plugin)
    page = document(arguments.name)
    print(f"{page.name}" + (f": {page.about}" if page.about else ""), page.title, sep="\n\n", end="\n\n")
    print(page.body, end="\n\n")
    if page.departures:
        print(f"Departs from the paper: {page.departures}", end="\n\n")
    print("Options (model: {name: " + page.name + ", …}) = defaults:")
    for option in page.options:
        print(f"  {option.name} = {option.default}  ({option.kind})")
        print(textwrap.fill(option.about, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))
    print("\nLogged terms:")
    for term, meaning in page.terms.items():
        print(textwrap.fill(f"{term}: {meaning}", 100, initial_indent="  ", subsequent_indent=" " * 6))
    exported = [part for part in PARTS if part not in page.not_exported]
    print(f"\nExported (`export RUN`): {', '.join(exported) or 'nothing'}")
    for part, why in page.not_exported.items():
        print(textwrap.fill(f"no {part}: {why}", 100, initial_indent="  ", subsequent_indent=" " * 6))
    return 0
