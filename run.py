"""The command line: `python run.py --help`, or `accelerate launch run.py --config configs/vanilla_celeba.yaml`."""

import sys

from zoo.commands import main

if __name__ == "__main__":
    sys.exit(main())
