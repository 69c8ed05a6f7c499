"""Data sets: training and test sources of labelled images, with the same classes."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np


class Example(NamedTuple):
    """One image, encoded or as pixels [h, w, c] uint8, with its label and its name."""

    image: bytes | np.ndarray
    label: int
    name: str


class Source(Protocol):
    """A sequence of examples that can be pickled, because worker processes read it too.

    Reading an example raises `bad_images.BadImageError` if the example itself is unusable.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test examples of the same classes.

    Attributes:
        name: name of the data set.
        train: source of the training examples.
        test: source of the test examples.
        classes: names of the classes, in the order of the labels.
        channels: number of channels of the images for the network: 3 for RGB, 1 for luma.
        note: message about how the data set was opened; None if there is none.
        passed_over: number of files that were skipped.
    """

    name: str
    train: Source
    test: Source
    classes: tuple[str, ...]
    channels: int
    note: str | None = None  # a message about how the data set was opened
    passed_over: int = 0  # number of files that were skipped

    @property
    def in_memory(self) -> bool:
        """Whether examples are pixels in memory instead of encoded images."""
        return isinstance(self.test, ArraySource)


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images [n, h, w, c] uint8 and labels [n] in memory.

    `split` is the name of the split, such as "train"; names of examples start with it.
    """

    images: np.ndarray
    labels: np.ndarray
    split: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], int(self.labels[index]), f"{self.split}/{index}")


@dataclasses.dataclass(frozen=True)
class SubsetSource:
    """The examples of another source at the given indices."""

    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class PlaceholderSource:
    """A source of empty images for compiling a step, which needs only the number of images."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return Example(b"", 0, str(index))


def imagenet_placeholder() -> Dataset:
    """Returns a data set with ImageNet 2012's numbers of images and classes, but empty images."""
    train, test = PlaceholderSource(1_281_167), PlaceholderSource(50_000)
    return Dataset("imagenet2012", train, test, tuple(map(str, range(1000))), channels=3)
