"""A network built to fit a weight file."""

from __future__ import annotations

from typing import Any

from inception_jax.nn.model import Model
from inception_jax.registry import abstract_model, create_model, full_readings, model_info
from inception_jax.weights.content import Content, check, spec_of, to_twin
from inception_jax.weights.loading import Source, open_source


def model_for(name: str, source: Source) -> Model:
    """Builds a network with the classes and auxiliary heads that a file has, and loads it.

    A file of `save_weights` also says its channels, its width and, for a name without a tag, its
    readings.

    Args:
        name: what `create_model` takes.
        source: what `load_weights` takes.

    Raises:
        UnknownModelError: with near names.
        WeightsError: if the weights do not fit, or cannot be read or fetched.
        FileNotFoundError: if there is no such file.
    """
    info = model_info(name)
    content = open_source(name, source)
    readings = full_readings(name)
    if content.spec and not info.tag:
        readings |= content.spec["readings"]
    check(name, readings, content)
    options = _saved(content) if content.spec else _found(name, content)
    return create_model(name, weights=content, **options)


def _saved(content: Content) -> dict[str, Any]:
    kept = ("num_classes", "in_channels", "aux_heads", "width_multiplier")
    readings = {
        option: tuple(value) if isinstance(value, list) else value
        for option, value in content.spec["readings"]
    }
    return {**{option: content.spec[option] for option in kept}, **readings}


def _found(name: str, content: Content) -> dict[str, Any]:
    has_aux = bool(model_info(name).aux_heads)
    skeleton = abstract_model(name, aux_heads=has_aux)
    tensors = to_twin(content, skeleton, spec_of(skeleton))
    bias = tensors.get(f"{skeleton.classifiers[0]}.bias")
    aux = tuple(f"{head}." for head in skeleton.aux_names)
    return {
        "aux_heads": has_aux and any(key.startswith(aux) for key in tensors),
        **({} if bias is None or bias.ndim != 1 else {"num_classes": len(bias)}),
    }
