"""Maps the classes of a data set to the outputs of a network that was trained elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from inception_jax.classes import Finder, imagenet
from inception_jax.notes import printable
from train.data.datasets import Dataset, Example, Source
from train.errors import UsageError

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class RelabelledSource:
    """The examples of a source, with new labels.

    Args:
        source: source of the examples.
        labels: new labels, indexed by the labels of `source`.
    """

    source: Source
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        known = 0 <= example.label < len(self.labels)  # if not, the pipeline reports the label
        return example._replace(label=self.labels[example.label]) if known else example


def relabelled(dataset: Dataset, names: Sequence[str] | None, outputs: int) -> tuple[Dataset, str]:
    """Replaces the labels of a data set with the indices of a network's matching outputs.

    Classes are matched by name. If no name matches and all class names are numbers, each number is
    the index of an output. Otherwise, if the outputs have no known names and there are as many
    outputs as classes, class i is matched to output i.

    Args:
        dataset: the data set. It may have only some of the network's classes.
        names: class names of the network's outputs; None if they are not known.
        outputs: number of the network's outputs.

    Returns:
        The data set with the network's classes, and a string that says how they were matched.

    Raises:
        UsageError: if a class matches no output, or several outputs.
    """
    own = dataset.classes
    if names == own:
        return dataset, "classes matched by name"
    labels, how = _matched(own, names, outputs)
    order = tuple(labels)
    if names is None and order == tuple(range(outputs)):
        return dataset, how
    changed = dataclasses.replace(
        dataset,
        train=RelabelledSource(dataset.train, order),
        test=RelabelledSource(dataset.test, order),
        classes=tuple(names or (f"class {i}" for i in range(outputs))),
    )
    return changed, how


def _matched(
    own: Sequence[str], names: Sequence[str] | None, outputs: int
) -> tuple[list[int], str]:
    finder = Finder(names or [""] * outputs)
    found, how = [finder.find(name) for name in own] if names else [], "classes matched by name"
    if not any(found) and all(name.isascii() and name.isdecimal() for name in own):
        found, how = [finder.number(name) for name in own], "classes matched by number"
    elif not names and len(own) == outputs:
        return list(range(outputs)), (
            "the weights do not name their classes: the sorted order of the folders is used as "
            "the order of the outputs"
        )
    elif not names:
        raise UsageError(
            f"the weights have {outputs} classes without names, the data set {len(own)}: give a "
            "folder for each class, or name the folders by the numbers of the outputs, from 0"
        )
    unknown = [name for name, indices in zip(own, found, strict=True) if not indices]
    if unknown:
        raise UsageError(
            f"{len(unknown)} of the {len(own)} classes, such as {_listed(unknown)}, are not among "
            f"the {outputs} classes of the weights, such as {_listed(names or ['0'])}: name the "
            f"folders after them{_also(names)}; to train the weights on these classes, leave out "
            "--eval-only"
        )
    several = [name for name, indices in zip(own, found, strict=True) if len(indices) > 1]
    if several:
        raise UsageError(
            f"the folder {several[0]!r} may mean {len(finder.find(several[0]))} classes of the "
            f"weights: name it by its WordNet id, such as n01440764, or by all its words"
        )
    return [index for (index,) in found], how


def _also(names: Sequence[str] | None) -> str:
    is_imagenet = names is not None and tuple(names) == imagenet()
    return ", by WordNet's ids (n01440764) or by numbers from 0" if is_imagenet else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(printable(name)) for name in names[:_SHOWN])
