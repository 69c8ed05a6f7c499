"""Images that cannot be used, or not as they are: what is noted, and how many may be skipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal

from inception_jax.images import BadImageError
from train.errors import TrainingError

__all__ = ["BadImageError", "BadImages", "Note", "too_many_bad_images"]

_LAST_NAMES = 5
_MAX_REPORTED = 20


@dataclasses.dataclass(frozen=True)
class Note:
    """What happened to one image.

    "skipped": it could not be used. "converted": it was converted, for example from CMYK.
    "excluded": it is on the list of exclusions.
    """

    kind: Literal["skipped", "converted", "excluded"]
    name: str
    reason: str


class BadImages:
    """Counts the distinct images that were skipped and stops the program at too many.

    Args:
        limit: how many may be skipped.
        report: called with a line for each newly skipped image and for the first twenty converted
            images.
    """

    def __init__(self, limit: int, report: Callable[[str], object]) -> None:
        self.limit = limit
        self.skipped: dict[str, str] = {}
        self.converted: dict[str, str] = {}
        self._report = report

    def add(self, notes: Iterable[Note]) -> None:
        """Adds the notes of a batch.

        Raises:
            TrainingError: if more than `limit` images have been skipped.
        """
        for note in notes:
            if note.kind == "skipped" and note.name not in self.skipped:
                self.skipped[note.name] = note.reason
                self._report(f"skipped {note.name}: {note.reason}")
            if note.kind == "converted" and note.name not in self.converted:
                self.converted[note.name] = note.reason
                if len(self.converted) <= _MAX_REPORTED:
                    more = " (no more are reported)" if len(self.converted) == _MAX_REPORTED else ""
                    self._report(f"note: {note.name}: {note.reason}{more}")
        if len(self.skipped) > self.limit:
            raise too_many_bad_images(self.skipped, self.limit)


def too_many_bad_images(skipped: dict[str, str], limit: int) -> TrainingError:
    """Returns the error for more than `limit` unusable images; `skipped` maps names to reasons."""
    last = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[-_LAST_NAMES:])
    return TrainingError(
        f"{len(skipped)} image(s) could not be used, more than --max-bad-images {limit} allows. "
        f"The last: {last}. Repair or remove them, or raise --max-bad-images"
    )
