"""The recipe `finetune`: from weights that a network has learned elsewhere, on 50 to 50,000 images.

First the classifier alone, under a backbone that stays as it is with its BatchNorm statistics, then
everything at a smaller rate. A new classifier's first gradients are noise, which would undo what
the backbone knows (Kumar et al., 2202.10054). Batch, epochs and rates follow from the number of
images, see `scaling.py`.
"""

from __future__ import annotations

from typing import Any

FINETUNE: dict[str, Any] = dict(
    width_multiplier=1.0,
    optimizer="adamw",
    batch_size=32,
    epochs=40.0,
    head_epochs=8.0,
    head_learning_rate=0.003,
    learning_rate=5e-4,
    lr_schedule="cosine",
    warmup_epochs=3.2,
    weight_decay=0.01,
    clip_norm=1.0,
    label_smoothing=0.1,
    dropout=0.2,
    # Few published files have auxiliary classifiers, and a trained backbone needs none.
    aux_weight=0.0,
    # A rate that falls to zero averages enough.
    ema_decay=0.0,
    # The statistics of some hundred of the new images replace the file's.
    bn_momentum=0.95,
)

# What is added where the images are photographs.
PHOTOGRAPHS: dict[str, Any] = dict(crop="inception", crop_area_min=0.35, eval_crop_fraction=1.0)
"""As in `demo.PHOTOGRAPHS`; a larger network needs more variety."""
