"""Arranges the nodes of a part of a network in series and in parallel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from inception_jax.drawing.graph import Node, consumers, nodes_inside
from inception_jax.drawing.repeats import Repeat
from inception_jax.drawing.subgraphs import Subgraph


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Parallel branches.

    Attributes:
        branches: branches from left to right.
        summed: whether the branches end in a sum. The last branch is then the main branch.
    """

    branches: tuple[Series, ...]
    summed: bool


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Consecutive identical modules, of which only the first is drawn.

    Attributes:
        repeat: paths and number of the modules.
        series: items of the first module.
    """

    repeat: Repeat
    series: Series


Item = int | Parallel | Repeated
"""An int is the id of a node."""

Series = tuple[Item, ...]
"""Items in sequence. An empty series is drawn as a line."""


def arrange(part: Subgraph) -> Series:
    """Arranges the nodes of a part in series and in parallel branches."""
    return tuple(_Arranger(part).walk(part.source, set(part.nodes), None))


class _Arranger:
    def __init__(self, part: Subgraph):
        self.nodes: Mapping[int, Node] = part.nodes
        self.takers = consumers(part.nodes)
        self.takers[part.source] = [n for n, x in part.nodes.items() if part.source in x.inputs]
        # A frame around a single module without repeats would add no information.
        framed = () if [repeat.count for repeat in part.repeats] == [1] else part.repeats
        self.pending = [(x, set(nodes_inside(part.nodes, x.first))) for x in framed]

    def walk(self, number: int, allowed: set[int], stop: int | None) -> list[Item]:
        """Returns the items after a node.

        Args:
            number: id of the node.
            allowed: ids of the nodes that may be visited.
            stop: id of the node before which the branch ends; None: the branch ends with the graph.
        """
        items: list[Item] = []
        while True:
            takers = [taker for taker in self.takers[number] if taker in allowed]
            if not takers or takers == [stop]:
                return items
            frame = next((pair for pair in self.pending if set(takers) <= pair[1]), None)
            if frame is not None:
                self.pending.remove(frame)
                repeat, members = frame
                inner = self.walk(number, members & allowed, None)
                items.append(Repeated(repeat, tuple(inner)))
                number = max(members)
            elif len(takers) == 1:
                items.append(takers[0])
                number = takers[0]
            else:
                join = min(self.always_passed(takers, allowed))
                items.append(self.parallel(number, takers, allowed, join))
                if join == stop:
                    return items
                items.append(join)
                number = join

    def always_passed(self, takers: list[int], allowed: set[int]) -> set[int]:
        """Returns the ids of the nodes that every path to the end contains.

        Args:
            takers: ids of the nodes at which the paths start.
            allowed: ids of the nodes that paths may visit.
        """
        passed: dict[int, set[int]] = {}
        for number in sorted(allowed, reverse=True):
            onward = [passed[taker] for taker in self.takers[number] if taker in allowed]
            passed[number] = {number} | (set.intersection(*onward) if onward else set())
        return set.intersection(*(passed[taker] for taker in takers))

    def groups(self, takers: list[int], allowed: set[int], join: int) -> list[list[int]]:
        """Puts branches that meet before the node `join` into the same group.

        Args:
            takers: ids of the nodes with which the branches start.
            allowed: ids of the nodes that may be visited.
            join: id of the node at which all branches have met.

        Returns:
            The groups. Each group has the ids of the nodes with which its branches start.
        """
        groups: list[list[int]] = []
        for taker in takers:
            meeting = [g for g in groups if min(self.always_passed([*g, taker], allowed)) != join]
            for group in meeting:
                groups.remove(group)
            groups.append([*(number for group in meeting for number in group), taker])
        return groups

    def parallel(self, fork: int, takers: list[int], allowed: set[int], join: int) -> Parallel:
        """Returns the branches between two nodes.

        Branches are in the order of the inputs of `join`. If `join` is a sum, they are sorted by
        their number of nodes, so that the shortcut comes first.

        Args:
            fork: id of the node after which the branches start.
            takers: ids of the nodes with which the branches start.
            allowed: ids of the nodes that may be visited.
            join: id of the node at which the branches end.
        """
        branches = []
        for group in self.groups(takers, allowed, join):
            items: list[Item] = []
            if len(group) > 1:
                first = min(self.always_passed(group, allowed))
                items = [self.parallel(fork, group, allowed, first), first]
                items += self.walk(first, allowed, join)
            elif group != [join]:
                items = [group[0], *self.walk(group[0], allowed, join)]
            branches.append(tuple(items))
        summed = self.nodes[join].kind == "add"
        index_of = {source: index for index, source in enumerate(self.nodes[join].inputs)}

        def order(branch: Series) -> int:
            inner = node_numbers(branch)
            if summed:
                return len(inner)
            return min(i for source, i in index_of.items() if source in (inner or [fork]))

        return Parallel(tuple(sorted(branches, key=order)), summed)


def node_numbers(series: Series) -> list[int]:
    """Returns the ids of all nodes in a series, in the order of the drawing."""
    found: list[int] = []
    for item in series:
        if isinstance(item, int):
            found.append(item)
        elif isinstance(item, Repeated):
            found += node_numbers(item.series)
        else:
            for branch in item.branches:
                found += node_numbers(branch)
    return found
