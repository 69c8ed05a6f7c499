"""The optimiser of the Inception papers, in TensorFlow's form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from train.config import Config


def learning_rate(config: Config, steps_per_epoch: int) -> Callable[[Any], Any]:
    """Exponential decay, smooth within an epoch; of a number or an array of steps."""
    period = config.lr_decay_epochs * steps_per_epoch
    return lambda step: config.learning_rate * config.lr_decay ** (step / period)


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """RMSProp as `tf.train.RMSPropOptimizer` computes it.

    Epsilon stands under the root, the mean square starts at one, and the rate is applied before the
    momentum; PyTorch's RMSProp differs in all three. L2 is a part of the gradient, as in TF-slim,
    and the norm limit acts on the sum of both.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
        clip,
        optax.rmsprop(
            learning_rate(config, steps_per_epoch),
            decay=config.rms_decay,
            eps=config.rms_eps,
            initial_scale=1.0,
            eps_in_sqrt=True,
            momentum=config.momentum,
        ),
    )


def kernels(params: dict[str, Any]) -> dict[str, Any]:
    """Marks the kernels, and not the biases and BatchNorm's scales, which are not decayed."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
