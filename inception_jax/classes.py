"""The names of a network's classes."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Sequence

from inception_jax.nn.model import Model
from inception_jax.registry import model_info
from inception_jax.text_files import read_lines


def names(model: Model) -> tuple[str, ...]:
    """Returns a class name for each output of a network.

    These are the names that `names_of` finds, or else "class 0", "class 1" and so on.

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
    return names_of(model) or tuple(f"class {i}" for i in range(count))


def names_of(model: Model) -> tuple[str, ...] | None:
    """Returns a network's class names.

    Returns:
        The names that the network stores. Without them, ImageNet's names if the network has 1000
        classes, as do the published weights of its name (see `of_published`). Otherwise None.
    """
    assert model.spec is not None
    published = of_published(model.spec.name) if model.spec.num_classes == 1000 else None
    return model.classes or published


def of_published(name: str) -> tuple[str, ...] | None:
    """Returns the class names of published weights.

    Args:
        name: name of a network, with or without the tag of the weights, such as
            "inception_v3.tv_in1k".

    Returns:
        ImageNet's names if the weights have 1000 classes, otherwise None. FID's network, for
        example, has 1008 classes in another order.
    """
    return imagenet() if model_info(name).num_classes == 1000 else None


@functools.cache
def imagenet() -> tuple[str, ...]:
    """Returns the WordNet names of ImageNet's 1000 classes, in the order of the outputs."""
    return tuple(name for _, name in _imagenet_lines())


def _imagenet_lines() -> list[tuple[str, str]]:
    """Returns a pair for each ImageNet class, in the order of the outputs: WordNet id and name."""
    file = importlib.resources.files("inception_jax") / "data/imagenet_classes.txt"
    with importlib.resources.as_file(file) as path:
        parts = [line.text.partition("\t") for line in read_lines(path)]
    return [(key, name) for key, _, name in parts]


class Finder:
    """Finds the class that a folder's name stands for, by class name or by class index.

    An ImageNet class is found by its WordNet id ("n01440764"), by its full name ("tench, Tinca
    tinca"), or by one of the synonyms in its name ("tench"). Case, underscores and hyphens in names
    are ignored.

    Args:
        names: names of the classes, in the order of the outputs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._count = len(names)
        exact: dict[str, set[int]] = {}
        simple: dict[str, set[int]] = {}
        words: dict[str, set[int]] = {}
        for index, name in enumerate(names):
            exact.setdefault(name, set()).add(index)
            simple.setdefault(_simple(name), set()).add(index)
        if tuple(names) == imagenet():
            for index, (key, name) in enumerate(_imagenet_lines()):
                exact[key] = {index}
                for word in name.split(","):
                    words.setdefault(_simple(word), set()).add(index)
        self._tables = (exact, simple, words)

    def find(self, label: str) -> set[int]:
        """Returns the set of indices of the classes that a label may name: none, one or several."""
        exact, simple, words = self._tables
        return exact.get(label) or simple.get(_simple(label)) or words.get(_simple(label)) or set()

    def number(self, label: str) -> set[int]:
        """Returns a set with the class index that a label states; empty if no class has it."""
        number = int(label) if label.isascii() and label.isdecimal() else self._count
        return {number} if number < self._count else set()


def _simple(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
