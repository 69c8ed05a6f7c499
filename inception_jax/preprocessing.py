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
    """Crops, resizes and normalises an image as the original implementation does in evaluation.

    Warns if the image has an EXIF orientation that is ignored because the original implementation
    ignores it.

    Args:
        model: a network, whose `model.info` is used, or a name that `create_model` takes.
        image: path or bytes of a file, a Pillow image of any mode, or a NumPy, jax or torch array,
            uint8 [h, w], [h, w, 1] or [h, w, 3] (RGB); see `images.read`.

    Returns:
        The network's input, float32 [1, h, w, c], with the channels in the network's order.

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
        info: facts about the network.
        channels: number of channels of the network's images.
        notes: counts to update if an EXIF orientation is ignored; see `warn_of`.

    Returns:
        The network's input, float32 [1, h, w, c], with the channels in the network's order.
    """
    picture = images.read(image, upright=info.upright)
    if images.EXIF_IGNORED in picture.notes:
        name = image if isinstance(image, str | os.PathLike) else "an image in memory"
        notes.add(images.EXIF_IGNORED, name)
    return as_input(crop_of(picture, info, channels), info)


def warn_of(notes: Counts) -> None:
    """Warns about the images in `notes`, whose EXIF orientation was ignored."""
    for line in notes.lines():
        warnings.warn(f"{line}; {SEEN_AS_STORED}", stacklevel=3)


def facts_of(model: Any) -> tuple[ModelInfo, int]:
    """Returns the facts about a network and the number of channels of its images.

    Raises:
        ValueError: if `create_model` did not build the network, or its images have neither 1 nor 3
            channels.
    """
    if model.info is None:
        raise ValueError("this network was not built by create_model: give a name from list_models")
    if model.in_channels not in (1, 3):
        raise ValueError(
            f"images have 1 or 3 channels, and this network takes {model.in_channels}: "
            "prepare its input yourself"
        )
    return model.info, model.in_channels
