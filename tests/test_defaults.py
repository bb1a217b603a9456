"""docs/defaults.md has every default that a variant brings along, as it is, with where it comes from."""

from __future__ import annotations

import re

import pytest

from tests.runs import ROOT
from zoo.base import VARIANTS
from zoo.models import model_options

SOURCES = {"paper", "authors' code", "source document", "tried here", "chosen here"}
# What all variants, or all of a net, have alike.
SHARED = {"net", "recon", "reduction", "out_activation", "latent_dim", "beta", "warmup", "free_bits"}
SHARED |= {"activation", "logvar_range", "posterior_scale", "latent"}
SHARED |= {"hidden_dims", "base_channels", "hidden_dim", "factor", "blocks", "z_channels", "norm_groups"}
ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| `([^`]*)` \| ([^|]+) \| [^|]*\|$")
ROWS = [ROW.match(line) for line in (ROOT / "docs/defaults.md").read_text(encoding="utf-8").splitlines()[9:]]
TABLE = {(row[1], row[2]): (row[3], row[4]) for row in ROWS if row}


@pytest.mark.parametrize("name", [entry.name for entry in VARIANTS if entry.target.__module__.startswith("zoo.")])
def test_each_default_is_there_as_it_is(name: str) -> None:
    entry = VARIANTS.lookup(name)
    options = model_options(name, {})
    own = {option for option in options if option not in SHARED} | entry.defaults.keys()
    own |= {"beta"} & {option for option, parameter in options.items() if parameter.default not in (1.0, True)}
    assert {option for variant, option in TABLE if variant == name} == own
    for option in own:
        default, source = TABLE[name, option]
        assert default == str(options[option].default), option
        assert source in SOURCES, option
