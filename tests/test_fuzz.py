"""Configs that make no sense end in one sentence, never in a traceback; see `fuzz_configs`."""

from __future__ import annotations

import pytest

from tests.fuzz_configs import Mutant, cause, search


def told(found: list[tuple[Mutant, str]]) -> str:
    return "\n".join(f"{cause(fault)}\n{mutant.overrides}\n{mutant.text!r}\n{fault}" for mutant, fault in found)


def test_500_mutated_configs_end_in_a_result_or_a_sentence() -> None:
    found = search(500, seed=20)
    assert not found, told(found)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_10000_mutated_configs_end_in_a_result_or_a_sentence(seed: int) -> None:
    found = search(1000, seed)
    assert not found, told(found)
