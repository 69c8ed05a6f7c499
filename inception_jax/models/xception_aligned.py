"""Aligned Xception 41, 65 and 71 (Chen et al. 2018, DeepLabv3+, "Encoder-Decoder with Atrous...").

Read this file next to the paper's figure 4. The network is Xception with strided convolutions
instead of max pools, more blocks, and BatchNorm and ReLU after every depthwise convolution. The
variants 41p and 65p, with normalisation before the convolutions, come from timm. All weights were
trained or converted by timm. Shapes in comments are those of xception65 for a 299x299 image.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax.nn.layers import (
    Chain,
    Conv,
    ConvBN,
    DepthwiseConv,
    DropPath,
    Linear,
    Maker,
    channel_scaler,
    folded,
)
from inception_jax.nn.model import Maps, Model, Record
from inception_jax.nn.norms import BatchNorm
from inception_jax.registry import Tag, register

# For each number of layers in the network's name: (channels, stride) of each block of the entry
# flow, and the number of blocks in the middle flow.
FLOWS: dict[int, tuple[tuple[tuple[int, int], ...], int]] = {
    41: (((128, 2), (256, 2), (728, 2)), 8),
    65: (((128, 2), (256, 2), (728, 2)), 16),
    71: (((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)), 16),
}


class SeparableConv(nnx.Module):
    """Depthwise 3x3, then pointwise 1x1 convolution, each with BatchNorm and, if `relu`, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        dilation: int,
        relu: bool,
        depthwise: Maker[DepthwiseConv],
        pointwise: Maker[Conv],
        norm: Maker[BatchNorm],
    ):
        self.depthwise = depthwise(in_channels, 3, stride, "symmetric", dilation=dilation)
        self.bn_depthwise = norm(in_channels)
        self.pointwise = pointwise(in_channels, out_channels, 1)
        self.bn_pointwise = norm(out_channels)
        self.relu = relu

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.bn_depthwise(self.depthwise(x))
        x = jax.nn.relu(x) if self.relu else x
        x = self.bn_pointwise(self.pointwise(x))
        return jax.nn.relu(x) if self.relu else x

    def fold(self) -> None:
        """Folds each BatchNorm into the convolution before it, in place, for `folding.fold`."""
        self.bn_depthwise = folded(self.bn_depthwise, self.depthwise)
        self.bn_pointwise = folded(self.bn_pointwise, self.pointwise)


class Block(nnx.Module):
    """Three separable convolutions, the last one strided, plus a shortcut.

    Args:
        in_channels: channels of the input.
        channels: output channels of the three convolutions.
        stride: stride of the last convolution and the shortcut.
        relu_first: apply a ReLU before each separable convolution. If False, each separable
            convolution has two ReLUs inside: after its depthwise and its pointwise convolution.
        skip: add the block's input to the result, through a 1x1 convolution if the shape changes.
    """

    def __init__(
        self,
        in_channels: int,
        channels: tuple[int, int, int],
        stride: int = 1,
        *,
        relu_first: bool = True,
        skip: bool = True,
        drop_path: float,
        dilation: int,
        norm: Maker[BatchNorm],
        depthwise: Maker[DepthwiseConv],
        pointwise: Maker[Conv],
    ):
        sepconv = functools.partial(
            SeparableConv,
            dilation=dilation,
            relu=not relu_first,
            depthwise=depthwise,
            pointwise=pointwise,
            norm=norm,
        )
        self.shortcut, self.shortcut_bn = nnx.data(None), nnx.data(None)
        if skip and (stride > 1 or in_channels != channels[2]):
            self.shortcut = pointwise(in_channels, channels[2], 1, stride)
            self.shortcut_bn = norm(channels[2])
        self.sepconv1 = sepconv(in_channels, channels[0])
        self.sepconv2 = sepconv(channels[0], channels[1])
        self.sepconv3 = sepconv(channels[1], channels[2], stride)
        self.drop_path = DropPath(drop_path)
        self.relu_first = relu_first
        self.skip = skip

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self._recorded(x, rngs, None)

    def _recorded(self, x: jax.Array, rngs: nnx.Rngs | None, record: Record | None) -> jax.Array:
        residual = x
        if self.shortcut is not None and self.shortcut_bn is not None:
            residual = self.shortcut_bn(self.shortcut(x))
        x = self.sepconv1(jax.nn.relu(x) if self.relu_first else x)
        x = self.sepconv2(jax.nn.relu(x) if self.relu_first else x)
        x = jax.nn.relu(x) if self.relu_first else x
        x = self.sepconv3(x if record is None else record(x))
        return residual + self.drop_path(x, rngs=rngs) if self.skip else x

    def fold(self) -> None:
        """Folds the shortcut's BatchNorm into its convolution, in place, for `folding.fold`."""
        if self.shortcut is not None and self.shortcut_bn is not None:
            self.shortcut_bn = folded(self.shortcut_bn, self.shortcut)


class PreBlock(nnx.Module):
    """Block of the variants 41p and 65p, with three separable convolutions.

    BatchNorm and ReLU come before each separable convolution, and none are inside it. Unlike in a
    pre-activation ResNet, the shortcut starts after the first BatchNorm and ReLU. It has no
    BatchNorm of its own.
    """

    def __init__(
        self,
        in_channels: int,
        channels: tuple[int, int, int],
        stride: int = 1,
        *,
        skip: bool = True,
        drop_path: float,
        dilation: int,
        norm: Maker[BatchNorm],
        depthwise: Maker[DepthwiseConv],
        pointwise: Maker[Conv],
    ):
        inner: dict[str, Any] = dict(padding="symmetric", dilation=dilation)
        self.shortcut = nnx.data(None)
        if skip and (stride > 1 or in_channels != channels[2]):
            self.shortcut = pointwise(in_channels, channels[2], 1, stride)
        self.norm1 = norm(in_channels)
        self.depthwise1 = depthwise(in_channels, 3, **inner)
        self.pointwise1 = pointwise(in_channels, channels[0], 1)
        self.norm2 = norm(channels[0])
        self.depthwise2 = depthwise(channels[0], 3, **inner)
        self.pointwise2 = pointwise(channels[0], channels[1], 1)
        self.norm3 = norm(channels[1])
        self.depthwise3 = depthwise(channels[1], 3, stride, **inner)
        self.pointwise3 = pointwise(channels[1], channels[2], 1)
        self.drop_path = DropPath(drop_path)
        self.skip = skip

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self._recorded(x, rngs, None)

    def _recorded(self, x: jax.Array, rngs: nnx.Rngs | None, record: Record | None) -> jax.Array:
        x = jax.nn.relu(self.norm1(x))
        residual = x if self.shortcut is None else self.shortcut(x)
        x = self.pointwise1(self.depthwise1(x))
        x = self.pointwise2(self.depthwise2(jax.nn.relu(self.norm2(x))))
        x = x if record is None else record(x)
        x = self.pointwise3(self.depthwise3(jax.nn.relu(self.norm3(x))))
        return residual + self.drop_path(x, rngs=rngs) if self.skip else x

    def fold(self) -> None:
        """Folds the second and third BatchNorm into the convolutions before them, in place.

        Called by `folding.fold`. The first BatchNorm stays, because the block has no convolution
        before it.
        """
        self.norm2 = folded(self.norm2, self.pointwise1)
        self.norm3 = folded(self.norm3, self.pointwise2)


class XceptionAligned(Model):
    """Aligned Xception; options select its variants.

    Args:
        layers: number of layers: 41, 65 or 71, see `FLOWS`.
        preact: use the blocks of the variants 41p and 65p, see `PreBlock`.
        output_stride: image size divided by the size of the last feature map: 32, 16 or 8. With 16
            or 8, later strides are replaced by dilation. As in timm, xception71 with 8 has one
            shortcut convolution fewer, because one block then has neither a stride nor more output
            than input channels. Weights for 16 or 32 do not fit this network.
        dropout: dropout rate of the pooled features.
        drop_path: stochastic depth: rate at which a block is skipped for an example in training.
            The rate rises linearly from 0 at the first block to this value at the last. The last
            block itself has no shortcut and is never skipped.

    Raises:
        ValueError: for any other number of layers or output stride.
    """

    min_size = 32

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        width_multiplier: float = 1.0,
        layers: Literal[41, 65, 71] = 65,
        preact: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.9,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if layers not in FLOWS or output_stride not in (8, 16, 32):
            raise ValueError(
                f"layers must be 41, 65 or 71 and output_stride 8, 16 or 32; "
                f"got {layers} and {output_stride}"
            )
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        bn: dict[str, Any] = dict(bn_eps=bn_eps, bn_momentum=bn_momentum)
        conv = functools.partial(ConvBN, padding="symmetric", **bn, **types)
        block = functools.partial(
            PreBlock if preact else Block,
            norm=functools.partial(
                BatchNorm, eps=bn_eps, momentum=bn_momentum, dtype=dtype, param_dtype=param_dtype
            ),
            depthwise=functools.partial(DepthwiseConv, **types),
            pointwise=functools.partial(Conv, **types),
        )
        width = channel_scaler(width_multiplier)
        entry, middle = FLOWS[layers]
        strides = [stride for _, stride in entry] + [1] * middle + [2, 1]
        steps = iter(_block_options(strides, output_stride, drop_path))
        self.in_channels = in_channels
        self.preact = preact
        self.tapped = tuple(number for number, stride in enumerate(strides, 1) if stride > 1)
        self.inner_taps = tuple(self._inner(number) for number in self.tapped)
        self.taps = (*self.inner_taps, f"block{len(strides)}")

        self.conv1 = conv(in_channels, width(32), 3, stride=2)
        if preact:
            self.conv2 = Conv(width(32), width(64), 3, padding="symmetric", **types)
        else:
            self.conv2 = conv(width(32), width(64), 3)
        self.entry_flow = Chain()
        channels = width(64)
        for out_channels, _ in entry:
            self.entry_flow.append(block(channels, (width(out_channels),) * 3, **next(steps)))
            channels = width(out_channels)
        self.middle_flow = Chain(
            block(channels, (channels,) * 3, **next(steps)) for _ in range(middle)
        )
        no_relu_first: dict[str, Any] = {} if preact else dict(relu_first=False)
        self.exit_flow = Chain(
            [
                block(channels, (width(728), width(1024), width(1024)), **next(steps)),
                block(
                    width(1024),
                    (width(1536), width(1536), width(2048)),
                    skip=False,
                    **no_relu_first,
                    **next(steps),
                ),
            ]
        )
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.fc = Linear(width(2048), num_classes, **types)

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        """Adds every stage's feature map [n, h, w, c] to `maps`, in forward order.

        Blocks are numbered from 1 through entry, middle and exit flow. The stage of a block, such
        as `block1`, is its output; for a residual block, this is the sum before any ReLU. In 41p
        and 65p, the last stage is `act`, the output of the last block after a ReLU.

        A strided block first adds another stage, such as `block1_act3`: the input of its last
        separable convolution. In 41p and 65p, this input is taken before BatchNorm and ReLU, and
        the stage is called `block1_conv2`. timm has these stages too.
        """
        # x is 299x299x3
        x = maps.add("conv1", self.conv1(x))  # 150x150x32
        x = maps.add("conv2", self.conv2(x))  # 150x150x64
        flows = [*self.entry_flow, *self.middle_flow, *self.exit_flow]
        for number, block in enumerate(flows, 1):
            # Entry flow 75x75x128, 38x38x256, 19x19x728; middle flow 19x19x728; exit flow
            # 10x10x1024, 10x10x2048
            if number in self.tapped:
                x = block._recorded(x, rngs, functools.partial(maps.add, self._inner(number)))
            else:
                x = block(x, rngs=rngs)
            x = maps.add(f"block{number}", x)
        if self.preact:
            x = maps.add("act", jax.nn.relu(x))  # 10x10x2048

    def _inner(self, number: int) -> str:
        return f"block{number}_{'conv2' if self.preact else 'act3'}"


def _block_options(
    strides: list[int], output_stride: int, drop_path: float
) -> list[dict[str, Any]]:
    """Returns the arguments `stride`, `dilation` and `drop_path` of each block.

    If a block's stride would raise the total stride above `output_stride`, the block gets stride 1,
    and the dilation of all later blocks is multiplied by the replaced stride.

    Args:
        strides: stride of each block.
        output_stride: largest total stride.
        drop_path: rate of stochastic depth of the last block; the rates rise linearly from 0.
    """
    options, reduction, dilation = [], 2, 1  # the stem has halved the image
    for i, stride in enumerate(strides):
        rate = drop_path * i / (len(strides) - 1)
        own = dilation
        if reduction * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reduction *= stride
        options.append(dict(stride=stride, dilation=own, drop_path=rate))
    return options


# The options that each published weight file needs, and its publisher's preprocessing.
def _register(arch: str, num_params: int, readings: dict[str, Any], tags: list[str]) -> None:
    crops = {"tf_in1k": 0.903, "ra3_in1k": 0.94}
    of_tag = {
        tag: Tag(readings=readings, source=f"timm/{arch}.{tag}", crop_pct=crops[tag])
        for tag in tags
    }
    register(
        arch,
        XceptionAligned,
        paper="https://arxiv.org/abs/1802.02611",
        num_params=num_params,
        tags={"": of_tag[tags[0]], **of_tag},
    )


_register("xception41", 26_969_560, dict(layers=41), ["tf_in1k"])
_register("xception65", 39_916_312, dict(layers=65), ["tf_in1k", "ra3_in1k"])
_register("xception71", 42_338_736, dict(layers=71), ["tf_in1k"])
_register("xception41p", 26_907_752, dict(layers=41, preact=True, bn_eps=1e-5), ["ra3_in1k"])
_register("xception65p", 39_819_560, dict(layers=65, preact=True), ["ra3_in1k"])
