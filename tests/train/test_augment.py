"""Tests the crops for training and evaluation, and RandAugment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

import inception_jax as ij
from inception_jax import crops, images
from tests.helpers.written_images import encode, gradient
from train.data import augment
from train.data.augment import inception_box, multi_crops, train_view
from train.data.decoding import Box
from train.data.randaugment import OPERATIONS, rand_augment


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def view(data, *seed: int, crop="inception", size=32, channels=3, area_min=0.08, flip=False):
    return train_view(data, rng(*seed), crop, size, channels, area_min, flip)[0]


def test_inception_crops_have_the_papers_areas_and_ratios():
    boxes = [inception_box(375, 500, rng(i), 0.08) for i in range(4000)]
    areas = np.array([b.height * b.width / (375 * 500) for b in boxes])
    ratios = np.array([b.width / b.height for b in boxes])
    assert all(0 <= b.top <= 375 - b.height and 0 <= b.left <= 500 - b.width for b in boxes)
    assert 0.079 < areas.min() < 0.1
    assert 0.73 < ratios.min() < 0.76 < 1.31 < ratios.max() < 1.35
    # Areas are uniform up to a share of 0.5, where every aspect ratio fits into the image.
    np.testing.assert_allclose(
        [np.mean(areas < (0.08 + 0.3) / 2), np.mean(areas < 0.3)],
        np.mean(areas < 0.5) * np.array([0.11, 0.22]) / 0.42,
        rtol=0.15,
    )
    assert abs(np.mean(ratios[areas < 0.5] < 1) - 0.5) < 0.04
    corners = {(b.top == 0, b.left == 0) for b in boxes}
    assert corners == {(a, b) for a in (True, False) for b in (True, False)}


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (10, 1000, Box(0, 493, 10, 13)),
        (1000, 10, Box(493, 0, 13, 10)),
        (1, 1, Box(0, 0, 1, 1)),
    ],
)
def test_where_no_crop_fits_it_is_the_central_part(height, width, expected):
    assert inception_box(height, width, rng(0), 1.0) == expected


def test_an_inception_view_shows_its_box():
    data = encode(gradient(300, 400), quality=95, subsampling=0)
    box = inception_box(300, 400, rng(5), 0.08)
    shown = view(data, 5)
    red = (box.left + box.width * (np.array([0, 31]) + 0.5) / 32 - 0.5) / 399 * 255
    np.testing.assert_allclose(shown[16, [0, 31], 0], red, atol=3)
    np.testing.assert_array_equal(view(data, 5), shown)
    assert (view(data, 6) != shown).any()


def test_a_window_is_part_of_the_whole_image_resized():
    data = encode(gradient(300, 400), "PNG")
    starts = set()
    for seed in range(200):
        shown = view(data, seed, crop="window", size=28)  # of 32 by 32
        left = shown[0, 0, 0] / 255 * 32
        top = shown[0, 0, 1] / 255 * 32
        np.testing.assert_allclose(shown[0, 27, 0] / 255 * 32, left + 27, atol=0.5)
        starts.add((int(top), int(left)))
    assert starts == {(top, left) for top in range(5) for left in range(5)}


def test_no_crop_shows_the_whole_image():
    shown = view(encode(gradient(300, 400), "PNG"), crop="none", size=10)
    np.testing.assert_allclose(shown[0, [0, 9], 0], [255 * 0.05, 255 * 0.95], atol=1)
    pixels = gradient(20, 30)
    np.testing.assert_array_equal(view(pixels, crop="none", size=10), pixels)


def test_every_second_image_is_mirrored():
    pixels = gradient(20, 30)
    mirrored = 0
    for seed in range(400):
        shown = view(pixels, seed, crop="none", flip=True)
        is_mirrored = bool((shown == pixels[:, ::-1]).all())
        assert is_mirrored or (shown == pixels).all()
        mirrored += is_mirrored
    assert 150 < mirrored < 250


@pytest.mark.parametrize("crops", [12, 144])
@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (64, 64), (5, 400)])
def test_crops_come_in_mirror_pairs(crops, height, width):
    pixels = rng(1).integers(0, 256, (height, width, 3), np.uint8)
    views = multi_crops(pixels, 28, crops)
    assert (views.shape, views.dtype) == ((crops, 28, 28, 3), np.uint8)
    np.testing.assert_array_equal(views[1::2], views[::2, :, ::-1])
    if height != width:
        assert len({v.tobytes() for v in views}) == crops  # none comes twice


def test_where_the_crops_come_from():
    pixels = gradient(256, 512)  # wide: squares at 0, 128 and 256 of 512
    views = multi_crops(pixels, 224, 144)[::2].reshape(4, 3, 6, 224, 224, 3)
    left = views[0, :, 0, 0, 0, 0] / 255 * 511
    np.testing.assert_allclose(left, [0, 128, 256], atol=1)
    # Corners and center of the first square, at its own size: 256 - 224 = 32.
    corner = views[0, 0, :5, 0, 0, :2] / 255 * [511, 255]
    np.testing.assert_allclose(corner, [[0, 0], [32, 0], [0, 32], [32, 32], [16, 16]], atol=1)
    # The sixth is the whole square.
    np.testing.assert_allclose(views[0, 0, 5, 0, [0, 223], 0] / 255 * 511, [0, 255], atol=1)
    # Larger scales show less of the image: 224 of 256, 288, 320 and 352.
    spans = (views[:, 0, 0, 0, 223, 0] - views[:, 0, 0, 0, 0, 0].astype(int)) / 255 * 511
    np.testing.assert_allclose(spans, [223 * 256 / s for s in (256, 288, 320, 352)], atol=1.5)
    twelve = multi_crops(pixels, 224, 12)
    np.testing.assert_array_equal(twelve[::2], views[0, 1])
    upright = multi_crops(pixels.swapaxes(0, 1), 224, 144)[::2].reshape(views.shape)
    np.testing.assert_allclose(upright[0, :, 0, 0, 0, 0] / 255 * 511, [0, 128, 256], atol=1)


def test_evaluation_views():
    data = encode(gradient(300, 400), quality=95, subsampling=0)
    info = ij.model_info("inception_v3.slim_in1k")
    info = dataclasses.replace(info, input_size=32, crop_pct=0.875, interpolation="bilinear")
    one, converted = augment.evaluation_view(data, info, 3)
    assert one.shape == (32, 32, 3)
    assert converted is None
    edge = 400 * 0.0625 / 400 + 0.875 / 64
    np.testing.assert_allclose(one[16, [0, 31], 0] / 255, [edge, 1 - edge], atol=0.02)
    np.testing.assert_array_equal(one, crops.cropped(images.read(data).image, info))
    many, _ = augment.evaluation_view(data, dataclasses.replace(info, input_size=28), 1, 144)
    assert many.shape == (144, 28, 28, 1)
    pixels = gradient(28, 28)[..., :1]
    np.testing.assert_array_equal(augment.evaluation_view(pixels, info, 1)[0], pixels)
    with pytest.raises(ValueError, match="10"):
        multi_crops(pixels, 28, 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_follows_its_generator(channels):
    pixels = rng(0).integers(0, 256, (32, 40, channels), np.uint8)
    results = [rand_augment(pixels, rng(seed)) for seed in range(300)]
    assert {(r.shape, r.dtype.name) for r in results} == {(pixels.shape, "uint8")}
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(rand_augment(pixels, rng(seed)), result)
    unchanged = np.mean([(r == pixels).all() for r in results])
    assert 0.2 < unchanged < 0.36  # a quarter, and some operations change nothing
    assert len({r.tobytes() for r in results}) > 100
    for magnitude in (0.0, 10.0, 50.0):
        assert rand_augment(pixels, rng(1), magnitude, 5.0, 9).shape == pixels.shape
    np.testing.assert_array_equal(rand_augment(pixels, rng(0), layers=0), pixels)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_grow_with_their_strength(name):
    smooth = Image.fromarray(gradient(40, 50) // 2 + 40)
    change = [
        np.abs(
            np.array(OPERATIONS[name](smooth, s, 1, Image.Resampling.BILINEAR)) - np.int32(smooth)
        )
        for s in (0.1, 0.5, 1.0)
    ]
    sizes = [c.mean() for c in change]
    assert sizes == sorted(sizes)
    if name not in ("SharpnessIncreasing", "SolarizeIncreasing"):  # nothing sharp, nothing bright
        assert sizes[2] > 1


@pytest.mark.peers
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("bicubic", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0.3, 5.0, 9.0, 9.9])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_timms(monkeypatch, name, magnitude, sign, bicubic, mode):
    timm = pytest.importorskip("timm.data.auto_augment")
    resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    monkeypatch.setattr(timm.random, "random", lambda: 0.9 if sign < 0 else 0.1)
    monkeypatch.setattr(timm.random, "choice", lambda _: resample)
    pixels = rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    hparams = {"img_mean": (124, 116, 104) if mode == "RGB" else 117}
    expected = timm.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)(image)
    ours = OPERATIONS[name](image, magnitude / 10, sign, resample)
    np.testing.assert_array_equal(np.array(ours), np.array(expected))
