"""Tests that runs train with a workdir or images in a bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.helpers import buckets
from tests.helpers.clusters import free_port, until
from tests.helpers.written_images import write_folder
from train import storage
from train.errors import UsageError

pytestmark = pytest.mark.slow  # the tests start processes that import, compile and wait

ROOT = Path(__file__).parents[2]
OPTIONS = ["--arch", "tiny", "--batch-size", "8", "--log-every", "1", "--checkpoint-every", "10"]
WORKDIR = f"gs://{buckets.BUCKET}/runs/a"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with buckets.server(tmp_path_factory.mktemp("bucket")) as running:
        yield running


@pytest.fixture
def in_bucket(bucket, monkeypatch):
    """Gives this process access to the bucket; yields the server; empties the bucket at the end."""
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    top = storage.place(f"gs://{buckets.BUCKET}")
    system = storage.filesystem(top)
    type(system).clear_instance_cache()
    yield bucket
    for name in storage.sizes(top):
        storage.filesystem(top).rm_file(f"{top}/{name}")


class Run:
    """The processes of a training run, which share a current folder and a temporary folder.

    Args:
        folder: parent of both folders, and of the logs of the processes.
        bucket: server of the bucket.
        processes: number of processes.
        *options: options of the training programme, added to those in `OPTIONS`.
    """

    def __init__(self, folder: Path, bucket: buckets.Server, processes: int, *options: str):
        self.folder, self.logs = folder, []
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        (folder / "here").mkdir(exist_ok=True)
        port, self.members = free_port(), []
        places = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(processes)]
        for i in range(processes):
            own = [*places, "--process-id", str(i)] if processes > 1 else []
            log = folder / f"log-{len(list(folder.glob('log-*')))}"
            with log.open("w") as file:
                self.members.append(subprocess.Popen(
                    [sys.executable, "-m", "tests.helpers.tiny", *OPTIONS, *options, *own],
                    cwd=folder / "here", stdout=file, stderr=file,
                    env={**os.environ, **bucket.env, "TMPDIR": str(folder / "tmp"),
                         "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu",
                         "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                         "JAX_NUM_CPU_DEVICES": str(2 // processes)},
                ))  # fmt: skip
            self.logs.append(log)

    @property
    def text(self) -> str:
        return self.logs[0].read_text()

    def until(self, words: str) -> None:
        def said() -> bool:
            assert words in self.text or self.members[0].poll() is None, self.text
            return words in self.text

        until(said, f"no {words!r} in {self.text}")

    def end(self, seconds: float = 300) -> list[int]:
        return [member.wait(seconds) for member in self.members]

    def kill(self) -> None:
        for member in self.members:
            member.kill()
            member.wait()

    def assert_nothing_left(self) -> None:
        """Checks that neither the current folder nor the temporary folder has files."""
        assert list((self.folder / "here").rglob("*")) == []
        assert [p for p in (self.folder / "tmp").rglob("*") if p.is_file()] == []


@pytest.fixture
def start(tmp_path, in_bucket):
    runs = []

    def start(processes: int, *options: str) -> Run:
        runs.append(Run(tmp_path / "run", in_bucket, processes, *options))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def losses(workdir: Path) -> list[float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load((workdir / "weights.safetensors").read_bytes())


def steps(workdir: Path) -> list[int]:
    return sorted(
        int(path.parent.name) for path in workdir.glob("checkpoints/*/commit_success.txt")
    )


def test_two_processes_killed_and_resumed_end_as_undisturbed(start, tmp_path, in_bucket):
    local, place = tmp_path / "local", storage.place(WORKDIR)
    assert start(1, "--steps", "80", "--workdir", str(local)).end() == [0]
    run = start(2, "--steps", "80", "--workdir", WORKDIR)
    run.until("step 35/")
    until(lambda: len(steps(place)) >= 2, "no two checkpoints")
    run.kill()
    newest = max(steps(place))
    # Overwrite a few bytes of the newest checkpoint.
    data = max(in_bucket.file(f"runs/a/checkpoints/{newest}/state/d").iterdir(),
               key=lambda file: file.stat().st_size)  # fmt: skip
    content = bytearray(data.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8] = b"damaged!"
    data.write_bytes(content)
    run = start(2, "--steps", "80", "--workdir", WORKDIR)
    assert run.end() == [0, 0], run.text
    assert f"the checkpoint of step {newest} is damaged" in run.text
    assert "took over the lock" in run.text
    assert losses(place) == losses(local)
    assert len(losses(local)) == 80
    for name, tensor in weights(local).items():
        np.testing.assert_array_equal(weights(place)[name], tensor, err_msg=name)
    kept = {path.name for path in place.iterdir()}
    assert {"run.json", "config.json", "result.json", "report.html", "curves.svg", "checkpoints",
            "confusion.png", "predictions.png", "classes.csv", "tensorboard",
            "damaged_checkpoints", "metrics.jsonl", "weights.safetensors"} <= kept  # fmt: skip
    assert "run.lock" not in kept
    run.assert_nothing_left()


def test_sigterm_saves_and_one_process_resumes(start, in_bucket):
    run = start(2, "--steps", "100000", "--workdir", WORKDIR, "--checkpoint-every", "100000")
    run.until("step 3/")
    run.members[1].send_signal(signal.SIGTERM)
    assert run.end() == [42, 42], run.text
    saved = int(run.text.split("saved at step ")[1].split(";")[0])
    assert steps(storage.place(WORKDIR)) == [saved]
    run = start(1, "--steps", str(saved + 2), "--workdir", WORKDIR, "--checkpoint-every", "100000")
    assert run.end() == [0], run.text
    assert f"resuming at step {saved}," in run.text


def test_a_server_that_restarts_during_saves_loses_nothing(start, in_bucket):
    """A run repeats a save that fails because the server restarts.

    Unlike Google's server, the test server forgets partly uploaded files when it restarts.
    """
    run = start(1, "--steps", "200", "--workdir", WORKDIR, "--checkpoint-every", "5")
    for step in (20, 60, 100):
        until(lambda s=step: f"step {s}/" in run.text or run.members[0].poll() is not None, "ends")
        in_bucket.kill()
        in_bucket.start()
    assert run.end() == [0], run.text
    assert len(losses(storage.place(WORKDIR))) == 200
    assert max(steps(storage.place(WORKDIR))) == 200


def test_one_run_at_a_time(start, in_bucket):
    first = start(1, "--steps", "100000", "--workdir", WORKDIR)
    first.until("step 1/")
    second = start(1, "--steps", "100000", "--workdir", WORKDIR)
    assert second.end() == [2]
    assert "is in use by another run" in second.text
    first.members[0].send_signal(signal.SIGTERM)
    assert first.end() == [42]
    assert not (storage.place(WORKDIR) / "run.lock").exists()


def test_images_in_a_bucket_are_those_of_the_folder(start, tmp_path, in_bucket):
    local = write_folder(
        tmp_path / "images", {"train": {"a": 20, "b": 20}, "val": {"a": 5, "b": 5}}
    )
    (local / "train/a/notes.txt").write_text("no image")
    there = f"gs://{buckets.BUCKET}/images"
    storage.filesystem(there).put(f"{local}/", f"{there}/", recursive=True)
    found = []
    for data, workdir in ((local, tmp_path / "w"), (there, WORKDIR)):
        run = start(1, "--dataset", "folder", "--data-dir", str(data), "--workdir", str(workdir),
                    "--image-size", "16", "--steps", "10")  # fmt: skip
        assert run.end() == [0], run.text
        assert "1 of 51 files are skipped" in run.text
        found.append(storage.place(str(workdir)))
    assert losses(found[0]) == losses(found[1])
    identity = [json.loads((place / "run.json").read_text())["data"] for place in found]
    assert identity[0] == identity[1]


def test_a_lock_is_created_once_and_removed_by_one(in_bucket):
    lock = storage.place(f"gs://{buckets.BUCKET}/lock")
    assert storage.create(lock, "a")
    assert not storage.create(lock, "b")
    assert lock.read_text() == "a"
    assert not storage.remove_if(lock, lambda text: text == "b")
    assert storage.remove_if(lock, lambda text: text == "a")
    assert not storage.remove_if(lock, lambda text: text == "a")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--workdir", "gs://", "gs://BUCKET/FOLDER"),
        ("--workdir", "http://host/a", "gs://BUCKET/FOLDER"),
        ("--workdir", f"gs://no-{buckets.BUCKET}/a", "cannot be written to"),
        ("--init-from", f"gs://{buckets.BUCKET}/a", "copy it to a local disk"),
    ],
)
def test_bad_addresses_are_refused(train_here, in_bucket, option, value, words):
    code, _, err = train_here("--arch", "tiny", "--steps", "1", option, value)
    assert code == 2
    assert words in err


def test_records_in_a_bucket_are_refused(in_bucket):
    from train.data.open_dataset import open_dataset

    folder = storage.place(f"gs://{buckets.BUCKET}/data")
    (folder / "imagenet2012/5.1.0/dataset_info.json").write_text("{}")
    with pytest.raises(UsageError, match="local files alone"):
        open_dataset("imagenet2012", folder)
