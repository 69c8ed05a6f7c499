"""Loading weights: from a file or mapping, through its layout, into the network or not at all."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from inception_jax.nn.model import Model, Spec
from inception_jax.weights import download, leaves
from inception_jax.weights.content import Content, check, read, spec_of, to_twin
from inception_jax.weights.errors import WeightsError
from inception_jax.weights.layouts import Tensors

Source = str | os.PathLike[str] | Mapping[str, Any] | Literal[True]


def load_weights(model: Model, source: Source | Content, head: bool = True) -> None:
    """Replaces all parameters and running statistics of a model, or none.

    Takes files of `save_weights`; state dicts of `reference_torch`; the PyTorch files of
    torchvision, timm, sail-sg, Cadene, facenet-pytorch and pytorch-fid; Keras' InceptionV3,
    InceptionResNetV2 and Xception, its TensorFlow.js form too; TF-slim's and FaceNet's checkpoints
    and frozen graphs; Caffe's GoogLeNet. The layout is recognised by its names. Tensors of an
    auxiliary head that the model was built without are left out; of 1001 classes, the background.
    The first kernel is fitted to images of other than three channels, and files of face networks
    without a classifier leave it as it is, both with a warning.

    Args:
        model: built by `create_model`.
        source: a `.safetensors`, `.pth`, `.pt`, `.bin`, `.h5`, `.hdf5`, `.keras`, `.ckpt`, `.pb`,
            `.tar.gz` or `.caffemodel` file, a TensorFlow.js `model.json`, or a mapping of names to
            arrays; True: the published file of the model's tag, see `create_model`.
        head: load the classifiers too. False leaves them as they are, for another number of
            classes.

    Raises:
        WeightsError: if anything is missing, unexpected, of another shape, or not finite, if the
            layout needs another reading of the network, or the file cannot be read.
        FileNotFoundError: if there is no such file.
    """
    spec = spec_of(model)
    content = open_source(spec.name, source)
    check(spec.name, dict(spec.readings), content)
    tensors = to_twin(content, model, spec)
    heads = tuple(f"{name}." for name in model.classifiers)
    lacks_head = not any(name.startswith(heads) for name in tensors)
    headless = head and lacks_head and content.layout and content.layout.head_optional
    _assign(model, spec, tensors, head and not headless)
    if headless:
        warnings.warn(
            "the file has no classifier: the network keeps its own, untrained", stacklevel=3
        )


def open_source(name: str, source: Source | Content) -> Content:
    """Reads a source, of which True is the published file of a tag; one that was read is kept."""
    if isinstance(source, Content):
        return source
    return read(download.fetch(name) if source is True else source)


def _assign(model: Model, spec: Spec, tensors: Tensors, head: bool) -> None:
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
            expected = leaves.torch_shape(path, leaf.shape)
            misshapen.append(f"{name} {tensors[name].shape} instead of {expected}")
        elif not _is_finite(array):
            not_finite.append(name)
        else:
            _set(state, path, jnp.asarray(array, leaf.dtype))
    if missing or left or misshapen:
        hint = ""
        if head and not left and _only_heads([*missing, *misshapen], heads):
            hint = "; head=False leaves the classifier out"
        elif not any(name in tensors for name in leaves.torch_shapes(model)):
            hint = ": none of the names is one of this network's"
        raise WeightsError(
            f"the weights do not fit {spec.name} with {spec.num_classes} classes{hint}",
            missing=missing,
            unexpected=sorted(left),
            misshapen=misshapen,
        )
    if not_finite:
        raise WeightsError(f"NaN or infinite numbers in {', '.join(not_finite[:20])}")
    nnx.update(model, state)


def _is_finite(array: np.ndarray) -> bool:
    try:
        return bool(np.isfinite(array.astype(np.float64)).all())
    except (TypeError, ValueError):  # text or objects
        return False


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
