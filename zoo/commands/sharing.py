"""Commands that hand a trained run on: to other programs, and to other people."""

from __future__ import annotations

import argparse

from zoo.texts import printable


def run_push(arguments: argparse.Namespace) -> int:
    """Share a finished run on Hugging Face's hub."""
    from zoo.hub import push_to_hub

    where = push_to_hub(arguments.run, arguments.name, private=arguments.private, license=arguments.license)
    print(f"{where}: zoo.load, and every command on a run, take it by that name")
    if arguments.license is None:
        print("no licence is stated for the weights: --license mit, say, does")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Write a trained model's parts in a format that other programs read."""
    import json

    from zoo.exporting import LISTING, export

    export(arguments.run, arguments.out, arguments.format, arguments.plugin, arguments.trust_plugins)
    listing = json.loads((arguments.out / LISTING).read_text(encoding="utf-8"))
    for part in listing["parts"].values():
        takes, gives = (", ".join(f"{name} {shape}" for name, shape in part[way].items()) for way in ("takes", "gives"))
        print(f"{printable(arguments.out / part['file'])}: {takes} -> {gives}")
    for name, why in listing["not_exported"].items():
        print(f"no {name}: {why}")
    most = max((part["differs_by"] for part in listing["parts"].values()), default=0.0)
    print(f"images are in [0, 1], noise is N(0, 1); run once more, they differ from the model by {most:.1e} at most")
    return 0
