"""Compares every preset with the program that it reproduces, if that program is installed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inception_jax import metrics
from inception_jax.metrics import scores
from inception_jax.metrics.image_files import image_files
from inception_jax.metrics.presets import preset_of
from tests.helpers import fid_programs as programs

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

COUNT = 300  # images; one half is compared with the other


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return programs.weights(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Returns a folder of images of many modes, sizes and formats; the second half is darker."""
    folder = programs.write_images(tmp_path_factory.mktemp("mixed") / "first", COUNT // 2)
    second = programs.write_images(folder.parent / "second", COUNT // 2, seed=1, dark=0.8)
    for path in second.iterdir():
        path.rename(folder / f"x{path.name}")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Returns a folder of RGB images of one size, PNG and JPEG; the second half is darker."""
    folder = programs.write_plain(tmp_path_factory.mktemp("plain") / "first", COUNT // 2)
    second = programs.write_plain(folder.parent / "second", COUNT // 2, seed=1, dark=0.8)
    for path in second.iterdir():
        path.rename(folder / f"x{path.name}")
    return folder


def extractor(weights, preset: str, **options: Any) -> metrics.Extractor:
    return metrics.Extractor(weights / programs.PYTORCH, preset=preset, **options)


def files_of(folder, preset: str) -> list:
    return image_files(folder, preset_of(preset).files)


def rgb(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def nchw(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]


def assert_same(found: np.ndarray | None, expected: np.ndarray) -> None:
    assert found is not None
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def halves(features: metrics.Features) -> tuple[metrics.Features, metrics.Features]:
    half = len(features) // 2
    return features.part(0, half), features.part(half, len(features))


def of_columns(features: np.ndarray, preset: str) -> tuple[metrics.Features, metrics.Features]:
    """Returns about 50 evenly spaced columns of the features, for each half of the images.

    A half has more than 50 images, so the covariances of these features can have full rank. Only
    then is the matrix square root of the original programs accurate.

    Args:
        features: features [n, d] of all images.
        preset: name of the preset to compare. It is stored with the results, so that
            `fid_of_statistics` uses its offset.

    Returns:
        The features of the first half, and those of the second half.
    """
    origin = metrics.Origin(preset, "", 2048, "")
    few = np.ascontiguousarray(features[:, :: features.shape[1] // 50])
    return halves(metrics.Features(few.astype(np.float32), origin=origin))


def statistics_by_numpy(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.mean(features, axis=0), np.cov(features, rowvar=False)


def exact_kid(x: np.ndarray, y: np.ndarray, preset: str) -> Any:
    """Returns KID's mean and deviation in float64, for the random subsets of a preset's program.

    The programs sum the kernel in float32, where rounding is up to 1e-4 of a small KID. Given
    float64 features, the programs' own functions must return these numbers.
    """
    draws = preset_of(preset).kid_draws
    return metrics.kernel_distance(x, y, subsets=20, subset_size=60, draws=draws)


# pytorch-fid


@pytest.mark.parametrize("dims", [64, 192, 768, 2048])
def test_pytorch_fid(dims, weights, mixed):
    theirs = programs.package("pytorch_fid.fid_score")
    network = programs.pytorch_fids(weights, dims)
    files = files_of(mixed, "pytorch_fid")
    assert len(files) == COUNT
    expected = theirs.get_activations(files, network, 1, dims, "cpu", 0)  # one image a batch
    found = extractor(weights, "pytorch_fid", dims=dims).features(mixed)
    assert_same(found.pooled, expected)
    if dims == 64:
        a, b = (statistics_by_numpy(x) for x in np.split(expected, 2))
        distance = theirs.calculate_frechet_distance(*a, *b)
        ours = scores.fid_of_statistics(*(x.statistics for x in halves(found)))
        assert ours == pytest.approx(distance, rel=1e-6)


# torch-fidelity


def test_torch_fidelity(weights, mixed):
    utils = programs.package("torch_fidelity.utils")
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    network = programs.torch_fidelitys(weights, "2048", "logits_unbiased")
    paths = utils.glob_samples_paths(str(mixed), False, "png,jpg,jpeg", verbose=False)
    assert [str(path) for path in files_of(mixed, "torch_fidelity")] == paths
    images = [nchw(rgb(path)) for path in paths]
    pooled, logits = (programs.one_by_one(lambda x, i=i: network(x)[i], images) for i in (0, 1))
    found = extractor(weights, "torch_fidelity").features(mixed)
    assert_same(found.pooled, pooled)
    assert_same(found.logits_unbiased, logits)

    import torch

    a, b = halves(found)
    preset = preset_of("torch_fidelity")
    few = {"kid_subsets": 20, "kid_subset_size": 60, "verbose": False}
    x, y = (torch.from_numpy(z) for z in np.split(pooled[: 2 * len(a)], 2))
    expected = tuple(metric_kid.kid_features_to_metric(x, y, **few).values())
    given = (metrics.Features(z.numpy(), origin=found.origin) for z in (x, y))
    ours = scores.kid_of_features(*given, subsets=20, subset_size=60)
    assert ours == pytest.approx(expected, rel=1e-6)
    in_float64 = metric_kid.kid_features_to_metric(x.double(), y.double(), **few)
    assert exact_kid(x.numpy(), y.numpy(), "torch_fidelity") == pytest.approx(
        tuple(in_float64.values()), rel=1e-9
    )
    # This library's features differ from the program's in the last bits.
    exact = exact_kid(a.pooled, b.pooled, "torch_fidelity")
    assert exact == pytest.approx(tuple(in_float64.values()), rel=1e-5)

    expected = tuple(metric_isc.isc_features_to_metric(torch.from_numpy(logits)).values())
    assert scores.score_of_features(found) == pytest.approx(expected, rel=1e-6)

    expected = metric_prc.prc_features_to_metric(x, y, verbose=False)
    assert scores.precision_recall_of_features(a, b) == pytest.approx(
        (expected["precision"], expected["recall"]), abs=1e-7
    )

    few_a, few_b = of_columns(pooled, "torch_fidelity")
    expected = metric_fid.fid_statistics_to_metric(
        *(
            metric_fid.fid_features_to_statistics(torch.from_numpy(z.pooled))
            for z in (few_a, few_b)
        ),
        verbose=False,
    )["frechet_inception_distance"]
    ours = scores.fid_of_statistics(few_a.statistics, few_b.statistics)
    assert ours == pytest.approx(expected, rel=1e-6)
    assert preset.mean_dtype == "float32"


# clean-fid


def test_clean_fid(weights, mixed, tmp_path):
    theirs = programs.package("cleanfid.fid")
    network = programs.cleans(weights)
    (mixed / "deeper").mkdir(exist_ok=True)
    try:
        np.save(mixed / "deeper" / "a.npy", rgb(next(mixed.glob("*.jpg"))))
        Image.open(next(mixed.glob("*.png"))).save(mixed / "deeper" / "b.PNG")
        expected = theirs.get_folder_features(
            str(mixed), network, num_workers=0, batch_size=8, device="cpu", verbose=False
        )
        found = extractor(weights, "clean").features(mixed)
        assert len(found) == COUNT + 2
        assert_same(found.pooled, expected)
    finally:
        for path in (mixed / "deeper").iterdir():
            path.unlink()
        (mixed / "deeper").rmdir()

    few = of_columns(expected, "clean")
    distance = theirs.fid_from_feats(few[0].pooled, few[1].pooled)
    ours = scores.fid_of_statistics(*(x.statistics for x in few))
    assert ours == pytest.approx(distance, rel=1e-6)

    x, y = (metrics.Features(z, origin=found.origin) for z in np.split(expected, 2))
    for size in (60, 1000):  # 1000 exceeds the sets: uses the whole smaller set
        np.random.seed(2020)
        distance = theirs.kernel_distance(x.pooled, y.pooled, 20, size)
        ours = scores.kid_of_features(x, y, subsets=20, subset_size=size)
        assert ours.mean == pytest.approx(distance, rel=1e-6)
    np.random.seed(2020)
    distance = theirs.kernel_distance(*(z.pooled.astype(np.float64) for z in (x, y)), 20, 60)
    assert exact_kid(x.pooled, y.pooled, "clean").mean == pytest.approx(distance, rel=1e-9)


# torchmetrics


def test_torchmetrics(weights, mixed):
    import torch

    with programs.torchmetrics_weights(weights) as theirs:
        inception = theirs.fid.NoTrainInceptionV3("inception-v3-compat", ["2048"])
        logits_of = theirs.fid.NoTrainInceptionV3("inception-v3-compat", ["logits_unbiased"])
        kid = theirs.KernelInceptionDistance(subsets=20, subset_size=60)
        score = theirs.InceptionScore()
        distance = theirs.FrechetInceptionDistance(64)
        of_floats = theirs.FrechetInceptionDistance(64, normalize=True)
    arrays = [rgb(path) for path in files_of(mixed, "torchmetrics")]
    pooled = programs.one_by_one(inception, map(nchw, arrays))
    logits = programs.one_by_one(logits_of, map(nchw, arrays))
    found = extractor(weights, "torchmetrics").features(arrays)
    assert_same(found.pooled, pooled)
    assert_same(found.logits_unbiased, logits)

    half = COUNT // 2
    given = [metrics.Features(x, origin=found.origin) for x in np.split(pooled, 2)]
    ours = scores.kid_of_features(*given, subsets=20, subset_size=60)
    # torchmetrics sums 2,048 products in float32, in an order that depends on the machine. The cube
    # triples their rounding: 4.4 epsilons of the kernel were seen. In float64 both are equal.
    kernel = ((given[0].pooled @ given[1].pooled.T / 2048 + 1) ** 3).mean()
    rounding = float(8 * np.finfo(np.float32).eps * kernel)
    for dtype, tolerance in (
        (torch.float32, {"abs": rounding}),
        (torch.float64, {"rel": 1e-9}),
    ):
        kid.reset()  # or it returns its cached result
        kid.fake_features, kid.real_features = (
            [torch.tensor(part, dtype=dtype)] for part in np.split(pooled, 2)
        )
        torch.manual_seed(2020)
        expected = [float(x) for x in kid.compute()]
        assert ours == pytest.approx(expected, **tolerance)

    score.features = [torch.tensor(logits)]
    torch.manual_seed(2020)
    expected = [float(x) for x in score.compute()]
    assert scores.score_of_features(found) == pytest.approx(expected, rel=1e-6)

    narrow = extractor(weights, "torchmetrics", dims=64)
    few = arrays[:100], arrays[half : half + 100]
    for real, images in enumerate(few):
        for image in images:
            distance.update(nchw(image), real=bool(real))
            of_floats.update(nchw(image).float() / 255.7, real=bool(real))
    ours = metrics.fid(*few, extractor=narrow)
    assert ours == pytest.approx(float(distance.compute()), rel=1e-6)
    floats = [[(image / np.float32(255.7)) for image in images] for images in few]
    ours = metrics.fid(*floats, extractor=narrow)
    assert ours == pytest.approx(float(of_floats.compute()), rel=1e-6)


# guided-diffusion


def test_guided_diffusion(weights, plain, tmp_path):
    evaluator = programs.adm(weights)
    images = programs.as_array(plain)
    np.savez(tmp_path / "samples.npz", arr_0=images[: COUNT // 2])
    np.savez(tmp_path / "reference.npz", arr_0=images[COUNT // 2 :])
    ours = extractor(weights, "adm")
    expected, found = [], []
    for name in ("samples.npz", "reference.npz"):
        acts = evaluator.read_activations(str(tmp_path / name))
        expected.append(acts)
        found.append(ours.features(tmp_path / name))
        assert_same(found[-1].pooled, acts[0])
        assert_same(found[-1].spatial, acts[1])

    score = evaluator.compute_inception_score(expected[0][0])
    assert scores.score_of_features(found[0]).mean == pytest.approx(score, rel=1e-6)
    score = evaluator.compute_inception_score(expected[0][0], split_size=40)
    preset = dataclasses.replace(preset_of("adm"), is_split_size=40)
    with_it = dataclasses.replace(found[0], origin=None)
    assert scores.score_of_features(with_it, preset=preset).mean == pytest.approx(score, rel=1e-6)

    given = [metrics.Features(acts[0], origin=ours.origin) for acts in expected]
    pr = evaluator.compute_prec_recall(expected[1][0], expected[0][0])
    assert scores.precision_recall_of_features(*given) == pytest.approx(pr, abs=1e-7)
    large = [metrics.Features(40 * acts[0], origin=ours.origin) for acts in expected]
    pr = evaluator.compute_prec_recall(large[1].pooled, large[0].pooled)  # not finite in float16
    assert scores.precision_recall_of_features(*large) == pytest.approx(pr, abs=1e-7)

    for i in (0, 1):
        few = of_columns(np.concatenate([acts[i] for acts in expected]), "adm")
        stats = [evaluator.compute_statistics(x.pooled) for x in few]
        distance = stats[0].frechet_distance(stats[1])
        own = scores.fid_of_statistics(*(x.statistics for x in few))
        assert own == pytest.approx(distance, rel=1e-6)


# TTUR


@pytest.mark.parametrize("count", [120, 40])
def test_ttur(count, weights, plain, tmp_path):
    """The preset `tf2015` has the statistics of TTUR, which drops an incomplete last batch.

    TTUR uses 100 of 120 images, but all of 40 images.
    """
    for path in sorted(plain.iterdir())[:count]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    mean, cov = programs.ttur_statistics(weights, tmp_path)
    found = extractor(weights, "tf2015").statistics(tmp_path)
    assert found.count == count - count % min(count, 50)
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=1e-5 * mean.max())
    np.testing.assert_allclose(found.cov, cov, rtol=0, atol=1e-5 * cov.max())


# jax-fid and programs copied from it


def test_jax_fid_parallel(weights, plain):
    module, network = programs.jax_fid_parallel(weights)
    images = programs.as_array(plain)
    expected = np.concatenate([network(images[i : i + 50]) for i in range(0, len(images), 50)])
    found = extractor(weights, "jax_fid").features(images)
    assert_same(found.pooled, expected)
    few = of_columns(expected, "jax_fid")
    a, b = (statistics_by_numpy(x.pooled) for x in few)
    distance = float(module.fid_from_stats(*a, *b))
    ours = scores.fid_of_statistics(*(x.statistics for x in few))
    assert ours == pytest.approx(distance, rel=1e-6)


def test_jax_fid(weights, mixed, tmp_path):
    """Statistics equal those of `jax-fid --img_size 299 299`.

    jax-fid reads only RGB and grey images.
    """
    module, variables, apply = programs.jax_fid(weights)
    for i, path in enumerate(p for p in files_of(mixed, "pytorch_fid") if p.suffix == ".jpg"):
        if Image.open(path).mode in ("RGB", "L") and i < 60:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    mean, cov = module.compute_statistics(str(tmp_path), variables, apply, 1, (299, 299))
    found = extractor(weights, "jax_fid", resize="bilinear_pillow").statistics(tmp_path)
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=1e-5 * np.max(mean))
    np.testing.assert_allclose(found.cov, cov, rtol=0, atol=1e-5 * cov.max())
