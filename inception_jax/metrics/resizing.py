"""Images of any size as the network of FID takes them."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from inception_jax.crops import interpolated

Resize = Literal["bilinear_torch", "bilinear_tf1"]
RESIZES: tuple[Resize, ...] = get_args(Resize)

SIDE = 299
"""Height and width of what the network takes, in pixels."""


def resized(image: np.ndarray, resize: Resize) -> np.ndarray:
    """Resizes an image to 299x299 by a named rule, without smoothing, and normalises it.

    Neither rule smooths before it shrinks, so both alias, and FIDs by different rules must not be
    compared (Parmar et al. 2022, https://arxiv.org/abs/2104.11222).

    Args:
        image: uint8 [h, w, 3].
        resize: "bilinear_torch" does what pytorch-fid does: `torch.nn.functional.interpolate` with
            `align_corners=False`, of pixels from 0 to 1, then 2 x - 1. "bilinear_tf1" does what
            TensorFlow's graph of 2015-12-05 does, for which FID was defined, and torch-fidelity:
            `ResizeBilinear` on a grid that starts in the corner, of pixels from 0 to 255, then
            (x - 128) / 128.

    Returns:
        float32 [299, 299, 3].
    """
    half_pixel = resize == "bilinear_torch"
    pixels = interpolated(image, SIDE, 0, half_pixel=half_pixel)
    pixels = interpolated(pixels, SIDE, 1, half_pixel=half_pixel)
    if half_pixel:
        return pixels / np.float32(127.5) - np.float32(1)
    return (pixels - np.float32(128)) / np.float32(128)
