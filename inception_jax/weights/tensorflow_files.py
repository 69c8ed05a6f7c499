"""TensorFlow checkpoints and frozen graphs as tensors by name."""

from __future__ import annotations

import importlib
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from inception_jax.weights import frozen_graph
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError, damaged, optional_library


def is_checkpoint(path: Path) -> bool:
    """Says whether a path is a checkpoint: one old file, or the beginning of several names."""
    return ".ckpt" in path.name or path.suffix == ".index" or _index(path).is_file()


def exists(path: Path) -> bool:
    """Says whether a checkpoint's files are there."""
    return path.is_file() or _index(path).is_file()


def _index(path: Path) -> Path:
    return path.with_name(f"{path.name}.index")


def read_checkpoint(path: Path) -> Tensors:
    """Reads all variables of a checkpoint, of the format of 2016 or of today's.

    Args:
        path: `inception_v3.ckpt`, or what `model.ckpt.index` and `model.ckpt.data-...` begin with;
            one of these will do too.

    Raises:
        WeightsError: if a file is missing, cut short, or no checkpoint.
    """
    tf = _tensorflow(path)
    try:
        reader = tf.train.load_checkpoint(os.fspath(_prefix(path)))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    # The reader turns its own errors into several kinds by their text.
    except (tf.errors.OpError, ValueError, RuntimeError, TypeError, IndexError) as error:
        raise damaged(path, "TensorFlow checkpoint", error) from None


def read_archive(path: Path) -> Tensors:
    """Reads the checkpoint in a `.tar.gz`, as TF-slim publishes them.

    Raises:
        WeightsError: if the archive is damaged, or holds no checkpoint or several.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
            files = [f for f in Path(folder).rglob("*") if f.is_file() and is_checkpoint(f)]
            found = {_prefix(f) for f in files if f.suffix != ".meta"}
            if len(found) != 1:
                names = ", ".join(sorted(f.name for f in found)) or "none"
                raise WeightsError(f"{path} must hold one checkpoint; it holds {names}")
            return read_checkpoint(found.pop())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise damaged(path, ".tar.gz archive", error) from None


def _prefix(path: Path) -> Path:
    """What the names of a checkpoint's files begin with."""
    is_part = path.suffix == ".index" or path.suffix.startswith(".data-")
    return path.with_suffix("") if is_part else path


def read_graph(path: Path) -> Tensors:
    """Reads the variables that a frozen graph, a `.pb` file, has as constants.

    BatchNorm that was folded into its convolution is taken apart again: a mean of 0, a variance of
    1, and the shift.

    Raises:
        WeightsError: if the file is damaged or another kind of file.
    """
    tf = _tensorflow(path)
    message = importlib.import_module("google.protobuf.message")
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
        tensors = frozen_graph.variables(graph, tf.make_ndarray)
    except (message.DecodeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise damaged(path, "frozen graph", error) from None
    if not tensors:
        raise WeightsError(f"{path} is not a frozen graph of a network: it has no constant kernels")
    return tensors


def _tensorflow(path: Path) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its log: what matters is raised too
    return optional_library("tensorflow", path)
