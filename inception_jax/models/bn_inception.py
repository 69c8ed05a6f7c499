"""BN-Inception (Ioffe & Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training").

Read this file next to the table in the paper's appendix. TF-slim, the TPU repository and the
Inception V4 paper call this network `inception_v2`. The V2 of "Rethinking the Inception
Architecture" is a different network, see `inception_v2.py`. The table prints 576 channels for 4c
and 4d, but their filters sum to 608. Caffe's weights have 608; TF-slim has 576, because its pool
branch is narrower. Shapes in comments are for a 224x224 image with Caffe's widths.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax.nn.branches import PoolKind, siblings, siblings_with_pool
from inception_jax.nn.layers import (
    Conv,
    ConvBN,
    DepthwiseConv,
    Linear,
    Maker,
    Width,
    channel_scaler,
)
from inception_jax.nn.model import Maps, Model
from inception_jax.nn.ops import CONV_PADDING, POOL_PADDING, Padding, PadMode, max_pool
from inception_jax.registry import SLIM, Tag, register

StemKind = Literal["conv", "separable"]


class SeparableStem(nnx.Module):
    """First layer of the paper and TF-slim: depthwise 7x7 with multiplier 8, pointwise, ReLU.

    As in TF-slim, it has a bias and no BatchNorm, unlike all other convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, **types: Any):
        multiplier = max(min(out_channels // in_channels, 8), 1)
        self.depthwise = DepthwiseConv(in_channels, 7, stride=2, multiplier=multiplier, **types)
        self.pointwise = Conv(in_channels * multiplier, out_channels, 1, bias=True, **types)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.pointwise(self.depthwise(x)))


class Inception(nnx.Module):
    """Inception module with two 3x3 convolutions in place of V1's 5x5.

    The arguments are in the order of the paper's table.
    """

    def __init__(
        self,
        in_channels: int,
        c1x1: int,
        c3x3_reduce: int,
        c3x3: int,
        cdbl_reduce: int,
        cdbl: int,
        pool_proj: int,
        pool: PoolKind = "avg",
        *,
        count_include_pad: bool = False,
        conv: Maker[ConvBN],
        width: Width,
    ):
        self.branch1x1 = conv(in_channels, width(c1x1), 1)

        self.branch3x3_1 = conv(in_channels, width(c3x3_reduce), 1)
        self.branch3x3_2 = conv(width(c3x3_reduce), width(c3x3), 3)

        self.branch3x3dbl_1 = conv(in_channels, width(cdbl_reduce), 1)
        self.branch3x3dbl_2 = conv(width(cdbl_reduce), width(cdbl), 3)
        self.branch3x3dbl_3 = conv(width(cdbl), width(cdbl), 3)

        self.pool: PoolKind = pool
        self.count_include_pad = count_include_pad
        self.branch_pool = conv(in_channels, width(pool_proj), 1)

        self.out_channels = width(c1x1) + width(c3x3) + width(cdbl) + width(pool_proj)

    def __call__(self, x: jax.Array) -> jax.Array:
        branch1x1, branch3x3, branch3x3dbl, branch_pool = siblings_with_pool(
            x,
            self.branch1x1,
            self.branch3x3_1,
            self.branch3x3dbl_1,
            pooled=self.branch_pool,
            pool=self.pool,
            count_include_pad=self.count_include_pad,
        )
        branch3x3 = self.branch3x3_2(branch3x3)
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(branch3x3dbl))
        return jnp.concatenate([branch1x1, branch3x3, branch3x3dbl, branch_pool], axis=-1)


class InceptionReduction(nnx.Module):
    """Modules 3c and 4e: stride 2, no 1x1 branch, and a max pool without a convolution after it.

    For feature maps of odd size, the result of Caffe's pool is one pixel smaller than that of its
    convolutions, so Caffe cannot build the network. Here the pool uses SAME padding by default. Its
    result is the same as Caffe's for even sizes, and has the size of the convolutions for odd ones.
    """

    def __init__(
        self,
        in_channels: int,
        c3x3_reduce: int,
        c3x3: int,
        cdbl_reduce: int,
        cdbl: int,
        *,
        padding: Padding,
        pool_padding: Padding = "same",
        conv: Maker[ConvBN],
        width: Width,
    ):
        strided: dict[str, Any] = dict(stride=2, padding=padding)
        self.branch3x3_1 = conv(in_channels, width(c3x3_reduce), 1)
        self.branch3x3_2 = conv(width(c3x3_reduce), width(c3x3), 3, **strided)

        self.branch3x3dbl_1 = conv(in_channels, width(cdbl_reduce), 1)
        self.branch3x3dbl_2 = conv(width(cdbl_reduce), width(cdbl), 3)
        self.branch3x3dbl_3 = conv(width(cdbl), width(cdbl), 3, **strided)

        self.pool_padding: Padding = pool_padding
        self.out_channels = width(c3x3) + width(cdbl) + in_channels

    def __call__(self, x: jax.Array) -> jax.Array:
        branch3x3, branch3x3dbl = siblings(x, self.branch3x3_1, self.branch3x3dbl_1)
        branch3x3 = self.branch3x3_2(branch3x3)
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(branch3x3dbl))
        branch_pool = max_pool(x, 3, 2, self.pool_padding)
        return jnp.concatenate([branch3x3, branch3x3dbl, branch_pool], axis=-1)


class BNInception(Model):
    """BN-Inception; options select its variants.

    Args:
        dropout: dropout rate of the pooled features; 0 in the paper and Caffe, 0.2 in TF-slim.
        stem: "conv": a full 7x7 convolution, as in Caffe. "separable": depthwise and pointwise, as
            in the paper and TF-slim.
        conv_bias: whether convolutions have a bias before BatchNorm, as in Caffe's files.
        pad_mode: "torch": strided convolutions pad both sides equally and max pools round their
            output size up, as in Caffe. "tf": SAME padding, as in TF-slim. The modes give different
            results for even input sizes in convolutions, and for odd input sizes in pools.
        count_include_pad: whether the average pools divide by 9 at the border too. True in Caffe,
            False in TF-slim.
        pool_4cd: number of channels of the pool branch of 4c and 4d: 128 in the paper and Caffe, 96
            in TF-slim.
        bn_eps: number added to the variance in every BatchNorm; 1e-5 in Cadene's port of Caffe's
            weights, 1e-3 in TF-slim.
    """

    min_size = 32
    taps = ("conv1", "conv3", "inception3b", "inception4d", "inception5b")

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        width_multiplier: float = 1.0,
        dropout: float = 0.0,
        stem: StemKind = "conv",
        conv_bias: bool = True,
        pad_mode: PadMode = "torch",
        count_include_pad: bool = True,
        pool_4cd: int = 128,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.9,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        conv = functools.partial(
            ConvBN, bias=conv_bias, bn_eps=bn_eps, bn_momentum=bn_momentum, **types
        )
        width = channel_scaler(width_multiplier)
        padding: Padding = CONV_PADDING[pad_mode]
        common: dict[str, Any] = dict(conv=conv, width=width)
        inception = functools.partial(Inception, count_include_pad=count_include_pad, **common)
        reduction = functools.partial(InceptionReduction, padding=padding, **common)
        self.in_channels = in_channels
        self.pool_padding: Padding = POOL_PADDING[pad_mode]

        if stem == "separable":
            self.conv1 = SeparableStem(in_channels, width(64), **types)
        else:
            self.conv1 = conv(in_channels, width(64), 7, stride=2, padding=padding)
        self.conv2 = conv(width(64), width(64), 1)
        self.conv3 = conv(width(64), width(192), 3)
        self.inception3a = inception(width(192), 64, 64, 64, 64, 96, 32)
        self.inception3b = inception(self.inception3a.out_channels, 64, 64, 96, 64, 96, 64)
        self.inception3c = reduction(self.inception3b.out_channels, 128, 160, 64, 96)
        self.inception4a = inception(self.inception3c.out_channels, 224, 64, 96, 96, 128, 128)
        self.inception4b = inception(self.inception4a.out_channels, 192, 96, 128, 96, 128, 128)
        self.inception4c = inception(
            self.inception4b.out_channels, 160, 128, 160, 128, 160, pool_4cd
        )
        self.inception4d = inception(
            self.inception4c.out_channels, 96, 128, 192, 160, 192, pool_4cd
        )
        self.inception4e = reduction(self.inception4d.out_channels, 128, 192, 192, 256)
        self.inception5a = inception(self.inception4e.out_channels, 352, 192, 320, 160, 224, 128)
        self.inception5b = inception(
            self.inception5a.out_channels, 352, 192, 320, 192, 224, 128, "max"
        )
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.fc = Linear(self.inception5b.out_channels, num_classes, **types)

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        """Adds each stage's feature map [n, h, w, c] to `maps`, under its name in the paper."""
        # x is 224x224x3
        x = maps.add("conv1", self.conv1(x))  # 112x112x64
        x = maps.add("maxpool1", max_pool(x, 3, 2, self.pool_padding))  # 56x56x64
        x = maps.add("conv2", self.conv2(x))  # 56x56x64
        x = maps.add("conv3", self.conv3(x))  # 56x56x192
        x = maps.add("maxpool2", max_pool(x, 3, 2, self.pool_padding))  # 28x28x192
        x = maps.add("inception3a", self.inception3a(x))  # 28x28x256
        x = maps.add("inception3b", self.inception3b(x))  # 28x28x320
        x = maps.add("inception3c", self.inception3c(x))  # 14x14x576
        x = maps.add("inception4a", self.inception4a(x))  # 14x14x576
        x = maps.add("inception4b", self.inception4b(x))  # 14x14x576
        x = maps.add("inception4c", self.inception4c(x))  # 14x14x608
        x = maps.add("inception4d", self.inception4d(x))  # 14x14x608
        x = maps.add("inception4e", self.inception4e(x))  # 7x7x1056
        x = maps.add("inception5a", self.inception5a(x))  # 7x7x1024
        x = maps.add("inception5b", self.inception5b(x))  # 7x7x1024


# Options and preprocessing of each published weight file.
_CAFFE = Tag(
    source="Cadene pretrained-models.pytorch bn_inception-52deb4733.pth",
    input_size=224,
    channel_order="bgr",
    input_range=255,
    mean=(104.0, 117.0, 128.0),
    std=(1.0, 1.0, 1.0),
    crop_pct=224 / 256,
    interpolation="bilinear",
)

register(
    "bn_inception",
    BNInception,
    paper="https://arxiv.org/abs/1502.03167",
    num_params=11_295_240,
    tags={
        "": _CAFFE,
        "caffe_in1k": _CAFFE,
        "slim_in1k": Tag(
            readings=dict(
                stem="separable",
                conv_bias=False,
                pad_mode="tf",
                count_include_pad=False,
                pool_4cd=96,
                bn_eps=1e-3,
                dropout=0.2,
            ),
            source="TF-slim inception_v2_2016_08_28.tar.gz",
            num_params=11_188_224,
            input_size=224,
            **SLIM,
        ),
    },
)
