"""What stands between the loop and the compiled step: packed states, batches read ahead."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.engine import ahead, job
from train.engine.packing import SMALL, Packing
from train.hosts.devices import Devices


def tree(start: float = 0.0):
    draw = np.random.default_rng(0).normal
    return {
        "step": np.int32(7),
        "conv": {"kernel": draw(size=(3, 3, 40, 70)) + start, "small": draw(size=(2, 3)) + start},
        "bn": [draw(size=5) + start, np.float32(draw(size=6) + start), None],
        "scale": np.float64(start),
    }


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


def test_a_packed_tree_comes_back(wide):
    devices = Devices(8)
    packing = Packing(tree())
    packed = packing.put(tree(), devices.copy)
    assert {name: len(v) for name, v in packed.vectors.items()} == {
        "int32": 1, "float64": 2 * 3 + 5 + 1, "float32": 6,
    }  # fmt: skip
    assert [x.shape for x in packed.others] == [(3, 3, 40, 70)]
    found = packing.take(packed, devices.copy)
    jax.tree.map(np.testing.assert_array_equal, found, tree())
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, tree())
    inside = jax.jit(lambda p: packing.pack(packing.unpack(p)))(packed)
    jax.tree.map(np.testing.assert_array_equal, inside, packed)
    # A large array of the devices is not copied.
    assert packing.put(found, devices.copy).others[0] is packed.others[0]


@pytest.mark.parametrize("largest", [0, SMALL])
def test_a_packed_step_is_the_step(wide, largest):
    devices = Devices(8)
    packing = Packing(tree(), largest)

    def step(state, batch):
        moved = jax.tree.map(lambda x: x + batch["label"].sum().astype(x.dtype), state)
        return moved, {"loss": state["bn"][1].sum()}

    batch = devices.put({"label": np.arange(8)})
    packed = packing.put(tree(), devices.copy)
    expected, metrics = step(tree(), {"label": jnp.arange(8)})
    found, found_metrics = job.jit(step, packing, devices)(packed, batch)
    assert all(x.is_deleted() for x in jax.tree.leaves(packed))  # its memory is the next state's
    jax.tree.map(np.testing.assert_allclose, packing.take(found, devices.copy), expected)
    np.testing.assert_allclose(found_metrics["loss"], metrics["loss"])


def test_nothing_is_packed_on_cpus():
    devices = Devices(8)
    assert not job.packing_for(tree(), devices).pack(tree()).vectors
    devices.on_cpu = False
    assert job.packing_for(tree(), devices).pack(tree(), np.concatenate).vectors


def rows(count: int, at_end: Exception | None = None):
    for i in range(count):
        yield {"image": np.full(2, i), "label": np.full(2, i), "mask": None, "notes": (i,)}
    if at_end:
        raise at_end


def test_batches_are_read_ahead_in_order():
    put = Devices(8).put
    read = []

    def noted():
        for row in rows(5):
            read.append(row["notes"])
            yield row

    def spread(batch):
        return put({name: array.repeat(4) for name, array in batch.items()})

    with ahead.on_devices(noted(), spread) as ready:
        first, notes = next(ready)
        assert set(first) == {"image", "label"}
        assert notes == (0,)
        found = [notes for _, notes in ready]
    assert found == [(1,), (2,), (3,), (4,)]
    assert not [t for t in threading.enumerate() if t.name.startswith("input")]


def test_what_the_input_raises_comes_at_its_place():
    with ahead.on_devices(rows(2, OSError("disk")), dict) as ready:
        assert [next(ready)[1] for _ in range(2)] == [(0,), (1,)]
        with pytest.raises(OSError, match="disk"):
            next(ready)


def test_leaving_early_ends_the_thread():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield from rows(1)

    with ahead.on_devices(endless(), dict) as ready:
        next(ready)
    count = len(taken)
    assert count <= 4
    assert not [t for t in threading.enumerate() if t.name.startswith("input")]
