"""Makes a table of a network's stages."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from inception_jax.analysis.macs import macs_of
from inception_jax.create import abstract_model
from inception_jax.nn import ops
from inception_jax.nn.layers import Chain
from inception_jax.nn.model import Model
from inception_jax.nn.rewrites import rewritten
from inception_jax.registry import model_info

_HEADINGS = ("stage", "made of", "shape", "parameters", "MACs")
_POOLS = {"reduce_window_max": "max pool", "reduce_window_sum": "average pool"}


@dataclasses.dataclass(frozen=True)
class StageSummary:
    """A stage's row in the table of `summary`.

    Attributes:
        name: name of the stage in `features`; "classifier" for the layers after the last stage.
        kind: class of the stage's module, with a count if it repeats, as in "20 x Block17". For a
            stage of several modules: their names. For a stage without parameters: "max pool",
            "average pool" or "ReLU".
        shape: shape of the feature map of one image, (h, w, c); (num_classes,) for the classifier.
        params: number of trainable parameters.
        macs: multiply-accumulates for one image, see `macs.count_macs`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    params: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A table of a network's stages, for terminals and for notebooks.

    Attributes:
        title: description of the network and size of the image.
        stages: rows of the table: the stages in forward order, and the classifier last.
        params: number of trainable parameters that are used in evaluation.
        aux_params: number of trainable parameters of the auxiliary heads, used only in training.
        macs: multiply-accumulates for one image.
    """

    title: str
    stages: tuple[StageSummary, ...]
    params: int
    aux_params: int
    macs: int

    def _lines(self) -> Iterator[tuple[str, ...]]:
        for stage in self.stages:
            shape = "x".join(map(str, stage.shape))
            yield stage.name, stage.kind, shape, f"{stage.params:,}", _millions(stage.macs)
        yield "all", "", "", f"{self.params:,}", _millions(self.macs)
        if self.aux_params:
            yield "auxiliary heads, in training", "", "", f"{self.aux_params:,}", ""

    def __str__(self) -> str:
        lines = [_HEADINGS, *self._lines()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ["  ".join(_aligned(line, widths)).rstrip() for line in lines]
        rule = "-" * max(map(len, rows))
        stages = rows[1 : 1 + len(self.stages)]
        return "\n".join([self.title, rows[0], rule, *stages, rule, *rows[1 + len(self.stages) :]])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [_row("th", _HEADINGS), *(_row("td", line) for line in self._lines())]
        return f"<table><caption>{html.escape(self.title)}</caption>{''.join(rows)}</table>"


def summary(
    model: Model | str, input_size: int | tuple[int, int] | None = None, **options: Any
) -> Summary:
    """Returns a table of a network's stages: shapes, parameters and multiply-accumulates.

    All numbers come from the traced program. The network does not run. The table is an object that
    prints as text and has the numbers as attributes.

    Args:
        model: a network, or a name that `create_model` takes.
        input_size: height and width of the image in pixels, or one number for both; None: the
            network's default.
        **options: options of `create_model`, if a name is given.

    Raises:
        UnknownModelError: for an unknown name; the message suggests similar ones.
        ValueError: if the image is too small for the network, or if `input_size` is missing for a
            network that `create_model` did not build.
    """
    if isinstance(model, str):
        model = abstract_model(model, **options)
    size = input_size or (model_info(model.spec.name).input_size if model.spec else None)
    if size is None:
        raise ValueError("a network that create_model did not build has no size: give input_size")
    height, width = (size, size) if isinstance(size, int) else size
    graphdef, state = nnx.split(model.eval_view())
    params = nnx.filter_state(state, nnx.Param)
    images = jax.ShapeDtypeStruct((1, height, width, model.in_channels), jnp.float32)

    def run(state: nnx.State, images: jax.Array) -> tuple[OrderedDict[str, jax.Array], Any]:
        network = nnx.merge(graphdef, state)
        maps = network.features(images)
        return maps, network.classify(maps)

    with ops.forced_form("native"), rewritten():
        program, (maps, _) = jax.make_jaxpr(run, return_shape=True)(state, images)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    trained = {path for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    paths = {
        variable: path
        for variable, (path, _) in zip(program.jaxpr.invars, leaves, strict=False)
        if path in trained
    }
    stages = tuple(_stages(model, program.jaxpr, maps, paths))
    used = sum(stage.params for stage in stages)
    return Summary(
        title=f"{model!r} of {height}x{width}x{model.in_channels}",
        stages=stages,
        params=used,
        aux_params=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) - used,
        macs=sum(stage.macs for stage in stages),
    )


def _stages(model: Model, program: Any, maps: Any, paths: dict) -> Iterator[StageSummary]:
    """Yields the rows of the table. A stage ends with the equation that computes its feature map.

    Args:
        model: the network.
        program: jaxpr of the network; its outputs are the feature maps and the logits.
        maps: dict with the stage names as keys, in forward order; only the keys are used.
        paths: path of each parameter, by its variable in the jaxpr.
    """
    made = {out: i for i, eqn in enumerate(program.eqns) for out in eqn.outvars}
    ends = {
        name: variable
        for name, variable in zip([*maps, "classifier"], program.outvars, strict=True)
        if name not in model.inner_taps
    }
    bounds = itertools.pairwise([0, *(made[variable] + 1 for variable in ends.values())])
    unused = dict(paths)
    for (name, variable), (start, end) in zip(ends.items(), bounds, strict=True):
        equations = program.eqns[start:end]
        read = {v for eqn in equations for v in eqn.invars if not hasattr(v, "val")}
        first_used = {v: unused.pop(v) for v in list(unused) if v in read}
        params = sum(v.aval.size for v in first_used)
        macs = sum(macs_of(eqn) for eqn in equations)
        kind = _kind(model, list(first_used.values()), equations)
        yield StageSummary(name, kind, variable.aval.shape[1:], params, macs)


def _kind(model: Model, paths: Sequence[tuple], equations: Sequence[Any]) -> str:
    if not paths:
        pools = [_POOLS[e.primitive.name] for e in equations if e.primitive.name in _POOLS]
        return pools[0] if pools else "ReLU"
    module: Any = model
    for keys in zip(*paths, strict=False):
        inner = getattr(module, str(getattr(keys[0], "key", "")), None)
        if len(set(keys)) > 1 or not isinstance(inner, nnx.Module):
            break
        module = inner
    if module is model:
        return ", ".join(dict.fromkeys(str(path[0].key) for path in paths))
    if isinstance(module, Chain):
        return f"{len(module)} x {type(module[0]).__name__}"
    return type(module).__name__


def _millions(macs: int) -> str:
    return f"{macs / 1e6:,.1f} M" if macs else ""


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    pairs = list(zip(line, widths, strict=True))
    return [*(text.ljust(width) for text, width in pairs[:2]), *(t.rjust(w) for t, w in pairs[2:])]


def _row(tag: str, cells: Sequence[str]) -> str:
    sides = ["left", "left", *["right"] * (len(cells) - 2)]
    styled = zip(sides, map(html.escape, cells), strict=True)
    inner = (f'<{tag} style="text-align:{side}">{cell}</{tag}>' for side, cell in styled)
    return f"<tr>{''.join(inner)}</tr>"
