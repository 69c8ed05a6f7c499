"""A network as arrays and pure functions, for a training step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import inception_jax as ij
from inception_jax.nn.model import Model
from inception_jax.nn.remat import rematerialised
from inception_jax.nn.rewrites import rewritten
from train.engine.initial_weights import start_file
from train.engine.training_options import NetworkOptions
from train.errors import UsageError

Tree = Any  # nested dicts of arrays
Forward = Callable[[Tree, Tree, jax.Array, jax.Array], tuple[dict[str, jax.Array], Tree]]
Predict = Callable[[Tree, Tree, jax.Array], jax.Array]


def check(options: NetworkOptions, image_size: int) -> None:
    """Checks that the options, and the side of the images, fit each other and the network.

    Raises:
        UsageError: if they do not; the message names the option and what it needs.
        UnknownModelError: if no network has this name; the message suggests similar names.
    """
    info = ij.model_info(options.arch)
    if image_size < info.min_size:
        raise UsageError(
            f"--image-size {image_size} is below the minimum of {options.arch}, {info.min_size}"
        )
    if options.drop_path is not None and "drop_path" not in info.options:
        raise UsageError(f"--drop-path: {info.arch} has no stochastic depth")
    if options.grad_reduce == "bfloat16" and options.dtype != "bfloat16":
        raise UsageError("--grad-reduce bfloat16 is for networks in --dtype bfloat16")
    if options.init_from is not None:
        start_file(options.init_from)
    if options.freeze_backbone and options.init_from is None:
        raise UsageError("--freeze-backbone needs --init-from: random features teach nothing")


def build(
    options: NetworkOptions, num_classes: int, in_channels: int, *, aux_heads: bool, seed: int
) -> Model:
    """Builds the network with random parameters.

    With `aux_heads`, the network gets its auxiliary classifiers, if it has any. They are omitted if
    the backbone is frozen, because they train only the backbone.
    """
    has_aux = bool(ij.model_info(options.arch).aux_heads) and not options.freeze_backbone
    depth: dict[str, Any] = {} if options.drop_path is None else {"drop_path": options.drop_path}
    return ij.create_model(
        options.arch,
        num_classes=num_classes,
        in_channels=in_channels,
        aux_heads=has_aux and aux_heads,
        width_multiplier=options.width_multiplier,
        dtype=jnp.dtype(options.dtype),
        param_dtype=jnp.promote_types(options.dtype, jnp.float32),
        rngs=nnx.Rngs(seed),
        dropout=options.dropout,
        bn_momentum=options.bn_momentum,
        **depth,
    )


def split(
    model: Model, *, freeze_backbone: bool = False, wide_gradients: bool = True
) -> tuple[nnx.GraphDef, nnx.GraphDef, Tree, Tree]:
    """Splits a network into graphs (`nnx.GraphDef`) and arrays.

    Args:
        model: the network.
        freeze_backbone: train only the classifiers. BatchNorm then uses the running statistics in
            training too.
        wide_gradients: sum the gradients of kernels over devices in the dtype of the parameters.
            If False, they are summed in the dtype of the computations.

    Returns:
        The graph for training; the graph for evaluation; the trained parameters; and the rest,
        which are BatchNorm's statistics and the frozen parameters.
    """
    trained: Any = nnx.Param
    if freeze_backbone:
        classifiers = [tuple(name.split(".")) for name in model.classifiers]
        trained = lambda path, _: any(path[: len(c)] == c for c in classifiers)  # noqa: E731
    # GoogLeNet as published has no BatchNorm, so no layer takes `use_running_average`.
    view = functools.partial(nnx.view, model, raise_if_not_found=False)
    views = (
        view(
            deterministic=False,
            use_running_average=freeze_backbone,
            wide_gradients=wide_gradients,
        ),
        view(deterministic=True, use_running_average=True),
    )
    (train_def, params, rest), (eval_def, *_) = (nnx.split(v, trained, ...) for v in views)
    return train_def, eval_def, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def head_view(model: Model, *, wide_gradients: bool = True) -> nnx.GraphDef:
    """Returns a graph for the steps that train only the classifiers.

    The graph fits the parameters and the rest that `split` returns with `freeze_backbone=False`.
    BatchNorm uses the running statistics.

    Args:
        model: the network.
        wide_gradients: see `split`.
    """
    view = nnx.view(
        model,
        deterministic=False,
        use_running_average=True,
        wide_gradients=wide_gradients,
        raise_if_not_found=False,
    )
    return nnx.split(view, nnx.Param, ...)[0]


def make_forward(
    train_def: nnx.GraphDef, options: NetworkOptions, *, frozen: bool = False
) -> Forward:
    """Returns a function that computes the forward pass of training.

    The function takes parameters, the rest (see `split`), images and a dropout key. It returns the
    logits of every classifier, by name, and BatchNorm's new statistics. The statistics are None if
    they do not change.

    Args:
        train_def: graph from `split` or `head_view`.
        options: options of the network.
        frozen: do not change the statistics. The option `freeze_backbone` has the same effect.
    """
    frozen = frozen or options.freeze_backbone

    def forward(params: Tree, rest: Tree, x: jax.Array, key: jax.Array) -> tuple[Any, Tree]:
        with rewritten(*options.rewrites):
            model = nnx.merge(train_def, params, rest)
            outputs = model(x, rngs=nnx.Rngs(dropout=key))
        stats = None
        if not frozen:
            stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return outputs if isinstance(outputs, dict) else {"logits": outputs}, stats

    return rematerialised(forward) if options.remat else forward


def make_predict(eval_def: nnx.GraphDef, options: NetworkOptions) -> Predict:
    """Returns a function that computes the forward pass of evaluation.

    The function maps parameters, the rest (see `split`) and images to logits.
    """

    def predict(params: Tree, rest: Tree, x: jax.Array) -> jax.Array:
        with rewritten(*options.rewrites):
            return nnx.merge(eval_def, params, rest)(x)

    return predict
