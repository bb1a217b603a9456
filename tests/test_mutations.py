"""The tests are tested: errors that are planted in the zoo are noticed (`tests/mutations.py`)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mutations import MUTATIONS, ROOT


def test_every_error_can_still_be_planted() -> None:
    """Each stands where the table says, and names tests that there are; what the table explains away is little."""
    faults = [fault for mutation in MUTATIONS if (fault := mutation.fault())]
    assert not faults, "\n".join(faults)
    assert len(MUTATIONS) == len(set(MUTATIONS)) >= 80
    assert sum(bool(mutation.survives) for mutation in MUTATIONS) <= len(MUTATIONS) // 20


@pytest.mark.slow
def test_planted_errors_are_noticed() -> None:
    command = [sys.executable, "-m", "tests.mutations"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
