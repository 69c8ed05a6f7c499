"""Finds the parts of a network that are drawn: stages by name and modules by path."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

from inception_jax.drawing.graph import Graph, Node, consumers, inside, nodes_inside
from inception_jax.drawing.repeats import Repeat, chains, runs, without_repeats
from inception_jax.nearest import nearest


@dataclasses.dataclass(frozen=True)
class Subgraph:
    """A part of a network with one input and one output.

    Attributes:
        name: name of the stage, or path of the module.
        path: path of a module that contains the whole subgraph; empty if no module does.
        nodes: nodes of the subgraph, by node id. If consecutive modules of a `Chain` are identical,
            only the nodes of the first one are included.
        source: id of the input node, which is outside the subgraph.
        result: id of the output node. It is missing from `nodes` if its module is left out.
        shapes: shapes of the input and the output, without the batch axis.
        repeats: runs of identical modules in the subgraph's `Chain`s, each a `Repeat`. A module
            without identical neighbours is a run by itself.
    """

    name: str
    path: str
    nodes: Mapping[int, Node]
    source: int
    result: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    repeats: tuple[Repeat, ...] = ()

    @property
    def only_node(self) -> Node | None:
        """The subgraph's node if it has exactly one, else None."""
        return next(iter(self.nodes.values())) if len(self.nodes) == 1 else None


def find(graph: Graph, name: str) -> Subgraph:
    """Returns the stage or module with a given name, as a `Subgraph`.

    Args:
        graph: graph of the network.
        name: name of a stage of `features`, or path of a module.

    Raises:
        ValueError: if there is no stage of this name and the network calls no module of this path
            (the message suggests similar names), or if the module does not have exactly one input
            and one output.
    """
    for stage in stages(graph):
        if stage.name == name:
            return stage
    nodes = nodes_inside(graph.nodes, name)
    if not name or name not in graph.calls or not nodes:
        raise ValueError(_unknown(graph, name))
    return _subgraph(graph, name, name, nodes)


def stages(graph: Graph) -> list[Subgraph]:
    """Returns the stages that a network consists of, as `Subgraph`s in forward order.

    Stages of `features` that lie inside a block are left out. Operations between two stages that
    belong to no module are left out too; `nodes_between` finds them.
    """
    found, before = [], 0
    for name, result in graph.stages.items():
        nodes = nodes_between(graph, before, result)
        if not nodes or _is_inner(graph, before, nodes):
            continue
        before = result
        from_first_module = itertools.dropwhile(lambda item: not item[1].scope, nodes.items())
        nodes = dict(from_first_module) or {result: nodes[result]}
        paths = (p for p in graph.calls if p and all(inside(x.scope, p) for x in nodes.values()))
        found.append(_subgraph(graph, name, next(paths, ""), nodes))
    return found


def nodes_between(graph: Graph, before: int, result: int) -> dict[int, Node]:
    """Returns node `result` and all nodes after node `before` that `result` depends on.

    Args:
        graph: graph of the network.
        before: id of a node; 0: the network's input.
        result: id of the last node.

    Returns:
        A dict of the nodes by id, in forward order.
    """
    needed, found = {result}, []
    for number in sorted(graph.nodes, reverse=True):
        if number in needed and number > before:
            found.append(number)
            needed.update(graph.nodes[number].inputs)
    return {number: graph.nodes[number] for number in reversed(found)}


def outermost_modules(graph: Graph, nodes: Iterable[Node], module: str = "") -> list[str]:
    """Returns a list of the paths of the outermost modules that compute these nodes.

    A module is included if it computes at least one of the nodes. A `Chain`, which calls layers in
    sequence, or a module that contains one, is replaced by the modules inside it.

    Args:
        graph: graph of the network.
        nodes: nodes of a part of the network.
        module: path of a module that contains all of the nodes; empty for the network. The result
            may be this path alone.
    """
    scopes = {node.scope for node in nodes}
    tops: list[str] = []
    for path in graph.calls:
        used = path and inside(path, module) and any(inside(scope, path) for scope in scopes)
        if used and not any(inside(path, top) for top in tops) and not chains(graph, path):
            tops.append(path)
    return tops


def _subgraph(graph: Graph, name: str, path: str, nodes: dict[int, Node]) -> Subgraph:
    sources = _sources(nodes)
    ends = [number for number, takers in consumers(nodes).items() if not takers]
    if len(sources) != 1 or len(ends) != 1:
        raise ValueError(f"{name!r} has not one input and one output, so it cannot be drawn")
    source, result = sources.pop(), ends[0]
    shapes = graph.nodes[source].shape, graph.nodes[result].shape
    repeats = []
    for chain in chains(graph, path):
        for group in runs(graph, chain) if nodes_inside(nodes, chain) else ():
            nodes = without_repeats(nodes, group)
            repeats.append(Repeat(group[0], group[-1], len(group)))
    return Subgraph(name, path, nodes, source, result, shapes, tuple(repeats))


def _sources(nodes: Mapping[int, Node]) -> set[int]:
    return {source for node in nodes.values() for source in node.inputs} - set(nodes)


def _is_inner(graph: Graph, before: int, nodes: Mapping[int, Node]) -> bool:
    """Returns whether a stage ends inside a module, or has an input other than `before`.

    Args:
        graph: graph of the network.
        before: id of the previous stage's output node.
        nodes: nodes of the stage, by id.
    """
    result = max(nodes)
    modules = [path for path in graph.calls if path and inside(nodes[result].scope, path)]
    later = [x for n, x in nodes_between(graph, before, graph.outputs[0]).items() if n > result]
    unfinished = any(inside(node.scope, path) for node in later for path in modules)
    return unfinished or not _sources(nodes) <= {before}


def _unknown(graph: Graph, name: str) -> str:
    known = [stage.name for stage in stages(graph)]
    scopes = {node.scope for node in graph.nodes.values()}
    paths = [path for path in graph.calls if path and any(inside(scope, path) for scope in scopes)]
    near = nearest(name, [*known, *paths], count=4)
    hint = f"did you mean {', '.join(near)}?" if near else f"its stages are {', '.join(known)}"
    return f"{graph.class_name('')} has no module {name!r} to draw; {hint}"
