"""Opens the data set that a command line names."""

from __future__ import annotations

from pathlib import Path

from train.data.datasets import Dataset
from train.data.fashion_mnist import open_fashion_mnist
from train.data.image_folder import open_folder
from train.data.tfds_source import open_tfds
from train.errors import UsageError


def open_dataset(
    name: str,
    data_dir: Path | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
) -> Dataset:
    """Opens a data set; nothing is downloaded.

    Args:
        name: "fashion_mnist", which comes with the repository; "folder", a folder of images in
            torchvision's layout; or a name of TFDS, with its config and version if wanted
            ("imagenet2012", "name/config", "name:1.0.0").
        data_dir: where a folder or the prepared data sets of TFDS lie.
        train_split: what to learn from; None for "train". A folder's name, or a split of TFDS
            such as "train[:90%]".
        eval_split: what to test with; None for the first of "val" (folders), "validation" and
            "test" that exists.

    Raises:
        UsageError: if there is no such data set or it cannot be used.
    """
    if name == "fashion_mnist":
        if data_dir or train_split or eval_split:
            raise UsageError(
                "fashion_mnist comes with the repository: leave out --data-dir, --train-split and "
                "--eval-split, or name another --dataset"
            )
        return open_fashion_mnist()
    if data_dir is None:
        raise UsageError(f"--dataset {name} needs --data-dir, the folder that holds it")
    if not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such folder")
    if name == "folder":
        return open_folder(data_dir, train_split, eval_split)
    return open_tfds(name, data_dir, train_split, eval_split)
