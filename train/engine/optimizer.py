"""The optimisers of the papers' recipes."""

from __future__ import annotations

from typing import Any

import jax
import optax

from train.engine.schedule import Schedule
from train.engine.training_options import OptimizerOptions


def make_optimizer(options: OptimizerOptions, rate: Schedule) -> optax.GradientTransformation:
    """Returns the optimiser.

    RMSProp is that of `tf.train.RMSPropOptimizer`: epsilon is inside the square root, the mean
    square starts at one, and the learning rate is applied before the momentum. PyTorch's RMSProp
    differs in all three points.

    For RMSProp and SGD, L2 regularisation is added to the gradient, as in TF-slim and Caffe.
    Gradient clipping applies to this sum. The momentum of SGD accumulates updates, as in Caffe and
    Keras. In PyTorch, it accumulates gradients. The two differ after a change of the learning rate.

    Args:
        options: options of the optimiser.
        rate: function that maps a step to its learning rate.
    """
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    biases = optax.identity()
    if options.bias_lr_multiplier != 1:
        biases = optax.masked(optax.scale(options.bias_lr_multiplier), _biases)
    if options.optimizer == "adamw":
        b1, b2, eps = options.adam_b1, options.adam_b2, options.adam_eps
        adamw = optax.adamw(
            rate, b1=b1, b2=b2, eps=eps, weight_decay=options.weight_decay, mask=_kernels
        )
        return optax.chain(clip, adamw, biases)
    if options.optimizer == "rmsprop":
        rule = optax.rmsprop(
            rate,
            decay=options.rms_decay,
            eps=options.rms_eps,
            initial_scale=1.0,
            eps_in_sqrt=True,
            momentum=options.momentum,
        )
    else:
        momentum = optax.trace(decay=options.momentum)
        rule = optax.chain(optax.scale_by_learning_rate(rate), momentum)
    decay = optax.add_decayed_weights(options.weight_decay, mask=_kernels)
    return optax.chain(decay, clip, rule, biases)


def _kernels(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the mask of weight decay: a tree of bools, True for kernels only."""
    return _named(params, "kernel")


def _biases(params: dict[str, Any]) -> dict[str, Any]:
    return _named(params, "bias")


def _named(params: dict[str, Any], name: str) -> dict[str, Any]:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == name, params)
