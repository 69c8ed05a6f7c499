"""Networks of benchmarks/tricks.py for which the library has no option.

Some are networks of the library that are changed after they have been built, so that all unchanged
parameters keep their initial values. The rest are small networks of the library's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import inception_jax as ij
from inception_jax.models.inception_next import Block, InceptionDWConv
from inception_jax.nn import init
from inception_jax.nn.layers import Conv, ConvBN, DepthwiseConv, Linear, SeparableConvBN
from inception_jax.nn.model import Maps, Model
from inception_jax.nn.norms import BatchNorm
from inception_jax.nn.ops import max_pool

BN: dict[str, Any] = dict(bn_eps=1e-3, bn_momentum=0.9)


class Small(Model):
    """A sequence of layers, global average pooling and a linear classifier.

    Args:
        layers: consecutive layers, of which the first takes the images.
        channels: channels of the last layer's output.
        num_classes: number of outputs.
        in_channels: channels of the images.
        rngs: source of the initial parameters.
    """

    min_size = 16

    def __init__(
        self,
        layers: Sequence[Any],
        channels: int,
        *,
        num_classes: int,
        in_channels: int,
        rngs: nnx.Rngs,
    ):
        self.layers = nnx.List(layers)
        self.in_channels = in_channels
        self.dropout = nnx.Dropout(0.0, deterministic=True)
        self.fc = Linear(channels, num_classes, rngs=rngs)

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        for i, layer in enumerate(self.layers):
            x = maps.add(f"layer{i}", layer(x))


class SideBySide(nnx.Module):
    """Concatenates a strided 3x3 convolution and a strided pool: figure 10 of arXiv:1512.00567.

    Args:
        in_channels: channels of the input; the pool keeps all of them.
        out_channels: channels of the output of both together.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        self.conv = ConvBN(in_channels, out_channels - in_channels, 3, 2, **BN, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([self.conv(x), pool(x)], axis=-1)


class Segmented(nnx.Module):
    """A 3x3 convolution for each segment of the channels, then a 1x1 convolution over all channels.

    BatchNorm and ReLU follow the 1x1 convolution only. If each segment is a single channel, this is
    Xception's separable convolution (arXiv:1610.02357, section 1.2).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        segments: number of segments into which the input channels are divided.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, segments: int, *, rngs: nnx.Rngs):
        part = in_channels // segments
        self.spatial = nnx.List([Conv(part, part, 3, rngs=rngs) for _ in range(segments)])
        self.pointwise = Conv(in_channels, out_channels, rngs=rngs)
        self.bn = BatchNorm(out_channels, eps=BN["bn_eps"], momentum=BN["bn_momentum"])

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = jnp.split(x, len(self.spatial), axis=-1)
        parts = [conv(part) for conv, part in zip(self.spatial, parts, strict=True)]
        return jax.nn.relu(self.bn(self.pointwise(jnp.concatenate(parts, axis=-1))))


class Unnormalised(nnx.Module):
    """A `ConvBN` whose BatchNorm is replaced by a bias.

    Args:
        layer: the `ConvBN`, whose convolution is used and gets the bias.
    """

    def __init__(self, layer: ConvBN):
        self.conv = layer.conv
        self.conv.bias = nnx.Param(jnp.zeros(self.conv.kernel.shape[-1]))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.conv(x))


def pool(x: jax.Array) -> jax.Array:
    """Returns the maximum over 3x3 windows at stride 2, with "same" padding."""
    return max_pool(x, 3, 2, "same")


def windows(
    shapes: Sequence[tuple[int, int]], channels: int, linear: Sequence[int] = (), **sizes: Any
) -> Small:
    """Builds a network with four groups of consecutive convolutions, all alike.

    A strided 3x3 convolution comes first, and a pool is between the second and the third group.

    Args:
        shapes: kernel sizes of the convolutions in a group.
        channels: channels of every feature map.
        linear: indices of the convolutions in a group that have no ReLU.
        **sizes: num_classes, in_channels and rngs of `Small`.
    """

    def field() -> list[Any]:
        return [
            ConvBN(channels, channels, shape, relu=i not in linear, **BN, rngs=sizes["rngs"])
            for i, shape in enumerate(shapes)
        ]

    first = ConvBN(sizes["in_channels"], channels, 3, 2, **BN, rngs=sizes["rngs"])
    return Small([first, *field(), *field(), pool, *field(), *field()], channels, **sizes)


def reductions(way: str, channels: int, **sizes: Any) -> Small:
    """Builds a network with two grid reductions, each of which doubles the channels.

    Args:
        way: layers of a reduction: "conv, pool", "pool, conv" or "side by side" (figures 9 and 10
            of arXiv:1512.00567).
        channels: channels of the first feature map.
        **sizes: num_classes, in_channels and rngs of `Small`.
    """
    rngs = sizes["rngs"]

    def conv(into: int, out: int) -> ConvBN:
        return ConvBN(into, out, 3, **BN, rngs=rngs)

    ways: dict[str, Callable[[int], list[Any]]] = {
        "conv, pool": lambda c: [conv(c, 2 * c), pool],
        "pool, conv": lambda c: [pool, conv(c, 2 * c)],
        "side by side": lambda c: [SideBySide(c, 2 * c, rngs=rngs)],
    }
    layers = [
        conv(sizes["in_channels"], channels),
        *ways[way](channels),
        conv(2 * channels, 2 * channels),
        *ways[way](2 * channels),
        conv(4 * channels, 4 * channels),
    ]
    return Small(layers, 4 * channels, **sizes)


def segments(count: int | None, channels: int, **sizes: Any) -> Small:
    """Builds a network of a strided 3x3 convolution and four segmented convolutions.

    Segmented convolutions are described in `Segmented`. A pool is between the second and the third.

    Args:
        count: number of segments; None: each channel is a segment.
        channels: channels of every feature map.
        **sizes: num_classes, in_channels and rngs of `Small`.
    """
    rngs = sizes["rngs"]

    def layer() -> list[Any]:
        if count is None:
            return [SeparableConvBN(channels, channels, **BN, rngs=rngs), jax.nn.relu]
        return [Segmented(channels, channels, count, rngs=rngs)]

    first = ConvBN(sizes["in_channels"], channels, 3, 2, **BN, rngs=rngs)
    return Small([first, *layer(), *layer(), pool, *layer(), *layer()], channels, **sizes)


SMALL: dict[str, Callable[..., Small]] = dict(
    windows=windows, reductions=reductions, segments=segments
)


def without_aux(model: Any, rngs: nnx.Rngs) -> None:
    """Removes Inception V3's auxiliary classifier from `model`, in place.

    `rngs` is not used.
    """
    model.AuxLogits = nnx.data(None)


def aux_without_norm(model: Any, rngs: nnx.Rngs) -> None:
    """Replaces the two BatchNorms of Inception V3's auxiliary classifier with biases, in place.

    `rngs` is not used.
    """
    model.AuxLogits.conv0 = Unnormalised(model.AuxLogits.conv0)
    model.AuxLogits.conv1 = Unnormalised(model.AuxLogits.conv1)


def relu_between(model: Any, rngs: nnx.Rngs) -> None:
    """Puts a ReLU between the two convolutions of each separable convolution, in place.

    `rngs` is not used.
    """
    layers = [layer for _, layer in nnx.iter_modules(model) if isinstance(layer, SeparableConvBN)]
    for layer in layers:
        setattr(layer, "depthwise", nnx.Sequential(layer.depthwise, jax.nn.relu))  # noqa: B010


def mixers(ratio: float, band: int) -> Callable[[Any, nnx.Rngs], None]:
    """Returns a function that replaces the token mixers of an InceptionNeXt.

    The function changes the network in place. It takes the network, and the source of the new
    parameters.

    Args:
        ratio: share of the channels in each of the three convolution branches.
        band: length of the 1 x band and band x 1 kernels.
    """

    def change(model: Any, rngs: nnx.Rngs) -> None:
        def depthwise(channels: int, window: Any) -> DepthwiseConv:
            kernel_init = init.truncated_normal(0.02)
            return DepthwiseConv(channels, window, bias=True, kernel_init=kernel_init, rngs=rngs)

        for block in [each for _, each in nnx.iter_modules(model) if isinstance(each, Block)]:
            channels = block.gamma.shape[0]
            block.token_mixer = InceptionDWConv(
                channels, branch_ratio=ratio, band=band, depthwise=depthwise
            )

    return change


CHANGES: dict[str, Callable[[Any, nnx.Rngs], None]] = {
    "no auxiliary classifier": without_aux,
    "no BatchNorm in the auxiliary classifier": aux_without_norm,
    "ReLU between depthwise and pointwise": relu_between,
    "ratio 1/8, band 11": mixers(1 / 8, 11),
    "ratio 1/4, band 11": mixers(1 / 4, 11),
    "ratio 1/16, band 11": mixers(1 / 16, 11),
    "ratio 1/8, band 7": mixers(1 / 8, 7),
}


def build(
    network: str, options: dict[str, Any], change: str, classes: int, channels: int, seed: int
) -> Model:
    """Builds the network of an arm with its initial parameters.

    An arm is one way to train one network.

    Args:
        network: name for `create_model`, or name in `SMALL`.
        options: options of the network.
        change: name in `CHANGES`; "": no change.
        classes: number of outputs.
        channels: channels of the images.
        seed: seed of the initial parameters.
    """
    sizes: dict[str, Any] = dict(num_classes=classes, in_channels=channels, rngs=nnx.Rngs(seed))
    if network in SMALL:
        model: Model = SMALL[network](**options, **sizes)
        model.eval()
    else:
        model = ij.create_model(network, **options, **sizes)
    if change:
        CHANGES[change](model, nnx.Rngs(seed + 1_000_000))
    return model
