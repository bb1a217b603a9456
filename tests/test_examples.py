"""The notebooks in examples/, run from their first cell to their last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_there_are_three_and_none_holds_what_it_put_out() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["first_run", "reading_a_leaderboard", "your_own_variant"]
    for file in NOTEBOOKS:
        cells = json.loads(file.read_text())["cells"]
        assert cells[0]["source"][0].startswith("# ") and not any(cell.get("outputs") for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbclient, which runs notebooks, is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient, which runs notebooks, is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [kind for cell in notebook.cells for out in cell.get("outputs", []) for kind in out.get("data", {})]
    assert "text/markdown" in shown if file.stem == "reading_a_leaderboard" else "text/html" in shown
    errors = [out for cell in notebook.cells for out in cell.get("outputs", []) if out.get("name") == "stderr"]
    said = "".join(out["text"] for out in errors)
    said = said.replace("TqdmWarning", "")  # where ipywidgets are not installed the bar is one of text
    assert "Traceback" not in said and "Warning" not in said, said
