"""Files on a disk or in a bucket: the one place that knows how the two differ.

Elsewhere a path is a path: `place` makes a `pathlib.Path` of a local one, and of gs://... and
s3://... what etils.epath makes of it, which has the methods of pathlib and reads and writes through
fsspec. What pathlib can do and a bucket cannot is here.

A bucket has no folders, no renaming and no appending, but an object appears whole or not at all,
can be created only if it is absent, and deleted only if it is still the one that was read.
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

# epath prefers TensorFlow where it is installed, whose own readers of buckets are gone. It asks
# once, for the first path of anyone.
os.environ.setdefault("EPATH_USE_TF", "false")

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_SECONDS_BETWEEN_UPLOADS = 10.0  # Google takes one change of an object a second


def place(text: str | os.PathLike[str]) -> Path:
    """Returns the path of a file or folder, local or in a bucket.

    Raises:
        UsageError: for an address of another kind, or if what reads it is not installed.
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
    """Says whether a path is in a bucket."""
    return "://" in os.fspath(path)


def absolute(path: Path) -> Path:
    """Returns a path that does not depend on the current folder."""
    return path if is_remote(path) else path.absolute()


def filesystem(path: str | os.PathLike[str]) -> Any:
    """Returns fsspec's file system of a path in a bucket."""
    _prepare()
    import fsspec

    return fsspec.filesystem(os.fspath(path).partition("://")[0])


def matches(folder: Path, pattern: str) -> list[Path]:
    """Returns what is in a folder, by a pattern as of `Path.glob`; nothing if there is none."""
    try:
        return list(folder.glob(pattern))
    except FileNotFoundError:  # not even the bucket
        return []


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns what an object in a bucket holds."""
    return filesystem(path).cat_file(os.fspath(path))


def sizes(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Returns the sizes of all objects below a folder in a bucket, by their path below it."""
    found = filesystem(folder).find(os.fspath(folder), detail=True)
    start = len(os.fspath(folder).partition("://")[2].rstrip("/")) + 1
    return {name[start:]: info["size"] for name, info in found.items()}


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a local path to write to. That file replaces `path`; after an error it is deleted."""
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
    """Yields a local path with what a file holds, for libraries that read local files."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        filesystem(path).get_file(str(path), str(copy))
        yield copy


def create(path: Path, text: str) -> bool:
    """Creates a file unless it exists; of several that try, one succeeds.

    Returns:
        Whether it did.
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
    """Sets the time of change of a file that holds a text."""
    if is_remote(path):
        filesystem(path).pipe_file(str(path), text.encode())
    else:
        os.utime(path)


def changed(path: Path) -> float:
    """Returns a file's time of change, in seconds, by the clock of where it is.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if is_remote(path):
        return filesystem(path).modified(str(path)).timestamp()
    with path.open("rb") as file:  # opening asks the server, where looking may not
        return os.fstat(file.fileno()).st_mtime


def remove_if(path: Path, expected: Callable[[str], bool]) -> bool:
    """Deletes an object in a bucket if it still holds what is expected; returns whether it did."""
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
    except Exception as error:  # gcsfs's HttpError, which has no base of its own
        if getattr(error, "code", None) == 412:  # changed meanwhile
            return False
        raise
    return True


def move(path: Path, target: Path) -> None:
    """Moves a folder."""
    if not is_remote(path):
        shutil.move(path, target)
        return
    system = filesystem(path)
    for name in sizes(path):
        system.cp_file(f"{path}/{name}", f"{target}/{name}")
    system.rm(str(path), recursive=True)


class Log:
    """A text file that grows line by line.

    In a bucket it is written as a whole, every ten seconds at most and at `flush`.

    Args:
        path: of the file, which exists.
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
        """Writes what is not written yet."""
        if is_remote(self._path) and self._uploaded < len(self._text):
            filesystem(self._path).pipe_file(str(self._path), self._text.encode())
            self._uploaded, self._time = len(self._text), time.monotonic()


class Mirror:
    """A local folder for a library that knows no buckets; its files are uploaded at `flush`.

    Args:
        path: the folder that is meant. A local one is used itself.
    """

    def __init__(self, path: Path):
        self._path = path
        self._uploaded: dict[str, int] = {}
        self.folder = _temporary_of(path) if is_remote(path) else path

    def flush(self) -> None:
        """Uploads what has grown."""
        if not is_remote(self._path):
            return
        for file in filter(Path.is_file, self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if self._uploaded.get(name) != (size := file.stat().st_size):
                _upload(file, self._path / name)
                self._uploaded[name] = size

    def close(self) -> None:
        """Uploads the rest and deletes the local files."""
        if is_remote(self._path):
            try:
                self.flush()
            finally:
                shutil.rmtree(self.folder)


def _temporary_of(path: Path) -> Path:
    """Makes an empty local folder for a folder in a bucket, the same one every time.

    So a run that resumes removes what the one before left when it was killed.
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
    """Sets what fsspec reads when a file system is first used."""
    import fsspec.config

    for scheme in ("gs", "gcs", "s3"):
        # Several processes write: what was listed before says nothing.
        fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
