"""FID, KID, Inception Score, precision and recall against formulas and networks of others."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import re
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.special
import scipy.stats
from flax import nnx
from PIL import Image

import inception_jax as ij
from inception_jax import metrics
from inception_jax.cli import fid as command
from inception_jax.inference import compiled as predict
from inception_jax.metrics import manifolds, resizing
from inception_jax.metrics.extractor import _pooled
from inception_jax.metrics.image_files import image_files
from inception_jax.metrics.image_loader import LoaderOptions, batches, open_images
from tests.helpers.networks import CLASSES, WIDTH, filled

torch = pytest.importorskip("torch")
import torch.nn.functional as F

import reference_torch
from tests.helpers.twins import twin_of

RECURSIVE = dataclasses.replace(metrics.PRESETS["pytorch_fid"].files, recursive=True)
STAGES = {64: "MaxPool_3a_3x3", 192: "MaxPool_5a_3x3", 768: "Mixed_6e", 2048: "Mixed_7c"}
SIZES = [(299, 299), (60, 83), (301, 64), (512, 400), (1, 7)]


def pictures(n: int, seed: int = 0, size: tuple[int, int] = (60, 70), low: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(low, 256, (n, *size, 3), np.uint8)


def write(folder, images, ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.{ending}")
    return folder


@functools.cache
def networks():
    model = filled("inception_v3.fid", width_multiplier=WIDTH, num_classes=CLASSES)
    return model, twin_of(model, "inception_v3.fid", "float32")


@functools.cache
def extractor(**options) -> metrics.Extractor:
    """A narrow network, compiled once for each set of options."""
    return metrics.Extractor(networks()[0], **{"batch_size": 4, **options})


@pytest.fixture
def nothing_computed(monkeypatch):
    """Fails a test that computes an image."""

    def computed(*_):
        raise AssertionError("an image was computed")

    monkeypatch.setattr(metrics.Extractor, "_computed", computed)


def torch_input(image: np.ndarray) -> torch.Tensor:
    """As pytorch-fid feeds an image to its network."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    return 2 * F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) - 1


def assert_same_features(ours: metrics.Features, theirs: metrics.Features):
    assert (ours.logits_unbiased is None) == (theirs.logits_unbiased is None)
    for a, b in ((ours.pooled, theirs.pooled), (ours.logits_unbiased, theirs.logits_unbiased)):
        if a is None or b is None:
            continue
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())


# Resizing


@pytest.mark.parametrize("size", [*SIZES, (1024, 768), (299, 300)])
def test_bilinear_torch_is_torchs(size):
    image = pictures(1, size=size)[0]
    expected = torch_input(image)[0].permute(1, 2, 0).numpy()
    ours = resizing.resized(image, "bilinear_torch")
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_tf1_is_the_formula_of_the_graph(size):
    """Output pixel i lies at i * old / 299, and past the last pixel there is the last one."""
    image = pictures(1, size=size)[0]
    ours = resizing.resized(image, "bilinear_tf1")
    assert ours.shape == (299, 299, 3)
    for y, x in [(0, 0), (298, 298), (298, 0), (17, 113), (150, 149)]:
        rows, columns = (at * old / 299 for at, old in zip((y, x), size, strict=True))
        top, left = int(rows), int(columns)
        total = np.zeros(3)
        for i, j in itertools.product((0, 1), repeat=2):
            share = abs(1 - i - rows % 1) * abs(1 - j - columns % 1)
            total += share * image[min(top + i, size[0] - 1), min(left + j, size[1] - 1)]
        np.testing.assert_allclose(ours[y, x], (total - 128) / 128, atol=1e-4)
    other = resizing.resized(image, "bilinear_torch")
    assert np.abs(ours - other).max() > 1e-3


# Features


@pytest.mark.parametrize("dims", STAGES)
def test_features_are_those_of_the_pytorch_twin(dims):
    _, twin = networks()
    images = [pictures(1, seed=i, size=size)[0] for i, size in enumerate(SIZES)]
    x = torch.cat([torch_input(image) for image in images])
    with torch.no_grad():
        expected = twin.features(x)[STAGES[dims]].mean((2, 3)).numpy()
        logits = (twin(x) - twin.fc.bias).numpy()
    ours = (extractor() if dims == 2048 else extractor(dims=dims)).features(images)
    assert ours.pooled.dtype == np.float32
    np.testing.assert_allclose(ours.pooled, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    if dims == 2048:
        atol = 1e-5 * np.abs(logits).max()
        np.testing.assert_allclose(ours.logits_unbiased, logits, rtol=0, atol=atol)
    else:
        assert ours.logits_unbiased is None


def test_the_graphs_resizing_changes_the_features():
    images = pictures(4)
    torchs = extractor().features(images).pooled
    tf1 = extractor(resize="bilinear_tf1").features(images).pooled
    assert np.abs(torchs - tf1).max() > 1e-3 * np.abs(torchs).max()


@pytest.mark.parametrize(
    "options", [{"batch_size": 50, "workers": 1, "parts": 1}, {"batch_size": 7, "parts": 3}]
)
def test_features_do_not_depend_on_how_the_work_is_cut(options):
    images = pictures(9)
    assert_same_features(extractor(**options).features(images), extractor().features(images))


def test_accelerators_share_a_batch():
    """The way of several devices, on virtual ones; 5 images do not share out evenly."""
    sharing = metrics.Extractor(networks()[0], dims=64, batch_size=5)
    graphdef, state = nnx.split(ij.fold(networks()[0]))

    @jax.jit
    def compute(state, images):
        return _pooled(nnx.merge(graphdef, state), images, 64)

    devices = jax.local_devices()
    assert len(devices) > 1
    sharing.__dict__["_call"] = predict._on(devices, compute, nnx.to_pure_dict(state))
    images = pictures(7)
    assert_same_features(sharing.features(images), extractor(dims=64).features(images))


def test_all_kinds_of_sources_give_the_same_features(tmp_path):
    images = pictures(5)
    expected = extractor().features(images)
    folder = write(tmp_path / "folder", images)
    for source in (
        folder,
        str(folder),
        iter(images),
        (batch for batch in (images[:3], images[3:])),
        [images[0], Image.fromarray(images[1]), folder / "002.png", images[3:]],
        torch.from_numpy(images),
    ):
        assert_same_features(extractor().features(source), expected)


def test_files_are_read_as_colour_images(tmp_path):
    grey = pictures(1)[0, :, :, 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    rgba = Image.fromarray(pictures(1)[0]).convert("RGBA")
    rgba.putalpha(10)
    rgba.save(tmp_path / "b.png")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "c.tif")
    ours = extractor().features(tmp_path)
    expected = extractor().features([np.stack([grey] * 3, -1), *[pictures(1)[0]] * 2])
    assert_same_features(ours, expected)


@pytest.mark.parametrize("count", [3, 40])
def test_reading_ahead_is_bounded(count):
    taken = 0

    def source():
        nonlocal taken
        for image in pictures(count, size=(4, 4)):
            taken += 1
            yield image

    options = LoaderOptions("bilinear_torch", 4, 2, skip_unreadable=False, progress=False)
    read = 0
    for batch in batches(open_images(source()), options):
        read += len(batch)
        assert taken <= read + 2 * 4
    assert read == taken == count


def test_readings_end_with_their_threads():
    options = LoaderOptions("bilinear_torch", 2, 3, skip_unreadable=False, progress=False)
    before = threading.active_count()
    for _ in batches(open_images(pictures(30, size=(4, 4))), options):
        break
    assert threading.active_count() == before


# Statistics and the distance


def test_running_statistics_are_those_of_all_at_once():
    """Also where the mean is a million deviations away, in batches of any size."""
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
    with pytest.raises(ValueError, match="two images at least; got 1"):
        metrics.Statistics.of(np.ones((1, 3)))
    with pytest.raises(ValueError, match="got 0"):
        metrics.RunningStatistics().result()
    with pytest.raises(ValueError, match=r"NaN.*weights"):
        metrics.Statistics.of(np.full((5, 3), np.nan))
    for mean, cov, words in [
        (np.zeros(3), np.eye(2), "covariance"),
        (np.zeros(2), np.full((2, 2), np.inf), "infinite"),
        (np.zeros(2), np.array([[1, 2], [3, 4]]), "symmetric"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.Statistics(mean, cov)


def random_features(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) / np.sqrt(d)) + rng.normal()


def scipys_distance(a: np.ndarray, b: np.ndarray) -> float:
    apart = a.mean(0) - b.mean(0)
    covs = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    root = scipy.linalg.sqrtm(covs[0] @ covs[1])
    return apart @ apart + np.trace(covs[0]) + np.trace(covs[1]) - 2 * np.trace(root).real


def exact_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The trace of the root is the nuclear norm of the product of the centred features."""
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    nuclear = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    traces = sum((x**2).sum() for x in centred)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * nuclear


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return metrics.frechet_distance(metrics.Statistics.of(a), metrics.Statistics.of(b))


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
    without = metrics.Statistics(without.mean, without.cov)  # as pytorch-fid's files are
    found = metrics.frechet_distance(without, metrics.Statistics.of(a))
    assert found == pytest.approx(expected, abs=1e-6 * traces)


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
    """In float32 or float16 they have negative eigenvalues."""
    a, b = (metrics.Statistics.of(random_features(20, 60, seed)) for seed in (0, 1))
    expected = metrics.frechet_distance(a, b)
    for dtype, rel in ((np.float32, 1e-3), (np.float16, 0.05)):
        x, y = (metrics.Statistics(s.mean, s.cov.astype(dtype)) for s in (a, b))
        assert np.linalg.eigvalsh(x.cov).min() < -1e-10
        assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=rel)


def test_statistics_of_different_stages_have_no_distance():
    a, b = (metrics.Statistics.of(random_features(9, d, 0)) for d in (4, 5))
    with pytest.raises(ValueError, match=r"4 features.*5"):
        metrics.frechet_distance(a, b)


def test_statistics_files_are_pytorch_fids(tmp_path):
    found = metrics.Statistics.of(random_features(9, 4, 0))
    found.save(tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz") as file:
        np.testing.assert_array_equal(file["mu"], found.mean)
        np.testing.assert_array_equal(file["sigma"], found.cov)
    again = metrics.Statistics.load(tmp_path / "ours.npz")
    assert again.count == 9
    np.testing.assert_array_equal(again.cov, found.cov)
    np.savez_compressed(tmp_path / "theirs.npz", mu=found.mean, sigma=found.cov)
    theirs = metrics.Statistics.load(tmp_path / "theirs.npz")
    assert theirs.count is None
    theirs.save(tmp_path / "ours.npz")  # over the old file
    assert metrics.Statistics.load(tmp_path / "ours.npz").count is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours.npz", "theirs.npz"]
    assert metrics.fid(tmp_path / "ours.npz", str(tmp_path / "theirs.npz")) == pytest.approx(
        0, abs=1e-9
    )


def test_statistics_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        metrics.Statistics.load(tmp_path / "absent.npz")
    np.savez(tmp_path / "images.npz", arr_0=pictures(2))
    with pytest.raises(ValueError, match=r"images\.npz holds arr_0 instead.*as an array"):
        metrics.Statistics.load(tmp_path / "images.npz")
    np.savez(tmp_path / "wrong.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError, match=r"wrong\.npz: a mean"):
        metrics.Statistics.load(tmp_path / "wrong.npz")
    np.savez(tmp_path / "object.npz", mu=np.array([{}]), sigma=np.eye(4))
    whole = (tmp_path / "wrong.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("object", "cut", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.npz is not a whole \.npz file"):
            metrics.Statistics.load(tmp_path / f"{name}.npz")
    found = metrics.Statistics.of(random_features(9, 4, 0))
    for path, words in [("x.npy", r"\.npz"), ("no/x.npz", "no folder"), ("d.npz", "is a folder")]:
        (tmp_path / "d.npz").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=words):
            found.save(tmp_path / path)


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
    """Around zero for sets of one distribution, however small; FID is not."""
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
    with pytest.warns(UserWarning, match="but one such subset"):
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
    faint = np.array([[0, -745.0], [0, -1e4]])  # whose mean probability is no number any more
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
    with pytest.raises(ValueError, match="more images than neighbours"):
        metrics.manifold_precision_recall(a[:3], a)


# Metrics of images


def test_fid_of_images_is_that_of_their_features(tmp_path):
    a, b = pictures(9), pictures(9, seed=1, low=90)
    found = metrics.Statistics.of(extractor().features(b).pooled)
    with pytest.warns(UserWarning, match=r"9 and 9 images for 256 features.*KID"):
        ours = metrics.fid(a, write(tmp_path / "b", b), extractor=extractor())
    pooled = (extractor().features(x).pooled.astype(np.float64) for x in (a, b))
    assert ours == pytest.approx(exact_distance(*pooled), rel=1e-6)
    found.save(tmp_path / "b.npz")
    with pytest.warns(UserWarning, match="9 and 9 images"):
        again = metrics.fid(extractor().features(a), tmp_path / "b.npz")
    assert again == pytest.approx(ours, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*images for 256 features")
def test_the_order_of_images_does_not_matter():
    a, b = pictures(9), pictures(9, seed=1, low=90)
    order = np.random.default_rng(0).permutation(9)
    ours = metrics.fid(a, b, extractor=extractor())
    assert metrics.fid(a[order], b[::-1], extractor=extractor()) == pytest.approx(ours, rel=1e-5)
    assert metrics.fid(b, a, extractor=extractor()) == pytest.approx(ours, rel=1e-5)


def test_one_pass_serves_all_metrics(nothing_computed):
    rng = np.random.default_rng(0)
    a, b = (
        metrics.Features(
            rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(40, 5)).astype(np.float32)
        )
        for _ in range(2)
    )
    assert metrics.fid(a, b) == pytest.approx(scipys_distance(a.pooled, b.pooled), rel=1e-6)
    expected = metrics.kernel_distance(a.pooled, b.pooled, subset_size=20, subsets=3)
    assert metrics.kid(a, b, subset_size=20, subsets=3) == expected
    assert metrics.inception_score(a) == metrics.score_of_logits(a.logits_unbiased)
    expected = metrics.manifold_precision_recall(a.pooled, b.pooled)
    assert metrics.precision_recall(a, b) == expected


def test_few_images_are_refused_before_work(nothing_computed, tmp_path):
    write(tmp_path / "five", pictures(5))
    with pytest.raises(ValueError, match=r"five has 5 images; .* needs 10"):
        metrics.inception_score(tmp_path / "five", extractor=extractor())
    with pytest.raises(ValueError, match=r"five has 5 images; .* needs 8"):
        metrics.precision_recall(
            tmp_path / "five", tmp_path / "five", neighbours=7, extractor=extractor()
        )
    for one in (pictures(1), write(tmp_path / "one", pictures(1))):
        with pytest.raises(ValueError, match="two at least"):
            metrics.fid(tmp_path / "five", one, extractor=extractor())


def test_few_images_of_an_iterator_are_refused():
    for method in ("features", "statistics"):
        with pytest.raises(ValueError, match="two images"):
            getattr(extractor(), method)(iter(pictures(1)))


def test_statistics_serve_fid_alone(nothing_computed, tmp_path):
    metrics.Statistics.of(random_features(9, 4, 0)).save(tmp_path / "x.npz")
    for metric in (metrics.kid, metrics.precision_recall):
        with pytest.raises(ValueError, match="of statistics only FID"):
            metric(tmp_path / "x.npz", pictures(9), extractor=extractor())
    with pytest.raises(ValueError, match="logits"):
        metrics.inception_score(pictures(20), extractor=extractor(dims=64))
    with pytest.raises(ValueError, match="4 features are given, and 256 would be computed"):
        metrics.fid(pictures(9), tmp_path / "x.npz", extractor=extractor())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (pictures(3).astype(np.float32) / 255, r"uint8.*float32 \[3, 60, 70, 3\]"),
        (pictures(3).transpose(0, 3, 1, 2), r"channels last.*\[3, 3, 60, 70\]"),
        (pictures(3)[..., :1], r"\[3, 60, 70, 1\]"),
        (pictures(3)[0], r"\[n, h, w, 3\]; got uint8 \[60, 70, 3\]"),
        (Image.fromarray(pictures(1)[0]), "one image"),
        (np.zeros((3, 0, 5, 3), np.uint8), "without pixels"),
        (7, "not a int"),
        ("absent", "no folder"),
        (__file__, "neither a folder of images nor an .npz"),
    ],
)
def test_sources_that_are_none(source, words, nothing_computed):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=words):
        metrics.fid(pictures(3), source, extractor=extractor())


@pytest.mark.parametrize("bad", [pictures(1)[0] / 255, pictures(1)[0, :, :, 0], "absent.png"])
def test_items_that_are_no_images(bad):
    with pytest.raises(ValueError, match=r"images are uint8|absent\.png is not a whole image"):
        extractor().features([pictures(1)[0], bad])


# Folders


def test_folders_are_read_as_pytorch_fid_does(tmp_path):
    endings = "bmp jpg jpeg pgm png ppm tif tiff webp".split()
    for i, ending in enumerate([*endings, "txt", "gif", "JPG"]):
        (tmp_path / f"{i}.{ending}").touch()
    (tmp_path / "png").touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "deep.jpg").touch()
    passed_over = r"4 of 14 files are passed over: .*1 \.JPG \(11\.JPG\).*lower case only"
    with pytest.warns(UserWarning, match=passed_over):
        found = image_files(tmp_path)
    assert [p.name for p in found] == [".hidden.png", *(f"{i}.{e}" for i, e in enumerate(endings))]
    for name in ("9.txt", "10.gif", "11.JPG", "png"):
        (tmp_path / name).unlink()
    deep = image_files(tmp_path, RECURSIVE)
    assert set(deep) == {*found, tmp_path / "folder.png" / "deep.jpg"}


def test_folders_without_images_say_what_there_is(tmp_path):
    def words(path, *rule):
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            image_files(path, *rule)
        return str(error.value)

    assert "it is empty" in words(tmp_path)
    (tmp_path / "sub").mkdir()
    assert "only folders" in words(tmp_path)
    (tmp_path / "a.gif").touch()
    (tmp_path / "b.gif").touch()
    assert "2 .gif" in words(tmp_path)
    assert "2 .gif" in words(tmp_path, RECURSIVE)
    write(tmp_path / "sub", pictures(3))
    assert "3 in its subfolders: recursive=True (--recursive)" in words(tmp_path)
    (tmp_path / "x.PNG").touch()
    (tmp_path / "sub" / "000.png").rename(tmp_path / "sub" / "x.PNG")
    for path in (tmp_path / "sub").glob("*.png"):
        path.unlink()
    assert re.search(r"1 \.PNG \(x\.PNG\); .*in lower case only", words(tmp_path))


def test_damaged_files(tmp_path):
    write(tmp_path, pictures(5))
    whole = (tmp_path / "003.png").read_bytes()
    (tmp_path / "003.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "004.png").write_text("no image")
    with pytest.raises(metrics.UnreadableError, match=r"003\.png is not.*--skip-unreadable"):
        extractor(dims=64).features(tmp_path)
    with pytest.warns(UserWarning, match=r"2 files.*left out: .*003\.png, .*004\.png"):
        found = extractor(dims=64, skip_unreadable=True).features(tmp_path)
    assert_same_features(found, extractor(dims=64).features(pictures(5)[:3]))


# The network


def test_other_networks_are_refused():
    torchvisions = filled("inception_v3.tv_in1k", width_multiplier=0.1)
    with pytest.raises(ValueError, match=r"inception_v3\.tv_in1k has count_include_pad=True"):
        metrics.Extractor(torchvisions).load()
    with pytest.raises(ValueError, match="not of inception_v1"):
        metrics.Extractor(filled("inception_v1", width_multiplier=0.1)).load()
    grey = filled("inception_v3.fid", width_multiplier=0.1, in_channels=1)
    with pytest.raises(ValueError, match="1 channels"):
        metrics.Extractor(grey).load()
    with pytest.raises(ValueError, match=r"float32.*bfloat16"):
        metrics.Extractor(filled("inception_v3.fid", width_multiplier=0.1, dtype="bfloat16")).load()
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        metrics.fid(pictures(3), pictures(3), weights="absent.pth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dims": 100}, "dims is one of 64, 192, 768, 2048, not 100"),
        ({"resize": "bicubic"}, "bilinear_torch, bilinear_tf1"),
        ({"batch_size": 0}, "batch_size"),
        ({"workers": 0}, "workers"),
    ],
)
def test_options_that_are_not_there(options, words):
    with pytest.raises(ValueError, match=words):
        metrics.fid(pictures(3), pictures(3), **options)


def test_options_belong_to_one_extractor():
    with pytest.raises(TypeError, match="give dims to the extractor"):
        metrics.fid(pictures(3), pictures(3), extractor=extractor(), dims=64)
    with pytest.raises(TypeError, match="sizes"):
        metrics.fid(pictures(3), pictures(3), sizes=64)  # type: ignore[call-arg]


def test_the_library_is_imported_without_metrics():
    code = "import inception_jax, sys; sys.exit('inception_jax.metrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


# The command


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    ij.save_weights(networks()[0], path)
    return path


def run(capsys, *argv) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    code = command.run(parser.parse_args([str(word) for word in argv]))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.filterwarnings("ignore:.*images for 256 features", "ignore:KID of subsets")
def test_command(capsys, tmp_path, weights):
    a, b = write(tmp_path / "a", pictures(11)), write(tmp_path / "b", pictures(11, seed=1, low=90))
    options = ["--weights", weights, "--batch-size", 11]
    code, out, err = run(capsys, a, b, "--metrics", "fid,kid,is,pr", *options)
    assert code == 0
    assert "11/11" in err  # the bar
    found = dict(line.split("  ") for line in out.splitlines())
    assert list(found) == ["FID", "KID", "IS", "precision", "recall"]
    features = [extractor().features(x) for x in (a, b)]
    assert float(found["FID"]) == pytest.approx(metrics.fid(*features), rel=1e-4)
    assert float(found["KID"]) == pytest.approx(metrics.kid(*features).mean, rel=1e-3)
    expected = metrics.inception_score(features[0])
    assert [float(x) for x in found["IS"].split(" ± ")] == pytest.approx(expected, rel=1e-2)

    saved = ["--save-stats", tmp_path / "b.npz", "--dims", 64, "--no-progress"]
    code, out, err = run(capsys, b, *saved, *options)
    assert (code, out, err) == (0, f"wrote {tmp_path / 'b.npz'}\n", "")
    expected = extractor(dims=64).statistics(b).cov
    found = metrics.Statistics.load(tmp_path / "b.npz").cov
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())


def test_command_says_what_is_wrong(capsys, tmp_path, nothing_computed):
    a = write(tmp_path / "a", pictures(5))
    for argv, words in [
        ([a], "second input"),
        ([a, tmp_path / "absent"], "no folder"),
        ([a, a, "--save-stats", "x.npz"], "leave .*a out"),
        ([a, "--save-stats", "x.npy"], r"x\.npy.*\.npz"),
        ([a, "--save-stats", tmp_path / "no" / "x.npz"], "no folder"),
        ([a, "--dims", "64", "--metrics", "is"], "--dims 2048"),
        ([a, a, "--weights", tmp_path / "absent.pth"], r"absent\.pth"),
        ([a, "--metrics", "is"], "5 images; the Inception Score.* needs 10"),
        ([a, a, "--metrics", "is"], "leave .*a out"),
    ]:
        with pytest.raises((ValueError, OSError), match=words):
            run(capsys, *argv)
    for argv in (["--metrics", "fid,kip"], ["--batch-size", "0"], ["--resize", "x"]):
        with pytest.raises(SystemExit):
            run(capsys, a, a, *argv)


# At full width, and beside pytorch-fid


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A whole network with random numbers, in a file as pytorch-fid's."""
    twin = reference_torch.create_model("inception_v3.fid")
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in twin.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for tensor in twin.parameters():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
            tensor.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        for norm in norms:
            norm.momentum = 1.0  # the statistics of one batch
            norm.weight.uniform_(0.5, 1.5, generator=generator)
        twin.train()(torch.cat([torch_input(x) for x in pictures(4, seed=9, size=(30, 30))]))
        twin.eval()
        for norm in norms:
            spread = norm.running_var.sqrt()
            norm.running_mean += 0.3 * spread * torch.randn(spread.shape, generator=generator)
    path = tmp_path_factory.mktemp("published") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(twin.state_dict(), path)
    return twin, path


@pytest.mark.slow
def test_the_whole_networks_features_are_its_twins(published):
    twin, path = published
    images = pictures(6, size=(256, 200))
    with torch.no_grad():
        expected = twin.embed(torch.cat([torch_input(image) for image in images])).numpy()
    ours = metrics.Extractor(path).features(images)
    assert ours.pooled.shape == (6, 2048)
    assert ours.logits_unbiased is not None
    assert ours.logits_unbiased.shape == (6, 1008)
    np.testing.assert_allclose(ours.pooled, expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")  # of scipy's root too
@pytest.mark.parametrize(("dims", "count"), [(64, 100), (192, 12), (2048, 12)])
def test_fid_is_pytorch_fids(dims, count, published, tmp_path, monkeypatch):
    """Of fewer images than features, and of more."""
    theirs = pytest.importorskip("pytorch_fid.fid_score", exc_type=ImportError)
    inception = sys.modules["pytorch_fid.inception"]
    state = torch.load(published[1], weights_only=True)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    size = (64, 64) if dims == 64 else (128, 90)
    folders = [
        write(tmp_path / name, pictures(count, seed, size, low), ending)
        for seed, (name, low, ending) in enumerate([("a", 0, "png"), ("b", 90, "jpg")])
    ]
    network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]])
    ours = metrics.Extractor(published[1], dims=dims)
    for folder in folders:
        files = sorted(folder.iterdir())
        expected = theirs.get_activations(files, network, 4, dims, "cpu", 0)
        found = ours.features(folder).pooled
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())
        ours.statistics(folder).save(folder.with_suffix(".npz"))
    for a, b in (folders, [folder.with_suffix(".npz") for folder in folders]):
        paths = [str(a), str(b)]
        expected = theirs.calculate_fid_given_paths(paths, 4, "cpu", dims, num_workers=0)
        assert metrics.fid(a, b, extractor=ours) == pytest.approx(expected, rel=1e-3)
        if dims == 2048:
            return  # scipy takes minutes for another root


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_scores_are_torch_fidelitys():
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    from torch_fidelity import interpolate_compat_tensorflow as tensorflow
    from torch_fidelity import metric_isc, metric_kid, metric_prc

    a, b = random_features(120, 40, 0).astype(np.float32), random_features(90, 40, 1)
    a, b = np.abs(a), np.abs(b).astype(np.float32)
    tensors = torch.from_numpy(a), torch.from_numpy(b)
    quiet = {"verbose": False}

    options = {"kid_subsets": 5, "kid_subset_size": 50, **quiet}
    expected = tuple(metric_kid.kid_features_to_metric(*tensors, **options).values())
    found = metrics.kernel_distance(a, b, subsets=5, subset_size=50)
    assert found == pytest.approx(expected, rel=1e-4)  # theirs is summed in float32

    expected = tuple(metric_isc.isc_features_to_metric(tensors[0], shuffle=False).values())
    assert metrics.score_of_logits(a) == pytest.approx(expected, rel=1e-9)

    expected = metric_prc.prc_features_to_metric(*tensors, **quiet)
    found = metrics.manifold_precision_recall(a, b)
    assert found == pytest.approx((expected["precision"], expected["recall"]), abs=1e-6)

    for size in SIZES:
        image = pictures(1, size=size)[0]
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        x = tensorflow.interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False)
        expected = ((x - 128) / 128)[0].permute(1, 2, 0).numpy()
        found = resizing.resized(image, "bilinear_tf1")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
