"""The notebooks of examples/ run."""

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
    """At small size; what is asserted in a notebook holds there too."""
    pytest.importorskip("nbclient")
    command = [sys.executable, FOLDER / "run.py", name, "--small", "--to", tmp_path]
    subprocess.run(command, check=True)
    before, after = (
        json.loads((folder / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        for folder in (FOLDER, tmp_path)
    )
    assert [cell["source"] for cell in after] == [cell["source"] for cell in before]
