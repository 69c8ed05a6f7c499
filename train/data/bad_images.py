"""What became of images that could not be used as they were, and how many may be left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal

from train.errors import TrainingError

_LAST_NAMES = 5
_MAX_SAID = 20


class BadImageError(ValueError):
    """An image that cannot be used; the message is a short reason.

    Args:
        reason: what is wrong.
        name: the example's name, where the one who raises knows it.
    """

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.name = name


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
            raise too_many_bad_images(self.skipped, self.limit)


def too_many_bad_images(skipped: dict[str, str], limit: int) -> TrainingError:
    """The error that more than `limit` images could not be used: names to reasons."""
    last = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[-_LAST_NAMES:])
    return TrainingError(
        f"{len(skipped)} image(s) could not be used, more than --max-bad-images {limit} allows. "
        f"The last: {last}. Repair or remove them, or raise --max-bad-images"
    )
