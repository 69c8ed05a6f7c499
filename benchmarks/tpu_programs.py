"""Programs that tpu_estimates.py compiles: training steps, forward passes, single modules.

A program is a function of a state and a batch, with the shapes and dtypes of both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import inception_jax as ij
from benchmarks.implementations import KERAS
from inception_jax.analysis.macs import equations
from inception_jax.create import abstract_model
from inception_jax.drawing import tracing
from inception_jax.nn.model import Model
from inception_jax.nn.remat import rematerialised

Tree = Any
Program = tuple[Callable[..., Any], Tree, Tree]  # a function of a state and a batch, both abstract


@dataclasses.dataclass(frozen=True)
class Work:
    """Batch size and dtype of a program."""

    images: int = 128
    """Number of images per chip."""
    dtype: str = "bfloat16"
    """Dtype in which networks compute."""


def network(arch: str, form: str, mode: str, work: Work) -> Program:
    """Returns a training step or a forward pass of one of this library's networks.

    Args:
        arch: name of the network.
        form: "plain" for no rewrites of `inception_jax.nn.rewrites`, "rewritten" for the default
            rewrites. "memory saving" is "rewritten" with rematerialisation, and "folded" is
            "rewritten" with BatchNorms folded into the layers before them.
        mode: "train" or "infer".
        work: batch size and dtype.

    Returns:
        A function of a state and of the arrays of a batch; the shapes and dtypes of the state; and
        those of the batch.
    """
    dtype = jnp.dtype(work.dtype)
    build = functools.partial(ij.create_model, arch, dtype=dtype)
    model = nnx.eval_shape(lambda: ij.fold(build()) if form == "folded" else build())
    model = nnx.view(
        model, deterministic=mode != "train", use_running_average=mode != "train",
        raise_if_not_found=False,
    )  # fmt: skip
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def forward(params: Tree, stats: Tree, images: jax.Array) -> tuple[Any, Tree]:
        with form_of(form):
            merged = nnx.merge(graphdef, params, stats)
            key = jax.random.key(0)
            logits = merged(images.astype(dtype) / 127.5 - 1, rngs=nnx.Rngs(dropout=key))
            return logits, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    if form == "memory saving":
        forward = rematerialised(forward)
    size = ij.model_info(arch).input_size
    return program(forward, params, stats, size, mode, work)


def keras_network(arch: str, mode: str, work: Work) -> Program:
    """Returns a training step or a forward pass of Keras' network, with the JAX backend.

    Args:
        arch: name of the network, a key of `KERAS`.
        mode: "train" or "infer".
        work: batch size and dtype.

    Returns:
        The function, and the shapes and dtypes of its state and of its batch, as in `network`.
    """
    import keras

    policy = "mixed_bfloat16" if work.dtype == "bfloat16" else work.dtype
    keras.mixed_precision.set_global_policy(policy)
    build = getattr(keras.applications, KERAS[arch])
    model = build(weights=None, classifier_activation=None)
    params = [v.value for v in model.trainable_variables]
    stats = [v.value for v in model.non_trainable_variables]

    def forward(params: Tree, stats: Tree, images: jax.Array) -> tuple[jax.Array, Tree]:
        images = images.astype(jnp.dtype(work.dtype)) / 127.5 - 1
        return model.stateless_call(params, stats, images, training=mode == "train")

    return program(forward, params, stats, ij.model_info(arch).input_size, mode, work)


def program(
    forward: Callable[..., Any], params: Tree, stats: Tree, size: int, mode: str, work: Work
) -> Program:
    """Returns a forward pass, or in the mode "train" an RMSProp step on the cross-entropy.

    Args:
        forward: function of parameters, statistics and images that returns logits and new
            statistics.
        params: shapes and dtypes of the parameters.
        stats: shapes and dtypes of BatchNorm's statistics.
        size: side of the images in pixels.
        mode: "train" or "infer".
        work: batch size.

    Returns:
        The function, and the shapes and dtypes of its state and of its batch, as in `network`.
    """
    tx = optax.rmsprop(0.045, decay=0.9, eps=1.0, momentum=0.9)
    batch = (
        jax.ShapeDtypeStruct((work.images, size, size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((work.images,), jnp.int32),
    )

    def step(state: Tree, images: jax.Array, labels: jax.Array) -> tuple[Tree, jax.Array]:
        params, stats, slots = state

        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            logits, new = forward(params, stats, images)
            each = optax.softmax_cross_entropy_with_integer_labels(
                logits.astype(jnp.float32), labels
            )
            return each.mean(), new

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, slots = tx.update(grads, slots, params)
        return (optax.apply_updates(params, updates), stats, slots), value

    def infer(state: Tree, images: jax.Array, labels: jax.Array) -> tuple[Tree, jax.Array]:
        del labels
        return (), forward(*state, images)[0]

    if mode == "train":
        return step, (params, stats, jax.eval_shape(tx.init, params)), batch
    return infer, (params, stats), batch


def module(name: str, form: str, work: Work) -> Program:
    """Returns the forward and backward pass of a module in training.

    The backward pass starts from the module's output in place of a gradient of a loss.

    Args:
        name: name of the network and path of the module in it, as ARCH.PATH.
        form: "plain", "rewritten" or "memory saving", see `network`.
        work: batch size and dtype.
    """
    arch, _, path = name.partition(".")
    dtype = jnp.dtype(work.dtype)
    model = abstract_model(arch, dtype=dtype)
    shape = input_of(model, path, ij.model_info(arch).input_size)
    part = at(model, path)
    part = nnx.view(part, deterministic=True, use_running_average=False, raise_if_not_found=False)
    graphdef, params, stats = nnx.split(part, nnx.Param, nnx.BatchStat)

    def forward(params: Tree, stats: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        with form_of(form):
            merged = nnx.merge(graphdef, params, stats)
            return merged(x), nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    if form == "memory saving":
        forward = rematerialised(forward)

    def step(state: Tree, x: jax.Array) -> tuple[Tree, Tree]:
        params, stats = state
        y, pull, stats = jax.vjp(lambda p, x: forward(p, stats, x), params, x, has_aux=True)
        grads, dx = pull(y)
        return (grads, stats), dx

    state = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    return step, state, (jax.ShapeDtypeStruct((work.images, *shape[1:]), dtype),)


def at(model: Any, path: str) -> Any:
    """Returns the module at a path, such as block35.0.

    Raises:
        SystemExit: if the model has no such module; the message has the names that exist.
    """
    for name in path.split("."):
        layers = isinstance(model, nnx.List)
        known = dict(enumerate(model)) if layers else vars(model)
        known = {str(key): part for key, part in known.items() if isinstance(part, nnx.Module)}
        if name not in known:
            kind = type(model).__name__
            raise SystemExit(f"{path}: {kind} has no {name!r}; it has {', '.join(known)}")
        model = known[name]
    return model


def input_of(model: Model, path: str, size: int) -> tuple[int, ...]:
    """Returns the input shape of the module at a path, for a batch of one image.

    `size` is the side of the image in pixels.

    Raises:
        SystemExit: if the model does not call the module.
    """
    for equation in equations(tracing.trace(model, (size, size)).closed):
        if tracing.event(equation) == ("enter", path):
            return equation.invars[0].aval.shape
    raise SystemExit(f"{path}: {type(model).__name__} does not call it")


def form_of(form: str) -> contextlib.AbstractContextManager[None]:
    """Returns a context without rewrites for the form "plain", else with the default rewrites."""
    return ij.rewritten(*(() if form == "plain" else ij.DEFAULT_REWRITES))
