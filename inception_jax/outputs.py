"""Files that are written: refused before any work, and written whole or not at all."""

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
    """Refuses, before any work, a path that could not be written after it.

    Args:
        path: of a file, which may be there.
        endings: one of which the path must have, with their dots; none: any.
        error: the class to raise.
        what: the files, for the message.

    Raises:
        error: for another ending, a folder, or where no file can be written.
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
def whole(path: Path) -> Iterator[Path]:
    """Gives a name to write to; what is complete there takes the place of `path`."""
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield partial
        partial.chmod(0o666 & ~umask())  # safetensors writes for this user alone
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def umask() -> int:
    """Returns the permissions that this process' new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
