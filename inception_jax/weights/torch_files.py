"""Reads PyTorch's files and other pickles without PyTorch, and writes PyTorch's files.

No code in a file is executed, see `pickles`. A tensor in a zip file is read only when it is used.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.outputs import atomic_write
from inception_jax.weights import pickles
from inception_jax.weights.pickles import Name, PickleError
from inception_jax.weights.stored import DATA, Storage
from inception_jax.weights.weights_error import WeightsError, damaged, optional_library

ENDINGS = (".pth", ".pt", ".bin")
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_MOST_BYTES = 1 << 30  # largest size of a compressed record after unpacking
_LEGACY_SIZE = struct.Struct("<q")


def read_zip(path: Path) -> Any:
    """Reads a zip file: a TorchScript archive, or a file of `torch.save` in its format since 2020.

    Returns:
        The saved object, made of dicts, lists, `stored.Tensor` and `pickles.Opaque`.

    Raises:
        WeightsError: if the file is damaged.
    """
    try:
        archive = _Archive(path)
        return pickles.load(archive.record("data.pkl"), DATA, archive.persistent)
    except (PickleError, zipfile.BadZipFile, zlib.error, OSError, KeyError, ValueError) as error:
        raise damaged(path, "PyTorch file", error) from None


def pickle_in(names: Iterable[str]) -> str:
    """Returns the name of the entry that holds a zip file's saved object; empty if none does."""
    return next((name for name in names if name.split("/")[1:] == ["data.pkl"]), "")


class _Archive:
    """A PyTorch zip file. Its entries, the records, are all in one folder.

    Attributes:
        zip: the directory of the file.
        folder: name of the records' folder, with a slash at the end.
        storages: storages that the pickle has named so far, by their names.
        content: the bytes of the file, mapped into memory.
    """

    def __init__(self, path: Path):
        self.zip = zipfile.ZipFile(path)
        names = self.zip.namelist()
        self.folder = pickle_in(names).removesuffix("data.pkl")
        self.storages: dict[str, Storage] = {}
        order = f"{self.folder}byteorder"
        with path.open("rb") as file:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if order in names and self.record("byteorder") != b"little":
            raise PickleError("it was written on a big-endian machine: save it again on another")

    def record(self, name: str) -> bytes:
        """Reads a record, and verifies its checksum if it has one.

        Args:
            name: name of the record in the folder, such as "data.pkl".

        Raises:
            PickleError: if the record is missing or damaged.
        """
        info = self.zip.NameToInfo.get(f"{self.folder}{name}")
        if info is None:
            raise PickleError(f"record {name} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
            return self._unpacked(info)
        header = self.content[info.header_offset : info.header_offset + 30]
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise PickleError(f"record {name} is not where the archive says")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        record = self.content[start : start + info.file_size]
        if len(record) < info.file_size or (info.CRC and zlib.crc32(record) != info.CRC):
            raise PickleError(f"record {name} is truncated or changed (its checksum differs)")
        return record

    def _unpacked(self, info: zipfile.ZipInfo) -> bytes:
        """Reads the compressed record that the zip file's directory describes in `info`.

        PyTorch does not compress records; another program has repacked this archive.
        """
        if info.file_size > _MOST_BYTES:
            raise PickleError(f"a record of {info.file_size:,} bytes")
        try:
            return self.zip.read(info)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise PickleError(str(error)) from None

    def persistent(self, key: Any) -> Storage:
        kind, storage_type, name, *_ = key
        if kind != "storage" or not isinstance(name, str):
            raise PickleError("an unknown persistent id")
        if name not in self.storages:
            read = _once(lambda: self.record(f"data/{name}"))
            self.storages[name] = Storage(_kind(storage_type), read)
        return self.storages[name]


def _once(read: Callable[[], bytes]) -> Callable[[], bytes]:
    """Returns a function that calls `read` only once, and returns the same bytes at each call."""
    kept: list[bytes] = []

    def reader() -> bytes:
        if not kept:
            kept.append(read())
        return kept[0]

    return reader


def _kind(storage_type: Any) -> str:
    """Returns the dtype that a storage's class is named after: "float" for `torch.FloatStorage`."""
    if not isinstance(storage_type, Name):
        raise PickleError("a storage without a type")
    return storage_type.name.removesuffix("Storage").lower()


def read_pickle(path: Path) -> Any:
    """Reads a file of `torch.save` from before 2020, or a pickle of NumPy arrays.

    Returns:
        The saved object, made of the same types as in `read_zip`.

    Raises:
        WeightsError: if the file is damaged or not a pickle.
    """
    try:
        # A memory map never reads beyond its end, whatever length a damaged file claims.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            found = pickles.load(whole, DATA)
            return _legacy(whole) if found == LEGACY_MAGIC else found
    except (PickleError, OSError, struct.error, ValueError) as error:
        raise damaged(path, "PyTorch file or other pickle", error) from None


def _legacy(file: Any) -> Any:
    if pickles.load(file, DATA) != _LEGACY_VERSION:
        raise PickleError("an unknown version of PyTorch's old format")
    system = pickles.load(file, DATA)
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise PickleError("it was written on a big-endian machine: save it again on another")
    contents: dict[str, bytes] = {}
    storages: dict[str, Storage] = {}

    def persistent(key: Any) -> Any:
        if key[0] == "module":  # a class of a saved network, with its source code
            return key[1]
        kind, storage_type, root, _, _, view = key
        if kind != "storage":
            raise PickleError("an unknown persistent id")
        if view is not None:
            raise PickleError("a storage that is a part of another: save it again with PyTorch 1.6")
        if root not in storages:
            storages[root] = Storage(_kind(storage_type), lambda: contents[root])
        return storages[root]

    found = pickles.load(file, DATA, persistent)
    for key in pickles.load(file, DATA):
        count = _LEGACY_SIZE.unpack(file.read(_LEGACY_SIZE.size))[0]
        if key not in storages:
            raise PickleError("a storage that no tensor uses")
        size = count * _ITEM_SIZES.get(storages[key].kind, 1)
        contents[key] = file.read(size) if 0 <= size <= len(file) else b""
        if len(contents[key]) != size:
            raise PickleError("it is truncated")
    return found


_ITEM_SIZES = {
    "float": 4, "double": 8, "half": 2, "bfloat16": 2, "long": 8, "int": 4, "short": 2,
    "complexfloat": 8, "complexdouble": 16, "qint32": 4,
}  # fmt: skip


def read_numpy_archive(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an `.npz` file, by name.

    Raises:
        WeightsError: if the file is damaged, or contains Python objects.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, "archive of NumPy arrays", error) from None


def read_numpy_object(path: Path) -> Any:
    """Returns the dict in an `.npy` file: `numpy.save` stores it as a pickled array of one object.

    Raises:
        WeightsError: if the file is damaged, or does not hold exactly one object.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = getattr(np.lib.format, f"read_array_header_{version[0]}_0", None)
            if read is None:
                raise PickleError("an unknown version of NumPy's format")
            read(file)
            found = pickles.load(file.read(), DATA)
    except (PickleError, OSError, ValueError, EOFError) as error:
        raise damaged(path, "NumPy file of a dict", error) from None
    objects = getattr(found, "objects", None)
    if not objects or len(objects) != 1:
        raise WeightsError(f"{path} holds an array of objects, not a dict of arrays by name")
    return objects[0]


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict atomically with `torch.save`.

    Raises:
        WeightsError: if PyTorch is not installed.
    """
    torch = optional_library("torch", path)
    with atomic_write(path) as partial:
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, partial)
