"""Tests what is between the training loop and the compiled step: `jit` and prefetching."""

from __future__ import annotations

import threading

import jax
import numpy as np
import pytest

from train.engine.job import jit
from train.engine.prefetch import prefetch
from train.hosts.devices import BatchOptions, Devices


def test_a_step_takes_its_states_memory():
    devices = Devices(BatchOptions(8))

    def step(state, batch):
        moved = jax.tree.map(lambda x: x + batch["label"].sum().astype(x.dtype), state)
        return moved, {"loss": state["b"].sum()}

    state = jax.tree.map(devices.copy, {"a": np.ones((3, 4), np.float32), "b": np.arange(5)})
    batch = devices.put({"label": np.arange(8)})
    found, metrics = jit(step, devices)(state, batch)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    np.testing.assert_array_equal(found["a"], np.full((3, 4), 29))
    np.testing.assert_array_equal(found["b"], np.arange(5) + 28)
    assert metrics["loss"] == 10


def rows(count: int, at_end: Exception | None = None):
    for i in range(count):
        yield {"image": np.full(2, i), "label": np.full(2, i), "mask": None, "notes": (i,)}
    if at_end:
        raise at_end


def test_batches_are_read_ahead_in_order():
    put = Devices(BatchOptions(8)).put
    read = []

    def noted():
        for row in rows(5):
            read.append(row["notes"])
            yield row

    def spread(batch):
        return put({name: array.repeat(4) for name, array in batch.items()})

    with prefetch(noted(), spread) as ready:
        first, notes = next(ready)
        assert set(first) == {"image", "label"}
        assert notes == (0,)
        found = [notes for _, notes in ready]
    assert found == [(1,), (2,), (3,), (4,)]
    assert not [t for t in threading.enumerate() if t.name.startswith("input")]


def test_what_the_input_raises_comes_at_its_place():
    with prefetch(rows(2, OSError("disk")), dict) as ready:
        assert [next(ready)[1] for _ in range(2)] == [(0,), (1,)]
        with pytest.raises(OSError, match="disk"):
            next(ready)


def test_leaving_early_ends_the_thread():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield from rows(1)

    with prefetch(endless(), dict) as ready:
        next(ready)
    count = len(taken)
    assert count <= 4
    assert not [t for t in threading.enumerate() if t.name.startswith("input")]
