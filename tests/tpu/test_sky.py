"""Tests the SkyPilot jobs: SkyPilot parses them, and their commands run as local processes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.stand_in import OPTIONS, ROOT, assert_same_end

JOBS = ROOT / "tpu_scripts/sky"

# The part of SkyPilot's downloaded catalogue of GPUs that the jobs need.
_CATALOG = "AcceleratorName,Clouds\nH100,\"['GCP', 'AWS']\"\nA100-80GB,\"['GCP', 'AWS']\"\n"
_PARSE = """
import json, sys, sky
task = sky.Task.from_yaml(sys.argv[1])
task.validate()
(resources,) = task.resources
print(json.dumps({
    "nodes": task.num_nodes, "accelerators": resources.accelerators, "spot": resources.use_spot,
    "recovery": resources.job_recovery, "runtime": (resources.accelerator_args or {}).get(
        "runtime_version"), "cloud": str(resources.cloud), "run": task.run, "setup": task.setup,
}))
"""


def job(name: str) -> dict:
    return yaml.safe_load((JOBS / name).read_text())


def skypilot() -> str | None:
    """Returns the path of a Python interpreter that can import SkyPilot, or None.

    The environment variable `SKYPILOT_PYTHON` may name the interpreter of another installation.
    """
    found = os.environ.get("SKYPILOT_PYTHON")
    return found or (sys.executable if importlib.util.find_spec("sky") else None)


@pytest.mark.slow
@pytest.mark.skipif(
    skypilot() is None, reason='SKYPILOT_PYTHON is not set: a Python with "skypilot[gcp]"'
)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tpu.yaml", {"nodes": 1, "accelerators": {"tpu-v5litepod-16": 1}, "cloud": "GCP",
                      "runtime": "v2-alpha-tpuv5-lite"}),
        ("gpu.yaml", {"nodes": 2, "accelerators": {"H100": 8}}),
    ],
)  # fmt: skip
def test_skypilot_takes_the_jobs(tmp_path, name, expected):
    catalog = tmp_path / ".sky/catalogs"
    asks = "from sky.skylet import constants; print(constants.CATALOG_SCHEMA_VERSION)"
    (version,) = subprocess.run(
        [skypilot(), "-c", asks],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    common = catalog / version / "common"
    common.mkdir(parents=True)
    (common / "accelerators.csv").write_text(_CATALOG)
    (common / "metadata.csv").write_text("GPU,MemoryGB,Manufacturer\n")
    done = subprocess.run(
        [skypilot(), "-c", _PARSE, JOBS / name],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.items() >= expected.items()
    assert found["spot"]
    assert found["recovery"]["recover_on_exit_codes"] == [42]
    written = job(name)
    assert (found["run"], found["setup"]) == (written["run"], written["setup"])


@pytest.mark.parametrize("name", ["tpu.yaml", "gpu.yaml"])
def test_setup_asks_for_the_bucket(name, tmp_path):
    done = subprocess.run(
        ["bash", "-c", job(name)["setup"]],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BUCKET": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--env BUCKET=" in done.stderr


def test_commands_are_those_of_the_program(tmp_path):
    """Both jobs run train/main.py and write to a bucket.

    Only the GPU job passes the options for several processes, which must exist in `HostOptions`.
    """
    printing = tmp_path / ".venv/bin/python"
    printing.parent.mkdir(parents=True)
    printing.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    printing.chmod(0o755)
    known = (ROOT / "train/hosts/host_options.py").read_text()
    for name in ("tpu.yaml", "gpu.yaml"):
        found = job(name)
        env = {**found["envs"], "BUCKET": "gs://b", "PATH": os.environ["PATH"],
               "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2",
               "SKYPILOT_NODE_RANK": "1"}  # fmt: skip
        out = subprocess.run(
            ["bash", "-c", found["run"]], cwd=tmp_path, env=env, capture_output=True, text=True
        ).stdout.split()
        assert out[0] == "train/main.py"
        assert out[out.index("--workdir") + 1].startswith(
            "gs://b" if name == "gpu.yaml" else "gs://"
        )
        for option in ("coordinator", "num-processes", "process-id"):
            assert option.replace("-", "_") in known
            assert (f"--{option}" in out) == (name == "gpu.yaml")
    assert out[out.index("--coordinator") + 1] == "10.0.0.1:8476"


@pytest.mark.slow
def test_two_nodes_train_as_one_process(checkout, environment, undisturbed, tmp_path):
    found = job("gpu.yaml")
    env = {
        **os.environ, **environment, "BUCKET": str(tmp_path), "RUN": "a",
        "ARGUMENTS": " ".join(OPTIONS), "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
        "SKYPILOT_NUM_NODES": "2",
    }  # fmt: skip
    nodes = [
        subprocess.Popen(
            ["bash", "-c", found["run"]], cwd=checkout, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, env={**env, "SKYPILOT_NODE_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    ends = [(node.communicate(timeout=300)[1], node.returncode) for node in nodes]
    assert [code for _, code in ends] == [0, 0], ends
    assert_same_end(Path(tmp_path, "runs/a"), undisturbed)
