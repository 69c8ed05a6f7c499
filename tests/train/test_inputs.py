"""Tests the augmentation and normalisation of images on the device."""

from __future__ import annotations

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax as ij
from train.engine import augmentation
from train.engine.augmentation import Augmentation, AugmentationOptions


@pytest.fixture
def pixels():
    return np.random.default_rng(0).random((3, 4, 5, 3)).astype(np.float32)


def by_hsv(pixels, change):
    """Applies `change`, a function of hue, saturation and value, to RGB pixels; returns RGB."""
    out = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in pixels.reshape(-1, 3)]
    return np.array(out).reshape(pixels.shape)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_saturation_is_hsvs(pixels, factor):
    got = augmentation.saturate(jnp.asarray(pixels), factor)
    expected = by_hsv(pixels, lambda h, s, v: (h, min(s * factor, 1), v))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("turn", [-0.2, 0.0, 0.13])
def test_hue_is_hsvs(pixels, turn):
    got = augmentation.rotate_hue(jnp.asarray(pixels), turn)
    expected = by_hsv(pixels, lambda h, s, v: ((h + turn) % 1, s, v))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_grey_has_no_hue(pixels):
    grey = jnp.broadcast_to(pixels[..., :1], pixels.shape)
    for out in (augmentation.rotate_hue(grey, 0.1), augmentation.saturate(grey, 1.5)):
        np.testing.assert_allclose(out, grey, atol=1e-7)


def test_distortion_changes_each_image_by_itself_and_stays_in_range(pixels):
    same = jnp.broadcast_to(pixels[:1], pixels.shape)
    seen = [augmentation.distort(same, jax.random.key(seed)) for seed in range(8)]
    for out in seen:
        assert out.min() >= 0
        assert out.max() <= 1
        assert np.abs(out[0] - out[1]).max() > 1e-3
    assert len({np.asarray(out).tobytes() for out in seen}) == 8
    np.testing.assert_array_equal(seen[0], augmentation.distort(same, jax.random.key(0)))


def test_distortion_is_within_tf_slims_limits():
    """Changes of hue, brightness and contrast are uniform within TF-slim's limits.

    Contrast does not change images of one pixel. Hue and saturation do not change grey images.
    """
    colour = jnp.broadcast_to(jnp.array([0.5, 0.35, 0.4]), (2048, 1, 1, 3))
    grey = jnp.broadcast_to(jnp.array([0.42, 0.58])[:, None], (2048, 1, 2, 3))
    turn, value, chroma, step = [], [], [], []
    for seed in range(12):  # each batch has one of four orders
        key = jax.random.key(seed)
        out = np.asarray(augmentation.distort(colour, key), np.float64)[:, 0, 0]
        turn += [colorsys.rgb_to_hsv(*pixel)[0] for pixel in out]
        value += list(out.max(-1) - 0.5)
        chroma += list(np.ptp(out, -1) / 0.15)
        two = np.asarray(augmentation.distort(grey, key), np.float64)[:, 0, :, 0]
        step += list(np.ptp(two, -1) / 0.16)
    turned = (np.array(turn) - colorsys.rgb_to_hsv(0.5, 0.35, 0.4)[0] + 0.5) % 1 - 0.5
    _is_uniform(turned, -0.2, 0.2)
    _is_uniform(np.array(value), -32 / 255, 32 / 255)
    _is_uniform(np.array(step), 0.5, 1.5)
    # Saturation comes before or after brightness, and scales the colour by the value at that time.
    assert np.min(chroma) < 0.6
    assert np.max(chroma) > 1.4


def _is_uniform(values: np.ndarray, low: float, high: float) -> None:
    share = (np.sort(values) - low) / (high - low)
    expected = (np.arange(len(values)) + 0.5) / len(values)
    np.testing.assert_allclose(share, expected, atol=0.02)


def test_erasing_puts_one_rectangle_of_noise_into_a_share_of_the_images():
    x = jnp.full((400, 20, 30, 3), 7.0)
    out = np.asarray(augmentation.erase(x, 0.25, jax.random.key(0)))
    changed = (out != 7).all(3)
    hit = changed.any((1, 2))
    assert 70 < hit.sum() < 130
    for mask in changed[hit]:
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    areas = changed[hit].mean((1, 2))
    assert 0.005 < areas.min() < 0.06
    assert 0.2 < areas.max() < 0.4
    assert abs(out[changed].mean()) < 0.05
    assert abs(out[changed].std() - 1) < 0.05


def mixing(**options) -> Augmentation:
    return Augmentation(AugmentationOptions(**options), "inception_v3", 8, "float32")


@pytest.mark.parametrize("count", [4, 5])
def test_neighbours_are_mixed(count):
    """Each image is mixed with its neighbour; the last image of an odd batch is not mixed.

    Neighbours are on the same device.
    """
    x = jnp.arange(count, dtype=jnp.float32)[:, None, None, None] * jnp.ones((1, 4, 4, 3))
    _, targets = mixing(mixup=0.8).mix(x, jnp.eye(count), jax.random.key(0))
    share = targets[0, 0]
    assert 0 < share < 1
    for i, target in enumerate(targets):
        partner = i ^ 1 if i < count // 2 * 2 else i
        expected = share * np.eye(count)[i] + (1 - share) * np.eye(count)[partner]
        np.testing.assert_allclose(target, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}]
)
def test_mixing_weighs_labels_as_pixels(options):
    # All pixels of image i are i, so the mean of a mixed image shows the shares of both images.
    x = jnp.broadcast_to(jnp.arange(6.0)[:, None, None, None], (6, 40, 40, 3))
    kinds = set()
    for seed in range(12):
        out, targets = mixing(**options).mix(x, jnp.eye(6), jax.random.key(seed))
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(out.mean((1, 2, 3)), targets @ np.arange(6.0), atol=1e-3)
        kinds.add(len(np.unique(out[0])) > 1)
    assert kinds == {bool(options.get("cutmix")), not options.get("mixup")}


@pytest.mark.parametrize("arch", ["inception_v3", "inception_next_tiny", "bn_inception"])
def test_colour_images_are_normalised_as_the_publisher_does(arch):
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    info = ij.model_info(arch)
    got = Augmentation(AugmentationOptions(), arch, 224, "float32").prepare(jnp.asarray(image))
    mean, std = np.array(info.mean), np.array(info.std)
    x = image[..., ::-1] if info.channel_order == "bgr" else image
    np.testing.assert_allclose(got, (x / 255 * info.input_range - mean) / std, rtol=1e-4, atol=1e-4)
