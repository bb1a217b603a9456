"""What a variant's file says of itself: paper, equation, departures, options, logged terms."""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from zoo.base import VARIANTS, BaseVAE, ImageSpec, random_batch
from zoo.models import create, model_options, preferred_range
from zoo.nets.pairs import NETS
from zoo.options import type_name

COMMON_TERMS = {
    "loss": "what the player minimises, mean over the batch",
    "recon": "reconstruction term, nats per image, unweighted; `mse` and `l1` without their constants",
    "kl": "KL of the posterior to the model's own prior, nats per image, unweighted",
    "elbo": "nats per image: a lower bound on log p(x) under the chosen likelihood, with every constant",
}


@dataclass(frozen=True)
class Option:
    """A key of `model:` in a config: its type and default as a user writes them, and what it does."""

    name: str
    kind: str
    default: str
    about: str


@dataclass(frozen=True)
class Documentation:
    """A variant's documentation, read off its code.

    Attributes:
        name: What users type.
        about: What tells it from other names of the same file; may be empty.
        title: The file's first line: name, one clause, paper.
        body: Equation and prose.
        departures: What follows "Departs from the paper:".
        options: Everything that `model:` may hold, with the default net's options.
        terms: Logged terms, those of a second player as "player/term", and their meaning.
        not_exported: Which parts of a trained model can't be exported, and why.
    """

    name: str
    about: str
    title: str
    body: str
    departures: str
    options: list[Option]
    terms: dict[str, str]
    not_exported: Mapping[str, str]


def document(name: str) -> Documentation:
    """Read a variant's documentation.

    Raises:
        UserError: if there is no such variant.
    """
    entry = VARIANTS.lookup(name)
    text = inspect.cleandoc(sys.modules[entry.target.__module__].__doc__ or "")
    title, _, rest = text.partition("\n\n")
    rest, _, departures = rest.partition("Departs from the paper:")
    body, _, logs = rest.partition("Logs:\n")
    own = definitions(logs)
    terms = {term: own.get(term, COMMON_TERMS.get(term, "")) for term in logged_terms(name)}
    title, body, departures = " ".join(title.split()), body.strip("\n"), departures.strip()
    hindered = entry.target.not_exported
    return Documentation(name, entry.about, title, body, departures, options_of(name, {}), terms, hindered)


def definitions(block: str) -> dict[str, str]:
    """Read the indented lines `name: meaning`, which may go on below, further indented, up to the block's end."""
    lines = textwrap.dedent(block.split("\n\n")[0])
    found = re.findall(r"^(\*{0,2}[\w/]+): ((?:.*\n?)(?:[ \t]+.*\n?)*)", lines, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def logged_terms(name: str) -> list[str]:
    """Return the terms that a run of a variant logs, "loss" first, by computing its losses once on noise."""
    image = ImageSpec(1, 32, 32, preferred_range(name, {}), classes=2, train_size=100)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = create(name, image)
        batch = random_batch(image)
        terms = []
        for player in model.players:
            losses = model.loss(batch) if player == "vae" else getattr(model, f"{player}_loss")(batch)
            terms += [term if player == "vae" else f"{player}/{term}" for term in losses]
    return terms


def options_of(name: str, given: Mapping[str, Any]) -> list[Option]:
    """Return what `model:` may hold beside a variant's name, on the net that is given, or else on its own."""
    known = model_options(name, dict(given))
    about = _meanings(VARIANTS.lookup(name).target)
    if "net" in known:
        about |= definitions(
            (NETS.lookup(str(given.get("net", known["net"].default))).target.__doc__ or "").partition("Args:\n")[2]
        )
    options = []
    for option, parameter in known.items():
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else json.dumps(parameter.default).strip('"')
        options.append(Option(option, type_name(parameter.annotation), default, about.get(option, "")))
    return options


def _meanings(target: type[BaseVAE]) -> dict[str, str]:
    """Collect what a class and its parents say of their arguments; the class's own words come first."""
    meanings: dict[str, str] = {}
    for cls in reversed(target.__mro__):
        arguments = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")[2]
        meanings |= definitions(arguments)
    return meanings
