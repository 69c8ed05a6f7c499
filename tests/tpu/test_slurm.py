"""Tests training runs on several processes of this machine, started by Slurm or by mpirun.

The Slurm is a real one, with two local nodes, and runs train.sbatch.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers import clusters
from tests.helpers.clusters import until
from tests.helpers.stand_in import OPTIONS, ROOT, STEPS, assert_same_end, saved_step, trains

pytestmark = pytest.mark.slow

SBATCH = ROOT / "tpu_scripts/slurm/train.sbatch"
# Overrides only the sizes in the file: one process per node, on one core.
SIZE = ["--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("slurm")
    if why := clusters.slurm_missing() or clusters.own_names_missing(folder):
        pytest.skip(why)
    with clusters.slurm(folder, nodes=2) as cluster:
        cluster.env.update(environment)
        yield cluster


def submit(slurm, checkout: Path, log: Path, workdir: Path, *options: str) -> str:
    return slurm.ask(
        "sbatch", "--parsable", f"--chdir={checkout}", f"--output={log}", *SIZE, *options,
        str(SBATCH), *OPTIONS, "--workdir", str(workdir),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "warn"),
    [
        ([], ["--signal=TERM"]),  # Slurm warns the processes
        (["--signal=B:USR1@120"], ["--signal=USR1", "--batch"]),  # Slurm warns only the script
    ],
    ids=["processes", "script"],
)
def test_the_warning_saves_and_requeues(slurm, checkout, undisturbed, tmp_path, options, warn):
    workdir, log = tmp_path / "run", tmp_path / "log"
    job = submit(slurm, checkout, log, workdir, *options)
    trains(log)
    slurm.ask("scancel", *warn, job)
    slurm.at_once(job)
    saved = saved_step(log)
    assert 3 <= saved < STEPS
    assert slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED", log.read_text()
    assert f"resuming at step {saved}," in log.read_text()
    assert "2 cpu device(s) of 2 process(es)" in log.read_text()
    assert_same_end(workdir, undisturbed)


def test_a_cancelled_job_stays_cancelled(slurm, checkout, tmp_path):
    log = tmp_path / "log"
    job = submit(slurm, checkout, log, tmp_path / "run")
    trains(log)
    slurm.ask("scancel", job)
    assert slurm.wait_for(job, "CANCELLED") == "CANCELLED"
    until(lambda: "saved at step" in log.read_text(), "nothing was saved")
    until(lambda: not slurm.ask("squeue", "--noheader"), "it came back")


def test_a_job_submitted_elsewhere_is_refused(slurm, tmp_path):
    log = tmp_path / "log"
    job = submit(slurm, tmp_path, log, tmp_path / "run")
    assert slurm.wait_for(job, "COMPLETED", "FAILED") == "FAILED"
    assert "is not the checkout" in log.read_text()


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun (package openmpi-bin)")
def test_mpirun_trains_saves_and_resumes(checkout, environment, undisturbed, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log"
    flags = ["-n", "2", "--oversubscribe"]
    if os.geteuid() == 0:
        flags.append("--allow-run-as-root")
    command = ["mpirun", *flags, "python", "train/main.py", *OPTIONS, "--workdir", str(workdir)]
    env = {**os.environ, **environment}
    with log.open("w") as file:
        run = subprocess.Popen(command, cwd=checkout, env=env, stdout=file, stderr=file)
    try:
        trains(log)
        # A scheduler also signals the processes. mpirun would kill them a second after its signal.
        children = f"/proc/{run.pid}/task/{run.pid}/children"
        os.kill(int(Path(children).read_text().split()[-1]), signal.SIGTERM)
        assert run.wait(120) == 42
    finally:
        run.kill()
        run.wait()
    saved = saved_step(log)
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"resuming at step {saved}," in done.stdout
    assert_same_end(workdir, undisturbed)
