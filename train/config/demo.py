"""The recipe `demo`: trains a small version of each network in a few minutes on two CPU cores.

The networks are an eighth to a half as wide as usual, and the images are small. Most values are
those of the Inception V3 paper (arXiv:1512.00567, section 8): RMSProp with decay 0.9, label
smoothing 0.1 and exponential decay of the learning rate. Momentum 0.9, auxiliary weight 0.4 and
weight decay 4e-5 are TF-slim's. Some networks use InceptionNeXt's AdamW instead.

Because the run is short, the learning rate decays within a few epochs instead of a hundred, and the
moving averages decay faster: 0.9 for BatchNorm, 0.99 for the weights.
"""

from __future__ import annotations

from typing import Any

Options = dict[str, Any]

_DEMO: Options = dict(
    width_multiplier=0.25,
    batch_size=32,
    lr_decay_epochs=1.0,
    rms_decay=0.9,
    momentum=0.9,
    weight_decay=4e-5,
    label_smoothing=0.1,
    aux_weight=0.4,
    ema_decay=0.99,
    dropout=0.2,
    bn_momentum=0.9,
    checkpoint_every=200,
)

# The paper's epsilon, learning rate and gradient clipping, unchanged.
_PAPER: Options = dict(
    _DEMO, epochs=4.0, learning_rate=0.045, lr_decay=0.5, rms_eps=1.0, clip_norm=2.0
)

# In networks without shortcuts, or with final feature maps of 1 or 3 pixels, the gradients of the
# first layers are far larger than those of the last. Epsilon 1.0 does not change that, and gradient
# clipping then makes the updates of the last layers too small. Epsilon 1e-3 lets RMSProp's mean
# squares balance the layers.
_EVEN: Options = dict(
    _DEMO, epochs=6.0, learning_rate=0.001, lr_decay=0.55, rms_eps=1e-3, clip_norm=0.0
)
_ALIGNED: Options = dict(
    _EVEN, width_multiplier=0.125, batch_size=64, learning_rate=0.004, lr_decay=0.5
)

# InceptionNeXt's AdamW. Its learning rate is scaled to the batch size, and multiplied by fifty
# because the run is short. Deep networks without shortcuts need half as many epochs as with RMSProp
# for the same accuracy.
_ADAMW: Options = dict(
    _DEMO,
    batch_size=64,
    optimizer="adamw",
    learning_rate=0.003,
    lr_schedule="cosine",
    warmup_epochs=0.5,
    weight_decay=0.05,
    clip_norm=1.0,
    epochs=5.0,
)
_NEXT: Options = dict(_ADAMW, image_size=32, drop_path=0.0, dropout=0.0, epochs=4.0)

DEMO: dict[str, Options] = {
    "inception_v1": dict(_EVEN, image_size=64),
    "bn_inception": dict(_EVEN, image_size=64),
    "inception_v2": dict(_ADAMW, image_size=75, learning_rate=0.002, epochs=6.0),
    "inception_v3": dict(_ADAMW, image_size=75, learning_rate=0.002, epochs=7.0),
    "inception_v4": dict(
        _ADAMW, image_size=75, width_multiplier=0.125, dropout=0.0, learning_rate=0.002, epochs=7.0
    ),
    "inception_resnet_v1": dict(_PAPER, image_size=80),
    "inception_resnet_v2": dict(
        _EVEN, image_size=75, width_multiplier=0.125, epochs=3.0, learning_rate=0.003, lr_decay=0.4
    ),
    "xception": dict(_PAPER, image_size=71),
    "xception41": dict(_ALIGNED, image_size=64, batch_size=32, epochs=4.0, learning_rate=0.003),
    "xception65": dict(_ALIGNED, image_size=32),
    "xception71": dict(_ALIGNED, image_size=32),
    "xception41p": dict(_ALIGNED, image_size=48, lr_schedule="cosine"),
    "xception65p": dict(_ALIGNED, image_size=48, lr_schedule="cosine"),
    "inception_next_atto": dict(_NEXT, width_multiplier=0.5, epochs=6.0),
    "inception_next_tiny": dict(_NEXT, width_multiplier=0.25),
    "inception_next_small": dict(_NEXT, width_multiplier=0.1875),
    "inception_next_base": dict(_NEXT, width_multiplier=0.125),
}

# Additional options for photographs: random crops, and more epochs, because photographs are harder
# to learn. With 5,000 of CIFAR-10's images, Inception V1 reaches 50 %, and a linear model 37 %.
PHOTOGRAPHS: Options = dict(
    crop="inception", crop_area_min=0.5, eval_crop_fraction=1.0, epochs=12.0, lr_decay=0.75
)
