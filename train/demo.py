"""The recipe `demo`: every network, small, in a few minutes on two CPU cores.

The Inception V3 paper's optimiser (1512.00567, section 8: RMSProp with decay 0.9, label smoothing
0.1, exponentially decayed rate) with TF-slim's momentum 0.9, auxiliary weight 0.4 and weight decay
4e-5, or InceptionNeXt's AdamW, on networks a quarter or an eighth as wide and small images. The
rate falls within a few epochs as the papers' does within a hundred, and both averages (0.9 for
BatchNorm, 0.99 for the weights) are short, because the run is.
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

# The paper's epsilon, rate and norm limit as they are.
_PAPER: Options = dict(
    _DEMO, epochs=4.0, learning_rate=0.045, lr_decay=0.5, rms_eps=1.0, clip_norm=2.0
)

# Without shortcuts, and with maps of a pixel or three at its end, the gradients of the first layers
# are far larger than those of the last. Epsilon 1.0 leaves that so, and any limit of the norm
# starves the last; 1e-3 lets the mean squares even it out.
_EVEN: Options = dict(
    _DEMO, epochs=6.0, learning_rate=0.001, lr_decay=0.55, rms_eps=1e-3, clip_norm=0.0
)

DEMO: dict[str, Options] = {
    "inception_v1": dict(_EVEN, image_size=64),
    "bn_inception": dict(_EVEN, image_size=64),
    "inception_v2": dict(_EVEN, image_size=75),
    "inception_v3": dict(_EVEN, image_size=75, epochs=10.0, lr_decay=0.68),
    "inception_v4": dict(_EVEN, image_size=75, width_multiplier=0.125),
    "inception_resnet_v1": dict(_PAPER, image_size=80),
    "inception_resnet_v2": dict(_PAPER, image_size=75, width_multiplier=0.125),
    "xception": dict(_PAPER, image_size=71),
    "xception41": dict(
        _EVEN, image_size=64, width_multiplier=0.125, epochs=4.0, learning_rate=0.003, lr_decay=0.5
    ),
    "xception65": dict(_EVEN, image_size=64, width_multiplier=0.125),
    "xception71": dict(_EVEN, image_size=64, width_multiplier=0.125),
    "xception41p": dict(_EVEN, image_size=64, width_multiplier=0.125),
    "xception65p": dict(_EVEN, image_size=64, width_multiplier=0.125),
    "inception_next_atto": dict(_DEMO, image_size=64),
    "inception_next_tiny": dict(_DEMO, image_size=64),
    "inception_next_small": dict(_DEMO, image_size=64),
    "inception_next_base": dict(_DEMO, image_size=64),
}

# What is added where the images are photographs, which are cut anew each time they are seen.
PHOTOGRAPHS: Options = dict(crop="inception", crop_area_min=0.3)
