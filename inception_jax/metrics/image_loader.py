"""Opens sources of images, reads and resizes the images in threads, and batches them."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from inception_jax import images as reader
from inception_jax.metrics import statistics_files
from inception_jax.metrics.image_arrays import StoredImages
from inception_jax.metrics.image_files import image_files
from inception_jax.metrics.presets import DEFAULT, PRESETS, Preset
from inception_jax.metrics.sources import (
    Encoded,
    Generated,
    Loader,
    Records,
    archive,
    as_array,
    images_in,
    record_files,
)
from inception_jax.metrics.statistics import Statistics
from inception_jax.metrics.value_ranges import warn_of_part
from inception_jax.notes import Counts, printable

Prepare = Callable[[np.ndarray], np.ndarray]

_SHOWN = 20
# Beginnings of the notes that say what is lost or ignored when an image is read as 8-bit RGB.
_LOSSES = (reader.CLIPPED, reader.SIXTEEN_BIT_COLOUR, reader.EXIF_IGNORED, "damaged")
_AS_THE_PROGRAM = "read as the preset's program reads it, so that the number is the program's"


class UnreadableError(ValueError):
    """A file is not an image, or is damaged.

    Attributes:
        path: path of the file.
    """

    def __init__(self, path: Path, reason: object):
        super().__init__(
            f"{printable(path)} is not a whole image file: {reason}; repair or remove it, or skip "
            "such files with skip_unreadable=True (--skip-unreadable)"
        )
        self.path = path


@dataclasses.dataclass(frozen=True)
class Images:
    """A source of images that is opened, but not yet read.

    Attributes:
        items: the images: paths, encoded images, Pillow images, and arrays uint8 [h, w, 3] or
            [n, h, w, 3]; or a `Generated`.
        count: number of images; None if it is unknown until all are read.
        name: name of the source, for messages.
        statistics: statistics stored in the same file, if any. They may cover more images than the
            file holds.
    """

    items: Iterable[Any]
    count: int | None
    name: str
    statistics: Statistics | None = None


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """Options for reading images.

    Attributes:
        prepare: function that maps an image, [h, w, 3], to the network's input.
        batch_size: number of images in a batch.
        workers: number of threads.
        skip_unreadable: whether to skip files that are not whole images, with a warning.
        progress: whether to show a progress bar on stderr.
        unit_floats: whether to accept float images from 0 to 1. They are multiplied by 255 and
            truncated to 8 bits.
    """

    prepare: Prepare
    batch_size: int
    workers: int
    skip_unreadable: bool
    progress: bool
    unit_floats: bool = False


def open_images(source: Any, preset: Preset = PRESETS[DEFAULT]) -> Images | Statistics:
    """Checks a source of images and opens it, without reading an image.

    Args:
        source: one of
            - `Generated`, `Loader` or `Records`;
            - the path of a folder of images, a zip file of images, or an `.npy` file;
            - the path of a TFRecord or array_record file; a `*` in the path matches several;
            - the path of an `.npz` file of statistics, of images in its array `arr_0`, or of both;
            - an array uint8 [n, h, w, 3] or grey [n, h, w, 1];
            - a PyTorch tensor, channels first or last;
            - an iterable of paths, Pillow images, arrays uint8 [h, w, 3] or [n, h, w, 3], or tuples
              of images and labels.
        preset: preset that decides which files and which arrays count as images.

    Returns:
        `Images`, or `Statistics` if the source is an `.npz` file without images.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if the source cannot be used; the message says why.
        TypeError: if the type of the source is not supported.
    """
    if isinstance(source, str | os.PathLike):
        return _at(Path(source), preset)
    if isinstance(source, Generated | Loader):
        return Images(source, source.count, source.name)
    if isinstance(source, Records):
        return Images(source, source.count, str(source.files[0]))
    if isinstance(source, Image.Image):
        raise ValueError("this is one image: give a list of images")
    if hasattr(source, "__array__"):
        return _of_array(as_array(source), preset.unit_floats)
    if isinstance(source, Iterable):
        return Images(source, None, "images")
    if callable(source):
        raise TypeError(
            "to use a function(key, n) that generates images, give metrics.Generated(function, "
            "count=...)"
        )
    raise TypeError(
        "images must be a folder, an .npz or .npy file, an array or an iterable of images, not "
        f"a {type(source).__name__}"
    )


def _at(path: Path, preset: Preset) -> Images | Statistics:
    if path.is_dir():
        files = image_files(path, preset.files)
        if len(files) < 2:
            raise ValueError(f"{path} holds one image; at least two are needed")
        return Images(files, len(files), str(path))
    if files := record_files(path):
        return open_images(Records(tuple(files)), preset)
    if not path.exists():
        raise FileNotFoundError(f"no folder and no file at {path}")
    if path.suffix == ".zip":
        items, count = archive(path)
        if count < 2:
            raise ValueError(f"{path} holds one image; at least two are needed")
        return Images(items, count, str(path))
    if path.suffix == ".npy":
        return _of_array(StoredImages(path), preset.unit_floats, str(path))
    if path.suffix != ".npz":
        raise ValueError(
            f"{path} is neither a folder of images nor an .npz or .npy file, nor a .zip, .tfrecord "
            "or .array_record file of images"
        )
    arrays = statistics_files.arrays_of(path)
    statistics = Statistics.among(arrays, path)
    if statistics is not None and statistics.origin is None:
        statistics_files.warn_of_unknown_origin(path)
    if "arr_0" not in arrays:
        return statistics or Statistics.load(path)
    images = _of_array(StoredImages(path, "arr_0"), preset.unit_floats, str(path))
    return dataclasses.replace(images, statistics=statistics)


def _of_array(array: np.ndarray | StoredImages, unit_floats: bool, name: str = "images") -> Images:
    count = array.shape[0] if len(array.shape) == 4 else 0
    if not count:
        raise ValueError(
            f"{name}: an array of images must be uint8 [n, h, w, 3] or grey [n, h, w, 1]; "
            f"{_got(array)}"
        )
    _check(array, unit_floats, name)
    if count < 2:
        raise ValueError(f"{name}: {count} image; at least two are needed")
    return Images([array] if isinstance(array, np.ndarray) else array, count, name)


def batches(images: Images, options: LoaderOptions) -> Iterator[np.ndarray]:
    """Prefetches images in threads, and yields batches of them in order.

    Two arrays hold the batches in turn, because freed arrays would leave holes in the process's
    memory. A batch is overwritten when the second batch after it is requested.

    Yields:
        Batches of the network's input, float32 [n, h, w, c]. n is the batch size; the last batch
        may be smaller.

    Raises:
        UnreadableError: for a file that is not a whole image, unless such files are skipped.
        ValueError: for an array that is not an image, or an image of another size than the first.
    """
    batch, filled = np.empty(0), 0
    slots, arrays = _Slots(), collections.deque[np.ndarray](maxlen=2)
    bar = tqdm(total=images.count, unit=" images", desc=images.name, disable=not options.progress)
    with bar, contextlib.closing(_loaded(images, options, slots)) as loaded:
        for image in loaded:
            if arrays and image.shape != arrays[0].shape[1:]:
                raise ValueError(
                    f"{images.name}: these features need images of one size; got "
                    f"{list(arrays[0].shape[1:])} and {list(image.shape)}: set the size of "
                    "OwnFeatures, to which images are then resized"
                )
            if filled == 0:
                shape = (options.batch_size, *image.shape)
                batch = arrays[0] if len(arrays) == 2 else np.empty(shape, image.dtype)
                arrays.append(batch)
            batch[filled] = image
            slots.give_back(image)
            filled += 1
            if filled == options.batch_size:
                yield batch
                bar.update(filled)
                filled = 0
        if filled:
            yield batch[:filled]
            bar.update(filled)


class _Slots:
    """A pool of arrays for the images that wait for their batch.

    Reusing arrays avoids memory fragmentation. If each image had a new array, the freed arrays
    would leave small gaps. The network's large arrays do not fit into such gaps, so memory would
    grow.
    """

    def __init__(self):
        self._free: collections.deque[np.ndarray] = collections.deque()

    def copied(self, image: np.ndarray) -> np.ndarray:
        """Copies an image into the next free array if it fits, else into a new array."""
        try:
            slot = self._free.popleft()
        except IndexError:  # the first images, as long as none was given back
            slot = np.empty_like(image)
        if (slot.shape, slot.dtype) != (image.shape, image.dtype):
            slot = np.empty_like(image)
        slot[...] = image
        return slot

    def give_back(self, slot: np.ndarray) -> None:
        """Returns an array to the pool, so that a later image can overwrite it."""
        self._free.append(slot)


def _loaded(
    images: Images, options: LoaderOptions, slots: _Slots
) -> Generator[np.ndarray, None, None]:
    """Yields images in order, read and prepared in threads."""
    skipped: list[Path] = []
    notes = Counts()
    waiting: collections.deque[tuple[Any, concurrent.futures.Future]] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(options.workers, thread_name_prefix="images")

    def load(item: Any) -> tuple[np.ndarray, tuple[str, ...]]:
        image, found = _load(item, options.prepare)
        return slots.copied(image), found

    def first() -> Iterator[np.ndarray]:
        item, future = waiting.popleft()
        try:
            image, found = future.result()
            for note in found:
                if note.startswith(_LOSSES):
                    name = item.name if isinstance(item, Encoded) else item
                    notes.add(note, "an image" if isinstance(item, Image.Image) else name)
            yield image
        except UnreadableError as error:
            if not options.skip_unreadable:
                raise
            skipped.append(error.path)

    try:
        for item in _one_by_one(images.items, options.unit_floats, images.name):
            waiting.append((item, pool.submit(load, item)))
            if len(waiting) >= options.batch_size:
                yield from first()
        while waiting:
            yield from first()
    finally:
        pool.shutdown(cancel_futures=True)
    _warn_of(images.name, notes)
    if skipped:
        names = ", ".join(map(printable, skipped[:_SHOWN]))
        more = f" and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        warnings.warn(
            f"{images.name}: {len(skipped)} files that are not whole images are skipped: "
            f"{names}{more}",
            stacklevel=2,
        )


def _one_by_one(items: Iterable[Any], unit_floats: bool, name: str) -> Iterator[Any]:
    """Yields single images from a mix of single images and batches.

    Warns if all arrays are nearly black: they may be floats from 0 to 1 that were cast to uint8.
    `name` is the name of the source, for messages. For `unit_floats`, see `LoaderOptions`.
    """
    high = -np.inf
    for item in items:
        if not isinstance(item, Encoded):  # `Encoded` is a tuple too
            item = images_in(item)
        if isinstance(item, str | os.PathLike | Image.Image | Encoded):
            yield item
            continue
        array = as_array(item)
        _check(array, unit_floats, name)
        high = max(high, float(array.max()) / (255 if array.dtype == np.uint8 else 1))
        for image in array if array.ndim == 4 else [array]:
            yield _in_colour(_as_bytes(image))
    warn_of_part(0, high, name)


def _check(array: np.ndarray | StoredImages, unit_floats: bool, name: str) -> None:
    is_image = len(array.shape) in (3, 4) and array.shape[-1] in (1, 3)
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    if not is_image or not (array.dtype == np.uint8 or (unit_floats and is_float)):
        floats = " or floats from 0 to 1" if unit_floats else ""
        remedy = "" if is_image else _OF_CHANNELS if array.shape[-3:-2] in ((1,), (3,)) else ""
        if is_float and not unit_floats:
            remedy = _OF_FLOATS
        raise ValueError(
            f"{name}: an array of images must be uint8 from 0 to 255{floats}, [n, h, w, 3] or grey "
            f"[n, h, w, 1], in the order red, green, blue; {_got(array)}{remedy}"
        )
    if 0 in array.shape[-3:]:
        raise ValueError(f"{name}: an image without pixels: {_got(array)}")


_OF_CHANNELS = ": put the channels last with np.moveaxis(images, -3, -1)"
_OF_FLOATS = (
    ": give floats by metrics.Loader(images, value_range=(0, 1)), (-1, 1) or (0, 255); in a file, "
    "save them as uint8"
)


def _got(array: np.ndarray | StoredImages) -> str:
    return f"got {array.dtype} {list(array.shape)}"


def _as_bytes(image: np.ndarray) -> np.ndarray:
    """Multiplies float images by 255 and truncates, as torchmetrics does if `normalize=True`."""
    if image.dtype == np.uint8:
        return image
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"float images must be from 0 to 1; got {image.min():g} to {image.max():g}"
        )
    return (image * image.dtype.type(255)).astype(np.uint8)


def _in_colour(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _load(item: Any, prepare: Prepare) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the network's input for one image, and the notes of its `images.Picture`.

    The notes say what was converted or ignored in reading the image; arrays have none.
    """
    if isinstance(item, np.ndarray):
        return prepare(item), ()
    if isinstance(item, str | os.PathLike) and Path(item).suffix == ".npy":
        return prepare(_array_at(Path(item))), ()
    source, name = item if isinstance(item, Encoded) else (item, item)
    try:
        picture = reader.read(source, as_pillow=True)
    except Exception as error:  # an image in memory is the caller's mistake, not a bad file
        if isinstance(item, Image.Image):
            raise
        reason = str(error).removeprefix(f"{printable(Path(name))}: ")
        raise UnreadableError(Path(name), reason or type(error).__name__) from None
    return prepare(picture.array(3)), picture.notes


def _array_at(path: Path) -> np.ndarray:
    """Reads an `.npy` file of one image [h, w, 3] from 0 to 255, as clean-fid does."""
    try:
        image = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UnreadableError(path, error) from None
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype.kind not in "uif" or not image.size:
        raise UnreadableError(path, f"an image must be [h, w, 3]; {_got(image)}")
    return image


def _warn_of(name: str, notes: Counts) -> None:
    """Warns about images that lost information when they were read, once for each kind of loss.

    Args:
        name: name of the source of the images.
        notes: counts of the images, by kind of loss.
    """
    for line in notes.lines():
        warnings.warn(f"{name}: {line}; {_AS_THE_PROGRAM}", stacklevel=2)
