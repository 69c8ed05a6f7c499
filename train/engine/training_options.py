"""Options for the network and its training.

This file does not import jax, so that `--help` is fast.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from inception_jax.nn.rewrite_names import REWRITES, Rewrite
from train.config.fields import AT_MOST_ONE, BELOW_ONE, MAY_CHANGE, NOT_NEGATIVE, POSITIVE


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """Options for the network."""

    arch: str = "xception"
    """Network to train: see `inception_jax.list_models()`."""
    init_from: Path | None = None
    """Initial weights: a weight file in any layout that load_weights reads, or the folder of a run.
    FILE#NAME selects one network if a file contains several. The classifier is initialised randomly
    if its size differs or the file has none. A file that this programme wrote also sets
    width-multiplier, and arch if that is not given."""
    freeze_backbone: bool = False
    """Train only the classifier. All other parameters and BatchNorm's statistics keep the values of
    init-from."""
    width_multiplier: Annotated[float, POSITIVE] = 1.0
    """Multiplies every channel count of the network."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Dtype of the network's computations. Parameters and statistics stay float32, except that
    float64 applies to all of them: use float64 on a CPU to find out whether two runs differ only by
    rounding."""
    grad_reduce: Literal["float32", "bfloat16"] = "float32"
    """With dtype bfloat16: the dtype in which the gradients of convolution and classifier kernels
    are summed over devices. All other gradients are summed in float32."""
    remat: Annotated[bool, MAY_CHANGE] = False
    """Rematerialisation: keep only the outputs of convolutions for the backward pass and recompute
    the rest. On TPUs this saves a third of the memory and costs about a seventh more time."""
    rewrites: Annotated[tuple[Rewrite, ...], MAY_CHANGE] = REWRITES
    """Rewrites of the network's program, which compute the same results faster, see
    inception_jax/nn/rewrites.py. Without a value, this option disables all of them."""
    dropout: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.2
    """Dropout rate of the features before the classifier."""
    drop_path: Annotated[float | None, NOT_NEGATIVE, BELOW_ONE] = None
    """Stochastic depth: the rate at which the last block is dropped, in InceptionNeXt and the
    aligned Xceptions. Not given: the network's own rate."""
    bn_momentum: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9997
    """BatchNorm: share of the running statistics that each step keeps (PyTorch's momentum is one
    minus this)."""


@dataclasses.dataclass(frozen=True)
class AugmentationOptions:
    """Options for the augmentation of training images on the device."""

    distort: Literal["none", "inception"] = "none"
    """inception: change brightness, saturation, hue and contrast randomly, like TF-slim."""
    mixup: Annotated[float, NOT_NEGATIVE] = 0.0
    """Alpha of mixup's Beta distribution. If cutmix is on too, a batch uses one of them. 0: off."""
    cutmix: Annotated[float, NOT_NEGATIVE] = 0.0
    """Alpha of cutmix's Beta distribution. 0: off."""
    random_erasing: Annotated[float, NOT_NEGATIVE, AT_MOST_ONE] = 0.0
    """Probability that a rectangle of a training image is replaced by noise."""


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """Options for the length of the run and the learning rate."""

    epochs: Annotated[float, POSITIVE, MAY_CHANGE] = 1.0
    """Number of passes over the training images."""
    steps: Annotated[int | None, POSITIVE, MAY_CHANGE] = None
    """Number of training steps. Overrides epochs."""
    learning_rate: Annotated[float, POSITIVE] = 0.045
    """Peak learning rate, before lr-base-batch scales it."""
    lr_base_batch: Annotated[int, NOT_NEGATIVE] = 0
    """Scale the learning rate by batch-size / lr-base-batch. 0: no scaling."""
    lr_schedule: Literal["exponential", "cosine", "polynomial"] = "exponential"
    """How the learning rate decays."""
    lr_decay: Annotated[float, POSITIVE] = 0.94
    """exponential: factor by which the learning rate is multiplied every lr-decay-epochs."""
    lr_decay_epochs: Annotated[float, POSITIVE] = 2.0
    """exponential: epochs between two decays."""
    lr_decay_images: Annotated[int, NOT_NEGATIVE] = 0
    """exponential: images between two decays. Overrides lr-decay-epochs. 0: not used."""
    lr_staircase: bool = False
    """exponential: decay in steps, at the end of each period, instead of continuously."""
    lr_power: Annotated[float, NOT_NEGATIVE] = 0.5
    """polynomial: exponent. The rate is proportional to (share of steps left) ** lr-power."""
    lr_floor: Annotated[float, NOT_NEGATIVE, AT_MOST_ONE] = 0.0
    """Lowest learning rate, as a fraction of the peak. cosine: the rate at the end."""
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    """Warm-up: epochs in which the rate rises linearly from warmup-start to the rate of the
    schedule."""
    warmup_start: Annotated[float, NOT_NEGATIVE, AT_MOST_ONE] = 0.1
    """Learning rate at the start of the warm-up, as a fraction of the peak."""
    cold_epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    """Epochs before the warm-up, at the learning rate warmup-start."""
    head_epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    """Epochs at the start in which only the classifier is trained, as with freeze-backbone. They
    count towards epochs. The learning rate schedule starts after them."""
    head_learning_rate: Annotated[float, POSITIVE] = 0.003
    """Learning rate at the start of the head-epochs. It decays to a tenth, as a cosine."""


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """Options for the optimiser."""

    optimizer: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    """rmsprop: in TensorFlow's form. sgd: with momentum."""
    momentum: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9
    """rmsprop, sgd: share of the previous update that each step keeps."""
    rms_decay: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9
    """rmsprop: share of the running mean square that each step keeps."""
    rms_eps: Annotated[float, NOT_NEGATIVE] = 1.0
    """rmsprop: epsilon, added to the mean square under the root."""
    adam_b1: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9
    """adamw: share of the running mean gradient that each step keeps."""
    adam_b2: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.999
    """adamw: share of the running mean square that each step keeps."""
    adam_eps: Annotated[float, NOT_NEGATIVE] = 1e-8
    """adamw: epsilon, added to the root of the mean square."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 4e-5
    """Weight decay of convolution and classifier kernels. rmsprop, sgd: L2, added to the gradient.
    adamw: decoupled from the gradient, multiplied by the learning rate."""
    bias_lr_multiplier: Annotated[float, NOT_NEGATIVE] = 1.0
    """Multiplies the updates of biases."""
    clip_norm: Annotated[float, NOT_NEGATIVE] = 0.0
    """Gradient clipping: largest global norm of the gradient. 0: off."""


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Options for the loss, the moving average and non-finite values."""

    label_smoothing: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.1
    """Label smoothing: share of the label that is spread evenly over all classes."""
    aux_weight: Annotated[float, NOT_NEGATIVE] = 0.4
    """Weight of each auxiliary classifier's loss, for networks that have one."""
    ema_decay: Annotated[float, NOT_NEGATIVE, BELOW_ONE] = 0.9999
    """Exponential moving average of parameters and statistics: share of the average that each step
    keeps, at most (1 + step) / (10 + step). Evaluation and the exported weights use the average.
    0: no average."""
    on_nan: Literal["stop", "skip"] = "stop"
    """If a loss or gradient is not finite: stop with an error, or skip the update."""


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """Options for logs, evaluations, checkpoints and profiles."""

    log_every: Annotated[int, POSITIVE, MAY_CHANGE] = 10
    """Steps between two lines of the log."""
    eval_every: Annotated[float, POSITIVE, MAY_CHANGE] = 1.0
    """Epochs between two evaluations. The run also evaluates at the end."""
    checkpoint_every: Annotated[int, POSITIVE, MAY_CHANGE] = 1000
    """Steps between two checkpoints. The run also saves one at the end. A kill loses at most this
    many steps, plus those trained while a checkpoint was being written."""
    keep_checkpoints: Annotated[int, POSITIVE, MAY_CHANGE] = 2
    """Number of newest checkpoints to keep, in addition to the one with the best evaluation."""
    start_over: Annotated[bool, MAY_CHANGE] = False
    """Start at step 0 if every checkpoint of the workdir is damaged, or if only results are left.
    Damaged checkpoints are moved to WORKDIR/damaged_checkpoints. Without this option such a run
    ends with an error. A run with an undamaged checkpoint resumes even with this option."""
    profile_steps: Annotated[str | None, MAY_CHANGE] = None
    """A:B: write a profile of the steps from A to B - 1 to WORKDIR/profile, for TensorBoard or
    Perfetto."""
