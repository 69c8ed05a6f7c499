"""Files on a disk or in a bucket, with the same functions for both where possible.

`place` returns a `pathlib.Path` for a local path. For gs://... and s3://... it returns a path of
`etils.epath`, which has the same methods and reads and writes through fsspec. This module replaces
the operations of pathlib that do not work in a bucket.

A bucket has no folders, and cannot rename or append. But every write is atomic, and there are
conditional writes: an object can be created only if it does not exist, or deleted only if it is
unchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from inception_jax import extras, outputs
from train.errors import UsageError

# If TensorFlow is installed, epath uses it by default, but TensorFlow no longer reads buckets.
# epath reads this variable only once, at the first path in the process.
os.environ.setdefault("EPATH_USE_TF", "false")

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_SECONDS_BETWEEN_UPLOADS = 10.0  # Google allows one change of an object a second


def place(text: str | os.PathLike[str]) -> Path:
    """Returns the path of a file or folder, local or in a bucket.

    Raises:
        UsageError: for an unknown scheme, for a URL without the name of a bucket, or if the package
            that reads the bucket is not installed.
    """
    text = os.fspath(text)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(text)
    if scheme not in _PACKAGES or not rest.partition("/")[0]:
        raise UsageError(
            f"{text}: a local path, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER is needed"
        )
    extras.check(_PACKAGES[scheme], f"{scheme}://", UsageError)
    _prepare()
    from etils import epath

    return cast(Path, epath.Path(text))


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is in a bucket."""
    return "://" in os.fspath(path)


def absolute(path: Path) -> Path:
    """Returns a path that does not depend on the current folder; paths in a bucket are kept."""
    return path if is_remote(path) else path.absolute()


def filesystem(path: str | os.PathLike[str]) -> Any:
    """Returns the fsspec file system for a path in a bucket."""
    _prepare()
    import fsspec

    return fsspec.filesystem(os.fspath(path).partition("://")[0])


def matches(folder: Path, pattern: str) -> list[Path]:
    """Returns the paths that match a pattern, like `Path.glob`; [] if the folder is missing."""
    try:
        return list(folder.glob(pattern))
    except FileNotFoundError:  # the bucket is missing too
        return []


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the content of an object in a bucket."""
    return filesystem(path).cat_file(os.fspath(path))


def sizes(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Returns the sizes in bytes of all objects in a folder of a bucket, by relative path."""
    found = filesystem(folder).find(os.fspath(folder), detail=True)
    start = len(os.fspath(folder).partition("://")[2].rstrip("/")) + 1
    return {name[start:]: info["size"] for name, info in found.items()}


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a local path to write to.

    If the `with` block succeeds, the written file replaces `path`, which may be in a bucket,
    atomically. Otherwise the written file is deleted.
    """
    if not is_remote(path):
        with outputs.atomic_write(path) as partial:
            yield partial
        return
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder, path.name)
        yield partial
        _upload(partial, path)


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yields a local path with the content of a file, for libraries that only read local files.

    A file in a bucket is copied to a temporary file, which is deleted after the `with` block.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        filesystem(path).get_file(str(path), str(copy))
        yield copy


def create(path: Path, text: str) -> bool:
    """Creates a file with the content `text`, unless the file exists.

    If several processes call this at the same time, exactly one of them creates the file.

    Returns:
        Whether this call created the file.
    """
    if is_remote(path):
        try:
            filesystem(path).pipe_file(str(path), text.encode(), mode="create")
        except FileExistsError:
            return False
        return True
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "w") as file:
            file.write(text)
    except OSError:  # a full disk
        path.unlink(missing_ok=True)
        raise
    return True


def touch(path: Path, text: str) -> None:
    """Sets the modification time of a file to now.

    In a bucket, this writes the file again. `text` must be the content of the file.
    """
    if is_remote(path):
        filesystem(path).pipe_file(str(path), text.encode())
    else:
        os.utime(path)


def changed(path: Path) -> float:
    """Returns a file's modification time in seconds, by the clock of its disk, server or bucket.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if is_remote(path):
        return filesystem(path).modified(str(path)).timestamp()
    with path.open("rb") as file:  # asks a file server; `stat` might use a cache
        return os.fstat(file.fileno()).st_mtime


def remove_if(path: Path, expected: Callable[[str], bool]) -> bool:
    """Deletes an object in a bucket if `expected` returns True for its text.

    On Google Cloud Storage, an object that changes after it was read is not deleted.

    Returns:
        Whether the object was deleted; False if there is no such object.
    """
    system = filesystem(path)
    try:
        info = system.info(str(path))
        if not expected(read_bytes(path).decode(errors="replace")):
            return False
        if str(path).startswith("gs://"):
            bucket, _, key = str(path).removeprefix("gs://").partition("/")
            generation = {"ifGenerationMatch": info["generation"]}
            system.call("DELETE", "b/{}/o/{}", bucket, key, **generation)
        else:
            system.rm_file(str(path))
    except FileNotFoundError:
        return False
    except Exception as error:  # gcsfs's HttpError has no more specific base class
        if getattr(error, "code", None) == 412:  # changed meanwhile
            return False
        raise
    return True


def move(path: Path, target: Path) -> None:
    """Moves a folder to the path `target`, which must not exist yet.

    In a bucket, this copies all objects and then deletes the old ones.
    """
    if not is_remote(path):
        shutil.move(path, target)
        return
    system = filesystem(path)
    for name in sizes(path):
        system.cp_file(f"{path}/{name}", f"{target}/{name}")
    system.rm(str(path), recursive=True)


class Log:
    """A text file that grows line by line.

    In a bucket, lines are buffered. `flush` writes the whole file again. So does `append` if ten
    seconds have passed since the last write.

    Args:
        path: path of an existing file.
    """

    def __init__(self, path: Path):
        self._path = path
        self._text = path.read_text() if is_remote(path) else ""
        self._uploaded, self._time = len(self._text), time.monotonic()

    def append(self, line: str) -> None:
        """Adds a line."""
        if not is_remote(self._path):
            with self._path.open("a") as file:
                file.write(line + "\n")
            return
        self._text += line + "\n"
        if time.monotonic() - self._time > _SECONDS_BETWEEN_UPLOADS:
            self.flush()

    def flush(self) -> None:
        """Writes the buffered lines."""
        if is_remote(self._path) and self._uploaded < len(self._text):
            filesystem(self._path).pipe_file(str(self._path), self._text.encode())
            self._uploaded, self._time = len(self._text), time.monotonic()


class Mirror:
    """A folder for a library that can only write local files.

    The library writes to `folder`. If `path` is in a bucket, `folder` is a temporary folder, and
    `flush` uploads its files to `path`. Otherwise `folder` is `path`, and `flush` and `close` do
    nothing.

    Args:
        path: path of the target folder, local or in a bucket.
    """

    def __init__(self, path: Path):
        self._path = path
        self._uploaded: dict[str, int] = {}
        self.folder = _temporary_of(path) if is_remote(path) else path

    def flush(self) -> None:
        """Uploads new files, and files whose size has changed since they were uploaded."""
        if not is_remote(self._path):
            return
        for file in filter(Path.is_file, self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if self._uploaded.get(name) != (size := file.stat().st_size):
                _upload(file, self._path / name)
                self._uploaded[name] = size

    def close(self) -> None:
        """Uploads as `flush` does, and deletes the temporary folder."""
        if is_remote(self._path):
            try:
                self.flush()
            finally:
                shutil.rmtree(self.folder)


def _temporary_of(path: Path) -> Path:
    """Creates an empty local folder for the folder `path` in a bucket; returns the local path.

    The local path depends only on the user and on `path`. So a resumed run finds the local folder
    of a killed run, and deletes the files in it.
    """
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    user = getattr(os, "getuid", lambda: 0)()
    folder = Path(tempfile.gettempdir(), f"inception_jax-{user}-{digest}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _upload(file: Path, target: Path) -> None:
    filesystem(target).put_file(str(file), str(target))


def _prepare() -> None:
    """Disables fsspec's cache of listings for buckets, unless the user has configured it."""
    import fsspec.config

    for scheme in ("gs", "gcs", "s3"):
        # Several processes write, so a cached listing may be outdated.
        fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
