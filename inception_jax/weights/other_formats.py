"""Writes weights in the formats of other libraries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from inception_jax.nn.model import Model
from inception_jax.outputs import atomic_write, check_target
from inception_jax.weights import (
    keras_files,
    keras_layouts,
    layouts,
    safetensors_files,
    torch_files,
)
from inception_jax.weights.layouts import Layout
from inception_jax.weights.saving import save_weights, to_torch
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weight_file import fitting, spec_of, wrong_readings
from inception_jax.weights.weights_error import WeightsError, optional_library

Format = Literal["inception_jax", "reference_torch", "torchvision", "timm", "keras"]
FORMATS: tuple[Format, ...] = get_args(Format)

# A file ending stands for the first format that has it.
_ENDINGS: dict[Format, tuple[str, ...]] = {
    "inception_jax": (".safetensors",),
    "reference_torch": torch_files.ENDINGS,
    "torchvision": (".safetensors", *torch_files.ENDINGS),
    "timm": (".safetensors", *torch_files.ENDINGS),
    "keras": (".h5",),
}


def save_as(model: Model, path: str | os.PathLike[str], to: Format | None = None) -> list[str]:
    """Writes a network's weights in the format of this or another library. Writing is atomic.

    Args:
        model: built by `create_model`.
        path: path of the file to write. Its suffix is `.safetensors` for this library, timm or
            torchvision; `.pth`, `.pt` or `.bin` for the PyTorch twin, timm or torchvision;
            `.weights.h5` or `.h5` for Keras.
        to: format of the file. None: this library's format for `.safetensors`, the PyTorch twin's
            for `.pth`, `.pt` and `.bin`, Keras' for `.h5`.

    Returns:
        Notes for the user, one sentence each, such as what was changed to fit the format.

    Raises:
        WeightsError: if the other library does not have this network, or would compute different
            results; if the suffix does not fit the format; or if no file can be written there.
    """
    path, to = check_writable(path, to)
    if to == "inception_jax":
        save_weights(model, path)
        return []
    if to == "reference_torch":
        torch_files.write(path, to_torch(model))
        return []
    layout = check_layout(model, to)
    return (_write_keras if to == "keras" else _write_torch)(model, path, layout)


def check_writable(path: str | os.PathLike[str], to: Format | None = None) -> tuple[Path, Format]:
    """Checks that `save_as` can write a path, before any weights are read; `to` as in `save_as`.

    Returns:
        The path and the format.

    Raises:
        WeightsError: if no file can be written there, if the suffix does not fit the format, or if
            a package is missing.
    """
    path = Path(path)
    to = to or _usual(path)
    check_target(path, _ENDINGS[to], error=WeightsError, what=f"files for {to}")
    for library, endings in {"torch": torch_files.ENDINGS, "h5py": (".h5",)}.items():
        if path.suffix in endings:
            optional_library(library, path)
    return path, to


def _usual(path: Path) -> Format:
    for name, endings in _ENDINGS.items():
        if path.suffix in endings:
            return name
    known = ", ".join(dict.fromkeys(ending for x in _ENDINGS.values() for ending in x))
    raise WeightsError(f"{path}: cannot write files ending in {path.suffix!r}; {known} are known")


def check_layout(model: Model, to: Format) -> Layout:
    """Returns the layout of a network's weights in another library.

    Raises:
        WeightsError: if the library does not have this network, or would compute different results.
    """
    spec = spec_of(model)
    arch = spec.name.partition(".")[0]
    layout = layouts.for_writing(to, arch)
    if layout is None:
        others = [x for x in FORMATS if layouts.for_writing(x, arch)]
        known = ", ".join(["inception_jax", "reference_torch", *others])
        raise WeightsError(f"{to} has no {arch}; it can be written for {known}")
    wrong = wrong_readings(dict(spec.readings), layout.readings.items())
    if wrong:
        raise WeightsError(
            f"{layout.name} computes otherwise and would give other numbers: {', '.join(wrong)}; "
            f"it computes as {fitting(layout)}"
        )
    if spec.width_multiplier != 1:
        raise WeightsError(
            f"{layout.name} has no width multiplier; the model's is {spec.width_multiplier}"
        )
    return layout


def _write_torch(model: Model, path: Path, layout: Layout) -> list[str]:
    assert layout.names is not None
    state = to_torch(model)
    named = {theirs: state[ours] for ours, theirs in layout.names(state).items()}
    if path.suffix == ".safetensors":
        safetensors_files.write(path, named, {"format": "pt"})
    else:
        torch_files.write(path, named)
    if dict(spec_of(model).readings).get("transform_input"):
        return ["the model maps ImageNet-normalised images itself: give transform_input=True"]
    return []


def _write_keras(model: Model, path: Path, layout: Layout) -> list[str]:
    state, notes = to_torch(model), []
    if spec_of(model).aux_heads:
        notes.append("the auxiliary head is left out: Keras has none")
        heads = tuple(f"{name}." for name in model.aux_names)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
    folded = 0 if layout.bn_scale else _fold_bn_scale(state)
    if folded:
        notes.append(
            f"BatchNorm has no scale in Keras here: folded into {folded} kernels and means"
        )
    stored = list(keras_layouts.from_twin(state, model.layer_order, layout.bn_scale))
    with atomic_write(path) as partial:
        keras_files.write_hdf5(partial, stored, legacy=not path.name.endswith(".weights.h5"))
    return notes


def _fold_bn_scale(state: Tensors) -> int:
    """Multiplies BatchNorm's scales into the preceding kernels and the running means, in place.

    `state` is the state dict of the PyTorch twin. The scales in it become 1.

    With the convolution k * x: scale (k * x - mean) / deviation = ((scale k) * x - scale mean) /
    deviation.

    Returns:
        The number of layers that were changed.
    """
    count = 0
    for name, scale in list(state.items()):
        if not name.endswith(".bn.weight") or (scale == 1).all():
            continue
        prefix = name.removesuffix("bn.weight")
        kernel, mean = f"{prefix}conv.weight", f"{prefix}bn.running_mean"
        state[kernel] = state[kernel] * scale[:, None, None, None]
        state[mean] = state[mean] * scale
        state[name] = np.ones_like(scale)
        count += 1
    return count
