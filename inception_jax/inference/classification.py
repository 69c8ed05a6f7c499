"""Classifies images in one call and returns the names of the most likely classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image

from inception_jax import classes
from inception_jax.inference.compiled import jit_predict
from inception_jax.nn.model import Model
from inception_jax.notes import Counts
from inception_jax.preprocessing import facts_of, prepare, warn_of

_BATCH = 16


def classify(model: Model, images: Any, top: int = 5) -> list[list[tuple[str, float]]]:
    """Returns the most likely classes of images.

    If photos have an EXIF orientation that the original implementation ignores, one warning gives
    their number.

    Args:
        model: a network with weights, from `create_model` or `load`.
        images: one image that `preprocess` takes, or an iterable of such images. An array
            uint8 [n, h, w, c] is n images.
        top: number of classes to return; all classes if there are fewer.

    Returns:
        A list with one entry per image, also for a single image. An entry is a list of pairs
        (class name, probability), the most likely class first.

    Raises:
        BadImageError: for an image that is damaged or cannot be read.
        ValueError: for an array of an unsupported shape or dtype, or `top` below 1.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    names, notes = classes.names(model), Counts()
    likeliest = [
        [(names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
        for row in _probabilities(model, _each(images), notes)
    ]
    warn_of(notes)
    return likeliest


def _each(images: Any) -> Any:
    """Wraps a single image in a list; returns anything else unchanged."""
    one = isinstance(images, str | bytes | Image.Image) or hasattr(images, "__fspath__")  # a path
    if one or getattr(images, "ndim", 4) < 4:
        return [images]
    return images


def _probabilities(model: Model, images: Iterable[Any], notes: Counts) -> Iterator[np.ndarray]:
    predict, (info, channels) = jit_predict(model), facts_of(model)
    batch: list[np.ndarray] = []
    size = len(images) if hasattr(images, "__len__") else _BATCH  # pyright: ignore
    size = min(max(size, 1), _BATCH)  # one size for all batches, because each is compiled

    def computed() -> np.ndarray:
        filled = batch + [np.zeros_like(batch[0])] * (size - len(batch))
        logits = np.asarray(predict(np.concatenate(filled)), np.float32)
        return np.asarray(jax.nn.softmax(logits))[: len(batch)]

    for image in images:
        batch.append(prepare(image, info, channels, notes))
        if len(batch) == size:
            yield from computed()
            batch.clear()
    if batch:
        yield from computed()
