"""Lists the images of a folder, for all parts of the library and of the training programme.

Images are regular files with the suffix of an image format. Other files are skipped and counted,
except hidden files and folders, which are skipped silently. Links to folders are followed, except
links into the folder that is being read or to a parent of it: through such a link, files would be
read twice.
"""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import features

from inception_jax.images import EXTENSIONS
from inception_jax.notes import Counts

_READ_ALREADY = "link to a folder that is read already"
_HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")
_JPEG2000 = (".j2c", ".j2k", ".jp2", ".jpf", ".jpx")


class Listing(NamedTuple):
    """The images of a folder.

    Attributes:
        images: paths of the images, sorted by folder and then by name.
        passed_over: counts of the skipped files and links, by kind.
    """

    images: list[str]
    passed_over: Counts


def image_files(
    folder: str | os.PathLike[str],
    *,
    endings: Collection[str] = EXTENSIONS,
    recursive: bool = True,
    match_case: bool = False,
    hidden: bool = False,
) -> Listing:
    """Lists the images of a folder, sorted by folder and then by name.

    Broken links with the suffix of an image are listed too, so that reading them raises an error.

    Args:
        folder: path of an existing folder.
        endings: suffixes of images, in lower case, with dots.
        recursive: whether to list the images of subfolders too.
        match_case: whether suffixes are matched case-sensitively.
        hidden: whether to list hidden images too. Hidden folders are always skipped.

    Raises:
        OSError: if a folder cannot be read.
    """
    walk = Walk(folder, endings, match_case=match_case, hidden=hidden)
    return Listing(walk.images(folder, recursive=recursive), walk.passed_over)


class Walk:
    """Lists the images of folders inside one root. Each folder is read at most once.

    Args:
        root: folder that contains all folders to list.
        endings: see `image_files`.
        named_from: folder to which paths in `passed_over` are relative; None: the root.
        match_case: see `image_files`.
        hidden: see `image_files`.

    Attributes:
        passed_over: counts of the files and links skipped so far, by kind.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        endings: Collection[str] = EXTENSIONS,
        *,
        named_from: str | os.PathLike[str] | None = None,
        match_case: bool = False,
        hidden: bool = False,
    ) -> None:
        self.passed_over = Counts()
        self._named_from = os.fspath(named_from or root)
        self._real_root = os.path.realpath(root)
        self._missing = _missing_readers()
        self._endings = frozenset(endings)
        self._match_case = match_case
        self._hidden = hidden
        self._seen: set[tuple[int, int]] = set()

    def subfolders(self, folder: str | os.PathLike[str]) -> list[str]:
        """Returns the sorted names of the subfolders.

        Images are expected only inside subfolders. Files beside them are added to `passed_over`,
        except hidden files.
        """
        names = []
        for entry in _scan(os.fspath(folder)):
            if self._is_folder(entry):
                names.append(entry.name)
            elif not _leads_to_folder(entry) and not entry.name.startswith("."):
                self._pass_over(f"{ending(entry.name)} outside the class folders", entry)
        return sorted(names)

    def images(self, folder: str | os.PathLike[str], *, recursive: bool = True) -> list[str]:
        """Returns the paths of the images in a folder, sorted by folder and then by name."""
        folders = sorted(self._walk(os.fspath(folder), recursive))
        return [path for _, files in folders for path in sorted(files)]

    def _walk(self, folder: str, recursive: bool) -> Iterator[tuple[str, list[str]]]:
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in self._seen:
                self.passed_over.add(_READ_ALREADY, os.path.relpath(folder, self._named_from))
                continue
            self._seen.add((status.st_dev, status.st_ino))
            files = []
            for entry in _scan(folder):
                if _leads_to_folder(entry):
                    if recursive and self._is_folder(entry):
                        waiting.append(entry.path)
                elif self._is_image(entry):
                    files.append(entry.path)
            yield folder, files

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        if not _leads_to_folder(entry) or entry.name.startswith("."):
            return False
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if _holds(self._real_root, target) or _holds(target, self._real_root):
                self._pass_over(_READ_ALREADY, entry)
                return False
        return True

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        own = ending(entry.name)
        known = own if self._match_case else own.lower()
        hidden = entry.name.startswith(".")
        if hidden and not (self._hidden and known in self._endings):
            return False
        if known not in self._endings:
            self._pass_over(own, entry)
        elif known in self._missing:
            self._pass_over(f"{own}, which need {self._missing[known]}", entry)
        elif not _may_be_regular(entry):
            self._pass_over("not a regular file", entry)
        else:
            return True
        return False

    def _pass_over(self, kind: str, entry: os.DirEntry[str]) -> None:
        self.passed_over.add(kind, os.path.relpath(entry.path, self._named_from))


def passed_over_note(folder: object, read: int, passed_over: Counts) -> str | None:
    """Returns a message with the number of skipped files; None if no file was skipped.

    Args:
        folder: name of the folder, for the message.
        read: number of files that were read.
        passed_over: counts of the skipped files.
    """
    if not passed_over.total:
        return None
    total = read + passed_over.total
    return f"{folder}: {passed_over.total} of {total} files are skipped: {passed_over}"


def _scan(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def ending(name: str) -> str:
    """Returns a file name's suffix with its dot, or "without an ending" if it has no suffix."""
    _, dot, ending = name.rpartition(".")
    return dot + ending if ending and dot else "without an ending"


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or through a folder that cannot be read
        return False


def _may_be_regular(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a regular file or a broken link."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return entry.is_symlink()


def _holds(outer: str, inner: str) -> bool:
    """Returns whether `outer` is `inner` or a parent of it. Both paths must be free of links."""
    return Path(inner).is_relative_to(outer)


def _missing_readers() -> dict[str, str]:
    """Returns what has to be installed, as text, by each image suffix that cannot be read here."""
    missing: dict[str, str] = {}
    if importlib.util.find_spec("pillow_heif") is None:
        missing |= dict.fromkeys(_HEIF, "pillow-heif: pip install 'inception-jax[heif]'")
    if not features.check("avif"):
        missing[".avif"] = "a Pillow with AVIF"
    if not features.check("jpg_2000"):
        missing |= dict.fromkeys(_JPEG2000, "a Pillow with JPEG 2000")
    if not features.check("webp"):
        missing[".webp"] = "a Pillow with WebP"
    return missing
