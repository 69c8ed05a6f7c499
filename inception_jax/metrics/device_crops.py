"""Computes the crops of `inception_jax.crops` on the devices."""

from __future__ import annotations

import math
from typing import Literal, cast

import jax
import jax.numpy as jnp

from inception_jax.crops import rounds, scaled
from inception_jax.metrics.device_images import interpolated, nearest_pixels, pillow_resized
from inception_jax.registry import ModelInfo


def prepared(images: jax.Array, info: ModelInfo, channels: int) -> jax.Array:
    """Crops, resizes and normalises images as `inception_jax.preprocess` does on the host.

    For networks whose images Pillow resizes on the host (see `crops.rounds`), the results are
    identical, because Pillow computes in integers. For others, they agree up to float32 rounding.

    Args:
        images: RGB images, float32 [n, h, w, 3], whole numbers from 0 to 255.
        info: facts of the network, which state its crop, resizing and normalisation.
        channels: number of input channels of the network, 1 or 3.

    Returns:
        The network's input, float32 [n, h', w', channels].
    """
    images = _luma(images) if channels == 1 else images
    images = _cropped(images, info)
    if info.channel_order == "bgr":
        images = images[..., ::-1]
    return scaled(images, info)


def _luma(images: jax.Array) -> jax.Array:
    """Converts RGB images to grey [n, h, w, 1] in integer arithmetic, as Pillow does."""
    red, green, blue = (images[..., i].astype(jnp.int32) for i in range(3))
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey.astype(jnp.float32)[..., None]


def _cropped(images: jax.Array, info: ModelInfo) -> jax.Array:
    height, width = images.shape[1:3]
    size = info.input_size
    if info.crop == "resize_crop":
        short = math.floor(size / info.crop_pct)
        if width <= height:
            new = (int(short * height / width), short)
        else:
            new = (short, int(short * width / height))
        return _centre(_resized(images, new, info), size)
    if info.crop == "warp_crop":
        side = math.floor(size / info.crop_pct)
        return _centre(_resized(images, (side, side), info), size)
    if info.crop == "crop_resize":
        top, left = (int((n - n * info.crop_pct) / 2) for n in (height, width))
        images = images[:, top : height - top, left : width - left]
    return _resized(images, (size, size), info)


def _resized(images: jax.Array, size: tuple[int, int], info: ModelInfo) -> jax.Array:
    if not rounds(info):
        half_pixel = info.interpolation == "bilinear_torch"
        images = interpolated(images, size[0], 1, half_pixel=half_pixel)
        return interpolated(images, size[1], 2, half_pixel=half_pixel)
    if info.interpolation == "nearest":
        rows, columns = map(nearest_pixels, images.shape[1:3], size)
        return jnp.take(jnp.take(images, rows, 1), columns, 2)
    return pillow_resized(images, size, cast(Literal["bilinear", "bicubic"], info.interpolation))


def _centre(images: jax.Array, size: int) -> jax.Array:
    top, left = (round((n - size) / 2) for n in images.shape[1:3])
    return images[:, top : top + size, left : left + size]
