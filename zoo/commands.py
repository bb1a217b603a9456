"""The command line: its parser, and what each command does.

Modules that need torch are imported by the commands that need them, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING

from zoo.errors import DiskFull, Diverged, Undelivered, UserError, crash
from zoo.files import CONFIG_FILE, HISTORY_FILE, MODEL_FILE, PLUGINS_FOLDER

if TYPE_CHECKING:
    from zoo.config import Config

COMMANDS = (
    *("train", "evaluate", "sample", "data", "list", "describe", "check", "suite", "leaderboard", "reference"),
    *("compare", "cache"),
)
EPILOG = """examples:
  python run.py --config configs/mlp_mnist.yaml                     train on MNIST, then evaluate
  accelerate launch run.py --config configs/vanilla_celeba.yaml     the same on every GPU there is
  python run.py --config configs/mlp_mnist.yaml epochs=1 lr=3e-4 model.latent_dim=8
  python run.py --config configs/mlp_mnist.yaml --resume            go on after an interruption
  python run.py evaluate runs/mlp_mnist_z20_s28_1
  python run.py sample runs/mlp_mnist_z20_s28_1 --n 64 --out samples.png
  python run.py data configs/vanilla_image_folder.yaml data.root=photos   what a run would see
  python run.py list                                                all variants
  python run.py describe beta                                       equation, options, departures from the paper
  python run.py check my_vae.py                                     try a variant of your own
  python run.py suite configs/suites/mnist.yaml                     a grid of variants, data sets and seeds
  python run.py leaderboard runs --out leaderboard                  compare all finished runs
  python run.py compare runs/zoo/vamp_mnist_0 runs/zoo/mlp_mnist_0  in what two configs differ, and how sure that is
  python run.py reference runs/mlp_mnist_z20_s28_1                  hold a run against published numbers
  python run.py cache --keep 2G                                     list decoded images, and make room
"""
VARIANTS_FOLDER = Path(__file__).parent / "variants"


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
    sample.add_argument("run", type=Path, help="the run's folder, or a model.safetensors")
    _add_plugins(sample)
    sample.add_argument("--n", type=int, default=64, help="how many (default 64)")
    sample.add_argument("--out", type=Path, default=Path("samples.png"), help="the picture (default samples.png)")
    sample.add_argument("--label", help="class to draw, by name or number, for conditional variants; else all in turn")
    sample.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")

    data = commands.add_parser("data", help="what a run would see: splits, classes, copies, and a sheet of pictures")
    data.add_argument("config", type=Path, help="YAML file, such as configs/vanilla_image_folder.yaml")
    data.add_argument("--out", type=Path, default=Path("data.png"), help="the sheet (default data.png)")
    data.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.root=photos")

    listing = commands.add_parser("list", help="all variants, one line each")
    listing.add_argument("--plugin", action="append", default=[], help="file or module with variants of your own")

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

    cache = commands.add_parser("cache", help="list the cache of decoded images and features, and make room")
    cache.add_argument("--remove", action="append", default=[], metavar="ENTRY", help="remove one, by its name")
    cache.add_argument("--keep", metavar="SIZE", help="remove what was used longest ago until 2G, say, are left")
    return top


def _add_plugins(of_a_run: argparse.ArgumentParser) -> None:
    trust = "run the code of the plugins' copies in the run's folder"
    of_a_run.add_argument("--plugin", action="append", default=[], help="file or module with variants of your own")
    of_a_run.add_argument("--trust-plugins", action="store_true", help=trust)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for a mistake, 1 for a lost run or metric, each in one sentence."""
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need be no text
    # `run.py --config …` trains: the command may be left out.
    if argv and argv[0] not in COMMANDS and argv[0] not in ("-h", "--help"):
        argv = ["train", *argv]
    arguments = _parse(argv)
    if arguments.command is None:
        parser().print_help()
        return 0
    try:
        return globals()[f"run_{arguments.command}"](arguments)
    except SystemExit as error:  # no command of ours does this
        frames = [frame for frame in extract_tb(error.__traceback__) if "_sitebuiltins" not in frame.filename]
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        print(f"error: somebody's code ended the program by exit({error.code!r}) ({where})", file=sys.stderr)
        return UserError.exit_code
    except (UserError, Diverged, DiskFull, Undelivered) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line whose settings stand anywhere: argparse takes them in one place alone."""
    arguments, rest = parser().parse_known_args(argv)
    for word in rest:
        if word.startswith("-") or "=" not in word or not hasattr(arguments, "overrides"):
            parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [word for word in argv if word in {*arguments.overrides, *rest}]
    return arguments


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


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Measure what a trained run lacks, and draw its pictures."""
    from zoo.evaluation import evaluate_run

    overrides = arguments.overrides
    if arguments.inception_weights is not None:
        overrides = [*overrides, f"benchmark.inception_weights={arguments.inception_weights.resolve()}"]
    evaluate_run(
        arguments.run, overrides, arguments.again, arguments.plugin, arguments.trust_plugins, arguments.checkpoint
    )
    return 0


def run_sample(arguments: argparse.Namespace) -> int:
    """Write a grid of images drawn from a trained model."""
    import torch

    from zoo.engine.checkpoint import load
    from zoo.files import writing
    from zoo.memory import require
    from zoo.pictures import of_models as pictures

    if arguments.n < 1:
        raise UserError(f"--n is {arguments.n}: draw at least one image")
    if not 0 <= arguments.seed < 2**63:
        raise UserError(f"--seed is {arguments.seed}: it must be 0 or more, and below 2^63")
    model = load(arguments.run, plugins=arguments.plugin, trust_plugins=arguments.trust_plugins)
    y = None
    classes = model.image.classes if model.needs_labels else 0
    label = None if arguments.label is None else _class_number(arguments.label, classes, arguments.run)
    needed = 2 * 4 * arguments.n * model.image.pixels  # as they are made, and as they are drawn
    require(needed, f"{arguments.n:,} images", "choose a smaller --n")
    if classes:
        y = torch.arange(arguments.n) % classes if label is None else torch.full((arguments.n,), label)
    elif model.needs_labels:
        raise UserError(
            "this model is conditioned on attributes, which the command line can't give: use model.sample(n, y)"
        )
    with torch.no_grad():
        images = model.sample(arguments.n, y, torch.Generator().manual_seed(arguments.seed))
    columns = classes if classes and label is None else min(8, arguments.n)
    with writing(arguments.out):
        pictures.save_grid(pictures.to_unit(images, model.image.range), arguments.out, columns)
    print(f"{arguments.n} images in {arguments.out}")
    return 0


def _class_number(label: str, classes: int, run: Path) -> int:
    """Return the number of a class that is given by name or number."""
    from zoo.files import read_results

    names = list(read_results(run).get("classes", {})) if run.is_dir() else []
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < classes:
        return int(label)
    known = f" or one of {', '.join(names)}" if names else ""
    allowed = f"choose 0 to {classes - 1}{known}" if classes else "this model takes no class labels"
    raise UserError(f"--label is {label}: {allowed}")


def run_data(arguments: argparse.Namespace) -> int:
    """Say what a run would see of its data, and write a sheet of pictures."""
    from zoo.config import load_config
    from zoo.reports.data import show

    print(show(load_config(arguments.config, arguments.overrides), arguments.out))
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Print every variant: its name and one line. Reads the files without importing them, and so without torch."""
    rows = [row for file in sorted(VARIANTS_FOLDER.glob("*.py")) for row in registered_names(file)]
    for plugin in arguments.plugin:
        rows += registered_names(_plugin_file(plugin))
    width = max(len(name) for name, _ in rows)
    for name, about in sorted(rows):
        print(f"{name:<{width}}  {about}")
    return 0


def registered_names(file: Path) -> list[tuple[str, str]]:
    """Return (name, line about it) for each `@register("name", …)` in a Python file."""
    from zoo.files import read_text

    text = read_text(file)
    try:
        tree = ast.parse(text, str(file))
    except (SyntaxError, ValueError) as error:  # the second of a zero byte, before Python 3.12
        raise crash(f"plugin {str(file)!r}", error) from error
    title = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    rows = []
    for node in ast.walk(tree):
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "register" and call.args:
                words = [str(arg.value) for arg in call.args if isinstance(arg, ast.Constant)]
                if isinstance(call.args[0], ast.Constant):  # a name that is computed can't be read off
                    rows.append((words[0], f"{title} Here: {words[1]}" if len(words) > 1 else title))
    return rows


def _plugin_file(plugin: str) -> Path:
    from zoo.registry import find_module

    if plugin.endswith(".py"):
        if not os.path.isfile(plugin):
            raise UserError(f"plugin {plugin!r}: there is no file {Path(plugin).absolute()}")
        return Path(plugin)
    try:
        found = find_module(plugin)
    except UserError:
        raise
    except Exception as error:  # the packages that it lies in are imported, and may raise anything
        raise crash(f"plugin {plugin!r}", error) from error
    if found.origin is None:
        raise UserError(f"plugin {plugin!r} is a folder without code; a file's name would end in .py")
    return Path(found.origin)


def run_describe(arguments: argparse.Namespace) -> int:
    """Print a variant's paper, equation, departures, options and logged terms."""
    from zoo.documentation import document
    from zoo.registry import load_plugin

    for plugin in arguments.plugin:
        load_plugin(plugin)
    page = document(arguments.name)
    print(f"{page.name}" + (f": {page.about}" if page.about else ""), page.title, sep="\n\n", end="\n\n")
    print(page.body, end="\n\n")
    if page.departures:
        print(f"Departs from the paper: {page.departures}", end="\n\n")
    print("Options (model: {name: " + page.name + ", …}) = defaults:")
    for option in page.options:
        print(f"  {option.name} = {option.default}  ({option.kind})")
        print(textwrap.fill(option.about, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))
    print("\nLogged terms:")
    for term, meaning in page.terms.items():
        print(textwrap.fill(f"{term}: {meaning}", 100, initial_indent="  ", subsequent_indent=" " * 6))
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Run every check on a plugin's variants, or on one of the zoo's; exit code 1 if any fails."""
    from zoo.base import VARIANTS
    from zoo.config import apply_overrides
    from zoo.mutants import plant
    from zoo.registry import load_plugin
    from zoo.testing import default_image, verdicts

    names = [arguments.plugin]
    if arguments.plugin in VARIANTS:
        file = Path(VARIANTS.lookup(arguments.plugin).file)
    else:
        load_plugin(arguments.plugin)
        file = _plugin_file(arguments.plugin)
        names = [name for name, _ in registered_names(file)]
        if not names:
            raise UserError(f'{arguments.plugin} registers no variant: write @register("name") above its class')
    options = apply_overrides({}, arguments.overrides)
    if arguments.mutate:
        return 0 if plant(file, names, options, arguments.tests) else 1
    failed = 0
    for name in names:
        image = default_image(name, options)
        if arguments.image is not None:
            channels, height, width = _shape(arguments.image)
            image = replace(image, channels=channels, height=height, width=width)
        print(f"{name}, on images of {' x '.join(map(str, image.shape))}:")
        for verdict in verdicts(name, image, **options):
            print(f"  {'n/a  ' if verdict.fault is None else 'FAILS' if verdict.fault else 'ok   '}", end="  ")
            print(verdict.stands_for, flush=True)
            if verdict.fault:
                print(textwrap.fill(verdict.fault, 100, initial_indent=" " * 9, subsequent_indent=" " * 9))
                failed += 1
    print(f"{failed} check{'s' if failed != 1 else ''} failed" if failed else "all checks passed")
    return 1 if failed else 0


def _shape(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){2}", text):
        raise UserError(f"--image is {text!r}, and must be channels, height and width, such as 1x28x28")
    return [int(side) for side in text.split("x")]


def run_cache(arguments: argparse.Namespace) -> int:
    """List the cache, after removing what is to go."""
    from zoo.reports.cache import show

    print(show(arguments.remove, arguments.keep))
    return 0


def run_suite(arguments: argparse.Namespace) -> int:
    """Train and score a grid of runs."""
    from zoo.reports.suite import run

    return run(arguments.suite, arguments.shard)


def run_leaderboard(arguments: argparse.Namespace) -> int:
    """Write the leaderboard of finished runs."""
    from zoo.reports.leaderboard import write

    write(arguments.runs, arguments.out, arguments.format)
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    """Compare two configs number by number."""
    from zoo.reports.board.compare import compare

    print(compare(arguments.run_a, arguments.run_b))
    return 0


def run_reference(arguments: argparse.Namespace) -> int:
    """Compare one run with what is published; exit code 0 if all is within tolerance, 1 if not."""
    from zoo.reports.reference import compare_run

    return 0 if compare_run(arguments.run) else 1
