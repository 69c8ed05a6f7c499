"""Weights as other libraries store them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from inception_jax.nn.model import Model
from inception_jax.outputs import check_target, whole
from inception_jax.weights import files, keras_files, keras_layouts, layouts
from inception_jax.weights.content import fitting, spec_of, wrong_readings
from inception_jax.weights.errors import WeightsError
from inception_jax.weights.layouts import Layout, Tensors
from inception_jax.weights.saving import save_weights, to_torch

Format = Literal["inception_jax", "reference_torch", "torchvision", "timm", "keras"]
FORMATS: tuple[Format, ...] = get_args(Format)

_TORCH_ENDINGS = (".pth", ".pt", ".bin")
_USUAL: dict[str, Format] = {
    ".safetensors": "inception_jax",
    ".h5": "keras",
    **dict.fromkeys(_TORCH_ENDINGS, "reference_torch"),
}


def export(model: Model, path: str | os.PathLike[str], to: Format | None = None) -> list[str]:
    """Writes weights for another library, whole or not at all.

    Args:
        model: built by `create_model`.
        path: `.safetensors` for ours, timm and torchvision; `.pth`, `.pt` or `.bin` for the twin,
            timm and torchvision; `.weights.h5` or `.h5` for Keras.
        to: whose layout; None: ours for `.safetensors`, the twin's for PyTorch's endings, Keras'
            for `.h5`.

    Returns:
        What was changed on the way, a sentence each.

    Raises:
        WeightsError: if the library has no such network, or computes it otherwise, or the ending is
            none of its.
    """
    path = Path(path)
    to = to or _usual(path)
    check_target(path, _endings(to), error=WeightsError, what=f"files for {to}")
    if to == "inception_jax":
        save_weights(model, path)
        return []
    if to == "reference_torch":
        files.write_torch(path, to_torch(model))
        return []
    layout = _layout(model, to)
    return _write_keras(model, path) if to == "keras" else _write_torch(model, path, layout)


def _usual(path: Path) -> Format:
    if path.suffix not in _USUAL:
        raise WeightsError(
            f"{path}: cannot write files ending in {path.suffix!r}; {', '.join(_USUAL)} are known"
        )
    return _USUAL[path.suffix]


def _endings(to: Format) -> tuple[str, ...]:
    if to == "keras":
        return (".h5",)
    if to == "inception_jax":
        return (".safetensors",)
    return _TORCH_ENDINGS if to == "reference_torch" else (".safetensors", *_TORCH_ENDINGS)


def _layout(model: Model, to: Format) -> Layout:
    spec = spec_of(model)
    arch = spec.name.partition(".")[0]
    layout = layouts.for_writing(to, arch)
    if layout is None:
        others = [x for x in FORMATS if x[:2] in ("in", "re") or layouts.for_writing(x, arch)]
        raise WeightsError(f"{to} has no {arch}; it can be written for {', '.join(others)}")
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
        files.write_safetensors(path, named, {"format": "pt"})
    else:
        files.write_torch(path, named)
    if dict(spec_of(model).readings).get("transform_input"):
        return ["the model maps ImageNet-normalised images itself: give transform_input=True"]
    return []


def _write_keras(model: Model, path: Path) -> list[str]:
    spec, state, notes = spec_of(model), to_torch(model), []
    has_gamma = spec.name.startswith("xception")
    if spec.aux_heads:
        notes.append("the auxiliary head is left out: Keras has none")
        heads = tuple(f"{name}." for name in model.aux_names)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
    if not has_gamma:
        folded = _fold_gamma(state)
        if folded:
            notes.append(
                f"BatchNorm's factor, which Keras' has not here, is in {folded} kernels and means"
            )
    stored = list(keras_layouts.from_twin(state, model.layer_order, has_gamma))
    with whole(path) as partial:
        keras_files.write_hdf5(partial, stored, legacy=not path.name.endswith(".weights.h5"))
    return notes


def _fold_gamma(state: Tensors) -> int:
    """Multiplies BatchNorm's factors into the kernels before them and the means; returns how many.

    gamma (k * x - mean) / deviation = ((gamma k) * x - gamma mean) / deviation
    """
    count = 0
    for name, gamma in list(state.items()):
        if not name.endswith(".bn.weight") or (gamma == 1).all():
            continue
        prefix = name.removesuffix("bn.weight")
        kernel, mean = f"{prefix}conv.weight", f"{prefix}bn.running_mean"
        state[kernel] = state[kernel] * gamma[:, None, None, None]
        state[mean] = state[mean] * gamma
        state[name] = np.ones_like(gamma)
        count += 1
    return count
