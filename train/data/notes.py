"""What became of images that could not be used as they were, and how many may be left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from train.errors import TrainingError, UsageError

_LAST_NAMES = 5
_MAX_SAID = 20
_VALIDATION_IMAGES = 50_000


@dataclasses.dataclass(frozen=True)
class Note:
    """What became of one image: left out, shown although it was of another kind, or not wanted."""

    kind: Literal["skipped", "converted", "excluded"]
    name: str
    reason: str


class BadImages:
    """Counts distinct images that were skipped and stops the program when they are too many.

    Args:
        limit: how many may be skipped.
        say: called with a line for each image skipped for the first time, and for the first twenty
            converted ones.
    """

    def __init__(self, limit: int, say: Callable[[str], object]) -> None:
        self.limit = limit
        self.skipped: dict[str, str] = {}
        self.converted: dict[str, str] = {}
        self._say = say

    def add(self, notes: Iterable[Note]) -> None:
        """Takes a batch's notes.

        Raises:
            TrainingError: if more than `limit` images have been skipped.
        """
        for note in notes:
            if note.kind == "skipped" and note.name not in self.skipped:
                self.skipped[note.name] = note.reason
                self._say(f"skipped {note.name}: {note.reason}")
            if note.kind == "converted" and note.name not in self.converted:
                self.converted[note.name] = note.reason
                if len(self.converted) <= _MAX_SAID:
                    more = " (no more are reported)" if len(self.converted) == _MAX_SAID else ""
                    self._say(f"converted {note.name} from {note.reason}{more}")
        if len(self.skipped) > self.limit:
            raise too_many(self.skipped, self.limit)


def too_many(skipped: dict[str, str], limit: int) -> TrainingError:
    """The error that more than `limit` images could not be used: names to reasons."""
    last = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[-_LAST_NAMES:])
    return TrainingError(
        f"{len(skipped)} image(s) could not be used, more than --max-bad-images {limit} allows. "
        f"The last: {last}. Repair or remove them, or raise --max-bad-images"
    )


def read_exclusions(path: Path) -> frozenset[str]:
    """Reads which test images to leave out, such as the blacklist of ImageNet's devkit.

    Args:
        path: a file with one image a line: a file name, with or without folders and extension, or
            a number n for `ILSVRC2012_val_n`; empty lines and lines from "#" on do not count.

    Returns:
        File names without folders and extension.

    Raises:
        UsageError: if the file cannot be read, has no entry, or a number is none of ImageNet's
            50,000 validation images.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a list of images: {error}") from error
    entries = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    stems = frozenset(
        _stem(entry, f"{path}, line {number}")
        for number, entry in entries
        if entry and not entry.startswith("#")
    )
    if not stems:
        raise UsageError(f"{path} names no images")
    return stems


def stem(name: str) -> str:
    """An example's name without folders and extension."""
    return Path(name).stem


def _stem(entry: str, where: str) -> str:
    if not entry.isdecimal():
        return stem(entry)
    if not 1 <= int(entry) <= _VALIDATION_IMAGES:
        raise UsageError(f"{where}: {entry} is not among the images 1 to {_VALIDATION_IMAGES}")
    return f"ILSVRC2012_val_{int(entry):08d}"
