"""Images and labels: what is at a step follows from the seed and the step alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Batch = dict[str, np.ndarray]

EMBEDDED = Path(__file__).parent / "embedded"
FASHION_MNIST_CLASSES = (
    "T-shirt", "trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images [n, h, w, c] uint8 and labels [n] in memory."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]


def load_dataset(name: str) -> Dataset:
    """Loads a data set by the name that `--dataset` takes."""
    if name != "fashion_mnist":
        raise ValueError(f"unknown data set {name!r}")
    with np.load(EMBEDDED / "fashion_mnist.npz") as arrays:
        return Dataset(
            arrays["train_images"][..., None],
            arrays["train_labels"].astype(np.int32),
            arrays["test_images"][..., None],
            arrays["test_labels"].astype(np.int32),
            FASHION_MNIST_CLASSES,
        )


def train_batch(
    dataset: Dataset, step: int, batch_size: int, seed: int, process: int = 0, processes: int = 1
) -> Batch:
    """Returns one process's share of the batch at a step.

    Every epoch has an order of its own and drops the remainder that fills no batch. An image's
    augmentation depends on the seed, the epoch and the image, not on who loads it.
    """
    per_epoch = len(dataset.train_labels) // batch_size
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(len(dataset.train_labels))
    chosen = order[position * batch_size : (position + 1) * batch_size][process::processes]
    images = np.stack([_augment(dataset.train_images[i], (seed, epoch, i)) for i in chosen])
    return {"image": images, "label": dataset.train_labels[chosen]}


def _augment(image: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Mirrors every second image."""
    return image[:, ::-1] if np.random.default_rng(seed).integers(2) else image


def evaluation_batches(
    dataset: Dataset, batch_size: int, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Yields every test image once; `mask` is 0 for the images that only fill the last batch."""
    count = len(dataset.test_labels)
    for start in range(0, count, batch_size):
        wanted = np.arange(start, start + batch_size)[process::processes]
        index = np.minimum(wanted, count - 1)
        yield {
            "image": dataset.test_images[index],
            "label": dataset.test_labels[index],
            "mask": (wanted < count).astype(np.float32),
        }
