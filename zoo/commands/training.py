"""Commands that train."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.files import CONFIG_FILE, HISTORY_FILE, MODEL_FILE, PLUGINS_FOLDER

if TYPE_CHECKING:
    from zoo.config import Config


def run_train(arguments: argparse.Namespace) -> int:
    """Train, evaluate, draw; exit code 0, or 128 + the signal that stopped it."""
    from zoo.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    untrusted = _of_a_run(config, arguments)
    # The run must be found again from any folder; paths in a config file are absolute already. A file takes the place
    # of one of the same name, which may have moved.
    given = {Path(plugin).name for plugin in arguments.plugin if plugin.endswith(".py")}
    named = [plugin for plugin in config.plugins if Path(plugin).name not in given] + arguments.plugin
    config.plugins = [str(Path(p).resolve()) if p.endswith(".py") else p for p in named]
    if config.data.root is not None:
        config.data.root = config.data.root.expanduser().resolve()
    from zoo.engine.checkpoint import telling_of_plugins
    from zoo.engine.launch import take_up_launch
    from zoo.runs import train

    take_up_launch(config)
    with telling_of_plugins(untrusted):
        stopped_by = train(
            config, arguments.resume, arguments.dry_run, arguments.overwrite, accept_data=arguments.accept_data
        )
    return 128 + stopped_by if stopped_by else 0


def _of_a_run(config: Config, arguments: argparse.Namespace) -> dict[str, str]:
    """Keep to what the config of a run's own folder may say, which somebody may have handed over.

    The run is where its config lies, wherever that says it was made; of its plugins, only the copies are loaded, and
    these only if the user says so.

    Returns:
        The names of the plugins that are not loaded.
    """
    folder = arguments.config.parent
    if arguments.config.name != CONFIG_FILE or not any((folder / name).exists() for name in (HISTORY_FILE, MODEL_FILE)):
        return {}
    if not any(word.startswith("out=") for word in arguments.overrides):
        config.out = folder
    named = [Path(plugin).name if plugin.endswith(".py") else plugin for plugin in config.plugins]
    if arguments.trust_plugins:
        config.plugins = [str(folder / PLUGINS_FOLDER / name) if name.endswith(".py") else name for name in named]
        return {}
    config.plugins = []
    given = {Path(plugin).name for plugin in arguments.plugin}
    return {name: "" for name in named if name not in given}


def run_suite(arguments: argparse.Namespace) -> int:
    """Train and score a grid of runs."""
    from zoo.reports.suite import run

    return run(arguments.suite, arguments.shard)
