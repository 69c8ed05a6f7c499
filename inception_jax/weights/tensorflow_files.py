"""Reads the variables of TensorFlow checkpoints, frozen graphs and SavedModels."""

from __future__ import annotations

import collections
import importlib
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

from inception_jax.weights import frozen_graph
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError, damaged, optional_library

_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = ".OPTIMIZER_SLOT"


def is_checkpoint(path: Path) -> bool:
    """Returns whether a file's name is that of a checkpoint in the old or the current format."""
    return ".ckpt" in path.name or path.suffix == ".index"


def exists(path: Path) -> bool:
    """Returns whether a path is the prefix of a checkpoint's files, such as `model.ckpt`."""
    return _index(path).is_file()


def _index(path: Path) -> Path:
    return path.with_name(f"{path.name}.index")


def read_checkpoint(path: Path) -> Tensors:
    """Reads all variables of a checkpoint, in the single-file format of 2016 or the current one.

    Keras and TensorFlow 2 store a variable under the path of its object. In the result, such a
    variable has its original name, if the file states this name and it is unique.

    Args:
        path: path of a single file, such as `inception_v3.ckpt`; of one of the files
            `model.ckpt.index` and `model.ckpt.data-...`, or their prefix `model.ckpt`; or of the
            text file `checkpoint`, which names the newest checkpoint.

    Returns:
        The variables by name.

    Raises:
        WeightsError: if a file is missing, truncated, or not a checkpoint.
    """
    tf = _tensorflow(path)
    prefix = _newest(path) if path.name == "checkpoint" else _prefix(path)
    if not prefix.is_file() and not exists(prefix):
        raise WeightsError(f"{path} belongs to a checkpoint of which {_index(prefix)} is missing")
    try:
        reader = tf.train.load_checkpoint(os.fspath(prefix))
        shapes = reader.get_variable_to_shape_map()
        names = _object_names(reader) if _OBJECTS in shapes else {}
        return {
            names.get(name) or str(name).removesuffix(_VALUE): reader.get_tensor(name)
            for name in shapes
            if name != _OBJECTS and name != "save_counter/.ATTRIBUTES/VARIABLE_VALUE"
        }
    # TensorFlow's reader raises errors of several classes.
    except (tf.errors.OpError, ValueError, RuntimeError, TypeError, IndexError) as error:
        raise damaged(path, "TensorFlow checkpoint", error) from None


def _object_names(reader: Any) -> dict[str, str]:
    """Maps stored paths of TensorFlow 2's variables to their original names, where unique.

    `reader` is TensorFlow's reader of the checkpoint.
    """
    protobuf = importlib.import_module("tensorflow.core.protobuf.trackable_object_graph_pb2")
    graph = protobuf.TrackableObjectGraph.FromString(reader.get_tensor(_OBJECTS))
    pairs = [
        (attribute.checkpoint_key, attribute.full_name)
        for node in graph.nodes
        for attribute in node.attributes
        if attribute.full_name and _SLOT not in attribute.checkpoint_key
    ]
    counts = collections.Counter(name for _, name in pairs)
    return {key: name for key, name in pairs if counts[name] == 1}


def _newest(path: Path) -> Path:
    """Returns the path of the newest checkpoint, which the text file `checkpoint` names."""
    found = re.search(r'^model_checkpoint_path: "(.+)"', path.read_text(), re.MULTILINE)
    if not found:
        raise WeightsError(f"{path} names no checkpoint")
    return path.with_name(Path(found[1]).name)


def read_archive(path: Path) -> Tensors:
    """Reads the variables of the checkpoint, frozen graph or SavedModel in a `.tar.gz` archive.

    Returns:
        The variables by name.

    Raises:
        WeightsError: if the archive is damaged, or does not contain exactly one network.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, tarfile.open(path) as archive:
            _unpack(archive, Path(folder).resolve())
            files = [f for f in Path(folder).rglob("*") if f.is_file()]
            saved = [f for f in files if f.name == "saved_model.pb"]
            if len(saved) == 1:
                return read_saved_model(saved[0])
            found = {_prefix(f) for f in files if is_checkpoint(f) and f.suffix != ".meta"}
            graphs = [f for f in files if f.suffix == ".pb"]
            if not found and len(graphs) == 1:
                return read_graph(graphs[0])
            if len(found) != 1:
                names = ", ".join(sorted(f.name for f in found or files)) or "nothing"
                raise WeightsError(
                    f"{path} must hold one checkpoint of TensorFlow; it holds {names}. Unpack it, "
                    "and give the weight file in it"
                )
            return read_checkpoint(found.pop())
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise damaged(path, ".tar.gz archive", error) from None


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Writes the regular files of an archive below `folder`; links and devices are left out.

    Unlike `extractall` with a filter, it works in Python 3.11.3 and older too.

    Raises:
        tarfile.TarError: for a file outside the folder.
    """
    for member in archive:
        contents = archive.extractfile(member) if member.isfile() else None
        if contents is None:
            continue
        path = (folder / member.name).resolve()
        if not path.is_relative_to(folder):
            raise tarfile.TarError(f"{member.name} would be written outside the archive's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with contents, path.open("wb") as file:
            shutil.copyfileobj(contents, file)


def _prefix(path: Path) -> Path:
    """Returns the prefix of a checkpoint's files, given one of them."""
    is_part = path.suffix in (".index", ".meta") or path.suffix.startswith(".data-")
    return path.with_suffix("") if is_part else path


def read_saved_model(path: Path) -> Tensors:
    """Reads the variables of a SavedModel; if it is frozen, the constants of its graph.

    Args:
        path: path of the file `saved_model.pb`.

    Returns:
        The variables or constants by name.

    Raises:
        WeightsError: if the SavedModel is damaged or has no variables.
    """
    variables = path.parent / "variables" / "variables"
    if exists(variables):
        return read_checkpoint(variables)
    return _graph(path, is_saved_model=True)


def read_graph(path: Path) -> Tensors:
    """Reads the variables, by name, of a frozen graph: a `.pb` file that has them as constants.

    If a convolution's BatchNorm was folded, the result contains a new BatchNorm with a mean of 0
    and a variance of 1, which applies the scale and shift that follow the convolution in the graph.

    Raises:
        WeightsError: if the file is damaged or is no frozen graph of a network.
    """
    return _graph(path, is_saved_model=False)


def _graph(path: Path, is_saved_model: bool) -> Tensors:
    tf = _tensorflow(path)
    message = importlib.import_module("google.protobuf.message")
    try:
        content = path.read_bytes()
        if is_saved_model:
            protobuf = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2")
            graph = protobuf.SavedModel.FromString(content).meta_graphs[0].graph_def
        else:
            graph = tf.compat.v1.GraphDef.FromString(content)
        tensors = frozen_graph.variables(graph, tf.make_ndarray)
    except (message.DecodeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise damaged(path, "frozen graph", error) from None
    if not tensors:
        raise WeightsError(f"{path} is not a frozen graph of a network: it has no constant kernels")
    return tensors


def _tensorflow(path: Path) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # important problems raise errors
    return optional_library("tensorflow", path)
