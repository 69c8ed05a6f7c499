"""Images to names: one call from pictures to the likeliest classes."""

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
    """Returns the likeliest classes of images.

    Warns once, with their number, of photos with an EXIF orientation that the network's source
    ignores.

    Args:
        model: of `create_model` or `load`, with weights.
        images: one image, or an iterable of them: each what `preprocess` takes. An array
            uint8 [n, h, w, c] is n images.
        top: how many classes; all of them where there are fewer.

    Returns:
        For each image, also for a single one, a list of (class name, probability), the likeliest
        first.

    Raises:
        BadImageError: for what is no whole image.
        ValueError: for an array of another shape or type.
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
    """Takes one image for a list of it."""
    one = isinstance(images, str | bytes | Image.Image) or hasattr(images, "__fspath__")  # a path
    if one or getattr(images, "ndim", 4) < 4:
        return [images]
    return images


def _probabilities(model: Model, images: Iterable[Any], notes: Counts) -> Iterator[np.ndarray]:
    predict, (info, channels) = jit_predict(model), facts_of(model)
    batch: list[np.ndarray] = []
    size = len(images) if hasattr(images, "__len__") else _BATCH  # pyright: ignore
    size = min(max(size, 1), _BATCH)  # of all batches, because each size is compiled

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
