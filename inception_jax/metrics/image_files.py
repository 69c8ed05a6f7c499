"""Which files of a folder are images, by pytorch-fid's rule."""

from __future__ import annotations

import warnings
from pathlib import Path

from inception_jax import folders
from inception_jax.notes import Counts, printable

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""pytorch-fid's, in lower case only."""

_RULE = f"pytorch-fid takes {' '.join(ENDINGS)}, in lower case only"


def image_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Returns the image files of a folder in the order of their paths.

    Warns of what is passed over, with its number.

    Args:
        folder: must exist.
        recursive: take those of its subfolders too, which pytorch-fid does not.

    Raises:
        ValueError: if there are none, saying what there is instead.
    """
    images, passed_over = _listed(folder, recursive)
    if not images:
        raise ValueError(
            f"no image in {printable(folder)}{_instead(folder, passed_over, recursive)}"
        )
    if note := folders.passed_over_note(printable(folder), len(images), passed_over):
        warnings.warn(f"{note}; {_RULE}", stacklevel=2)
    return sorted(map(Path, images))


def _listed(folder: Path, recursive: bool) -> folders.Listing:
    return folders.image_files(
        folder, endings=ENDINGS, recursive=recursive, match_case=True, hidden=True
    )


def _instead(folder: Path, passed_over: Counts, recursive: bool) -> str:
    """What an error says of a folder without images."""
    if not recursive and (below := _listed(folder, True).images):
        return (
            f" itself, but {len(below)} in its subfolders: recursive=True (--recursive) reads them"
        )
    if passed_over.total:
        return f", which holds {passed_over}; {_RULE}"
    return ", which holds only folders" if any(folder.iterdir()) else ": it is empty"
