"""Builds the function that `export` writes for a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx
from jax import lax

from inception_jax.analysis.stage_maps import check_stages
from inception_jax.crops import scaled
from inception_jax.nn import ops
from inception_jax.nn.model import Model
from inception_jax.nn.stages import feature_info
from inception_jax.registry import ModelInfo
from inception_jax.serving.export_error import ExportError


@dataclasses.dataclass(frozen=True)
class Program:
    """A network in evaluation mode, with its weights as constants.

    Attributes:
        name: name of the network in `create_model`; empty if it was built directly from its class.
        function: function that maps images to a dict of arrays. Its keys are the names in the
            attribute `outputs`.
        images: shape and dtype of the images; the first axis is symbolic.
        outputs: names of the outputs, in order: "logits" or "embedding", then "heat" and the stages
            if they were requested.
        facts: information for users of the file, stored as JSON, with these keys:
            - `network`: the attribute `name`;
            - `height` and `width`: size of the images in pixels;
            - `preprocessing`: crop, resizing and normalisation of the images; None if unknown;
            - `normalised_inside`: whether the program takes pixels as uint8 and normalises them
              itself, so that the caller must not;
            - `classes`: names of the classes; None if unknown.
    """

    name: str
    function: Callable[[Any], dict[str, Any]]
    images: jax.ShapeDtypeStruct
    outputs: tuple[str, ...]
    facts: dict[str, Any]


def program_of(
    model: Model,
    size: tuple[int, int],
    *,
    normalise: bool,
    embedding: bool,
    stages: Sequence[str] = (),
    heat: bool = False,
) -> Program:
    """Builds the program of a network for images of one size; see `serving.export`.

    Raises:
        ExportError: if the images cannot be normalised, a stage does not exist, or the heat cannot
            be computed without gradients.
    """
    info = _info_to_normalise(model) if normalise else None
    if stages:
        _check_stages(model, stages)
    if heat:
        _check_heat(model)
    graphdef, state = nnx.split(model.eval_view())
    # On the host: weights on a device would bind the program to that device.
    state = jax.device_get(state)

    def function(images: Any) -> dict[str, Any]:
        network = nnx.merge(graphdef, jax.tree.map(jnp.asarray, state))
        images = images if info is None else _normalised(images, info)
        if not stages and not heat:
            return {outputs[0]: network.embed(images) if embedding else network(images)}
        maps = network.features(images)
        result = network.embedding(maps) if embedding else network.classify(maps)
        further = {"heat": _heat(network, next(reversed(maps.values())))} if heat else {}
        return {outputs[0]: result, **further, **{name: maps[name] for name in stages}}

    outputs = ("embedding" if embedding else "logits", *(("heat",) if heat else ()), *stages)
    (batch,) = jax.export.symbolic_shape("batch")
    shape = (batch, *size, model.in_channels)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8 if normalise else jnp.float32)
    name = model.spec.name if model.spec else ""
    facts = {
        "network": name,
        "height": size[0],
        "width": size[1],
        "preprocessing": model.info.preprocessing if model.info else None,
        "normalised_inside": normalise,
        "classes": model.classes,
    }
    return Program(name, function, images, outputs, facts)


def _check_stages(model: Model, stages: Sequence[str]) -> None:
    try:
        check_stages(stages, [info.name for info in feature_info(model)])
    except ValueError as error:
        raise ExportError(str(error)) from None
    if len(set(stages)) < len(stages):
        raise ExportError(f"a stage is named twice: {', '.join(stages)}")


def _check_heat(model: Model) -> None:
    """Checks that `_heat` computes Grad-CAM for this network.

    Raises:
        ExportError: if the classifier is not one linear layer on the mean of the last feature map.
    """
    kind = type(model)
    plain = all(
        getattr(kind, name) is getattr(Model, name)
        for name in ("embedding", "logits", "_pre_logits")
    )
    if not plain or model.num_classes == 0:
        raise ExportError(
            f"export cannot write the heat of {kind.__name__}: its classifier is not one linear "
            "layer on the mean of the last map, so the heat needs gradients; use explain.grad_cam"
        )


def _heat(network: Model, map: jax.Array) -> jax.Array:
    """Returns the Grad-CAM of every class at the last feature map, [n, h, w, num_classes].

    The logits are the mean of the last feature map times a matrix. So their gradients at every
    pixel are this matrix divided by the number of pixels, and Grad-CAM is a 1x1 convolution with
    these gradients, followed by a ReLU.
    """
    pixels = map.shape[1] * map.shape[2]
    kernel = network.fc.kernel[...].astype(map.dtype) / pixels
    return jax.nn.relu(ops.conv(map, kernel[None, None]))


def _info_to_normalise(model: Model) -> ModelInfo:
    if model.info is None:
        raise ExportError(
            "this model was not built by create_model, so how its images are normalised is unknown"
        )
    if model.in_channels not in (1, 3):
        raise ExportError(
            f"pixels cannot be normalised for a network of {model.in_channels} channels"
        )
    return model.info


def _normalised(pixels: jax.Array, info: ModelInfo) -> jax.Array:
    # Not pixels[..., ::-1], which is a gather if the batch size is unknown.
    return scaled(lax.rev(pixels, (3,)) if info.channel_order == "bgr" else pixels, info)
