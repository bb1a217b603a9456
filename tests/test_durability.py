"""What a run leaves is whole or absent: through kills at any file operation, full disks, and two writers at once."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

import zoo
from tests.mortal import Mortal
from tests.runs import ROOT, digest, make_config, rows, run, settings
from zoo.engine import folder
from zoo.engine.checkpoint import Checkpoints, pointed_to
from zoo.errors import DiskFull, UserError
from zoo.evaluation import evaluate_run
from zoo.files import append_line, read_lines, replace_file
from zoo.records import read_results
from zoo.runs import train

STEPS = {"steps": 12, "log_every": 5, "checkpoint_every": 3, "data": {"name": "digits", "limit": 100}}
LONGER = STEPS | {"steps": 1500, "log_every": 50, "checkpoint_every": 40}
Whole = Callable[[int, dict[str, Any]], Path]


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the code does after it may count."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("durable") / "undisturbed"
    assert run(make_config(out, **STEPS)) == 0
    return out


def untimed(out: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows(out)]


def uncommitted(out: Path) -> dict[str, dict[str, Any]]:
    """Return the scores without the commit of their code, which may change under a test that takes minutes."""
    return {name: score | {"commit": None} for name, score in read_results(out)["metrics"].items()}


def same_numbers(out: Path, other: Path) -> bool:
    return uncommitted(out) == uncommitted(other) and digest(out) == digest(other) and untimed(out) == untimed(other)


# ---- kills


@pytest.fixture(scope="module")
def mortal() -> Iterator[Mortal]:
    with Mortal() as started:
        yield started


@pytest.fixture(scope="module")
def whole(mortal: Mortal, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return a run that nothing disturbs, by number of processes and settings."""
    folder = tmp_path_factory.mktemp("whole")

    def of(ranks: int, changes: dict[str, Any]) -> Path:
        out = folder / f"{ranks}_{changes['steps']}"
        if not out.is_dir():
            assert mortal.run(settings(out, **changes), ranks) == 0
        return out

    return of


def killed_at(mortal: Mortal, ranks: int, operation: int, out: Path, undisturbed: Path) -> bool:
    """Kill a run at an operation, resume it, and compare; return whether it lived long enough to be killed."""
    config = settings(out, **STEPS)
    if mortal.run(config, ranks, operation=operation) == 0:
        return False
    assert mortal.run(config, ranks) == 0
    assert same_numbers(out, undisturbed), f"after a kill at operation {operation}"
    best = Checkpoints(out, 2).best()
    assert best is not None and pointed_to(out / "checkpoints" / "best").name == f"step_{best:08d}"
    assert not list(out.rglob("*partial*"))
    shutil.rmtree(out)
    return True


@pytest.mark.parametrize("operation", [3, 40, 77])
def test_a_kill_at_a_file_operation(operation: int, tmp_path: Path, mortal: Mortal, undisturbed: Path) -> None:
    assert killed_at(mortal, 1, operation, tmp_path / "r", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_kill_at_each_file_operation(ranks: int, tmp_path: Path, mortal: Mortal, whole: Whole) -> None:
    undisturbed = whole(ranks, STEPS)
    operation = 1
    while killed_at(mortal, ranks, operation, tmp_path / f"r{operation}", undisturbed):
        operation += 1
    assert operation > 50


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "kills"), [(1, 80), (2, 20)])
def test_kills_at_random_moments(ranks: int, kills: int, tmp_path: Path, mortal: Mortal, whole: Whole) -> None:
    """Between the moment when a run's folder is there and its end, which is as far away as it was undisturbed."""
    began = time.monotonic()
    undisturbed = whole(ranks, LONGER)
    lifetime = time.monotonic() - began
    moments = random.Random(0)
    cut = 0
    for number in range(kills):
        config = settings(tmp_path / f"r{number}", **LONGER)
        cut += mortal.run(config, ranks, after=moments.uniform(0, lifetime)) != 0
        assert mortal.run(config, ranks) == 0
        assert same_numbers(tmp_path / f"r{number}", undisturbed), f"kill {number}"
        shutil.rmtree(config["out"])
    assert cut > kills / 2


def test_the_best_checkpoint_survives_a_kill_before_its_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)

    def save(step: int, best: bool) -> None:
        checkpoints.save(step, lambda path: path.write_bytes(b""), {}, {}, best)

    save(1, True)

    def die(self: Checkpoints, name: str, target: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_link", die)
        with pytest.raises(Killed):
            save(2, True)
    save(3, False)
    save(4, False)
    assert checkpoints.steps() == [2, 4] and checkpoints.best() == 2
    assert pointed_to(tmp_path / "checkpoints" / "best").name == "step_00000002"


def test_a_folder_beside_the_checkpoints_is_no_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "r"
    for name in ("step_00000020.bak", "step_new", "step_", "other"):
        (out / "checkpoints" / name).mkdir(parents=True)
    assert run(make_config(out, **STEPS), resume=True) == 0
    assert (out / "checkpoints" / "step_00000020.bak").is_dir()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    replace_file(file, "old")

    def die(handle: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        with pytest.raises(Killed):
            replace_file(file, "new")
    assert file.read_text() == "old"
    replace_file(file, "new")
    assert file.read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "f"
    append_line(file, '{"step": 1}')
    with file.open("a") as opened:
        opened.write('{"step": 2')
    assert read_lines(file) == ['{"step": 1}']
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    folder.drop_rows_after(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


# ---- full disks


@pytest.mark.parametrize("operation", ["save_file", "torch.save", "fsync"])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    operation: str, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count = tmp_path / "r", []
    where, name = {
        "save_file": ("zoo.engine.checkpoint", "save_file"),
        "torch.save": ("torch", "save"),
        "fsync": ("zoo.engine.checkpoint", "_sync"),
    }[operation]
    target = sys.modules[where]
    original: Callable[..., Any] = getattr(target, name)

    def full(*arguments: Any, **options: Any) -> Any:
        count.append(1)
        if len(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, full)
        with pytest.raises(DiskFull, match=r"the disk is full: the checkpoint of step 6 needs about .* MB in .* free"):
            run(make_config(out, **STEPS))
    assert Checkpoints(out, 2).steps() == [3] and not list(out.rglob("*partial*"))
    assert run(make_config(out, **STEPS), resume=True) == 0
    assert same_numbers(out, undisturbed)


# ---- two at once


def test_a_second_writer_is_refused_and_a_stale_lock_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "r"
    with (
        folder.locked(out),
        pytest.raises(UserError, match=rf"{out} is in use by process {os.getpid()} on .*, since .*: wait for it"),
    ):
        run(make_config(out, **STEPS))
    assert not out.exists(), "a lock leaves with its holder, and with the folder that it made"
    out.mkdir()
    (out / folder.HOLDER_FILE).write_text("process 1 on nowhere, since long ago\n")
    (out / folder.LOCK_FILE).touch()  # of a process that was killed
    assert run(make_config(out, **STEPS)) == 0
    assert isinstance(FileLock(out / folder.LOCK_FILE), FileLock)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    while not condition():
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_suites_run_ends_when_the_suite_is_killed(tmp_path: Path) -> None:
    out, suite, base = tmp_path / "runs", tmp_path / "suite.yaml", tmp_path / "base.yaml"
    values = settings(tmp_path, steps=10**6, data={"name": "digits", "limit": 20_000})
    del values["out"], values["model"]
    base.write_text(json.dumps(values | {"model": {"name": "mlp", "hidden_dims": [8]}}))
    suite.write_text(
        json.dumps({"out": str(out), "base": "base.yaml", "data": {"digits": {}}, "runs": {"mlp": {}}, "seeds": [0]})
    )
    process = subprocess.Popen([sys.executable, "-m", "zoo", "suite", str(suite)], cwd=ROOT)
    one = out / "mlp_digits_0"
    wait_for((one / "metrics.jsonl").is_file, process)
    holder = (one / folder.HOLDER_FILE).read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()
    pid = int(holder.split()[1])
    while Path(f"/proc/{pid}").is_dir() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]:
        time.sleep(0.05)
    assert list((one / "checkpoints").glob("step_*")), "it has saved, as at any SIGTERM"


# ---- bytes that flip


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_a_flipped_byte_in_the_weights_is_found(at: float, undisturbed: Path, tmp_path: Path) -> None:
    content = bytearray((undisturbed / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int(at * (len(content) - header))] ^= 1
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match="is damaged: its weights are not those that were written"):
        zoo.load(file)
    assert torch.is_tensor(load_file(file)["progress"])


# ---- a folder from a stranger


FILES = (
    "results.json",
    "metrics.jsonl",
    "config.yaml",
    "history.jsonl",
    "reconstructions.png",
    ".results.json.partial",
)


@pytest.mark.parametrize("name", [*FILES, "checkpoints", "plugins"])
def test_links_out_of_a_run_are_neither_read_nor_written_through(name: str, undisturbed: Path, tmp_path: Path) -> None:
    out, outside = tmp_path / "handed", tmp_path / "outside"
    shutil.copytree(undisturbed, out, symlinks=True)
    path = out / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    outside.mkdir() if name in ("checkpoints", "plugins") else outside.write_text("precious")
    path.symlink_to(outside)
    for use in (
        lambda: evaluate_run(out),
        lambda: zoo.load(out),
        lambda: train(make_config(out, **STEPS | {"steps": 15}), resume=True),
    ):
        with pytest.raises(UserError, match=f"{path} is a link to {outside}, out of the run's folder: remove it"):
            use()
    assert list(outside.iterdir()) == [] if outside.is_dir() else outside.read_text() == "precious"


def test_a_link_that_may_not_be_followed_is_told(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "handed"
    shutil.copytree(undisturbed, out, symlinks=True)
    (out / "there").symlink_to("/")

    def forbidden(path: Path) -> str:
        if Path(path).name == "there":
            raise PermissionError(errno.EACCES, "Permission denied")
        return os.path.abspath(path)

    monkeypatch.setattr(os.path, "realpath", forbidden)
    with pytest.raises(UserError, match=r"there is a link that can't be followed \(Permission denied\): remove it"):
        zoo.load(out)
