"""The command that shows a trained run in the browser."""

from __future__ import annotations

import argparse

from zoo.errors import UserError


def run_explore(arguments: argparse.Namespace) -> int:
    """Serve the page to this machine until it is interrupted."""
    from zoo.explore import Explorer, page

    blocks = page(Explorer(arguments.run, arguments.plugin, arguments.trust_plugins))
    try:
        blocks.launch(server_name="127.0.0.1", server_port=arguments.port, share=False)
    except OSError as error:
        raise UserError(f"--port {arguments.port} can't be used ({error}): choose another") from None
    return 0
