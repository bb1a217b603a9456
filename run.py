"""The command line of a checkout: `python run.py --help`, or `accelerate launch run.py --config vanilla_celeba`."""

from zoo.__main__ import main

if __name__ == "__main__":
    main()
