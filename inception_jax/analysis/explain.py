"""Where in an image a network sees a class: Grad-CAM."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.typing import ArrayLike
from PIL import Image

from inception_jax.analysis.features import check_stages, feature_info
from inception_jax.analysis.tracing import traced
from inception_jax.nn.model import Model
from inception_jax.nn.rewrites import REWRITES, Rewrite, rewritten


def grad_cam(
    model: Model, *, stage: str | None = None
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns a compiled function that shows what in an image speaks for a class.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2): the mean gradient of the
    class' logit over each channel of a stage weighs the channels; what is positive of their sum is
    enlarged to the image, bilinearly, and divided by its maximum.

    Args:
        model: as it is now, in any mode.
        stage: name in `feature_info`; None: the last tap, which the classifier sees.

    Returns:
        A function of images [n, h, w, c], normalised as `model_info` says, and of classes [n], or
        without these of the likeliest, to heat [n, h, w], float32 from 0 to 1, and logits
        [n, num_classes]. Where nothing speaks for the class, heat is 0 everywhere.

    Raises:
        ValueError: for a stage that the network does not have; the function itself, for images that
            the network does not take.
    """
    stage = model.taps[-1] if stage is None else stage
    check_stages([stage], [info.name for info in feature_info(model)])
    graphdef, state = nnx.split(model)
    return functools.partial(_grad_cam, stage, graphdef, state)


def _grad_cam(
    stage: str,
    graphdef: nnx.GraphDef,
    state: nnx.State,
    images: ArrayLike,
    classes: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    images = jnp.asarray(images)
    classes = None if classes is None else jnp.asarray(classes)
    return _compiled(stage, graphdef, state, images, classes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(
    stage: str,
    graphdef: nnx.GraphDef,
    state: nnx.State,
    images: jax.Array,
    classes: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    map, rest = at_stage(stage, graphdef, state, images)
    logits, gradient_of = jax.vjp(rest, map)
    chosen = logits.argmax(-1) if classes is None else classes
    # Images do not meet in evaluation, so one pass backward has every image's own gradient.
    (gradient,) = gradient_of(jax.nn.one_hot(chosen, logits.shape[-1], dtype=logits.dtype))
    weights = gradient.mean((1, 2), keepdims=True, dtype=jnp.float32)
    heat = jax.nn.relu((weights * map.astype(jnp.float32)).sum(-1))
    heat = jax.image.resize(heat, images.shape[:3], "bilinear")
    return heat / jnp.maximum(heat.max((1, 2), keepdims=True), jnp.finfo(heat.dtype).tiny), logits


def at_stage(
    stage: str, graphdef: nnx.GraphDef, state: nnx.State, images: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Cuts a network in two at a stage.

    Returns:
        The stage's map, and the rest of the network, a function of that map to the logits.
    """
    # Without repeats: of calls of one function for several layers none could be cut.
    in_use: list[Rewrite] = [name for name in REWRITES if name != "repeats"]
    with rewritten(*in_use):
        found, maps = traced(graphdef, state, images)
    program, consts = found.jaxpr, found.consts
    map, logits = program.outvars[list(maps).index(stage)], program.outvars[-1]
    inputs = jax.tree.leaves((state, images))
    rest = program.replace(
        invars=[map, *program.invars],
        outvars=[logits],
        eqns=[equation for equation in program.eqns if map not in equation.outvars],
        debug_info=program.debug_info.with_unknown_names(),
    )
    before = jaxpr_as_fun(ClosedJaxpr(program.replace(outvars=[map]), consts))
    after = jaxpr_as_fun(ClosedJaxpr(rest, consts))
    return before(*inputs)[0], lambda x: after(x, *inputs)[0]


def overlaid(image: Image.Image, heat: np.ndarray, opacity: float = 0.5) -> Image.Image:
    """Returns a picture under the colours of its heat.

    Args:
        image: of any size.
        heat: [h, w] from 0 to 1, of the whole picture.
        opacity: share of the colour where heat is 1; none where it is 0.
    """
    size = image.size
    warm = Image.fromarray(np.uint8(np.round(255 * heat))).resize(size, Image.Resampling.BILINEAR)
    level = np.asarray(warm, np.float32)[:, :, None] / 255
    # From dark violet over red and orange to yellow, in steps that look even.
    stops = np.array([[13, 8, 135], [156, 23, 158], [237, 121, 83], [240, 249, 33]], np.float32)
    at = level[:, :, 0] * (len(stops) - 1)
    colour = np.stack([np.interp(at, range(len(stops)), stops[:, i]) for i in range(3)], -1)
    mixed = np.asarray(image.convert("RGB"), np.float32)
    share = opacity * np.sqrt(level)
    return Image.fromarray(np.uint8(np.round(mixed * (1 - share) + colour * share)))
