"""Commands that train."""

from __future__ import annotations

import argparse


def run_train(arguments: argparse.Namespace) -> int:
    """Train, evaluate, draw; exit code 0, or 128 + the signal that stopped it."""
    from zoo.config import load_config
    from zoo.engine.checkpoint import telling_of_plugins
    from zoo.engine.launch import take_up_launch
    from zoo.runs import from_anywhere, of_a_run, train

    config = load_config(arguments.config, arguments.overrides)
    keeps_out = any(word.startswith("out=") for word in arguments.overrides)
    untrusted = of_a_run(config, arguments.config, keeps_out, arguments.plugin, arguments.trust_plugins)
    from_anywhere(config, arguments.plugin)
    take_up_launch(config)
    with telling_of_plugins(untrusted):
        stopped_by = train(
            config, arguments.resume, arguments.dry_run, arguments.overwrite, accept_data=arguments.accept_data
        )
    return 128 + stopped_by if stopped_by else 0


def run_suite(arguments: argparse.Namespace) -> int:
    """Train and score a grid of runs."""
    from zoo.reports.suite import run

    return run(arguments.suite, arguments.shard)
