"""Counts images that were skipped or converted; raises an error if too many were skipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal

from inception_jax.images import BadImageError
from inception_jax.notes import Counts, printable
from train.errors import TrainingError

__all__ = ["BadImageError", "BadImages", "Note", "too_many_bad_images"]

_LAST_NAMES = 5


@dataclasses.dataclass(frozen=True)
class Note:
    """A note that an image was skipped, converted or excluded.

    Attributes:
        kind: "skipped" if the image could not be used, "converted" if it was converted, for example
            from CMYK, and "excluded" if it is on the list of exclusions.
        name: name of the image.
        reason: reason for skipping or excluding the image, or the kind of conversion.
    """

    kind: Literal["skipped", "converted", "excluded"]
    name: str
    reason: str


class BadImages:
    """Counts the distinct images that were skipped, and raises an error if they are too many.

    It learns of them from notes: a `Note` says that one image was skipped, converted or excluded.
    Excluded images are not counted.

    Args:
        limit: number of images that may be skipped.
        report: function that gets a line of text for each skipped image, for the first image of
            each kind of conversion, and for the counts at the end.
    """

    def __init__(self, limit: int, report: Callable[[str], object]) -> None:
        self.limit = limit
        self.skipped: dict[str, str] = {}
        self.converted: dict[str, str] = {}
        self._kinds: set[str] = set()
        self._report = report

    def add(self, notes: Iterable[Note]) -> None:
        """Counts the skipped and the converted images that the notes of a batch name.

        An image counts once, even if several notes say the same of it.

        Raises:
            TrainingError: if more than `limit` images have been skipped.
        """
        for note in notes:
            if note.kind == "skipped" and note.name not in self.skipped:
                self.skipped[note.name] = note.reason
                self._report(f"skipped {printable(note.name)}: {printable(note.reason)}")
            if note.kind == "converted" and note.name not in self.converted:
                self.converted[note.name] = note.reason
                kinds = set(note.reason.split(", "))
                if kinds - self._kinds:
                    self._kinds |= kinds
                    self._report(f"note: {printable(note.name)}: {note.reason}")
        if len(self.skipped) > self.limit:
            raise too_many_bad_images(self.skipped, self.limit)

    def summarise(self) -> None:
        """Passes to `report` how many images were converted, by kind, and how many were skipped."""
        counts = Counts()
        for name, reasons in self.converted.items():
            for reason in reasons.split(", "):
                counts.add(reason, name)
        for line in counts.lines():
            self._report(f"note: {line}")
        if self.skipped:
            self._report(f"note: {len(self.skipped)} image(s) were skipped")


def too_many_bad_images(skipped: dict[str, str], limit: int) -> TrainingError:
    """Returns the error for more than `limit` unusable images; `skipped` maps names to reasons."""
    last = "; ".join(
        f"{printable(name)}: {printable(why)}" for name, why in list(skipped.items())[-_LAST_NAMES:]
    )
    return TrainingError(
        f"{len(skipped)} image(s) could not be used, more than --max-bad-images {limit} allows. "
        f"The last: {last}. Repair or remove them, or raise --max-bad-images"
    )
