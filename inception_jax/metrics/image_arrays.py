"""Reads images from NumPy files: `.npy`, and the array `arr_0` that samplers write to `.npz`."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

_CHUNK = 1 << 24  # bytes of images read at once


class StoredImages:
    """An array of images in a file. Iterating over it reads the array in chunks.

    Args:
        path: path of the file, `.npy` or `.npz`.
        name: name of the array in an `.npz` file; None for an `.npy` file.

    Attributes:
        shape: shape of the array.
        dtype: dtype of the array.

    Raises:
        ValueError: if the file is damaged, or holds Python objects.
    """

    def __init__(self, path: Path, name: str | None = None):
        self.path = path
        self._member = name and f"{name}.npy"
        try:
            with self._open() as file:
                self.shape, self._by_column, self.dtype = _header(file)
        except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged or holds no array: {error}") from None
        if self.dtype.hasobject:
            raise ValueError(f"{path} holds Python objects instead of numbers")

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields chunks [m, h, w, c] of the array.

        Raises:
            ValueError: if the file ends too early.
        """
        if self._by_column:  # the file does not hold one image after another
            yield self._all()
            return
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self._open() as file:
            _header(file)
            left = self.shape[0]
            while left:
                count = min(left, max(_CHUNK // max(size, 1), 1))
                data = file.read(count * size)
                if len(data) < count * size:
                    raise ValueError(f"{self.path} ends before its last image")
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
                left -= count

    def _all(self) -> np.ndarray:
        with self._open() as file:
            return np.load(file, allow_pickle=False)

    @contextlib.contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if self._member is None:
            with self.path.open("rb") as file:
                yield file
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as file:
                yield file


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"unknown version {version[0]}.{version[1]} of NumPy's file format")
    return read[version](file)
