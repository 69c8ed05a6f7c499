"""Lists the images in a bucket like `folders.Walk`, from a single listing of all objects."""

from __future__ import annotations

import os
import stat
import types
from typing import Any

from inception_jax import folders
from train import storage


class _Entry:
    """An object in a bucket, with the methods of `os.DirEntry` that `folders.Walk` uses."""

    def __init__(self, folder: str, name: str):
        self.name, self.path = name, f"{folder}/{name}"

    def is_dir(self) -> bool:
        return False

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> Any:
        return types.SimpleNamespace(st_mode=stat.S_IFREG)


class BucketWalk(folders.Walk):
    """Lists the images below a folder of a bucket.

    Args:
        root: path of the folder in the bucket.
        named_from: path of the folder to which paths of skipped files are relative in messages.

    Attributes:
        passed_over: counts of the files skipped so far, by kind.
    """

    def __init__(self, root: str | os.PathLike[str], named_from: str | os.PathLike[str]) -> None:
        super().__init__(root, named_from=named_from)
        self._root = os.fspath(root)
        self._names = [name for name in sorted(storage.sizes(root)) if not name.endswith("/")]

    def subfolders(self, folder: str | os.PathLike[str]) -> list[str]:
        """Returns the sorted names of the subfolders.

        Images are expected only inside subfolders. Files beside them are added to `passed_over`,
        except hidden files.
        """
        found = set()
        for name in self._below(folder):
            first, _, rest = name.partition("/")
            if rest and not first.startswith("."):
                found.add(first)
            elif not rest and not first.startswith("."):
                kind = f"{folders.ending(first)} outside the class folders"
                self._pass_over(kind, _Entry(os.fspath(folder), first))  # pyright: ignore[reportArgumentType]
        return sorted(found)

    def images(self, folder: str | os.PathLike[str], *, recursive: bool = True) -> list[str]:
        """Returns the URLs of the images in a folder, sorted by subfolder and then by name."""
        found = []
        for name in self._below(folder):
            inside, _, last = name.rpartition("/")
            if (inside and not recursive) or any(part[:1] == "." for part in inside.split("/")):
                continue
            entry = _Entry("/".join(filter(None, (os.fspath(folder), inside))), last)
            if self._is_image(entry):  # pyright: ignore[reportArgumentType]
                found.append((inside, entry.path))
        return [path for _, path in sorted(found)]

    def _below(self, folder: str | os.PathLike[str]) -> list[str]:
        start = os.fspath(folder)[len(self._root) :].strip("/")
        start = f"{start}/" if start else ""
        return [name[len(start) :] for name in self._names if name.startswith(start)]
