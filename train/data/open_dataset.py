"""Opens the data set that a command line names."""

from __future__ import annotations

from pathlib import Path

from inception_jax.nearest import did_you_mean
from train.data.datasets import Dataset
from train.data.fashion_mnist import open_fashion_mnist
from train.data.image_folder import open_folder
from train.data.options import DataOptions
from train.data.tfds_source import open_tfds
from train.errors import UsageError

_BUILT_IN = ("fashion_mnist", "folder")
_OTHER_NAMES = {  # names in other programs
    "fmnist": "fashion_mnist",
    "mnist": "fashion_mnist",
    "image_folder": "folder",
    "directory": "folder",
    "images": "folder",
    "custom": "folder",
}


def open_dataset(
    name: str,
    data_dir: Path | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    eval_share: float = DataOptions.eval_share,
) -> Dataset:
    """Opens a data set; nothing is downloaded.

    Args:
        name: "fashion_mnist", which comes with the repository; "folder" for a folder of images in
            torchvision's layout; or the name of a TFDS data set, optionally with config and version
            ("imagenet2012", "name/config", "name:1.0.0").
        data_dir: path of the folder of images, or of the folder with the prepared TFDS data sets.
        train_split: split of the training images: a folder's name, or a TFDS split such as
            "train[:90%]". None: "train", or all images of a folder without splits.
        eval_split: split of the test images. None: the first of "val" (folders only), "validation"
            and "test" that exists.
        eval_share: held-out share of each class, for a folder without test images.

    Raises:
        UsageError: if the data set does not exist or cannot be used.
    """
    if name == "fashion_mnist":
        if data_dir or train_split or eval_split:
            raise UsageError(
                "fashion_mnist comes with the repository: leave out --data-dir, --train-split and "
                "--eval-split, or name another --dataset (your own pictures: --dataset folder)"
            )
        return open_fashion_mnist()
    if data_dir is None:
        raise UsageError(_needs_folder(name))
    if not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such folder")
    if name == "folder":
        return open_folder(data_dir, train_split, eval_split, eval_share)
    return open_tfds(name, data_dir, train_split, eval_split)


def _needs_folder(name: str) -> str:
    if Path(name).is_dir():
        return f"--dataset {name} is a folder: write --dataset folder --data-dir {name}"
    near = did_you_mean(name, _BUILT_IN, _OTHER_NAMES, prefix="--dataset ")
    return f"--dataset {name} needs --data-dir, the folder that holds it{near}"
