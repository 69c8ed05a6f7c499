"""Which files of a folder are images, by pytorch-fid's rule."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Iterable
from pathlib import Path

EXTENSIONS = ("bmp", "jpg", "jpeg", "pgm", "png", "ppm", "tif", "tiff", "webp")
"""pytorch-fid's, in lower case only."""


def image_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Returns the image files of a folder in the order of their paths.

    Args:
        folder: must exist.
        recursive: take those of its subfolders too, which pytorch-fid does not.

    Raises:
        ValueError: if there are none, saying what there is instead.
    """
    inside = list(folder.rglob("*") if recursive else folder.iterdir())
    found = sorted(path for path in inside if _ending(path) in EXTENSIONS and path.is_file())
    shouted = _shouted(inside)
    if not found:
        raise ValueError(f"no image in {folder}{_instead(folder, inside, shouted, recursive)}")
    if shouted:
        warnings.warn(
            f"{folder}: {len(shouted)} files such as {shouted[0].name} are left out, as "
            "pytorch-fid does: it takes endings in lower case only",
            stacklevel=2,
        )
    return found


def _ending(path: Path) -> str:
    _, dot, ending = path.name.rpartition(".")
    return ending if dot else ""


def _shouted(paths: Iterable[Path]) -> list[Path]:
    """Files that are images but for the case of their ending."""
    endings = ((path, _ending(path)) for path in paths)
    return [
        path
        for path, ending in endings
        if ending not in EXTENSIONS and ending.lower() in EXTENSIONS and path.is_file()
    ]


def _instead(folder: Path, inside: list[Path], shouted: list[Path], recursive: bool) -> str:
    """What an error says of a folder without images."""
    if shouted:
        return f": pytorch-fid takes endings in lower case only, so not {shouted[0].name}"
    if not inside:
        return ": it is empty"
    if not recursive:
        below = sum(_ending(path) in EXTENSIONS for path in folder.rglob("*"))
        if below:
            return (
                f" itself, but {below} in its subfolders: recursive=True (--recursive) reads them"
            )
    kinds = collections.Counter(path.suffix or path.name for path in inside if path.is_file())
    there = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5)) or "only folders"
    return f", which holds {there}; images end in {', '.join(f'.{e}' for e in EXTENSIONS)}"
