"""What every command takes."""

from __future__ import annotations

import argparse
import difflib
import re
from pathlib import Path
from typing import NoReturn

import zoo
from zoo.commands.listings import KINDS
from zoo.errors import UserError
from zoo.registry import did_you_mean

EPILOG = """examples:
  python run.py --config configs/mlp_mnist.yaml                     train on MNIST, then evaluate
  accelerate launch run.py --config configs/vanilla_celeba.yaml     the same on every GPU there is
  python run.py --config configs/mlp_mnist.yaml epochs=1 lr=3e-4 model.latent_dim=8
  python run.py --config configs/mlp_mnist.yaml --resume            go on after an interruption
  python run.py evaluate runs/mlp_mnist_z20_s28_1
  python run.py sample runs/mlp_mnist_z20_s28_1 --n 64 --out samples.png
  python run.py reconstruct runs/mlp_mnist_z20_s28_1 photos --out recon   pictures of your own; also encode, score
  python run.py export runs/mlp_mnist_z20_s28_1 --format onnx       encoder, decoder and sampler for other programs
  python run.py data configs/vanilla_image_folder.yaml data.root=photos   what a run would see
  python run.py list                                                all variants
  python run.py describe beta                                       equation, options, departures from the paper
  python run.py check my_vae.py                                     try a variant of your own
  python run.py suite configs/suites/mnist.yaml                     a grid of variants, data sets and seeds
  python run.py leaderboard runs --out leaderboard                  compare all finished runs
  python run.py compare runs/zoo/vamp_mnist_0 runs/zoo/mlp_mnist_0  in what two configs differ, and how sure that is
  python run.py reference runs/mlp_mnist_z20_s28_1                  hold a run against published numbers
  python run.py papers                                              published rows, and what became of them here
  python run.py cache --keep 2G                                     list decoded images, and make room
"""
SETTING = re.compile(r"[A-Za-z_][\w.]*=")


class Parser(argparse.ArgumentParser):
    """One that answers a mistake in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, which option is near, and where all are told; exit code 2."""
        known = [option for action in self._actions for option in action.option_strings]
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = difflib.get_close_matches(unknown[1], known, n=1) if unknown else []
        hint = f"did you mean {near[0]!r}? " if near else ""
        self.exit(2, f"error: {message} ({hint}{self.prog} --help)\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line: the command may be left out where it is `train`; options and settings stand anywhere.

    Raises:
        SystemExit: once help is printed, or what is wrong with the words.
        UserError: if there is no such command; says which one is near.
    """
    first = argv[0] if argv else "--help"
    top, commands = parser(zoo.__version__ if first == "--version" else "")  # which takes its time
    if first in ("-h", "--help", "--version"):
        return top.parse_args([first])
    if first.startswith("-") or "=" in first:
        first, argv = "train", ["train", *argv]
    if first not in commands:
        raise UserError(f"no command named {first!r}.{did_you_mean(first, commands)}")
    arguments = commands[first].parse_intermixed_args(argv[1:])
    arguments.command = first
    if getattr(arguments, "overrides", None):
        _put_settings_last(commands[first], arguments)
    return arguments


def _put_settings_last(command: Parser, arguments: argparse.Namespace) -> None:
    """Let what a command is about, as a run's folder, stand behind its settings."""
    about = [a.dest for a in command._actions if not a.option_strings and a.dest != "overrides"]
    if len(about) == 1 and (first := getattr(arguments, about[0])) is not None:
        words = sorted([str(first), *arguments.overrides], key=lambda word: bool(SETTING.match(word)))
        setattr(arguments, about[0], type(first)(words[0]))
        arguments.overrides = words[1:]


def parser(version: str = "") -> tuple[argparse.ArgumentParser, dict[str, Parser]]:
    """Build the parser of all commands, and return it with each command's own, by name."""
    top = Parser(
        prog="run.py",
        description="Train and compare variational autoencoders.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vae-zoo {version}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)

    train = commands.add_parser("train", help="train a variant, then evaluate it (the default command)")
    train.add_argument("--config", required=True, type=Path, help="YAML file, such as configs/mlp_mnist.yaml")
    _add_plugins(train)
    train.add_argument("--resume", action="store_true", help="go on from the run's newest checkpoint")
    train.add_argument("--overwrite", action="store_true", help="remove the run that lies in the folder")
    train.add_argument("--accept-data", action="store_true", help="go on though the data has changed since")
    train.add_argument("--dry-run", action="store_true", help="build everything, take two steps, write nothing")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="settings laid over the config: data.size=64")

    evaluate = commands.add_parser("evaluate", help="measure what a trained run lacks, and draw its pictures")
    evaluate.add_argument("run", type=Path, help="the run's folder")
    evaluate.add_argument("--inception-weights", type=Path, help="weight file of the 2015 Inception, for FID and KID")
    _add_plugins(evaluate)
    evaluate.add_argument("--checkpoint", choices=["best", "last"], help="which weights (the run's own: evaluate_on)")
    evaluate.add_argument("--again", action="store_true", help="compute metrics anew that are there already")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help="such as benchmark.metrics=[fid,ssim]")

    sample = commands.add_parser("sample", help="draw images from a trained run")
    _add_trained(sample)
    sample.add_argument("--n", type=int, default=64, help="how many (default 64)")
    sample.add_argument("--out", type=Path, help="a picture, .npz, or with --each a folder (default samples.png)")
    sample.add_argument("--each", action="store_true", help="write single files, not a sheet of all")
    sample.add_argument("--sampler", default="prior", help="what is drawn from: prior, gmm10, …, see `samplers`")

    reconstruct = commands.add_parser("reconstruct", help="encode and decode pictures of your own")
    _add_trained(reconstruct, pictures=True)
    reconstruct.add_argument(
        "--out", type=Path, default=Path("reconstructions"), help="a folder, a picture of pairs, or .npz"
    )

    encode = commands.add_parser("encode", help="write the latents of pictures of your own")
    _add_trained(encode, pictures=True)
    encode.add_argument(
        "--out", type=Path, default=Path("latents.npz"), help=".npz, .parquet or .safetensors (default latents.npz)"
    )

    interpolate = commands.add_parser("interpolate", help="what lies between two pictures of your own, or more")
    _add_trained(interpolate, pictures=True)
    interpolate.add_argument("--steps", type=int, default=16, help="from one to the next, both included (default 16)")
    interpolate.add_argument(
        "--out", type=Path, default=Path("interpolation.gif"), help=".gif or .webp, a picture, .npz, or a folder"
    )

    score = commands.add_parser("score", help="how well a run knows pictures of your own: the oddest first")
    _add_trained(score, pictures=True)
    score.add_argument("--out", type=Path, help="all of them, as .csv or .json")

    gallery = commands.add_parser("gallery", help="runs beside each other: reconstructions of test images, and samples")
    gallery.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of trained runs, in this order")
    gallery.add_argument("--out", type=Path, default=Path("gallery.webp"), help="a picture (default gallery.webp)")
    gallery.add_argument("--reconstructions", type=int, default=6, metavar="N", help="to a row (default 6)")
    gallery.add_argument("--samples", type=int, default=9, metavar="N", help="to a row (default 9)")
    gallery.add_argument("--sampler", default="prior", help="what is drawn from: prior, gmm10, …, see `samplers`")
    allowed = "show the test images themselves, of this data set: whether its terms allow that is yours to know"
    gallery.add_argument("--originals", action="append", default=[], metavar="DATA", help=allowed)
    gallery.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    _add_plugins(gallery)

    explore = commands.add_parser("explore", help="a page in the browser: what latent dimensions do, samples, a map")
    explore.add_argument("run", type=Path, help="the run's folder")
    explore.add_argument("--port", type=int, help="of this machine alone (default: the first free one from 7860)")
    _add_plugins(explore)

    export = commands.add_parser("export", help="encoder, decoder and sampler as ONNX, or as torch.export has them")
    export.add_argument("run", type=Path, help="the run's folder, a model.safetensors, or hf://user/name")
    export.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="(default onnx)")
    export.add_argument("--out", type=Path, default=Path("exported"), help="folder to write (default exported)")
    _add_plugins(export)

    push = commands.add_parser("push", help="share a finished run on Hugging Face's hub, as user/name")
    push.add_argument("run", type=Path, help="the run's folder")
    push.add_argument("name", metavar="user/name", help="made if it isn't there; hf://user/name loads it")
    push.add_argument("--private", action="store_true", help="let nobody else see it")
    push.add_argument("--license", help="what the weights may be used for: mit, cc-by-nc-4.0 (none is stated)")

    data = commands.add_parser("data", help="what a run would see: splits, classes, copies, and a sheet of pictures")
    data.add_argument("config", type=Path, help="YAML file, such as configs/vanilla_image_folder.yaml")
    data.add_argument("--out", type=Path, default=Path("data.png"), help="the sheet (default data.png)")
    data.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.root=photos")

    config = commands.add_parser("config", help="a config as a run would have it; or what one of its keys means")
    config.add_argument("config", type=Path, help="YAML file, such as configs/mlp_mnist.yaml")
    config.add_argument("--explain", metavar="KEY", help="what a key is, its values and its default: model.latent_dim")
    config.add_argument("overrides", nargs="*", metavar="key=value", help="settings laid over the config")

    listing = commands.add_parser("list", help="all variants, one line each")
    listing.add_argument("--plugin", action="append", default=[], help="file or module with variants of your own")

    for kind in KINDS:
        of_kind = commands.add_parser(kind, help=f"all {kind}, one line each")
        of_kind.add_argument("--json", action="store_true", help="as a list of name, about, group and file")
        of_kind.add_argument("--plugin", action="append", default=[], help="file or module with some of your own")

    describe = commands.add_parser("describe", help="a variant's equation, options and departures from its paper")
    describe.add_argument("name")
    describe.add_argument("--plugin", action="append", default=[], help="file or module with variants of your own")

    check = commands.add_parser("check", help="try a variant of your own: what it must do, and what it gets wrong")
    check.add_argument("plugin", help="file or module with the variant, such as my_vae.py, or a name of the zoo's")
    check.add_argument("--image", metavar="CxHxW", help="what it is tried on (3x16x16, with labels of five classes)")
    check.add_argument("--mutate", action="store_true", help="plant errors in the file, and tell which are not seen")
    check.add_argument("--tests", type=Path, action="append", default=[], help="your tests, to be tried on the errors")
    check.add_argument("overrides", nargs="*", metavar="key=value", help="options of the variant, such as net=mlp")

    suite = commands.add_parser("suite", help="train and score a grid of runs; run again, it goes on where it ended")
    suite.add_argument("suite", type=Path, help="YAML file, such as configs/suites/quickstart.yaml")
    suite.add_argument("--shard", default="1/1", metavar="i/n", help="only every n-th run, from the i-th: 1/4 to 4/4")

    leaderboard = commands.add_parser(
        "leaderboard", help="compare all finished runs below a folder: HTML, .md, .csv, .tex"
    )
    leaderboard.add_argument("runs", type=Path, help="searched with all its subfolders, such as runs/")
    leaderboard.add_argument("--out", type=Path, default=Path("leaderboard"), help="folder to write (leaderboard)")
    leaderboard.add_argument(
        "--format", action="append", default=[], choices=["svg", "pdf"], help="plots as files, too"
    )

    compare = commands.add_parser("compare", help="say in what two configs differ, with intervals, and what follows")
    compare.add_argument("run_a", type=Path, help="a run's folder; those beside it of the same config are its seeds")
    compare.add_argument("run_b", type=Path, help="another's")

    reference = commands.add_parser("reference", help="hold a run against published numbers of the same protocol")
    reference.add_argument("run", type=Path, help="the run's folder, such as runs/mlp_mnist_z20_s28_1")

    papers = commands.add_parser("papers", help="published rows beside what was obtained; with a name, run that row")
    papers.add_argument("name", nargs="?", help="the row's, such as pythae_vae: a config of configs/papers")
    papers.add_argument("overrides", nargs="*", metavar="key=value", help="of the machine alone, such as threads=1")

    configs = commands.add_parser("configs", help="the configs that come with the zoo: list them, or copy them")
    configs.add_argument("names", nargs="*", help="which to copy, with what they inherit from; none: all")
    configs.add_argument("--copy", type=Path, metavar="FOLDER", help="copy them there, to change them")

    cache = commands.add_parser("cache", help="list the cache of decoded images and features, and make room")
    cache.add_argument("--remove", action="append", default=[], metavar="ENTRY", help="remove one, by its name")
    cache.add_argument("--keep", metavar="SIZE", help="remove what was used longest ago until 2G, say, are left")
    completion = commands.add_parser("completion", help="what completes these words in a shell, to be read by it")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help='in ~/.bashrc: eval "$(… completion bash)"')
    return top, dict(commands.choices)


def _add_trained(command: argparse.ArgumentParser, pictures: bool = False) -> None:
    """Add what a command on a trained run takes, and on pictures."""
    command.add_argument("run", type=Path, help="the run's folder, a model.safetensors, or hf://user/name")
    if pictures:
        command.add_argument("pictures", type=Path, nargs="+", help="files, or folders with their subfolders")
    _add_plugins(command)
    of_whom = "the pictures' class" if pictures else "class to draw; else all in turn"
    command.add_argument("--label", help=f"{of_whom}: by name or number, for conditional variants")
    command.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default 0)")


def _add_plugins(of_a_run: argparse.ArgumentParser) -> None:
    trust = "run the code of the plugins' copies in the run's folder"
    of_a_run.add_argument("--plugin", action="append", default=[], help="file or module with variants of your own")
    of_a_run.add_argument("--trust-plugins", action="store_true", help=trust)
