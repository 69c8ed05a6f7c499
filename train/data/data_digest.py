"""Computes fingerprints of image sources, with which a resumed run detects changed images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from train import storage
from train.data.datasets import ArraySource, Source, SubsetSource
from train.data.image_folder import FolderSource
from train.data.tfds_source import TfdsSource

_THREADS = 16  # a network file system answers many requests at once


def fingerprint(source: Source) -> dict[str, Any]:
    """Returns a fingerprint of the images of a source, without reading encoded images.

    The digest covers, by kind of source:

    - a folder: the classes, and the labels, names and sizes of the files;
    - arrays: the pixels and the labels;
    - a TFDS data set: its version, its split, and the names and sizes of its files.

    Args:
        source: source of the images.

    Returns:
        A dict with `images`, the number of images; `by_class`, the number of images of each class,
        only for folders and arrays; and `digest`, a SHA-256 in hexadecimal, or None for a kind of
        source that is not listed above.
    """
    images: dict[str, Any] = {"images": len(source)}
    if isinstance(source, FolderSource):
        return images | _files(source, range(len(source)))
    if isinstance(source, SubsetSource) and isinstance(source.source, FolderSource):
        return images | _files(source.source, source.indices.tolist())
    if isinstance(source, ArraySource):
        digest = hashlib.sha256(np.ascontiguousarray(source.images).data)
        digest.update(np.ascontiguousarray(source.labels).data)
        counts = np.bincount(source.labels).tolist()
        return images | {"by_class": counts, "digest": digest.hexdigest()}
    if isinstance(source, TfdsSource):
        return images | _records(source)
    return images | {"digest": None}


def _files(source: FolderSource, indices: Sequence[int]) -> dict[str, Any]:
    chosen = np.asarray(indices, np.int64)
    labels = np.searchsorted(source.starts, chosen, side="right") - 1
    names = b"\0".join(source.file(i) for i in indices)
    digest = hashlib.sha256(repr(source.classes).encode())
    for part in (labels.astype(np.int32).tobytes(), names, _sizes(source, chosen, labels)):
        digest.update(part)
    counts = np.bincount(labels, minlength=len(source.classes)).tolist()
    return {"by_class": counts, "digest": digest.hexdigest()}


def _sizes(source: FolderSource, indices: np.ndarray, labels: np.ndarray) -> bytes:
    """Returns the sizes of image files as the bytes of an int64 array, for the digest.

    The size of a file that cannot be found is -1.

    Args:
        source: source of the images.
        indices: indices [n] of the images in the source.
        labels: labels [n] of these images. A label gives the class folder, and thus the file's
            path.
    """
    if storage.is_remote(source.root):
        return _object_sizes(source, indices, labels)
    root = Path(source.root) if source.split == "." else Path(source.root, source.split)
    folders = [os.fsencode(root / name) + b"/" for name in source.classes]

    def sizes(part: tuple[np.ndarray, np.ndarray]) -> list[int]:
        return [
            _size(folders[label] + source.file(index))
            for index, label in zip(*(array.tolist() for array in part), strict=True)
        ]

    parts = zip(np.array_split(indices, _THREADS), np.array_split(labels, _THREADS), strict=True)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = [size for part in pool.map(sizes, parts) for size in part]
    return np.array(found, np.int64).tobytes()


def _object_sizes(source: FolderSource, indices: np.ndarray, labels: np.ndarray) -> bytes:
    root = source.root if source.split == "." else f"{source.root}/{source.split}"
    known = storage.sizes(root)
    found = [
        known.get(f"{source.classes[label]}/{os.fsdecode(source.file(index))}", -1)
        for index, label in zip(indices.tolist(), labels.tolist(), strict=True)
    ]
    return np.array(found, np.int64).tobytes()


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a broken link, which is reported when it is read
        return -1


def _records(source: TfdsSource) -> dict[str, Any]:
    found = (path for path in Path(source.folder).iterdir() if path.is_file())
    files = sorted((path.name, path.stat().st_size) for path in found)
    described = repr((Path(source.folder).name, source.split, files))
    return {"digest": hashlib.sha256(described.encode()).hexdigest()}
