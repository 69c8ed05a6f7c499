"""Finds the image files of a folder, as the program of a preset does."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

from inception_jax import folders
from inception_jax.metrics.presets import DEFAULT, PRESETS, Files
from inception_jax.notes import Counts, printable


def image_files(folder: Path, rule: Files = PRESETS[DEFAULT].files) -> list[Path]:
    """Returns the paths of the image files in a folder, in the order of the rule.

    If other files are skipped, a warning gives their number.

    Args:
        folder: path of the folder, which must exist.
        rule: rule that states which files are images, and their order.

    Raises:
        ValueError: if the folder holds no images; the message says what it holds instead.
    """
    images, passed_over = _listed(folder, rule)
    if not images:
        raise ValueError(f"no image in {printable(folder)}{_instead(folder, passed_over, rule)}")
    if note := folders.passed_over_note(printable(folder), len(images), passed_over):
        warnings.warn(f"{note}; {_described(rule)}", stacklevel=2)
    return _sorted(images, folder, rule)


def _sorted(images: list[str], folder: Path, rule: Files) -> list[Path]:
    if rule.order == "path":
        return sorted(map(Path, images))
    if rule.order == "listed":
        with os.scandir(folder) as entries:
            places = {entry.name: i for i, entry in enumerate(entries)}
        endings = {ending: i for i, ending in enumerate(rule.endings)}
        files = map(Path, images)
        return sorted(files, key=lambda path: (endings[_ending(path)], places[path.name]))
    return list(map(Path, sorted(images, key=os.path.realpath if rule.order == "real" else None)))


def _ending(path: Path) -> str:
    return f".{path.name.rpartition('.')[2]}"


def _listed(folder: Path, rule: Files) -> folders.Listing:
    return folders.image_files(
        folder,
        endings=rule.endings,
        recursive=rule.recursive,
        match_case=rule.match_case,
        hidden=rule.hidden,
    )


def _described(rule: Files) -> str:
    case = "in lower case only" if rule.match_case else "in any case"
    if any(ending != ending.lower() for ending in rule.endings):
        case = "exactly as written here"
    return f"the preset reads {' '.join(rule.endings)}, {case}"


def _instead(folder: Path, passed_over: Counts, rule: Files) -> str:
    """Returns the part of an error message that says what a folder holds instead of images.

    `passed_over` are the counts of the files that `rule` does not accept as images.
    """
    below = dataclasses.replace(rule, recursive=True)
    if not rule.recursive and (images := _listed(folder, below).images):
        return (
            f" itself, but {len(images)} in its subfolders: recursive=True (--recursive) reads them"
        )
    if passed_over.total:
        return f", which holds {passed_over}; {_described(rule)}"
    return ", which holds only folders" if any(folder.iterdir()) else ": it is empty"
