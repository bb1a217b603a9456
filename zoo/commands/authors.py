"""What the command line does for authors of variants."""

from __future__ import annotations

import argparse
import re
import textwrap
from dataclasses import replace
from pathlib import Path

from zoo.commands.listings import plugin_file, registered_names
from zoo.errors import UserError


def run_check(arguments: argparse.Namespace) -> int:
    """Run every check on a plugin's variants, or on one of the zoo's; exit code 1 if any fails."""
    from zoo.base import VARIANTS
    from zoo.config import apply_overrides
    from zoo.mutants import plant
    from zoo.registry import load_plugin
    from zoo.testing import default_image, verdicts

    names = [arguments.plugin]
    if arguments.plugin in VARIANTS:
        file = Path(VARIANTS.lookup(arguments.plugin).file)
    else:
        load_plugin(arguments.plugin)
        file = plugin_file(arguments.plugin)
        names = [name for name, _ in registered_names(file)]
        if not names:
            raise UserError(f'{arguments.plugin} registers no variant: write @register("name") above its class')
    options = apply_overrides({}, arguments.overrides)
    if arguments.mutate:
        return 0 if plant(file, names, options, arguments.tests) else 1
    failed = 0
    for name in names:
        image = default_image(name, options)
        if arguments.image is not None:
            channels, height, width = _shape(arguments.image)
            image = replace(image, channels=channels, height=height, width=width)
        print(f"{name}, on images of {' x '.join(map(str, image.shape))}:")
        for verdict in verdicts(name, image, **options):
            print(f"  {'n/a  ' if verdict.fault is None else 'FAILS' if verdict.fault else 'ok   '}", end="  ")
            print(verdict.stands_for, flush=True)
            if verdict.fault:
                print(textwrap.fill(verdict.fault, 100, initial_indent=" " * 9, subsequent_indent=" " * 9))
                failed += 1
    print(f"{failed} check{'s' if failed != 1 else ''} failed" if failed else "all checks passed")
    return 1 if failed else 0


def _shape(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){2}", text):
        raise UserError(f"--image is {text!r}, and must be channels, height and width, such as 1x28x28")
    return [int(side) for side in text.split("x")]
