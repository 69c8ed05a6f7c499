"""From a graph of equations to the graph of a figure.

Steps get the names that papers give them, and what a layer does to the result of its convolution
becomes a word of that convolution: BatchNorm, an activation. A normalisation or an activation that
another module applies, such as the ReLU before Xception's convolutions, stays a node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from inception_jax.drawing.graph import Graph, Kind, Node, consumers, parent
from inception_jax.nn.layers import Weighted
from inception_jax.nn.norms import BatchNorm, LayerNorm

NORMS: dict[type, str] = {BatchNorm: "BN", LayerNorm: "LN"}
_WEIGHTED = ("conv", "linear")
_CURVES = {"erf": "GELU", "erfc": "GELU", "logistic": "SiLU", "tanh": "tanh"}

Nodes = dict[int, Node]


def simplify(graph: Graph) -> Graph:
    """Returns the graph of a network as figures show it, without what no output depends on."""
    work = _Work(_live(graph), graph)
    for pass_over in (_recognise, _merge_steps, _fold_strides, _fold_biases):
        pass_over(work)
    _fold_norms(work)
    _fold_activations(work)
    _flatten_splits(work)
    nodes = dict(sorted(work.nodes.items()))
    stages = {name: work.now(number) for name, number in graph.stages.items()}
    return dataclasses.replace(
        graph,
        nodes=nodes,
        outputs=tuple(map(work.now, graph.outputs)),
        stages={name: number for name, number in stages.items() if number in nodes},
    )


class _Work:
    """A graph while it shrinks: which nodes there are, and which stand for those that went."""

    def __init__(self, nodes: Nodes, graph: Graph):
        self.nodes = nodes
        self.modules = graph.modules
        self.gone: dict[int, int] = {}

    def now(self, number: int) -> int:
        """Returns the node that stands for a node of the beginning."""
        while number in self.gone:
            number = self.gone[number]
        return number

    def source(self, number: int) -> int:
        """Returns the one node whose result a node takes."""
        return self.nodes[number].inputs[0]

    def replace(self, number: int, **fields: object) -> None:
        """Changes fields of a node."""
        self.nodes[number] = dataclasses.replace(self.nodes[number], **fields)  # pyright: ignore

    def drop(self, number: int, into: int) -> None:
        """Takes a node away; another stands for it from now on."""
        del self.nodes[number]
        self.gone[number] = into
        for other, node in self.nodes.items():
            if number in node.inputs:
                inputs = tuple(into if x == number else x for x in node.inputs)
                self.replace(other, inputs=inputs)

    def of_kind(self, *kinds: Kind) -> list[int]:
        """Returns the nodes of some kinds, in order."""
        return [number for number, node in self.nodes.items() if node.kind in kinds]

    def only_taker(self, number: int) -> bool:
        """Returns whether no other node takes the result of this one's first input."""
        source = self.source(number)
        return [n for n, node in self.nodes.items() if source in node.inputs] == [number]


def _live(graph: Graph) -> Nodes:
    needed = {0, *graph.outputs}
    for number in sorted(graph.nodes, reverse=True):
        if number in needed:
            needed.update(graph.nodes[number].inputs)
    return {number: graph.nodes[number] for number in sorted(needed)}


def _recognise(work: _Work) -> None:
    for number in work.of_kind("step"):
        kind, text = _meaning(work.nodes[number], work.modules)
        work.replace(number, kind=kind, text=text)
        if kind == "scale" and text == "1.0":  # a factor that an option has set to nothing
            work.drop(number, into=work.source(number))


def _meaning(node: Node, modules: Mapping[str, type]) -> tuple[Kind, str]:
    norm = modules.get(node.scope)
    if norm in NORMS:
        return "norm", NORMS[norm]
    if node.owner and issubclass(modules[node.layer], Weighted):
        return "bias", ""
    if node.owner:
        return "scale", node.owner.rpartition(".")[2]
    for primitive, name in _CURVES.items():
        if primitive in node.words:
            return "activation", name
    if node.words == {"max"} and float(node.text or "nan") == 0:
        return "activation", "ReLU"
    if {"pow", "slice"} <= node.words:
        return "norm", "LRN"
    if node.words == {"mul"} and node.text:
        return "scale", node.text
    if node.words <= {"add", "sub", "mul", "div"}:
        return "affine", "scale and shift"
    if node.words == {"pad"}:
        return "pad", f"zero padding to {'×'.join(map(str, node.shape[:2]))}"
    return "step", " ".join(sorted(node.words))


def _merge_steps(work: _Work) -> None:
    """Makes one node of the equations of one normalisation, or of one affine map."""
    for number in work.of_kind("norm", "affine"):
        node, source = work.nodes[number], work.source(number)
        before = work.nodes[source]
        alike = (before.kind, before.scope, before.text) == (node.kind, node.scope, node.text)
        if alike and len(node.inputs) == 1 and node.text != "LRN" and work.only_taker(number):
            work.replace(source, owner=before.owner or node.owner)
            work.drop(number, into=source)


def _fold_strides(work: _Work) -> None:
    """A 1x1 convolution of every second pixel is one with a stride of two."""
    for number in work.of_kind("conv"):
        before = work.nodes[work.source(number)]
        if before.kind == "step" and before.words == {"slice"} and before.stride != (1, 1):
            work.replace(number, stride=before.stride)
            if work.only_taker(number):
                work.drop(work.source(number), into=before.inputs[0])
            else:
                work.replace(number, inputs=before.inputs)


def _fold_biases(work: _Work) -> None:
    def belongs(node: Node, before: Node) -> bool:
        return before.kind in _WEIGHTED and node.layer == before.layer

    for number in work.of_kind("bias"):
        _fold(work, number, belongs)


def _fold_norms(work: _Work) -> None:
    """Where one normalisation of a module follows no convolution of it, none is folded.

    So that the variants that normalise before the convolutions are drawn as such.
    """

    def belongs(node: Node, before: Node) -> bool:
        return before.kind in _WEIGHTED and parent(node.scope) == parent(before.layer)

    norms = [n for n in work.of_kind("norm") if work.nodes[n].text in NORMS.values()]
    alone = {
        parent(work.nodes[n].scope)
        for n in norms
        if not belongs(work.nodes[n], work.nodes[work.source(n)])
    }
    for number in norms:
        if parent(work.nodes[number].scope) not in alone:
            _fold(work, number, belongs)


def _fold_activations(work: _Work) -> None:
    def belongs(node: Node, before: Node) -> bool:
        if before.kind == "norm":
            return node.scope == parent(before.scope) and bool(before.scope)
        return before.kind in _WEIGHTED and node.scope in (before.layer, parent(before.layer))

    for number in work.of_kind("activation"):
        _fold(work, number, belongs)


def _fold(work: _Work, number: int, belongs: Callable[[Node, Node], bool]) -> None:
    node, source = work.nodes[number], work.source(number)
    before = work.nodes[source]
    if belongs(node, before) and work.only_taker(number):
        words = (node.text,) if node.text else ()
        work.replace(source, after=before.after + words)
        work.drop(number, into=source)


def _flatten_splits(work: _Work) -> None:
    """Makes one split of a split and the split of one of its parts, and drops parts that go on."""
    for number in work.of_kind("split"):
        part = work.source(number)
        if work.nodes[part].kind == "slice" and work.only_taker(number):
            whole = work.source(part)
            siblings = [n for n in work.of_kind("slice") if work.source(n) == whole]
            parts = list(work.nodes[whole].parts)
            index = siblings.index(part)
            parts[index : index + 1] = work.nodes[number].parts
            work.replace(whole, parts=tuple(parts))
            work.drop(number, into=whole)
            work.drop(part, into=whole)
    takers = consumers(work.nodes)
    for number in work.of_kind("slice"):
        if any(work.nodes[taker].kind == "concat" for taker in takers[number]):
            work.replace(number, kind="identity")
        else:
            work.drop(number, into=work.source(number))
