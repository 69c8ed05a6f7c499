"""Crops, resizes and normalises images as the original implementations of the networks do.

Worker processes import this module, so it must not import JAX.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from inception_jax.images import Picture
from inception_jax.registry import ModelInfo

if TYPE_CHECKING:  # worker processes that read images must not import JAX
    import jax

Array = TypeVar("Array", np.ndarray, "jax.Array")

_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def crop_of(picture: Picture, info: ModelInfo, channels: int) -> np.ndarray:
    """Crops and resizes an image as `info` says.

    Returns:
        The pixels, [h, w, channels] from 0 to 255, in uint8 or float32; see `rounds`.
    """
    if picture.image.mode == "L" and channels == 3:  # needs a third of the memory of RGB
        return np.repeat(cropped(picture.image, info), 3, axis=2)
    return cropped(picture.with_channels(channels), info)


def cropped(picture: Image.Image, info: ModelInfo) -> np.ndarray:
    """Crops and resizes an image in mode "L" or "RGB" as `info` says.

    Returns:
        The pixels, [h, w, c] from 0 to 255, in uint8 or float32; see `rounds`.
    """
    if info.crop == "resize_crop":
        seen = _resize_crop(picture, info)
    elif info.crop == "crop_resize":
        seen = _resize(_central(picture, info.crop_pct), info)
    elif info.crop == "warp_crop":
        side = math.floor(info.input_size / info.crop_pct)
        seen = _centre(picture.resize((side, side), _PILLOW[info.interpolation]), info)
    else:
        seen = _resize(picture, info)
    return seen.reshape(*seen.shape[:2], -1)


def described(info: ModelInfo) -> str:
    """Returns a one-line description of the preprocessing."""
    side = info.input_size
    larger = math.floor(side / info.crop_pct)
    part = (
        "the whole image"
        if info.crop_pct == 1
        else f"the central {info.crop_pct:.2%} of both sides"
    )
    how = {
        "resize_crop": f"the shorter side resized to {larger}, centre of {side}x{side}",
        "crop_resize": f"{part}, resized to {side}x{side}",
        "squash": f"the whole image, resized to {side}x{side}",
        "warp_crop": f"the whole image, resized to {larger}x{larger}, centre of {side}x{side}",
    }[info.crop]
    turned = "turned upright by EXIF" if info.upright else "seen as stored, EXIF is ignored"
    return f"{how}, {info.interpolation}; {turned}"


def rounds(info: ModelInfo) -> bool:
    """Returns whether `cropped` returns uint8 rather than float32."""
    return info.interpolation in _PILLOW


def as_input(pixels: np.ndarray, info: ModelInfo) -> np.ndarray:
    """Converts the result of `cropped` to the network's input, float32 [1, h, w, c]."""
    return scaled(pixels[:, :, ::-1] if info.channel_order == "bgr" else pixels, info)[None]


def scaled(pixels: Array, info: ModelInfo) -> Array:
    """Normalises pixels; returns float32 of the same shape.

    Args:
        pixels: NumPy or jax array [..., c] of any dtype, from 0 to 255, in the network's order of
            channels.
        info: facts about the network; the input range, mean and standard deviation are used.
    """
    fraction = pixels.astype(np.float32) / np.float32(255 / info.input_range)
    mean, std = (np.asarray(x, np.float32) for x in (info.mean, info.std))
    return (fraction - mean) / std


def _resize_crop(picture: Image.Image, info: ModelInfo) -> np.ndarray:
    """Resizes the shorter side and crops the centre.

    torchvision, timm and Cadene's pretrainedmodels do the same.
    """
    short = math.floor(info.input_size / info.crop_pct)
    width, height = picture.size
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    return _centre(picture.resize(size, _PILLOW[info.interpolation]), info)


def _centre(picture: Image.Image, info: ModelInfo) -> np.ndarray:
    left, top = (round((n - info.input_size) / 2) for n in picture.size)
    return np.asarray(picture.crop((left, top, left + info.input_size, top + info.input_size)))


def _central(picture: Image.Image, fraction: float) -> Image.Image:
    """Keeps the central fraction of both sides, like `tf.image.central_crop`.

    Opposite margins have equal widths.
    """
    left, top = (int((n - n * fraction) / 2) for n in picture.size)
    return picture.crop((left, top, picture.width - left, picture.height - top))


def _resize(picture: Image.Image, info: ModelInfo) -> np.ndarray:
    size = info.input_size
    if info.interpolation in _PILLOW:
        return np.asarray(picture.resize((size, size), _PILLOW[info.interpolation]))
    pixels = np.asarray(picture)
    half_pixel = info.interpolation == "bilinear_torch"
    pixels = interpolated(pixels, size, 0, half_pixel=half_pixel)
    return interpolated(pixels, size, 1, half_pixel=half_pixel)


def interpolated(pixels: np.ndarray, size: int, axis: int, *, half_pixel: bool) -> np.ndarray:
    """Resizes one axis by linear interpolation without antialiasing; returns float32.

    Args:
        pixels: array, uint8 or float32.
        size: new length of the axis.
        axis: axis to resize.
        half_pixel: where output pixel i is sampled, with scale = old length / new length. True: at
            (i + 0.5) * scale - 0.5, clipped at the border, as in PyTorch and TensorFlow 2. False:
            at i * scale, as in TensorFlow 1.
    """
    old = pixels.shape[axis]
    if half_pixel and old == size:  # every output pixel is an input pixel
        return pixels.astype(np.float32)
    low, high, share = linear_positions(old, size, half_pixel=half_pixel)
    shape = [1] * pixels.ndim
    shape[axis] = size
    share = share.reshape(shape)
    return pixels.take(low, axis) * (1 - share) + pixels.take(high, axis) * share


def linear_positions(
    old: int, size: int, *, half_pixel: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two input pixels next to each output pixel, and the weight of the second.

    Args:
        old: number of input pixels.
        size: number of output pixels.
        half_pixel: see `interpolated`.

    Returns:
        The indices of the first and of the second pixels, both int [size], and the weights of the
        second pixels, float32 [size]. The weight of the first pixel is 1 minus that of the second.
    """
    at = _positions(old, size, half_pixel)
    low = np.minimum(at.astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    return low, high, (at - low).astype(np.float32)


def _positions(old: int, size: int, half_pixel: bool) -> np.ndarray:
    """Returns the positions of output pixels on the axis of `old` input pixels, float32 [size].

    For `half_pixel`, see `interpolated`.

    TensorFlow and PyTorch compute in float32. PyTorch's compiler fuses the multiplication and the
    subtraction, so only their result is rounded. To match this, both operations are computed here
    in float64, which is exact, and only the result is rounded to float32.
    """
    scale = np.float32(old / size)
    if not half_pixel:
        return np.arange(size, dtype=np.float32) * scale
    centres = (np.arange(size) + 0.5) * np.float64(scale)
    return np.maximum(centres - 0.5, 0).astype(np.float32)
