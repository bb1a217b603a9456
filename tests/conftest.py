"""What all tests share: one thread, so that numbers repeat, and the folder of real data where there is one."""

from __future__ import annotations

import os
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import settings

from zoo.commands import main
from zoo.metrics.features import INCEPTION_VARIABLE
from zoo.nets.pretrained import MOBILENET_VARIABLE

torch.set_num_threads(1)
settings.register_profile("zoo", deadline=None)  # a busy machine is no failure
settings.load_profile("zoo")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="rewrite tests/golden from the code as it is")


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Have them back after a test that set up a run: hypothesis refuses to draw floats without them."""
    yield
    torch.set_flush_denormal(False)


def _data_root(held: str) -> Path:
    if "DATA_ROOT" not in os.environ:
        pytest.skip("DATA_ROOT, with real data sets, is not set")
    root = Path(os.environ["DATA_ROOT"])
    if not (root / held).exists():
        pytest.skip(f"there is no {held} in DATA_ROOT")
    return root


@pytest.fixture(scope="session")
def real_mnist() -> Path:
    """The folder that DATA_ROOT names, where MNIST is in it."""
    return _data_root("MNIST/raw/train-images-idx3-ubyte")


@pytest.fixture(scope="session")
def real_binarized_mnist() -> Path:
    """The same with MNIST's fixed binarisation."""
    return _data_root("binarized_mnist")


@pytest.fixture(scope="session")
def real_celeba() -> Path:
    """The same with photographs."""
    return _data_root("celeba")


@pytest.fixture(scope="session")
def mobilenet_weights() -> Path:
    """The published weights of MobileNetV2, in DATA_ROOT."""
    held = "weights/mobilenet_v2-b0353104.pth"
    return _data_root(held) / held


@pytest.fixture
def any_names(tmp_path: Path) -> None:
    """Files whose names are no text, which Linux lets them have."""
    try:
        (tmp_path / "\udcff").touch()
        (tmp_path / "\udcff").unlink()
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system's names are text")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; return its exit code, output and errors."""

    def call(*argv: object) -> tuple[int, str, str]:
        AcceleratorState._reset_state(reset_partial_state=True)
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let nothing be downloaded, and weights be found in this test's own places alone."""

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for variable in (INCEPTION_VARIABLE, MOBILENET_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
