"""Opens the 7,000 images of Fashion-MNIST that come with the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.data.datasets import ArraySource, Dataset

FOLDER = Path(__file__).parent / "embedded"
CLASSES = (
    "T-shirt", "trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def open_fashion_mnist() -> Dataset:
    """Returns the data set, with its images in memory. They are read from a file in `FOLDER`."""
    with np.load(FOLDER / "fashion_mnist.npz") as arrays:
        train, test = (
            ArraySource(arrays[f"{split}_images"][..., None], arrays[f"{split}_labels"], split)
            for split in ("train", "test")
        )
    return Dataset("fashion_mnist", train, test, CLASSES, channels=1)
