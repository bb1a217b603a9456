"""Ctrl-C at any moment: one sentence, exit code 130, and nobody's traceback."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.runs import ROOT, settings
from zoo import interruption

# Says when the program's own first line is about to be reached: what Python does before that is not ours. Tests that a
# shell started in its background have inherited that interrupts are ignored; this program hasn't.
START = (
    "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "import zoo.interruption; print('up', flush=True); sys.argv = sys.argv[1:]; "
    "runpy.run_path('run.py', run_name='__main__')"
)
EARLIEST = 0.1  # seconds after that
LONGEST = 120


def interrupted(seconds: float, *arguments: object, until: str = "up", twice: bool = False) -> tuple[int, str, str]:
    """Start a command, and interrupt it so long after it has said something; return its exit code and what it said."""
    command = [sys.executable, "-u", "-c", START, "run.py", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said, deadline = "", time.monotonic() + LONGEST
    while until not in said and process.poll() is None:
        if select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            said += os.read(process.stdout.fileno(), 2**16).decode()
    time.sleep(seconds)
    for _ in range(1 + twice):
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONGEST)
    return process.returncode, said + out, err


def config(folder: Path, **changes: object) -> Path:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(settings(folder / "r", **{"steps": 10**6, "checkpoint_every": 10**6, **changes})))
    return path


def assert_one_sentence(code: int, out: str, err: str) -> None:
    assert code == 130, err
    assert "Traceback" not in err and "KeyboardInterrupt" not in err, err
    assert ("interrupted; to go on: python run.py" in err) != ("stopped at step" in out), (out, err)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2))])
def test_an_interrupt_at_a_random_moment_is_one_sentence(part: int, tmp_path: Path) -> None:
    seconds = random.Random(part + int(time.time())).uniform(0, 6) * (part + 1) / 3
    assert_one_sentence(*interrupted(EARLIEST + seconds, "--config", config(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(60))
def test_an_interrupt_at_any_moment_is_one_sentence(part: int, tmp_path: Path) -> None:
    assert_one_sentence(*interrupted(EARLIEST + part / 10, "--config", config(tmp_path), twice=bool(part % 2)))


def test_an_interrupted_evaluation_goes_on_with_resume(tmp_path: Path) -> None:
    """At the end of training, when all steps are taken and the metrics are not there yet."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time, zoo\n@zoo.register_metric('slow')\ndef slow(subject):\n"
        "    print('measuring', flush=True)\n    time.sleep(100)\n"
    )
    path = config(tmp_path, steps=2, checkpoint_every=2, plugins=[str(slow)], benchmark={"metrics": ["slow"]})
    code, out, err = interrupted(0.1, "--config", path, "--overwrite", until="measuring")
    assert_one_sentence(code, out, err)
    assert err.strip().endswith(f"interrupted; to go on: python run.py --config {path} --resume")
    assert (tmp_path / "r" / "model.safetensors").is_file()


def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """An interrupt that is swallowed, as libraries do, costs some seconds, and a second one none."""
    stubborn = tmp_path / "stubborn.py"
    stubborn.write_text(
        "import time, zoo\n@zoo.register_dataset('stubborn')\ndef stubborn(root, size, limit):\n"
        "    print('stubborn', flush=True)\n"
        "    while True:\n        try:\n            time.sleep(100)\n        except BaseException:\n            pass\n"
    )
    path = config(tmp_path, data={"name": "stubborn"}, plugins=[str(stubborn)])
    for twice in (False, True):
        started = time.monotonic()
        assert_one_sentence(*interrupted(EARLIEST, "--config", path, until="stubborn", twice=twice))
        assert time.monotonic() - started < LONGEST


def test_what_was_begun_is_resumed_and_what_was_not_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/run.py"])
    monkeypatch.setattr(interruption, "begun", False)  # other tests begin runs in this process
    words = ["--config", "a b.yaml", "--overwrite", "lr=1"]
    assert interruption.command_line(words) == "python run.py --config 'a b.yaml' --overwrite lr=1"
    monkeypatch.setattr(interruption, "begun", True)
    assert interruption.command_line(words) == "python run.py --config 'a b.yaml' lr=1 --resume"
    assert interruption.command_line(["evaluate", "r"]) == "python run.py evaluate r"
