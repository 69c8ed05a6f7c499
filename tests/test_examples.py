"""Tests that the notebooks of examples/ run, and are stored with their results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path):
    """`examples/run.py --small` runs a notebook without an error.

    The option makes the notebook take seconds, by overriding its settings. The source of the cells
    in the written notebook is unchanged.
    """
    pytest.importorskip("nbclient")
    command = [sys.executable, FOLDER / "run.py", name, "--small", "--to", tmp_path]
    subprocess.run(command, check=True)
    before, after = (
        json.loads((folder / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        for folder in (FOLDER, tmp_path)
    )
    assert [cell["source"] for cell in after] == [cell["source"] for cell in before]


LARGEST = 400_000  # bytes in the file of a notebook


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_its_results(name):
    """A stored notebook was run in order, has a figure and no stderr output, and is small."""
    path = FOLDER / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert "".join(cells[0]["source"]).startswith("# ")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any("small" in cell["metadata"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < LARGEST
