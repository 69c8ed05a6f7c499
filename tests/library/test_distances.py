"""Tests statistics, distances and scores of features against plain formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.spatial
import scipy.special
import scipy.stats

from inception_jax import metrics
from inception_jax.metrics import manifolds
from tests.helpers.metric_sets import distance, exact_distance, random_features, scipys_distance

# Statistics and the distance


def test_running_statistics_are_those_of_all_at_once():
    """Statistics do not depend on the batch size, even with a mean of a million."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 12)) @ rng.normal(size=(12, 12)) + 1e6
    for batch in (1, 7, 999, 3000):
        running = metrics.RunningStatistics()
        for start in range(0, len(features), batch):
            running.update(features[start : start + batch])
        found = running.result()
        np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-14)
        expected = np.cov(features, rowvar=False)
        np.testing.assert_allclose(found.cov, expected, rtol=0, atol=1e-9 * expected.max())
        assert found.count == 3000


def test_results_may_be_taken_in_between():
    features = np.random.default_rng(0).normal(size=(50, 3))
    running = metrics.RunningStatistics()
    running.update(features[:20])
    np.testing.assert_allclose(running.result().cov, np.cov(features[:20], rowvar=False))
    running.update(features[20:])
    np.testing.assert_allclose(running.result().cov, np.cov(features, rowvar=False))


def test_statistics_refuse_what_has_none():
    with pytest.raises(ValueError, match="at least two images; got 1"):
        metrics.Statistics.of(np.ones((1, 3)))
    with pytest.raises(ValueError, match="got 0"):
        metrics.RunningStatistics().result()
    running = metrics.RunningStatistics()
    running.update(np.zeros((5, 3)))
    running.result()
    with pytest.raises(ValueError, match=r"of one d; got \[5, 4\]"):
        running.update(np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"NaN.*weights"):
        metrics.Statistics.of(np.full((5, 3), np.nan))
    for mean, cov, words in [
        (np.zeros(3), np.eye(2), "covariance"),
        (np.zeros(2), np.full((2, 2), np.inf), "infinite"),
        (np.zeros(2), np.array([[1, 2], [3, 4]]), "symmetric"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.Statistics(mean, cov)


@pytest.mark.parametrize("d", [1, 5, 60])
def test_frechet_distance_is_scipys_where_it_is_sound(d):
    a, b = random_features(500, d, 0), random_features(400, d, 1, scale=2)
    expected = scipys_distance(a, b)
    assert expected > 0.1
    assert distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert distance(b, a) == pytest.approx(expected, rel=1e-9)
    assert exact_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(10, 15), (10, 300), (300, 10), (2, 2)])
def test_frechet_distance_of_singular_covariances_is_exact(n, m):
    a, b = random_features(n, 80, 0), random_features(m, 80, 1)
    expected = exact_distance(a, b)
    traces = sum(np.cov(x, rowvar=False).trace() for x in (a, b))
    assert distance(a, b) == pytest.approx(expected, abs=1e-9 * traces)
    assert distance(b, a) == pytest.approx(expected, abs=1e-9 * traces)
    without = metrics.Statistics.of(b)
    without = metrics.Statistics(without.mean, without.cov)  # without a count, as in pytorch-fid
    found = metrics.frechet_distance(without, metrics.Statistics.of(a))
    assert found == pytest.approx(expected, abs=1e-6 * traces)


def test_frechet_distance_of_uneven_variances_is_exact():
    """The distance is exact even if variances differ a millionfold.

    This needs the Cholesky decomposition: with eigenvalues instead, only 9 digits would be right.
    """
    scales = np.logspace(0, -3, 80)
    mixing = random_features(80, 80, 2)
    a, b = ((random_features(300, 80, seed) * scales) @ mixing for seed in (0, 1))
    traces = sum(np.cov(x, rowvar=False).trace() for x in (a, b))
    assert distance(a, b) == pytest.approx(exact_distance(a, b), abs=1e-13 * traces)


def test_frechet_distance_of_extremes():
    a = random_features(30, 50, 0)
    assert 0 <= distance(a, a) < 1e-9
    assert distance(a, a + 2) == pytest.approx(50 * 4, rel=1e-9)
    constant = np.ones((5, 50))
    assert distance(constant, constant) == 0
    expected = np.cov(a, rowvar=False).trace() + ((a.mean(0) - 1) ** 2).sum()
    assert distance(a, constant) == pytest.approx(expected, rel=1e-9)
    left, right = np.zeros((9, 50)), np.zeros((9, 50))
    left[:, :5], right[:, 5:10] = a[:9, :5], a[9:18, :5]  # nothing in common
    found = metrics.Statistics.of(left), metrics.Statistics.of(right)
    apart = ((left.mean(0) - right.mean(0)) ** 2).sum()
    traces = found[0].cov.trace() + found[1].cov.trace()
    assert metrics.frechet_distance(*found) == pytest.approx(apart + traces, rel=1e-9)


def test_rounded_covariances_give_a_distance():
    """Covariances rounded to float32 or float16 give nearly the exact distance.

    Rounding makes some eigenvalues of the covariances negative.
    """
    a, b = (metrics.Statistics.of(random_features(20, 60, seed)) for seed in (0, 1))
    expected = metrics.frechet_distance(a, b)
    for dtype, rel in ((np.float32, 1e-3), (np.float16, 0.05)):
        x, y = (metrics.Statistics(s.mean, s.cov.astype(dtype)) for s in (a, b))
        assert np.linalg.eigvalsh(x.cov).min() < -1e-10
        assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=rel)


def test_statistics_of_different_stages_have_no_distance():
    a, b = (metrics.Statistics.of(random_features(9, d, 0)) for d in (4, 5))
    with pytest.raises(ValueError, match=r"4 and of 5 features"):
        metrics.frechet_distance(a, b)


# Metrics of features


def kernel(x, y):
    return (float(np.dot(x, y)) / len(x) + 1) ** 3


def test_kernel_distance_is_the_sum_over_pairs():
    a, b = random_features(7, 5, 0), random_features(7, 5, 1)
    pairs = list(itertools.permutations(range(7), 2))
    expected = np.mean([kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs])
    expected -= 2 * np.mean([kernel(x, y) for x in a for y in b])
    found = metrics.kernel_distance(a, b, subset_size=7)
    assert found.mean == pytest.approx(expected, rel=1e-12)
    assert np.isnan(found.std)


def test_kernel_distance_draws_subsets_as_torch_fidelity():
    a, b = random_features(30, 5, 0), random_features(20, 5, 1)
    rng = np.random.RandomState(7)
    expected = []
    for _ in range(4):
        x = a[rng.choice(30, 10, replace=False)]
        y = b[rng.choice(20, 10, replace=False)]
        expected.append(metrics.kernel_distance(x, y, subset_size=10).mean)
    found = metrics.kernel_distance(a, b, subsets=4, subset_size=10, seed=7)
    assert found == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-12)


def test_kernel_distance_is_unbiased():
    """The mean KID of many pairs of small sets from one distribution is zero, unlike FID."""
    rng = np.random.default_rng(0)
    values = [
        metrics.kernel_distance(
            rng.normal(size=(20, 50)), rng.normal(size=(20, 50)), subset_size=20
        )
        for _ in range(300)
    ]
    means = np.array([v.mean for v in values])
    assert abs(means.mean()) < 4 * means.std() / np.sqrt(300)
    assert (means < 0).any()


def test_kernel_distance_of_few_images():
    a, b = random_features(12, 5, 0), random_features(30, 5, 1)
    with pytest.warns(UserWarning, match="subsets of 12 images"):
        found = metrics.kernel_distance(a, b, subsets=5)
    assert found == metrics.kernel_distance(a, b, subsets=5, subset_size=12)
    assert found.std > 0
    with pytest.warns(UserWarning, match="only one such subset"):
        assert np.isnan(metrics.kernel_distance(a, b[:12]).std)
    with pytest.raises(ValueError, match="two images"):
        metrics.kernel_distance(a[:1], b)
    with pytest.raises(ValueError, match="5 features"):
        metrics.kernel_distance(a, b[:, :4])


def test_inception_score_is_the_authors_formula():
    logits = 3 * np.random.default_rng(0).normal(size=(53, 9)).astype(np.float32)
    p = scipy.special.softmax(logits.astype(np.float64), axis=1)
    scores = []
    for i in range(4):
        part = p[i * 53 // 4 : (i + 1) * 53 // 4]
        scores.append(np.exp(np.mean([scipy.stats.entropy(row, part.mean(0)) for row in part])))
    found = metrics.score_of_logits(logits, splits=4)
    assert found == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-9)


def test_inception_score_of_extremes():
    assert metrics.score_of_logits(np.zeros((20, 7))) == pytest.approx((1, 0))
    certain = 1e4 * np.eye(7)[np.arange(70) % 7]
    assert metrics.score_of_logits(certain) == pytest.approx((7, 0))
    faint = np.array([[0, -745.0], [0, -1e4]])  # the mean probability underflows
    assert metrics.score_of_logits(faint, splits=1) == pytest.approx((1, 0))
    with pytest.raises(ValueError, match=r"5 images.*10 splits"):
        metrics.score_of_logits(np.zeros((5, 7)))


@pytest.mark.parametrize("block", [7, 2048])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_are_those_of_all_distances(block, neighbours, monkeypatch):
    monkeypatch.setattr(manifolds, "_BLOCK", block)
    generated = random_features(40, 3, 0) + 100
    real = random_features(31, 3, 1, scale=1.5) + 100

    def share(points, centres):
        own = np.sort(scipy.spatial.distance.cdist(centres, centres), axis=1)[:, neighbours]
        return (scipy.spatial.distance.cdist(points, centres) <= own).any(1).mean()

    expected = share(generated, real), share(real, generated)
    assert 0 < expected[0] < 1
    assert expected[0] != expected[1]
    found = metrics.manifold_precision_recall(generated, real, neighbours=neighbours)
    assert found == pytest.approx(expected)


def test_precision_and_recall_of_extremes():
    a = random_features(20, 4, 0)
    assert metrics.manifold_precision_recall(a, a) == (1, 1)
    assert metrics.manifold_precision_recall(a, a + 1e3) == (0, 0)
    narrow = np.concatenate([a[:5] + i * 1e-6 for i in range(5)])
    assert metrics.manifold_precision_recall(narrow, a) == (1, 5 / 20)
    with pytest.raises(ValueError, match="neighbours need more images"):
        metrics.manifold_precision_recall(a[:3], a)
