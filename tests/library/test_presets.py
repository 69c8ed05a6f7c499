"""Tests the rules in which the presets of metrics differ, each against a plain formula."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from PIL import Image

from inception_jax import metrics
from inception_jax.metrics import draws, half_manifolds, resizing, scores
from inception_jax.metrics.image_files import image_files
from inception_jax.metrics.presets import preset_of
from tests.helpers.metric_sets import extractor, network, pictures, random_features, write
from tests.helpers.twins import twin_of

torch = pytest.importorskip("torch")
import torch.nn.functional as F

SIZES = [(299, 299), (60, 83), (301, 64), (512, 400), (1, 7), (299, 300)]


def features(n: int, d: int, seed: int, preset: str) -> metrics.Features:
    rng = np.random.default_rng(seed)
    origin = metrics.Origin(preset, "", 2048, "")
    pooled = np.abs(random_features(n, d, seed)).astype(np.float32)
    logits = (3 * rng.normal(size=(n, 7))).astype(np.float32)
    return metrics.Features(pooled, logits, origin=origin)


def test_names():
    assert list(metrics.PRESETS) == [
        "pytorch_fid", "tf2015", "adm", "torch_fidelity", "clean", "torchmetrics", "jax_fid",
    ]  # fmt: skip
    assert all(name == preset.name for name, preset in metrics.PRESETS.items())
    with pytest.raises(ValueError, match=r"preset must be one of pytorch_fid, .*, not 'cleanfid'"):
        metrics.fid(pictures(3), pictures(3), preset="cleanfid")
    with pytest.raises(ValueError, match="clean-fid offers 2048 features, not 64"):
        metrics.Extractor(preset="clean", dims=64)


# Resizing


@pytest.mark.parametrize("size", [*SIZES, (1024, 768)])
def test_bilinear_antialias_is_torchs(size):
    image = pictures(1, size=size)[0]
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False, antialias=True)
    expected = ((x - 128) / 128)[0].permute(1, 2, 0).numpy()
    found = resizing.resized(image, "bilinear_antialias")
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_bicubic_pillow_resizes_each_channel_as_floats(size):
    """`bicubic_pillow` does not round pixels: it keeps fractions and clips overshoot."""
    image = pictures(1, size=size)[0] // 255 * 255
    found = resizing.pixels_resized(image, "bicubic_pillow")
    for i in range(3):
        channel = Image.fromarray(image[:, :, i].astype(np.float32))
        expected = np.asarray(channel.resize((299, 299), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(found[:, :, i], np.clip(expected, 0, 255))
    if min(size) > 1 and size != (299, 299):
        assert (found % 1 > 0).any()
    of_floats = resizing.resized(image.astype(np.float64), "bicubic_pillow")
    np.testing.assert_array_equal(of_floats, resizing.resized(image, "bicubic_pillow"))


def test_bilinear_pillow_rounds_to_bytes():
    image = pictures(1)[0]
    found = resizing.pixels_resized(image, "bilinear_pillow")
    expected = Image.fromarray(image).resize((299, 299), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(expected))
    assert found.dtype == np.float32
    normal = resizing.resized(image, "bilinear_pillow")
    np.testing.assert_allclose(normal, 2 * (found / 255) - 1, atol=1e-6)
    with pytest.raises(ValueError, match="needs uint8, not float32"):
        resizing.resized(image.astype(np.float32), "bilinear_pillow")


def test_each_preset_has_a_rule_of_its_own():
    image = pictures(1, size=(400, 500))[0]
    rules = {preset.resize for preset in metrics.PRESETS.values()}
    results = [resizing.resized(image, rule) for rule in rules]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert np.abs(one - other).max() > 0.01


# Files


def test_folders_are_read_as_each_program_does(tmp_path):
    names = ("a.png", "b.JPG", "c.jpeg", "d.webp", ".e.png", "f.PNG", "deep/g.png", "h.npy")
    (tmp_path / "deep").mkdir()
    for name in names:
        (tmp_path / name).touch()
    expected = {
        "pytorch_fid": ".e.png a.png c.jpeg d.webp",
        "tf2015": ".e.png a.png",
        "torch_fidelity": ".e.png a.png b.JPG c.jpeg f.PNG",
        "clean": "a.png b.JPG c.jpeg d.webp g.png f.PNG h.npy",
    }
    for preset, found in expected.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)
            files = image_files(tmp_path, preset_of(preset).files)
        assert sorted(path.name for path in files) == sorted(found.split()), preset


def test_the_order_of_files_is_the_programs(tmp_path):
    """Files are sorted as the preset's program sorts them.

    Random draws and shuffles depend on the order.
    """
    for name in ("a-b/x.png", "a/x.png", "a/x.JPG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rule = preset_of("clean").files
    names = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path, rule)]
    assert names == ["a-b/x.png", "a/x.JPG", "a/x.png"]
    rule = dataclasses.replace(rule, order="path")
    names = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path, rule)]
    assert names[-1] == "a-b/x.png"


def test_ttur_takes_files_as_they_are_listed(tmp_path):
    """The preset `tf2015` takes files unsorted, as the folder lists them, JPEG before PNG.

    The order decides which images TTUR drops.
    """
    for i in np.random.default_rng(0).permutation(40):
        (tmp_path / f"{i:02}.{'jpg' if i % 3 else 'png'}").touch()
    found = image_files(tmp_path, preset_of("tf2015").files)
    assert found == [*tmp_path.glob("*.jpg"), *tmp_path.glob("*.png")]


@pytest.mark.slow
def test_arrays_in_folders(tmp_path):
    """The preset `clean` reads `.npy` files that each contain one image of bytes or floats."""
    images = pictures(3)
    write(tmp_path / "a", images)
    (tmp_path / "b").mkdir()
    for i, image in enumerate(images):
        np.save(tmp_path / "b" / f"{i}.npy", image.astype(np.float32) if i else image)
    clean = extractor(preset="clean")
    found = [clean.features(tmp_path / name).pooled for name in "ab"]
    np.testing.assert_array_equal(*found)
    np.save(tmp_path / "b" / "3.npy", images)
    with pytest.raises(metrics.UnreadableError, match=r"3\.npy.*\[h, w, 3\]; got uint8 \[3, 60"):
        clean.features(tmp_path / "b")


def test_unit_floats_are_truncated():
    """The preset `torchmetrics` truncates floats to bytes, as torchmetrics' `normalize=True` does.

    Rounding would give other pixels.
    """
    floats = np.random.default_rng(0).uniform(size=(3, 20, 20, 3)).astype(np.float32)
    ours = extractor(preset="torchmetrics", dims=64)
    expected = (torch.from_numpy(floats) * 255).byte().numpy()
    assert (expected != np.round(floats * 255)).any()
    np.testing.assert_array_equal(ours.features(floats).pooled, ours.features(expected).pooled)
    with pytest.raises(ValueError, match=r"from 0 to 1; got 0\.\S+ to 1\.9"):
        ours.features(floats * 2 / floats.max())
    with pytest.raises(ValueError, match="uint8 from 0 to 255, "):
        extractor(dims=64).features(floats)


@pytest.mark.slow
def test_what_does_not_fill_a_batch_of_50_is_left_out():
    ours = extractor(preset="tf2015", batch_size=7)
    images = pictures(53, size=(2, 2))
    with pytest.warns(UserWarning, match="the last 3 images are left out.*fewer than 50"):
        found = ours.features(images)
    np.testing.assert_allclose(found.pooled, ours.features(images[:50]).pooled, atol=1e-5)
    assert ours.statistics(images[:9]).count == 9  # fewer than one batch


# Features


def test_spatial_features_are_the_first_channels_of_a_branch_row_by_row():
    model = network()
    theirs = twin_of(model, "inception_v3.fid", "float32")
    images = pictures(2)
    ours = extractor(preset="adm").features(images)
    kept = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda *args: kept.append(args[-1]))
    x = np.stack([resizing.resized(image, "bilinear_tf1") for image in images])
    with torch.no_grad():
        theirs(torch.from_numpy(x).permute(0, 3, 1, 2))
    expected = kept[0].permute(0, 2, 3, 1)[..., :7].reshape(2, 17 * 17 * 7).numpy()
    assert ours.spatial is not None
    np.testing.assert_allclose(ours.spatial, expected, atol=1e-5 * np.abs(expected).max())
    assert extractor().features(images).spatial is None


@pytest.mark.slow
def test_sfid_is_of_the_spatial_features():
    a, b = pictures(9), pictures(9, seed=1, low=90)
    ours = extractor(preset="adm")
    x, y = (ours.features(images) for images in (a, b))
    assert x.spatial is not None
    assert y.spatial is not None
    expected = metrics.frechet_distance(*(metrics.Statistics.of(z.spatial) for z in (x, y)))
    assert metrics.sfid(a, b, extractor=ours) == pytest.approx(expected, rel=1e-4)
    assert metrics.sfid(x, y) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"sFID needs spatial.*preset='adm'"):
        metrics.sfid(a, b, extractor=extractor())


# Statistics


@pytest.mark.parametrize("batch", [1, 7, 3000])
def test_means_in_float32_are_numpys(batch):
    """Float32 means are identical to NumPy's, for batches of any size."""
    values = np.random.default_rng(0).uniform(size=(3000, 12)).astype(np.float32)
    running = metrics.RunningStatistics(mean_dtype="float32")
    for start in range(0, len(values), batch):
        running.update(values[start : start + batch])
    found = running.result()
    np.testing.assert_array_equal(found.mean, values.mean(0))
    assert (found.mean != values.mean(0, dtype=np.float64)).any()
    np.testing.assert_allclose(found.cov, np.cov(values, rowvar=False), rtol=0, atol=1e-15)


def test_presets_tell_how_means_are_summed():
    for name in ("torch_fidelity", "pytorch_fid"):
        one = features(2000, 3, 0, name)
        dtype = preset_of(name).mean_dtype
        np.testing.assert_array_equal(
            one.statistics.mean, metrics.Statistics.of(one.pooled, mean_dtype=dtype).mean
        )


def test_the_offset_is_under_the_root_only():
    """The preset `jax_fid` always adds jax-fid-parallel's offset, but only under the root.

    This root is the distance's matrix square root. The offset lowers the distance.
    """
    a, b = (features(30, 50, seed, "jax_fid") for seed in (0, 1))
    covs = [np.cov(x.pooled, rowvar=False) for x in (a, b)]
    apart = a.pooled.mean(0).astype(np.float64) - b.pooled.mean(0)
    root = scipy.linalg.sqrtm((covs[0] + 1e-6 * np.eye(50)) @ (covs[1] + 1e-6 * np.eye(50))).real
    expected = apart @ apart + np.trace(covs[0] + covs[1] - 2 * root)
    with pytest.warns(UserWarning, match="30 and 30 images"):
        found = metrics.fid(a, b)
    assert found == pytest.approx(expected, rel=1e-6)
    plain = metrics.frechet_distance(a.statistics, b.statistics)
    assert plain - found > 1e-5


# Draws


@pytest.mark.parametrize("count", [2, 3, 300, 30_000])
def test_permutations_are_torchs(count):
    torch.manual_seed(7)
    rng = np.random.RandomState(7)
    for size in (count, min(count, 5)):
        expected = torch.randperm(count)[:size].numpy()
        np.testing.assert_array_equal(draws._torchs_permutation(rng, count, size), expected)


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a, b):
        return (a.astype(np.float64) @ b.T / a.shape[1] + 1) ** 3

    n = len(x)
    own = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y)))
    return own / (n * (n - 1)) - 2 * kernel(x, y).mean()


@pytest.mark.parametrize("preset", ["torch_fidelity", "clean", "torchmetrics", "pytorch_fid"])
def test_kid_draws_as_each_program(preset):
    a, b = features(50, 8, 0, preset), features(40, 8, 1, preset)
    np.random.seed(2020)
    torch.manual_seed(2020)
    rng = np.random.RandomState(2020)
    expected = []
    for _ in range(3):
        if preset == "clean":
            theirs = np.random.choice(40, 20, replace=False)
            ours = np.random.choice(50, 20, replace=False)
        elif preset == "torchmetrics":
            theirs, ours = torch.randperm(40)[:20].numpy(), torch.randperm(50)[:20].numpy()
        else:
            ours, theirs = rng.choice(50, 20, replace=False), rng.choice(40, 20, replace=False)
        expected.append(mmd(a.pooled[ours], b.pooled[theirs]))
    found = metrics.kid(a, b, subsets=3, subset_size=20)
    assert found == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-3)
    exact = dataclasses.replace(preset_of(preset), kid_dtype="float64")
    a, b = (dataclasses.replace(x, origin=None) for x in (a, b))
    found = scores.kid_of_features(a, b, preset=exact, subsets=3, subset_size=20)
    assert found == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-9)


def test_kid_in_float32_is_rounded_as_the_programs():
    """KID with float32 sums differs from KID in float64 in the last digits.

    The difference is visible if KID is small compared with the kernel's values.
    """
    a, b = features(60, 8, 0, "clean"), features(60, 8, 0, "clean")
    b = dataclasses.replace(b, pooled=b.pooled * np.float32(1.001))
    sums = dict(subsets=1, subset_size=60)
    exact = metrics.kernel_distance(a.pooled, b.pooled, **sums)
    rounded = metrics.kernel_distance(a.pooled, b.pooled, **sums, dtype="float32")
    assert rounded.mean != exact.mean
    assert rounded.mean == pytest.approx(exact.mean, abs=1e-5)


def score(logits: np.ndarray) -> float:
    p = torch.from_numpy(logits).double().softmax(1)
    return float((p * (p.log() - p.mean(0).log())).sum(1).mean().exp())


def test_the_inception_scores_parts_are_each_programs():
    n = 47
    logits = features(n, 3, 0, "pytorch_fid").logits_unbiased
    assert logits is not None

    def found(preset: str, **changes):
        one = metrics.Features(logits[:, :3], logits)
        return scores.score_of_features(
            one, preset=dataclasses.replace(preset_of(preset), **changes)
        )

    def parts(order, bounds):
        return [score(logits[order][i:j]) for i, j in bounds]

    cut = [(i * n // 10, (i + 1) * n // 10) for i in range(10)]
    in_order = parts(np.arange(n), cut)
    assert found("pytorch_fid") == pytest.approx((np.mean(in_order), np.std(in_order)), rel=1e-9)
    mixed = parts(np.random.RandomState(2020).permutation(n), cut)
    assert found("torch_fidelity") == pytest.approx((np.mean(mixed), np.std(mixed)), rel=1e-9)
    torch.manual_seed(2020)
    chunks = [(i, min(i + 5, n)) for i in range(0, n, 5)]  # torch.chunk
    mixed = parts(torch.randperm(n).numpy(), chunks)
    expected = (np.mean(mixed), np.std(mixed, ddof=1))
    assert found("torchmetrics") == pytest.approx(expected, rel=1e-9)
    assert found("adm").mean == pytest.approx(score(logits), rel=1e-9)
    unequal = parts(np.arange(n), [(0, 20), (20, 40), (40, 47)])
    assert found("adm", is_split_size=20).mean == pytest.approx(np.mean(unequal), rel=1e-9)


# Precision and recall


@pytest.mark.parametrize("scale", [1, 200])
def test_the_evaluators_distances_are_in_float16_where_they_are_finite(scale, monkeypatch):
    monkeypatch.setattr(half_manifolds, "_ROWS", 7)
    a, b = (scale * features(40, 30, seed, "adm").pooled for seed in (0, 1))
    dtype = np.float16 if scale == 1 else np.float32

    def distances(x, y):
        x, y = x.astype(dtype), y.astype(dtype)
        squares = [np.square(z).sum(1, dtype=np.float32).astype(dtype) for z in (x, y)]
        products = (x.astype(np.float32) @ y.T.astype(np.float32)).astype(dtype)
        return np.maximum(squares[0][:, None] - (2 * products).astype(dtype) + squares[1], 0)

    def share(points, centres):
        radii = np.sort(distances(centres, centres), axis=1)[:, 3]
        return (distances(points, centres) <= radii).any(1).mean()

    monkeypatch.setattr(
        half_manifolds, "_sum", lambda x: x.sum(1, dtype=np.float32).astype(x.dtype)
    )
    found = half_manifolds.half_precision_recall(a, b, neighbours=3)
    assert found == pytest.approx((share(a, b), share(b, a)))
    assert 0 < found.precision < 1


def test_sums_in_float16_are_tensorflows():
    """Float16 sums equal the results of TensorFlow 2.21's `reduce_sum`.

    Two of the eight sums differ from rounded float32 sums.
    """
    numbers = np.random.default_rng(0).uniform(0, 1, (8, 2048)).astype(np.float16)
    expected = [1019.0, 1014.0, 1029.0, 1016.0, 1036.0, 1036.0, 1042.0, 1030.0]
    assert half_manifolds._sum(numbers).tolist() == expected
    in_float32 = numbers.sum(1, dtype=np.float32).astype(np.float16)
    assert (in_float32 != expected).sum() == 2


def test_f_score_is_torch_fidelitys():
    found = metrics.PrecisionRecall(0.5, 0.25)
    assert found.f_score == pytest.approx(1 / 3)
    assert metrics.PrecisionRecall(0, 0).f_score == 0


def test_the_page_names_every_preset_and_resize():
    page = Path(metrics.__file__).parents[2] / "docs" / "which_fid.md"
    words = page.read_text()
    for preset in metrics.PRESETS.values():
        assert f"| `{preset.name}` |" in words
        assert preset.program.split("'")[0] in words
