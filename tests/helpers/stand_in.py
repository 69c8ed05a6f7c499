"""Makes a stand-in for a checkout of this repository, for tests of Slurm and Kubernetes jobs.

In the stand-in, `python train/main.py` trains the three-layer network of `tests/helpers/tiny.py`.
So a job's usual commands take a second instead of minutes.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy

from tests.helpers.clusters import until

ROOT = Path(__file__).parents[2]
STEPS = 60
OPTIONS = ["--arch", "tiny", "--batch-size", "8", "--steps", str(STEPS), "--log-every", "1",
           "--no-tensorboard", "--checkpoint-every", "1000"]  # fmt: skip


def make(folder: Path) -> dict[str, str]:
    """Writes the stand-in to a folder; returns the environment variables for its runs."""
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH={programs}:"$PATH"\n')
    (programs / "python").write_text(
        f"#!/bin/bash\n[[ $1 == train/main.py ]] || exit 64\nexport PYTHONPATH={ROOT}\n"
        f'exec {shlex.quote(sys.executable)} -m tests.helpers.tiny "${{@:2}}"\n'
    )
    (programs / "python").chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
    }


def undisturbed(environment: dict[str, str], workdir: Path) -> Path:
    """Trains without interruption on two devices of one process; returns `workdir`.

    `environment` is the result of `make`.
    """
    subprocess.run(
        ["bash", "-c", 'exec python train/main.py "$@"', "train", *OPTIONS, "--workdir", workdir],
        env={**os.environ, **environment, "JAX_NUM_CPU_DEVICES": "2"},
        check=True,
        capture_output=True,
    )
    return workdir


def trains(log: Path, words: str = "step 3/") -> None:
    """Waits until a log contains the words that show that a run is training.

    Raises:
        AssertionError: if the log does not contain `words` within five minutes.
    """
    until(lambda: log.exists() and words in log.read_text(), f"no {words!r} in {log}")


def saved_step(log: Path) -> int:
    """Returns the step of a preempted run's checkpoint, read from the run's log."""
    return int(log.read_text().split("saved at step ")[1].split(";")[0])


def losses(workdir: Path) -> dict[int, float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def assert_same_end(workdir: Path, other: Path) -> None:
    """Asserts that two runs have bit-identical losses and final weights."""
    assert losses(workdir) == losses(other)
    assert list(losses(workdir)) == list(range(1, STEPS + 1))
    a, b = (safetensors.numpy.load_file(w / "weights.safetensors") for w in (workdir, other))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
