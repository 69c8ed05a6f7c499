"""Data sets as sequences of examples: the embedded one, a folder of images, or one of TFDS."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from train.errors import UsageError

EMBEDDED = Path(__file__).parent / "embedded"
FASHION_MNIST_CLASSES = (
    "T-shirt", "trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


class Example(NamedTuple):
    """One image: encoded, or pixels [h, w, c] uint8; its label; and what to call it."""

    image: bytes | np.ndarray
    label: int
    name: str


class Source(Protocol):
    """Examples by their index, from any process: sources travel to the workers by pickle.

    Reading an example raises `decoding.BadImageError` where only this one cannot be had.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Examples to learn from and to test with, of the same classes."""

    name: str
    train: Source
    test: Source
    classes: tuple[str, ...]
    channels: int


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images [n, h, w, c] uint8 and labels [n] in memory."""

    images: np.ndarray
    labels: np.ndarray
    split: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], int(self.labels[index]), f"{self.split}/{index}")


@dataclasses.dataclass(frozen=True)
class Absent:
    """Encoded images that are only counted: nothing is read to compile a step."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return Example(b"", 0, str(index))


def imagenet_unseen() -> Dataset:
    """ImageNet 2012 as far as a program depends on it: its counts."""
    classes = tuple(map(str, range(1000)))
    return Dataset("imagenet2012", Absent(1_281_167), Absent(50_000), classes, channels=3)


def open_dataset(
    name: str,
    data_dir: Path | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
) -> Dataset:
    """Opens a data set; nothing is downloaded.

    Args:
        name: "fashion_mnist", which comes with the repository; "folder", a folder of images in
            torchvision's layout; or a name of TFDS, with its config and version if wanted
            ("imagenet2012", "name/config", "name:1.0.0").
        data_dir: where a folder or the prepared data sets of TFDS lie.
        train_split: what to learn from; None for "train". A folder's name, or a split of TFDS
            such as "train[:90%]".
        eval_split: what to test with; None for the first of "val" (folders), "validation" and
            "test" that exists.

    Raises:
        UsageError: if there is no such data set or it cannot be used.
    """
    if name == "fashion_mnist":
        if data_dir or train_split or eval_split:
            raise UsageError(
                "fashion_mnist comes with the repository: leave out --data-dir, --train-split and "
                "--eval-split, or name another --dataset"
            )
        return _open_embedded()
    if data_dir is None:
        raise UsageError(f"--dataset {name} needs --data-dir, the folder that holds it")
    if not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such folder")
    # Each kind is imported when it is asked for: TFDS need not be installed for the others.
    if name == "folder":
        from train.data.folders import open_folder

        return open_folder(data_dir, train_split, eval_split)
    from train.data.prepared import open_prepared

    return open_prepared(name, data_dir, train_split, eval_split)


def _open_embedded() -> Dataset:
    with np.load(EMBEDDED / "fashion_mnist.npz") as arrays:
        train, test = (
            ArraySource(arrays[f"{split}_images"][..., None], arrays[f"{split}_labels"], split)
            for split in ("train", "test")
        )
    return Dataset("fashion_mnist", train, test, FASHION_MNIST_CLASSES, channels=1)
