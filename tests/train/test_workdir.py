"""Tests how a workdir is protected from runs with other data, lost files and concurrent runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from train.data import pipeline
from train.engine import loop
from train.workdir.lock import Holder, Lock

TINY = ["--arch", "tiny", "--batch-size", "4", "--log-every", "2", "--no-tensorboard"]
# Options that would otherwise depend on the number of steps. With them, a run may get more steps.
RATE = ["--lr-decay-epochs", "1", "--warmup-epochs", "0", "--ema-decay", "0.9"]
FOLDER = [*TINY, *RATE, "--dataset", "folder", "--checkpoint-every", "2", "--workdir", "w"]

pytestmark = [
    pytest.mark.filterwarnings("default"),
    # Orbax leaves coroutines and tasks behind when a file cannot be read.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def images(root: Path, *classes: str, count: int = 8) -> None:
    """Writes `count` images a class, each of a single colour, as root/CLASS/NUMBER.png."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            value = 60 * label + 5 * i
            Image.new("RGB", (20, 20), (value, value, 90)).save(root / name / f"{i}.png")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Returns a folder for the run that all tests start from; `trained` fills the folder once."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def trained(train_here, tmp_path, template):
    """Puts a finished run of four steps, and its images, into `tmp_path`.

    Returns the content of the run's `result.json`.
    """
    if not (template / "w").exists():
        images(tmp_path / "pets", "cat", "dog")
        code, _, err = train_here(*FOLDER, "--data-dir", "pets", "--steps", "4")
        assert code == 0, err
        shutil.copytree(tmp_path, template, dirs_exist_ok=True)
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return json.loads((tmp_path / "w/result.json").read_text())


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "checkpoints").rglob("*"))
        if path.is_file() and "orbax-checkpoint-tmp" not in str(path)  # which the next run deletes
    }


def assert_refused(end: tuple[int, str, str], *words: str, code: int = 2) -> None:
    """Checks the exit code, and that standard error is one line that contains all `words`.

    `end` is the exit code, the standard output and the standard error of a run.
    """
    found, out, err = end
    assert (found, err.count("\n")) == (code, 1), err
    assert err.startswith("error: ")
    assert "eval_top1" not in out
    for word in words:
        assert word in err


def forget_the_run(folder: Path) -> None:
    """Removes from a workdir all facts about the run, as if an earlier version had written it."""
    (folder / "run.json").unlink(missing_ok=True)
    for path in folder.glob("checkpoints/*/_CHECKPOINT_METADATA"):
        content = json.loads(path.read_text())
        content["custom_metadata"] = {"crc32": content["custom_metadata"]["crc32"]}
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("lost", ["nothing", "run.json", "run.json and the checkpoints' copies"])
@pytest.mark.parametrize("classes", [("ant", "bee"), ("ant", "bee", "cow"), ("cat", "dog", "emu")])
def test_another_project_is_refused(trained, train_here, tmp_path, classes, lost):
    images(tmp_path / "others", *classes)
    if lost == "run.json":
        (tmp_path / "w/run.json").unlink()
    elif lost != "nothing":
        forget_the_run(tmp_path / "w")
    before = checkpoints(tmp_path / "w")
    options = [*FOLDER, "--data-dir", "others"]
    for more in (["--steps", "4"], ["--steps", "8"], ["--eval-only"]):
        end = train_here(*options, *more)
        assert_refused(end, "another project", "'cat', 'dog'", repr(classes[0]), "--workdir w-2")
    assert checkpoints(tmp_path / "w") == before
    assert not (tmp_path / "w/damaged_checkpoints").exists()


def test_a_checkpoint_of_another_shape_is_not_damaged(trained, train_here, tmp_path):
    """A run with another network is refused, and the checkpoints do not count as damaged.

    Only the shapes of the arrays show that the network differs.
    """
    images(tmp_path / "others", "ant", "bee", "cow")
    forget_the_run(tmp_path / "w")
    for name in ("weights.safetensors", "result.json"):
        (tmp_path / "w" / name).unlink()
    before = checkpoints(tmp_path / "w")
    for more in (["--steps", "8"], ["--eval-only"], ["--steps", "8", "--start-over"]):
        end = train_here(*FOLDER, "--data-dir", "others", *more)
        assert end[0] == 2, end
        assert "another network" in end[2].splitlines()[-1]
    assert checkpoints(tmp_path / "w") == before


@pytest.mark.parametrize(
    "damage",
    ["delete", *(pytest.param(how, marks=pytest.mark.slow) for how in ("empty", "cut"))],
)
def test_a_lost_configuration_is_compared_with_the_checkpoints_copy(
    trained, train_here, tmp_path, damage
):
    (tmp_path / "w/run.json").unlink()
    path = tmp_path / "w/config.json"
    path.unlink() if damage == "delete" else path.write_text("" if damage == "empty" else '{"a')
    options = [*FOLDER, "--data-dir", "pets", "--steps", "6"]
    assert_refused(train_here(*options, "--learning-rate", "9"), "learning_rate", "now 9.0")
    code, out, err = train_here(*options)
    assert code == 0, err
    assert "resuming at step 4" in out
    assert json.loads(path.read_text())["batch_size"] == 4

    forget_the_run(tmp_path / "w")
    path.unlink()
    assert_refused(train_here(*options), "config.json is missing or damaged", "Restore the file")


def test_a_workdir_of_an_earlier_version_resumes(trained, train_here, tmp_path):
    forget_the_run(tmp_path / "w")
    code, out, err = train_here(*FOLDER, "--data-dir", "pets", "--steps", "6")
    assert code == 0, err
    assert "resuming at step 4" in out
    assert "by an earlier version" in err
    assert json.loads((tmp_path / "w/run.json").read_text())["project"]["classes"] == ["cat", "dog"]


def test_changed_images_are_refused_or_accepted(trained, train_here, tmp_path):
    options = [*FOLDER, "--data-dir", "pets", "--steps", "6"]
    shutil.move(tmp_path / "pets", tmp_path / "moved")  # the same images elsewhere
    shutil.copytree(tmp_path / "moved", tmp_path / "pets")
    for i in range(3):
        shutil.copy(tmp_path / "pets/cat/0.png", tmp_path / f"pets/cat/new{i}.png")
    assert_refused(train_here(*options), "'cat' ", "now ", "--data-changed accept")

    code, out, err = train_here(*options, "--data-changed", "accept")
    assert code == 0, err
    assert "resuming at step 4" in out
    assert "note: the images have changed" in err
    assert json.loads((tmp_path / "w/config.json").read_text())["data_changed"] == "accept"
    assert len(json.loads((tmp_path / "w/run.json").read_text())["data_changes"]) == 1
    code, again, err = train_here(*options)  # the accepted images are now the run's
    assert code == 0, err
    assert "finished" in again

    for path in (tmp_path / "pets/dog").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    assert_refused(train_here(*options), "train: ", "test: ", "as before, but other files")
    assert_refused(train_here(*options, "--eval-only"), "test: ")
    end = train_here(*FOLDER, "--data-dir", "moved", "--steps", "6", "--data-changed", "accept")
    assert end[0] == 0, end


@pytest.mark.parametrize(
    "how",
    [
        "cut",
        pytest.param("description", marks=pytest.mark.slow),
        pytest.param("empty folder", marks=pytest.mark.slow),
    ],
)
def test_every_checkpoint_damaged(trained, train_here, tmp_path, how):
    for step in (tmp_path / "w/checkpoints").iterdir():
        if how == "cut":
            largest = max(step.rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
            largest.write_bytes(largest.read_bytes()[:10])
        elif how == "description":
            (step / "_CHECKPOINT_METADATA").unlink()
        else:
            shutil.rmtree(step)
            step.mkdir()
    before = checkpoints(tmp_path / "w")
    options = [*FOLDER, "--data-dir", "pets"]
    for more in (["--eval-only"], ["--steps", "6"]):
        end = train_here(*options, *more)
        assert_refused(end, "every checkpoint", "step 4", "step 3", "--start-over", code=1)
        assert "handler" not in end[2]
    assert checkpoints(tmp_path / "w") == before

    code, out, err = train_here(*options, "--steps", "6", "--start-over")
    assert code == 0, err
    assert ": starting," in out
    assert {p.name for p in (tmp_path / "w/damaged_checkpoints").iterdir()} == {"3", "4"}


def test_results_without_checkpoints_are_not_replaced(trained, train_here, tmp_path):
    shutil.rmtree(tmp_path / "w/checkpoints")
    options = [*FOLDER, "--data-dir", "pets", "--steps", "4"]
    assert_refused(train_here(*options), "weights.safetensors", "--start-over")
    assert train_here(*options, "--start-over")[0] == 0


@pytest.mark.parametrize("content", ["", '{"step": ', "[]"])
def test_a_damaged_result_counts_as_absent(trained, train_here, tmp_path, content):
    (tmp_path / "w/result.json").write_text(content)
    code, out, err = train_here(*FOLDER, "--data-dir", "pets", "--steps", "4")
    assert code == 0, err
    assert "result.json is damaged" in err
    assert json.loads(out.splitlines()[-1]) == trained
    assert json.loads((tmp_path / "w/result.json").read_text()) == trained


def test_default_workdirs_differ_by_data_and_a_new_name_is_proposed(train_here, tmp_path):
    for name in ("a/pets", "b/pets"):
        images(tmp_path / name, "cat", "dog" if name[0] == "a" else "cow")
    options = [*TINY, "--dataset", "folder", "--steps", "2"]
    assert train_here(*options, "--data-dir", "a/pets")[0] == 0
    assert (tmp_path / "runs/tiny-pets/run.json").exists()
    end = train_here(*options, "--data-dir", "b/pets")
    assert_refused(end, "another project", "--workdir runs/tiny-pets-2")
    end = train_here(*options, "--data-dir", "a/pets", "--seed", "3")
    assert_refused(end, "seed 0, now 3", "--workdir runs/tiny-pets-2")


# ---- Two runs at once ----


def test_a_second_run_is_refused_at_once(trained, train_here, tmp_path):
    """A run is refused while the lock's process lives; a dead process's lock is taken over."""
    options = [*FOLDER, "--data-dir", "pets", "--steps", "6"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        lock = tmp_path / "w/run.lock"
        born = int(Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19])
        holder = dataclasses.replace(Holder.this(), pid=other.pid, born=born)
        lock.write_text(json.dumps(dataclasses.asdict(holder)))
        started = time.monotonic()
        assert_refused(train_here(*options), "in use", f"process {other.pid} on {holder.host}")
        assert time.monotonic() - started < 5
        assert lock.exists()
        assert train_here(*options, "--eval-only")[0] == 0  # which only reads
        other.kill()
    code, out, err = train_here(*options)
    assert code == 0, err
    assert f"took over the lock of process {other.pid} on {holder.host}" in err
    assert "resuming at step 4" in out
    assert not lock.exists()


def test_the_lock_of_another_host(tmp_path, monkeypatch, capsys):
    """The lock of another host holds until its heartbeat stops; then a new run takes it over."""
    monkeypatch.setattr("train.workdir.lock._HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr("train.workdir.lock._STALE_SECONDS", 1.0)
    holder = dataclasses.replace(Holder.this(), host="elsewhere", machine="another")
    path = tmp_path / "run.lock"
    path.write_text(json.dumps(dataclasses.asdict(holder)))
    alive = threading.Timer(0.3, lambda: os.utime(path))
    alive.start()
    with pytest.raises(Exception, match=rf"in use by another run \(process {holder.pid} on else"):
        Lock(tmp_path)
    alive.join()
    lock = Lock(tmp_path)  # no further sign of life
    assert "took over the lock of process" in capsys.readouterr().err
    path.write_text(json.dumps(dataclasses.asdict(holder)))  # as after a long sleep
    with pytest.raises(Exception, match="was taken over by"):
        lock.check()
    lock.release()
    assert path.exists()


# ---- How it ends ----


def test_a_full_disk_is_one_line_every_time(trained, train_here, tmp_path):
    options = [*FOLDER, "--data-dir", "pets", "--steps", "8"]
    before = checkpoints(tmp_path / "w")
    with small_files():
        for _ in range(2):
            end = train_here(*options)
            assert end[0] == 1, end
            assert end[2].splitlines()[-1].startswith("error: ")
            assert "Traceback" not in end[2]
    assert checkpoints(tmp_path / "w") == before
    assert train_here(*options)[0] == 0


@contextlib.contextmanager
def small_files():
    """Limits the size of files to 20 kB, to simulate a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_unforeseen_error_is_one_line_and_a_trace(trained, train_here, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("something\nstrange \x1b[31m")

    monkeypatch.setattr(loop.Loop, "_log", broken)
    end = train_here(*FOLDER, "--data-dir", "pets", "--steps", "8")
    assert_refused(end, "RuntimeError: something", "(trace: w/error.log)", code=1)
    trace = (tmp_path / "w/error.log").read_text()
    assert "in broken" in trace
    assert "strange" in trace


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_sigterm_while_a_batch_does_not_come(trained, train_here, tmp_path, monkeypatch, where):
    """SIGTERM saves the state and ends the run even if no batch arrives, as when a disk hangs."""
    hangs, released = threading.Event(), threading.Event()
    kind = pipeline._TrainingImages if where == "training" else pipeline._TestImages
    view, steps = kind._view, 4 * (5 if where == "training" else 0)

    def stalls(self, *arguments):
        nonlocal steps
        steps -= 1
        if steps < 0:
            hangs.set()
            released.wait(60)
        return view(self, *arguments)

    def terminate():
        hangs.wait(60)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        released.set()  # else this process would keep the thread

    monkeypatch.setattr(kind, "_view", stalls)
    thread = threading.Thread(target=terminate)
    thread.start()
    code, _, err = train_here(*FOLDER, "--data-dir", "pets", "--steps", "60")
    thread.join()
    assert code == 42, err
    saved = int(err.split("saved at step ")[1].split(";")[0])
    assert (tmp_path / f"w/checkpoints/{saved}").exists()
    assert saved > 4


def test_weights_of_interrupted_runs_are_those_of_one(trained, train_here, tmp_path):
    code, _, err = train_here(*FOLDER, "--data-dir", "pets", "--steps", "7")
    assert code == 0, err
    straight = [word if word != "w" else "straight" for word in FOLDER]
    assert train_here(*straight, "--data-dir", "pets", "--steps", "7")[0] == 0
    a, b = (
        safetensors.numpy.load_file(tmp_path / name / "weights.safetensors")
        for name in ("w", "straight")
    )
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)
