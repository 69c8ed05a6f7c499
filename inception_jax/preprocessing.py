"""From an image, of whatever kind, to what a network takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from inception_jax import images
from inception_jax.crops import as_input, cropped
from inception_jax.models import model_info
from inception_jax.registry import ModelInfo


def preprocess(model: Any, image: Any) -> np.ndarray:
    """Crops, resizes and normalises an image as the network's source does in evaluation.

    Args:
        model: a network, whose own facts count (`model.info`), or what `create_model` takes.
        image: a path, the bytes of a file, a Pillow image of any mode, or uint8 [h, w], [h, w, 1]
            or [h, w, 3] (RGB) of NumPy, jax or torch; see `images.read`.

    Returns:
        float32 [1, h, w, c], channels in the order that the network takes.

    Raises:
        UnknownModelError: with near names.
        BadImageError: if it is no whole image.
        ValueError: for an array of another shape or type, or a network that takes neither grey nor
            colour images.
    """
    info, channels = (model_info(model), 3) if isinstance(model, str) else facts_of(model)
    picture = images.read(image, upright=info.upright)
    return as_input(cropped(picture.with_channels(channels), info), info)


def facts_of(model: Any) -> tuple[ModelInfo, int]:
    """Returns what a network needs of an image: its facts and its number of channels.

    Raises:
        ValueError: for a network built by its class, or of other than 1 or 3 channels.
    """
    if model.info is None:
        raise ValueError("this network was not built by create_model: give a name from list_models")
    if model.in_channels not in (1, 3):
        raise ValueError(
            f"images have 1 or 3 channels, and this network takes {model.in_channels}: "
            "prepare its input yourself"
        )
    return model.info, model.in_channels
