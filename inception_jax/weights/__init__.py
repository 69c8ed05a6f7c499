"""Weights in and out."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from inception_jax.model import Model, Spec
from inception_jax.registry import create_model, full_readings, list_models, model_info
from inception_jax.weights import files, layouts, leaves
from inception_jax.weights.errors import WeightsError

__all__ = ["WeightsError", "load_weights", "save_weights", "to_torch"]

_METADATA_KEY = "inception_jax"
_TRAINING_ONLY = {"dropout", "aux_dropout", "drop_path", "bn_momentum"}


def to_torch(model: Model) -> dict[str, np.ndarray]:
    """Returns the state dict of the model's twin in `reference_torch`, as NumPy arrays.

    The inverse, bit for bit, is `load_weights(model, mapping)`.
    """
    state = {}
    for path, leaf in leaves.walk(leaves.state_of(model)):
        name = leaves.torch_name(path)
        state[name] = leaves.to_torch_order(path, np.array(leaf))
        if path[-1] == "var":  # PyTorch's count of training steps; nothing here depends on it
            state[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def save_weights(model: Model, path: str | os.PathLike[str]) -> None:
    """Writes a safetensors file that `load_weights` takes, and the twin too.

    Its names and axis orders are those of `to_torch`; its metadata says how the network was built.

    Raises:
        WeightsError: if the path does not end in `.safetensors`, or the model was not built by
            `create_model`.
    """
    spec = _spec(model)
    metadata = {"format": "pt", _METADATA_KEY: json.dumps(dataclasses.asdict(spec))}
    files.write(path, to_torch(model), metadata)


def load_weights(
    model: Model,
    source: str | os.PathLike[str] | Mapping[str, Any],
    head: bool = True,
) -> None:
    """Replaces all parameters and running statistics of a model, or none.

    Takes files of `save_weights`; state dicts of `reference_torch`; the PyTorch files of
    torchvision, timm, sail-sg, Cadene, facenet-pytorch and pytorch-fid; Keras' InceptionV3,
    InceptionResNetV2 and Xception, its TensorFlow.js form too. The layout is recognised by its
    names. Tensors of an auxiliary head that the model was built without are left out; of Cadene's
    1001 classes, the background. The first kernel is fitted to images of other than three channels,
    with a warning.

    Args:
        model: built by `create_model`.
        source: a `.safetensors`, `.pth`, `.pt`, `.bin`, `.h5`, `.hdf5` or `.keras` file, a
            TensorFlow.js `model.json`, or a mapping of names to arrays.
        head: load the classifiers too. False leaves them as they are, for another number of
            classes.

    Raises:
        WeightsError: if anything is missing, unexpected, of another shape, or not finite, if the
            layout needs another reading of the network, or the file cannot be read.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(source, Mapping):
        tensors, metadata = {str(k): np.asarray(v) for k, v in source.items()}, {}
    else:
        tensors, metadata = files.read(source)
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    spec = _spec(model)
    _check_reading(
        spec, json.loads(metadata.get(_METADATA_KEY, "{}")).get("readings", ()), "this file"
    )
    layout = layouts.find(tensors)
    if layout is not None:
        arch = spec.name.partition(".")[0]
        fitting = f"; {_fitting(layout)}"
        if arch not in layout.archs:
            archs = " or ".join(layout.archs)
            raise WeightsError(
                f"these are weights of {archs} ({layout.name}), not of {arch}{fitting}"
            )
        _check_reading(spec, layout.readings.items(), f"a file of {layout.name}", fitting)
        tensors = layout.translate(tensors, functools.partial(_layers_in_order, spec))
        if layout.background:
            tensors = _without_background(tensors, spec.num_classes)
    _assign(model, spec, tensors, head)


def _layers_in_order(spec: Spec) -> list[str]:
    """The layers of a network as its class defines them; one that was merged has them sorted."""
    return _layers_of(spec.name, spec.aux_heads, json.dumps(dict(spec.readings)))


@functools.lru_cache(maxsize=8)  # a network of 250 convolutions takes seconds to trace
def _layers_of(name: str, aux_heads: bool, readings: str) -> list[str]:
    layers: list[str] = []

    def build() -> None:
        model = create_model(name, aux_heads=aux_heads, **json.loads(readings))
        layers.extend(leaves.layers_in_order(model))

    jax.eval_shape(build)
    return layers


def _without_background(tensors: layouts.Tensors, num_classes: int) -> layouts.Tensors:
    """Drops row 0 of a classifier of one class too many."""
    rows = {
        name: tensor[1:]
        for name, tensor in tensors.items()
        if name.startswith("fc.") and tensor.shape[0] == num_classes + 1
    }
    return {**tensors, **rows}


def _spec(model: Model) -> Spec:
    if model.spec is None:
        raise WeightsError("this model was not built by create_model, so its reading is unknown")
    return model.spec


def _fitting(layout: layouts.Layout) -> str:
    """Says which names make networks that files of a layout fit."""
    names = [
        name
        for name in list_models(tags=True)
        if model_info(name).arch in layout.archs
        and not _wrong_readings(full_readings(name), layout.readings.items())
    ]
    return f"create_model takes them as {', '.join(names)}"


def _check_reading(spec: Spec, needed: Any, what: str, remedy: str = "") -> None:
    wrong = _wrong_readings(dict(spec.readings), needed)
    if wrong:
        raise WeightsError(
            f"{what} needs another reading of {spec.name}: {', '.join(wrong)}{remedy}"
        )


def _wrong_readings(own: Mapping[str, Any], needed: Any) -> list[str]:
    return [
        f"{option}={value!r} (the model has {own[option]!r})"
        for option, value in needed
        if option in own and option not in _TRAINING_ONLY and _plain(own[option]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    """As JSON gives it back: a list for a tuple."""
    return json.loads(json.dumps(value))


def _assign(model: Model, spec: Spec, tensors: layouts.Tensors, head: bool) -> None:
    heads = tuple(f"{name}." for name in model.classifiers)
    absent = tuple(f"{name}." for name in model.aux_names if getattr(model, name) is None)
    skipped = absent if head else absent + heads
    left = {
        name
        for name in tensors
        if not name.endswith("num_batches_tracked") and not name.startswith(skipped)
    }
    missing, misshapen, not_finite = [], [], []
    state = leaves.state_of(model)
    for path, leaf in list(leaves.walk(state)):
        name = leaves.torch_name(path)
        if not head and name.startswith(heads):
            continue
        if name not in left:
            missing.append(name)
            continue
        left.remove(name)
        array = leaves.from_torch_order(path, tensors[name])
        array = _adapted(path, array, leaf.shape, spec.in_channels)
        if array.shape != leaf.shape:
            expected = leaves.to_torch_order(path, np.empty(leaf.shape)).shape
            misshapen.append(f"{name} {tensors[name].shape} instead of {expected}")
        elif not np.isfinite(array.astype(np.float64)).all():
            not_finite.append(name)
        else:
            _set(state, path, jnp.asarray(array, leaf.dtype))
    if missing or left or misshapen:
        hint = (
            "; head=False leaves the classifier out"
            if head and not left and _only_heads([*missing, *misshapen], heads)
            else ""
        )
        raise WeightsError(
            f"the weights do not fit {spec.name} with {spec.num_classes} classes{hint}",
            missing=missing,
            unexpected=sorted(left),
            misshapen=misshapen,
        )
    if not_finite:
        raise WeightsError(f"NaN or infinite numbers in {', '.join(not_finite[:20])}")
    nnx.update(model, state)


def _adapted(
    path: tuple[Any, ...], array: np.ndarray, shape: tuple[int, ...], in_channels: int
) -> np.ndarray:
    """Fits a first kernel for colour images to other channels, as timm does.

    For grey images the three are summed; for more channels they are repeated in turn and scaled by
    3 / channels.
    """
    is_first = path[-1] == "kernel" and len(shape) == 4 and shape[2] == in_channels != 3
    if not is_first or array.shape != (*shape[:2], 3, shape[3]):
        return array
    warnings.warn(
        f"{leaves.torch_name(path)}: fitted to images of {in_channels} channel(s) from 3",
        stacklevel=4,
    )
    if in_channels == 1:
        return array.sum(2, keepdims=True, dtype=array.dtype)
    repeated = np.take(array, np.arange(in_channels) % 3, axis=2)
    return (repeated * (3 / in_channels)).astype(array.dtype)


def _only_heads(names: list[str], heads: tuple[str, ...]) -> bool:
    return bool(names) and all(name.startswith(heads) for name in names)


def _set(state: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    *parents, leaf = path
    for name in parents:
        state = state[name]
    state[leaf] = value
