"""Tests features of images and the metrics computed from them, from files to results."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import re
import subprocess
import sys
import threading
import weakref

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import inception_jax as ij
from inception_jax import metrics
from inception_jax.inference import compiled as predict
from inception_jax.metrics import resizing
from inception_jax.metrics.extractor import _pooled
from inception_jax.metrics.image_files import image_files
from inception_jax.metrics.image_loader import LoaderOptions, batches, open_images
from tests.helpers.metric_sets import (
    exact_distance,
    extractor,
    network,
    pictures,
    random_features,
    scipys_distance,
    write,
)
from tests.helpers.networks import filled

torch = pytest.importorskip("torch")
import torch.nn.functional as F

import reference_torch
from tests.helpers.twins import twin_of

RECURSIVE = dataclasses.replace(metrics.PRESETS["pytorch_fid"].files, recursive=True)
STAGES = {64: "MaxPool_3a_3x3", 192: "MaxPool_5a_3x3", 768: "Mixed_6e", 2048: "Mixed_7c"}
SIZES = [(299, 299), (60, 83), (301, 64), (512, 400), (1, 7)]
PREPARE = functools.partial(resizing.resized, resize="bilinear_torch")


@functools.cache
def twin():
    return twin_of(network(), "inception_v3.fid", "float32")


def torch_input(image: np.ndarray) -> torch.Tensor:
    """Returns an image as the tensor that pytorch-fid feeds to its network."""
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
    """`bilinear_tf1` samples the input at i * old / 299 for output pixel i.

    Beyond the input's end, the last pixel is repeated.
    """
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
    images = [pictures(1, seed=i, size=size)[0] for i, size in enumerate(SIZES)]
    x = torch.cat([torch_input(image) for image in images])
    with torch.no_grad():
        expected = twin().features(x)[STAGES[dims]].mean((2, 3)).numpy()
        logits = (twin()(x) - twin().fc.bias).numpy()
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
    """Features are right if devices share a batch of 5 images, which they cannot divide evenly.

    The reference is an extractor with the default way of splitting a batch.
    """
    sharing = metrics.Extractor(network(), dims=64, batch_size=5)
    graphdef, state = nnx.split(ij.fold(network()))

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

    options = LoaderOptions(PREPARE, 4, 2, skip_unreadable=False, progress=False)
    read = 0
    for batch in batches(open_images(source()), options):
        read += len(batch)
        assert taken <= read + 2 * 4
    assert read == taken == count


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_images_that_wait_do_not_overwrite_each_other(batch_size):
    """Batches contain the right images, although arrays of waiting images are reused.

    The caller's own arrays are never reused.
    """
    images = pictures(21, size=(4, 4)).astype(np.float32)
    before = images.copy()
    source = itertools.chain(np.uint8(images[:10]), np.uint8(images[10:]))
    given: list[np.ndarray] = []

    def unchanged(image: np.ndarray) -> np.ndarray:
        given.append(image)
        return image

    options = LoaderOptions(unchanged, batch_size, 3, skip_unreadable=False, progress=False)
    found = np.concatenate([batch.copy() for batch in batches(open_images(source), options)])
    np.testing.assert_array_equal(found, before)
    assert {image.tobytes() for image in given} == {image.tobytes() for image in np.uint8(before)}


@pytest.mark.parametrize("other", [(9, 8), (1, 1)])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_images_of_several_sizes_are_refused(other, batch_size):
    """Features without resizing need one size; an image of one pixel must not be stretched."""
    own = metrics.OwnFeatures(lambda images: images.mean((1, 2)), "mean", size=None)
    images = [*pictures(6, size=(8, 8)), *pictures(1, size=other)]
    ours = metrics.Extractor(features=own, batch_size=batch_size)
    with pytest.raises(ValueError, match=r"one size; got \[8, 8, 3\] and .*size of OwnFeatures"):
        ours.features(images)


def test_the_network_is_not_kept_twice():
    """After folding, the extractor does not keep the unfolded network."""
    model = ij.create_model("inception_v3.fid", width_multiplier=0.05)
    alive = weakref.ref(model)
    ours = metrics.Extractor(model)
    ours.load()
    ours.__dict__["_weights"] = None  # as in an extractor whose weights are a path
    del model
    gc.collect()
    assert alive() is None
    assert len(ours.features(pictures(2))) == 2


def test_readings_end_with_their_threads():
    options = LoaderOptions(PREPARE, 2, 3, skip_unreadable=False, progress=False)
    before = threading.active_count()
    for _ in batches(open_images(pictures(30, size=(4, 4))), options):
        break
    assert threading.active_count() == before


# Metrics of images


def test_fid_of_images_is_that_of_their_features(tmp_path):
    a, b = pictures(9), pictures(9, seed=1, low=90)
    found = extractor().features(b).statistics
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
    with pytest.raises(ValueError, match=r"five has 5 images; .* needs at least 10"):
        metrics.inception_score(tmp_path / "five", extractor=extractor())
    with pytest.raises(ValueError, match=r"five has 5 images; .* needs at least 8"):
        metrics.precision_recall(
            tmp_path / "five", tmp_path / "five", neighbours=7, extractor=extractor()
        )
    for one in (pictures(1), write(tmp_path / "one", pictures(1))):
        with pytest.raises(ValueError, match="at least two"):
            metrics.fid(tmp_path / "five", one, extractor=extractor())


def test_few_images_of_an_iterator_are_refused():
    for method in ("features", "statistics"):
        with pytest.raises(ValueError, match="two images"):
            getattr(extractor(), method)(iter(pictures(1)))


def test_statistics_serve_fid_alone(nothing_computed, tmp_path):
    metrics.Statistics.of(random_features(9, 4, 0)).save(tmp_path / "x.npz")
    for metric in (metrics.kid, metrics.precision_recall):
        with pytest.raises(ValueError, match="statistics are enough for FID only"):
            metric(metrics.Statistics.load(tmp_path / "x.npz"), pictures(9), extractor=extractor())
    with pytest.raises(ValueError, match="logits"):
        metrics.inception_score(pictures(20), extractor=extractor(dims=64))
    with pytest.raises(ValueError, match="one input has 4 features, the other would have 256"):
        metrics.fid(pictures(9), metrics.Statistics.load(tmp_path / "x.npz"), extractor=extractor())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (pictures(3).astype(np.float32) / 255, r"uint8.*float32 \[3, 60, 70, 3\]"),
        (pictures(3).transpose(0, 3, 1, 2), r"\[3, 3, 60, 70\]: put the channels last"),
        (pictures(3)[..., :2], r"\[3, 60, 70, 2\]"),
        (pictures(3)[0], r"\[n, h, w, 3\] .*; got uint8 \[60, 70, 3\]"),
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
    with pytest.raises(ValueError, match=r"images must be uint8|absent\.png is not a whole image"):
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
    passed_over = r"4 of 14 files are skipped: .*1 \.JPG \(11\.JPG\).*lower case only"
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
    with pytest.warns(UserWarning, match=r"2 files.*skipped: .*003\.png, .*004\.png"):
        found = extractor(dims=64, skip_unreadable=True).features(tmp_path)
    assert_same_features(found, extractor(dims=64).features(pictures(5)[:3]))


# The network


def test_other_networks_are_refused():
    torchvisions = filled("inception_v3.tv_in1k", width_multiplier=0.1)
    with pytest.raises(ValueError, match=r"inception_v3\.tv_in1k has count_include_pad=True"):
        metrics.Extractor(torchvisions).load()
    with pytest.raises(ValueError, match="not those of inception_v1"):
        metrics.Extractor(filled("inception_v1", width_multiplier=0.1)).load()
    grey = filled("inception_v3.fid", width_multiplier=0.1, in_channels=1)
    with pytest.raises(ValueError, match="takes 1"):
        metrics.Extractor(grey).load()
    with pytest.raises(ValueError, match=r"float32.*bfloat16"):
        metrics.Extractor(filled("inception_v3.fid", width_multiplier=0.1, dtype="bfloat16")).load()
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        metrics.fid(pictures(3), pictures(3), weights="absent.pth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dims": 100}, "dims must be one of 64, 192, 768, 2048, not 100"),
        ({"resize": "bicubic"}, "bilinear_torch, bilinear_tf1"),
        ({"batch_size": 0}, "batch_size"),
        ({"workers": 0}, "workers"),
    ],
)
def test_options_that_are_not_there(options, words):
    with pytest.raises(ValueError, match=words):
        metrics.fid(pictures(3), pictures(3), **options)


def test_options_belong_to_one_extractor():
    with pytest.raises(TypeError, match="give dims to the Extractor instead"):
        metrics.fid(pictures(3), pictures(3), extractor=extractor(), dims=64)
    with pytest.raises(TypeError, match="sizes"):
        metrics.fid(pictures(3), pictures(3), sizes=64)  # type: ignore[call-arg]


def test_the_library_is_imported_without_metrics():
    code = "import inception_jax, sys; sys.exit('inception_jax.metrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


# At full width, and compared with pytorch-fid


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Returns a full-width twin with random weights, and its file in the format of pytorch-fid."""
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
