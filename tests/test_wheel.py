"""What is built is what works: a wheel, installed into an empty environment, used from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.runs import ROOT

pytestmark = pytest.mark.slow


def done(*words: str | Path, **options: object) -> str:
    """Run a command and return what it printed."""
    found = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert found.returncode == 0, f"{words}\n{found.stdout}\n{found.stderr}"
    return found.stdout + found.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel, and is not installed")
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel alone; what that depends on, such as torch, is this one's, by a link."""
    folder = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", "--without-pip", folder)
    packages = next(folder.glob("lib/python*/site-packages"))
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies))  # none of their own .pth files is read
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    done(*pip, "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", wheel)
    return folder


def test_the_wheel_holds_all_that_is_read_at_run_time(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "zoo").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert path.relative_to(ROOT).as_posix() in held
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"zoo/{path.relative_to(ROOT).as_posix()}" in held
    assert not [name for name in held if not name.startswith(("zoo/", "vae_zoo-"))]


def test_a_wheel_works_from_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    """Train, look at what there is, draw, compare: no file of a checkout is there."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean |= {"HOME": str(tmp_path / "home"), "VAE_ZOO_CACHE": str(tmp_path / "cache")}

    def zoo(*words: str) -> str:
        return done(environment / "bin" / "vae-zoo", *words, cwd=tmp_path, env=clean)

    where = "import zoo, zoo.shipped; print(zoo.__file__, zoo.shipped.CONFIGS, zoo.__version__)"
    file, configs, version = done(environment / "bin" / "python", "-c", where, cwd=tmp_path, env=clean).split()
    assert Path(file).is_relative_to(environment) and Path(configs).is_relative_to(environment)
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()

    said = zoo("train", "--config", "quickstart", "epochs=2", "out=run")
    assert "step" in said and {"model.safetensors", "results.json"} <= {
        path.name for path in Path(tmp_path, "run").iterdir()
    }
    assert '"command": "vae-zoo train --config quickstart' in (tmp_path / "run" / "results.json").read_text()
    assert "beta_tc" in zoo("list")
    assert "free_bits" in zoo("describe", "beta")
    assert "mlp_mnist" in zoo("configs")
    zoo("configs", "--copy", "mine")
    zoo("train", "--config", "mine/beta_mnist.yaml", "--dry-run", "data={name: digits, size: 16}")
    zoo("sample", "run", "--n", "8", "--out", "samples.png")
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    zoo("encode", "run", "samples.png", "--out", "latents.npz")
    zoo("reconstruct", "run", "samples.png", "--out", "pairs.png")
    assert (tmp_path / "latents.npz").is_file() and (tmp_path / "pairs.png").is_file()
    zoo("leaderboard", ".", "--out", "board")
    assert "mlp" in (tmp_path / "board" / "leaderboard.md").read_text()
    assert "pythae_vae" in zoo("papers")
    done(
        environment / "bin" / "python",
        "-m",
        "zoo",
        "evaluate",
        "run",
        "benchmark.metrics=[fd_lenet]",
        cwd=tmp_path,
        env=clean,
    )
