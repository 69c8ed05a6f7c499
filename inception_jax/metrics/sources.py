"""Sources of images besides folders and arrays: generators, data loaders, zip and record files."""

from __future__ import annotations

import dataclasses
import glob
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from inception_jax import extras
from inception_jax.images import EXTENSIONS
from inception_jax.metrics.device_images import Range, Rounding
from inception_jax.metrics.value_ranges import check_far, warn_of_part
from inception_jax.notes import printable
from inception_jax.tfrecords import bytes_features, read_records

_IMAGE_KEYS = ("image", "images", "image/encoded", "pixel_values", "jpg", "png")
_TFRECORD, _ARRAY_RECORD = ".tfrecord", ".array_record"
_BOX = b"ftyp"  # in AVIF and HEIC files, after the first four bytes
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")


class Encoded(NamedTuple):
    """The bytes of an image file that is stored inside another file, and its name for messages."""

    data: bytes
    name: str


@dataclasses.dataclass(frozen=True)
class Generated:
    """Images that a function generates on the devices.

    Args:
        function: function that maps a `jax.random` key and a number n to images [n, h, w, 3]: uint8
            images, or float images in `value_range`.
        count: number of images to generate.
        batch_size: the number n in every call. Surplus images of the last batch are dropped.
        seed: seed of the random keys; each batch gets its own key.
        value_range: see `Extractor.apply`.
        rounding: see `Extractor.apply`.
        name: name of the images, for messages.
    """

    function: Callable[[jax.Array, int], Any]
    count: int
    batch_size: int = 50
    seed: int = 0
    value_range: Range | None = None
    rounding: Rounding | None = None
    name: str = "generated images"

    def __post_init__(self):
        if not callable(self.function):
            raise ValueError(f"function(key, n) is needed, not a {type(self.function).__name__}")
        if self.count < 2 or self.batch_size < 1:
            raise ValueError(
                f"count must be at least 2 and batch_size at least 1; got {self.count} and "
                f"{self.batch_size}"
            )

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yields pairs: a batch, and the number of images to keep of this batch."""
        key = jax.random.key(self.seed)
        for number, start in enumerate(range(0, self.count, self.batch_size)):
            images = self.function(jax.random.fold_in(key, number), self.batch_size)
            found = tuple(getattr(images, "shape", ()))
            if found[:1] != (self.batch_size,):
                raise ValueError(
                    f"{self.name}: {self.batch_size} images were requested; got {list(found)}"
                )
            yield images, min(self.batch_size, self.count - start)


@dataclasses.dataclass(frozen=True)
class Loader:
    """Images from the batches of a data loader, such as Grain's or PyTorch's, as uint8.

    A batch is an array of images, a list of images, or a tuple, list or mapping that holds such
    images and other data, such as labels.

    Args:
        batches: iterable that yields the batches.
        key: name or position of the images in a batch. None: they are found by a usual name such as
            "image", or as the only part with the shape of images.
        value_range: the values of black and white in float images: (0, 1), (-1, 1) or (0, 255).
        rounding: how float images are rounded to whole numbers from 0 to 255: "nearest" or "down".
        channels_first: whether images are [n, c, h, w]. None: this is assumed only for PyTorch
            tensors with 1 or 3 as c and a last axis of another size.
        count: number of images, for the progress bar; None if unknown.
        name: name of the images, for messages.
    """

    batches: Iterable[Any]
    key: str | int | None = None
    value_range: Range | None = None
    rounding: Rounding = "nearest"
    channels_first: bool | None = None
    count: int | None = None
    name: str = "images"

    def __iter__(self) -> Iterator[Any]:
        low, high = np.inf, -np.inf  # of float images, where 0 is black and 1 is white
        for batch in self.batches:
            array = as_array(images_in(batch, self.key, self.name), self.channels_first)
            if jnp.issubdtype(array.dtype, jnp.floating) and array.size:  # bfloat16 too
                array = self._scaled(array)
                low, high = np.minimum(low, array.min() / 255), np.maximum(high, array.max() / 255)
                check_far(low, high, self.name)
                array = self._rounded(array)
            yield array
        warn_of_part(low, high, self.name)

    def _scaled(self, array: np.ndarray) -> np.ndarray:
        """Returns float images scaled to float32 from 0 (black) to 255 (white)."""
        if self.value_range is None:
            raise ValueError(
                f"{self.name}: float images need a value_range; got {array.dtype} "
                f"{list(array.shape)}: use Loader(batches, value_range=(0, 1)), (-1, 1) or (0, 255)"
            )
        low, high = map(np.float32, self.value_range)
        return (array.astype(np.float32) - low) * np.float32(255 / (high - low))

    def _rounded(self, whole: np.ndarray) -> np.ndarray:
        if self.rounding == "nearest":
            whole = whole + np.float32(0.5)
        return np.floor(whole).clip(0, 255).astype(np.uint8)


def images_in(batch: Any, key: str | int | None = None, name: str = "images") -> Any:
    """Returns the images of a batch that may hold other data too; see `Loader`.

    The result is a part of the batch, or the batch itself, unchanged.

    Raises:
        ValueError: if the images are not found; the message says what the batch holds.
    """
    if isinstance(batch, Mapping):
        keys = list(batch)
        if key is None:
            usual = [known for known in _IMAGE_KEYS if known in batch]
            if len(usual) == 1:
                return batch[usual[0]]
            raise ValueError(
                f"{name}: which of {', '.join(map(repr, keys))} are the images? "
                "Loader(batches, key=...)"
            )
        if key not in batch:
            raise ValueError(f"{name}: a batch has {', '.join(map(repr, keys))}, but no {key!r}")
        return batch[key]
    if isinstance(batch, tuple | list):
        at = _place_of_images(batch, name) if key is None else key
        if at is None:
            return batch
        if not isinstance(at, int) or not -len(batch) <= at < len(batch):
            raise ValueError(f"{name}: a batch has {len(batch)} parts, but no {key!r}")
        return batch[at]
    if key is not None:
        raise ValueError(f"{name}: a batch is a {type(batch).__name__}, which has no {key!r}")
    return batch


def _place_of_images(batch: Sequence[Any], name: str) -> int | None:
    """Returns the index of the images in a batch; None if each part is a single image.

    Raises:
        ValueError: if the images are not found; the message starts with `name`.
    """
    sizes = [
        3 if isinstance(part, Image.Image) else len(getattr(part, "shape", ())) for part in batch
    ]
    places = [place for place, size in enumerate(sizes) if size >= 3]
    if len(places) == 1:
        return places[0]
    if places and all(size == 3 for size in sizes):
        return None
    raise ValueError(
        f"{name}: which of the {len(batch)} parts of a batch are the images? Loader(batches, key=0)"
    )


def as_array(images: Any, channels_first: bool | None = None) -> np.ndarray:
    """Returns NumPy, JAX or PyTorch images as a NumPy array with the channels last.

    Args:
        images: an array, or a tuple or list of arrays of equal shape, which are stacked.
        channels_first: see `Loader`.
    """
    if isinstance(images, tuple | list):
        images = np.stack([as_array(image, channels_first) for image in images])
        channels_first = False
    is_tensor = type(images).__module__.partition(".")[0] == "torch"
    if is_tensor:
        images = images.detach().cpu()
        images = images.float() if str(images.dtype) == "torch.bfloat16" else images
    array = np.asarray(images)
    if channels_first is None and is_tensor and array.ndim in (3, 4):
        first, last = array.shape[-3], array.shape[-1]
        channels_first = first in (1, 3) and last not in (1, 3)
    if channels_first:
        array = np.moveaxis(array, -3, -1)
    return array


# Files that hold many images


def archive(path: Path) -> tuple[Iterable[Encoded], int]:
    """Opens a zip file of images. Images in all folders of the file are read, sorted by path.

    Returns:
        An iterable of the images, each an `Encoded`, and the number of images.

    Raises:
        ValueError: if the file is not a zip file, or has no images.
    """
    try:
        with zipfile.ZipFile(path) as file:
            names = sorted(info.filename for info in file.infolist() if _is_image(info.filename))
            total = len(file.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{printable(path)} is not a whole zip file: {error}") from None
    if not names:
        raise ValueError(f"no image among the {total} entries of {printable(path)}")

    def images() -> Iterator[Encoded]:
        with zipfile.ZipFile(path) as file:
            for name in names:
                try:
                    yield Encoded(file.read(name), f"{path}/{name}")
                except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                    raise ValueError(f"{printable(path)}, {printable(name)}: {error}") from None

    return _Again(images), len(names)


def _is_image(name: str) -> bool:
    parts = name.split("/")
    hidden = parts[0] == "__MACOSX" or parts[-1].startswith(".")
    return not hidden and name.lower().endswith(EXTENSIONS)


class _Again:
    """An iterable that can be read several times: each pass calls `start` for an iterator."""

    def __init__(self, start: Callable[[], Iterator[Any]]):
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        return self._start()


def record_files(path: Path) -> list[Path]:
    """Returns the TFRecord or array_record files that a path names.

    Args:
        path: path of a file; a `*` in it matches several files.

    Returns:
        Sorted paths. Empty if no file matches `*`, or if the name of a file contains neither
        ".tfrecord" nor ".array_record".
    """
    text = str(path)
    found = [path]
    if "*" in text and not path.exists():
        found = sorted(map(Path, glob.glob(text)))
    kinds = (_TFRECORD, _ARRAY_RECORD)
    return found if found and all(any(k in p.name for k in kinds) for p in found) else []


@dataclasses.dataclass(frozen=True)
class Records:
    """Images in TFRecord or array_record files, in the order of the files.

    Each record is an image file, or a `tf.train.Example` that holds one.

    Args:
        files: paths of the files.
        key: name of the image in an example; None: a usual name such as "image/encoded".

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file is of another kind, or a package that reads it is missing.
    """

    files: tuple[Path, ...]
    key: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "files", tuple(map(Path, self.files)))
        for path in self.files:
            if not path.is_file():
                raise FileNotFoundError(f"no file at {path}")
            if not record_files(path):
                raise ValueError(f"{path} must be named *{_TFRECORD}* or *{_ARRAY_RECORD}*")
            is_array = _ARRAY_RECORD in path.name
            package = "array_record" if is_array else "google_crc32c"
            extras.check(package, f"reading {path.name}")

    @property
    def count(self) -> int | None:
        """Number of images; None for TFRecord files, which do not store it."""
        if not all(_ARRAY_RECORD in path.name for path in self.files):
            return None
        return sum(reader.num_records() for reader in map(_array_record, self.files))

    def __iter__(self) -> Iterator[Encoded]:
        for path in self.files:
            for number, record in enumerate(_records_of(path)):
                yield self._image(record, f"{path}, record {number}")

    def _image(self, record: bytes, where: str) -> Encoded:
        if self.key is None and (record.startswith(_SIGNATURES) or record[4:8] == _BOX):
            return Encoded(record, where)
        found = bytes_features(record)
        if self.key is not None and self.key in found:
            return Encoded(found[self.key], where)
        usual = [key for key in _IMAGE_KEYS if key in found]
        if self.key is None and len(usual) == 1:
            return Encoded(found[usual[0]], where)
        has = ", ".join(map(repr, found)) or "nothing"
        raise ValueError(
            f"{where}: which of its features is the image? It has {has}: "
            "metrics.Records(files, key=...)"
        )


def _records_of(path: Path) -> Iterator[bytes]:
    if _ARRAY_RECORD not in path.name:
        yield from read_records(path)
        return
    reader = _array_record(path)
    for number in range(reader.num_records()):
        yield reader.read([number])[0]


def _array_record(path: Path) -> Any:
    module = extras.require("array_record.python.array_record_module", f"reading {path.name}")
    try:
        return module.ArrayRecordReader(str(path))
    except Exception as error:  # the reader raises exceptions of many types
        raise ValueError(f"{path} is not a whole array_record file: {error}") from None
