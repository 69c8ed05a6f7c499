"""A part of a network as boxes in series and in parallel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from inception_jax.drawing.graph import Node, consumers, inside
from inception_jax.drawing.parts import Part
from inception_jax.drawing.repeats import Repeat


@dataclasses.dataclass(frozen=True)
class Single:
    """One node."""

    number: int


@dataclasses.dataclass(frozen=True)
class Series:
    """One item after another; without items, a line."""

    items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Branches side by side.

    Attributes:
        branches: from left to right.
        summed: they end in a sum, before which the last of them is the main branch.
    """

    branches: tuple[Series, ...]
    summed: bool


@dataclasses.dataclass(frozen=True)
class Repeated:
    """What is drawn once and there several times in a row."""

    repeat: Repeat
    series: Series


Item = Single | Parallel | Repeated


def arrange(part: Part) -> Series:
    """Takes a part apart at the nodes where branches begin and end."""
    return Series(tuple(_Arranger(part).walk(part.source, set(part.nodes), None)))


class _Arranger:
    def __init__(self, part: Part):
        self.nodes: Mapping[int, Node] = part.nodes
        self.takers = consumers(part.nodes)
        self.takers[part.source] = [n for n, x in part.nodes.items() if part.source in x.inputs]
        repeats = part.repeats if _tells(part.repeats) else ()
        self.closed = [(repeat, self.members(repeat)) for repeat in repeats]

    def members(self, repeat: Repeat) -> set[int]:
        return {n for n, node in self.nodes.items() if inside(node.scope, repeat.first)}

    def walk(self, number: int, allowed: set[int], stop: int | None) -> list[Item]:
        """Returns what is between a node and the join at which its branch ends."""
        items: list[Item] = []
        while True:
            takers = [taker for taker in self.takers[number] if taker in allowed]
            if not takers or takers == [stop]:
                return items
            begun = next((pair for pair in self.closed if set(takers) <= pair[1]), None)
            if begun is not None:
                self.closed.remove(begun)
                inner = self.walk(number, begun[1] & allowed, None)
                items.append(Repeated(begun[0], Series(tuple(inner))))
                number = max(begun[1])
            elif len(takers) == 1:
                items.append(Single(takers[0]))
                number = takers[0]
            else:
                join = min(self.common(takers, allowed))
                items.append(self.parallel(number, takers, allowed, join))
                if join == stop:
                    return items
                items.append(Single(join))
                number = join

    def common(self, takers: list[int], allowed: set[int]) -> set[int]:
        """Returns the nodes that every way from some nodes passes."""
        always: dict[int, set[int]] = {}
        for number in sorted(allowed, reverse=True):
            onward = [always[taker] for taker in self.takers[number] if taker in allowed]
            always[number] = {number} | (set.intersection(*onward) if onward else set())
        return set.intersection(*(always[taker] for taker in takers))

    def groups(self, takers: list[int], allowed: set[int], join: int) -> list[list[int]]:
        """Puts together those that meet before a join."""
        groups: list[list[int]] = []
        for taker in takers:
            meeting = [g for g in groups if min(self.common([*g, taker], allowed)) != join]
            for group in meeting:
                groups.remove(group)
            groups.append([*(number for group in meeting for number in group), taker])
        return groups

    def parallel(self, fork: int, takers: list[int], allowed: set[int], join: int) -> Parallel:
        """Returns the branches between a fork and a join, in the order in which the code joins.

        A sum has its shortcut on the left: the branch with fewer boxes.
        """
        branches = []
        for group in self.groups(takers, allowed, join):
            items: list[Item] = []
            if len(group) > 1:  # which meet before the others do
                first = min(self.common(group, allowed))
                items = [self.parallel(fork, group, allowed, first), Single(first)]
                items += self.walk(first, allowed, join)
            elif group != [join]:
                items = [Single(group[0]), *self.walk(group[0], allowed, join)]
            branches.append(Series(tuple(items)))
        summed = self.nodes[join].kind == "add"
        places = {source: place for place, source in enumerate(self.nodes[join].inputs)}

        def order(branch: Series) -> int:
            inner = numbers(branch)
            if summed:
                return len(inner)
            return min(place for source, place in places.items() if source in (inner or [fork]))

        return Parallel(tuple(sorted(branches, key=order)), summed)


def numbers(series: Series) -> list[int]:
    """Returns all nodes of a series, from left to right and from top to bottom."""
    found: list[int] = []
    for item in series.items:
        if isinstance(item, Single):
            found.append(item.number)
        elif isinstance(item, Repeated):
            found += numbers(item.series)
        else:
            for branch in item.branches:
                found += numbers(branch)
    return found


def _tells(repeats: tuple[Repeat, ...]) -> bool:
    """Whether a frame around what repeats says anything."""
    return len(repeats) > 1 or any(repeat.count > 1 for repeat in repeats)
