"""The optimisers of the papers' recipes, and how their rate falls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.config.options import Config

Schedule = Callable[[Any], Any]


def peak_rate(config: Config) -> float:
    """Returns the highest rate: in proportion to the batch where the recipe says so."""
    scale = config.batch_size / config.lr_base_batch if config.lr_base_batch else 1.0
    return config.learning_rate * scale


def learning_rate(config: Config, steps_per_epoch: int, total: int) -> Schedule:
    """Returns the rate as a function of a step, or an array of steps.

    The warm-up stands in front of a schedule that counts from step 0, as timm's and the TPU code's
    do, and ends on it: timm's ends on the highest rate and falls by a percent in the next step, the
    TPU code's climbs by whole epochs.

    Args:
        config: with the schedule.
        steps_per_epoch: for the periods in epochs.
        total: steps of the whole run, for the schedules that end with it.
    """
    peak = peak_rate(config)
    cold = config.cold_epochs * steps_per_epoch
    warm = cold + config.warmup_epochs * steps_per_epoch
    falling = _falling(config, steps_per_epoch, total)
    end = float(falling(warm)) if warm else 0.0

    def rate(step: Any) -> Any:
        rate = jnp.maximum(falling(step), config.lr_floor)
        if warm:
            share = jnp.clip((step - cold) / max(warm - cold, 1e-9), 0, 1)
            rising = config.warmup_start + (end - config.warmup_start) * share
            rate = jnp.where(step < warm, rising, rate)
        return peak * rate

    return rate


def _falling(config: Config, steps_per_epoch: int, total: int) -> Schedule:
    """The rate without warm-up, as a share of the highest."""
    if config.lr_schedule == "cosine":
        floor = config.lr_floor
        return lambda step: (
            floor + (1 - floor) * 0.5 * (1 + jnp.cos(math.pi * jnp.minimum(step / total, 1)))
        )
    if config.lr_schedule == "polynomial":
        return lambda step: jnp.maximum(1 - step / total, 0) ** config.lr_power
    period = config.lr_decay_epochs * steps_per_epoch
    if config.lr_decay_images:
        period = config.lr_decay_images / config.batch_size
    whole = jnp.floor if config.lr_staircase else lambda periods: periods
    return lambda step: config.lr_decay ** whole(step / period)


def make_optimizer(
    config: Config, steps_per_epoch: int, total: int
) -> optax.GradientTransformation:
    """Returns the optimiser of a configuration.

    RMSProp is `tf.train.RMSPropOptimizer`'s: epsilon stands under the root, the mean square starts
    at one, and the rate is applied before the momentum; PyTorch's differs in all three. There and
    in SGD, L2 is a part of the gradient, as in TF-slim and Caffe. The norm limit acts on the sum.
    """
    rate = learning_rate(config, steps_per_epoch, total)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    biases = optax.identity()
    if config.bias_lr_multiplier != 1:
        biases = optax.masked(optax.scale(config.bias_lr_multiplier), _biases)
    if config.optimizer == "adamw":
        b1, b2, eps = config.adam_b1, config.adam_b2, config.adam_eps
        adamw = optax.adamw(
            rate, b1=b1, b2=b2, eps=eps, weight_decay=config.weight_decay, mask=kernels
        )
        return optax.chain(clip, adamw, biases)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
        clip,
        _RULES[config.optimizer](config, rate),
        biases,
    )


def _rmsprop(config: Config, rate: Schedule) -> optax.GradientTransformation:
    return optax.rmsprop(
        rate,
        decay=config.rms_decay,
        eps=config.rms_eps,
        initial_scale=1.0,
        eps_in_sqrt=True,
        momentum=config.momentum,
    )


def _sgd(config: Config, rate: Schedule) -> optax.GradientTransformation:
    """Momentum of updates, as Caffe's and Keras'; PyTorch's is of gradients.

    The two differ in the steps after the rate has changed.
    """
    return optax.chain(optax.scale_by_learning_rate(rate), optax.trace(decay=config.momentum))


_RULES = {"rmsprop": _rmsprop, "sgd": _sgd}


def kernels(params: dict[str, Any]) -> dict[str, Any]:
    """Marks the kernels, and not the biases and BatchNorm's scales, which are not decayed."""
    return _named(params, "kernel")


def _biases(params: dict[str, Any]) -> dict[str, Any]:
    return _named(params, "bias")


def _named(params: dict[str, Any], name: str) -> dict[str, Any]:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == name, params)
