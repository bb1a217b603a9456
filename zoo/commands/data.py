"""Commands about images and configs."""

from __future__ import annotations

import argparse


def run_data(arguments: argparse.Namespace) -> int:
    """Say what a run would see of its data, and write a sheet of pictures."""
    from zoo.config import load_config
    from zoo.reports.data import show

    print(show(load_config(arguments.config, arguments.overrides), arguments.out))
    return 0


def run_configs(arguments: argparse.Namespace) -> int:
    """List the configs that come with the zoo, or copy them."""
    from zoo.reports.configs import copy, show

    print("\n".join(map(str, copy(arguments.names, arguments.copy))) if arguments.copy else show())
    return 0


def run_cache(arguments: argparse.Namespace) -> int:
    """List the cache, after removing what is to go."""
    from zoo.reports.cache import show

    print(show(arguments.remove, arguments.keep))
    return 0
