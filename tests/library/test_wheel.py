"""Tests the package as users get it: built, installed into a fresh environment, and used."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://example.org/OWNER/NAME"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Builds a source distribution, and a wheel from it; returns the path of the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, env=os.environ | {"REPOSITORY_URL": REPOSITORY})
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_works_alone(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    python = tmp_path / "fresh/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    run = subprocess.run(
        [python, ROOT / "tests/helpers/use_wheel.py"],
        cwd=tmp_path, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("the wheel works\n")
    command = [tmp_path / "fresh/bin/inception-jax", "list", "xception*"]
    listed = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert "xception65 ra3_in1k" in listed.stdout


@pytest.mark.slow
def test_what_the_wheel_says_and_holds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(path))
    addresses = metadata.get_all("Project-URL", [])
    assert f"Source, {REPOSITORY}" in addresses
    assert "Programming Language :: Python :: 3.13" in metadata.get_all("Classifier", [])
    assert {"inception_jax/py.typed", "inception_jax/__init__.pyi"} <= set(names)
    assert "inception_jax/data/imagenet_classes.txt" in names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "inception_jax", "reference_torch",
    }  # fmt: skip
