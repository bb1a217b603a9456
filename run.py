"""The command line: `python run.py --help`, or `accelerate launch run.py --config configs/vanilla_celeba.yaml`."""

import sys

from zoo.interruption import Interruption

if __name__ == "__main__":
    with Interruption():
        from zoo.commands import main

        sys.exit(main())
