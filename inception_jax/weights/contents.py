"""Recognises the format of a weight file by its content.

The name decides only where the content is ambiguous. If a file is not a weight file, such as an
HTML page or an archive, the error says what it is.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Literal

from inception_jax.weights import torch_files
from inception_jax.weights.weights_error import WeightsError

Kind = Literal[
    "safetensors", "PyTorch", "pickle", "NumPy archive", "NumPy object", "Keras archive", "HDF5",
    "TensorFlow checkpoint", "TensorFlow archive", "TensorFlow graph", "SavedModel",
    "TensorFlow.js", "Caffe", "shards",
]  # fmt: skip

_HEAD = 1024
_AGAIN = "Download it again"
_JOBLIB = "Save it again without joblib: numpy.savez(NEW, **joblib.load(FILE))"
# First bytes of files without weights, or of formats without a reader here, and the remedy.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x7fELF", "a program", ""),
    (b"MZ", "a Windows program", ""),
    (b"%PDF", "a PDF document", ""),
    (b"\x89PNG", "a PNG image", ""),
    (b"\xff\xd8\xff", "a JPEG image", ""),
    (b"GIF8", "a GIF image", ""),
    (b"GGUF", "a GGUF file of a language model", ""),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it, and give the weight file in it"),
    (b"Rar!", "a RAR archive", "Unpack it, and give the weight file in it"),
    (b"\xfd7zXZ", "an xz archive", "Unpack it, and give the weight file in it"),
    (b"BZh", "a bzip2 archive", "Unpack it, and give the weight file in it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "Unpack it, and give the weight file in it"),
    (b"\x12\x01\x00\x00\x00\x00\x00\x00", "an MXNet file", "Convert it to safetensors with MXNet"),
    (b"\x04\x00\x00\x00\x01\x00\x00\x00", "a Torch7 file", "Convert it to safetensors first"),
)
_TABLE_END = bytes.fromhex("57fb808b247547db")  # of TensorFlow's tables: old checkpoints, .index


def recognise(path: Path) -> Kind:
    """Returns the name of a weight file's format, such as "HDF5".

    Raises:
        WeightsError: if the file has no weights, or its format is not supported. The message says
            what the file is.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read()
    _refuse_others(path, head, size)
    if head[:4] == b"PK\x03\x04" or head[:4] == b"PK\x05\x06":
        return _zip(path)
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "HDF5"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 28:
        return "safetensors"
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        return _tar(path)
    if end == _TABLE_END or _is_checkpoint_part(path):
        return "TensorFlow checkpoint"
    if head.startswith(b"\x93NUMPY"):
        if b"'|O'" in head[:200]:  # a dict, pickled
            return "NumPy object"
        raise _not_weights(path, "a single NumPy array", "Give all arrays by name, as an .npz file")
    if head[0] == 0x80 and head[1] <= 5:
        if b"joblib.numpy_pickle" in head:
            raise _not_weights(path, "a file of joblib, whose arrays lie between pickles", _JOBLIB)
        return "pickle"
    if head[:2] in (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"):
        raise _not_weights(path, "a zlib stream, as of joblib", _JOBLIB)
    if re.match(rb"[\x81-\x8f][\xa0-\xbf\xd9]|\xde..[\xa0-\xbf\xd9]", head, re.DOTALL):
        raise _not_weights(
            path,
            "a msgpack file, as of Flax",
            "Load it with flax.serialization.msgpack_restore, and give the dict",
        )
    if head[:1] in b"{[":
        return _json(path, head)
    if head.startswith(b"model_checkpoint_path:"):
        return "TensorFlow checkpoint"
    if _is_text(head) and not _is_old_pickle(head) and path.suffix != ".pb":
        raise _not_weights(path, "a text", "Give the file of weights")
    return _protobuf(path, head)


def _refuse_others(path: Path, head: bytes, size: int) -> None:
    start = head.lstrip().lower()
    if size == 0:
        raise _not_weights(path, "an empty file", _AGAIN)
    if not any(head):
        raise _not_weights(path, f"a file of {size} bytes that begins with zeros", _AGAIN)
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start[:400]:
        raise _not_weights(
            path, "an HTML page", "The server sent a page in its place: download the file itself"
        )
    if start.startswith((b"<?xml", b"<")) and _is_text(head):
        raise _not_weights(path, "an XML document", "The server sent an answer in its place")
    if head.startswith(b"version https://git-lfs"):
        found = re.search(rb"^size (\d+)", head, re.MULTILINE)
        of = f" of {int(found[1])} bytes" if found else ""
        raise _not_weights(
            path, f"a Git LFS pointer to a file{of}", "Fetch the file with `git lfs pull`"
        )
    if b"annex/objects" in head[:200]:
        raise _not_weights(path, "a git-annex pointer", "Fetch the file with `git annex get`")
    if head[4:8] == b"TFL3":
        raise _not_weights(path, "a TensorFlow Lite program", "Give the weights it was made of")
    for magic, what, remedy in _OTHERS:
        if head.startswith(magic):
            raise _not_weights(path, what, remedy)


def _not_weights(path: Path, what: str, remedy: str) -> WeightsError:
    end = f". {remedy}" if remedy else ""
    return WeightsError(f"{path} is not a weight file, but {what}{end}")


def _zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(
            f"{path} looks like a PyTorch or Keras file, but is incomplete ({error}). Copy or "
            "download it again"
        ) from None
    if torch_files.pickle_in(names):
        return "PyTorch"
    if "model.weights.h5" in names:
        return "Keras archive"
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy archive"
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise _not_weights(
        path, f"a ZIP archive of {shown or 'nothing'}", "Unpack it, and give the weight file in it"
    )


def _tar(path: Path) -> Kind:
    try:
        with tarfile.open(path) as archive:
            names = {Path(name).name for name in archive.getnames()}
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error):
        raise WeightsError(
            f"{path} is not a whole tar archive, or a compressed file of another kind. Unpack it, "
            "or download it again"
        ) from None
    if {"storages", "tensors", "pickle"} <= names:
        raise _not_weights(
            path,
            "a tar archive in PyTorch's format of before 2017, which is not read here",
            "Save it again: torch.save(torch.load(FILE), NEW) with a PyTorch below 2.0",
        )
    return "TensorFlow archive"


def _json(path: Path, head: bytes) -> Kind:
    text = path.read_bytes() if path.stat().st_size < 1 << 26 else head
    if b'"weightsManifest"' in text:
        return "TensorFlow.js"
    if b'"weight_map"' in text:
        return "shards"
    raise _not_weights(
        path, "a JSON text", "Give the weight file that it describes, or download the file again"
    )


def _protobuf(path: Path, head: bytes) -> Kind:
    """Returns the name of the format of a file without magic bytes, such as a protocol buffer.

    Protocol buffers are recognised by their first field. `head` is the beginning of the file.

    Raises:
        WeightsError: if the format is unknown or not supported.
    """
    if path.name.endswith(".meta"):
        return "TensorFlow checkpoint"
    if head[:3] == b"\x08\x01\x12" and path.suffix == ".pb":
        return "SavedModel"
    if head[0] == 0x08:
        raise _not_weights(path, "perhaps an ONNX program", "Give the weights it was made of")
    if head[0] == 0x0A:
        # A graph begins with a node, and the node with its name. A Caffe file begins with the
        # network's name.
        begins_with_node = re.match(rb"\x0a[\x80-\xff]*[\x00-\x7f]\x0a", head) is not None
        is_graph = path.suffix == ".pb" or (path.suffix != ".caffemodel" and begins_with_node)
        return "TensorFlow graph" if is_graph else "Caffe"
    if _is_old_pickle(head):
        return "pickle"
    raise _not_weights(
        path, "a file of a kind that is not known here", "Known are safetensors, PyTorch's, Keras' "
        "and TensorFlow's files, and Caffe's; a damaged one must be downloaded again"
    )  # fmt: skip


def _is_old_pickle(head: bytes) -> bool:
    """Returns whether a file that begins with `head` may be a pickle of protocol 0 or 1.

    These protocols have no magic bytes. Such a pickle begins with a dict, a list or a name such as
    `collections.OrderedDict`.
    """
    return head[:3] in (b"(dp", b"}q\x00", b"(lp", b"cco") or head[:2] == b"}("


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in b"\t\n\r\x0c" for byte in head):
        return False
    try:
        head[: len(head) - 3 if len(head) == _HEAD else None].decode()  # it may be incomplete
    except UnicodeDecodeError:
        return False
    return True


def _is_checkpoint_part(path: Path) -> bool:
    return bool(re.search(r"\.data-\d+-of-\d+$", path.name))
