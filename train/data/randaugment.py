"""RandAugment (1909.13719) in timm's form, which InceptionNeXt's recipe uses.

timm's `rand-m9-mstd0.5-inc1` (`timm/data/auto_augment.py`): two of fifteen operations, drawn with
replacement, each carried out with probability 0.5 at a magnitude of 9 with a standard deviation of
0.5, out of 10; the operations change more as the magnitude grows. Uncovered corners are filled with
ImageNet's mean color.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_MAX_MAGNITUDE = 10
_PROBABILITY = 0.5
_FILL = {"RGB": (124, 116, 104), "L": 117}  # 117: the luma of that color

# An operation's arguments: the image, its strength between 0 and 1, a sign, how to interpolate.
Operation = Callable[[Image.Image, float, int, Image.Resampling], Image.Image]


def rand_augment(
    image: np.ndarray,
    rng: np.random.Generator,
    magnitude: float = 9.0,
    std: float = 0.5,
    layers: int = 2,
) -> np.ndarray:
    """Changes an image by operations drawn at random.

    Args:
        image: pixels [h, w, 1 or 3] uint8.
        rng: where the randomness comes from.
        magnitude: how strong the operations are, up to 10.
        std: standard deviation of the magnitude.
        layers: how many operations are drawn.

    Returns:
        Pixels of the same shape.
    """
    names = list(OPERATIONS)
    pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    for index in rng.integers(len(names), size=layers):
        # Drawn in any case, so that one operation's outcome does not move the next one's numbers.
        skipped, negative, bicubic = rng.random(3) < 1 - _PROBABILITY
        strength = np.clip(rng.normal(magnitude, std), 0, _MAX_MAGNITUDE) / _MAX_MAGNITUDE
        if not skipped:
            resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
            operation = OPERATIONS[names[index]]
            pixels = operation(pixels, float(strength), -1 if negative else 1, resample)
    return np.array(pixels).reshape(image.shape)


def _rotate(
    image: Image.Image, strength: float, sign: int, resample: Image.Resampling
) -> Image.Image:
    return image.rotate(sign * strength * 30, resample, fillcolor=_FILL[image.mode])


def _affine(
    image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling
) -> Image.Image:
    fill = _FILL[image.mode]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)


def _shear_x(
    image: Image.Image, strength: float, sign: int, resample: Image.Resampling
) -> Image.Image:
    return _affine(image, (1, sign * strength * 0.3, 0, 0, 1, 0), resample)


def _shear_y(
    image: Image.Image, strength: float, sign: int, resample: Image.Resampling
) -> Image.Image:
    return _affine(image, (1, 0, 0, sign * strength * 0.3, 1, 0), resample)


def _translate_x(
    image: Image.Image, strength: float, sign: int, resample: Image.Resampling
) -> Image.Image:
    return _affine(image, (1, 0, sign * strength * 0.45 * image.width, 0, 1, 0), resample)


def _translate_y(
    image: Image.Image, strength: float, sign: int, resample: Image.Resampling
) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, sign * strength * 0.45 * image.height), resample)


def _posterize(image: Image.Image, strength: float) -> Image.Image:
    bits = 4 - int(strength * 4)
    if bits == 0:  # black, as Pillow made it before it began to refuse
        return image.point([0] * 256 * len(image.getbands()))
    return ImageOps.posterize(image, bits)


def _solarize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.solarize(image, 256 - min(256, int(strength * 256)))


def _solarize_add(image: Image.Image, strength: float) -> Image.Image:
    added = int(strength * 110)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _plain(change: Callable[[Image.Image], Image.Image]) -> Operation:
    return lambda image, strength, sign, resample: change(image)


def _scaled(change: Callable[[Image.Image, float], Image.Image]) -> Operation:
    return lambda image, strength, sign, resample: change(image, strength)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, strength, sign, resample: kind(image).enhance(
        max(0.1, 1 + sign * strength * 0.9)
    )


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": _plain(ImageOps.autocontrast),
    "Equalize": _plain(ImageOps.equalize),
    "Invert": _plain(ImageOps.invert),
    "Rotate": _rotate,
    "PosterizeIncreasing": _scaled(_posterize),
    "SolarizeIncreasing": _scaled(_solarize),
    "SolarizeAdd": _scaled(_solarize_add),
    "ColorIncreasing": _enhanced(ImageEnhance.Color),
    "ContrastIncreasing": _enhanced(ImageEnhance.Contrast),
    "BrightnessIncreasing": _enhanced(ImageEnhance.Brightness),
    "SharpnessIncreasing": _enhanced(ImageEnhance.Sharpness),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
}
"""timm's increasing operations, by their names there."""
