"""What a weight file holds: its tensors, its layout, and which networks it fits."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from inception_jax.nn.model import Model, Spec
from inception_jax.registry import list_models, model_info
from inception_jax.weights import files, layouts, leaves
from inception_jax.weights.errors import WeightsError
from inception_jax.weights.layouts import Layout, Own, Tensors

METADATA_KEY = "inception_jax"
_WRAPPER = re.compile(r"^(?:module\.|_orig_mod\.)+")  # of DataParallel and of torch.compile
_TRAINING_ONLY = {"dropout", "aux_dropout", "drop_path", "bn_momentum"}


@dataclasses.dataclass(frozen=True)
class Content:
    """What a source holds.

    Attributes:
        tensors: by name.
        spec: how `create_model` built the network that `save_weights` wrote; empty for others.
        layout: of foreign names.
    """

    tensors: Tensors
    spec: Mapping[str, Any]
    layout: Layout | None


def read(source: Any) -> Content:
    """Reads a file or mapping and recognises its layout.

    Raises:
        WeightsError: if the file cannot be read.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(source, Mapping):
        tensors, metadata = {str(k): np.asarray(v) for k, v in source.items()}, {}
    else:
        tensors, metadata = files.read(source)
    tensors = {_WRAPPER.sub("", name): tensor for name, tensor in tensors.items()}
    spec = _saved_spec(metadata.get(METADATA_KEY, "{}"))
    return Content(tensors, spec, None if spec else layouts.find(tensors))


def _saved_spec(text: str) -> dict[str, Any]:
    try:
        spec = json.loads(text)
        if spec:
            fields = {field.name: spec[field.name] for field in dataclasses.fields(Spec)}
            dict(fields["readings"])
            model_info(fields["name"])
        return spec
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"the file's own note of what it is cannot be read ({error}): another version of this "
            "library wrote it, or it was changed since"
        ) from None


def check(name: str, readings: Mapping[str, Any], content: Content) -> None:
    """Refuses weights of another network, or of another reading of it.

    Raises:
        WeightsError: naming the tags that fit.
    """
    arch = name.partition(".")[0]
    if content.spec:
        saved = content.spec["name"]
        remedy = f"; it was saved from {saved}"
        if saved.partition(".")[0] != arch:
            raise WeightsError(f"these are weights of {saved}, not of {arch}")
        _check_readings(name, readings, content.spec["readings"], "this file", remedy)
    elif content.layout:
        layout = content.layout
        remedy = f"; create_model takes them as {fitting(layout)}"
        if arch not in layout.archs:
            archs = " or ".join(layout.archs)
            raise WeightsError(
                f"these are weights of {archs} ({layout.name}), not of {arch}{remedy}"
            )
        what = f"a file of {layout.name}"
        _check_readings(name, readings, layout.readings.items(), what, remedy)


def to_twin(content: Content, model: Model, spec: Spec) -> Tensors:
    """Translates a source's tensors to the twin's names and axis order."""
    if content.layout is None:
        return content.tensors
    own = Own(leaves.torch_shapes(model), lambda: model.layer_order)
    tensors = content.layout.translate(content.tensors, own)
    if content.layout.background:
        tensors = _without_background(tensors, model.classifiers, spec.num_classes)
    return tensors


def _without_background(
    tensors: Tensors, classifiers: tuple[str, ...], num_classes: int
) -> Tensors:
    """Drops row 0 of classifiers of one class too many."""
    rows = {
        name: tensor[1:]
        for name, tensor in tensors.items()
        if name.rpartition(".")[0] in classifiers and tensor.shape[0] == num_classes + 1
    }
    return {**tensors, **rows}


def spec_of(model: Model) -> Spec:
    """Returns how a model was built.

    Raises:
        WeightsError: if it was built by its class.
    """
    if model.spec is None:
        raise WeightsError("this model was not built by create_model, so its reading is unknown")
    return model.spec


def fitting(layout: Layout) -> str:
    """Lists the names that make networks which files of a layout fit."""
    names = [
        name
        for name in list_models(tags=True)
        if model_info(name).arch in layout.archs
        and not wrong_readings(model_info(name).options, layout.readings.items())
    ]
    return ", ".join(names)


def _check_readings(name: str, own: Mapping[str, Any], needed: Any, what: str, remedy: str) -> None:
    wrong = wrong_readings(own, needed)
    if wrong:
        raise WeightsError(f"{what} needs another reading of {name}: {', '.join(wrong)}{remedy}")


def wrong_readings(own: Mapping[str, Any], needed: Any) -> list[str]:
    """Lists the options among `needed` pairs that a network has set otherwise."""
    return [
        f"{option}={value!r} (the model has {own[option]!r})"
        for option, value in needed
        if option in own and option not in _TRAINING_ONLY and _plain(own[option]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    """As JSON gives it back: a list for a tuple."""
    return json.loads(json.dumps(value))
