"""Scales images to the range from 0 to 255 and resizes them, on the devices.

The resizing rules are the same as in `resizing`, which runs on the host. Rules without antialiasing
gather two pixels along each axis. The other rules are two matrix products, one for each axis. Their
weights are computed on the host, once for each size. Pillow resizes 8-bit images in integer
arithmetic, and the devices compute exactly the same pixels.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from inception_jax.crops import linear_positions
from inception_jax.metrics.resizing import SIDE, Resize, normalised, smoothing_weights

Rounding = Literal["nearest", "down", "none"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)

Range = tuple[float, float]

_PILLOW_BITS = 22  # fraction bits of Pillow's integer weights for 8-bit images


def pixels(
    images: ArrayLike, value_range: Range | None = None, rounding: Rounding = "nearest"
) -> jax.Array:
    """Returns images as pixels from 0 to 255, float32 [n, h, w, 3].

    Args:
        images: uint8 or float images, [n, h, w, 3] or grey [n, h, w, 1]. The grey channel is
            repeated three times.
        value_range: the values of black and white in float images: (0, 1), (-1, 1) or (0, 255).
            Values outside this range are clipped.
        rounding: how float images are rounded. "nearest": to the nearest whole number, as if they
            were saved with 8 bits and read again. "down": to the next lower whole number, as ADM's
            sampler and torchmetrics do. "none": not at all.

    Raises:
        ValueError: for an unsupported shape, dtype or option, or float images without a
            `value_range`.
    """
    images = checked(images, value_range, rounding)
    if images.dtype == jnp.uint8:
        found = images.astype(jnp.float32)
    else:
        assert value_range is not None
        found = jnp.clip(_scaled(images, value_range), 0, 255)
        found = _ROUND[rounding](found)
    return jnp.repeat(found, 3, axis=3) if found.shape[3] == 1 else found


_ROUND = {"nearest": lambda x: jnp.floor(x + 0.5), "down": jnp.floor, "none": lambda x: x}


def pixel_range(images: jax.Array, value_range: Range | None, mask: jax.Array) -> jax.Array:
    """Returns the smallest and the largest value of images before clipping, float32 [2].

    Values are scaled so that 0 is black and 1 is white. For uint8 images, whose range is known, 0
    is returned as the smallest value. Then `warn_of_part` warns only if all are nearly black.

    Args:
        images: see `pixels`.
        value_range: see `pixels`.
        mask: bool [n], False for images to ignore.
    """
    whole = images if images.dtype == jnp.uint8 else _scaled(images, value_range or (0, 255))
    found = whole.astype(jnp.float32) / 255
    kept = mask[:, None, None, None]
    low, high = jnp.where(kept, found, jnp.inf).min(), jnp.where(kept, found, -jnp.inf).max()
    if images.dtype == jnp.uint8:
        low = jnp.minimum(low, 0)
    return jnp.stack([low, high])


def _scaled(images: jax.Array, value_range: Range) -> jax.Array:
    """Scales floats from `value_range` to the range from 0 to 255, as float32.

    For (-1, 1) it computes (x + 1) * 127.5 in this order, with the same rounding as image samplers.
    """
    low, high = value_range
    return (images.astype(jnp.float32) - np.float32(low)) * np.float32(255 / (high - low))


def checked(images: ArrayLike, value_range: Range | None, rounding: Rounding) -> jax.Array:
    """Checks the arguments of `pixels` and returns the images as a JAX array.

    Raises:
        ValueError: see `pixels`.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, not {rounding!r}")
    if not isinstance(images, jax.Array | np.ndarray):
        raise ValueError(f"images must be a JAX or NumPy array, not a {type(images).__name__}")
    array = jnp.asarray(images)
    found = f"got {images.dtype} {list(images.shape)}"
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        hint = ""
        if array.ndim == 4 and array.shape[1] in (1, 3):
            hint = ": put the channels last with images.transpose(0, 2, 3, 1)"
        elif array.ndim == 3:
            hint = ": one image needs images[None]"
        raise ValueError(f"images must be [n, height, width, 3]; {found}{hint}")
    if 0 in array.shape[1:]:
        raise ValueError(f"images without pixels: {found}")
    if array.dtype == jnp.uint8:
        if value_range not in (None, (0, 255)):
            raise ValueError(f"value_range of uint8 images is (0, 255), not {value_range}")
        return array
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"images must be uint8 or floats; {found}: use images.astype('uint8')")
    if value_range is None:
        raise ValueError(
            f"float images need a value_range, which cannot be guessed; {found}: give "
            "value_range=(0, 1), (-1, 1) or (0, 255)"
        )
    low, high = value_range
    if not low < high:
        raise ValueError(
            f"value_range must be (black, white), with black below white; got {value_range}"
        )
    return array


def resized(images: jax.Array, resize: Resize) -> jax.Array:
    """Resizes images to 299x299 by a named rule, and normalises them.

    The result agrees with `resizing.resized` on the host up to float32 rounding.

    Args:
        images: float32 [n, h, w, c], from 0 to 255; whole numbers for "bilinear_pillow".
        resize: name of the rule; see `resizing.resized`.

    Returns:
        The network's input, float32 [n, 299, 299, c].
    """
    return normalised(_resized(images, resize), resize)


def _resized(images: jax.Array, resize: Resize) -> jax.Array:
    _, height, width, _ = images.shape
    if resize == "bilinear_pillow":
        return pillow_resized(images, (SIDE, SIDE), "bilinear")
    if resize == "bicubic_pillow":
        images = _product(images, pillow_weights(width, SIDE, "bicubic"), 2)
        images = _product(images, pillow_weights(height, SIDE, "bicubic"), 1)
        return jnp.clip(images, 0, 255)
    if resize == "bilinear_antialias":
        images = _product(images, smoothing_weights(width), 2) if width != SIDE else images
        return _product(images, smoothing_weights(height), 1) if height != SIDE else images
    half_pixel = resize == "bilinear_torch"
    images = interpolated(images, SIDE, 1, half_pixel=half_pixel)
    return interpolated(images, SIDE, 2, half_pixel=half_pixel)


def interpolated(images: jax.Array, size: int, axis: int, *, half_pixel: bool) -> jax.Array:
    """Resizes one axis by linear interpolation without antialiasing; see `crops.interpolated`."""
    old = images.shape[axis]
    if half_pixel and old == size:
        return images
    low, high, share = linear_positions(old, size, half_pixel=half_pixel)
    shape = [1] * images.ndim
    shape[axis] = size
    share = share.reshape(shape)
    return jnp.take(images, low, axis) * (1 - share) + jnp.take(images, high, axis) * share


def _product(images: jax.Array, weights: np.ndarray, axis: int) -> jax.Array:
    """Resizes axis 1 or 2 of images by a matrix product with `weights` [new, old]."""
    letters = "oh,nhwc->nowc" if axis == 1 else "ow,nhwc->nhoc"
    return jnp.einsum(letters, weights.astype(np.float32), images, precision="highest")


def pillow_resized(
    images: jax.Array, size: tuple[int, int], method: Literal["bilinear", "bicubic"]
) -> jax.Array:
    """Resizes 8-bit images exactly as Pillow does, rounding after each axis.

    Args:
        images: float32 [n, h, w, c], whole numbers from 0 to 255.
        size: new height and width.
        method: name of Pillow's filter.

    Returns:
        The resized images, float32 [n, height, width, c], whole numbers from 0 to 255.
    """
    old = images.shape[1:3]
    for axis in pillow_order(old, size, method):
        weights = whole_weights(old[axis], size[axis], method)
        images = _whole_product(images, weights, axis + 1)
    return images


def _whole_product(images: jax.Array, weights: np.ndarray, axis: int) -> jax.Array:
    """Resizes one axis with `whole_weights` and rounds to whole numbers from 0 to 255.

    The sums are exact: the weights are split into 8-bit parts, so float32 sums stay below 2^24.
    """
    total = jnp.int32(1 << (_PILLOW_BITS - 1))
    for bits, part in ((0, weights & 0xFF), (8, (weights >> 8) & 0xFF), (16, weights >> 16)):
        total = total + (_product(images, part, axis).astype(jnp.int32) << bits)
    return jnp.clip(total >> _PILLOW_BITS, 0, 255).astype(jnp.float32)


@functools.cache
def pillow_order(
    old: tuple[int, int], new: tuple[int, int], method: Literal["bilinear", "bicubic"]
) -> tuple[int, ...]:
    """Returns the axes to resize, 0 for the height and 1 for the width, in Pillow's order.

    The order matters because Pillow rounds after each axis. Pillow up to version 12 resizes the
    width first. In later versions, the order depends on the sizes. This function resizes an image
    of noise in both orders and returns the order that agrees with Pillow. If neither agrees, the
    width comes first. An axis of unchanged size is left out.

    Args:
        old: height and width before resizing.
        new: height and width after resizing.
        method: name of Pillow's filter.
    """
    axes = tuple(axis for axis in (1, 0) if old[axis] != new[axis])
    if len(axes) < 2:
        return axes
    noise = np.random.default_rng(0).integers(0, 256, (*old, 3), np.uint8)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    expected = np.asarray(Image.fromarray(noise).resize((new[1], new[0]), filters[method]))
    for order in (axes, axes[::-1]):
        found = noise
        for axis in order:
            weights = whole_weights(old[axis], new[axis], method).astype(np.float64)
            sums = np.moveaxis(np.tensordot(weights, found, (1, axis)), 0, axis)
            found = np.floor(sums / 2**_PILLOW_BITS + 0.5).clip(0, 255)
        if (found == expected).all():
            return order
    return axes


@functools.cache
def whole_weights(old: int, new: int, method: Literal["bilinear", "bicubic"]) -> np.ndarray:
    """Returns `pillow_weights` times 2^22, rounded as Pillow does for 8 bits; int64 [new, old]."""
    scaled = pillow_weights(old, new, method) * (1 << _PILLOW_BITS)
    return np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int64)


@functools.cache
def pillow_weights(old: int, new: int, method: Literal["bilinear", "bicubic"]) -> np.ndarray:
    """Returns the weights with which Pillow resizes an axis, float64 [new, old].

    Row i holds the weights of all input pixels for output pixel i.

    Source: `precompute_coeffs` of Pillow's src/libImaging/Resample.c.
    """
    kernel, reach = _FILTERS[method]
    scale = old / new
    stretch = max(scale, 1.0)
    support = reach * stretch
    centres = (np.arange(new) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), old)
    at = np.arange(old)
    weights = kernel((at - centres[:, None] + 0.5) * (1 / stretch))
    weights *= (at >= first[:, None]) & (at < last[:, None])
    return weights / weights.sum(1, keepdims=True)


@functools.cache
def nearest_pixels(old: int, new: int) -> np.ndarray:
    """Returns the index of the input pixel that Pillow picks for each output pixel, int [new].

    To find the indices, it lets Pillow resize a row of the numbers from 0 to old - 1.
    """
    ramp = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(ramp.resize((new, 1), Image.Resampling.NEAREST))[0]


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Returns the values of the cubic convolution filter with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_FILTERS = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}
