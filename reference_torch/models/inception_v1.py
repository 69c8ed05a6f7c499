"""Inception V1, GoogLeNet (Szegedy et al. 2014, "Going Deeper with Convolutions").

Read this file next to the paper's table 1. The paper's network has biases, local response
normalisation and 5x5 convolutions. Of the published weights, only Caffe's BVLC GoogLeNet is for
that network. TF-slim and torchvision add BatchNorm, and have a 3x3 convolution in place of the 5x5.
Shapes in comments are for a 224x224 image.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from reference_torch import init
from reference_torch.layers import Conv, ConvBN, Linear, Maker, Width, channel_scaler
from reference_torch.model import Maps, Model
from reference_torch.ops import (
    CONV_PADDING,
    POOL_PADDING,
    Padding,
    PadMode,
    adaptive_avg_pool,
    avg_pool,
    local_response_norm,
    max_pool,
)
from reference_torch.registry import register

AuxPool = Literal["adaptive", "5x5"]
Norm = Literal["bn", "lrn"]


class ConvReLU(nn.Module):
    """Convolution with bias, then ReLU: the paper's layer, which has no BatchNorm.

    Parameters are initialised as in Caffe's `bvlc_googlenet`; the paper states no initial values.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        window: int = 1,
        stride: int = 1,
        padding: Padding = "same",
    ):
        super().__init__()
        self.conv = Conv(
            in_channels,
            out_channels,
            window,
            stride,
            padding,
            bias=True,
            bias_value=0.2,
            kernel_init=init.xavier,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x))


class Inception(nn.Module):
    """Inception module with dimension reductions, the paper's figure 2(b).

    The arguments are in the order of the paper's table 1.
    """

    def __init__(
        self,
        in_channels: int,
        c1x1: int,
        c3x3_reduce: int,
        c3x3: int,
        c5x5_reduce: int,
        c5x5: int,
        pool_proj: int,
        *,
        kernel_5x5: int,
        conv: Maker[Any],
        width: Width,
    ):
        super().__init__()
        self.branch1x1 = conv(in_channels, width(c1x1), 1)

        self.branch3x3_1 = conv(in_channels, width(c3x3_reduce), 1)
        self.branch3x3_2 = conv(width(c3x3_reduce), width(c3x3), 3)

        self.branch5x5_1 = conv(in_channels, width(c5x5_reduce), 1)
        self.branch5x5_2 = conv(width(c5x5_reduce), width(c5x5), kernel_5x5)

        self.branch_pool = conv(in_channels, width(pool_proj), 1)

        self.out_channels = width(c1x1) + width(c3x3) + width(c5x5) + width(pool_proj)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch1x1 = self.branch1x1(x)
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch_pool = self.branch_pool(max_pool(x, 3, 1, "same"))
        return torch.cat([branch1x1, branch3x3, branch5x5, branch_pool], dim=1)


class InceptionAux(nn.Module):
    """Auxiliary classifier on a 14x14 feature map, the paper's section 5.

    Its first linear layer needs a 4x4 feature map. The paper averages 5x5 windows at stride 3,
    which turns 14x14 into 4x4: `pool` "5x5". torchvision averages feature maps of any size to 4x4:
    `pool` "adaptive". With "5x5", feature maps that are not 14x14 are averaged as in torchvision.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        pool: AuxPool,
        dropout: float,
        conv: Maker[Any],
        width: Width,
    ):
        super().__init__()
        self.pool: AuxPool = pool
        self.conv = conv(in_channels, width(128), 1)
        self.fc1 = Linear(4 * 4 * width(128), width(1024))
        self.dropout = nn.Dropout(dropout)
        self.fc2 = Linear(width(1024), num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pool == "5x5" and x.shape[2:] == (14, 14):
            x = avg_pool(x, 5, stride=3)  # 4x4x512
        else:
            x = adaptive_avg_pool(x, 4)  # 4x4x512
        x = self.conv(x)  # 4x4x128
        x = x.flatten(1)  # 2048, channels first as in every weight file
        x = F.relu(self.fc1(x))  # 1024
        return self.fc2(self.dropout(x))


class InceptionV1(Model):
    """GoogLeNet; options select its variants.

    `inception_jax.models.InceptionV1` documents the options.
    """

    min_size = 32
    taps = ("conv1", "conv3", "inception3b", "inception4e", "inception5b")
    aux_names = ("aux1", "aux2")
    aux_stages = ("inception4a", "inception4d")
    classifiers = ("fc", "aux1.fc2", "aux2.fc2")

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        aux_heads: bool = False,
        width_multiplier: float = 1.0,
        dropout: float = 0.2,
        aux_dropout: float = 0.7,
        norm: Norm = "bn",
        pad_mode: PadMode = "tf",
        kernel_5x5: int = 3,
        maxpool4_window: int = 2,
        aux_pool: AuxPool = "adaptive",
        transform_input: bool = False,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.9,
    ):
        super().__init__()
        conv: Maker[Any] = ConvReLU
        if norm == "bn":
            conv = functools.partial(ConvBN, bn_eps=bn_eps, bn_momentum=bn_momentum)
        width = channel_scaler(width_multiplier)
        inception = functools.partial(Inception, kernel_5x5=kernel_5x5, conv=conv, width=width)
        aux = functools.partial(
            InceptionAux, pool=aux_pool, dropout=aux_dropout, conv=conv, width=width
        )
        self.in_channels = in_channels
        self.transform_input = transform_input and in_channels == 3
        self.norm = norm
        self.pool_padding: Padding = POOL_PADDING[pad_mode]
        self.maxpool4_window = maxpool4_window

        self.conv1 = conv(in_channels, width(64), 7, stride=2, padding=CONV_PADDING[pad_mode])
        self.conv2 = conv(width(64), width(64), 1)
        self.conv3 = conv(width(64), width(192), 3)
        self.inception3a = inception(width(192), 64, 96, 128, 16, 32, 32)
        self.inception3b = inception(self.inception3a.out_channels, 128, 128, 192, 32, 96, 64)
        self.inception4a = inception(self.inception3b.out_channels, 192, 96, 208, 16, 48, 64)
        self.aux1 = aux(self.inception4a.out_channels, num_classes) if aux_heads else None
        self.inception4b = inception(self.inception4a.out_channels, 160, 112, 224, 24, 64, 64)
        self.inception4c = inception(self.inception4b.out_channels, 128, 128, 256, 24, 64, 64)
        self.inception4d = inception(self.inception4c.out_channels, 112, 144, 288, 32, 64, 64)
        self.aux2 = aux(self.inception4d.out_channels, num_classes) if aux_heads else None
        self.inception4e = inception(self.inception4d.out_channels, 256, 160, 320, 32, 128, 128)
        self.inception5a = inception(self.inception4e.out_channels, 256, 160, 320, 32, 128, 128)
        self.inception5b = inception(self.inception5a.out_channels, 384, 192, 384, 48, 128, 128)
        self.dropout = nn.Dropout(dropout)
        self.fc = Linear(self.inception5b.out_channels, num_classes)

    def _body(self, x: torch.Tensor, maps: Maps) -> None:
        """Adds each stage's feature map [n, c, h, w] to `maps`, under its name in the paper."""
        # x is 224x224x3
        x = maps.add("conv1", self.conv1(x))  # 112x112x64
        x = maps.add("maxpool1", max_pool(x, 3, 2, self.pool_padding))  # 56x56x64
        x = local_response_norm(x) if self.norm == "lrn" else x  # 56x56x64
        x = maps.add("conv2", self.conv2(x))  # 56x56x64
        x = maps.add("conv3", self.conv3(x))  # 56x56x192
        x = local_response_norm(x) if self.norm == "lrn" else x  # 56x56x192
        x = maps.add("maxpool2", max_pool(x, 3, 2, self.pool_padding))  # 28x28x192
        x = maps.add("inception3a", self.inception3a(x))  # 28x28x256
        x = maps.add("inception3b", self.inception3b(x))  # 28x28x480
        x = maps.add("maxpool3", max_pool(x, 3, 2, self.pool_padding))  # 14x14x480
        x = maps.add("inception4a", self.inception4a(x))  # 14x14x512
        x = maps.add("inception4b", self.inception4b(x))  # 14x14x512
        x = maps.add("inception4c", self.inception4c(x))  # 14x14x512
        x = maps.add("inception4d", self.inception4d(x))  # 14x14x528
        x = maps.add("inception4e", self.inception4e(x))  # 14x14x832
        x = maps.add("maxpool4", max_pool(x, self.maxpool4_window, 2, self.pool_padding))  # 7x7x832
        x = maps.add("inception5a", self.inception5a(x))  # 7x7x832
        x = maps.add("inception5b", self.inception5b(x))  # 7x7x1024


# The options that each published weight file needs; "" is the recommended variant.
register(
    "inception_v1",
    InceptionV1,
    tags={
        "": {},
        "tv_in1k": dict(pad_mode="torch", transform_input=True),
        "slim_in1k": {},
        "bvlc_in1k": dict(
            norm="lrn",
            pad_mode="torch",
            kernel_5x5=5,
            maxpool4_window=3,
            aux_pool="5x5",
            dropout=0.4,
        ),
    },
)
