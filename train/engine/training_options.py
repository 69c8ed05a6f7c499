"""The options of the network and its training.

They stand apart from the code that uses them because `--help` does not wait for jax.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from inception_jax.nn.rewrite_names import DEFAULT_REWRITES, Rewrite
from train.config.fields import AT_MOST_ONE, BELOW_ONE, MAY_CHANGE, NOT_NEGATIVE, POSITIVE


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """The network."""

    arch: str = "xception"
    """Network to train: see `inception_jax.list_models()`."""
    init_from: Path | None = None
    """Weight file to start from, of any layout that load_weights reads, or a run's folder;
    FILE#NAME is one network of several in a file. A classifier of another size, or one that the
    file lacks, starts from random values. A file of this programme also says the width, and, where
    arch is not given, the network."""
    freeze_backbone: bool = False
    """Train the classifier alone: all other parameters and BatchNorm's statistics stay as they are
    in init-from."""
    width_multiplier: Annotated[float, POSITIVE] = 1.0
    """Factor on every channel count of the network."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """What the network computes in; parameters and statistics are float32. float64, for all of
    them, tells rounding from mistakes: on a CPU, two runs that differ in float32 agree in it."""
    grad_reduce: Literal["float32", "bfloat16"] = "float32"
    """What the devices' gradients of convolution and classifier kernels are summed in, where the
    network computes in bfloat16; everything else is summed in float32."""
    remat: Annotated[bool, MAY_CHANGE] = False
    """Keep only the outputs of convolutions for the backward pass and compute the rest again:
    a third less memory for about a seventh more time on TPUs."""
    rewrites: Annotated[tuple[Rewrite, ...], MAY_CHANGE] = DEFAULT_REWRITES
    """Exact rewritings of the network to use, see inception_jax/nn/rewrites.py; given without
    any, every sum is the paper's."""
    dropout: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.2
    """Share of the features before the classifier that is dropped."""
    drop_path: Annotated[float | None, NOT_NEGATIVE, BELOW_ONE] = None
    """Stochastic depth of the last block, of InceptionNeXt and the aligned Xceptions; not given:
    the network's own."""
    bn_momentum: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9997
    """BatchNorm: share of the running statistics that a step keeps."""


@dataclasses.dataclass(frozen=True)
class AugmentationOptions:
    """Augmentation of training images on the device."""

    distort: Literal["none", "inception"] = "none"
    """inception: brightness, saturation, hue and contrast changed at random, as TF-slim does."""
    mixup: Annotated[float, NOT_NEGATIVE] = 0.0
    """Alpha of mixup's Beta distribution; with cutmix, each batch takes one of them. 0: none."""
    cutmix: Annotated[float, NOT_NEGATIVE] = 0.0
    """The same for cutmix."""
    random_erasing: Annotated[float, NOT_NEGATIVE, AT_MOST_ONE] = 0.0
    """Share of the training images that a rectangle of noise is put into."""


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """The length of the run and the learning rate."""

    epochs: Annotated[float, POSITIVE, MAY_CHANGE] = 1.0
    """Passes over the training images."""
    steps: Annotated[int | None, POSITIVE, MAY_CHANGE] = None
    """Training steps, instead of epochs."""
    learning_rate: Annotated[float, POSITIVE] = 0.045
    """Highest rate, before lr-base-batch."""
    lr_base_batch: Annotated[int, NOT_NEGATIVE] = 0
    """The rate is multiplied by batch-size / lr-base-batch; 0: it stays as it is."""
    lr_schedule: Literal["exponential", "cosine", "polynomial"] = "exponential"
    """How the rate falls, from step 0 to the last."""
    lr_decay: Annotated[float, POSITIVE] = 0.94
    """exponential: factor on the rate over each lr-decay-epochs."""
    lr_decay_epochs: Annotated[float, POSITIVE] = 2.0
    """exponential: epochs between two decays."""
    lr_decay_images: Annotated[int, NOT_NEGATIVE] = 0
    """exponential: images between two decays, instead of epochs; 0: in epochs."""
    lr_staircase: bool = False
    """exponential: all of lr-decay at the end of its period, instead of a little at every step."""
    lr_power: Annotated[float, NOT_NEGATIVE] = 0.5
    """polynomial: power of the share of the steps that is left."""
    lr_floor: Annotated[float, NOT_NEGATIVE, AT_MOST_ONE] = 0.0
    """Lowest rate, as a share of the highest; of the cosine, where it ends."""
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    """Epochs in which the rate rises linearly from warmup-start to the schedule."""
    warmup_start: Annotated[float, NOT_NEGATIVE, AT_MOST_ONE] = 0.1
    """Rate at the start of the warm-up, as a share of the highest."""
    cold_epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    """Epochs before the warm-up, at its first rate."""
    head_epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    """Epochs at the start, of epochs in all, in which the classifier alone is trained, as by
    freeze-backbone. The schedule of the rate starts after them."""
    head_learning_rate: Annotated[float, POSITIVE] = 0.003
    """Rate of the first of the head-epochs; it falls to a tenth along a cosine."""


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The optimiser."""

    optimizer: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    """rmsprop: TensorFlow's form; sgd: with momentum."""
    momentum: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9
    """rmsprop, sgd: share of the last update that a step keeps."""
    rms_decay: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9
    """rmsprop: share of the mean square that a step keeps."""
    rms_eps: Annotated[float, NOT_NEGATIVE] = 1.0
    """rmsprop: added to the mean square under the root."""
    adam_b1: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9
    """adamw: share of the mean gradient that a step keeps."""
    adam_b2: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.999
    """adamw: share of the mean square that a step keeps."""
    adam_eps: Annotated[float, NOT_NEGATIVE] = 1e-8
    """adamw: added to the root of the mean square."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 4e-5
    """On convolution and classifier kernels. rmsprop, sgd: L2, a part of the gradient; adamw: a
    share of the weight times the rate, apart from the gradient."""
    bias_lr_multiplier: Annotated[float, NOT_NEGATIVE] = 1.0
    """Factor on the updates of biases."""
    clip_norm: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest norm of the whole gradient; 0: no limit."""


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """The loss, and what becomes of an update."""

    label_smoothing: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.1
    """Share of the label spread evenly over all classes."""
    aux_weight: Annotated[float, NOT_NEGATIVE] = 0.4
    """Weight of each auxiliary classifier's loss, for networks that have one."""
    ema_decay: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9999
    """Share of the averaged parameters and statistics that a step keeps, after a warm-up of
    (1 + step) / (10 + step). The averages are what is evaluated and exported. 0: no averages."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite: stop, or leave everything but the step as it was."""


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """When the run logs, evaluates and saves."""

    log_every: Annotated[int, POSITIVE, MAY_CHANGE] = 10
    """Steps between lines of the log."""
    eval_every: Annotated[float, POSITIVE, MAY_CHANGE] = 1.0
    """Epochs between evaluations; there is also one at the end."""
    checkpoint_every: Annotated[int, POSITIVE, MAY_CHANGE] = 1000
    """Steps between checkpoints; there is also one at the end. A kill costs at most so many steps,
    and those that were trained while a checkpoint was being written."""
    keep_checkpoints: Annotated[int, POSITIVE, MAY_CHANGE] = 2
    """Newest checkpoints that are kept, beside the one with the best evaluation."""
    start_over: Annotated[bool, MAY_CHANGE] = False
    """Start at step 0 where every checkpoint of the workdir is damaged, or only results are left;
    damaged ones are moved to WORKDIR/damaged_checkpoints. Without it such a run ends with an
    error. A run with a good checkpoint resumes either way."""
    profile_steps: Annotated[str | None, MAY_CHANGE] = None
    """A:B writes a profile of these steps to WORKDIR/profile, for TensorBoard or Perfetto."""
