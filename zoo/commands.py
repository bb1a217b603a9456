"""What each command of `run.py` does. Modules that need torch are imported by the commands that need them."""

from __future__ import annotations

import argparse
import ast
import textwrap
from pathlib import Path

from zoo.errors import UserError

VARIANTS_FOLDER = Path(__file__).parent / "variants"


def run_train(arguments: argparse.Namespace) -> int:
    """Train, evaluate, draw; exit code 0, or 128 + the signal that stopped it."""
    from zoo.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    # The run must be found again from any folder; paths in a config file are absolute already.
    named = [*config.plugins, *arguments.plugin]
    config.plugins = [str(Path(p).resolve()) if p.endswith(".py") else p for p in named]
    from zoo.runs import train

    stopped_by = train(config, arguments.resume, arguments.dry_run)
    return 128 + stopped_by if stopped_by else 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Measure a trained run again and draw its pictures."""
    from zoo.runs import evaluate_run

    overrides = arguments.overrides
    if arguments.inception_weights is not None:
        overrides = [*overrides, f"benchmark.inception_weights={arguments.inception_weights.resolve()}"]
    evaluate_run(arguments.run, overrides, arguments.again)
    return 0


def run_sample(arguments: argparse.Namespace) -> int:
    """Write a grid of images drawn from a trained model."""
    import torch

    from zoo.engine.checkpoint import load
    from zoo.pictures import of_models as pictures

    if arguments.n < 1:
        raise UserError(f"--n is {arguments.n}: draw at least one image")
    model = load(arguments.run)
    y = None
    classes = model.image.classes if model.needs_labels else 0
    if arguments.label is not None and not 0 <= arguments.label < classes:
        allowed = f"choose 0 to {classes - 1}" if classes else "this model takes no class labels"
        raise UserError(f"--label is {arguments.label}: {allowed}")
    if classes:
        y = torch.arange(arguments.n) % classes
        if arguments.label is not None:
            y = torch.full((arguments.n,), arguments.label)
    elif model.needs_labels:
        raise UserError(
            "this model is conditioned on attributes, which the command line can't give: use model.sample(n, y)"
        )
    with torch.no_grad():
        images = model.sample(arguments.n, y, torch.Generator().manual_seed(arguments.seed))
    columns = classes if classes and arguments.label is None else min(8, arguments.n)
    pictures.save_grid(pictures.to_unit(images, model.image.range), arguments.out, columns)
    print(f"{arguments.n} images in {arguments.out}")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Print every variant: its name and one line. Reads the files without importing them, and so without torch."""
    rows = [row for file in sorted(VARIANTS_FOLDER.glob("*.py")) for row in registered_names(file)]
    for plugin in arguments.plugin:
        rows += registered_names(_plugin_file(plugin))
    width = max(len(name) for name, _ in rows)
    for name, about in sorted(rows):
        print(f"{name:<{width}}  {about}")
    return 0


def registered_names(file: Path) -> list[tuple[str, str]]:
    """Return (name, line about it) for each `@register("name", …)` in a Python file."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    title = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    rows = []
    for node in ast.walk(tree):
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "register" and call.args:
                words = [str(arg.value) for arg in call.args if isinstance(arg, ast.Constant)]
                if isinstance(call.args[0], ast.Constant):  # a name that is computed can't be read off
                    rows.append((words[0], f"{title} Here: {words[1]}" if len(words) > 1 else title))
    return rows


def _plugin_file(plugin: str) -> Path:
    from importlib.util import find_spec

    if plugin.endswith(".py"):
        return Path(plugin)
    spec = find_spec(plugin)
    if spec is None or spec.origin is None:
        raise UserError(f"plugin {plugin!r}: no such module; a file's name would end in .py")
    return Path(spec.origin)


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
