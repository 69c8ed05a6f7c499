"""Preprocessing: turns any kind of image into the input of a network."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from inception_jax import images
from inception_jax.crops import as_input, crop_of
from inception_jax.models import model_info
from inception_jax.notes import Counts
from inception_jax.registry import ModelInfo

SEEN_AS_STORED = "these weights see photos as they are stored, as in their publisher's evaluation"


def preprocess(model: Any, image: Any) -> np.ndarray:
    """Crops, resizes and normalises an image like the network's source does in evaluation.

    Warns if a photo has an EXIF orientation that the network's source ignores.

    Args:
        model: a network, whose `model.info` is used, or a name that `create_model` takes.
        image: a path, the bytes of a file, a Pillow image of any mode, or uint8 [h, w], [h, w, 1]
            or [h, w, 3] (RGB) of NumPy, jax or torch; see `images.read`.

    Returns:
        float32 [1, h, w, c], with the channels in the network's order.

    Raises:
        UnknownModelError: for an unknown name; the message suggests similar ones.
        BadImageError: if the image is damaged or cannot be read.
        ValueError: for an array of another shape or dtype, or a network whose images have neither
            1 nor 3 channels.
    """
    info, channels = (model_info(model), 3) if isinstance(model, str) else facts_of(model)
    notes = Counts()
    prepared = prepare(image, info, channels, notes)
    warn_of(notes)
    return prepared


def prepare(image: Any, info: ModelInfo, channels: int, notes: Counts) -> np.ndarray:
    """Crops, resizes and normalises an image, like `preprocess`.

    Args:
        image: see `preprocess`.
        info: the facts of the network.
        channels: of the network's images.
        notes: here the images are counted that `warn_of` warns about.

    Returns:
        float32 [1, h, w, c], with the channels in the network's order.
    """
    picture = images.read(image, upright=info.upright)
    if images.EXIF_IGNORED in picture.notes:
        name = image if isinstance(image, str | os.PathLike) else "an image in memory"
        notes.add(images.EXIF_IGNORED, name)
    return as_input(crop_of(picture, info, channels), info)


def warn_of(notes: Counts) -> None:
    """Warns about photos with an EXIF orientation that the network's source ignores."""
    for line in notes.lines():
        warnings.warn(f"{line}; {SEEN_AS_STORED}", stacklevel=3)


def facts_of(model: Any) -> tuple[ModelInfo, int]:
    """Returns the facts of a network and its number of image channels.

    Raises:
        ValueError: for a network that `create_model` did not build, or without 1 or 3 channels.
    """
    if model.info is None:
        raise ValueError("this network was not built by create_model: give a name from list_models")
    if model.in_channels not in (1, 3):
        raise ValueError(
            f"images have 1 or 3 channels, and this network takes {model.in_channels}: "
            "prepare its input yourself"
        )
    return model.info, model.in_channels
