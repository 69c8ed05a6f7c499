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

import torch
import torch.nn.functional as F
from torch import nn

from reference_torch.layers import Conv, ConvBN, DepthwiseConv, Linear, Maker, Width, channel_scaler
from reference_torch.model import Maps, Model
from reference_torch.ops import CONV_PADDING, POOL_PADDING, Padding, PadMode, avg_pool, max_pool
from reference_torch.registry import register

PoolKind = Literal["avg", "max"]
StemKind = Literal["conv", "separable"]


class SeparableStem(nn.Module):
    """First layer of the paper and TF-slim: depthwise 7x7 with multiplier 8, pointwise, ReLU.

    As in TF-slim, it has a bias and no BatchNorm, unlike all other convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        multiplier = max(min(out_channels // in_channels, 8), 1)
        self.depthwise = DepthwiseConv(in_channels, 7, stride=2, multiplier=multiplier)
        self.pointwise = Conv(in_channels * multiplier, out_channels, 1, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.pointwise(self.depthwise(x)))


class Inception(nn.Module):
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
        super().__init__()
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch1x1 = self.branch1x1(x)
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        if self.pool == "max":
            branch_pool = max_pool(x, 3, 1, "same")
        else:
            branch_pool = avg_pool(x, 3, 1, "same", count_include_pad=self.count_include_pad)
        branch_pool = self.branch_pool(branch_pool)
        return torch.cat([branch1x1, branch3x3, branch3x3dbl, branch_pool], dim=1)


class InceptionReduction(nn.Module):
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
        super().__init__()
        strided: dict[str, Any] = dict(stride=2, padding=padding)
        self.branch3x3_1 = conv(in_channels, width(c3x3_reduce), 1)
        self.branch3x3_2 = conv(width(c3x3_reduce), width(c3x3), 3, **strided)

        self.branch3x3dbl_1 = conv(in_channels, width(cdbl_reduce), 1)
        self.branch3x3dbl_2 = conv(width(cdbl_reduce), width(cdbl), 3)
        self.branch3x3dbl_3 = conv(width(cdbl), width(cdbl), 3, **strided)

        self.pool_padding: Padding = pool_padding
        self.out_channels = width(c3x3) + width(cdbl) + in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branch_pool = max_pool(x, 3, 2, self.pool_padding)
        return torch.cat([branch3x3, branch3x3dbl, branch_pool], dim=1)


class BNInception(Model):
    """BN-Inception; options select its variants.

    `inception_jax.models.BNInception` documents the options.
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
    ):
        super().__init__()
        conv = functools.partial(ConvBN, bias=conv_bias, bn_eps=bn_eps, bn_momentum=bn_momentum)
        width = channel_scaler(width_multiplier)
        padding: Padding = CONV_PADDING[pad_mode]
        common: dict[str, Any] = dict(conv=conv, width=width)
        inception = functools.partial(Inception, count_include_pad=count_include_pad, **common)
        reduction = functools.partial(InceptionReduction, padding=padding, **common)
        self.in_channels = in_channels
        self.pool_padding: Padding = POOL_PADDING[pad_mode]

        if stem == "separable":
            self.conv1 = SeparableStem(in_channels, width(64))
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
        self.dropout = nn.Dropout(dropout)
        self.fc = Linear(self.inception5b.out_channels, num_classes)

    def _body(self, x: torch.Tensor, maps: Maps) -> None:
        """Adds each stage's feature map [n, c, h, w] to `maps`, under its name in the paper."""
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


# The options that each published weight file needs; "" is the recommended variant.
register(
    "bn_inception",
    BNInception,
    tags={
        "": {},
        "caffe_in1k": {},
        "slim_in1k": dict(
            stem="separable",
            conv_bias=False,
            pad_mode="tf",
            count_include_pad=False,
            pool_4cd=96,
            bn_eps=0.001,
            dropout=0.2,
        ),
    },
)
