"""Names of classes."""

from __future__ import annotations

import importlib.resources

from inception_jax.registry import model_info


def names(num_classes: int, name: str) -> list[str]:
    """Returns a name for each output of a classifier.

    Args:
        num_classes: number of outputs.
        name: what `create_model` takes. Published weights of 1000 classes have ImageNet's names.
            Others have numbers, such as FID's 1008 classes, which have an order of their own.
    """
    if num_classes != 1000 or model_info(name).num_classes != 1000:
        return [f"class {i}" for i in range(num_classes)]
    return imagenet_names()


def imagenet_names() -> list[str]:
    """Returns WordNet's names of ImageNet's 1000 classes, in the order of the outputs."""
    file = importlib.resources.files("inception_jax") / "data/imagenet_classes.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.partition("\t")[2] for line in lines if not line.startswith("#")]
