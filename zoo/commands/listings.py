"""Commands that say what there is."""

from __future__ import annotations

import argparse
import ast
import os
import textwrap
from pathlib import Path

from zoo.errors import UserError, crash

VARIANTS_FOLDER = Path(__file__).parents[1] / "variants"


def run_list(arguments: argparse.Namespace) -> int:
    """Print every variant: its name and one line. Reads the files without importing them, and so without torch."""
    rows = [row for file in sorted(VARIANTS_FOLDER.glob("*.py")) for row in registered_names(file)]
    for plugin in arguments.plugin:
        rows += registered_names(plugin_file(plugin))
    width = max(len(name) for name, _ in rows)
    for name, about in sorted(rows):
        print(f"{name:<{width}}  {about}")
    return 0


def registered_names(file: Path) -> list[tuple[str, str]]:
    """Return (name, line about it) for each `@register("name", …)` in a Python file."""
    from zoo.files import read_text

    text = read_text(file)
    try:
        tree = ast.parse(text, str(file))
    except (SyntaxError, ValueError) as error:  # the second of a zero byte, before Python 3.12
        raise crash(f"plugin {str(file)!r}", error) from error
    title = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    rows = []
    for node in ast.walk(tree):
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "register" and call.args:
                words = [str(arg.value) for arg in call.args if isinstance(arg, ast.Constant)]
                if isinstance(call.args[0], ast.Constant):  # a name that is computed can't be read off
                    rows.append((words[0], f"{title} Here: {words[1]}" if len(words) > 1 else title))
    return rows


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
    return 0
