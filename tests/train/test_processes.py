"""Tests runs of several processes on one machine.

They give the same results as a single process, and all processes end together.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

pytestmark = pytest.mark.slow  # each process imports, and waits for the others

ROOT = Path(__file__).parents[2]
TINY = ["-m", "tests.helpers.tiny", "--arch", "tiny", "--batch-size", "8", "--log-every", "1",
        "--no-tensorboard"]  # fmt: skip


class Run:
    """The processes of one run of the training programme.

    Args:
        cwd: current folder of the processes.
        cache: folder of the compilation cache.
        processes: number of processes.
        devices: number of devices of each process.
        options: options of the training programme.
        only_last: more options, for the last process only.
    """

    def __init__(
        self,
        cwd: Path,
        cache: Path,
        processes: int,
        devices: int,
        options: list[str],
        only_last: tuple[str, ...] = (),
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.members = []
        for i in range(processes):
            places = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(processes),
                      "--process-id", str(i)]  # fmt: skip
            command = [sys.executable, *TINY, *options]
            command += only_last if i == processes - 1 else ()
            self.members.append(
                subprocess.Popen(
                    [*command, *(places if processes > 1 else [])],
                    cwd=cwd,
                    env={
                        **os.environ,
                        "PYTHONPATH": str(ROOT),
                        "XLA_FLAGS": "",
                        "JAX_NUM_CPU_DEVICES": str(devices),
                        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                        "JAX_COMPILATION_CACHE_DIR": str(cache),
                    },
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )

    def until(self, words: str) -> None:
        """Reads the output of process 0 up to and including the first line that contains `words`.

        Raises:
            AssertionError: if the output ends without such a line; the message is stderr.
        """
        while words not in (line := self.members[0].stdout.readline()):
            assert line, self.members[0].stderr.read()

    def end(self, seconds: float = 900) -> list[tuple[int, str, str]]:
        """Waits for all processes; returns the exit code, stdout and stderr of each process."""
        out = [member.communicate(timeout=seconds) for member in self.members]
        return [(m.returncode, *o) for m, o in zip(self.members, out, strict=True)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Returns the folder of the compilation cache, which all runs of this module share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def start(tmp_path, cache):
    """Returns a function that starts a run in `tmp_path`; kills the runs after the test.

    The function takes the arguments of `Run` except `cwd` and `cache`, the options one by one. It
    returns the `Run`.
    """
    runs = []

    def start(processes: int, devices: int, *options: str, only_last: tuple[str, ...] = ()) -> Run:
        runs.append(Run(tmp_path, cache, processes, devices, list(options), only_last))
        return runs[-1]

    yield start
    for member in (m for run in runs for m in run.members):
        with contextlib.suppress(ProcessLookupError):
            member.send_signal(signal.SIGCONT)
        member.kill()
        member.communicate()


def outcome(folder: Path) -> tuple[list[float], dict[str, np.ndarray], dict[str, float]]:
    """Returns the training losses, the averaged weights and the result of a run.

    `folder` is the workdir. The result is the content of `result.json`.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    return losses, weights, json.loads((folder / "result.json").read_text())


def assert_same(a: Path, b: Path) -> None:
    (losses, weights, result), (others, other_weights, other_result) = outcome(a), outcome(b)
    assert len(losses) == 20
    np.testing.assert_allclose(losses, others, rtol=1e-7)
    assert np.ptp(losses) > 1e-2  # it did train
    assert result["eval_examples"] == other_result["eval_examples"] == 1000
    assert result["eval_loss"] == pytest.approx(other_result["eval_loss"], rel=1e-6)
    for name, tensor in weights.items():
        np.testing.assert_allclose(
            other_weights[name], tensor, rtol=1e-6, atol=1e-6 * np.abs(tensor).max(), err_msg=name
        )


# In float32 at the demo's learning rate, rounding errors grow tenfold with each step.
STEPS = ["--steps", "20", "--dtype", "float64", "--learning-rate", "0.001"]


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (1, 4), (4, 1)])
def test_processes_and_devices_train_as_one(start, tmp_path, processes, devices):
    one = start(1, 1, *STEPS, "--workdir", "one").end()
    assert one[0][0] == 0, one
    many = start(processes, devices, *STEPS, "--workdir", "many").end()
    assert [code for code, *_ in many] == [0] * processes, many
    assert all("eval_top1" not in out for _, out, _ in many[1:])  # only process 0 reports
    assert_same(tmp_path / "one", tmp_path / "many")


def test_sigterm_to_one_ends_all_at_the_same_step(start, tmp_path):
    """SIGTERM to one of two processes ends both at one step, and a single process resumes there."""
    options = ["--workdir", "w", "--checkpoint-every", "1000"]
    run = start(2, 1, *options, "--steps", "100000")
    run.until("step 3/")
    run.members[1].send_signal(signal.SIGTERM)
    ends = run.end(120)
    assert [code for code, *_ in ends] == [42, 42], ends
    saved = {err.split("saved at step ")[1].split(";")[0] for *_, err in ends}
    assert len(saved) == 1
    step = int(saved.pop())
    code, out, err = start(1, 2, *options, "--steps", str(step + 2)).end()[0]
    assert code == 0, err
    assert f"resuming at step {step}," in out


@pytest.mark.parametrize("signalled", [(0,), (1,), (0, 1)])
def test_sigterm_ends_processes_whose_batch_does_not_come(start, tmp_path, signalled):
    """SIGTERM while no batch arrives ends all processes without a save, with exit code 42.

    No process can save without the others.
    """
    run = start(2, 1, "--workdir", "w", "--steps", "100000", "--checkpoint-every", "3")
    run.until("step 10/")
    (tmp_path / "stall").touch()
    time.sleep(2)
    for member in signalled:
        run.members[member].send_signal(signal.SIGTERM)
    for code, _, err in run.end(60):
        assert code == 42, err
        assert err.count("\n") == 1
        assert "not saved" in err
    (tmp_path / "stall").unlink()
    code, out, err = start(2, 1, "--workdir", "w", "--steps", "12").end()[0]
    assert code == 0, err
    assert "resuming at step " in out


def test_a_slice_that_comes_back_smaller_trains_on(start, tmp_path):
    """A run on four devices of two hosts resumes on one device, and gives the same numbers."""
    options = [*STEPS, "--checkpoint-every", "1000"]
    assert start(1, 1, *options, "--workdir", "one").end()[0][0] == 0
    run = start(2, 2, *options, "--workdir", "w")
    run.until("step 5/")
    run.members[1].send_signal(signal.SIGTERM)
    ends = run.end(300)
    assert [code for code, *_ in ends] == [42, 42], ends
    code, out, err = start(1, 1, *options, "--workdir", "w").end()[0]
    assert code == 0, err
    assert "1 cpu device(s) of 1 process(es): resuming at step" in out
    assert_same(tmp_path / "one", tmp_path / "w")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_does_not_leave_the_others_hanging(start, how):
    """If one process is killed or stopped, the other one ends with an error within a minute.

    Only the heartbeat shows that a process is stopped.
    """
    run = start(2, 1, "--workdir", "w", "--steps", "100000", "--heartbeat-timeout", "10")
    run.until("step 3/")
    run.members[1].send_signal(how)
    lost = time.monotonic()
    _, err = run.members[0].communicate(timeout=90)
    assert time.monotonic() - lost < 60
    assert run.members[0].returncode not in (0, 42)
    if how == signal.SIGKILL:
        assert "another process of the run is lost" in err
        assert "Traceback" not in err


def test_a_lost_coordinator_ends_the_others_with_one_line(start):
    run = start(2, 1, "--workdir", "w", "--steps", "100000", "--heartbeat-timeout", "10")
    run.until("step 3/")
    run.members[0].kill()
    _, err = run.members[1].communicate(timeout=90)
    assert run.members[1].returncode == 1
    assert err.count("\n") == 1
    assert "another process of the run is lost" in err


def test_processes_of_different_runs_are_refused(start, tmp_path):
    run = start(2, 1, "--workdir", "w", "--steps", "10", only_last=("--eval-every", "3"))
    for code, _, err in run.end(120):
        assert code == 2, err
        assert "process(es) 1 have different options from process 0" in err
    assert not (tmp_path / "w").exists()
