"""Tests checkpoints that are damaged or cannot be saved, with a state of a few arrays."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import SingleDeviceSharding

from train.engine.checkpoint import Checkpoints, checksums
from train.engine.step import TrainState
from train.errors import TrainingError

SHARDING = SingleDeviceSharding(jax.devices()[0])

# Orbax leaves coroutines and tasks behind when a file cannot be read; they surface in later tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
]


def state(step: int, size: int = 16) -> TrainState:
    params = {
        f"layer{i}": {
            "kernel": jax.random.normal(jax.random.key(10 * step + i), (size, size)),
            "bias": jnp.arange(3.0) * step,
        }
        for i in range(3)
    }
    stats = {"bn": {"mean": jnp.full(4, float(step))}}
    tx = optax.sgd(0.1, momentum=0.9)
    return TrainState(jnp.int32(step), params, stats, params, stats, tx.init(params))


def opened(folder: Path, keep: int = 2) -> Checkpoints:
    return Checkpoints(folder, SHARDING, keep)


@pytest.fixture
def saved(tmp_path):
    """Returns a folder with checkpoints of steps 2 and 3, of which step 2 is the best."""
    with opened(tmp_path) as checkpoints:
        checkpoints.save(state(2), top1=0.5)
        checkpoints.save(state(3))
    return tmp_path


def assert_restores(folder: Path, step: int) -> None:
    with opened(folder) as checkpoints:
        found = checkpoints.restore(state(0))
    assert found is not None
    assert found.step == step
    jax.tree.map(np.testing.assert_array_equal, found, state(step))


def steps(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_the_last_and_the_best_are_kept(tmp_path):
    with opened(tmp_path) as checkpoints:
        for step, top1 in ((1, 0.4), (2, 0.9), (3, None), (4, 0.7), (5, None), (6, 0.8)):
            checkpoints.save(state(step), top1)
    assert steps(tmp_path) == {"2", "5", "6"}
    assert_restores(tmp_path, 6)


def test_nothing_saved_nothing_restored(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(state(0)) is None


def files_of(folder: Path) -> list[Path]:
    return [p for p in (folder / "checkpoints/3").rglob("*") if p.is_file() and p.stat().st_size]


@pytest.mark.parametrize(
    "damage",
    [
        "flip",
        pytest.param("delete", marks=pytest.mark.slow),
        pytest.param("truncate", marks=pytest.mark.slow),
        pytest.param("empty", marks=pytest.mark.slow),
    ],
)
def test_any_damaged_file_is_found_or_does_not_matter(saved, damage, capfd):
    """If a file is damaged, either step 3 is restored, or step 2 with a message.

    Each file is damaged in turn. The restored state is always exact.
    """
    rng = np.random.default_rng(0)
    before = 0
    for path in files_of(saved):
        content = path.read_bytes()
        changed = bytearray(content)
        at = int(rng.integers(len(content)))
        changed[at] ^= 1 << int(rng.integers(8))
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes(
                {"flip": bytes(changed), "truncate": content[: len(content) // 2], "empty": b""}[
                    damage
                ]
            )
        with opened(saved) as checkpoints:
            found = checkpoints.restore(state(0))
        assert found is not None
        jax.tree.map(np.testing.assert_array_equal, found, state(int(found.step)))
        if found.step == 2:
            before += 1
            assert "the checkpoint of step 3 is damaged" in capfd.readouterr().err
            (saved / "damaged_checkpoints/3").rename(saved / "checkpoints/3")
        path.write_bytes(content)
    assert before >= 3
    assert_restores(saved, 3)


def test_an_array_that_is_read_otherwise_than_it_was_saved_is_damage(saved, monkeypatch, capfd):
    """Checksums detect an array with one wrong bit, even if the file format does not."""
    with opened(saved) as checkpoints:
        load = checkpoints._checkpointer.load

        def one_bit_off(step, abstract):
            leaves, structure = jax.tree.flatten(load(step, abstract))
            if step == 3:
                i = max(range(len(leaves)), key=lambda i: leaves[i].size)
                bits = np.asarray(leaves[i]).copy()
                bits.view(np.uint32).flat[0] ^= 1
                leaves[i] = jax.device_put(bits, leaves[i].sharding)
            return structure.unflatten(leaves)

        monkeypatch.setattr(checkpoints._checkpointer, "load", one_bit_off)
        found = checkpoints.restore(state(0))
    assert found.step == 2
    assert "the checkpoint of step 3 is damaged" in capfd.readouterr().err


def test_a_damaged_step_is_saved_anew(saved):
    largest = max(files_of(saved), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:10])
    with opened(saved) as checkpoints:
        assert checkpoints.restore(state(0)).step == 2
        checkpoints.save(state(3), top1=0.1)
    assert_restores(saved, 3)
    assert (saved / "damaged_checkpoints/3").exists()


def test_a_half_written_step_is_not_seen(saved):
    """The temporary folder of a killed save is deleted, and the last complete step is restored.

    Orbax renames the temporary folder only when the checkpoint is complete.
    """
    (saved / "checkpoints/4.orbax-checkpoint-tmp/state").mkdir(parents=True)
    assert_restores(saved, 3)
    assert steps(saved) == {"2", "3"}


def test_damaged_metrics_cost_the_best_and_nothing_else(saved, capsys):
    path = saved / "checkpoints/2/metrics/metrics"
    json.loads(path.read_text())
    path.write_text('{"top1": 0.')
    assert_restores(saved, 3)
    assert "is damaged" in capsys.readouterr().err


def test_a_full_disk_leaves_the_earlier_ones(saved):
    """A save that fails on a full disk raises a TrainingError; earlier checkpoints are kept.

    A limit of 20 kB on the size of files simulates the full disk.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = opened(saved)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        checkpoints.save(state(5, size=256))
        with pytest.raises(
            TrainingError, match=r"step 5 could not be saved.*earlier ones are kept"
        ):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_restores(saved, 3)


class Outage:
    """Replaces a checkpointer's `save_async`; the first saves fail as if the storage were down.

    Args:
        checkpointer: checkpointer that saves after the outage.
        times: number of saves that fail.
        late: if True, a save fails when its result is awaited; if False, when it is started.
    """

    def __init__(self, checkpointer, times: int, late: bool):
        self.real, self.times, self.late = checkpointer.save_async, times, late

    def __call__(self, *args, **options):
        if self.times == 0:
            return self.real(*args, **options)
        self.times -= 1
        if self.late:
            return self
        raise ConnectionError("no answer")

    def result(self):
        raise ConnectionError("no answer")


@pytest.fixture
def in_bucket(tmp_path, monkeypatch, caplog):
    """Returns a function that opens local checkpoints as if in a bucket; the first saves fail.

    The function takes the arguments `times` and `late` of `Outage`.
    """

    def begin(times: int, late: bool) -> Checkpoints:
        checkpoints = opened(tmp_path)
        outage = Outage(checkpoints._checkpointer, times, late)

        def reopened(self):
            checkpointer = real()
            outage.real = checkpointer.save_async
            monkeypatch.setattr(checkpointer, "save_async", outage)
            return checkpointer

        real = checkpoints._open
        monkeypatch.setattr(Checkpoints, "_open", reopened)
        checkpoints._checkpointer = checkpoints._open()
        monkeypatch.setattr("train.engine.checkpoint.storage.is_remote", lambda _: True)
        return checkpoints

    yield begin
    monkeypatch.undo()


@pytest.mark.parametrize("late", [False, True])
def test_in_a_bucket_a_failed_save_is_tried_again(in_bucket, tmp_path, monkeypatch, caplog, late):
    with in_bucket(2, late) as checkpoints:
        checkpoints.save(state(1), finish=True)
    assert caplog.text.count("step 1 could not be saved (no answer)") == 2
    assert steps(tmp_path) == {"1"}
    monkeypatch.undo()
    assert_restores(tmp_path, 1)


def test_in_a_bucket_the_next_save_replaces_a_failed_one(in_bucket, tmp_path, caplog):
    with in_bucket(1, True) as checkpoints:
        checkpoints.save(state(1))
        checkpoints.save(state(2))
        checkpoints.save(state(3))
    assert caplog.text.count("could not be saved") == 1
    assert steps(tmp_path) == {"2", "3"}


@pytest.mark.parametrize("late", [False, True])
def test_in_a_bucket_the_third_failure_ends_the_run(in_bucket, tmp_path, late):
    checkpoints = in_bucket(3, late)
    with pytest.raises(TrainingError, match=r"step 1 could not be saved \(no answer\)"):
        checkpoints.save(state(1), finish=True)
    assert steps(tmp_path) == set()


def test_checksums_know_place_and_content():
    tree = {"a": jnp.arange(4.0), "b": {"c": jnp.arange(4.0)}}
    first = checksums(tree)
    assert set(first) == {"['a']", "['b']['c']"}
    changed = checksums({**tree, "a": tree["a"].at[2].set(np.nextafter(np.float32(2), 3))})
    assert first["['a']"] != changed["['a']"]
    assert first["['b']['c']"] == changed["['b']['c']"]
