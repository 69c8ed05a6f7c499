"""Computes Grad-CAM heat maps, which show the parts of an image that support a class."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from PIL import Image

from inception_jax.analysis.stage_maps import check_stages, feature_info
from inception_jax.nn.model import Model

__all__ = ["grad_cam", "overlaid"]


def grad_cam(
    model: Model, *, stage: str | None = None
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns a compiled function that computes heat maps.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2) weights each channel of a
    stage's feature map by the mean gradient of the class's logit with respect to that channel, and
    adds the channels. The positive part of the sum is resized bilinearly to the image and divided
    by its maximum.

    Args:
        model: network in any mode; evaluation mode is used. Later changes to the network have no
            effect.
        stage: name of a stage in `feature_info`; None: `model.taps[-1]`, whose feature map is the
            input of the classifier.

    Returns:
        A function of images [n, h, w, c], normalised as `model_info` says, and optionally of class
        indices [n]; the default is each image's most likely class. It returns heat maps [n, h, w],
        float32 from 0 to 1, and logits [n, num_classes]. If no part of an image supports the class,
        its heat map is 0 everywhere. The function raises ValueError for images that the network
        does not take.

    Raises:
        ValueError: if the network does not have the stage.
    """
    stage = model.taps[-1] if stage is None else stage
    check_stages([stage], [info.name for info in feature_info(model)])
    graphdef, state = nnx.split(model.eval_view())

    def cam(images: ArrayLike, classes: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        classes = None if classes is None else jnp.asarray(classes)
        return _heat_and_logits(stage, graphdef, state, jnp.asarray(images), classes)

    return cam


@functools.partial(jax.jit, static_argnums=(0, 1))
def _heat_and_logits(
    stage: str,
    graphdef: nnx.GraphDef,
    state: nnx.State,
    images: jax.Array,
    classes: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    def logits_and_map(offset: jax.Array | float) -> tuple[Any, jax.Array]:
        def hook(name: str, map: jax.Array) -> jax.Array:
            return map + offset if name == stage else map

        model = nnx.merge(graphdef, state, copy=True)  # its variables belong to this trace
        maps = model.features(images, hook=hook)
        return model.classify(maps), maps[stage]

    # The gradient with respect to a map is the gradient with respect to a zero added to it.
    _, map = jax.eval_shape(logits_and_map, 0.0)
    logits, gradient_of, map = jax.vjp(logits_and_map, jnp.zeros_like(map), has_aux=True)
    chosen = logits.argmax(-1) if classes is None else classes
    # In evaluation mode, images do not affect each other, so one backward pass computes all
    # gradients.
    (gradient,) = gradient_of(jax.nn.one_hot(chosen, logits.shape[-1], dtype=logits.dtype))
    weights = gradient.mean((1, 2), keepdims=True, dtype=jnp.float32)
    heat = jax.nn.relu((weights * map.astype(jnp.float32)).sum(-1))
    heat = jax.image.resize(heat, images.shape[:3], "bilinear")
    return heat / jnp.maximum(heat.max((1, 2), keepdims=True), jnp.finfo(heat.dtype).tiny), logits


def overlaid(image: Image.Image, heat: np.ndarray, opacity: float = 0.5) -> Image.Image:
    """Returns an image overlaid with the colours of a heat map.

    Args:
        image: an image of any size.
        heat: heat map of the whole image, [h, w] from 0 to 1. It is resized to the image.
        opacity: opacity of the colours where the heat is 1. It decreases to 0 where the heat is 0.

    Returns:
        An RGB image of the size of `image`.
    """
    size = image.size
    warm = Image.fromarray(np.uint8(np.round(255 * heat))).resize(size, Image.Resampling.BILINEAR)
    level = np.asarray(warm, np.float32)[:, :, None] / 255
    # From dark violet over red and orange to yellow, in perceptually even steps.
    stops = np.array([[13, 8, 135], [156, 23, 158], [237, 121, 83], [240, 249, 33]], np.float32)
    at = level[:, :, 0] * (len(stops) - 1)
    colour = np.stack([np.interp(at, range(len(stops)), stops[:, i]) for i in range(3)], -1)
    mixed = np.asarray(image.convert("RGB"), np.float32)
    share = opacity * np.sqrt(level)
    return Image.fromarray(np.uint8(np.round(mixed * (1 - share) + colour * share)))
