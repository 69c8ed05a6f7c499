"""Compares metrics of images that stay on devices with metrics of the same images on the host."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from inception_jax import metrics
from inception_jax.metrics import moments, state
from tests.helpers.loop_metrics import extractor, pictures, small, tiny
from tests.helpers.networks import CLASSES

ROOT = Path(__file__).parents[2]
X64 = [False, True]


# Sums


def features_with(offset: float, n: int = 500, d: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    features = np.abs(rng.normal(size=(n, d)) @ rng.normal(size=(d, d))).astype(np.float32)
    features[:, 3] *= 1e-6
    features[:, 4] = 0
    return features + np.float32(offset)


def exact(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = features.astype(np.longdouble)
    centred = wide - wide.mean(0)
    return wide.mean(0).astype(float), (centred.T @ centred / (len(wide) - 1)).astype(float)


def assert_exact(found: moments.Moments, features: np.ndarray):
    mean, cov, count = moments.mean_and_covariance(found)
    expected_mean, expected_cov = exact(features)
    deviation = np.sqrt(np.diag(expected_cov))
    deviation[deviation == 0] = 1
    np.testing.assert_allclose(mean / deviation, expected_mean / deviation, rtol=1e-12, atol=1e-12)
    each = np.outer(deviation, deviation)
    np.testing.assert_allclose(cov / each, expected_cov / each, rtol=0, atol=1e-11)
    assert count == len(features)


def summed(features: np.ndarray, batch: int) -> moments.Moments:
    """Adds features in batches of `batch` rows; returns the sums.

    NaN pads the last batch and is masked.
    """
    found = moments.empty(features.shape[1])
    add = jax.jit(moments.add)
    for start in range(0, len(features), batch):
        part = features[start : start + batch]
        mask = np.arange(batch) < len(part)
        missing = [(0, batch - len(part)), (0, 0)]
        found = add(found, np.pad(part, missing, constant_values=np.nan), mask)
    return found


@pytest.mark.parametrize("x64", X64)
@pytest.mark.parametrize("batch", [1, 7, 50, 500])
@pytest.mark.parametrize("offset", [0, 1e4])
def test_sums_are_those_of_more_than_float64(batch, offset, x64):
    """Sums match extended precision for large means and columns of different scales."""
    features = features_with(offset)[: 60 if batch == 1 else None]
    with jax.enable_x64(x64):
        found = summed(features, batch)
        assert found.outer.dtype == ("float64" if x64 else "float32")
        assert_exact(found, features)


@pytest.mark.parametrize("x64", X64)
def test_sums_are_merged(x64):
    features = features_with(3.0)
    with jax.enable_x64(x64):
        merge = jax.jit(moments.merge)
        parts = [summed(features[:9], 4), summed(features[9:200], 50), summed(features[200:], 300)]
        nothing = moments.empty(20)
        assert_exact(merge(merge(parts[0], nothing), merge(parts[1], parts[2])), features)
        assert_exact(merge(nothing, merge(parts[2], merge(parts[0], parts[1]))), features)


def test_plain_float32_would_not_do():
    """Covariances from plain float32 sums are too inaccurate for the tests above."""
    features = features_with(0)
    plain = np.cov(features, rowvar=False, dtype=np.float32)
    assert np.abs(plain - exact(features)[1]).max() > 1e-8 * np.abs(plain).max()


# States


def updated(images: np.ndarray, batch: int = 12, who: metrics.Extractor | None = None, **options):
    who = who or small()
    found = who.init(**options)
    for start in range(0, len(images), batch):
        found = who.update(found, images[start : start + batch])
    return found


def test_result_is_the_fid_of_the_images():
    fake, real = pictures(36), pictures(48, seed=1, low=90)
    expected = metrics.fid(fake, real, extractor=small())
    theirs = small().statistics(real)
    states = [updated(x) for x in (fake, real)]
    assert metrics.result(*states) == pytest.approx(expected, rel=1e-6)
    assert metrics.result(states[0], theirs) == pytest.approx(expected, rel=1e-6)
    assert metrics.result(states[0], small().features(real)) == pytest.approx(expected, rel=1e-6)
    assert metrics.statistics_of(states[0]).count == 36
    assert metrics.statistics_of(states[0]).origin == theirs.origin
    assert theirs.origin.network == "quarters"


def test_result_takes_a_file(tmp_path):
    fake, real = (updated(pictures(24, seed, low=low)) for seed, low in ((0, 0), (1, 90)))
    metrics.statistics_of(real).save(tmp_path / "real.npz")
    found = metrics.result(fake, tmp_path / "real.npz")
    assert found == pytest.approx(metrics.result(fake, real), rel=1e-12)


def test_in_float64():
    """With x64 enabled, sums are float64, and results agree within a relative 1e-9.

    The network still computes in float32.
    """
    fake, real = pictures(24), pictures(24, seed=1, low=90)
    expected = metrics.result(updated(fake), updated(real))
    with jax.enable_x64(True):
        states = [updated(x) for x in (fake, real)]
        assert states[0].moments["pooled"].outer.dtype == np.float64
        assert metrics.result(*states) == pytest.approx(expected, rel=1e-9)


def test_masked_images_do_not_count():
    images = pictures(12)
    wrong = np.concatenate([images[:9], np.full((3, *images.shape[1:]), 255, np.uint8)])
    found = small().update(small().init(), wrong, np.arange(12) < 9)
    expected = updated(images[:9], 9)
    assert int(found.count) == 9
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    nothing = small().update(small().init(), images, np.zeros(12, bool))
    assert int(nothing.count) == 0
    with pytest.raises(ValueError, match="at least two images; got 0"):
        metrics.statistics_of(nothing)
    with pytest.raises(ValueError, match=r"a mask for 12 images must be \[12\]; got \[3\]"):
        small().update(small().init(), images, np.ones(3, bool))


def test_a_step_of_ones_own_may_be_compiled():
    """`update` works in a user's compiled step that generates images, also within a scan.

    The network's parameters are arguments of the step, so the step captures no arrays.
    """
    who = small()
    network = {"mean": jnp.full(3, 0.3)}

    @jax.jit
    def step(generator, params, found, key):
        noise = jax.random.uniform(key, (8, 16, 16, 3))
        images = jnp.clip(noise * 0.5 + generator["mean"], 0, 1)
        return who.update(found, images, params=params, value_range=(0, 1)), images

    found = who.init()
    every = []
    for i in range(5):
        found, images = step(network, who.params, found, jax.random.key(i))
        every.append(images)
    expected = updated(np.floor(np.concatenate(every) * 255 + 0.5).astype(np.uint8), 8)
    assert int(found.count) == 40
    assert metrics.result(found, expected) == pytest.approx(0, abs=1e-9)
    looped = jax.lax.scan(
        lambda s, key: (step(network, who.params, s, key)[0], None),
        who.init(),
        jax.random.split(jax.random.key(0), 3),
    )[0]
    assert int(looped.count) == 24


def test_parameters_are_no_constants():
    who = extractor(dims=64)
    images = pictures(2)
    argued = jax.make_jaxpr(lambda p, s: who.update(s, images, params=p))(who.params, who.init())
    largest = max((x.size for x in argued.consts), default=0)
    assert largest <= images.size


def test_states_are_merged():
    images = pictures(60)
    parts = [updated(images[i:j], keep=20) for i, j in ((0, 12), (12, 36), (36, 60))]
    merge = jax.jit(metrics.merge)
    merged = merge(merge(parts[0], parts[1]), parts[2])
    whole = updated(images, keep=20)
    assert metrics.result(merged, whole) == pytest.approx(0, abs=1e-11)
    np.testing.assert_array_equal(metrics.features_of(merged).pooled, whole.kept["pooled"])
    np.testing.assert_array_equal(merged.pixel_range, whole.pixel_range)


def test_states_are_saved_and_restored(tmp_path):
    images = pictures(36)
    found = updated(images[:12], keep=20)
    leaves, structure = jax.tree.flatten(found)
    np.savez(tmp_path / "state.npz", *leaves)
    with np.load(tmp_path / "state.npz") as file:
        again = jax.tree.unflatten(structure, [file[name] for name in file.files])
    for start in (12, 24):
        part = images[start : start + 12]
        found, again = (small().update(s, part) for s in (found, again))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.origin == found.origin


def test_states_are_checkpointed_by_orbax(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    found = updated(pictures(12))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", found)
        checkpointer.wait_until_finished()
        again = checkpointer.restore(tmp_path / "state", small().init())
    assert isinstance(again, metrics.State)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_features_that_are_kept_serve_the_other_metrics():
    images = pictures(40)
    who = extractor()
    found = metrics.features_of(updated(images[:10], 4, who, keep=12))
    expected = who.features(images[:10])
    assert len(found) == 10
    assert found.origin == expected.origin
    atol = 2e-6 * np.abs(expected.pooled).max()
    np.testing.assert_allclose(found.pooled, expected.pooled, rtol=0, atol=atol)
    assert found.logits_unbiased is not None
    assert found.logits_unbiased.shape == (10, CLASSES)
    assert metrics.inception_score(found).mean > 0
    with pytest.raises(ValueError, match=r"extractor\.init\(keep=N\)"):
        metrics.features_of(who.init())


def test_states_of_other_features_are_refused():
    images = pictures(4)
    with pytest.raises(ValueError, match="2048 features; got"):
        small().update(metrics.init(), images)
    with pytest.raises(ValueError, match=r"features of different .* cannot be compared"):
        small().update(extractor().init(), images)
    with pytest.raises(ValueError, match=r"features of different .* cannot be compared"):
        metrics.merge(small().init(), extractor().init())
    assert int(small().update(metrics.init(12), images).count) == 4


def test_features_that_are_no_numbers_are_found():
    broken = metrics.Extractor(features=metrics.OwnFeatures(lambda x: tiny(x) / 0, "b", size=16))
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.statistics_of(broken.update(broken.init(), pictures(4)))


# Devices


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_images_on_several_devices(axis_type):
    """Images sharded over 2 virtual devices give the results of unsharded ones, also in `jit`."""
    who, images = small(), pictures(24)
    mesh = jax.make_mesh((2,), ("data",), (axis_type,))
    place = NamedSharding(mesh, PartitionSpec("data"))
    expected = updated(images)
    found = stepped = who.init()
    step = jax.jit(lambda s, x: who.update(s, x, params=who.params))
    for start in range(0, 24, 2):  # one image per device
        part = jax.device_put(images[start : start + 2], place)
        found = who.update(found, part)
        stepped = step(stepped, part)
    assert metrics.result(found, expected) == pytest.approx(0, abs=1e-11)
    assert metrics.result(stepped, expected) == pytest.approx(0, abs=1e-11)
    assert found.moments["pooled"].outer.is_fully_replicated


def test_states_of_several_devices_are_merged():
    who, images = small(), pictures(24)
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,))

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def share(params, images):
        own = who.update(who.init(), images, params=params)
        return metrics.merge_over(own, "data")

    found = jax.jit(share)(who.params, images)
    assert int(found.count) == 24
    assert metrics.result(found, updated(images)) == pytest.approx(0, abs=1e-11)


@pytest.mark.parametrize("block", [3, 8])
def test_blocks_change_nothing(block):
    who = small(block=block)
    images = pictures(17)
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,))
    spread = jax.device_put(images[:16], NamedSharding(mesh, PartitionSpec("data")))
    expected = small().apply(None, images).pooled
    for part in (images, images[:1], images[:5], spread):
        found = who.apply(None, part).pooled
        np.testing.assert_array_equal(found, expected[: len(part)])


def run_shares(batch: int, shared: bool, processes: int, devices: int) -> float:
    """Runs `tests.helpers.fid_shares` in one or more processes; returns the FID that it prints.

    All processes must print the same number. If `shared`, images are sharded over all devices.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    members = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.helpers.fid_shares", str(batch),
             str(int(shared)), str(processes), str(i), str(port)],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": str(devices),
                 "PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(processes)
    ]  # fmt: skip
    ends = [member.communicate(timeout=600) for member in members]
    assert all(member.returncode == 0 for member in members), ends
    (found,) = {float(out.splitlines()[-1]) for out, _ in ends}
    return found


@pytest.mark.slow
def test_batches_devices_and_processes_change_nothing():
    """FID of a narrow Inception V3 does not depend on batch size, devices or processes."""
    expected = run_shares(50, shared=False, processes=1, devices=1)
    assert expected > 1
    for batch, shared, processes, devices in [
        (7, False, 1, 1),
        (1, False, 1, 1),
        (50, True, 1, 2),
        (1, True, 1, 2),
        (7, True, 2, 2),
        (1, False, 2, 2),
    ]:
        found = run_shares(batch, shared, processes, devices)
        assert found == pytest.approx(expected, rel=1e-9), (batch, shared, processes, devices)


def test_of_one_process_there_is_nothing_to_merge():
    found = updated(pictures(12))
    assert metrics.across_processes(found) is found
    assert state.WIDTH == 2048
