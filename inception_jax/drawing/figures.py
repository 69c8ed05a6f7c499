"""Draws a network or one of its modules."""

from __future__ import annotations

from inception_jax.drawing import (
    labels,
    module_layout,
    overview,
    overview_layout,
    series_parallel,
    subgraphs,
    svg,
)
from inception_jax.drawing.canvas import Drawing, framed
from inception_jax.drawing.graph import Graph, inside
from inception_jax.drawing.repeats import run_of, signature
from inception_jax.drawing.traced_network import Network, network_of
from inception_jax.nn import layers
from inception_jax.nn.model import Model


def draw(
    name_or_model: str | Model,
    module: str | None = None,
    *,
    input_size: int | tuple[int, int] | None = None,
) -> str:
    """Draws a network, or one of its modules, from its traced program.

    Nothing is computed and no weights are needed. Data flows from top to bottom. Branches are side
    by side in the order of the code.

    Args:
        name_or_model: a name for `create_model`, or a network. For a name, the drawing includes all
            auxiliary classifiers that the network can have.
        module: a stage of `features` ("Mixed_6b", "block17") or the path of a module ("block17.0",
            "AuxLogits"); None: the whole network. Of consecutive modules with the same structure,
            only the first is drawn.
        input_size: height and width of the images in pixels, or one number for both; None: the
            network's default.

    Returns:
        The text of an SVG file.

    Raises:
        UnknownModelError: for an unknown name.
        ValueError: if the module is unknown (the message suggests similar names), if the network
            cannot take images of this size, or if `input_size` is missing for a network that
            `create_model` did not build.
    """
    return svg.write(drawing(network_of(name_or_model, input_size), module))


def drawing(network: Network, module: str | None) -> Drawing:
    """Returns the drawing of a traced network, or of one of its modules (see `draw`)."""
    return _whole(network) if module is None else _module(network, module)


def modules(name_or_model: str | Model, *, widths: bool = False) -> list[str]:
    """Returns the names of one module of each kind in a network, in forward order, for `draw`.

    Two modules are of the same kind if they have the same class and structure. Channel counts are
    ignored, except that a separable convolution that increases the channels is of another kind than
    one that does not.

    Args:
        name_or_model: see `draw`.
        widths: whether modules with different channel counts are of different kinds.

    Raises:
        UnknownModelError: for a name that no network has.
        ValueError: for a network that `create_model` did not build.
    """
    network = network_of(name_or_model, None)
    found: dict[object, str] = {}
    for path in _candidates(network.graph, network.aux_names):
        nodes = subgraphs.find(network.graph, path).nodes
        kind = network.graph.modules[path], signature(nodes, widths=widths)
        found.setdefault(kind, path)
    return list(found.values())


def _candidates(graph: Graph, aux_names: tuple[str, ...]) -> list[str]:
    """Returns the paths of the outermost modules in the stages and the classifiers.

    Plain layers are left out: modules whose class is defined in `nn.layers`, or also occurs inside
    another module.
    """
    stages = subgraphs.stages(graph)
    nodes = [node for stage in stages for node in stage.nodes.values()]
    last = max((stage.result for stage in stages), default=0)
    nodes += subgraphs.nodes_between(graph, last, graph.outputs[0]).values()
    tops = subgraphs.outermost_modules(graph, nodes)
    tops += [path for path in graph.calls if path in aux_names]
    below = (p for p in graph.calls if p not in tops and any(inside(p, top) for top in tops))
    plain = {graph.modules[path] for path in below}
    classes = {path: graph.modules[path] for path in tops}
    return [p for p, c in classes.items() if c.__module__ != layers.__name__ and c not in plain]


def _whole(network: Network) -> Drawing:
    rows = overview.rows(network.graph, network.aux_names)
    shapes, size = overview_layout.place(rows)
    images = labels.shape_text(network.graph.nodes[0].shape)
    kinds: list[tuple[labels.Colour, str]] = [
        (row.colour, row.kind) for above in rows for row in (above, above.aux) if row
    ]
    lines = [f"{row.name} {row.text} {labels.shape_text(row.shape)}".strip() for row in rows]
    return framed(
        shapes,
        size,
        heading=network.name,
        subheading=" · ".join([network.graph.class_name(""), f"images {images}", *_costs(network)]),
        legend=labels.legend(kinds),
        description=f"The stages of {network.name} from its images to its logits, with height, "
        f"width and channels of each result: {'; '.join(lines)}.",
        centred=False,
    )


def _costs(network: Network) -> list[str]:
    aux = sum(network.parameters(name) for name in network.aux_names)
    own = f"{labels.number_text(network.parameters('') - aux)} parameters"
    more = f" and {labels.number_text(aux)} in auxiliary classifiers" if aux else ""
    return [own + more, f"{labels.number_text(network.macs)} multiply-accumulates"]


def _module(network: Network, name: str) -> Drawing:
    part = subgraphs.find(network.graph, name)
    nodes = list(part.nodes.values())
    usual = labels.usual_after(nodes)
    style = module_layout.Style(network.graph, part.nodes, usual, part.path)
    series = series_parallel.arrange(part)
    ends = [labels.shape_text(shape) for shape in part.shapes]
    block = module_layout.place(series, style, (f"input {ends[0]}", f"output {ends[1]}"))
    legend: list[tuple[labels.Colour, str]] = [
        (colour, " + ".join([text, *usual.get(colour, ())]))
        for colour, text in labels.legend(labels.kinds(nodes))
    ]
    order = [
        labels.first_line(part.nodes[number]) for number in series_parallel.node_numbers(series)
    ]
    return framed(
        block.moved(block.left, 0).shapes,
        (block.left + block.right, block.height),
        heading=f"{network.name} · {name}",
        subheading=" · ".join(_facts(network, part)),
        legend=legend,
        description=f"{name} of {network.name}, from its input, {ends[0]}, to its output, "
        f"{ends[1]}. Data flows from top to bottom: {'; '.join(order)}.",
        centred=True,
    )


def _facts(network: Network, part: subgraphs.Subgraph) -> list[str]:
    facts = [overview.describe(network.graph, part)]
    if part.path not in ("", part.name):
        facts.append(part.path)
    alike = len(run_of(network.graph, part.path))
    if alike > 1:
        facts.append(f"one of {alike} in a row")
    parameters = network.parameters(part.path or part.name)
    return [*facts, f"{labels.number_text(parameters)} parameters"] if parameters else facts
