"""A folder of images in the layout of torchvision's `ImageFolder`: split/class/any/depth/image."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.bad_images import BadImageError
from train.data.datasets import Dataset, Example
from train.errors import UsageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_EVALUATION = ("val", "validation", "test")
# Conditions of the machine, not of a file: skipping images would hide them.
_MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The image files below split/class; labels are indices into `classes`.

    Over a million names are one string of bytes with offsets, which costs what the characters cost
    and travels to the workers in one piece.

    Args:
        root: the data set's folder.
        split: the folder's name below it.
        classes: names of the classes' folders.
        names: paths of the files below their class's folder, as the file system spells them.
        offsets: [n + 1] where each name starts in `names`.
        starts: [classes + 1] the index of each class's first image.
    """

    root: str
    split: str
    classes: tuple[str, ...]
    names: bytes
    offsets: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Example:
        label = int(np.searchsorted(self.starts, index, side="right")) - 1
        file = self.names[self.offsets[index] : self.offsets[index + 1]]
        folder = f"{self.split}/{self.classes[label]}"
        name = f"{folder}/{file.decode(errors='backslashreplace')}"  # can be printed, always
        try:
            with open(os.path.join(self.root, folder, os.fsdecode(file)), "rb") as stream:
                return Example(stream.read(), label, name)
        except OSError as error:
            if error.errno in _MACHINE_ERRORS:
                raise
            raise BadImageError(error.strerror or str(error), name) from error


def open_folder(
    root: Path, train_split: str | None = None, eval_split: str | None = None
) -> Dataset:
    """Opens the images of `list_folder` as a data set."""
    train, test = list_folder(root, train_split, eval_split)
    return Dataset("folder", train, test, train.classes, channels=3)


def list_folder(
    root: Path, train_split: str | None = None, eval_split: str | None = None
) -> tuple[FolderSource, FolderSource]:
    """Lists the images of D/train/class and D/val/class; classes are sorted as torchvision does.

    Args:
        root: the folder D.
        train_split: folder to learn from, "train" by default.
        eval_split: folder to test with; by default the first of "val", "validation" and "test".

    Raises:
        UsageError: if a folder is missing, cannot be read, has no images, or is a class that the
            training images lack.
    """
    train_split = train_split or "train"
    if not (root / train_split).is_dir():
        raise UsageError(
            f"{root} has no folder {train_split!r}: images are expected in "
            f"{root}/{train_split}/CLASS and {root}/{_EVALUATION[0]}/CLASS"
        )
    names = (eval_split,) if eval_split else _EVALUATION
    found = next((name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise UsageError(f"{root} has no folder {' or '.join(map(repr, names))} to evaluate on")
    classes = _class_names(root / train_split)
    unknown = sorted(set(_class_names(root / found)) - set(classes))
    if unknown:
        raise UsageError(
            f"{root / found} has {len(unknown)} class(es) that {root / train_split} lacks, such as "
            f"{unknown[0]!r}: both need the same class folders"
        )
    return list_images(root, train_split, classes), list_images(root, found, classes)


def list_images(root: Path, split: str, classes: tuple[str, ...]) -> FolderSource:
    """Lists a split's files in the order of their class, folder and name.

    Raises:
        UsageError: if a class folder cannot be read or has no images.
    """
    names: list[bytes] = []
    starts = [0]
    for name in classes:
        folder = root / split / name
        if folder.is_dir():  # the evaluation may lack a class
            files = _image_files(folder)
            if not files:
                raise UsageError(
                    f"{folder} has no images ({' '.join(EXTENSIONS)}): add some or remove it"
                )
            names += files
        starts.append(len(names))
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return FolderSource(
        str(root), split, classes, b"".join(names), offsets, np.array(starts, np.int64)
    )


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in _scan(str(folder)) if entry.is_dir())
    if not names:
        raise UsageError(f"{folder} has no class folders: expected {folder}/CLASS/IMAGE.jpg")
    return tuple(names)


def _image_files(folder: Path) -> list[bytes]:
    """Paths of a class's image files below its folder, sorted."""
    prefix = len(os.fsencode(folder)) + 1
    folders = sorted(_walk(str(folder), set()))
    return [os.fsencode(path)[prefix:] for _, files in folders for path in sorted(files)]


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, list[str]]]:
    """Yields every folder with its image files, following links, each folder once."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return  # a link back to where we were
    seen.add((status.st_dev, status.st_ino))
    files, folders = [], []
    for entry in _scan(folder):
        if entry.is_dir():
            folders.append(entry.path)
        elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink()):
            files.append(entry.path)  # a dangling link is reported when it is read
    yield folder, files
    for path in sorted(folders):
        yield from _walk(path, seen)


def _scan(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yields what is in a folder and not hidden."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
