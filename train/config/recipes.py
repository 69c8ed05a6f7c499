"""Named recipes: sets of defaults for the options that are not on the command line.

A recipe maps the names of options to values. Comments give the source of each number. Papers on
arXiv: GoogLeNet 1409.4842, BN-Inception 1502.03167, Inception V3 1512.00567, V4 and
Inception-ResNet 1602.07261, Xception 1610.02357, InceptionNeXt 2303.16900. "slim" means TF-slim's
`train_image_classifier.py` and its network files. "The TPU code" means tensorflow/tpu's
`models/experimental/inception/inception_v3.py`.
"""

from __future__ import annotations

import fnmatch
from typing import Any

import inception_jax as ij
from train.config import finetune
from train.config.demo import DEMO, PHOTOGRAPHS
from train.errors import UsageError

Options = dict[str, Any]

# Slim's preprocessing, which reports the papers' numbers: 5 to 100 % of the area (the GoogLeNet
# paper, section 6, says 8), aspect ratio 3/4 to 4/3, colours distorted, central 87.5 % evaluated.
_SLIM_INPUT: Options = dict(
    crop="inception",
    crop_area_min=0.05,
    distort="inception",
    eval_crop_fraction=0.875,
)

_RMSPROP: Options = dict(
    optimizer="rmsprop",
    rms_decay=0.9,  # V3 section 8; V4 section 4
    rms_eps=1.0,  # V3 section 8; V4 section 4
    momentum=0.9,  # slim and the TPU code; V3's paper names momentum for its early rows only
)

RECIPES: dict[str, Options] = {
    # BVLC/caffe models/bvlc_googlenet, solver and train_val: the only complete public recipe of
    # this network. The paper gives neither the first rate nor the batch.
    "googlenet": dict(
        image_size=224,
        crop="window",  # 224 of 256x256, warped; no change of scale or aspect
        eval_crop_fraction=0.875,  # the central 224
        optimizer="sgd",
        momentum=0.9,
        batch_size=32,
        epochs=60.0,  # 2.4 M steps of 32
        learning_rate=0.01,
        lr_schedule="polynomial",
        lr_power=0.5,
        bias_lr_multiplier=2.0,  # lr_mult: 2 of every bias, whose decay_mult is 0
        weight_decay=2e-4,
        label_smoothing=0.0,
        aux_weight=0.3,  # the paper too, section 5
        dropout=0.4,  # the paper too; 0.7 in the auxiliary heads is fixed in the network
        ema_decay=0.0,  # the paper averages (Polyak), Caffe does not
        bn_momentum=0.9997,  # slim, for options with BatchNorm; the paper has none
        clip_norm=0.0,
    ),
    # 1502.03167, section 4.2: "BN-x5", the baseline's rate 0.0015 times five.
    "bn_inception": dict(
        _SLIM_INPUT,
        image_size=224,
        distort="none",  # "reduce the photometric distortions"
        optimizer="sgd",
        momentum=0.9,
        batch_size=32,
        epochs=60.0,  # not stated; the baseline's 72.2 % is reached after 2.1 M steps, 52 epochs
        learning_rate=0.0075,
        # "6 times faster" than GoogLeNet's 4 % per 8 epochs.
        lr_decay=0.96,
        lr_decay_epochs=8 / 6,
        lr_staircase=True,
        weight_decay=4e-5,  # "reduce by a factor of 5" a weight not stated; slim's value
        label_smoothing=0.0,
        dropout=0.0,  # "remove dropout"
        aux_weight=0.0,
        ema_decay=0.9999,  # slim
        bn_momentum=0.9997,  # slim
        clip_norm=0.0,
    ),
    # 1512.00567, section 8. There 50 replicas each apply a gradient of 32 images at this rate, one
    # by one; a batch of 32 does the same. For large batches see `inception_v3_tpu`.
    "inception_v3": dict(
        {**_SLIM_INPUT, **_RMSPROP},
        image_size=299,
        batch_size=32,
        epochs=100.0,
        learning_rate=0.045,
        lr_decay=0.94,
        lr_decay_epochs=2.0,
        lr_staircase=True,
        clip_norm=2.0,
        label_smoothing=0.1,  # section 7
        aux_weight=0.4,  # slim; the paper gives none
        weight_decay=4e-5,  # slim
        dropout=0.2,  # slim and the TPU code keep 0.8
        ema_decay=0.9999,  # slim; the paper: "a running average of the parameters"
        bn_momentum=0.9997,  # slim
    ),
    # The TPU code, lines 128 to 258 and 558 to 634. Its tutorial says > 78.1 % in about 170 epochs.
    "inception_v3_tpu": dict(
        {**_SLIM_INPUT, **_RMSPROP},
        image_size=299,
        distort="none",  # off by default there, because it is slow
        batch_size=1024,
        epochs=170.0,  # 213 k steps
        learning_rate=0.165,
        lr_base_batch=256,
        lr_decay=0.94,
        lr_decay_epochs=3.0,
        lr_staircase=True,
        lr_floor=1e-4,
        cold_epochs=2.0,
        warmup_epochs=7.0,
        clip_norm=0.0,
        label_smoothing=0.1,
        aux_weight=0.4,
        weight_decay=4e-5,
        dropout=0.2,
        ema_decay=0.995,
        bn_momentum=0.996,
    ),
    # 1602.07261, section 4: V3's optimiser and rate; the rest is slim's.
    "inception_v4": dict(
        {**_SLIM_INPUT, **_RMSPROP},
        image_size=299,
        batch_size=32,  # not stated: 20 replicas, V3's had 32 images each
        epochs=160.0,  # not stated; the paper's figures 20 to 26 end at 160 to 200
        learning_rate=0.045,
        lr_decay=0.94,
        lr_decay_epochs=2.0,
        lr_staircase=True,
        clip_norm=0.0,  # slim; the AAAI version mentions clipping without its norm
        label_smoothing=0.1,  # V3's
        aux_weight=0.4,
        weight_decay=4e-5,
        dropout=0.2,  # section 3: keep 0.8
        ema_decay=0.9999,
        bn_momentum=0.9997,
    ),
    # 1610.02357, section 4.3: ImageNet.
    "xception_imagenet": dict(
        _SLIM_INPUT,
        image_size=299,
        optimizer="sgd",
        momentum=0.9,
        batch_size=256,  # not stated: 60 K80, synchronous
        epochs=100.0,  # not stated: about three days
        learning_rate=0.045,
        lr_decay=0.94,
        lr_decay_epochs=2.0,
        lr_staircase=True,
        weight_decay=1e-5,  # section 4.4: tuned for Xception; V3's is 4e-5
        label_smoothing=0.0,  # not stated
        aux_weight=0.0,
        dropout=0.5,  # section 4.4
        ema_decay=0.9999,  # "Polyak averaging", section 4.3; decay not stated
        bn_momentum=0.99,  # Keras' own network
        clip_norm=0.0,
    ),
    # 1610.02357, section 4.3: JFT.
    "xception_jft": dict(
        _SLIM_INPUT,
        image_size=299,
        optimizer="rmsprop",
        rms_decay=0.9,
        rms_eps=1e-7,  # not stated; Keras' default, like the learning rate
        momentum=0.9,
        batch_size=256,  # not stated
        epochs=10.0,  # not stated: over a month
        learning_rate=0.001,
        lr_decay=0.9,
        lr_decay_images=3_000_000,
        lr_staircase=True,
        weight_decay=1e-5,
        label_smoothing=0.0,
        aux_weight=0.0,
        dropout=0.0,  # "no dropout was included due to the large size of the dataset"
        ema_decay=0.9999,
        bn_momentum=0.99,
        clip_norm=0.0,
    ),
    # sail-sg/inceptionnext, scripts/ (timm's train.py); the paper's table 9. Tiny, small, base.
    "inception_next": dict(
        image_size=224,
        crop="inception",
        crop_area_min=0.08,
        eval_crop_fraction=0.875,
        optimizer="adamw",
        adam_b2=0.999,
        adam_eps=1e-8,
        batch_size=4096,
        epochs=300.0,
        learning_rate=4e-3,
        lr_base_batch=4096,
        lr_schedule="cosine",
        lr_floor=0.0025,  # 1e-5
        warmup_epochs=20.0,
        warmup_start=2.5e-4,  # 1e-6
        weight_decay=0.05,
        label_smoothing=0.1,
        randaugment=9.0,  # rand-m9-mstd0.5-inc1; timm turns colour jitter off with it
        mixup=0.8,
        cutmix=1.0,
        random_erasing=0.25,
        dropout=0.0,
        aux_weight=0.0,
        ema_decay=0.0,  # only the recipe for 384 pixels averages
        bn_momentum=0.9,  # PyTorch's 0.1
        clip_norm=0.0,
        # Stochastic depth has the default of the network: 0.1, 0.3, 0.4.
    ),
    # sail-sg/inceptionnext, scripts/: atto.
    "inception_next_atto": dict(
        batch_size=1280,
        epochs=600.0,
        learning_rate=1e-3,
        lr_base_batch=1280,
        lr_floor=0.01,
        warmup_start=1e-3,
    ),
}
RECIPES["inception_resnet"] = dict(RECIPES["inception_v4"])
RECIPES["inception_next_atto"] = {**RECIPES["inception_next"], **RECIPES["inception_next_atto"]}

# Default recipe for a large data set, by arch: the first pattern that matches applies.
_BY_ARCH = {
    "inception_v1": "googlenet",
    "bn_inception": "bn_inception",
    "inception_v[23]": "inception_v3",  # one paper
    "inception_v4": "inception_v4",
    "inception_resnet_*": "inception_resnet",
    "xception*": "xception_imagenet",  # DeepLab's aligned ones too: their recipe is not published
    "inception_next_atto": "inception_next_atto",
    "inception_next_*": "inception_next",
}

# With fewer training images, a paper's recipe would be useless, and the default is `demo`.
LARGE = 100_000


def names() -> list[str]:
    """Returns the names of the recipes that `--recipe` takes."""
    return ["demo", "finetune", *RECIPES]


def default_recipe(arch: str, images: int) -> str:
    """Returns the name of the default recipe of a network: `demo` for fewer than `LARGE` images.

    Args:
        arch: name of the network.
        images: number of training images.

    Raises:
        UsageError: if there are more images, and no recipe for this network.
    """
    if images < LARGE:
        return "demo"
    for pattern, name in _BY_ARCH.items():
        if fnmatch.fnmatch(arch, pattern):
            return name
    raise UsageError(f"no recipe is for {arch}: name one, --recipe {', '.join(RECIPES)}")


def options(recipe: str, arch: str, *, photographs: bool) -> Options:
    """Returns the options that a recipe sets, with their values.

    Any recipe can train any network. Only `demo` needs values for the network in
    train/config/demo.py.

    Args:
        recipe: name of the recipe.
        arch: name of the network.
        photographs: whether the images are photographs. If so, `demo` and `finetune` crop randomly,
            and `demo` has more epochs.

    Raises:
        UsageError: if the recipe is `demo`, and it has no values for this network.
    """
    if recipe == "finetune":
        size = ij.model_info(arch).input_size
        photos = finetune.PHOTOGRAPHS if photographs else {}
        return {**finetune.FINETUNE, "image_size": size, **photos}
    if recipe != "demo":
        return dict(RECIPES[recipe])
    if arch not in DEMO:
        raise UsageError(
            f"train/config/demo.py says nothing of {arch}: add it there, or name a --recipe"
        )
    return {**DEMO[arch], **(PHOTOGRAPHS if photographs else {})}
