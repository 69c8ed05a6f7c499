"""Loads weights from a file or mapping into a network, completely or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from inception_jax.nn.model import Model
from inception_jax.weights import fit, numbers, torch_names
from inception_jax.weights.prefixes import listed
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weight_file import Source, WeightFile, open_weights, spec_of
from inception_jax.weights.weights_error import WeightsError


def load_weights(
    model: Model, source: Source | WeightFile, head: bool = True, skip: Sequence[str] = ()
) -> None:
    """Replaces all parameters and running statistics of a model, or none if it raises an error.

    Files are recognised by their content:

    - files of `save_weights`, and state dicts of `reference_torch`;
    - PyTorch files of torchvision, timm, sail-sg, Cadene, facenet-pytorch and pytorch-fid;
    - Keras' InceptionV3, InceptionResNetV2 and Xception, also in the format of TensorFlow.js;
    - checkpoints and graphs of TF-slim, FaceNet and DeepLab;
    - Caffe's GoogLeNet.

    The network may be inside a training checkpoint: dicts are searched under any key, prefixes of
    names are removed, and optimiser state is ignored. If there is a moving average of the weights,
    it is used. A warning names the dict that was used, unless it has the only network and a common
    key. A classifier of one linear layer is found under any name.

    Two kinds of tensors are ignored: auxiliary heads that the model was built without, and the
    background class of a classifier of 1001 classes.

    Two differences cause a warning. If the model's images do not have three channels, the kernel of
    the first convolution is adapted to them. If the file of a face network has no classifier, the
    model keeps its own.

    A file of `save_weights` that is loaded completely also sets `model.info`, `model.classes` and
    `model.training`.

    Args:
        model: built by `create_model`.
        source: one of these:
            a file in the format of safetensors, PyTorch, Keras, TensorFlow (a checkpoint, a graph,
            a SavedModel), TensorFlow.js or Caffe, or a pickle or `.npz` of NumPy arrays;
            a folder with one such file;
            `FILE#NAME`, for one of several networks in a file;
            a mapping of names to arrays or tensors, which may be nested like a training checkpoint;
            True, for the published file of the model's tag, see `create_model`.
            No code in a file is executed.
        head: load the classifiers too. False: the model keeps its own classifiers, for example
            because it has another number of classes, and the file's classifiers are skipped. If the
            file has a head of another kind, its tensors are skipped with a warning.
        skip: paths of modules that keep their values, such as "AuxLogits" or "Mixed_7c". The
            source's tensors for these modules are ignored.

    Raises:
        WeightsError: if a tensor is missing, unexpected, of the wrong shape or not finite; if a
            variance is negative; if the layout needs a network with other options; if it is not
            clear which of several networks in the source is meant; or if the file cannot be read.
        FileNotFoundError: if there is no such file.
        ValueError: if a path in `skip` is not a module of the model.
    """
    unknown = [path for path in skip if path not in (*model.layer_order, *model.aux_names)]
    if unknown:
        raise ValueError(f"skip: the network has no module {', '.join(unknown)}")
    file, tensors, notes = _translated(model, source)
    headless = head and model.num_classes > 0 and file.lacks_head(model)
    whole = head and not headless and not skip
    # A network without classes needs no classifier: the file's is skipped without a note.
    unwanted = () if model.num_classes else model.classifiers
    asked = tuple(f"{path}." for path in (*skip, *unwanted))
    if headless or not head or not model.num_classes:
        skip = (*skip, *model.classifiers)
    if model.classifiers[0] in skip and not headless:
        notes = [note for note in notes if not note.startswith("the classifier is")]
        others = file.other_head(tensors, model)
        left_out = [name for name in others if not name.startswith(asked)]
        if left_out:
            notes.append(f"skipped, because not part of the backbone: {listed(left_out)}")
        tensors = {name: tensor for name, tensor in tensors.items() if name not in others}
    notes += _assign(model, tensors, skip, file)
    if file.facts is not None and whole:
        file.facts.tell(model)
    if headless:
        warnings.warn(
            "the file has no classifier: the network keeps its own, untrained", stacklevel=3
        )
    if notes:
        warnings.warn("; ".join(notes), stacklevel=3)


def unfit_heads(model: Model, source: Source | WeightFile) -> tuple[str, ...]:
    """Returns the paths of a model's classifiers and heads that a source has no weights for.

    `load_weights` with these paths as `skip` loads everything else. An auxiliary head is returned
    if the source has none of its tensors. All classifiers are returned if one of them is missing or
    has another number of classes.

    Raises:
        WeightsError: if the layout needs a network with other options, or the file cannot be
            read.
        FileNotFoundError: if there is no such file.
    """
    _, tensors, _ = _translated(model, source)
    needed = torch_names.torch_shapes(model)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    absent = tuple(
        head
        for head in model.aux_names
        if _below(head, needed) and not _below(head, needed).keys() & found.keys()
    )
    classifiers = tuple(path for path in model.classifiers if _below(path, needed))
    misfit = any(
        _below(path, needed) != _below(path, found)
        for path in classifiers
        if path.partition(".")[0] not in absent
    )
    return (*absent, *(classifiers if misfit else ()))


def _below(path: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if name.startswith(f"{path}.")}


def _translated(model: Model, source: Source | WeightFile) -> tuple[WeightFile, Tensors, list[str]]:
    spec = spec_of(model)
    file = open_weights(spec.name, source)
    file.check(spec.name, dict(spec.readings))
    tensors, notes = file.translated(model)
    return file, tensors, notes


def _assign(model: Model, tensors: Tensors, skip: Sequence[str], file: WeightFile) -> list[str]:
    """Sets all parameters and running statistics, or none if an error is raised.

    Args:
        model: network, changed in place.
        tensors: tensors with the PyTorch twin's names and axis orders.
        skip: paths of modules that keep their values; their tensors are ignored.
        file: weight file that the tensors are from, for messages.

    Returns:
        Notes on values that look wrong.

    Raises:
        WeightsError: if the tensors do not fit the model, or their values are invalid.
    """
    absent = tuple(f"{name}." for name in model.aux_names if getattr(model, name) is None)
    skipped = tuple(f"{path}." for path in skip)
    left = {
        name
        for name in tensors
        if not name.endswith("num_batches_tracked") and not name.startswith(absent + skipped)
    }
    missing, misshapen, taken = [], [], {}
    state = torch_names.state_of(model)
    for path, leaf in list(torch_names.walk(state)):
        name = torch_names.torch_name(path)
        if name.startswith(skipped):
            continue
        if name not in left:
            missing.append(name)
            continue
        left.remove(name)
        array = torch_names.from_torch_order(path, tensors[name])
        array = _adapted(path, array, leaf.shape, spec_of(model).in_channels)
        if array.shape != leaf.shape:
            expected = torch_names.torch_shape(path, leaf.shape)
            misshapen.append(f"{name} {tensors[name].shape} instead of {expected}")
        else:
            taken[name] = path, array, leaf.dtype
    if missing or left or misshapen:
        raise _misfit(model, tensors, missing, sorted(left), misshapen, file)
    notes = numbers.check({name: array for name, (_, array, _) in taken.items()})
    for path, array, dtype in taken.values():
        _set(state, path, jnp.asarray(array, dtype))
    nnx.update(model, state)
    return notes


def _misfit(
    model: Model,
    tensors: Tensors,
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str],
    file: WeightFile,
) -> WeightsError:
    spec, hint = spec_of(model), ""
    heads = tuple(f"{path}." for path in model.classifiers)
    other_head = {**file.other_head(tensors, model), **file.outside}
    if all(name in other_head for name in unexpected) and all(
        name.startswith(heads) for name in (*missing, *misshapen)
    ):
        theirs = f", which has {listed(other_head)}," if other_head else ""
        hint = f"; head=False (--no-head) leaves the classifier{theirs} out"
    elif not torch_names.torch_shapes(model).keys() & tensors.keys():
        hint = ": none of the names is one of this network's"
    own = {**dict(spec.readings), "in_channels": spec.in_channels}
    for option, value in fit.options(tensors, model).items():
        adapted = option == "in_channels" and value == 3  # to images of any channels
        if not adapted and own.get(option, value) != value:
            hint += f"; they need {option}={value}"
    return WeightsError(
        f"the weights do not fit {spec.name} with {spec.num_classes} classes{hint}",
        missing=missing,
        unexpected=unexpected,
        misshapen=misshapen,
    )


def _adapted(
    path: torch_names.Path, array: np.ndarray, shape: tuple[int, ...], in_channels: int
) -> np.ndarray:
    """Adapts the first convolution's kernel from 3 channels to `in_channels`, as timm does.

    `path` is the path of `array` in the network, which needs the shape `shape`.

    For grey images, the three channels are summed. Otherwise they are repeated cyclically and
    scaled by 3 / in_channels. Other arrays are returned unchanged.
    """
    is_first = path[-1] == "kernel" and len(shape) == 4 and shape[2] == in_channels != 3
    if not is_first or array.shape != (*shape[:2], 3, shape[3]):
        return array
    warnings.warn(
        f"{torch_names.torch_name(path)}: fitted to images of {in_channels} channel(s) from 3",
        stacklevel=4,
    )
    if in_channels == 1:
        return array.sum(2, keepdims=True, dtype=array.dtype)
    repeated = np.take(array, np.arange(in_channels) % 3, axis=2)
    return (repeated * (3 / in_channels)).astype(array.dtype)


def _set(state: dict[str, Any], path: torch_names.Path, value: Any) -> None:
    *parents, leaf = path
    for name in parents:
        state = state[name]
    state[leaf] = value
