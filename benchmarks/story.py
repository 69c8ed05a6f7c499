"""Counts what factorised convolutions saved and cost, from GoogLeNet to InceptionNeXt.

    python benchmarks/story.py

prints the tables of docs/story.md and writes them into that page and its translation,
docs/story.zh.md, in about a minute. Networks and modules are built without parameter values. Their
costs are counted in their traced programs, which have the operations of the papers and not the
library's faster rewrites. Speeds are read from docs/performance.md: run this command again whenever
that page has new measurements.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import inception_jax as ij
from benchmarks import page, story_training
from benchmarks.story_in_chinese import translated
from inception_jax.analysis import macs
from inception_jax.create import abstract_model
from inception_jax.models import inception_next, inception_v1
from inception_jax.models.inception_resnet_v1 import Block8, Block17, Block35
from inception_jax.nn import ops
from inception_jax.nn.init import ONE_KEY
from inception_jax.nn.layers import Conv, ConvBN, DepthwiseConv
from inception_jax.nn.norms import BatchNorm
from inception_jax.registry import model_info

WEIGHTED = ("conv_general_dilated", "dot_general")
POOLS = ("reduce_window_max", "reduce_window_sum")
# Options that do not affect the counts.
UNCOUNTED = {"aux_dropout", "bn_eps", "bn_momentum", "drop_path", "dropout", "transform_input"}
ALIGNED = ("xception41", "xception65", "xception71", "xception41p", "xception65p")
FORWARD_AND_STEP = ("forward, plain, ms", "training step, plain, ms")
NINE = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a network, or of a part of one, for one image.

    Attributes:
        shape: shape of the output, without the batch dimension.
        params: number of trainable parameters.
        macs: number of multiply-accumulates.
        moved: how many numbers convolutions, matrix products and pools read and write, including
            kernels, if nothing stays in a cache.
        deep: number of layers with weights on the longest path.
        layers: number of layers with weights in total.
    """

    shape: tuple[int, ...]
    params: int
    macs: int
    moved: int
    deep: int
    layers: int


Group = Sequence[tuple[str, Cost]]
"""Names and costs of table rows; every row is compared with the first."""


class Naive(nnx.Module):
    """Inception module without dimension reductions, figure 2(a) of GoogLeNet's paper.

    Args:
        in_channels: channels of the input; the pool keeps all of them.
        like: module with reductions, whose branches have the widths to use.
    """

    def __init__(self, in_channels: int, like: inception_v1.Inception):
        kept = (like.branch1x1, like.branch3x3_2, like.branch5x5_2)
        widths = [layer.conv.kernel.shape[-1] for layer in kept]
        layers = zip(widths, (1, 3, 5), strict=True)
        conv = functools.partial(inception_v1.ConvReLU, in_channels, rngs=ONE_KEY)
        self.branches = nnx.List([conv(width, window) for width, window in layers])
        self.out_channels = sum(widths) + in_channels

    def __call__(self, x: jax.Array) -> jax.Array:
        branches = [branch(x) for branch in self.branches]
        return jnp.concatenate([*branches, ops.max_pool(x, 3, 1, "same")], axis=-1)


class Pool(nnx.Module):
    """Max pool of 3x3 windows at stride 2."""

    def __init__(self, padding: ops.Padding = "valid"):
        self.padding: ops.Padding = padding

    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.max_pool(x, 3, 2, self.padding)


class SideBySide(nnx.Module):
    """Applies layers to the same input and concatenates the channels of their outputs."""

    def __init__(self, *layers: Any):
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([layer(x) for layer in self.layers], axis=-1)


class Segments(nnx.Module):
    """A 1x1 convolution, then a 3x3 convolution for each segment of its output channels.

    This is figure 3 of Xception's paper.

    Args:
        channels: channels of the input and of the output.
        segments: number of segments.
    """

    def __init__(self, channels: int, segments: int):
        self.pointwise = conv(channels, channels)
        part = channels // segments
        self.spatial = nnx.List([conv(part, part, 3) for _ in range(segments)])

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = jnp.split(self.pointwise(x), len(self.spatial), axis=-1)
        parts = [layer(part) for layer, part in zip(self.spatial, parts, strict=True)]
        return jnp.concatenate(parts, axis=-1)


conv = functools.partial(Conv, rngs=ONE_KEY)
depthwise = functools.partial(DepthwiseConv, rngs=ONE_KEY)
conv_bn = functools.partial(ConvBN, bn_eps=1e-3, bn_momentum=0.99, rngs=ONE_KEY)


def network(name: str, **options: Any) -> Any:
    """Returns a network that has only the shapes of its parameters, not their values.

    The arguments are those of `whole`.
    """
    return _network(ij.model_info(name).arch, _readings(name, options))


def _readings(name: str, options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    readings = model_info(name).options | options
    return tuple(sorted((key, readings[key]) for key in readings.keys() - UNCOUNTED))


@functools.cache
def _network(arch: str, readings: tuple[tuple[str, Any], ...]) -> Any:
    return abstract_model(arch, **dict(readings))


def cost(build: Callable[[], Any] | nnx.Module, *shape: int) -> Cost:
    """Returns the `Cost` of a module for one input: its parameters, MACs and so on.

    Args:
        build: module, or function that returns a module.
        *shape: height, width and channels of the input.
    """
    module = build if isinstance(build, nnx.Module) else nnx.eval_shape(build)
    module.eval()
    graphdef, state = nnx.split(module)
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with ops.forced_form("native"), ij.rewritten("repeats"):  # equal blocks are traced once
        closed = jax.make_jaxpr(lambda state, x: nnx.merge(graphdef, state)(x))(state, x)
    program: Any = closed.jaxpr
    equations = list(macs.equations(program))
    weighted = [each for each in equations if each.primitive.name in WEIGHTED]
    pools = [each for each in equations if each.primitive.name in POOLS]
    return Cost(
        shape=program.outvars[0].aval.shape[1:],
        params=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))),
        macs=sum(macs.macs_of(each) for each in program.eqns),
        moved=sum(v.aval.size for each in weighted + pools for v in (*each.invars, *each.outvars)),
        deep=max(_longest(program, [0] * len(program.invars))),
        layers=len(weighted),
    )


def _longest(program: Any, before: Sequence[int]) -> list[int]:
    """Returns, for each output, the number of layers with weights on the longest path to it.

    Args:
        program: jaxpr of a network or of a part of one.
        before: for each input, the number of layers with weights on the longest path to it.
    """
    known = dict(zip(program.invars, before, strict=True))

    def ways(variables: Sequence[Any]) -> list[int]:
        return [0 if hasattr(v, "val") else known.get(v, 0) for v in variables]

    for equation in program.eqns:
        reached = ways(equation.invars)
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        inner = [p for p in inner if hasattr(p, "eqns") and len(p.invars) == len(reached)]
        if inner:
            after = _longest(inner[0], reached)
        else:
            own = equation.primitive.name in WEIGHTED
            after = [max(reached, default=0) + own] * len(equation.outvars)
        known.update(zip(equation.outvars, after, strict=True))
    return ways(program.outvars)


def whole(name: str, **options: Any) -> Cost:
    """Returns the `Cost` of a network for one RGB image of the network's input size.

    The cost has the number of parameters, of multiply-accumulates and so on.

    Args:
        name: name of the network, with or without a tag.
        **options: options of the network, in place of those that the name stands for.
    """
    info = ij.model_info(name)
    return _whole(info.arch, _readings(name, options), info.input_size)


@functools.cache
def _whole(arch: str, readings: tuple[tuple[str, Any], ...], side: int) -> Cost:
    return cost(_network(arch, readings), side, side, 3)


# The whole family: tag, top-1 on ImageNet's validation set in percent (None without weights), and
# the source of that number.
_TIMM = "timm, `results-imagenet.csv`"
FAMILY: tuple[tuple[str, float | None, str], ...] = (
    ("inception_v1.bvlc_in1k", 68.7, "Caffe, `bvlc_googlenet/readme.md`"),
    ("inception_v1.tv_in1k", 69.778, "torchvision"),
    ("bn_inception.caffe_in1k", 73.524, "Cadene, `README.md`"),
    ("inception_v2.paper", None, ""),
    ("inception_v3.tf_in1k", 77.866, _TIMM),
    ("inception_v4.tf_in1k", 80.144, _TIMM),
    ("inception_resnet_v1.paper", None, ""),
    ("inception_resnet_v2.paper", None, ""),
    ("inception_resnet_v2.tf_in1k", 80.434, _TIMM),
    ("xception.tf_in1k", 79.058, _TIMM),
    ("xception41.tf_in1k", 78.550, _TIMM),
    ("xception65.tf_in1k", 79.558, _TIMM),
    ("xception65.ra3_in1k", 83.186, _TIMM),
    ("xception71.tf_in1k", 79.920, _TIMM),
    ("xception41p.ra3_in1k", 81.978, _TIMM),
    ("xception65p.ra3_in1k", 83.160, _TIMM),
    ("inception_next_atto.sail_in1k", 75.348, _TIMM),
    ("inception_next_tiny.sail_in1k", 82.508, _TIMM),
    ("inception_next_small.sail_in1k", 83.584, _TIMM),
    ("inception_next_base.sail_in1k", 84.098, _TIMM),
    ("inception_next_base.sail_in1k_384", 85.202, _TIMM),
)


def family() -> str:
    """Returns the Markdown table of every network's cost for one image of the network's input size.

    Columns have the parameters, the multiply-accumulates and the numbers of layers; see `Cost`.
    Others have the paper and the accuracy on ImageNet.
    """
    first = whole(FAMILY[0][0])
    rows = []
    for name, top1, source in FAMILY:
        info, found = ij.model_info(name), whole(name)
        number = info.paper.rpartition("/")[2]
        rows.append(
            [f"`{name}`", f"20{number[:2]}", f"[{number}]({info.paper})", info.input_size,
             f"{found.params:,}", f"{found.macs / 1e9:.2f}", f"{found.macs / first.macs:.2f}",
             found.deep, found.layers, "no weights" if top1 is None else f"{top1:.1f}", source]
        )  # fmt: skip
    head = ["network", "year", "paper", "pixels", "parameters", "MACs, G", "ratio", "deep"]
    return page.table([*head, "layers in all", "top-1, %", "stated by"], rows)


def bottlenecks() -> str:
    """Returns the Markdown table of the costs of GoogLeNet's modules.

    Modules are compared without and with dimension reductions, which are 1x1 convolutions with few
    channels. Columns have the output channels, the parameters and the multiply-accumulates.
    """
    net = network("inception_v1.bvlc_in1k")
    using: list[Any] = [getattr(net, f"inception{name}") for name in NINE]
    without = nnx.eval_shape(lambda: _naive(using))
    for modules in (without, using):
        modules[7:7], modules[2:2] = [Pool("ceil")], [Pool("ceil")]
    rows = []
    for name, count in (("3a", 1), ("3a, 3b", 2), ("3a, 3b, pool, 4a to 5b", len(using))):
        pair = [cost(nnx.Sequential(*modules[:count]), 28, 28, 192) for modules in (without, using)]
        params, work = [each.params for each in pair], [each.macs for each in pair]
        rows.append(
            [name, *(f"{each.shape[-1]:,}" for each in pair),
             *(f"{each:,}" for each in params), f"{params[0] / params[1]:.2f}",
             *map(amount, work), f"{work[0] / work[1]:.2f}"]
        )  # fmt: skip
    head = ["modules", "channels out: naive", "with 1x1"]
    for what in ("parameters", "MACs, M"):
        head += [f"{what}: naive", "with 1x1", "naive / with 1x1"]
    return page.table(head, rows)


def _naive(modules: Sequence[inception_v1.Inception]) -> list[Any]:
    found, channels = [], 192
    for module in modules:
        found.append(Naive(channels, module))
        channels = found[-1].out_channels
    return found


def googlenets() -> str:
    """Returns the Markdown table of the costs of networks between GoogLeNet and BN-Inception.

    The networks differ in the factorised 5x5 convolutions and in BN-Inception's separable first
    layer. For the columns, see `compared`.
    """
    stems = [network("bn_inception", stem=stem).conv1 for stem in ("conv", "separable")]
    networks = [
        ("GoogLeNet, BatchNorm for LRN", whole("inception_v1", kernel_5x5=5)),
        ("its 5x5 as two 3x3, each as wide", cost(_of_3x3, 224, 224, 3)),
        ("the same, widening evenly", cost(lambda: _of_3x3(evenly=True), 224, 224, 3)),
        ("its 5x5 as one 3x3: TF-slim, torchvision", whole("inception_v1")),
        ("BN-Inception, first layer whole", whole("bn_inception")),
        ("BN-Inception, first layer taken apart", whole("bn_inception", stem="separable")),
    ]
    layers = [
        ("that layer: 7x7/2 on the image", cost(stems[0], 224, 224, 3)),
        ("depthwise 7x7/2 to 24, then 1x1", cost(stems[1], 224, 224, 3)),
    ]
    return compared(networks, layers)


def _of_3x3(evenly: bool = False) -> Any:
    """Returns GoogLeNet with two 3x3 convolutions in place of each 5x5 convolution.

    Args:
        evenly: whether both 3x3 convolutions increase the channels by the same factor; otherwise,
            the first has as many output channels as the second.
    """
    net = ij.create_model("inception_v1", rngs=ONE_KEY)
    for module in (getattr(net, f"inception{name}") for name in NINE):
        into, out = module.branch5x5_2.conv.kernel.shape[2:]
        between = round(math.sqrt(into * out)) if evenly else out
        module.branch5x5_2 = nnx.Sequential(conv_bn(into, between, 3), conv_bn(between, out, 3))
    return net


def factors() -> str:
    """Returns the Markdown table of the costs of convolutions and of their factorised forms.

    An example is a 5x5 convolution and the two 3x3 convolutions that replace it. The layers are
    counted without bias and BatchNorm. For the columns, see `compared`.
    """
    v3 = network("inception_v3")
    stem = [layer.conv for layer in (v3.Conv2d_1a_3x3, v3.Conv2d_2a_3x3, v3.Conv2d_2b_3x3)]
    beside = lambda: SideBySide(conv(384, 384, (1, 3)), conv(384, 384, (3, 1)))  # noqa: E731
    return compared(
        [("5x5 on 35x35x96", convs(35, 96, 5)), ("two 3x3", convs(35, 96, 3, 3))],
        [
            ("7x7 on 17x17x192", convs(17, 192, 7)),
            ("three 3x3", convs(17, 192, 3, 3, 3)),
            ("1x7, then 7x1", convs(17, 192, (1, 7), (7, 1))),
        ],
        [
            ("3x3 on 8x8x384", convs(8, 384, 3)),
            ("two 2x2", convs(8, 384, 2, 2)),
            ("1x3, then 3x1", convs(8, 384, (1, 3), (3, 1))),
            ("1x3 beside 3x1, twice the channels", cost(beside, 8, 8, 384)),
        ],
        [
            ("7x7/2 to 64 on the image", cost(lambda: conv(3, 64, 7, 2, "valid"), 299, 299, 3)),
            ("V3's 3x3/2, 3x3, 3x3, to 64 as well", cost(nnx.Sequential(*stem), 299, 299, 3)),
        ],
    )


def convs(side: int, channels: int, *windows: int | tuple[int, int]) -> Cost:
    """Returns the `Cost` of consecutive convolutions that keep the shape of a feature map.

    Args:
        side: height and width of the feature map.
        channels: channels of the feature map.
        *windows: kernel sizes of the convolutions.
    """
    layers = lambda: nnx.Sequential(*(conv(channels, channels, window) for window in windows))  # noqa: E731
    return cost(layers, side, side, channels)


def reductions() -> str:
    """Returns the Markdown table of the costs of three grid reductions from 35x35x320 to 17x17x640.

    The reductions are in figures 9 and 10 of "Rethinking the Inception Architecture"
    (arXiv:1512.00567). For the columns, see `compared`; one more has the numbers in the narrowest
    feature map.
    """
    shape = (35, 35, 320)
    ways: dict[str, Callable[[], list[Any]]] = {
        "3x3 to 640, then pool": lambda: [conv(320, 640, 3), Pool()],
        "pool, then 3x3 to 640": lambda: [Pool(), conv(320, 640, 3)],
        "3x3/2 to 320 beside pool": lambda: [SideBySide(conv(320, 320, 3, 2, "valid"), Pool())],
    }
    steps = [nnx.eval_shape(way) for way in ways.values()]
    narrowest = [
        min(math.prod(cost(nnx.Sequential(*row[: i + 1]), *shape).shape) for i in range(len(row)))
        for row in steps
    ]
    costs = [cost(nnx.Sequential(*row), *shape) for row in steps]
    more = {"narrowest map, numbers": [f"{size:,}" for size in narrowest]}
    return compared(list(zip(ways, costs, strict=True)), more=more)


# Prefixes of the names of stages, by part of a network. Stages before Mixed_5b are "first layers",
# including the modules that V4 has there.
GRIDS = {
    "35x35 modules": "Mixed_5",
    "reduction": "Mixed_6a",
    "17x17 modules": "Mixed_6",
    "second reduction": "Mixed_7a",
    "8x8 modules": "Mixed_7",
    "classifier": "classifier",
}
FIRST = "first layers"


def grids(base: str, networks: Mapping[str, str]) -> str:
    """Returns a Markdown table of networks' costs, with a row for each part, such as 17x17 modules.

    For each network, columns have the number of modules, of parameters and of multiply-accumulates.

    Args:
        base: name of the network by whose totals the last row divides those of all networks.
        networks: names of the networks, by column title.
    """
    parts = [dict(_parts(name)) for name in networks.values()]
    first = whole(base)
    for cells, found in zip(parts, map(whole, networks.values()), strict=True):
        ratios = [found.params / first.params, found.macs / first.macs]
        cells[f"all, of `{base}`"] = ["", *(f"{ratio:.2f}" for ratio in ratios)]
    head = ["part"]
    for title in networks:
        head += [f"{title}: modules", "parameters, M", "MACs, M"]
    return page.table(
        head, [[name, *(cell for p in parts for cell in p[name])] for name in parts[0]]
    )


@functools.cache
def _parts(name: str) -> dict[str, list[str]]:
    found = ij.summary(network(name))
    begun, stages = False, {part: [] for part in (FIRST, *GRIDS)}
    for stage in found.stages:
        begun |= stage.name == "Mixed_5b"
        fitting = [part for part, start in GRIDS.items() if stage.name.startswith(start)]
        part = max(fitting, key=lambda part: len(GRIDS[part])) if begun else FIRST
        stages[part].append(stage)
    cells = {
        part: [
            f"{len(own)}" if part.endswith("modules") else "",
            amount(sum(stage.params for stage in own)),
            amount(sum(stage.macs for stage in own)),
        ]
        for part, own in stages.items()
    }
    return cells | {"all": ["", amount(found.params), amount(found.macs)]}


def residual() -> str:
    """Returns the Markdown table of the costs of Inception V4's modules and of residual blocks.

    A module and a block are compared on the same feature map. The last rows compare whole networks.
    For the columns, see `compared`.
    """
    v4 = network("inception_v4")
    options: dict[str, Any] = dict(scale=0.1, conv=conv_bn, width=int)
    options["linear_conv"] = functools.partial(conv, bias=True)
    groups: list[Group] = []
    for module, side, channels, build in (  # blocks as wide as Inception-ResNet-v2's
        (v4.Mixed_5c, 35, 384, lambda: Block35(384, 48, 64, **options)),
        (v4.Mixed_6c, 17, 1024, lambda: Block17(1024, 192, 160, 192, **options)),
        (v4.Mixed_7c, 8, 1536, lambda: Block8(1536, 224, 256, **options)),
    ):
        block = nnx.eval_shape(build)
        shape = (side, side, channels)
        name = f"V4's {type(module).__name__} on {side}x{side}x{channels}"
        groups.append(
            [
                (name, cost(module, *shape)),
                (f"`{type(block).__name__}` on the same map", cost(block, *shape)),
                ("its last 1x1 alone", cost(block.up, side, side, block.up.kernel.shape[2])),
            ]
        )
    figures, code = "the paper's figures", "the published code"
    pairs = [
        [
            ("Inception V3", whole("inception_v3")),
            (f"Inception-ResNet-v1, {figures}", whole("inception_resnet_v1.paper")),
        ],
        [
            ("Inception V4", whole("inception_v4")),
            (f"Inception-ResNet-v2, {figures}", whole("inception_resnet_v2.paper")),
            (f"Inception-ResNet-v2, {code}", whole("inception_resnet_v2")),
        ],
    ]
    return compared(*groups, *pairs)


def segments() -> str:
    """Returns the Markdown table of the costs of segmented convolutions on V3's 17x17 maps.

    The output channels of a 1x1 convolution are divided into segments, and each segment has its own
    3x3 convolution. From row to row, the number of segments increases from one (a full convolution)
    to the number of channels (a depthwise convolution). Three more rows are for comparison. For the
    columns, see `compared`.
    """
    shape = (17, 17, 768)
    rows = [("3x3 on 17x17x768", convs(17, 768, 3))]
    for count in (1, 3, 4, 48):
        name = f"1x1, then 3x3 on {count} segment{'s' if count > 1 else ''}"
        rows.append((name, cost(functools.partial(Segments, 768, count), *shape)))
    extreme = lambda: nnx.Sequential(conv(768, 768), depthwise(768))  # noqa: E731
    code = lambda: nnx.Sequential(depthwise(768), conv(768, 768))  # noqa: E731
    rows += [
        ("1x1, then 3x3 on 768 segments", cost(extreme, *shape)),
        ("depthwise 3x3, then 1x1: the code", cost(code, *shape)),
        ("V3's module Mixed_6e", cost(network("inception_v3").Mixed_6e, *shape)),
    ]
    return compared(rows)


def aligned() -> str:
    """Returns the Markdown table of the costs of Xception and its variants by DeepLab and timm.

    For the columns, see `compared`; one more has the number of BatchNorms.
    """
    first = {"Xception": ("xception", {})}
    names = {f"aligned, {name.removeprefix('xception')}": (name, {}) for name in ALIGNED}
    dilated = {
        f"aligned, 65, output stride {stride}": ("xception65", dict(output_stride=stride))
        for stride in (16, 8)
    }
    found = first | names | dilated
    norms = [
        sum(isinstance(module, BatchNorm) for _, module in nnx.iter_modules(network(name, **more)))
        for name, more in found.values()
    ]
    costs = [(title, whole(name, **more)) for title, (name, more) in found.items()]
    return compared(costs, more={"BatchNorms": [f"{count}" for count in norms]})


def bands() -> str:
    """Returns the Markdown table of costs of depthwise convolutions in InceptionNeXt and ConvNeXt.

    Further rows compare blocks and networks that have these convolutions. For the columns, see
    `compared`.
    """
    tiny = network("inception_next_tiny")
    block = tiny.stages[2].blocks[0]
    full = functools.partial(depthwise, bias=True)
    mixers = [
        (f"depthwise {k}x{k} on 14x14x384", cost(functools.partial(full, 384, k), 14, 14, 384))
        for k in (7, 3, 11)
    ]
    mixers.append(("3x3, 1x11, 11x1, identity", cost(block.token_mixer, 14, 14, 384)))
    plain = nnx.eval_shape(lambda: _with_7x7().stages[2].blocks[0])
    blocks = [
        ("block with depthwise 7x7", cost(plain, 14, 14, 384)),
        ("InceptionNeXt's block", cost(block, 14, 14, 384)),
    ]
    networks = [
        ("tiny with depthwise 7x7", cost(_with_7x7, 224, 224, 3)),
        ("InceptionNeXt tiny", whole("inception_next_tiny")),
    ]
    return compared(mixers, blocks, networks)


def _with_7x7() -> Any:
    net: Any = ij.create_model("inception_next_tiny", rngs=ONE_KEY)
    for stage in net.stages:
        for block in stage.blocks:
            block.token_mixer = depthwise(block.gamma.shape[0], 7, bias=True)
    return net


BATCH = 8  # images; of the rows of docs/performance.md that `speeds` reads


def speeds(performance: Path) -> str:
    """Returns the Markdown table of networks' speeds, measured on a CPU and estimated for a TPU.

    Args:
        performance: path of docs/performance.md, from which the speeds are read.
    """
    chip = {row["network"]: row for row in read(performance, "tpu family")}
    rows = []
    for row in read(performance, "cpu-inference"):
        if row["images"] != str(BATCH):
            continue
        name = row["network"]
        work = whole(name.strip("`")).macs
        twin = float(row["`torch_channels_last`, ms"])
        ratios = [float(row[form].split()[0]) for form in ("`jit_predict`", "`onnxruntime`")]
        cells = [name, f"{work / 1e9:.2f}"]
        for ms in (twin, *(twin * ratio for ratio in ratios)):
            cells += [f"{ms:.0f}", f"{BATCH * work / ms / 1e6:.0f}"]
        if name in chip:
            forward, step = (float(chip[name][key]) for key in FORWARD_AND_STEP)
            cells += [f"{forward:.1f}", f"{128 * work / forward / 1e9:.0f}"]
            cells += [f"{step:.1f}", f"{step / forward:.1f}"]
        rows.append([*cells, *["-"] * (12 - len(cells))])
    head = ["network", "MACs, G"]
    for what in ("PyTorch twin", "`jit_predict`", "onnxruntime"):
        head += [f"{what}, ms", "G MACs/s"]
    head += ["TPU v5e, forward, ms", "T MACs/s", "training step, ms", "of forward"]
    return page.table(head, rows)


def errata() -> str:
    """Returns the Markdown table of the papers' numbers that differ from the built networks'."""
    bn, paper = network("bn_inception"), network("inception_resnet_v2.paper")
    bare = cost(lambda: conv(192, 192, 3, 1, "valid"), 71, 71, 192).shape[0]
    strided = cost(network("inception_v4").Mixed_5a, 71, 71, 192).shape[0]
    in_all = whole("bn_inception", stem="separable").params
    dims = (40, 90, 180, 320)
    shape = dataclasses.replace(inception_next.SHAPES["atto"], dims=dims)
    with mock.patch.dict(inception_next.SHAPES, atto=shape):
        printed = cost(lambda: ij.create_model("inception_next_atto", rngs=ONE_KEY), 224, 224, 3)
    atto = whole("inception_next_atto")
    widths_4 = ", ".join(str(getattr(bn, f"inception{n}").out_channels) for n in ("4c", "4d", "4e"))
    rows = [
        ("BN-Inception, figure 5: channels of 4c, 4d, 4e", "576, 576, 1024", widths_4),
        ("BN-Inception, section 4.2: parameters", "13.6 M",
         f"{amount(in_all)} M of figure 5's filters"),
        ("Inception V4, figure 3, last convolution", "no stride",
         f"a map of {bare}x{bare} beside the pool's {strided}x{strided}; with stride 2 both fit"),
        ("Inception-ResNet-v2, figure 17, last 1x1", "1154 channels",
         f"{paper.Mixed_6a.out_channels}, which Reduction-A returns"),
        ("Inception-ResNet-v2, figure 19, last 1x1", "2048 channels",
         f"{paper.Mixed_7a.out_channels}, which Reduction-B returns"),
        ("InceptionNeXt, table 3, atto: channels of stages 2 and 3", "90, 180; 4.2 M parameters",
         f"{amount(printed.params)} M with these, {amount(atto.params)} M with 80, 160"),
    ]  # fmt: skip
    return page.table(["where", "printed", "built"], rows)


def read(path: Path, name: str) -> list[dict[str, str]]:
    """Reads the first table of a section; returns a dict from heading to cell for each row.

    If several columns have the same heading, the dict has the cell of the first such column.

    Args:
        path: path of the page.
        name: name of the section.
    """
    text = path.read_text().partition(f"<!-- {name} -->")[2].partition(f"<!-- end {name} -->")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
    return [dict(reversed(list(zip(head, row, strict=True)))) for row in rows]


def compared(*groups: Group, more: Mapping[str, Sequence[str]] | None = None) -> str:
    """Returns a Markdown table of costs: output shape, parameters, MACs, moved numbers and depth.

    Costs are followed by their ratio to the first row of the group. For their meaning, see `Cost`.

    Args:
        *groups: names and costs of the rows of each group.
        more: cells of further columns, by heading.
    """
    extra = iter(zip(*more.values(), strict=True) if more else ())
    rows = []
    for group in groups:
        first = group[0][1]
        for name, found in group:
            cells = [name, "x".join(map(str, found.shape)), f"{found.params:,}"]
            cells.append(f"{found.params / first.params:.2f}")
            for own, base in ((found.macs, first.macs), (found.moved, first.moved)):
                cells += [amount(own), f"{own / base:.2f}"]
            rows.append([*cells, f"{found.deep}", *next(extra, ())])
    head = ["", "returns", "parameters", "ratio", "MACs, M", "ratio", "moved, M", "ratio", "deep"]
    return page.table([*head, *(more or ())], rows)


def amount(number: int) -> str:
    """Returns a number in millions as text, with at least three digits."""
    millions = number / 1e6
    return f"{millions:,.{0 if millions >= 100 else 1 if millions >= 10 else 2}f}"


def tables(docs: Path) -> dict[str, str]:
    """Returns every Markdown table of docs/story.md, by the name of its section.

    Args:
        docs: folder of docs/performance.md, from which the speeds are read.
    """
    rethinking = {
        "V2, n = 3": "inception_v2.blog",
        "V2, n = 7": "inception_v2.paper",
        "V3": "inception_v3",
    }
    return {
        "family": family(),
        "bottlenecks": bottlenecks(),
        "googlenets": googlenets(),
        "factors": factors(),
        "reductions": reductions(),
        "v2 and v3": grids("bn_inception", rethinking),
        "smoothing": story_training.smoothing(),
        "rmsprop": story_training.rmsprop(),
        "v3 and v4": grids("inception_v3", {"V3": "inception_v3", "V4": "inception_v4"}),
        "residual": residual(),
        "segments": segments(),
        "aligned": aligned(),
        "bands": bands(),
        "speeds": speeds(docs / "performance.md"),
        "errata": errata(),
    }


def main(options: page.Pages) -> None:
    """Prints the story's tables, and writes them into its two pages in `options.docs`."""
    for name, text in tables(options.docs).items():
        print(f"\n{name}\n\n{text}", flush=True)
        page.write_section(options.docs / "story.md", name, text)
        page.write_section(options.docs / "story.zh.md", name, translated(text))


if __name__ == "__main__":
    main(tyro.cli(page.Pages, description=__doc__))
