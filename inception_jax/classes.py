"""Names of classes."""

from __future__ import annotations

import functools
import importlib.resources

from inception_jax.nn.model import Model
from inception_jax.registry import model_info
from inception_jax.text_files import read_lines


def names(model: Model) -> tuple[str, ...]:
    """Returns a name for each output of a network: its own, else its tag's, else numbers.

    Raises:
        ValueError: for a network without a classifier.
    """
    assert model.spec is not None
    count = model.spec.num_classes
    if not count:
        raise ValueError(
            "this network has no classifier: model.reset_classifier(n) gives it one, "
            "model.embed(images) returns its features"
        )
    published = of_published(model.spec.name) if count == 1000 else None
    return model.classes or published or tuple(f"class {i}" for i in range(count))


def of_published(name: str) -> tuple[str, ...] | None:
    """Returns the class names of a tag's published weights.

    Args:
        name: what `create_model` takes. Weights of 1000 classes have ImageNet's names; of others,
            such as the 1008 of FID's graph, in an order of its own, the names are not known: None.
    """
    return imagenet() if model_info(name).num_classes == 1000 else None


@functools.cache
def imagenet() -> tuple[str, ...]:
    """Returns ImageNet's 1000 names in the order of the outputs, as WordNet has them."""
    file = importlib.resources.files("inception_jax") / "data/imagenet_classes.txt"
    with importlib.resources.as_file(file) as path:
        return tuple(line.text.partition("\t")[2] for line in read_lines(path))
