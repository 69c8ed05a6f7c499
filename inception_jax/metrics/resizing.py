"""Resizes images to the input size of FID's network."""

from __future__ import annotations

import functools
from typing import Any, Literal, TypeVar, get_args

import jax
import numpy as np
from PIL import Image

from inception_jax.crops import interpolated

Resize = Literal[
    "bilinear_torch", "bilinear_tf1", "bilinear_antialias", "bicubic_pillow", "bilinear_pillow"
]
RESIZES: tuple[Resize, ...] = get_args(Resize)

SIDE = 299
"""Height and width of the network's input, in pixels."""

_UNIT = ("bilinear_torch", "bilinear_pillow")
_Array = TypeVar("_Array", np.ndarray, jax.Array)


def resized(image: np.ndarray, resize: Resize) -> np.ndarray:
    """Resizes an image to 299x299 by a named rule and normalises it to about [-1, 1].

    FIDs computed with different rules must not be compared (Parmar et al. 2022,
    https://arxiv.org/abs/2104.11222). The rules:

    | rule | grid and filter | antialiasing | normalised |
    |---|---|---|---|
    | `bilinear_torch` | half-pixel centres, linear | no | 2 x / 255 - 1 |
    | `bilinear_tf1` | aligned at the top left corner, linear | no | (x - 128) / 128 |
    | `bilinear_antialias` | half-pixel centres, linear | yes | (x - 128) / 128 |
    | `bicubic_pillow` | half-pixel centres, cubic, clipped to [0, 255] | yes | (x - 128) / 128 |
    | `bilinear_pillow` | half-pixel centres, linear, rounded to 8 bits | yes | 2 x / 255 - 1 |

    Sources: `torch.nn.functional.interpolate` with `align_corners=False`, as pytorch-fid calls it;
    `ResizeBilinear` of TensorFlow's graph of 2015-12-05, for which FID was defined; `interpolate`
    with `antialias=True`, as torchmetrics calls it; Pillow's resizing of each channel in mode "F",
    as clean-fid calls it; Pillow's resizing of an RGB image, as jax-fid calls it.

    Args:
        image: image [h, w, 3] from 0 to 255, uint8 or floats; `bilinear_pillow` takes only uint8.
        resize: name of the rule.

    Returns:
        The network's input, float32 [299, 299, 3].
    """
    return normalised(pixels_resized(image, resize), resize)


def pixels_resized(image: np.ndarray, resize: Resize) -> np.ndarray:
    """Resizes an image to float32 [299, 299, 3] without normalising it; see `resized`."""
    if resize == "bilinear_pillow":
        if image.dtype != np.uint8:
            raise ValueError(f"{resize} rounds to 8 bits, so it needs uint8, not {image.dtype}")
        # Neither jax-fid nor Pillow changes an image of the right size.
        picture = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return np.asarray(picture).astype(np.float32)
    if resize == "bicubic_pillow":
        channels = [_bicubic(image[:, :, i]) for i in range(image.shape[2])]
        return np.stack(channels, axis=2).clip(0, 255)
    if resize == "bilinear_antialias":
        return _smoothed(image)
    half_pixel = resize == "bilinear_torch"
    pixels = interpolated(image, SIDE, 0, half_pixel=half_pixel)
    return interpolated(pixels, SIDE, 1, half_pixel=half_pixel)


def normalised(pixels: _Array, resize: Resize) -> _Array:
    """Normalises float32 pixels from 0 to 255 to about [-1, 1]; see the table of `resized`.

    Args:
        pixels: a NumPy or JAX array of any shape.
        resize: name of the rule.
    """
    if resize in _UNIT:
        return pixels / np.float32(127.5) - np.float32(1)
    return (pixels - np.float32(128)) / np.float32(128)


def _bicubic(channel: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(channel.astype(np.float32))
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _smoothed(image: np.ndarray) -> np.ndarray:
    """Resizes by `bilinear_antialias`: the width first, then the height, as PyTorch does."""
    for axis in (1, 0):
        if image.shape[axis] != SIDE:
            image = _weighted(image, axis)
    return image.astype(np.float32)


def _weighted(image: np.ndarray, axis: int) -> np.ndarray:
    """Resizes one axis by `smoothing_weights`; returns float32."""
    indices, weights = _smoothing_taps(image.shape[axis])
    shape = [1] * image.ndim
    shape[axis] = SIDE
    total: Any = np.float32(0)
    for index, weight in zip(indices, weights, strict=True):
        product = image.take(index, axis) * weight.reshape(shape)
        total = (product + total).astype(np.float32)
    return total


@functools.lru_cache(maxsize=64)
def _smoothing_taps(old: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the non-zero weights of `smoothing_weights` for each output pixel.

    A product with the whole matrix would start the threads of NumPy's BLAS, which slow down the
    network.

    Returns:
        Indices of input pixels and their weights, both [k, 299]. k is the largest number of input
        pixels for an output pixel; output pixels that need fewer are filled up with weights of
        zero. If k is 2, the weights are float64. Products are then exact, so a product and the sum
        after it are rounded only once, as in PyTorch's fused multiply-add.
    """
    weights = smoothing_weights(old)
    first = (weights > 0).argmax(1)
    most = int((weights > 0).sum(1).max())
    indices = np.minimum(first[:, None] + np.arange(most), old - 1)
    taps = np.take_along_axis(weights, indices, axis=1)
    taps[first[:, None] + np.arange(most) >= old] = 0
    return indices.T.copy(), taps.T.astype(np.float64 if most == 2 else np.float32)


def smoothing_weights(old: int) -> np.ndarray:
    """Returns the weights with which `bilinear_antialias` resizes an axis, float32 [299, old].

    Row i holds the weights of the `old` input pixels for output pixel i. The filter is a triangle.
    It is two output pixels wide if the image shrinks, else two input pixels. All steps are computed
    in float32, as in PyTorch.
    """
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(old) / np.float32(SIDE)
    support = max(scale, one)
    centres = scale * (np.arange(SIDE, dtype=np.float32) + half)
    first = np.maximum((centres - support + half).astype(np.int64), 0)
    last = np.minimum((centres + support + half).astype(np.int64), old)  # exclusive
    at = np.arange(old)
    apart = (at[None].astype(np.float32) - centres[:, None] + half) * (one / support)
    weights = np.maximum(one - np.abs(apart), np.float32(0))
    weights *= (at >= first[:, None]) & (at < last[:, None])
    return weights / weights.sum(1, keepdims=True)
