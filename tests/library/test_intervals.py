"""Compares density, coverage, Gaussian KID, intervals and FID infinity with plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial

from inception_jax import metrics
from inception_jax.metrics import manifolds
from inception_jax.metrics.frechet import DistanceTo


def random_features(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) / np.sqrt(d)) + rng.normal()


def plain_density_coverage(generated, real, k):
    between = scipy.spatial.distance.cdist(real, generated)
    radii = np.sort(scipy.spatial.distance.cdist(real, real), axis=1)[:, k]
    inside = between < radii[:, None]
    return inside.sum(0).mean() / k, (between.min(1) < radii).mean()


@pytest.mark.parametrize("block", [7, 2048])
@pytest.mark.parametrize("neighbours", [1, 5])
def test_density_and_coverage_are_those_of_all_distances(block, neighbours, monkeypatch):
    monkeypatch.setattr(manifolds, "_BLOCK", block)
    generated, real = random_features(40, 3, 0) + 100, random_features(31, 3, 1, scale=1.5) + 100
    expected = plain_density_coverage(generated, real, neighbours)
    assert 0 < expected[1] < 1
    found = metrics.manifold_density_coverage(generated, real, neighbours=neighbours)
    assert found == pytest.approx(expected, rel=1e-12)


def test_density_and_coverage_of_extremes():
    a = random_features(20, 4, 0)
    assert metrics.manifold_density_coverage(a + 1e3, a) == (0, 0)
    assert metrics.manifold_density_coverage(a, a).coverage == 1
    crowded = np.repeat(a[:1], 30, axis=0)
    assert metrics.manifold_density_coverage(crowded, a).coverage < 1
    with pytest.raises(ValueError, match="neighbours need more real images"):
        metrics.manifold_density_coverage(a, a[:5])
    with pytest.raises(ValueError, match="not comparable"):
        metrics.manifold_density_coverage(a[:, :3], a)


@pytest.mark.peers
def test_precision_recall_density_and_coverage_are_prdcs():
    prdc = pytest.importorskip("prdc")
    generated, real = random_features(90, 8, 0), random_features(80, 8, 1)
    for k in (1, 3, 5):
        expected = prdc.compute_prdc(real_features=real, fake_features=generated, nearest_k=k)
        found = metrics.manifold_density_coverage(generated, real, neighbours=k)
        assert found == pytest.approx((expected["density"], expected["coverage"]), rel=1e-9)
        found = metrics.manifold_precision_recall(generated, real, neighbours=k)
        assert found[:2] == pytest.approx((expected["precision"], expected["recall"]), rel=1e-9)


def test_the_gaussian_kernel_is_the_sum_over_pairs():
    a, b = random_features(7, 5, 0), random_features(7, 5, 1)

    def kernel(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * 3.0**2))

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    expected = np.mean([kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs])
    expected -= 2 * np.mean([kernel(x, y) for x in a for y in b])
    found = metrics.kernel_distance(a, b, subset_size=7, sigma=3.0)
    assert found.mean == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="sigma must be above 0"):
        metrics.kernel_distance(a, b, subset_size=7, sigma=0)


def scipys_distance(a: np.ndarray, b: np.ndarray) -> float:
    apart = a.mean(0) - b.mean(0)
    covs = [np.cov(x, rowvar=False) for x in (a, b)]
    root = scipy.linalg.sqrtm(covs[0] @ covs[1])
    return apart @ apart + np.trace(covs[0]) + np.trace(covs[1]) - 2 * np.trace(root).real


def test_distances_to_one_set_are_scipys():
    real = random_features(300, 20, 1)
    distance = DistanceTo(metrics.Statistics.of(real))
    for n in (200, 40):
        fake = random_features(n, 20, 0, scale=2)
        assert distance(fake) == pytest.approx(scipys_distance(fake, real), rel=1e-9)
        weights = np.random.default_rng(0).integers(0, 4, n).astype(float)
        repeated = np.repeat(fake, weights.astype(int), axis=0)
        assert distance(fake, weights) == pytest.approx(scipys_distance(repeated, real), rel=1e-9)
    few = random_features(9, 20, 0)  # so few that scipy's root is noise
    expected = metrics.frechet_distance(metrics.Statistics.of(few), metrics.Statistics.of(real))
    assert distance(few) == pytest.approx(expected, rel=1e-6)


def test_bootstrap_is_that_of_repeated_images():
    fake, real = random_features(60, 4, 0), random_features(200, 4, 1)
    found = metrics.bootstrap_fid(
        metrics.Features(fake), metrics.Statistics.of(real), resamples=30, level=0.9, seed=3
    )
    rng = np.random.default_rng(3)
    each = []
    for _ in range(30):
        counts = rng.multinomial(60, np.full(60, 1 / 60))
        each.append(scipys_distance(np.repeat(fake, counts, axis=0), real))
    assert found.value == pytest.approx(scipys_distance(fake, real), rel=1e-9)
    assert found.std == pytest.approx(np.std(each, ddof=1), rel=1e-6)
    assert found.high - found.value == pytest.approx(1.6448536 * found.std, rel=1e-6)


def test_bootstrap_says_how_much_fid_varies():
    """The bootstrap's standard deviation agrees with FID's deviation over new sets of images."""
    real = metrics.Statistics.of(random_features(5000, 4, 1))
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    sets = [rng.normal(size=(400, 4)) @ mixing for _ in range(60)]
    distance = DistanceTo(real)
    true = np.std([distance(x) for x in sets], ddof=1)
    found = [
        metrics.bootstrap_fid(metrics.Features(x), real, resamples=60, seed=i).std
        for i, x in enumerate(sets[:10])
    ]
    assert np.mean(found) == pytest.approx(true, rel=0.3)


def test_fid_infinity_is_the_line_at_0():
    fake, real = random_features(200, 6, 0), random_features(500, 6, 1)
    found = metrics.fid_infinity(
        metrics.Features(fake), metrics.Features(real), points=8, smallest=50, seed=5
    )
    rng = np.random.default_rng(5)
    sizes = np.linspace(50, 200, 8).astype(int)
    y = [scipys_distance(fake[rng.permutation(200)[:n]], real) for n in sizes]
    (slope, value), cov = np.polyfit(1 / sizes, y, 1, cov=True)
    assert slope > 0
    assert found.value == pytest.approx(value, rel=1e-6)
    assert found.std == pytest.approx(np.sqrt(cov[1, 1]), rel=1e-6)


def test_fid_infinity_takes_off_the_bias():
    """FID infinity of images from the real distribution is near 0, although their FID is not."""
    rng = np.random.default_rng(0)
    real = metrics.Statistics(np.zeros(30), np.eye(30))
    fake = metrics.Features(rng.normal(size=(2000, 30)))
    plain = metrics.fid(fake, real)
    found = metrics.fid_infinity(fake, real)
    assert plain > 0.1
    assert abs(found.value) < plain / 4


def test_too_little_for_an_interval():
    fake, real = (
        metrics.Features(random_features(9, 4, 0)),
        metrics.Statistics(np.zeros(4), np.eye(4)),
    )
    with pytest.raises(ValueError, match="resamples must be at least 2"):
        metrics.bootstrap_fid(fake, real, resamples=1)
    with pytest.raises(ValueError, match="three sizes"):
        metrics.fid_infinity(fake, real, points=2)
    with pytest.raises(ValueError, match="three sizes"):
        metrics.fid_infinity(fake, real, smallest=9)
    with pytest.raises(ValueError, match="4 features cannot be compared with 3"):
        metrics.fid_infinity(fake, metrics.Statistics(np.zeros(3), np.eye(3)))
