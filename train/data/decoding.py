"""Decodes images to arrays of uint8. A file with detectable damage raises `BadImageError`.

Only the wanted crop is resized. If a JPEG is much larger than needed, it is decoded at 1/2, 1/4 or
1/8 of its size, which JPEG's transform allows at almost no cost.

Interpolation is bilinear with half-pixel centers and without antialiasing: each output pixel reads
its four neighbors, as in `tf.image.resize` and
`tf.compat.v1.image.resize_bilinear(half_pixel_centers=True)`. TensorFlow's Inception pipeline, from
which the papers' figures come, resizes this way in training and evaluation. Pillow and torchvision
apply antialiasing, which gives slightly different pixels.

JPEGs are decoded by simplejpeg, which is fast. `inception_jax.images` reads other formats, JPEGs
that simplejpeg cannot decode, and JPEGs to rotate by their EXIF orientation. It also reads all
images for prediction, and for evaluation with a single crop.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from inception_jax import images
from inception_jax.images import BadImageError

# Set once, not for each image, because all threads share the warning filters.
warnings.filterwarnings("ignore", module=r"PIL\.")  # only Pillow's errors matter
cv2.setNumThreads(1)  # the pipeline's workers already use all cores

_JPEG_COLORS = {1: "GRAY", 3: "RGB"}
_MAX_SIDE = 32_000  # cv2.warpAffine has 16-bit coordinates


class Box(NamedTuple):
    """A part of an image: its upper left corner, height and width, in pixels."""

    top: int
    left: int
    height: int
    width: int


ChooseBox = Callable[[int, int], Box]


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Pixels [h, w, c] uint8, and a note of unusual conversions, such as "CMYK", or None."""

    image: np.ndarray
    converted: str | None = None


def full_box(height: int, width: int) -> Box:
    """Returns the box of the whole image."""
    return Box(0, 0, height, width)


def decode_crop(
    data: bytes | np.ndarray,
    choose: ChooseBox,
    size: int,
    channels: int,
    upright: bool = False,
) -> Decoded:
    """Decodes an image and resizes a box of it, bilinearly without antialiasing.

    Args:
        data: an encoded image, or pixels [h, w, 1 or 3] uint8.
        choose: function that returns the box, given the height and the width of the image.
        size: side of the result in pixels.
        channels: 3 for RGB, 1 for luma.
        upright: whether to apply the EXIF orientation.

    Returns:
        A `Decoded` with the resized box as pixels [size, size, channels] uint8.

    Raises:
        BadImageError: if the data is not a complete, undamaged image.
    """
    if isinstance(data, np.ndarray):
        image = with_channels(data, channels)
        return Decoded(resize_box(image, choose(*image.shape[:2]), size))
    shape = None if upright and images.is_turned(data) else _jpeg_shape(data)
    if shape is not None:
        box = choose(*shape)
        factor = _reduction(shape, min(box.height, box.width), size)
        reduced = _decode_jpeg(data, *shape, _JPEG_COLORS[channels], factor)
        if reduced is not None:
            if factor == 1:
                return Decoded(resize_box(reduced, box, size))
            return Decoded(_resize_reduced(reduced, box, factor, size))
    picture = images.read(data, upright=upright)
    part = picture.image
    box = choose(part.height, part.width)
    if box != full_box(part.height, part.width):
        part = part.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    # Grey images get three channels after resizing. This takes a third of the memory.
    few = 1 if part.mode == "L" else channels
    pixels = resize(images.Picture(part, ()).array(few), size, size)
    return Decoded(with_channels(pixels, channels), ", ".join(picture.notes) or None)


def decode_whole(
    data: bytes | np.ndarray, channels: int, min_side: int | None = None, upright: bool = False
) -> Decoded:
    """Decodes a whole image.

    Args:
        data: an encoded image, or pixels [h, w, 1 or 3] uint8.
        channels: 3 for RGB, 1 for luma.
        min_side: smallest number of pixels of the shorter side to which a JPEG may be reduced, by
            decoding it at 1/2, 1/4 or 1/8 of its size; None decodes the full size.
        upright: whether to apply the EXIF orientation.

    Returns:
        A `Decoded` with the image as pixels [h, w, channels] uint8.

    Raises:
        BadImageError: if the data is not a complete, undamaged image.
    """
    if isinstance(data, np.ndarray):
        return Decoded(with_channels(data, channels))
    shape = None if upright and images.is_turned(data) else _jpeg_shape(data)
    if shape is not None:
        factor = _reduction(shape, min(shape), min_side) if min_side else 1
        image = _decode_jpeg(data, *shape, _JPEG_COLORS[channels], factor)
        if image is not None:
            return Decoded(image)
    return _read(data, channels, upright)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts gray [h, w, 1] to three equal channels, or RGB [h, w, 3] to luma, if needed."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image [h, w, c] uint8 bilinearly without antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])  # OpenCV drops a single channel


def resize_box(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Resizes a box of an image [h, w, c] uint8 to [size, size, c]."""
    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    return resize(part, size, size)


def _resize_reduced(image: np.ndarray, box: Box, factor: int, size: int) -> np.ndarray:
    """Resizes a box of an image to [size, size, c], given the image at 1/factor of its size.

    The box is in pixels of the full size, so its edges may lie between pixels of the reduced image.
    Therefore an affine map gives the sampling positions.
    """
    step_x, step_y = box.width / (size * factor), box.height / (size * factor)
    matrix = np.array(
        [
            [step_x, 0, box.left / factor + step_x / 2 - 0.5],
            [0, step_y, box.top / factor + step_y / 2 - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return warped.reshape(size, size, image.shape[2])


def _reduction(shape: tuple[int, int], side: int, wanted: int) -> int:
    """Returns the largest factor, 8, 4, 2 or 1, by which a JPEG may be reduced while decoding.

    The factor is 1 if a side of the JPEG is longer than 32,000 pixels.

    Args:
        shape: height and width of the JPEG.
        side: shorter side of the wanted part, in pixels of the full size.
        wanted: smallest number of pixels that `side` may have after the reduction.
    """
    if max(shape) > _MAX_SIDE:
        return 1
    return next((factor for factor in (8, 4, 2) if side >= wanted * factor), 1)


def _jpeg_shape(data: bytes) -> tuple[int, int] | None:
    """Returns height and width from a JPEG's header; None if Pillow must decode the image."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except KeyError:  # simplejpeg does not know this chroma subsampling
        return None
    except ValueError as error:
        return images.check_only_pillow_can(data, error)
    height, width = int(height), int(width)
    images.check_size(height, width)
    if colors in ("CMYK", "YCCK"):
        return None
    return height, width


def _decode_jpeg(
    data: bytes, height: int, width: int, colorspace: str, factor: int
) -> np.ndarray | None:
    """Decodes a JPEG at 1/factor of its size; returns None if Pillow must decode the image.

    Args:
        data: the encoded image.
        height: height of the image at its full size.
        width: width of the image at its full size.
        colorspace: "RGB" or "GRAY".
        factor: 1, 2, 4 or 8.

    Raises:
        BadImageError: if the image is damaged.
    """
    reduced = -(-height // factor), -(-width // factor)  # libjpeg rounds up
    try:
        image = simplejpeg.decode_jpeg(
            data, colorspace, min_height=reduced[0], min_width=reduced[1], min_factor=factor
        )
    except ValueError as error:
        return images.check_only_pillow_can(data, error)
    if image.shape[:2] != reduced:
        raise BadImageError(f"decoded to {image.shape[:2]} instead of {reduced}")
    return image


def _read(data: bytes, channels: int, upright: bool = False) -> Decoded:
    picture = images.read(data, upright=upright)
    return Decoded(picture.array(channels), ", ".join(picture.notes) or None)
