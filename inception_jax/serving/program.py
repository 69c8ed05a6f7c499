"""The function of a network that is exported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx
from jax import lax

from inception_jax.crops import scaled
from inception_jax.nn.model import Model
from inception_jax.registry import ModelInfo
from inception_jax.serving.export_error import ExportError


@dataclasses.dataclass(frozen=True)
class Program:
    """A network in evaluation mode, with its weights as constants.

    Attributes:
        name: see `create_model`; empty for a network built directly from its class.
        function: maps images to an array.
        images: their shape and dtype; the first axis is symbolic.
        output: name of the result, "logits" or "embedding".
        facts: information for users of the file, as JSON: `network`, `height`, `width`,
            `preprocessing`, `normalised_inside`, `classes`.
    """

    name: str
    function: Callable[[Any], Any]
    images: jax.ShapeDtypeStruct
    output: str
    facts: dict[str, Any]


def program_of(model: Model, size: tuple[int, int], *, normalise: bool, embedding: bool) -> Program:
    """Builds the function of a network for images of one size; see `serving.export`.

    Raises:
        ExportError: if the images cannot be normalised.
    """
    info = _info_to_normalise(model) if normalise else None
    graphdef, state = nnx.split(model.eval_view())
    # On the host: weights on a device would bind the program to that device.
    state = jax.device_get(state)

    def function(images: Any) -> Any:
        network = nnx.merge(graphdef, jax.tree.map(jnp.asarray, state))
        images = images if info is None else _normalised(images, info)
        return network.embed(images) if embedding else network(images)

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
    return Program(name, function, images, "embedding" if embedding else "logits", facts)


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
