"""The length of a run, and its learning rate schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from train.engine.training_options import ScheduleOptions
from train.errors import UsageError

Schedule = Callable[[Any], Any]


def length(options: ScheduleOptions, batch_size: int, images: int) -> tuple[int, int]:
    """Returns the number of steps in an epoch, and in the whole run.

    Raises:
        UsageError: if there are too few images to fill a batch.
    """
    per_epoch = images // batch_size
    if per_epoch == 0:
        raise UsageError(f"--batch-size {batch_size} is more than the {images} images")
    return per_epoch, options.steps or max(round(options.epochs * per_epoch), 1)


def head_steps(options: ScheduleOptions, per_epoch: int, total: int) -> int:
    """Returns the number of steps at the start that train only the classifier."""
    return min(round(options.head_epochs * per_epoch), total)


def head_rate(options: ScheduleOptions, steps: int) -> Schedule:
    """Returns the learning rate schedule of the phase that trains only the classifier.

    Args:
        options: options of the schedule.
        steps: number of steps of this phase.
    """
    cosine = dataclasses.replace(options, lr_schedule="cosine", lr_floor=0.1)
    falling = _falling(cosine, 0.0, steps)
    return lambda step: options.head_learning_rate * falling(step)


def peak_rate(options: ScheduleOptions, batch_size: int) -> float:
    """Returns the peak learning rate, scaled with the batch size if `lr_base_batch` is set."""
    scale = batch_size / options.lr_base_batch if options.lr_base_batch else 1.0
    return options.learning_rate * scale


def learning_rate(
    options: ScheduleOptions, batch_size: int, steps_per_epoch: int, total: int
) -> Schedule:
    """Returns the learning rate as a function of a step, or of an array of steps.

    The decay starts at step 0, and the warm-up replaces its beginning. (With
    `optax.join_schedules`, the decay would start after the warm-up.) The warm-up is linear, and
    ends at the rate to which the schedule has decayed by then.

    timm and tensorflow/tpu's Inception V3 also start the decay at step 0. But in timm, the warm-up
    ends at the peak rate, and the rate then drops to the decayed one. In tensorflow/tpu, the rate
    rises only once per epoch during the warm-up.

    Args:
        options: options of the schedule.
        batch_size: number of images in a step.
        steps_per_epoch: number of steps in an epoch, to convert periods from epochs to steps.
        total: number of steps of the schedule, which decides when cosine and polynomial decay end.
    """
    peak = peak_rate(options, batch_size)
    cold = options.cold_epochs * steps_per_epoch
    warm = cold + options.warmup_epochs * steps_per_epoch
    period = options.lr_decay_epochs * steps_per_epoch
    if options.lr_decay_images:
        period = options.lr_decay_images / batch_size
    falling = _falling(options, period, total)
    end = float(falling(warm)) if warm else 0.0

    def rate(step: Any) -> Any:
        rate = jnp.maximum(falling(step), options.lr_floor)
        if warm:
            share = jnp.clip((step - cold) / max(warm - cold, 1e-9), 0, 1)
            rising = options.warmup_start + (end - options.warmup_start) * share
            rate = jnp.where(step < warm, rising, rate)
        return peak * rate

    return rate


def _falling(options: ScheduleOptions, period: float, total: int) -> Schedule:
    """Returns the schedule without warm-up, as a fraction of the peak rate.

    Args:
        options: options of the schedule.
        period: number of steps between two exponential decays.
        total: number of steps until cosine or polynomial decay ends.
    """
    if options.lr_schedule == "cosine":
        floor = options.lr_floor
        return lambda step: (
            floor + (1 - floor) * 0.5 * (1 + jnp.cos(math.pi * jnp.minimum(step / total, 1)))
        )
    if options.lr_schedule == "polynomial":
        return lambda step: jnp.maximum(1 - step / total, 0) ** options.lr_power
    whole = jnp.floor if options.lr_staircase else lambda periods: periods
    return lambda step: options.lr_decay ** whole(step / period)
