"""Options for the input: which data set, and how its images become batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from train.config.fields import AT_MOST_ONE, BELOW_ONE, MAY_CHANGE, NOT_NEGATIVE, POSITIVE

Crop = Literal["inception", "window", "none"]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options for the data set."""

    dataset: str = "fashion_mnist"
    """Data set to train on. fashion_mnist: 6,000 training and 1,000 test images that come with the
    repository, 28x28 pixels, grey, ten classes. folder: DATA_DIR/{train,val}/CLASS/*. Any other
    name, such as imagenet2012: the TFDS data set of this name, prepared as array_record in DATA_DIR
    (train/prepare.py)."""
    data_dir: Annotated[Path | None, MAY_CHANGE] = None
    """Folder of the data set."""
    train_split: str | None = None
    """Split to train on. Not given: train, or all class folders if the folder has no splits."""
    eval_split: str | None = None
    """Split to evaluate on. Not given: the first of val, validation and test that exists. If none
    exists, eval-share of the training images are held out."""
    eval_share: Annotated[float, POSITIVE, BELOW_ONE] = 0.2
    """Share of each class that is held out for evaluation, if a folder has no evaluation split.
    Which images are held out depends on their file names, but not on seed."""
    data_changed: Annotated[Literal["refuse", "accept"], MAY_CHANGE] = "refuse"
    """What to do if the images changed since the run in the workdir started. refuse: end with an
    error. accept: resume; run.json and config.json record the change. The order of the images and
    all later results then differ from those of the old images."""


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """Options for images on the host: decoding, crops, batches."""

    image_size: int = 299
    """Width and height of the images after cropping and resizing, in pixels."""
    crop: Crop = "none"
    """Random crop of training images. inception: random area and aspect ratio. window: the image is
    resized to a square of 8/7 of image-size, and a random square of image-size is cut from it.
    none: the whole image."""
    crop_area_min: Annotated[float, POSITIVE, AT_MOST_ONE] = 0.08
    """crop inception: smallest area, as a share of the image."""
    flip: bool = True
    """Mirror training images with probability 1/2."""
    randaugment: Annotated[float, NOT_NEGATIVE] = 0.0
    """Magnitude of RandAugment: timm's rand-m9-mstd0.5-inc1, two operations per image. 0: off."""
    eval_crop_fraction: Annotated[float, POSITIVE, AT_MOST_ONE] = 0.875
    """Share of each side that the centre crop keeps when encoded images are evaluated. Ignored for
    networks with a tag, such as inception_v3.tv_in1k: the tag determines the crop."""
    upright: bool | None = None
    """Rotate photos by their EXIF orientation. Not given: only for folders of images; when a weight
    file is evaluated without a run, as the file says (published weights: no rotation)."""
    eval_crops: Annotated[Literal[1, 12, 144], MAY_CHANGE] = 1
    """Number of crops per test image, whose predictions are averaged, as in the papers."""
    eval_exclude: Annotated[Path | None, MAY_CHANGE] = None
    """Text file of test images to skip. A line holds a file name, or numbers of ImageNet validation
    images, as in the blacklist of ImageNet's development kit."""
    max_bad_images: Annotated[int, NOT_NEGATIVE, MAY_CHANGE] = 100
    """Images that are unreadable or have an invalid label are skipped. If there are more than this
    number, the run ends with an error."""
    workers: Annotated[int | None, NOT_NEGATIVE, MAY_CHANGE] = None
    """Worker processes on each host that decode and prefetch images. 0: threads of the main
    process. Not given: one per processor, at most 32, if there are 50,000 training images or more;
    else 0."""
