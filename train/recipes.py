"""Named recipes: what `--recipe` puts in place of the options that are not given.

A recipe is a table of options of `config.Config` for each network it was made for.
"""

from __future__ import annotations

from typing import Any

# `demo`: the Inception V3 paper's optimiser (1512.00567, section 8: RMSProp with decay 0.9, label
# smoothing 0.1, exponentially decayed rate) with TF-slim's momentum 0.9, auxiliary weight 0.4 and
# weight decay 4e-5, on networks a quarter as wide and images of the smallest size, for a few
# minutes on two CPU cores. The rate falls within a few epochs as the paper's does within a hundred,
# and both averages (0.9 for BatchNorm, 0.99 for the weights) are short, because the run is.
_DEMO = dict(
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
)

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "demo": {
        # The paper's epsilon, rate and norm limit as they are.
        "xception": dict(
            _DEMO,
            image_size=71,
            checkpoint_every=50,
            epochs=4.0,
            learning_rate=0.045,
            lr_decay=0.5,
            rms_eps=1.0,
            clip_norm=2.0,
        ),
        # Without shortcuts, and with maps of a pixel or three at its end, the gradients of the
        # first layers are far larger than those of the last. Epsilon 1.0 leaves that so, and any
        # limit of the norm starves the last; 1e-3 lets the mean squares even it out.
        "inception_v3": dict(
            _DEMO,
            image_size=75,
            checkpoint_every=100,
            epochs=10.0,
            learning_rate=0.001,
            lr_decay=0.68,
            rms_eps=1e-3,
            clip_norm=0.0,
        ),
    },
}
