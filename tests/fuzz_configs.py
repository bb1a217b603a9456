"""Mutated configs through reading, building and two steps: each must end in a result, or in one sentence.

    python -m tests.fuzz_configs --count 10000 --seed 1     # says which ended otherwise, by cause

A mutant is a right config of a tiny net with a few keys set to what makes no sense there, in its file or as overrides;
or a text that is hardly YAML. Keys and options are those that the registries know, so that a newcomer is tried as well.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, get_args, get_origin
from unittest.mock import patch

import numpy as np
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tests.runs import settings, small
from zoo import memory
from zoo.base import VARIANTS
from zoo.commands import main
from zoo.config import Config
from zoo.data import DATASETS
from zoo.metrics.core import METRICS
from zoo.metrics.samplers import SAMPLERS
from zoo.nets.pairs import NETS
from zoo.options import signature_options

SECONDS = 60  # that a mutant may take: on a busy machine, a hundred times what it does
ROOM = 2 * 2**30  # bytes that a mutant may take: what it is told that there is, and what it gets
INTEGERS = (0, -1, 1, 2, 3, 7, 100, 10**9, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**31), 10**30, 10**400)
FLOATS = (0.0, -0.0, 0.5, 0.999999, 1.0, -1.5, 3.7, 1e-320, 1e-30, 1e9, 1e30, 1e38, 1e300, 1e308, -1e308)
NUMBERS = (*INTEGERS, *FLOATS, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *("", " ", ".", "..", "/", "~", "~/x", "~nobody-of-this-name/x", "no/such/x", "/dev/null", "x" * 300, "x/" * 3000),
    *("ä", "図", "\u202e", "a\nb", "a\tb", "\x1b[31m", "\x00", "null", "None", "1e3", "true", "nope.py", "a.b.c"),
    *(
        "-",
        "=",
        "%s",
        "{0}",
        "${HOME}",
        "../../x",
        "\ud800",
        "file.txt",
        "\ufffe",
        "mlp",
        "conv",
        "loss",
        "prior",
        "a..b",
    ),
)
OTHERS: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [{}], {"a": 1}, {"name": "mlp"}, {1: 2}, {None: None}, [None], [1, 2, 3], [0]),
    *([10**9], [1, 10**9], [10**9] * 3, [1] * 5000, [-1], ["x"], [1.5], [8, 8], [1, 1], [0.9, 0.999], [0, 1], [-1, 1]),
    *({"lr": 1}, {"critic": {"lr": 1}}, {"critic": 3}, [[1]], [[[[1]]]], {"a": {"b": {"c": []}}}, ["."], [""], [1, 0]),
    *(["nope.py"], ["encoder"], ["wandb"], ["prior"], ["fid"], [["fid"]], {"fid": {"extractor": []}}, ["os.path"]),
)
BOMB = "".join(f",&{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True))
RAW = (  # what stands in the place of a value, as text
    *(
        "[",
        "]",
        "{",
        "}",
        "{a: ",
        "- - -",
        ": :",
        "&a",
        "*a",
        "&a [*a]",
        "|",
        ">",
        "!!python/object/apply:os.getcwd []",
    ),
    *(
        "!!binary gA==",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!timestamp 2001-01-01",
        "2001-01-01",
        "2001-13-41",
        "!!int x",
    ),
    *(
        "!!float x",
        "!!null x",
        "!!str [a]",
        "!!map 3",
        "!unknown 3",
        "%TAG",
        "---",
        "...",
        "? a",
        "? [a]: b",
        "0x",
        "0x_",
    ),
    *(
        "0o9",
        "1:99:99",
        "1_000",
        ".inf",
        "-.inf",
        ".nan",
        "'",
        '"',
        '"\\ud800"',
        '"\\x00"',
        "<<: 3",
        "{<<: {a: 1}}",
        "0b2",
    ),
    *("1" * 5000, "0x" + "f" * 5000, "[" * 3000, "{a: " * 2000, "1:" * 3000 + "1", "\t", "a: b: c", "@", "`", "# x"),
    *("&a [x, &b [*a, *a], &c [*b, *b, *b]]", f"[&a [x,x,x,x,x,x,x,x,x]{BOMB}]"),
)
NEVER = {  # what would take minutes, or somebody's network
    **{"compile": (True, 1, 1.0, "true", "1e3"), "data.name": ("mnist", "cifar10", "fashion_mnist")},
    **{
        "data.root": ("/", "..", "~", "../../x"),
        "threads": (100, "1e3", "1_000"),
    },  # whose stacks are more than there is room for
}


@dataclass(frozen=True)
class Mutant:
    """A config's file, and settings laid over it."""

    text: bytes
    overrides: tuple[str, ...]


def mutants(seed: int, folder: Path) -> Iterator[Mutant]:
    """Yield mutants without end; they need what `prepare` puts into the folder."""
    draw = random.Random(seed)
    while True:
        values = right_config(draw, folder)
        keys = keys_of(values)
        overrides = []
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            key = draw.choice(list(keys))
            value = absurd(draw, keys[key])
            if value in NEVER.get(key, ()):
                continue
            if draw.random() < 0.04:
                key = misspelt(draw, key)
            how = draw.random()
            if how < 0.1:
                raw = draw.choice(RAW)
                overrides += [f"{key}={raw}"] if raw not in NEVER.get(key, ()) else []
            elif how < 0.6:
                overrides.append(f"{key}={as_text(value)}")
            else:
                put(values, key, value)
        text = as_text(values).encode(draw.choice(("utf-8",) * 60 + ("utf-16", "latin-1")), "replace")
        if draw.random() < 0.04:
            text = damaged(draw, text)
        yield Mutant(text, tuple(o.replace("\0", "") if "\0" in o else o for o in overrides if not o.startswith("-")))


def prepare(folder: Path) -> None:
    """Put there what data sets read."""
    draw = np.random.default_rng(0)
    for number in range(30):
        path = folder / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(path)
    np.savez(folder / "arrays.npz", images=draw.integers(0, 256, (30, 8, 8, 1), dtype=np.uint8))
    (folder / "file.txt").write_text("no folder\n")


def right_config(draw: random.Random, folder: Path) -> dict[str, Any]:
    """Return a config that runs, of some variant, net and data set."""
    name = draw.choice([entry.name for entry in VARIANTS])
    model = {"name": name, **small(name)}
    data: dict[str, Any] = draw.choice(
        (
            *({"name": "digits", "limit": 60},) * 5,
            {"name": "shapes", "count": 60, "size": 8},
            {"name": "image_folder", "root": str(folder / "pictures"), "size": 8, "channels": 1},
            {"name": "arrays", "root": str(folder / "arrays.npz")},
            {"name": draw.choice([e.name for e in DATASETS if e.name not in NEVER["data.name"]]), "root": "pictures"},
        )
    )
    if "net" in model and draw.random() < 0.3:
        model["net"] = draw.choice([entry.name for entry in NETS])
        if model["net"] != "mlp":
            model.pop("hidden_dims", None)
            model |= {o: 4 for o in signature_options(NETS.lookup(model["net"]).target) if o in ("base_channels",)}
            model |= {"hidden_dims": [4, 4]} if model["net"] in ("resnet", "vanilla") else {}
    values = settings(Path("out"), name, batch_size=8, steps=4, eval_batch_size=20) | {
        "model": model,
        "data": dict(data),
    }
    metric = draw.choice([entry.name for entry in METRICS])
    values["benchmark"] = {"metrics": [metric], "samplers": [draw.choice([entry.name for entry in SAMPLERS])], "n": 20}
    if draw.random() < 0.5:
        del values["out"]
    return values


def keys_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the dotted keys of everything that may stand in a config like this, with what they may hold."""
    keys: dict[str, Any] = {"base": str, **fields_of(Config)}
    variant, data = VARIANTS.lookup(values["model"]["name"]), DATASETS.lookup(values["data"]["name"])
    metric = METRICS.lookup(values["benchmark"]["metrics"][0])
    net = NETS.lookup(values["model"].get("net", "conv"))
    owners = {"model": (variant, net), "data": (data,), f"benchmark.options.{metric.name}": (metric,)}
    for prefix, entries in owners.items():
        for entry in entries:
            keys |= {f"{prefix}.{name}": option.annotation for name, option in signature_options(entry.target).items()}
    return keys


def fields_of(schema: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return a schema's dotted keys with their annotations, those of inner schemas as well."""
    fields: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        annotation = field.annotation
        if field.metadata:
            annotation = Annotated[(annotation, *field.metadata)]
        fields[f"{prefix}{name}"] = annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            fields |= fields_of(annotation, f"{prefix}{name}.")
    return fields


def absurd(draw: random.Random, annotation: object) -> object:
    """Return a value, more often than not one that the annotation admits, so that it is tried what comes of it."""
    choices = [*NUMBERS, *NUMBERS, *TEXTS, *OTHERS, *literals(annotation)]
    if draw.random() < 0.35 or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return draw.choice(choices)
    admitted = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
    draw.shuffle(choices)
    for value in choices:
        try:
            admitted.validate_python(value)
        except ValidationError:
            continue
        return value
    return None


def literals(annotation: object) -> list[object]:
    """Return what the annotation names."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in literals(part)]


def misspelt(draw: random.Random, key: str) -> str:
    """Return a key that there is not, or is only nearly."""
    return draw.choice((key[:-1], f"{key}x", f"{key}.x", f"x.{key}", key.upper(), f".{key}", f"{key}.", "x", "ä", " "))


def put(values: dict[str, Any], key: str, value: object) -> None:
    """Set a dotted key, where there is a mapping to set it in."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            return
        values[parent] = values = dict(inner)
    values[last] = value


def as_text(value: object) -> str:
    """Write a value as YAML in one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True).removesuffix("\n...\n").strip()
    )


def damaged(draw: random.Random, text: bytes) -> bytes:
    """Cut a text, or put bytes of some kind into it."""
    at = draw.randrange(len(text) + 1)
    junk = draw.choice(
        (bytes(draw.randrange(256) for _ in range(5)), draw.choice(RAW).encode(), b"\n", b"\t", b": ", b"")
    )
    return text[:at] + junk + (text[at:] if draw.random() < 0.7 else b"")


class TooLong(BaseException):
    """A mutant takes longer than any should: no error that somebody might take for an author's."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLong(f"after {SECONDS} s")


@contextlib.contextmanager
def held_short(folder: Path) -> Iterator[None]:
    """Within it, there is little memory, and the folder is where things would be written."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    here = Path.cwd()
    old = signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * ROOM, before[1]))
    os.chdir(folder)
    gc.collect()
    gc.freeze()  # each run collects garbage at its end, which takes longer than two steps
    environment = {"DATA_ROOT": str(folder / "nowhere"), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    try:
        with patch.dict(os.environ, environment), patch.object(memory, "available", lambda: ROOM):
            yield
    finally:
        gc.unfreeze()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, before)
        os.chdir(here)
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.set_num_threads(1)
        torch.set_flush_denormal(False)


def outcome(mutant: Mutant, folder: Path) -> tuple[int, str]:
    """Try one, within `held_short`; return its exit code, and what is wrong with how it ended, or ""."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    config = folder / "mutant.yaml"
    config.write_bytes(mutant.text)
    there = set(os.listdir(folder)) | {"cache"}
    out, err = io.StringIO(), io.StringIO()
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["--config", str(config), "--dry-run", *mutant.overrides])
    except (Exception, SystemExit, TooLong):
        return -1, traceback.format_exc()
    finally:
        signal.alarm(0)
    sentences = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    if left := set(os.listdir(folder)) - there:
        return code, f"a dry run left {sorted(left)}"
    if code not in (0, 1, 2) or len(sentences) != (code != 0):
        return code, f"exit code {code}, and {len(sentences)} sentences: {err.getvalue()[-2000:]}"
    if code == 0 and "mean loss nan" in out.getvalue():
        return code, "a mean loss that is not finite, and exit code 0"
    return code, ""


def cause(fault: str) -> str:
    """Return what groups faults: the innermost line of ours, and the error without its numbers."""
    places = [line.strip() for line in fault.splitlines() if "/zoo/" in line and line.strip().startswith("File")]
    said = [line for line in fault.strip().splitlines() if line[:1].strip()]
    return f"{places[-1] if places else ''} | {said[-1][:150] if said else ''}"


def search(count: int, seed: int, report: bool = False) -> list[tuple[Mutant, str]]:
    """Try so many mutants; return those that ended in neither a result nor a sentence."""
    found, codes, started = [], Counter[int](), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        with held_short(folder):
            for number, mutant in zip(range(count), mutants(seed, folder), strict=False):
                begun = time.monotonic()
                if report:
                    (folder.parent / f"last_{seed}.txt").write_text(repr(mutant))  # what a crash ended on
                code, fault = outcome(mutant, folder)
                codes[code] += 1
                if report and time.monotonic() - begun > 5:
                    print(f"slow: {time.monotonic() - begun:.1f} s {mutant.overrides}", flush=True)
                if fault:
                    found.append((mutant, fault))
                    if report:
                        print(f"{number}: {cause(fault)}\n    {str(mutant.overrides)[:200]}", flush=True)
    if report:
        print(f"{count} mutants in {time.monotonic() - started:.0f} s, exit codes {dict(codes)}")
    return found


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--count", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--full", action="store_true", help="print a traceback of each cause")
    arguments = options.parse_args()
    faults = search(arguments.count, arguments.seed, report=True)
    by_cause = Counter(cause(fault) for _, fault in faults)
    for reason, times in by_cause.most_common():
        example, fault = next((m, f) for m, f in faults if cause(f) == reason)
        print(f"{times:5d}  {reason}\n       {str(example.overrides)[:300]}" + (f"\n{fault}" if arguments.full else ""))
    sys.exit(1 if faults else 0)
