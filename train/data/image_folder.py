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
# Failures of the machine, not of a file, which must not be mistaken for bad images.
_MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The image files below split/class; labels are indices into `classes`.

    The names are one string of bytes with offsets: a million of them take little memory and are
    pickled for the workers in one piece.

    Args:
        root: the data set's folder.
        split: the folder's name below it.
        classes: names of the classes' folders.
        names: paths of the files relative to their class's folder, in the file system's encoding.
        offsets: [n + 1], the start of each name in `names`.
        starts: [classes + 1], the index of each class's first image.
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
        name = f"{folder}/{file.decode(errors='backslashreplace')}"  # always printable
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
    """Opens a folder of images as a data set; arguments and errors as of `list_folder`."""
    train, test = list_folder(root, train_split, eval_split)
    return Dataset("folder", train, test, train.classes, channels=3)


def list_folder(
    root: Path, train_split: str | None = None, eval_split: str | None = None
) -> tuple[FolderSource, FolderSource]:
    """Lists the images of D/train/class and D/val/class; classes are sorted as in torchvision.

    Args:
        root: the folder D.
        train_split: folder of the training images, by default "train".
        eval_split: folder of the test images, by default the first of "val", "validation" and
            "test".

    Raises:
        UsageError: if a folder is missing, cannot be read or has no images, or the test images have
            a class that the training images lack.
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
    """Lists a split's files by class, folder and name.

    Raises:
        UsageError: if a class folder cannot be read or has no images.
    """
    names: list[bytes] = []
    starts = [0]
    for name in classes:
        folder = root / split / name
        if folder.is_dir():  # the test images may lack a class
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
    """Returns the sorted paths of a class's image files relative to its folder."""
    prefix = len(os.fsencode(folder)) + 1
    folders = sorted(_walk(str(folder), set()))
    return [os.fsencode(path)[prefix:] for _, files in folders for path in sorted(files)]


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder once, with its image files; follows links."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return  # a link to a folder that was visited
    seen.add((status.st_dev, status.st_ino))
    files, folders = [], []
    for entry in _scan(folder):
        if entry.is_dir():
            folders.append(entry.path)
        elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink()):
            files.append(entry.path)  # dangling links are reported on reading
    yield folder, files
    for path in sorted(folders):
        yield from _walk(path, seen)


def _scan(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yields the entries of a folder that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
