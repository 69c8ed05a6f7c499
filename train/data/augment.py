"""Crops and mirrors images for training and evaluation.

All random numbers come from the argument `rng`, so equal generators give equal pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from inception_jax import images
from inception_jax.crops import crop_of
from inception_jax.registry import ModelInfo
from train.data.decoding import Box, decode_crop, decode_whole, full_box, resize, resize_box
from train.data.options import Crop

_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def inception_box(height: int, width: int, rng: np.random.Generator, area_min: float) -> Box:
    """Returns the `Box` of a random crop, as in the Inception papers.

    The source is GoogLeNet's paper, arXiv:1409.4842, section 6. The crop's share of the image's
    area is uniform between `area_min` and 1. Its aspect ratio is between 3/4 and 4/3 and uniform in
    the logarithm, so portrait and landscape crops are equally likely, as in torchvision's
    `RandomResizedCrop`. (`tf.image.sample_distorted_bounding_box` draws the height uniformly, which
    gives more small crops.) If ten attempts do not fit into the image, the crop is the largest
    central part with an allowed ratio, also as in torchvision.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        rng: random generator of this image in this epoch.
        area_min: smallest share of the image's area.
    """
    low, high = (math.log(ratio) for ratio in _ASPECT)
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(area_min, 1)
        ratio = math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(top), int(left), h, w)
    h = min(height, round(width / _ASPECT[0]))
    w = min(width, round(height * _ASPECT[1]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def train_view(
    data: bytes | np.ndarray,
    rng: np.random.Generator,
    crop: Crop,
    size: int,
    channels: int,
    area_min: float,
    flip: bool,
    upright: bool = False,
) -> tuple[np.ndarray, str | None]:
    """Decodes an image and crops and mirrors it for training.

    Args:
        data: an encoded image, or pixels [h, w, c] uint8.
        rng: random generator of this image in this epoch.
        crop: "inception": `inception_box`, resized. "window", as in Caffe: the whole image is
            resized to a square with sides of 256/224 of `size`, and a random window is cut out.
            "none": the whole image, resized if it is encoded.
        size: side of the result in pixels.
        channels: 3 for RGB, 1 for luma.
        area_min: smallest share of the image's area in an Inception crop.
        flip: whether to mirror the image with probability 1/2.
        upright: whether to apply the EXIF orientation.

    Returns:
        Pixels [size, size, channels] uint8, and a note of unusual conversions, such as "CMYK", or
        None. With crop "none", an array keeps its height and width.

    Raises:
        BadImageError: if the data is damaged.
    """
    if crop == "inception":
        decoded = decode_crop(
            data, lambda h, w: inception_box(h, w, rng, area_min), size, channels, upright
        )
    elif crop == "window":
        decoded = decode_crop(data, full_box, window_source_size(size), channels, upright)
    elif isinstance(data, np.ndarray):
        decoded = decode_whole(data, channels)
    else:
        decoded = decode_crop(data, full_box, size, channels, upright)
    image = decoded.image
    if crop == "window":
        top, left = rng.integers(image.shape[0] - size + 1, size=2)
        image = image[top : top + size, left : left + size]
    if flip and rng.integers(2):
        # Copying NumPy's mirrored view takes four times as long, nearly as long as decoding.
        image = cv2.flip(image, 1).reshape(image.shape)
    return image, decoded.converted


def window_source_size(size: int) -> int:
    """Returns the side of the resized image from which a window of `size` is cut: 256 for 224."""
    return round(size * 256 / 224)


def evaluation_view(
    data: bytes | np.ndarray, info: ModelInfo, channels: int, crops: int = 1
) -> tuple[np.ndarray, str | None]:
    """Decodes an image and crops it for evaluation, as `inception_jax.preprocess` does.

    Args:
        data: an encoded image, or pixels [h, w, c] uint8.
        info: description of the network, with its preprocessing.
        channels: 3 for RGB, 1 for luma.
        crops: number of crops: 1, or 12 or 144 as in `multi_crops`.

    Returns:
        Pixels from 0 to 255, and a note of unusual conversions, such as "CMYK", or None. A single
        crop is [size, size, channels] uint8, or float32 if the interpolation does not round.
        Several crops are [crops, size, size, channels] uint8. If `data` is an array and `crops` is
        1, the array is neither cropped nor resized, because the device resizes it.

    Raises:
        BadImageError: if the data is damaged.
    """
    if crops > 1:
        side = max(crop_scales(info.input_size, crops))
        decoded = decode_whole(data, channels, side, info.upright)
        return multi_crops(decoded.image, info.input_size, crops), decoded.converted
    if isinstance(data, np.ndarray):
        return decode_whole(data, channels).image, None
    picture = images.read(data, upright=info.upright)
    pixels = crop_of(picture, info, channels)
    return pixels, ", ".join(picture.notes) or None


def crop_scales(size: int, crops: int) -> tuple[int, ...]:
    """Returns the length of the image's shorter side at each scale.

    The scales are 256, 288, 320 and 352 for a size of 224. For 12 crops, only the first is used.
    `size` is the side of a crop, and `crops` is 12 or 144.
    """
    sides = (256,) if crops == 12 else (256, 288, 320, 352)
    return tuple(round(size * side / 224) for side in sides)


def multi_crops(image: np.ndarray, size: int, crops: int) -> np.ndarray:
    """Returns the crops over which GoogLeNet averages its predictions (arXiv:1409.4842, section 7).

    144 crops: the image is resized to four scales, see `crop_scales`. Each scale gives the left,
    central and right square, or the upper, central and lower square of a portrait image. Each
    square gives six crops and their mirror images: the four corners, the center, and the whole
    square, resized. 12 crops: only the first scale and the central square.

    Args:
        image: pixels [h, w, c] uint8.
        size: side of the crops.
        crops: 12 or 144.

    Returns:
        Crops [crops, size, size, c] uint8; every odd crop mirrors the previous one.

    Raises:
        ValueError: for another number of crops.
    """
    if crops not in (12, 144):
        raise ValueError(f"crops {crops}: 12 or 144")
    squares = _squares(image)
    views = []
    for side in crop_scales(size, crops):
        for square in squares if crops == 144 else squares[1:2]:
            for view in _six_crops(resize(square, side, side), size):
                views += [view, view[:, ::-1]]
    return np.stack(views)


def _squares(image: np.ndarray) -> list[np.ndarray]:
    """Returns three squares of an image: left, central and right, or upper, central and lower."""
    height, width = image.shape[:2]
    side, rest = min(height, width), abs(height - width)
    if height > width:
        return [image[start : start + side] for start in (0, rest // 2, rest)]
    return [image[:, start : start + side] for start in (0, rest // 2, rest)]


def _six_crops(square: np.ndarray, size: int) -> list[np.ndarray]:
    rest = square.shape[0] - size
    starts = [(0, 0), (0, rest), (rest, 0), (rest, rest), (rest // 2, rest // 2)]
    crops = [square[top : top + size, left : left + size] for top, left in starts]
    return [*crops, resize_box(square, full_box(*square.shape[:2]), size)]
