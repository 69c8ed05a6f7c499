"""Which modules of a network are built alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from inception_jax.drawing.graph import Graph, Node, inside, parent
from inception_jax.nn.layers import Chain


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Equal modules one after another, of which a part has the first alone.

    Attributes:
        first: path of the first.
        last: path of the last.
        count: how many there are.
    """

    first: str
    last: str
    count: int


def signature(nodes: Mapping[int, Node], *, widths: bool) -> tuple[object, ...]:
    """Returns what two parts have in common if they are built alike.

    Args:
        nodes: of a part.
        widths: tell parts of different numbers of channels apart. Else two separable convolutions
            differ only where one of them has more channels than it takes.
    """
    places = {number: place for place, number in enumerate(nodes)}
    rows: list[object] = []
    for node in nodes.values():
        inputs = tuple(places.get(source, -1) for source in node.inputs)
        facts = (node.kind, node.text, node.window, node.stride, node.dilation, node.depthwise)
        width = node.shape if widths else _widens(nodes, node)
        rows.append((inputs, facts, node.after, node.valid, width))
    return tuple(rows)


def _widens(nodes: Mapping[int, Node], node: Node) -> bool:
    """Whether a separable convolution, of which a node is the second half, widens the map."""
    before = nodes.get(node.inputs[0])
    if before is None or node.depthwise or not before.depthwise:
        return False
    return before.shape[-1] < node.shape[-1]


def chains(graph: Graph, module: str) -> list[str]:
    """Returns the chains that were called in a module, itself among them."""
    return [c for c in graph.calls if inside(c, module) and issubclass(graph.modules[c], Chain)]


def runs(graph: Graph, chain: str) -> list[list[str]]:
    """Returns the members of a chain in groups of neighbours that are equal."""
    groups: list[list[str]] = []
    last: object = None
    for path in graph.calls:
        if parent(path) != chain:
            continue
        nodes = {n: node for n, node in graph.nodes.items() if inside(node.scope, path)}
        own = (graph.modules[path], signature(nodes, widths=True))
        if own == last:
            groups[-1].append(path)
        else:
            groups.append([path])
        last = own
    return groups


def run_of(graph: Graph, path: str) -> list[str]:
    """Returns a module and those next to it in its chain that are equal."""
    chain = parent(path)
    if not chain or not issubclass(graph.modules[chain], Chain):
        return [path]
    return next((group for group in runs(graph, chain) if path in group), [path])


def shortened(nodes: dict[int, Node], group: Sequence[str]) -> dict[int, Node]:
    """Leaves of equal modules in a row the first; what took the last one's result takes its."""
    first = [n for n, node in nodes.items() if inside(node.scope, group[0])]
    others = [n for n, node in nodes.items() if any(inside(node.scope, p) for p in group[1:])]
    if not others:
        return nodes
    ends = {max(others): max(first)}
    return {
        number: dataclasses.replace(node, inputs=tuple(ends.get(x, x) for x in node.inputs))
        for number, node in nodes.items()
        if number not in others
    }
