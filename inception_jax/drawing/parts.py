"""The parts of a network that are drawn: its stages, and modules by their paths."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterable, Mapping

from inception_jax.drawing.graph import Graph, Node, consumers, inside
from inception_jax.drawing.repeats import Repeat, chains, runs, shortened


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a network with one input and one output.

    Attributes:
        name: what it is called in the network.
        path: of the module that it is, or empty.
        nodes: its operations by number, without those of repetitions.
        source: number of the node before it, whose result it takes.
        result: number of its last node, which may be one of a repetition.
        shapes: of what it takes and what it returns, without the batch.
        repeats: of modules in it.
    """

    name: str
    path: str
    nodes: Mapping[int, Node]
    source: int
    result: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    repeats: tuple[Repeat, ...] = ()

    @property
    def alone(self) -> Node | None:
        """Its node, if it has no other."""
        return next(iter(self.nodes.values())) if len(self.nodes) == 1 else None


def find(graph: Graph, name: str) -> Part:
    """Returns a stage or a module.

    Args:
        graph: a network's.
        name: of a stage of `features`, or a module's path.

    Raises:
        ValueError: for a name that neither a stage nor a called module has, with near names.
    """
    for stage in stages(graph):
        if stage.name == name:
            return stage
    nodes = {n: node for n, node in graph.nodes.items() if inside(node.scope, name)}
    if not name or name not in graph.calls or not nodes:
        raise ValueError(_unknown(graph, name))
    return _part(graph, name, name, nodes)


def stages(graph: Graph) -> list[Part]:
    """Returns the stages that lie one after another, in forward order.

    A map inside a block is a stage of `features` too, but nothing that the network is made of. What
    the network itself does before a stage's modules belongs to no stage, see `way`.
    """
    found, before = [], 0
    for name, result in graph.stages.items():
        nodes = way(graph, before, result)
        if not nodes or _is_inner(graph, before, nodes):
            continue
        before = result
        for number in _leading(nodes):
            del nodes[number]
        around = (p for p in graph.calls if p and all(inside(x.scope, p) for x in nodes.values()))
        found.append(_part(graph, name, next(around, ""), nodes))
    return found


def way(graph: Graph, before: int, result: int) -> dict[int, Node]:
    """Returns the nodes after one and up to another that it depends on, by number."""
    needed, found = {result}, []
    for number in sorted(graph.nodes, reverse=True):
        if number in needed and number > before:
            found.append(number)
            needed.update(graph.nodes[number].inputs)
    return {number: graph.nodes[number] for number in reversed(found)}


def auxiliary(graph: Graph, names: Iterable[str]) -> list[Part]:
    """Returns the auxiliary classifiers that a network has of some names."""
    return [find(graph, name) for name in names if name in graph.calls]


def children(graph: Graph, nodes: Iterable[Node], module: str = "") -> list[str]:
    """Returns the modules that nodes are of, the outermost, but members in place of their chains.

    A module with chains in it is made of what it calls; one without is itself.

    Args:
        graph: a network's.
        nodes: of a part of it.
        module: which all of them are of; it may be the answer.
    """
    scopes = {node.scope for node in nodes}
    tops: list[str] = []
    for path in graph.calls:
        within = path and inside(path, module) and any(inside(scope, path) for scope in scopes)
        if within and not any(inside(path, top) for top in tops) and not chains(graph, path):
            tops.append(path)
    return tops


def _part(graph: Graph, name: str, path: str, nodes: dict[int, Node]) -> Part:
    sources = {source for node in nodes.values() for source in node.inputs} - set(nodes)
    ends = [number for number, takers in consumers(nodes).items() if not takers]
    if len(sources) != 1 or len(ends) != 1:
        raise ValueError(f"{name!r} has not one input and one output, so it cannot be drawn")
    source, result = sources.pop(), ends[0]
    shapes = graph.nodes[source].shape, graph.nodes[result].shape
    repeats = []
    for chain in chains(graph, path):
        if not any(inside(node.scope, chain) for node in nodes.values()):
            continue
        for group in runs(graph, chain):
            nodes = shortened(nodes, group)
            repeats.append(Repeat(group[0], group[-1], len(group)))
    return Part(name, path, nodes, source, result, shapes, tuple(repeats))


def _is_inner(graph: Graph, before: int, nodes: Mapping[int, Node]) -> bool:
    """Whether nodes end inside a module, or take more than the result before them."""
    result = max(nodes)
    begun = [path for path in graph.calls if path and inside(nodes[result].scope, path)]
    later = [x for n, x in way(graph, before, graph.outputs[0]).items() if n > result]
    sources = {source for node in nodes.values() for source in node.inputs} - set(nodes)
    goes_on = any(inside(node.scope, path) for node in later for path in begun)
    return goes_on or not sources <= {before}


def _leading(nodes: Mapping[int, Node]) -> list[int]:
    """The first nodes of a stage, of no module, but for one that is the stage itself."""
    return list(itertools.takewhile(lambda number: not nodes[number].scope, list(nodes)[:-1]))


def _unknown(graph: Graph, name: str) -> str:
    known = [stage.name for stage in stages(graph)]
    scopes = {node.scope for node in graph.nodes.values()}
    paths = [path for path in graph.calls if path and any(inside(scope, path) for scope in scopes)]
    near = difflib.get_close_matches(name, dict.fromkeys([*known, *paths]), n=4)
    hint = f"did you mean {', '.join(near)}?" if near else f"its stages are {', '.join(known)}"
    return f"{graph.modules[''].__name__} has no module {name!r} to draw; {hint}"
