"""`vae-zoo`, and `python -m zoo`: the command line, as `python run.py` in a checkout."""

import sys
from typing import NoReturn

from zoo.interruption import Interruption


def main() -> NoReturn:
    """Run one command, Ctrl-C heeded from the first line on."""
    with Interruption():
        from zoo.commands import main as run

        sys.exit(run())


if __name__ == "__main__":
    main()
