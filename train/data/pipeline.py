"""Batches that depend on the seed and the step, but not on the number of workers or processes.

No iterator state is stored. A run that resumes starts at a later step. It may have a different
number of workers and processes.

Worker processes import this module, so it starts no JAX backend.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator

import numpy as np

from inception_jax.crops import rounds
from inception_jax.registry import ModelInfo
from train.data.augment import evaluation_view, train_view
from train.data.bad_images import BadImageError, Note, too_many_bad_images
from train.data.datasets import Dataset, Example, Source
from train.data.exclusions import base_name
from train.data.loader import Batches, Row, load_batches
from train.data.options import InputOptions
from train.data.randaugment import rand_augment

# From this number of training images on, each processor decodes in its own process.
_MANY_IMAGES = 50_000
_MOST_WORKERS = 32


def train_batches(
    dataset: Dataset,
    options: InputOptions,
    start_step: int,
    stop_step: int,
    batch_size: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> Batches:
    """Returns one process's share of the training batches.

    Every epoch has its own random order. At its end, images that do not fill a batch are dropped.
    An image's augmentation depends on the seed, the epoch and the image. An unusable image is
    replaced by the next usable one in the epoch's order.

    Args:
        dataset: the data set.
        options: crops and other augmentation.
        start_step: step of the first batch.
        stop_step: one more than the step of the last batch.
        batch_size: number of images in a step, over all processes.
        seed: seed of the order and the augmentation, not negative.
        process: index of this process. It gets batch_size / processes rows of each batch, starting
            at row process * batch_size / processes.
        processes: number of processes that share a batch; must divide `batch_size`.

    Returns:
        An iterator over batches; the end of a `with` statement ends its workers. Batches are dicts.
        "image" is [b, h, w, c] uint8, "label" is [b] int32, and "mask" is [b] float32, always 1.
        "notes" is a tuple of `Note` on unusable or converted images.

    Raises:
        ValueError: if `processes` does not divide `batch_size`, or the data set has fewer images
            than a batch.
        UsageError: if the workers' shared memory is too small.
        TrainingError: on iteration, if no image can be used, or if more than `max_bad_images` in a
            row cannot be used.
    """
    share = _share(batch_size, processes)
    if batch_size > len(dataset.train):
        raise ValueError(f"batch size {batch_size} of {len(dataset.train)} images")
    load = _TrainingImages(dataset, options, seed, batch_size, share, process)
    indices = range(start_step * share, max(start_step, stop_step) * share)
    blank = _blank(dataset.train, dataset.channels, options.image_size, 1)
    return load_batches(indices, load, share, _workers(dataset, options), blank.nbytes)


def evaluation_batches(
    dataset: Dataset,
    options: InputOptions,
    info: ModelInfo,
    batch_size: int,
    process: int = 0,
    processes: int = 1,
    exclude: frozenset[str] = frozenset(),
) -> Batches:
    """Returns one process's share of the test images. Each image belongs to exactly one share.

    Args:
        dataset: the data set.
        options: number of crops, and other options of the input.
        info: preprocessing that crops and resizes an image, see `augment.evaluation_view`.
        batch_size: number of images in a step, over all processes.
        process: index of this process, as in `train_batches`.
        processes: number of processes that share a batch; must divide `batch_size`.
        exclude: names of the images to skip, without folders and extension.

    Returns:
        An iterator over batches, as from `train_batches`. Batches are dicts; every process gets
        the same number of them. "image" is [b, h, w, c] uint8 or float32, or [b, crops, h, w, c]
        uint8 with several crops. "label" is [b] int32. "mask" is [b] float32: 0 for
        padding images in the last batch and for images that are excluded or unusable, else 1.
        "notes" is a tuple of `Note` on images that are excluded, unusable or converted.

    Raises:
        ValueError: if `processes` does not divide `batch_size`.
        UsageError: if the workers' shared memory is too small.
    """
    share = _share(batch_size, processes)
    steps = -(-len(dataset.test) // batch_size)
    blank = _blank(dataset.test, dataset.channels, info.input_size, options.eval_crops)
    if options.eval_crops == 1 and blank.shape[0] == info.input_size and not rounds(info):
        blank = blank.astype(np.float32)
    load = _TestImages(dataset, options, info, exclude, blank, batch_size, share, process)
    workers = _workers(dataset, options)
    return load_batches(range(steps * share), load, share, workers, blank.nbytes)


def _workers(dataset: Dataset, options: InputOptions) -> int:
    if options.workers is not None:
        return options.workers
    many = len(dataset.train) >= _MANY_IMAGES
    return min(os.cpu_count() or 1, _MOST_WORKERS) if many else 0


def _share(batch_size: int, processes: int) -> int:
    if batch_size % processes:
        raise ValueError(f"batch size {batch_size} cannot be shared by {processes} processes")
    return batch_size // processes


@dataclasses.dataclass(frozen=True)
class _TrainingImages:
    """Loads a training image by its position in this process's sequence, which starts at step 0.

    `share` is the number of rows of each batch that this process loads, and `process` the index of
    this process. Calls take the position and return a `Row`.
    """

    dataset: Dataset
    options: InputOptions
    seed: int
    batch_size: int
    share: int
    process: int

    def __call__(self, index: int) -> Row:
        count = len(self.dataset.train)
        step, row = divmod(index, self.share)
        epoch, step = divmod(step, count // self.batch_size)
        position = step * self.batch_size + self.process * self.share + row
        order = _order(self.seed, epoch, count)
        skipped: dict[str, str] = {}
        while len(skipped) <= self.options.max_bad_images and len(skipped) < count:
            chosen = int(order[(position + len(skipped)) % count])
            try:
                return self._view(chosen, epoch, skipped)
            except BadImageError as error:
                skipped[error.name or f"image {chosen}"] = str(error)
        raise too_many_bad_images(skipped, self.options.max_bad_images)

    def _view(self, chosen: int, epoch: int, skipped: dict[str, str]) -> Row:
        options = self.options
        example = _read(self.dataset.train, chosen, len(self.dataset.classes))
        # One more than the index, because NumPy treats (seed, epoch) and (seed, epoch, 0) as equal.
        rng = np.random.default_rng((self.seed, epoch, chosen + 1))
        with _named(example.name):
            image, converted = train_view(
                example.image,
                rng,
                options.crop,
                options.image_size,
                self.dataset.channels,
                options.crop_area_min,
                options.flip,
                options.upright or False,
            )
        if options.randaugment > 0:
            image = rand_augment(image, rng, options.randaugment)
        notes = tuple(Note("skipped", name, reason) for name, reason in skipped.items())
        return Row(image, example.label, notes=(*notes, *_conversion(example, converted)))


@dataclasses.dataclass(frozen=True)
class _TestImages:
    """Loads a test image by its position in this process's share of the test images.

    `share` is the number of rows of each batch that this process loads, and `process` the index of
    this process. `exclude` has the names of images to skip, and `blank` is the image in rows
    without one. Calls take the position and return a `Row`.
    """

    dataset: Dataset
    options: InputOptions
    info: ModelInfo
    exclude: frozenset[str]
    blank: np.ndarray
    batch_size: int
    share: int
    process: int

    def __call__(self, index: int) -> Row:
        step, row = divmod(index, self.share)
        chosen = step * self.batch_size + self.process * self.share + row
        if chosen >= len(self.dataset.test):
            return self._masked()
        try:
            return self._view(chosen)
        except BadImageError as error:
            return self._masked(Note("skipped", error.name or f"image {chosen}", str(error)))

    def _view(self, chosen: int) -> Row:
        options = self.options
        example = _read(self.dataset.test, chosen, len(self.dataset.classes))
        if base_name(example.name) in self.exclude:
            return self._masked(Note("excluded", example.name, "on the list of exclusions"))
        with _named(example.name):
            image, converted = evaluation_view(
                example.image, self.info, self.dataset.channels, options.eval_crops
            )
        return Row(image, example.label, notes=_conversion(example, converted))

    def _masked(self, *notes: Note) -> Row:
        return Row(self.blank, 0, 0.0, notes)


@functools.lru_cache(maxsize=3)  # prefetching may span two epochs
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def _read(source: Source, index: int, num_classes: int) -> Example:
    example = source[index]
    if not 0 <= example.label < num_classes:
        reason = f"label {example.label} is not among the {num_classes} classes"
        raise BadImageError(reason, example.name)
    return example


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Context manager: adds the image's name to a `BadImageError` that the body raises."""
    try:
        yield
    except BadImageError as error:
        error.name = name
        raise


def _conversion(example: Example, converted: str | None) -> tuple[Note, ...]:
    return (Note("converted", example.name, converted),) if converted else ()


def _blank(source: Source, channels: int, size: int, crops: int) -> np.ndarray:
    """Returns a padding image, which is black: [h, w, c], or [crops, h, w, c] for several crops.

    Its sides are `size`, or those of the first image if the images of `source` are arrays and there
    is one crop.
    """
    shape = (size, size, channels)
    if crops > 1:
        return np.zeros((crops, *shape), np.uint8)
    try:
        first = source[0].image if len(source) else b""
    except BadImageError:
        first = b""  # an encoded image
    if isinstance(first, np.ndarray):
        shape = (*first.shape[:2], channels)
    return np.zeros(shape, np.uint8)
