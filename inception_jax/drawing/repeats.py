"""Finds consecutive identical modules in a network.

Modules are identical if they have the same class and the same operations, with results of the same
shapes. The values of their parameters may differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from inception_jax.drawing.graph import Graph, Node, inside, nodes_inside, parent
from inception_jax.nn.layers import Chain


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Consecutive identical modules; only the first one is drawn.

    Attributes:
        first: path of the first module.
        last: path of the last module.
        count: number of modules.
    """

    first: str
    last: str
    count: int


def signature(nodes: Mapping[int, Node], *, widths: bool) -> tuple[object, ...]:
    """Returns a value that is equal for parts of a network with the same structure.

    Args:
        nodes: nodes of a part, by id.
        widths: whether the value includes all channel counts. If not, it includes only which
            separable convolutions increase the number of channels.
    """
    index_of = {number: index for index, number in enumerate(nodes)}
    rows: list[object] = []
    for node in nodes.values():
        inputs = tuple(index_of.get(source, -1) for source in node.inputs)
        facts = (node.kind, node.text, node.window, node.stride, node.dilation, node.depthwise)
        width = node.shape if widths else _widens(nodes, node)
        rows.append((inputs, facts, node.after, node.valid, width))
    return tuple(rows)


def _widens(nodes: Mapping[int, Node], node: Node) -> bool:
    """Returns whether a node ends a separable convolution that increases the number of channels.

    Such a node is a convolution that directly follows a depthwise convolution.
    """
    before = nodes.get(node.inputs[0])
    if before is None or node.depthwise or not before.depthwise:
        return False
    return before.shape[-1] < node.shape[-1]


def chains(graph: Graph, module: str) -> list[str]:
    """Returns the paths of the called `Chain` modules: `module` itself, and modules inside it."""
    return [c for c in graph.calls if inside(c, module) and issubclass(graph.modules[c], Chain)]


def runs(graph: Graph, chain: str) -> list[list[str]]:
    """Groups the members of the `Chain` at path `chain` into runs of identical modules.

    Returns:
        A list of paths for each run; a module without identical neighbours is a run by itself.
    """
    groups: list[list[str]] = []
    previous: object = None
    for path in graph.calls:
        if parent(path) != chain:
            continue
        kind = graph.modules[path], signature(nodes_inside(graph.nodes, path), widths=True)
        if kind == previous:
            groups[-1].append(path)
        else:
            groups.append([path])
        previous = kind
    return groups


def run_of(graph: Graph, path: str) -> list[str]:
    """Returns the paths of the module at `path` and of the identical ones next to it in its chain.

    Outside a `Chain`, it is the path itself.
    """
    chain = parent(path)
    if not chain or not issubclass(graph.modules[chain], Chain):
        return [path]
    return next((group for group in runs(graph, chain) if path in group), [path])


def without_repeats(nodes: dict[int, Node], group: Sequence[str]) -> dict[int, Node]:
    """Returns `nodes` without those of all modules of a run except the first.

    Nodes that used the result of the last module then use the result of the first.

    Args:
        nodes: nodes of a part, by id.
        group: paths of the run's modules, which are consecutive and identical.
    """
    others = {number for path in group[1:] for number in nodes_inside(nodes, path)}
    if not others:
        return nodes
    replaced = {max(others): max(nodes_inside(nodes, group[0]))}
    return {
        number: dataclasses.replace(node, inputs=tuple(replaced.get(x, x) for x in node.inputs))
        for number, node in nodes.items()
        if number not in others
    }
