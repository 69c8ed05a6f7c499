"""Encoded images to arrays of uint8, strictly: what is damaged raises, whatever it is.

Only the wanted crop is resized, and a photo much larger than its crop is decoded at 1/2, 1/4 or 1/8
of its size, which JPEG's transform gives almost for free. Bilinear interpolation reads the four
neighbors of a half-pixel center and does not average over more, as `tf.image.resize` and
`tf.compat.v1.image.resize_bilinear(half_pixel_centers=True)` do. TensorFlow's Inception pipeline,
which the papers' figures come from, resizes so in training and in evaluation; so does this module.
Pillow and torchvision average (antialias), which gives slightly different pixels. The orientation
in EXIF is not applied, as in TensorFlow's and torchvision's pipelines.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from train.data.bad_images import BadImageError

cv2.setNumThreads(1)  # the pipeline's workers share the cores already
warnings.filterwarnings("ignore", module=r"PIL\.")  # its doubts about a file; its errors count

MAX_PIXELS = 178_956_970  # where Pillow's own guard against decompression bombs raises
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # none that starts a program (EPS)
_MAX_SIDE = 32_000  # cv2.warpAffine counts in 16 bits

# What libjpeg-turbo's TurboJPEG interface cannot do, but libjpeg, and so Pillow, can.
_UNSUPPORTED = re.compile(r"Unsupported (JPEG data|color|JPEG process)|Could not determine subsamp")
# Padding between segments: TensorFlow and libjpeg skip it, and files of ImageNet have it.
_HARMLESS = re.compile(r"extraneous bytes before marker")


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


ChooseBox = Callable[[int, int], Box]


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Pixels [h, w, c] uint8, and what they were before if that is worth a word."""

    image: np.ndarray
    converted: str | None = None


def full_box(height: int, width: int) -> Box:
    """The box of the whole image."""
    return Box(0, 0, height, width)


def decode_crop(data: bytes | np.ndarray, choose: ChooseBox, size: int, channels: int) -> Decoded:
    """Decodes an image and resizes a box of it, bilinearly without antialiasing.

    Args:
        data: an encoded image, or pixels [h, w, 1 or 3] uint8.
        choose: gives the box for a height and a width.
        size: side of the result.
        channels: 3 for RGB, 1 for luma.

    Returns:
        Pixels [size, size, channels] uint8.

    Raises:
        BadImageError: if the data is not a whole, undamaged image.
    """
    if isinstance(data, np.ndarray):
        image = with_channels(data, channels)
        return Decoded(resize_box(image, choose(*image.shape[:2]), size))
    shape = _jpeg_shape(data)
    if shape is not None:
        box = choose(*shape)
        factor = _reduction(shape, min(box.height, box.width), size)
        reduced = _decode_jpeg(data, shape, channels, factor)
        if reduced is not None:
            if factor == 1:
                return Decoded(resize_box(reduced, box, size))
            return Decoded(_resize_reduced(reduced, box, factor, size))
    decoded = _decode_with_pillow(data, channels)
    box = choose(*decoded.image.shape[:2])
    return Decoded(resize_box(decoded.image, box, size), decoded.converted)


def decode_whole(data: bytes | np.ndarray, channels: int, min_side: int | None = None) -> Decoded:
    """Decodes a whole image.

    Args:
        data: an encoded image, or pixels [h, w, 1 or 3] uint8.
        channels: 3 for RGB, 1 for luma.
        min_side: a JPEG may come out at 1/2, 1/4 or 1/8 of its size as long as its shorter side
            has this many pixels; None for the full size.

    Returns:
        Pixels [h, w, channels] uint8.

    Raises:
        BadImageError: if the data is not a whole, undamaged image.
    """
    if isinstance(data, np.ndarray):
        return Decoded(with_channels(data, channels))
    shape = _jpeg_shape(data)
    if shape is not None:
        factor = _reduction(shape, min(shape), min_side) if min_side else 1
        image = _decode_jpeg(data, shape, channels, factor)
        if image is not None:
            return Decoded(image)
    return _decode_with_pillow(data, channels)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Turns gray [h, w, 1] into three equal channels, or RGB [h, w, 3] into luma, as asked."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes [h, w, c] uint8 bilinearly without antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])  # OpenCV drops a single channel


def resize_box(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Resizes a box of [h, w, c] uint8 to [size, size, c]."""
    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    return resize(part, size, size)


def _resize_reduced(image: np.ndarray, box: Box, factor: int, size: int) -> np.ndarray:
    """Resizes a box given in pixels of the full image, of which `image` is 1/factor.

    The box's edges fall between the reduced pixels, so the samples' positions are computed.
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
    """The largest reduction that leaves `side` at least `wanted` pixels."""
    if max(shape) > _MAX_SIDE:
        return 1
    return next((factor for factor in (8, 4, 2) if side >= wanted * factor), 1)


def _jpeg_shape(data: bytes) -> tuple[int, int] | None:
    """Height and width from a JPEG's header; None for what Pillow has to do."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except KeyError:  # a way of subsampling that it has no name for
        return None
    except ValueError as error:
        return _left_to_pillow(data, error)
    height, width = int(height), int(width)
    _check_pixels(height, width)
    if colors in ("CMYK", "YCCK"):
        _decode_strictly(data, height, width, "CMYK", 1)  # Pillow would pass over damage
        return None
    return height, width


def _decode_jpeg(
    data: bytes, shape: tuple[int, int], channels: int, factor: int
) -> np.ndarray | None:
    """Decodes at 1/factor of the size; None for what Pillow has to do."""
    return _decode_strictly(data, *shape, "RGB" if channels == 3 else "GRAY", factor)


def _decode_strictly(
    data: bytes, height: int, width: int, colorspace: str, factor: int
) -> np.ndarray | None:
    reduced = -(-height // factor), -(-width // factor)  # libjpeg rounds up
    try:
        image = simplejpeg.decode_jpeg(
            data, colorspace, min_height=reduced[0], min_width=reduced[1], min_factor=factor
        )
    except ValueError as error:
        return _left_to_pillow(data, error)
    if image.shape[:2] != reduced:
        raise BadImageError(f"decoded to {image.shape[:2]} instead of {reduced}")
    return image


def _left_to_pillow(data: bytes, error: ValueError) -> None:
    """Returns None for Pillow's cases and raises for damage.

    Only the first complaint is known, so a file with padding must also have its end.
    """
    reason = str(error)
    padded = _HARMLESS.search(reason) and b"\xff\xd9" in data[-4096:]
    if not padded and not _UNSUPPORTED.search(reason):
        raise BadImageError(reason) from error


def _decode_with_pillow(data: bytes, channels: int) -> Decoded:
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            _check_png(data)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_pixels(image.height, image.width)
            image.load()
            return _to_uint8(image, channels)
    except BadImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImageError("not an image" if data else "empty file") from error
    # Pillow's readers raise whatever their parsing trips over: SyntaxError, struct.error, ...
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadImageError(reason) from error


def _to_uint8(image: Image.Image, channels: int) -> Decoded:
    mode = "RGB" if channels == 3 else "L"
    if image.mode == "F":
        raise BadImageError("floating-point pixels")
    if image.mode == "I" or image.mode.startswith("I;16"):
        gray = _scale_16_bits(np.asarray(image))
        return Decoded(with_channels(gray[..., None], channels), "16-bit gray")
    converted = "CMYK" if image.mode == "CMYK" else None
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow asks for this step
    array = np.array(image.convert(mode))
    return Decoded(array.reshape(*array.shape[:2], channels), converted)


def _scale_16_bits(image: np.ndarray) -> np.ndarray:
    """Maps 0..65535 to 0..255; Pillow's conversion would clip all above 255."""
    wide = image.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise BadImageError("gray values outside 16 bits")
    return ((wide + 128) // 257).astype(np.uint8)


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise BadImageError(f"{width}x{height} pixels are more than {MAX_PIXELS}")


def _check_png(data: bytes) -> None:
    """Verifies the checksums, which Pillow does not do for the pixels."""
    view, position, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        critical = kind[:1].isupper()
        if critical and zlib.crc32(view[position + 4 : end]) != checksum:
            raise BadImageError("PNG with a wrong checksum")
        position = end + 4
