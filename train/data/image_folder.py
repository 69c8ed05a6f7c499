"""A folder of images in the layout of torchvision's `ImageFolder`: split/class/any/depth/image."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inception_jax.images import EXTENSIONS, BadImageError
from train.data.datasets import Dataset, Example, SubsetSource
from train.data.options import DataOptions
from train.errors import UsageError

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

    def file(self, index: int) -> bytes:
        """Returns a file's path below its class's folder."""
        return self.names[self.offsets[index] : self.offsets[index + 1]]

    def __getitem__(self, index: int) -> Example:
        label = int(np.searchsorted(self.starts, index, side="right")) - 1
        file = self.file(index)
        folder = self.classes[label] if self.split == "." else f"{self.split}/{self.classes[label]}"
        name = f"{folder}/{file.decode(errors='backslashreplace')}"  # always printable
        try:
            with open(os.path.join(self.root, folder, os.fsdecode(file)), "rb") as stream:
                return Example(stream.read(), label, name)
        except OSError as error:
            if error.errno in _MACHINE_ERRORS:
                raise
            raise BadImageError(error.strerror or str(error), name) from error


def open_folder(
    root: Path,
    train_split: str | None = None,
    eval_split: str | None = None,
    eval_share: float = DataOptions.eval_share,
) -> Dataset:
    """Opens a folder of images as a data set.

    Args:
        root: D with D/train/class and D/val/class, or with D/train/class or D/class alone.
        train_split: see `list_folder`.
        eval_split: see `list_folder`.
        eval_share: without test images, the share of each class's training images that is taken
            for them.

    Raises:
        UsageError: see `list_folder`; if a class has too few images to share out.
    """
    train, test = list_folder(root, train_split, eval_split)
    if test is None:
        return _shared_out(train, eval_share)
    return Dataset("folder", train, test, train.classes, channels=3)


def list_folder(
    root: Path, train_split: str | None = None, eval_split: str | None = None
) -> tuple[FolderSource, FolderSource | None]:
    """Lists the images of D/train/class and D/val/class; classes are sorted as in torchvision.

    Args:
        root: the folder D.
        train_split: folder of the training images, by default "train", or D itself.
        eval_split: folder of the test images, by default the first of "val", "validation" and
            "test".

    Returns:
        The training and the test images; None for the latter if there is no folder of them.

    Raises:
        UsageError: if a folder is missing, cannot be read or has no images, or the test images have
            a class that the training images lack.
    """
    names = (eval_split,) if eval_split else _EVALUATION
    found = next((name for name in names if (root / name).is_dir()), None)
    if eval_split and found is None:
        raise UsageError(f"{root} has no folder {eval_split!r} to evaluate on")
    if train_split is None:
        train_split = "train" if found or (root / "train").is_dir() else "."
    if not (root / train_split).is_dir():
        raise UsageError(f"{root} has no folder {train_split!r}; {_expected(root)}")
    classes = _class_names(root / train_split)
    train = list_images(root, train_split, classes)
    if found is None:
        return train, None
    unknown = sorted(set(_class_names(root / found)) - set(classes))
    if unknown:
        raise UsageError(
            f"{root / found} has {len(unknown)} class(es) that {root / train_split} lacks, such as "
            f"{unknown[0]!r}: both need the same class folders"
        )
    return train, list_images(root, found, classes)


def _expected(root: Path) -> str:
    return f"images are expected in {root}/train/CLASS and {root}/val/CLASS, or in {root}/CLASS"


def _shared_out(images: FolderSource, share: float) -> Dataset:
    """Takes a share of each class for the test images, by the hash of each file's name.

    Adding files to the folder leaves the others where they are, as far as the counts allow.
    """
    train: list[int] = []
    test: list[int] = []
    for label, name in enumerate(images.classes):
        own = range(*images.starts[label : label + 2])
        if len(own) < 2:
            raise UsageError(
                f"class {name!r} has {len(own)} image(s): two at least are needed, one to train on "
                "and one to evaluate"
            )
        ordered = sorted(own, key=lambda i: hashlib.sha256(images.file(i)).digest())
        count = min(max(round(share * len(own)), 1), len(own) - 1)
        test += sorted(ordered[:count])
        train += sorted(ordered[count:])
    parts = [SubsetSource(images, np.array(indices, np.int64)) for indices in (train, test)]
    note = (
        f"no folder {' or '.join(_EVALUATION)}: {len(test)} of {len(images)} images, about "
        f"{share:.0%} of each class, are evaluated and not trained on (--eval-share)"
    )
    return Dataset("folder", parts[0], parts[1], images.classes, channels=3, note=note)


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
