"""Named recipes: what `--recipe` puts in place of the options that are not given.

A recipe is a table of options of `config.Config` for each network it was made for.
"""

from __future__ import annotations

from typing import Any

# The Inception V3 paper's optimiser (1512.00567, section 8: RMSProp with decay 0.9 and epsilon 1.0,
# label smoothing 0.1, an exponentially decayed rate) and TF-slim's momentum 0.9, auxiliary weight
# 0.4 and weight decay 4e-5, on networks a quarter as wide and images just above the minimum. The
# rate falls within four epochs as the paper's does within a hundred. Both averages (0.9 for
# BatchNorm, 0.99 for the weights) are short because the run is.
_DEMO = dict(
    width_multiplier=0.25,
    batch_size=64,
    epochs=4.0,
    learning_rate=0.045,
    lr_decay=0.5,
    lr_decay_epochs=1.0,
    rms_decay=0.9,
    rms_eps=1.0,
    momentum=0.9,
    weight_decay=4e-5,
    clip_norm=2.0,
    label_smoothing=0.1,
    aux_weight=0.4,
    ema_decay=0.99,
    dropout=0.2,
    bn_momentum=0.9,
)

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "demo": {
        "xception": dict(_DEMO, image_size=71),
        "inception_v3": dict(_DEMO, image_size=75),
    },
}
