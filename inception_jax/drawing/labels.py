"""The text and colours of boxes, and the entries of the legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from inception_jax.drawing.graph import Node, inside

Colour = Literal["data", "conv", "depthwise", "pool", "join", "pointwise", "module", "classifier"]

_NAMES: dict[Colour, dict[str, str]] = {
    "conv": {"conv": "convolution"},
    "depthwise": {"conv": "depthwise convolution"},
    "pool": {"": "pool"},
    "join": {"concat": "concatenation", "add": "sum", "split": "split"},
    "pointwise": {
        "norm": "normalisation",
        "activation": "activation",
        "scale": "factor",
        "affine": "affine map",
        "pad": "padding",
        "dropout": "dropout",
    },
    "module": {"": "module"},
    "classifier": {"linear": "linear layer", "aux": "auxiliary classifier"},
}
"""What each colour stands for in the legend, by kind of node; "" stands for all kinds."""

_FULL = {"BN": "batch norm", "LN": "layer norm", "LRN": "local response norm"}
_COLOURS: dict[str, Colour] = {
    "input": "data",
    "linear": "classifier",
    "max_pool": "pool",
    "avg_pool": "pool",
    "global_pool": "pool",
    "adaptive_pool": "pool",
    "concat": "join",
    "add": "join",
    "split": "join",
    "identity": "data",
}


_OTHERS = {
    "global_pool": lambda node: "global avg pool",
    "adaptive_pool": lambda node: f"adaptive avg pool to {shape_text(node.shape[:2])}",
    "scale": lambda node: f"× {_factor(node.text)}",
    "dropout": lambda node: f"dropout, {node.text}",
    "add": lambda node: "+",
}


def legend(kinds: Iterable[tuple[Colour, str]]) -> list[tuple[Colour, str]]:
    """Returns the legend's entries: pairs of a colour and the text that says what it stands for.

    Args:
        kinds: a pair for each box in the drawing: its colour and `Node.kind`; see `kinds`.
    """
    found = set(kinds)
    entries: list[tuple[Colour, str]] = []
    for name, words in _NAMES.items():
        present = [kind for shade, kind in found if shade == name]
        named = [word for kind, word in words.items() if kind in present or (present and not kind)]
        if present:
            entries.append((name, ", ".join(named) or "other operation"))
    return entries


def kinds(nodes: Iterable[Node]) -> list[tuple[Colour, str]]:
    """Returns pairs for `legend`: the colour of each node's box and the kind of the node.

    A normalisation that includes an activation gives a second pair, for the activation.
    """
    found: list[tuple[Colour, str]] = []
    for node in nodes:
        found.append((colour(node), node.kind))
        if node.kind == "norm" and node.after:
            found.append(("pointwise", "activation"))
    return found


def shape_text(shape: tuple[int, ...]) -> str:
    """Returns a shape or a window as papers print it: 35×35×288."""
    return "×".join(map(str, shape))


def number_text(number: int) -> str:
    """Returns a large number as papers print it: 23.8 M."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:#.3g}".rstrip(".") + f" {name}"
    return str(number)


def colour(node: Node) -> Colour:
    """Returns the colour of a node's box."""
    if node.kind == "conv":
        return "depthwise" if node.depthwise else "conv"
    return _COLOURS.get(node.kind, "pointwise")


def first_line(node: Node, *, channels: bool = True) -> str:
    """Returns the first line of a node's box: the operation, such as "3×3 conv / 2, 32".

    Args:
        node: node of the box.
        channels: whether to include the number of channels of the result.
    """
    out = f", {node.shape[-1]}" if channels else ""
    step = f" / {node.stride[0]}" if max(node.stride) > 1 else ""
    if node.kind == "conv":
        kind = "depthwise" if node.depthwise else "conv"
        dilated = f", dilation {node.dilation[0]}" if max(node.dilation) > 1 else ""
        return f"{shape_text(node.window)} {kind}{step}{out}{dilated}"
    if node.kind in ("max_pool", "avg_pool"):
        return f"{shape_text(node.window)} {node.kind.replace('_', ' ')}{step}"
    if node.kind in ("linear", "concat", "identity"):
        return f"{node.kind}{out}"
    if node.kind == "split":
        return f"split {' | '.join(map(str, node.parts))}"
    if node.kind == "norm":
        return ", ".join([_FULL[node.text], *node.after])
    return _OTHERS.get(node.kind, lambda node: node.text)(node)


def usual_after(nodes: Iterable[Node]) -> Mapping[Colour, tuple[str, ...]]:
    """Returns the operations that most often follow a convolution, by the colour of its box.

    An example is {"conv": ("BN", "ReLU")}. Depthwise convolutions have a colour of their own. The
    legend names these operations, so that boxes need not repeat them. If two sets of operations are
    equally frequent, the shorter set is returned.
    """
    found: dict[Colour, Counter[tuple[str, ...]]] = {}
    for node in nodes:
        if node.kind == "conv":
            found.setdefault(colour(node), Counter())[node.after] += 1
    return {
        shade: min(counter, key=lambda after: (-counter[after], len(after)))
        for shade, counter in found.items()
    }


def second_line(node: Node, usual: Mapping[Colour, tuple[str, ...]], module: str) -> str:
    """Returns the second line of a node's box, which may be empty.

    It has the layer's name, "valid" or "padding counted" if that applies, and the operations that
    follow in the same layer; " · " is between them.

    Args:
        node: node of the box.
        usual: result of `usual_after`: operations that the box of a convolution does not repeat.
        module: path of the module that is drawn.
    """
    words = [layer_name(node, module)]
    if node.valid:
        words.append("valid")
    if node.counts_padding:
        words.append("padding counted")
    if node.kind == "conv" and node.after != usual.get(colour(node)):
        words.append(" + ".join(node.after) or "linear")
    if node.kind == "linear":
        words.append(" + ".join(node.after))
    return " · ".join(filter(None, words))


def layer_name(node: Node, module: str) -> str:
    """Returns the path of a node's layer inside the module that is drawn.

    It is empty unless the node is a convolution, a linear layer or a normalisation in the module.
    """
    path = node.layer if node.kind in ("conv", "linear", "norm") else ""
    if not path or not inside(path, module):
        return ""
    path = path[len(module) + 1 :] if module else path
    # A convolution drawn with the operations after it has the name of the layer that contains them.
    return path.removesuffix(".conv") if node.after else path


def tooltip(node: Node) -> str:
    """Returns the text of a node's tooltip: path, operation, padding and result shape."""
    words = [first_line(node), *(node.after if node.kind != "norm" else ())]
    if any(any(pads) for pads in node.padding):
        words.append(f"padding {' '.join(f'{low}+{high}' for low, high in node.padding)}")
    words.append(f"result {shape_text(node.shape)}")
    return f"{node.layer or node.scope}: {', '.join(words)}".removeprefix(": ")


def _factor(text: str) -> str:
    try:
        return f"{float(text):.2f}"
    except ValueError:
        return text
