"""Tests how images are prepared on devices: resized as on the host, with their range checked."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from inception_jax import metrics
from inception_jax.metrics import device_images, resizing
from tests.helpers.loop_metrics import extractor, pictures, small

SIZES = [(299, 299), (60, 83), (301, 64), (512, 400), (1, 7), (299, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", resizing.RESIZES)
def test_images_are_resized_as_on_the_host(resize, size):
    image = pictures(1, size=size)[0]
    expected = resizing.resized(image, resize)
    found = device_images.resized(device_images.pixels(image[None]), resize)[0]
    # Pixels up to 255 may differ by two roundings and by the order of sums of some dozens of terms.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 / 127.5)


@pytest.mark.parametrize("size", [*SIZES, (50, 40), (40, 50)])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_images_of_8_bits_are_resized_as_pillow_does_to_the_last_bit(method, size):
    image = pictures(1, size=size)[0]
    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[method]
    expected = np.asarray(Image.fromarray(image).resize((71, 45), how))
    found = device_images.pillow_resized(device_images.pixels(image[None]), (45, 71), method)[0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "preset",
    [p if p == "adm" else pytest.param(p, marks=pytest.mark.slow) for p in metrics.PRESETS],
)
def test_features_are_those_of_the_host(preset):
    images = pictures(4, size=(40, 50))
    ours = extractor(preset=preset).apply(None, images)
    theirs = extractor(preset=preset).features(images)
    for name in ("pooled", "logits_unbiased", "spatial"):
        found, expected = getattr(ours, name), getattr(theirs, name)
        assert (found is None) == (expected is None)
        if found is not None:
            atol = 2e-6 * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    assert ours.origin == theirs.origin
    assert ours.origin.preset == preset


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255)])
def test_float_images_are_those_of_the_files_that_they_become(value_range):
    whole = pictures(3)
    low, high = value_range
    floats = (whole / 255 * (high - low) + low).astype(np.float32)
    noise = np.random.default_rng(1).uniform(-0.4, 0.4, whole.shape) * (high - low) / 255
    for images in (floats, (floats + noise).astype(np.float32), jnp.asarray(floats)):
        np.testing.assert_array_equal(device_images.pixels(images, value_range), whole)
    below = (floats + 0.6 * (high - low) / 255).astype(np.float32)
    found = device_images.pixels(below, value_range, "down")
    np.testing.assert_array_equal(found, whole)
    found = device_images.pixels(below, value_range, "none")
    np.testing.assert_allclose(found, np.minimum(whole + 0.6, 255), atol=1e-3)
    found = device_images.pixels(floats.astype(jnp.bfloat16), value_range)
    assert np.abs(np.asarray(found) - whole).max() <= 2


def test_grey_images_are_repeated():
    grey = pictures(2)[..., :1]
    np.testing.assert_array_equal(device_images.pixels(grey), np.repeat(grey, 3, axis=3))


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (pictures(2) / 255.0, {}, r"need a value_range.*float64 \[2, 24, 31, 3\].*value_range=\(0"),
        (pictures(2).transpose(0, 3, 1, 2), {}, r"transpose\(0, 2, 3, 1\)"),
        (pictures(2)[0], {}, r"images\[None\]"),
        (pictures(2).astype(np.int32), {}, "uint8 or floats"),
        (pictures(2), {"value_range": (0, 1)}, r"value_range of uint8 images is \(0, 255\)"),
        (pictures(2)[:, :0], {}, "without pixels"),
        (pictures(2) / 255.0, {"value_range": (1, 0)}, "black below white"),
        (pictures(2) / 255.0, {"value_range": (0, 1), "rounding": "up"}, "nearest, down, none"),
        ([pictures(2)], {}, "a JAX or NumPy array, not a list"),
    ],
)
def test_images_that_are_none(images, options, words):
    with pytest.raises(ValueError, match=words):
        small().update(small().init(), images, **options)


def test_a_rule_that_rounds_refuses_what_is_not_rounded():
    with pytest.raises(ValueError, match="needs 8-bit images"):
        small().apply(None, pictures(2) / 255.0, value_range=(0, 1), rounding="none")


@pytest.mark.parametrize(
    ("images", "value_range"),
    [(pictures(9) / 127.5 - 1, (0, 1)), (pictures(9).astype(float), (-1, 1))],
)
def test_a_range_that_is_not_that_of_the_images_is_refused(images, value_range):
    found = small().update(small().init(), images, value_range=value_range)
    with pytest.raises(ValueError, match=r"images are far outside .* State the range that they"):
        metrics.statistics_of(found)


@pytest.mark.parametrize(
    ("images", "value_range"),
    [(pictures(9) / 255, (-1, 1)), (pictures(9) / 255, (0, 255)), (pictures(9) // 128, None)],
)
def test_a_range_that_the_images_do_not_fill_is_doubted(images, value_range):
    found = small().update(small().init(), images, value_range=value_range)
    with pytest.warns(UserWarning, match="is the stated range right"):
        metrics.statistics_of(found)
