"""The measurement of memory."""

from __future__ import annotations

import time
from mmap import MAP_PRIVATE, mmap
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import memory
from benchmarks.speed.memory import Watch, peak
from benchmarks.speed.throughput import Contender
from tests.runs import make_config
from zoo.engine.setup import Run


def test_the_peak_is_seen_and_kept() -> None:
    with Watch() as before:
        time.sleep(0.1)
    with Watch() as watch:
        with mmap(-1, 100_000_000, MAP_PRIVATE) as block:  # not malloc's, which may have as much left
            for page in range(0, len(block), 4096):
                block[page] = 1
            time.sleep(0.1)
        time.sleep(0.1)
    assert 90 < watch.peak - before.peak < 150


def test_a_mapped_file_is_not_counted(tmp_path: Path) -> None:
    np.ones(100_000_000, np.uint8).tofile(tmp_path / "pixels.u8")
    mapped = np.memmap(tmp_path / "pixels.u8", np.uint8, "r")
    with Watch() as before:
        time.sleep(0.1)
    with Watch() as watch:
        assert mapped.sum() == 100_000_000
        time.sleep(0.1)
    assert watch.peak - before.peak < 50


def test_a_contender_returns_its_peak(tmp_path: Path) -> None:
    def contender(run: Run) -> Contender:
        return lambda n: time.sleep(0.05) or float(n)

    assert peak(contender, make_config(tmp_path / "r"), tmp_path)(3) > 50


def test_both_are_compared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    peaks = iter([100.0, 115.0])
    monkeypatch.setattr(memory, "Peer", lambda build, config: lambda steps: next(peaks))
    assert memory.main(["mlp_mnist"]) == 0
    assert capsys.readouterr().out.endswith("loop / bare step: 1.15\n")
