"""RandAugment (arXiv:1909.13719) in timm's form, which InceptionNeXt's recipe uses.

timm's `rand-m9-mstd0.5-inc1` (`timm/data/auto_augment.py`) draws two of fifteen operations with
replacement and applies each with probability 0.5. The magnitude is normally distributed with mean 9
and standard deviation 0.5, clipped to 0 to 10. A larger magnitude changes the image more, except in
the operations that ignore the magnitude. Uncovered pixels are filled with ImageNet's mean color.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_MAX_MAGNITUDE = 10
_PROBABILITY = 0.5
_FILL = {"RGB": (124, 116, 104), "L": 117}  # 117: luma of the RGB color

# Arguments of an operation: image, strength between 0 and 1, sign, interpolation.
Operation = Callable[[Image.Image, float, int, Image.Resampling], Image.Image]


def rand_augment(
    image: np.ndarray,
    rng: np.random.Generator,
    magnitude: float = 9.0,
    std: float = 0.5,
    layers: int = 2,
) -> np.ndarray:
    """Applies random operations to an image.

    Args:
        image: pixels [h, w, 1 or 3] uint8.
        rng: generator of all random numbers.
        magnitude: mean strength of the operations, on a scale from 0 to 10.
        std: standard deviation of the strength.
        layers: number of operations to draw. Each is applied with probability 0.5.

    Returns:
        The changed pixels, with the shape and dtype of `image`.
    """
    names = list(OPERATIONS)
    pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    for index in rng.integers(len(names), size=layers):
        # Always drawn, so that a skipped operation does not change the next one's random numbers.
        skipped, negative, bicubic = rng.random(3) < 1 - _PROBABILITY
        strength = np.clip(rng.normal(magnitude, std), 0, _MAX_MAGNITUDE) / _MAX_MAGNITUDE
        if not skipped:
            resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
            operation = OPERATIONS[names[index]]
            pixels = operation(pixels, float(strength), -1 if negative else 1, resample)
    return np.array(pixels).reshape(image.shape)


def _affine(matrix: Callable[[Image.Image, float], tuple[float, ...]]) -> Operation:
    """Returns an operation that applies an affine transform.

    Args:
        matrix: function that returns the six coefficients of Pillow's `Image.transform` for an
            image and a signed strength.

    Returns:
        A function of an image, a strength from 0 to 1, its sign (1 or -1) and Pillow's filter.
    """
    return lambda image, strength, sign, resample: image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix(image, sign * strength),
        resample,
        fillcolor=_FILL[image.mode],
    )


def _rotate(
    image: Image.Image, strength: float, sign: int, resample: Image.Resampling
) -> Image.Image:
    return image.rotate(sign * strength * 30, resample, fillcolor=_FILL[image.mode])


def _posterize(image: Image.Image, strength: float) -> Image.Image:
    bits = 4 - int(strength * 4)
    if bits == 0:  # black, which Pillow's posterize refuses to make
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
    "ShearX": _affine(lambda image, shift: (1, shift * 0.3, 0, 0, 1, 0)),
    "ShearY": _affine(lambda image, shift: (1, 0, 0, shift * 0.3, 1, 0)),
    "TranslateXRel": _affine(lambda image, shift: (1, 0, shift * 0.45 * image.width, 0, 1, 0)),
    "TranslateYRel": _affine(lambda image, shift: (1, 0, 0, 0, 1, shift * 0.45 * image.height)),
}
"""timm's increasing operations, by their names in timm."""
