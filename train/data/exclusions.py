"""Lists of test images to leave out."""

from __future__ import annotations

from pathlib import Path

from train.errors import UsageError

_VALIDATION_IMAGES = 50_000


def read_exclusions(path: Path) -> frozenset[str]:
    """Reads a list of test images to leave out, such as the blacklist of ImageNet's devkit.

    Args:
        path: a file with one image per line: a file name, with or without folders and extension,
            or a number n for `ILSVRC2012_val_n`. Empty lines and lines that start with "#" are
            ignored.

    Returns:
        File names without folders and extension.

    Raises:
        UsageError: if the file cannot be read, has no entries, or has a number outside 1 to 50,000.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a list of images: {error}") from error
    entries = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    names = frozenset(
        _entry_name(entry, f"{path}, line {number}")
        for number, entry in entries
        if entry and not entry.startswith("#")
    )
    if not names:
        raise UsageError(f"{path} names no images")
    return names


def base_name(name: str) -> str:
    """Returns an example's name without folders and extension."""
    return Path(name).stem


def _entry_name(entry: str, where: str) -> str:
    if not entry.isdecimal():
        return base_name(entry)
    if not 1 <= int(entry) <= _VALIDATION_IMAGES:
        raise UsageError(f"{where}: {entry} is not among the images 1 to {_VALIDATION_IMAGES}")
    return f"ILSVRC2012_val_{int(entry):08d}"
