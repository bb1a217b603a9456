"""Every registered variant goes through the one loop: it trains, is scored, resumes, and runs on two ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoo
from tests.runs import digest, make_config, rows, run, settings, small
from tests.test_distributed import torchrun, write
from zoo import runs
from zoo.base import VARIANTS
from zoo.documentation import COMMON_TERMS, document

NAMES = [entry.name for entry in VARIANTS]
STEPS, SAVED = 8, 4


def tiny(name: str, steps: int = STEPS) -> dict[str, Any]:
    return {"model": {"name": name, **small(name)}, "steps": steps, "log_every": 2, "checkpoint_every": SAVED}


@pytest.mark.parametrize("name", NAMES)
def test_trains_resumes_and_is_scored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole"
    assert run(make_config(whole, **tiny(name))) == 0
    results = json.loads((whole / "results.json").read_text())
    measured = {k: row["value"] for k, row in results["metrics"].items()} | results["terms"]
    assert "psnr" in measured and torch.tensor(list(measured.values())).isfinite().all()
    own = {term for term in document(name).terms if "/" not in term}
    assert own <= measured.keys(), "every term of the loss is in results.json"
    assert {
        "reconstructions.png",
        "generated_samples.png",
        "interpolations.png",
        "interpolations.webp",
        "latent_space.png",
        "traversals.png",
        "traversals.webp",
    } <= {file.name for file in whole.iterdir()}

    model = zoo.load(whole)
    weights = load_file(whole / "model.safetensors")
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())

    broken = tmp_path / "broken"
    checkpoint = f"step_{SAVED:08}"
    shutil.copytree(whole / "checkpoints" / checkpoint, broken / "checkpoints" / checkpoint)
    shutil.copyfile(whole / "config.yaml", broken / "config.yaml")
    monkeypatch.setattr(runs, "measure", lambda *_: [])  # scored once is enough
    assert run(make_config(broken, **tiny(name)), resume=True) == 0
    assert rows(broken)[0]["step"] > SAVED
    assert digest(broken) == digest(whole)


def test_two_ranks_hold_equal_parameters(tmp_path: Path) -> None:
    """All variants, one after the other, in one process group."""
    configs = [write(tmp_path / f"{name}.yaml", settings(tmp_path / name, **tiny(name, steps=3))) for name in NAMES]
    assert torchrun("tests/rank_dump.py", *configs).wait(timeout=300) == 0
    for name in NAMES:
        first, second = (load_file(tmp_path / name / f"rank{rank}of2.safetensors") for rank in (0, 1))
        different = [key for key in first if not torch.equal(first[key], second[key])]
        assert not different, f"{name}: {different}"


# ---- what a variant's file says of itself


@pytest.mark.parametrize("name", NAMES)
def test_documentation_is_whole(name: str) -> None:
    page = document(name)
    assert page.body.startswith("    "), "the equation comes first, indented"
    assert page.departures
    assert not [term for term, meaning in page.terms.items() if not meaning], "a logged term is not explained"
    assert not [option.name for option in page.options if not option.about], "an option is not explained"
    assert any(mark in page.title for mark in ("arXiv:", "openreview.net", "papers.nips.cc")), "the paper is named"


def test_documentation_explains_no_term_that_is_not_logged() -> None:
    assert set(document("beta").terms) == {*COMMON_TERMS, "beta"}


@pytest.mark.parametrize(
    "file", sorted((Path(zoo.__file__).parent / "variants").glob("[a-z]*.py")), ids=lambda f: f.stem
)
def test_a_variant_is_one_short_file(file: Path) -> None:
    assert 20 <= len(file.read_text().splitlines()) <= 120
