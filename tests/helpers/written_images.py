"""Small encoded images for the tests of the input pipeline."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def encode(pixels: np.ndarray, kind: str = "JPEG", mode: str | None = None, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels, mode).save(stream, kind, **options)
    return stream.getvalue()


def gradient(height: int, width: int) -> np.ndarray:
    """Returns an image whose red grows to the right and whose green grows downwards.

    A pixel's color thus gives the pixel's position.
    """
    y, x = np.mgrid[:height, :width]
    red, green = 255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1)
    return np.stack([red, green, np.full_like(red, 128)], axis=-1).round().astype(np.uint8)


def write_folder(root: Path, counts: dict[str, dict[str, int]], size: int = 24) -> Path:
    """Writes images of one color each as split/class/name.jpg; returns `root`.

    `counts[split][class]` is the number of images. Images have a height of `size` and a width of
    `size` + 8 pixels.
    """
    number = 0
    for split, classes in counts.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                color = [number * 7 % 256, number * 31 % 256, number * 101 % 256]
                pixels = np.broadcast_to(np.uint8(color), (size, size + 8, 3))
                (root / split / name / f"{i:04d}.jpg").write_bytes(encode(pixels, quality=95))
                number += 1
    return root
