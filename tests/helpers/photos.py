"""Photo-like images of unusual sizes, modes and formats, as found in real folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZES = [
    (375, 500), (500, 333), (299, 299), (224, 224), (342, 456), (31, 47), (256, 341), (1, 7),
    (9, 400), (640, 427), (427, 641), (300, 1001), (701, 299), (33, 33), (160, 160), (401, 257),
    (803, 799), (120, 121), (333, 334), (480, 853), (768, 513), (97, 150), (341, 256), (333, 255),
    (75, 71),
]  # fmt: skip
"""Heights and widths of the photos."""


def photo(height: int, width: int, seed: int) -> Image.Image:
    """Returns a photo-like image with coloured patches, sharp edges and noise."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (max(height // 9, 1), max(width // 9, 1), 3), np.uint8)
    image = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = (int(v) for v in rng.integers(0, (width, height)))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        draw.ellipse((x, y, x + width / 3, y + height / 4), fill=colour)
    noisy = np.asarray(image) + rng.normal(0, 20, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def turned(orientation: int = 6) -> Image.Exif:
    """Returns EXIF data with the given orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def write_photos(folder: Path, count: int = 50, scale: int = 1) -> list[Path]:
    """Writes photos of twelve kinds that all libraries decode alike; returns their paths.

    Args:
        folder: folder to write to; it is created if missing.
        count: number of photos.
        scale: divisor of the heights and widths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        height, width = (max(n // scale, 1) for n in SIZES[i % len(SIZES)])
        image = photo(height, width, i)
        suffix, mode, options = _KINDS[i % len(_KINDS)]
        image.convert(mode).save(folder / f"{i:02d}{suffix}", **options)
    return sorted(folder.iterdir())


_KINDS = [
    (".png", "L", {}),
    (".jpg", "CMYK", {}),
    (".png", "P", {}),
    (".jpg", "RGB", {"exif": turned()}),
    (".png", "RGBA", {}),
    (".jpg", "L", {"quality": 80}),
    (".webp", "RGB", {}),
    (".gif", "P", {"transparency": 3}),
    (".png", "LA", {}),
    (".png", "1", {}),
    (".jpg", "RGB", {"progressive": True, "subsampling": 0}),
    (".jpg", "RGB", {"quality": 90, "subsampling": 2}),
]
