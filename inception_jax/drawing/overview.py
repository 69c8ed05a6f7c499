"""The boxes of a whole network's drawing: its stages and the operations between them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from inception_jax.drawing import labels, subgraphs
from inception_jax.drawing.graph import Graph, Node, nodes_inside
from inception_jax.drawing.labels import Colour
from inception_jax.drawing.repeats import Repeat, signature
from inception_jax.drawing.subgraphs import Subgraph

_MANY = 3  # this many consecutive identical stages, or more, are drawn as one box


@dataclasses.dataclass(frozen=True)
class Row:
    """A box in the drawing of a whole network.

    Attributes:
        name: name of the stage, module or layer; empty if there is none.
        text: description of the operation or module.
        shape: shape of the result, without the batch axis.
        colour: kind of operation, which sets the colour.
        aux: box of the auxiliary classifier on this stage, if there is one.
        tooltip: text shown on hovering.
        kind: kind of the node, if the box shows a single node; "aux" for an auxiliary classifier;
            otherwise empty.
    """

    name: str
    text: str
    shape: tuple[int, ...]
    colour: Colour
    aux: Row | None = None
    tooltip: str = ""
    kind: str = ""


def rows(graph: Graph, aux_names: Sequence[str]) -> list[Row]:
    """Returns the boxes of a network, from its images to its logits, in forward order.

    Each box is called a row, because the drawing stacks the boxes from top to bottom.

    Args:
        graph: graph of the network.
        aux_names: names of the auxiliary classifiers, whose boxes are drawn beside their stages.
    """
    stages = subgraphs.stages(graph)
    parts = [subgraphs.find(graph, name) for name in aux_names if name in graph.calls]
    heads = {part.source: _head(graph, part) for part in parts}
    found = [Row("", "images", graph.nodes[0].shape, "data")]
    before = 0
    for group in _groups(graph, stages, set(heads)):
        first, last = group[0], group[-1]
        found += map(_row, subgraphs.nodes_between(graph, before, first.source).values())
        found += _stage(graph, group, heads.get(last.result))
        before = last.result
    return [*found, *map(_row, subgraphs.nodes_between(graph, before, graph.outputs[0]).values())]


def _groups(graph: Graph, stages: Sequence[Subgraph], with_head: set[int]) -> list[list[Subgraph]]:
    """Groups three or more consecutive identical stages, which are drawn as one box.

    A stage with an auxiliary classifier ends its group. Each remaining stage forms a group alone.
    `with_head` has the output nodes' ids of the stages with an auxiliary classifier.
    """
    groups: list[list[Subgraph]] = []
    for stage in stages:
        alike = bool(groups) and stage.only_node is None
        if alike:
            last = groups[-1][-1]
            alike = _kind(graph, last) == _kind(graph, stage) and last.result not in with_head
        if alike:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return [
        part
        for group in groups
        for part in ([group] if len(group) >= _MANY else [[stage] for stage in group])
    ]


def _kind(graph: Graph, stage: Subgraph) -> tuple[object, ...]:
    return graph.modules[stage.path], stage.shapes, signature(stage.nodes, widths=True)


def _stage(graph: Graph, group: Sequence[Subgraph], aux: Row | None) -> list[Row]:
    first, shape = group[0], group[-1].shapes[1]
    node = first.only_node
    if node is not None:
        text = labels.first_line(node, channels=False) + (", valid" if node.valid else "")
        tooltip = labels.tooltip(node)
        return [Row(first.name, text, shape, labels.colour(node), aux, tooltip, node.kind)]
    if len(group) > 1:
        text = f"{len(group)} × {graph.class_name(first.path)}"
        return [Row(f"{first.name} – {group[-1].name}", text, shape, "module", aux)]
    members = subgraphs.outermost_modules(graph, first.nodes.values())
    if len(first.repeats) > 1 and members == [repeat.first for repeat in first.repeats]:
        found = [_run(graph, first, repeat) for repeat in first.repeats]
        return [*found[:-1], dataclasses.replace(found[-1], aux=aux)]
    return [Row(first.name, describe(graph, first), shape, "module", aux)]


def _run(graph: Graph, stage: Subgraph, repeat: Repeat) -> Row:
    """Returns the box of one run of identical modules, in a stage that has several runs."""
    name = repeat.first
    if repeat.count > 1:
        name = f"{repeat.first} – {repeat.last.rpartition('.')[2]}"
    shape = list(nodes_inside(stage.nodes, repeat.first).values())[-1].shape
    return Row(name, _member(graph, stage, repeat.first), shape, "module")


def describe(graph: Graph, part: Subgraph) -> str:
    """Describes a part of a network in one line, such as "10 × Block17".

    The line names the classes of the part's modules, with the number of consecutive identical
    modules, and then the operations that are outside these modules.
    """
    members = subgraphs.outermost_modules(graph, part.nodes.values(), part.path)
    words = [_member(graph, part, member) for member in members]
    words += [labels.first_line(node) for node in part.nodes.values() if not node.scope]
    return ", ".join(words)


def _member(graph: Graph, part: Subgraph, path: str) -> str:
    """Describes a module, or a run of identical modules, by class and count: "10 × Block17".

    The part's runs of identical modules are compared in order. If this run has the same class as
    the run before it, but lacks one or two of its operations, the text ends in "without" and their
    names.

    `path` is the path of the module, or of the first module of the run.
    """
    firsts = [repeat.first for repeat in part.repeats]
    if path not in firsts:
        return graph.class_name(path)
    index = firsts.index(path)
    count = part.repeats[index].count
    text = (f"{count} × " if count > 1 else "") + graph.class_name(path)
    before = firsts[max(index - 1, 0)]
    missing = _lines(part, before) - _lines(part, path)
    if graph.modules[before] == graph.modules[path] and 0 < missing.total() < 3:
        text += f" without {' and '.join(missing)}"
    return text


def _lines(stage: Subgraph, path: str) -> Counter[str]:
    return Counter(map(labels.first_line, nodes_inside(stage.nodes, path).values()))


def _head(graph: Graph, head: Subgraph) -> Row:
    text = f"{graph.class_name(head.path)}, in training"
    return Row(head.name, text, head.shapes[1], "classifier", kind="aux")


def _row(node: Node) -> Row:
    name = node.layer if node.kind in ("linear", "norm") else ""
    text = labels.first_line(node, channels=False)
    if node.kind == "linear":
        text = ", ".join([text, *node.after])
    colour, tooltip = labels.colour(node), labels.tooltip(node)
    return Row(name, text, node.shape, colour, tooltip=tooltip, kind=node.kind)
