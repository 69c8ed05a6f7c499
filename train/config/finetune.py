"""The recipe `finetune`: trains a network from pretrained weights on 50 to 50,000 images.

The run first trains only the classifier. The backbone and its BatchNorm statistics are frozen,
because the first gradients of a new classifier are noise, which would damage the pretrained
backbone (Kumar et al., arXiv:2202.10054). Then the run trains the whole network, at a lower
learning rate. Batch size, epochs and learning rates depend on the number of images, see
`train/run/scaling.py`.
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
    # A learning rate that falls to zero makes an average of the weights unnecessary.
    ema_decay=0.0,
    # A few hundred of the new images replace the statistics of the weight file.
    bn_momentum=0.95,
)

# Additional options for photographs.
PHOTOGRAPHS: dict[str, Any] = dict(crop="inception", crop_area_min=0.35, eval_crop_fraction=1.0)
"""Like `demo.PHOTOGRAPHS`, but with smaller crops: a larger network needs more variety."""
