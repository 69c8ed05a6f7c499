"""The options of the input: which data set, and how its images become batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from train.config.fields import AT_MOST_ONE, BELOW_ONE, MAY_CHANGE, NOT_NEGATIVE, POSITIVE

Crop = Literal["inception", "window", "none"]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The data set."""

    dataset: str = "fashion_mnist"
    """Images to train on. fashion_mnist: 6,000 training and 1,000 test images that come with the
    repository, 28x28 grey, ten classes. folder: DATA_DIR/{train,val}/CLASS/*. Another name, such
    as imagenet2012: that TFDS data set, prepared as array_record in DATA_DIR (train/prepare.py)."""
    data_dir: Annotated[Path | None, MAY_CHANGE] = None
    """Folder of the data set."""
    train_split: str | None = None
    """Split to train on; not given: train, or, in a folder that has none, its class folders."""
    eval_split: str | None = None
    """Split to evaluate on; not given: the first of val, validation and test that exists, or a
    share of the training images of each class, which are then not trained on."""
    eval_share: Annotated[float, POSITIVE, BELOW_ONE] = 0.2
    """folder without a split to evaluate on: share of each class that is evaluated. Which images
    these are follows from their names, not from seed."""
    data_changed: Annotated[Literal["refuse", "accept"], MAY_CHANGE] = "refuse"
    """What to do if the images are not those that the run in the workdir was trained on: refuse to
    continue, or accept that the order of the images and all later numbers change; run.json and
    config.json then say so."""


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """Images on the host: decoding, crops, batches."""

    image_size: int = 299
    """Side that images are cropped and resized to, in pixels."""
    crop: Crop = "none"
    """Of training images. inception: of random area and aspect ratio; window: a square of
    image-size from the image warped to 8/7 of it; none: the whole image."""
    crop_area_min: Annotated[float, POSITIVE, AT_MOST_ONE] = 0.08
    """crop inception: smallest share of the image's area."""
    flip: bool = True
    """Mirror every second training image."""
    randaugment: Annotated[float, NOT_NEGATIVE] = 0.0
    """Magnitude of RandAugment, two operations an image, timm's rand-m9-mstd0.5-inc1; 0: none."""
    eval_crop_fraction: Annotated[float, POSITIVE, AT_MOST_ONE] = 0.875
    """Central share of each side that is evaluated, of encoded images; a tag has its own crop."""
    upright: bool | None = None
    """Turn photos by their EXIF orientation. Not given: in folders; where a weight file is
    evaluated, as the file says, and publishers' files see photos as they are stored."""
    eval_crops: Annotated[Literal[1, 12, 144], MAY_CHANGE] = 1
    """Views of an image over which predictions are averaged, by the papers' protocols."""
    eval_exclude: Annotated[Path | None, MAY_CHANGE] = None
    """Test images to leave out: a text file with a name, or a number of ImageNet's validation
    images, on each line (the devkit's blacklist)."""
    max_bad_images: Annotated[int, NOT_NEGATIVE, MAY_CHANGE] = 100
    """Unreadable or mislabelled images that are skipped before the run ends with an error."""
    workers: Annotated[int | None, NOT_NEGATIVE, MAY_CHANGE] = None
    """Processes that decode images, on each host; 0: threads of the main one. Not given: one for
    each processor if there are 50,000 training images or more, else 0."""
