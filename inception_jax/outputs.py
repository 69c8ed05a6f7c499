"""Writes files atomically, and checks the paths of output files before the work starts."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path


def check_target(
    path: str | os.PathLike[str],
    endings: Collection[str] = (),
    *,
    error: type[Exception] = ValueError,
    what: str = "such files",
) -> Path:
    """Checks that a file can be written, before the work that produces its content.

    Args:
        path: path of the file to write, which may exist already.
        endings: allowed suffixes, with dots; empty: any suffix.
        error: class of the error to raise.
        what: kind of file, in the plural, for the message.

    Returns:
        `path` as a `Path`.

    Raises:
        error: if the suffix is not allowed, the path is a folder, or no file can be written there.
    """
    path = Path(path)
    if endings and path.suffix not in endings:
        raise error(f"{path}: {what} end in {' or '.join(endings)}")
    if path.is_dir():
        raise error(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise error(f"{path}: there is no folder {path.parent}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as problem:
        raise error(f"{path}: cannot write in {path.parent}: {problem.strerror}") from None
    return path


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context manager: yields a temporary path, whose file replaces `path` atomically at the end.

    After an error the temporary file is removed, and `path` is unchanged.
    """
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield partial
        partial.chmod(0o666 & ~umask())  # safetensors creates files that only their owner can read
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def umask() -> int:
    """Returns the umask: the permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
