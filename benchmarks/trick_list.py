"""The tricks of benchmarks/tricks.py as data: claims, their sources, and the arms that test them.

An arm is one way to train one network. Each claim compares two arms.

Section numbers are those of the papers on arXiv: V1 1409.4842, BN-Inception 1502.03167, V3
1512.00567, V4 1602.07261, Xception 1610.02357, InceptionNeXt 2303.16900.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks import trick_statistics as measures
from benchmarks.trick_runs import Arm
from benchmarks.trick_statistics import Direction, Measure


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim about the difference between two arms in a measure.

    An arm is one way to train one network. The difference is the value of the first arm minus that
    of the second, for each seed.

    Attributes:
        text: the claim in words.
        source: origin of the claim, such as paper and section.
        arm: name of the first arm.
        other: name of the second arm.
        measure: measure of both arms.
        direction: claim about the first arm's value: "higher", "lower" or "equal". With "open",
            nothing is claimed.
        other_measure: measure of the second arm; None: the same as `measure`.
        margin: for "equal", the largest difference that counts as equal.
    """

    text: str
    source: str
    arm: str
    other: str
    measure: Measure
    direction: Direction
    other_measure: Measure | None = None
    margin: float = 0.0


@dataclasses.dataclass(frozen=True)
class Trick:
    """A trick: its arms, and the claims about them.

    An arm is one way to train one network.

    Attributes:
        title: heading of the section on the trick.
        setting: description of what the arms have in common and how they differ.
        arms: arms to train.
        claims: claims about the arms.
    """

    title: str
    setting: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]


# Training options for each optimiser.
_RMSPROP: dict[str, Any] = dict(
    optimizer="rmsprop", rms_decay=0.9, rms_eps=1.0, momentum=0.9, learning_rate=0.045
)
_ADAMW: dict[str, Any] = dict(optimizer="adamw", weight_decay=0.05, learning_rate=0.003)
_SGD: dict[str, Any] = dict(optimizer="sgd", momentum=0.9, learning_rate=0.045)

_SIZE: dict[str, Any] = dict(image_size=32)
_NARROW: dict[str, Any] = dict(width_multiplier=0.25, dropout=0.0)


def _v1(name: str, training: Mapping[str, Any], **more: Any) -> Arm:
    """Returns an arm that trains a narrow Inception V1 on small images.

    The network has BatchNorm unless the options have another `norm`.

    Args:
        name: name of the arm.
        training: options of `train/main.py` by name.
        **more: options of the network, as a dict under `options`; `steps`, by default 160; and
            other attributes of `Arm`.
    """
    options = {**_NARROW, **more.pop("options", {})}
    return Arm(name, "inception_v1", options, {**_SIZE, **training}, more.pop("steps", 160), **more)


def _small(name: str, network: str, **options: Any) -> Arm:
    training = {**_ADAMW, "image_size": 28}
    return Arm(name, network, options, training, 160)


_FEW: dict[str, Any] = dict(images=500)  # ten epochs of a few images: overfitting

LABEL_SMOOTHING = Trick(
    "Label smoothing",
    """Inception V1 with BatchNorm, a quarter as wide, on images of 32 pixels; 500 training
    images, ten epochs; RMSProp with epsilon 1.0. Smoothing spreads 0.1 of the label over all
    classes. The logit gap is the distance of the largest logit from the mean of the others.""",
    (
        _v1("hard labels", _RMSPROP, **_FEW),
        _v1("smoothing 0.1", {**_RMSPROP, "label_smoothing": 0.1}, **_FEW),
    ),
    (
        Claim("top-1 gains about 0.2 points", "V3, section 7", "smoothing 0.1", "hard labels",
              measures.TOP1, "higher"),
        Claim("the largest logit does not grow far beyond the others", "V3, section 7",
              "smoothing 0.1", "hard labels", measures.GAP, "lower"),
        Claim("the network is better calibrated", "Müller et al. 2019, 1906.02629, section 3",
              "smoothing 0.1", "hard labels", measures.ECE, "lower"),
    ),
)  # fmt: skip

OPTIMISERS = Trick(
    "RMSProp's two forms, and its epsilon",
    """Inception V1 with BatchNorm, a quarter as wide, on images of 32 pixels. All with momentum
    0.9, except Adam. "TF": epsilon inside the root, the mean square starts at 1, the rate before
    the momentum. "PyTorch": epsilon outside, start at 0, the rate after it. With epsilon 1.0 and
    for SGD the rate is the paper's 0.045; with epsilon 1e-3 it is 0.002, as a small epsilon makes
    steps larger; Adam's is 0.002.""",
    (
        _v1("RMSProp TF, eps 1.0", _RMSPROP),
        _v1("RMSProp PyTorch, eps 1.0", _RMSPROP, torch_rule=True),
        _v1("RMSProp TF, eps 1e-3", {**_RMSPROP, "rms_eps": 1e-3, "learning_rate": 0.002}),
        _v1("RMSProp PyTorch, eps 1e-3", {**_RMSPROP, "rms_eps": 1e-3, "learning_rate": 0.002},
            torch_rule=True),
        _v1("SGD, momentum", _SGD),
        _v1("Adam", {**_ADAMW, "weight_decay": 0.0, "learning_rate": 0.002}),
    ),
    (
        Claim("RMSProp gave the best models, momentum alone the earlier ones", "V3, section 8",
              "RMSProp TF, eps 1.0", "SGD, momentum", measures.TOP1, "higher"),
        Claim("epsilon 1.0, where a framework's default is far smaller", "V3, section 8",
              "RMSProp TF, eps 1.0", "RMSProp TF, eps 1e-3", measures.TOP1, "higher"),
        Claim("with a large epsilon the two forms differ in speed", "from their formulas",
              "RMSProp TF, eps 1.0", "RMSProp PyTorch, eps 1.0", measures.SPEED, "higher"),
        Claim("with a small epsilon TensorFlow's start at 1 makes the first steps smaller",
              "from their formulas", "RMSProp TF, eps 1e-3", "RMSProp PyTorch, eps 1e-3",
              measures.PEAK, "lower"),
        Claim("Adam instead", "no claim", "Adam", "RMSProp TF, eps 1e-3", measures.TOP1, "open"),
    ),
)  # fmt: skip

_V3: dict[str, Any] = dict(width_multiplier=0.125, dropout=0.0, aux_heads=True)


def _aux(name: str, change: str = "") -> Arm:
    training = {**_ADAMW, "image_size": 75, "learning_rate": 0.002, "aux_weight": 0.4}
    return Arm(name, "inception_v3", _V3, training, 240, change)


AUXILIARY = Trick(
    "The auxiliary classifier",
    """Inception V3, an eighth as wide, on images of 75 pixels, with AdamW; the auxiliary loss
    counts 0.4. Without BatchNorm the classifier's two convolutions have biases instead.""",
    (
        _aux("none", "no auxiliary classifier"),
        _aux("with BatchNorm"),
        _aux("without BatchNorm", "no BatchNorm in the auxiliary classifier"),
    ),
    (
        Claim("it changes nothing early in training", "V3, section 4", "with BatchNorm", "none",
              measures.EARLY, "equal", margin=2.0),
        Claim("the network ends at a slightly higher plateau", "V3, section 4", "with BatchNorm",
              "none", measures.TOP1, "higher"),
        Claim("BatchNorm in it gains 0.4 points", "V3, figure 8", "with BatchNorm",
              "without BatchNorm", measures.TOP1, "higher"),
    ),
)  # fmt: skip


def _norm(name: str, norm: str, factor: float) -> Arm:
    return _v1(name, {**_SGD, "learning_rate": 0.01 * factor}, options={"norm": norm})


BATCH_NORM = Trick(
    "BatchNorm against none",
    """Inception V1, a quarter as wide, on images of 32 pixels, with SGD. Without BatchNorm it is
    the network of the V1 paper: biases, response normalisation, Caffe's initial values. With it,
    there is a BatchNorm after each convolution. The rate x1 is 0.01, that of Caffe's
    GoogLeNet.""",
    (
        _norm("none, x1", "lrn", 1),
        _norm("none, x5", "lrn", 5),
        _norm("BatchNorm, x1", "bn", 1),
        _norm("BatchNorm, x5", "bn", 5),
        _norm("BatchNorm, x30", "bn", 30),
    ),
    (
        Claim("at the same rate it needs half the steps", "BN-Inception, figure 3",
              "BatchNorm, x1", "none, x1", measures.STEPS, "lower"),
        Claim("five times the rate shortens training again", "BN-Inception, figure 3",
              "BatchNorm, x5", "BatchNorm, x1", measures.STEPS, "lower"),
        Claim("thirty times the rate ends higher", "BN-Inception, figure 3", "BatchNorm, x30",
              "BatchNorm, x1", measures.TOP1, "higher"),
        Claim("without it, five times the rate does not train", "BN-Inception, section 4.2.2",
              "none, x5", "none, x1", measures.TOP1, "lower"),
    ),
)  # fmt: skip

WINDOWS = Trick(
    "Large windows against small ones in a row",
    """A plain network that sees four 5x5 fields, two on maps of 14x14 and two of 7x7, with the
    library's `ConvBN`. The widths, in the names, give all arms nearly the same multiplications.
    AdamW. Only the first two fields are on maps of the size that section 3.2 of V3 names, and they
    are early layers, where it found that 3x1 and 1x3 do not work well.""",
    (
        _small("5x5, 24 wide", "windows", shapes=((5, 5),), channels=24),
        _small("two 3x3, 28 wide", "windows", shapes=((3, 3),) * 2, channels=28),
        _small("two 3x3, 28 wide, no ReLU between", "windows", shapes=((3, 3),) * 2, channels=28,
               linear=(0,)),
        _small("twice 3x1 and 1x3, 35 wide", "windows", shapes=((3, 1), (1, 3)) * 2, channels=35),
    ),
    (
        Claim("two 3x3 use the same computation better than a 5x5", "V3, sections 3 and 3.1",
              "two 3x3, 28 wide", "5x5, 24 wide", measures.TOP1, "higher"),
        Claim("a ReLU between them is better than none", "V3, figure 2", "two 3x3, 28 wide",
              "two 3x3, 28 wide, no ReLU between", measures.TOP1, "higher"),
        Claim("3x1 and 1x3 work well on maps of 12 to 20 pixels", "V3, section 3.2",
              "twice 3x1 and 1x3, 35 wide", "two 3x3, 28 wide", measures.TOP1, "higher"),
    ),
)  # fmt: skip

REDUCTIONS = Trick(
    "Convolution and pool side by side",
    """A plain network that reduces 28x28x16 to 14x14x32 and that to 7x7x64, with a 3x3 after each
    reduction. AdamW. A reduction is a 3x3 that doubles the channels and then a pool, the pool
    first, or a strided 3x3 beside the pool.""",
    (
        _small("convolution, pool", "reductions", way="conv, pool", channels=16),
        _small("pool, convolution", "reductions", way="pool, conv", channels=16),
        _small("side by side", "reductions", way="side by side", channels=16),
    ),
    (
        Claim("the pool first is a bottleneck that costs accuracy", "V3, section 5",
              "pool, convolution", "convolution, pool", measures.TOP1, "lower"),
        Claim("side by side avoids the bottleneck", "V3, section 5", "side by side",
              "pool, convolution", measures.TOP1, "higher"),
        Claim("and loses nothing against the expensive order", "V3, section 5", "side by side",
              "convolution, pool", measures.TOP1, "equal", margin=2.0),
    ),
)  # fmt: skip


def _fourth(name: str, network: str) -> Arm:
    options = dict(width_multiplier=0.125, dropout=0.0)
    training = {**_ADAMW, "image_size": 75, "learning_rate": 0.002}
    return Arm(name, network, options, training, 200)


RESIDUAL = Trick(
    "Residual connections",
    """Inception V4 against Inception-ResNet-v2 of the paper's figures, both an eighth as wide, on
    images of 75 pixels, with AdamW. What the scale of the residuals does is
    [a page of its own](residual_scale.md).""",
    (
        _fourth("Inception V4", "inception_v4"),
        _fourth("Inception-ResNet-v2", "inception_resnet_v2.paper"),
    ),
    (
        Claim("the residual network trains much faster", "V4, section 5, figure 21",
              "Inception-ResNet-v2", "Inception V4", measures.SPEED, "higher"),
        Claim("and ends slightly higher", "V4, section 5, figure 21", "Inception-ResNet-v2",
              "Inception V4", measures.TOP1, "higher"),
    ),
)  # fmt: skip


def _xception(name: str, change: str = "") -> Arm:
    training = {**_RMSPROP, "image_size": 71}
    return Arm(name, "xception", dict(width_multiplier=0.125, dropout=0.0), training, 160, change)


ACTIVATION = Trick(
    "A ReLU inside a separable convolution",
    """Xception, an eighth as wide, on images of 71 pixels, with the V3 paper's RMSProp; as it is,
    and with a ReLU between every depthwise and its pointwise convolution.""",
    (
        _xception("Xception"),
        _xception("Xception, ReLU between", "ReLU between depthwise and pointwise"),
    ),
    (
        Claim("without an activation between, it trains faster", "Xception, section 4.7",
              "Xception", "Xception, ReLU between", measures.SPEED, "higher"),
        Claim("and ends higher", "Xception, section 4.7", "Xception", "Xception, ReLU between",
              measures.TOP1, "higher"),
    ),
)  # fmt: skip

SEGMENTS = Trick(
    "From one segment to a segment a channel",
    """A plain network of four layers, each a 3x3 on so many segments of the channels and a 1x1 over
    all of them, with AdamW. The widths, in the names, give all arms nearly the same parameters.""",
    (
        _small("1 segment, 23 wide", "segments", count=1, channels=23),
        _small("4 segments, 40 wide", "segments", count=4, channels=40),
        _small("a segment a channel, 68 wide", "segments", count=None, channels=68),
    ),
    (
        Claim("with equal parameters a few segments are better than one", "Xception, section 1.1",
              "4 segments, 40 wide", "1 segment, 23 wide", measures.TOP1, "higher"),
        Claim("and a segment a channel is better than a few", "Xception, sections 1.2 and 4.5",
              "a segment a channel, 68 wide", "4 segments, 40 wide", measures.TOP1, "higher"),
    ),
)  # fmt: skip


def _next(change: str) -> Arm:
    training = {**_ADAMW, "image_size": 64, "batch_size": 32, "warmup_epochs": 0.2}
    options = dict(width_multiplier=0.4, dropout=0.0)
    return Arm(change, "inception_next_atto", options, training, 240, change)


BRANCHES = Trick(
    "InceptionNeXt's branches",
    """InceptionNeXt atto, 0.4 as wide, on images of 64 pixels, with AdamW. The ratio is the share
    of the channels that each of the three convolutions takes, the band the length of two of
    them.""",
    tuple(map(_next, ("ratio 1/8, band 11", "ratio 1/8, band 7", "ratio 1/4, band 11",
                      "ratio 1/16, band 11"))),
    (
        Claim("a band of 7 is worse than one of 11", "InceptionNeXt, ablation studies",
              "ratio 1/8, band 7", "ratio 1/8, band 11", measures.TOP1, "lower"),
        Claim("a larger ratio gains nothing", "InceptionNeXt, ablation studies",
              "ratio 1/4, band 11", "ratio 1/8, band 11", measures.TOP1, "equal", margin=2.0),
        Claim("a smaller ratio is worse", "InceptionNeXt, ablation studies",
              "ratio 1/16, band 11", "ratio 1/8, band 11", measures.TOP1, "lower"),
    ),
)  # fmt: skip

_STEADY: dict[str, Any] = {**_RMSPROP, "lr_schedule": "exponential"}  # 0.94 every two epochs

RECIPE = Trick(
    "Averaged weights, clipping, dropout",
    """Inception V1 with BatchNorm, a quarter as wide, on images of 32 pixels, with the V3 paper's
    RMSProp and schedule, by which the rate hardly falls in so few epochs. The average keeps 0.98 of
    itself each step. The gradient's norm is limited to 2.0. Dropout, of 0.4, has 500 training
    images and ten epochs.""",
    (
        _v1("plain", _STEADY),
        _v1("averaged weights", {**_STEADY, "ema_decay": 0.98}),
        _v1("clipping at 2.0", {**_STEADY, "clip_norm": 2.0}),
        _v1("few images", _RMSPROP, **_FEW),
        _v1("few images, dropout 0.4", _RMSPROP, options={"dropout": 0.4}, **_FEW),
    ),
    (
        Claim("models are evaluated with a running average of the weights", "V3, section 8",
              "averaged weights", "averaged weights", measures.TOP1, "higher", measures.RAW),
        Claim("clipping stabilises training", "V3, section 8", "clipping at 2.0", "plain",
              measures.PEAK, "lower"),
        Claim("and does not cost accuracy", "V3, section 8", "clipping at 2.0", "plain",
              measures.TOP1, "equal", margin=2.0),
        Claim("dropout before the classifier remains essential", "V1, section 5",
              "few images, dropout 0.4", "few images", measures.TOP1, "higher"),
    ),
)  # fmt: skip

TRICKS: dict[str, Trick] = {
    "smoothing": LABEL_SMOOTHING,
    "optimisers": OPTIMISERS,
    "auxiliary": AUXILIARY,
    "batch_norm": BATCH_NORM,
    "windows": WINDOWS,
    "reductions": REDUCTIONS,
    "residual": RESIDUAL,
    "activation": ACTIVATION,
    "segments": SEGMENTS,
    "branches": BRANCHES,
    "recipe": RECIPE,
}
