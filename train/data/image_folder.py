"""Opens a folder of images like torchvision's `ImageFolder`.

The images of a class are in the folder split/class, or in folders inside it, at any depth.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from inception_jax import folders
from inception_jax.images import EXTENSIONS, BadImageError, read_file
from inception_jax.notes import Counts, printable
from train import storage
from train.data.bucket_walk import BucketWalk
from train.data.datasets import Dataset, Example, SubsetSource
from train.data.options import DataOptions
from train.errors import UsageError

_EVALUATION = ("val", "validation", "test")
# Errors of the machine. They do not mean that an image is bad.
_MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The image files below split/class; labels are indices into `classes`.

    All file names are stored as one byte string with offsets. So a million names take little
    memory, and are pickled for the workers in one piece.

    Args:
        root: path of the data set's folder.
        split: name of the split's folder in `root`; "." for `root` itself.
        classes: names of the class folders.
        names: concatenated paths of the n files, each relative to its class folder, in the file
            system's encoding.
        offsets: positions [n + 1] in `names` at which the paths start.
        starts: indices [classes + 1] of the first image of each class.
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
        """Returns the path of a file relative to its class folder."""
        return self.names[self.offsets[index] : self.offsets[index + 1]]

    def __getitem__(self, index: int) -> Example:
        label = int(np.searchsorted(self.starts, index, side="right")) - 1
        file = self.file(index)
        folder = self.classes[label] if self.split == "." else f"{self.split}/{self.classes[label]}"
        name = f"{folder}/{file.decode(errors='backslashreplace')}"  # always printable
        try:
            return Example(self._read(folder, file), label, name)
        except BadImageError as error:
            raise BadImageError(str(error), name) from error
        except OSError as error:
            if error.errno in _MACHINE_ERRORS:
                raise
            raise BadImageError(error.strerror or str(error), name) from error

    def _read(self, folder: str, file: bytes) -> bytes:
        path = os.path.join(self.root, folder, os.fsdecode(file))
        return storage.read_bytes(path) if storage.is_remote(self.root) else read_file(path)


def open_folder(
    root: Path,
    train_split: str | None = None,
    eval_split: str | None = None,
    eval_share: float = DataOptions.eval_share,
) -> Dataset:
    """Opens a folder of images as a data set.

    Args:
        root: path of a folder D that has D/train/class and D/val/class, only D/train/class, or only
            D/class.
        train_split: see `list_folder`.
        eval_split: see `list_folder`.
        eval_share: held-out share of each class's images, which become the test images if there is
            no folder of test images.

    Raises:
        UsageError: see `list_folder`. Also if there is no folder of test images and a class has
            fewer than two images.
    """
    train, test, passed_over = list_folder(root, train_split, eval_split)
    read = len(train) + (0 if test is None else len(test))
    note = folders.passed_over_note(printable(root), read, passed_over)
    if test is None:
        dataset = _shared_out(train, eval_share)
    else:
        dataset = Dataset("folder", train, test, train.classes, channels=3)
    notes = "\n".join(line for line in (dataset.note, note) if line)
    return dataclasses.replace(dataset, note=notes or None, passed_over=passed_over.total)


def open_test_folder(root: Path, eval_split: str | None = None) -> Dataset:
    """Opens a folder of images for evaluation only. No training images are needed.

    Args:
        root: path of a folder D that has D/val/class, D/train/class or D/class.
        eval_split: see `list_folder`. If there is no folder of test images, all images in D/train,
            or else in D, are evaluated.

    Raises:
        UsageError: if a folder is missing, cannot be read or has no images.
    """
    split = _test_split(root, eval_split)
    note = None
    if split is None:
        split = "train" if (root / "train").is_dir() else "."
        place = printable(root / split)
        note = f"no folder {' or '.join(_EVALUATION)}: all images in {place} are evaluated"
    walk = _walk(root / split, root)
    classes = _class_names(root / split, walk)
    images = list_images(root, split, classes, walk)
    passed_over = folders.passed_over_note(printable(root), len(images), walk.passed_over)
    notes = "\n".join(line for line in (note, passed_over) if line)
    total = walk.passed_over.total
    return Dataset("folder", images, images, classes, 3, note=notes or None, passed_over=total)


def has_test_images(root: Path, eval_split: str | None = None) -> bool:
    """Returns whether there is a folder of test images; see `open_test_folder`.

    Raises:
        UsageError: if `eval_split` is given and there is no such folder.
    """
    return _test_split(root, eval_split) is not None


def _walk(folder: Path, root: Path) -> folders.Walk:
    if storage.is_remote(folder):
        return BucketWalk(folder, named_from=root)
    return folders.Walk(folder, named_from=root)


def _test_split(root: Path, eval_split: str | None) -> str | None:
    """Returns the name of the folder of test images; None if there is none.

    Raises:
        UsageError: if `eval_split` is given and there is no such folder.
    """
    names = (eval_split,) if eval_split else _EVALUATION
    found = next((name for name in names if (root / name).is_dir()), None)
    if eval_split and found is None:
        raise UsageError(f"{root} has no folder {eval_split!r} to evaluate on")
    return found


def list_folder(
    root: Path, train_split: str | None = None, eval_split: str | None = None
) -> tuple[FolderSource, FolderSource | None, Counts]:
    """Lists the images of D/train/class and D/val/class; classes are sorted as in torchvision.

    Args:
        root: path of the folder D.
        train_split: name of the folder of training images; None for "train", or for D itself if D
            has neither "train" nor a folder of test images.
        eval_split: name of the folder of test images; None for the first of "val", "validation" and
            "test" that exists.

    Returns:
        The training images; the test images, or None if there is no folder of test images; and
        counts of the files that were skipped.

    Raises:
        UsageError: if a folder is missing, cannot be read or has no images, or the test images have
            a class that the training images lack.
    """
    found = _test_split(root, eval_split)
    if train_split is None:
        train_split = "train" if found or (root / "train").is_dir() else "."
    if not (root / train_split).is_dir():
        raise UsageError(f"{root} has no folder {train_split!r}; {_expected(root)}")
    walk = _walk(root / train_split, root)
    classes = _class_names(root / train_split, walk)
    train = list_images(root, train_split, classes, walk)
    if found is None:
        return train, None, walk.passed_over
    tested = _walk(root / found, root)
    present = _class_names(root / found, tested)
    unknown = sorted(set(present) - set(classes))
    if unknown:
        raise UsageError(
            f"{root / found} has {len(unknown)} class(es) that {root / train_split} lacks, such as "
            f"{unknown[0]!r}: both need the same class folders"
        )
    test = list_images(root, found, classes, tested, present)
    walk.passed_over.update(tested.passed_over)
    return train, test, walk.passed_over


def _expected(root: Path) -> str:
    return f"images are expected in {root}/train/CLASS and {root}/val/CLASS, or in {root}/CLASS"


def _shared_out(images: FolderSource, share: float) -> Dataset:
    """Returns a data set whose test images are a held-out share of each class's images.

    The test images are those whose file names have the smallest hashes. So if files are added, few
    of the old images move between training and test.

    Raises:
        UsageError: if a class has fewer than two images.
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


def list_images(
    root: Path,
    split: str,
    classes: tuple[str, ...],
    walk: folders.Walk,
    present: Collection[str] | None = None,
) -> FolderSource:
    """Returns a source of the images of a split, sorted by class, folder and name.

    Args:
        root: path of the data set's folder.
        split: name of the split's folder in `root`.
        classes: names of the classes.
        walk: object that lists the folders of the split, and counts the files that it skips.
        present: names of the classes that have a folder in this split; None for all.

    Raises:
        UsageError: if a class folder cannot be read or has no images.
    """
    names: list[bytes] = []
    starts = [0]
    for name in classes:
        folder = root / split / name
        if present is None or name in present:
            before = walk.passed_over.total
            with _readable():
                files = walk.images(folder)
            if not files:
                raise UsageError(_without_images(folder, walk, before))
            prefix = len(os.fsencode(folder)) + 1
            names += [os.fsencode(path)[prefix:] for path in files]
        starts.append(len(names))
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return FolderSource(
        str(root), split, classes, b"".join(names), offsets, np.array(starts, np.int64)
    )


def _without_images(folder: Path, walk: folders.Walk, before: int) -> str:
    passed = walk.passed_over
    instead = f"; skipped: {passed}" if passed.total > before else ""
    endings = " ".join(EXTENSIONS)
    return f"{printable(folder)} has no images ({endings}): add some or remove it{instead}"


def _class_names(folder: Path, walk: folders.Walk) -> tuple[str, ...]:
    with _readable():
        names = walk.subfolders(folder)
    if not names:
        raise UsageError(f"{folder} has no class folders: expected {folder}/CLASS/IMAGE.jpg")
    return tuple(names)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{printable(error.filename)} cannot be read: {error.strerror}") from error
