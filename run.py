"""The command line: train (the default), evaluate, sample, list, describe."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from zoo.errors import Diverged, UserError

COMMANDS = ("train", "evaluate", "sample", "list", "describe")
EPILOG = """examples:
  python run.py --config configs/mlp_mnist.yaml                     train on MNIST, then evaluate
  accelerate launch run.py --config configs/vanilla_celeba.yaml     the same on every GPU there is
  python run.py --config configs/mlp_mnist.yaml epochs=1 lr=3e-4 model.latent_dim=8
  python run.py --config configs/mlp_mnist.yaml --resume            go on after an interruption
  python run.py evaluate runs/mlp_mnist_z20_s28_1
  python run.py sample runs/mlp_mnist_z20_s28_1 --n 64 --out samples.png
  python run.py list                                                all variants
  python run.py describe beta                                       equation, options, departures from the paper
"""


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="run.py",
        description="Train and compare variational autoencoders.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="{" + ",".join(COMMANDS) + "}")

    train = commands.add_parser("train", help="train a variant, then evaluate it (the default command)")
    train.add_argument("--config", required=True, type=Path, help="YAML file, such as configs/mlp_mnist.yaml")
    train.add_argument("--plugin", action="append", default=[], help="file or module with variants of your own")
    train.add_argument("--resume", action="store_true", help="go on from the run's newest checkpoint")
    train.add_argument("--dry-run", action="store_true", help="build everything, take two steps, write nothing")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="settings laid over the config: data.size=64")

    evaluate = commands.add_parser("evaluate", help="measure a trained run again, and draw its pictures")
    evaluate.add_argument("run", type=Path, help="the run's folder")
    evaluate.add_argument("--inception-weights", type=Path, help="weight file of the 2015 Inception, for FID and KID")
    evaluate.add_argument("--again", action="store_true", help="compute benchmarks anew that are there already")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help="such as benchmark.metrics=[fid,ssim]")

    sample = commands.add_parser("sample", help="draw images from a trained run")
    sample.add_argument("run", type=Path, help="the run's folder, or a model.safetensors")
    sample.add_argument("--n", type=int, default=64, help="how many (default 64)")
    sample.add_argument("--out", type=Path, default=Path("samples.png"), help="the picture (default samples.png)")
    sample.add_argument("--label", type=int, help="class to draw, for conditional variants; default: all in turn")
    sample.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")

    listing = commands.add_parser("list", help="all variants, one line each")
    listing.add_argument("--plugin", action="append", default=[], help="file or module with variants of your own")

    describe = commands.add_parser("describe", help="a variant's equation, options and departures from its paper")
    describe.add_argument("name")
    describe.add_argument("--plugin", action="append", default=[], help="file or module with variants of your own")
    return top


def main(argv: list[str]) -> int:
    """Run one command and return its exit code: 2 for a user's mistake, 1 for a diverged run, each in one sentence."""
    # `run.py --config …` trains: the command may be left out.
    if argv and argv[0] not in COMMANDS and argv[0] not in ("-h", "--help"):
        argv = ["train", *argv]
    arguments = parser().parse_args(argv)
    if arguments.command is None:
        parser().print_help()
        return 0
    from zoo import commands  # imported only now: --help answers at once

    try:
        return getattr(commands, f"run_{arguments.command}")(arguments)
    except (UserError, Diverged) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
