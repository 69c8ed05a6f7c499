"""Simplifies a graph of equations to the graph that a paper's figure would show.

Elementwise equations (nodes of kind `step`) get the names that papers use, such as ReLU. A
BatchNorm or activation that a layer applies after its convolution becomes part of the convolution's
node. A normalisation or activation in another module, such as the ReLU before Xception's
convolutions, remains a node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from inception_jax.drawing.graph import Graph, Kind, Node, consumers, parent
from inception_jax.nn.layers import Weighted
from inception_jax.nn.norms import BatchNorm, LayerNorm

NORMS: dict[type, str] = {BatchNorm: "BN", LayerNorm: "LN"}
_WEIGHTED = ("conv", "linear")
_ACTIVATIONS = {"erf": "GELU", "erfc": "GELU", "logistic": "SiLU", "tanh": "tanh"}


def simplify(graph: Graph) -> Graph:
    """Returns the graph that a paper's figure would show.

    Only the input node and the nodes that an output depends on remain. Elementwise equations get
    names such as "ReLU". Biases, BatchNorms and activations are merged into the layer before them
    if they belong to it. Nested splits become one split.
    """
    draft = _Draft(graph)
    _name_steps(draft)
    _merge_steps(draft)
    _fold_strides(draft)
    _fold_biases(draft)
    _fold_norms(draft)
    _fold_activations(draft)
    _flatten_splits(draft)
    nodes = dict(sorted(draft.nodes.items()))
    stages = {name: draft.current(number) for name, number in graph.stages.items()}
    return dataclasses.replace(
        graph,
        nodes=nodes,
        outputs=tuple(map(draft.current, graph.outputs)),
        stages={name: number for name, number in stages.items() if number in nodes},
    )


class _Draft:
    """A graph that is being simplified.

    Attributes:
        nodes: remaining nodes by id.
        modules: class of each module by its path.
    """

    def __init__(self, graph: Graph):
        self.nodes = _used(graph)
        self.modules = graph.modules
        self._merged_into: dict[int, int] = {}

    def current(self, number: int) -> int:
        """Returns the id of the node that a node of the original graph was merged into, if any.

        A node that was not merged keeps its id.
        """
        while number in self._merged_into:
            number = self._merged_into[number]
        return number

    def source(self, number: int) -> int:
        """Returns the id of a node's first input."""
        return self.nodes[number].inputs[0]

    def replace(self, number: int, **fields: object) -> None:
        """Changes fields of a node."""
        self.nodes[number] = dataclasses.replace(self.nodes[number], **fields)  # pyright: ignore

    def merge(self, number: int, into: int) -> None:
        """Removes a node. Nodes that used its result then use the result of the node `into`."""
        del self.nodes[number]
        self._merged_into[number] = into
        for other, node in self.nodes.items():
            if number in node.inputs:
                inputs = tuple(into if x == number else x for x in node.inputs)
                self.replace(other, inputs=inputs)

    def of_kind(self, *kinds: Kind) -> list[int]:
        """Returns the ids of the nodes of these kinds, in ascending order."""
        return [number for number, node in self.nodes.items() if node.kind in kinds]

    def is_only_consumer(self, number: int) -> bool:
        """Returns whether this node is the only one that uses its first input."""
        source = self.source(number)
        return [n for n, node in self.nodes.items() if source in node.inputs] == [number]


def _used(graph: Graph) -> dict[int, Node]:
    """Returns the input node, which has id 0, and the nodes that an output depends on, by id."""
    used = {0, *graph.outputs}
    for number in sorted(graph.nodes, reverse=True):
        if number in used:
            used.update(graph.nodes[number].inputs)
    return {number: graph.nodes[number] for number in sorted(used)}


def _name_steps(draft: _Draft) -> None:
    for number in draft.of_kind("step"):
        kind, text = _meaning(draft.nodes[number], draft.modules)
        draft.replace(number, kind=kind, text=text)
        if kind == "scale" and text == "1.0":  # an option that switches the factor off
            draft.merge(number, into=draft.source(number))


def _meaning(step: Node, modules: Mapping[str, type]) -> tuple[Kind, str]:
    norm = modules.get(step.scope)
    if norm in NORMS:
        return "norm", NORMS[norm]
    if step.parameter and issubclass(modules[step.layer], Weighted):
        return "bias", ""
    if step.parameter:
        return "scale", step.parameter.rpartition(".")[2]
    for primitive, name in _ACTIVATIONS.items():
        if primitive in step.primitives:
            return "activation", name
    if step.primitives == {"max"} and float(step.text or "nan") == 0:
        return "activation", "ReLU"
    if {"pow", "slice"} <= step.primitives:
        return "norm", "LRN"
    if step.primitives == {"mul"} and step.text:
        return "scale", step.text
    if step.primitives <= {"add", "sub", "mul", "div"}:
        return "affine", "scale and shift"
    if step.primitives == {"pad"}:
        return "pad", f"zero padding to {'×'.join(map(str, step.shape[:2]))}"
    return "step", " ".join(sorted(step.primitives))


def _merge_steps(draft: _Draft) -> None:
    """Merges the equations of a normalisation, or of an affine map, into one node."""
    for number in draft.of_kind("norm", "affine"):
        node, source = draft.nodes[number], draft.source(number)
        before = draft.nodes[source]
        alike = (before.kind, before.scope, before.text) == (node.kind, node.scope, node.text)
        single = len(node.inputs) == 1 and draft.is_only_consumer(number)
        if alike and single and node.text != "LRN":
            draft.replace(source, parameter=before.parameter or node.parameter)
            draft.merge(number, into=source)


def _fold_strides(draft: _Draft) -> None:
    """Replaces a strided slice before a convolution with a stride of the convolution."""
    for number in draft.of_kind("conv"):
        source = draft.source(number)
        before = draft.nodes[source]
        if before.kind == "step" and before.primitives == {"slice"} and before.stride != (1, 1):
            draft.replace(number, stride=before.stride)
            if draft.is_only_consumer(number):
                draft.merge(source, into=before.inputs[0])
            else:
                draft.replace(number, inputs=before.inputs)


def _fold_biases(draft: _Draft) -> None:
    def belongs(node: Node, before: Node) -> bool:
        return before.kind in _WEIGHTED and node.layer == before.layer

    for number in draft.of_kind("bias"):
        _fold(draft, number, belongs)


def _fold_norms(draft: _Draft) -> None:
    """Merges the normalisations of a module into the layers before them.

    Nothing is merged in a module where a normalisation does not follow one of the module's
    convolutions or linear layers, such as a module that normalises before it convolves.
    """

    def belongs(node: Node, before: Node) -> bool:
        return before.kind in _WEIGHTED and parent(node.scope) == parent(before.layer)

    norms = [n for n in draft.of_kind("norm") if draft.nodes[n].text in NORMS.values()]
    normalising_first = {
        parent(draft.nodes[n].scope)
        for n in norms
        if not belongs(draft.nodes[n], draft.nodes[draft.source(n)])
    }
    for number in norms:
        if parent(draft.nodes[number].scope) not in normalising_first:
            _fold(draft, number, belongs)


def _fold_activations(draft: _Draft) -> None:
    def belongs(node: Node, before: Node) -> bool:
        if before.kind == "norm":
            return node.scope == parent(before.scope) and bool(before.scope)
        return before.kind in _WEIGHTED and node.scope in (before.layer, parent(before.layer))

    for number in draft.of_kind("activation"):
        _fold(draft, number, belongs)


def _fold(draft: _Draft, number: int, belongs: Callable[[Node, Node], bool]) -> None:
    """Merges a node into its first input if `belongs(node, input)` is true.

    The node is not merged if another node uses this input. The node's `text` is appended to the
    input's `after`.
    """
    node, source = draft.nodes[number], draft.source(number)
    before = draft.nodes[source]
    if belongs(node, before) and draft.is_only_consumer(number):
        draft.replace(source, after=(*before.after, node.text) if node.text else before.after)
        draft.merge(number, into=source)


def _flatten_splits(draft: _Draft) -> None:
    """Merges nested splits into one split, and removes the nodes of the parts.

    A part that is concatenated directly, without an operation, becomes a node of kind `identity`.
    """
    for number in draft.of_kind("split"):
        part = draft.source(number)
        if draft.nodes[part].kind == "slice" and draft.is_only_consumer(number):
            whole = draft.source(part)
            siblings = [n for n in draft.of_kind("slice") if draft.source(n) == whole]
            sizes = list(draft.nodes[whole].parts)
            index = siblings.index(part)
            sizes[index : index + 1] = draft.nodes[number].parts
            draft.replace(whole, parts=tuple(sizes))
            draft.merge(number, into=whole)
            draft.merge(part, into=whole)
    takers = consumers(draft.nodes)
    for number in draft.of_kind("slice"):
        if any(draft.nodes[taker].kind == "concat" for taker in takers[number]):
            draft.replace(number, kind="identity")
        else:
            draft.merge(number, into=draft.source(number))
