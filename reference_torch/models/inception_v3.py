"""Inception V3 (Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision").

The paper prints no table of this network. This file follows the authors' code, TF-slim's
`nets/inception_v3.py`, as every public weight file does. Attribute names are torchvision's. Where
that code and the paper differ, a comment says so. Shapes in comments are for a 299x299 image.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from reference_torch import init
from reference_torch.layers import ConvBN, Linear, Maker, Width, channel_scaler, global_avg_pool
from reference_torch.model import Maps, Model
from reference_torch.ops import avg_pool, max_pool
from reference_torch.registry import register

PoolKind = Literal["avg", "max"]


class InceptionA(nn.Module):
    """35x35 module, the paper's figure 5.

    The figure has two 3x3 convolutions in the second branch. This class has one 5x5, like the
    authors' code and therefore every weight file.
    """

    def __init__(
        self,
        in_channels: int,
        pool_features: int,
        *,
        c1x1: int = 64,
        count_include_pad: bool = False,
        conv: Maker[ConvBN],
        width: Width,
    ):
        super().__init__()
        self.branch1x1 = conv(in_channels, width(c1x1), 1)

        self.branch5x5_1 = conv(in_channels, width(48), 1)
        self.branch5x5_2 = conv(width(48), width(64), 5)

        self.branch3x3dbl_1 = conv(in_channels, width(64), 1)
        self.branch3x3dbl_2 = conv(width(64), width(96), 3)
        self.branch3x3dbl_3 = conv(width(96), width(96), 3)

        self.count_include_pad = count_include_pad
        self.branch_pool = conv(in_channels, width(pool_features), 1)

        self.out_channels = width(c1x1) + width(64) + width(96) + width(pool_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch1x1 = self.branch1x1(x)
        branch5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branch_pool = avg_pool(x, 3, 1, "same", count_include_pad=self.count_include_pad)
        branch_pool = self.branch_pool(branch_pool)
        return torch.cat([branch1x1, branch5x5, branch3x3dbl, branch_pool], dim=1)


class InceptionB(nn.Module):
    """Grid reduction 35x35 -> 17x17, the paper's figure 10.

    The figure has a 1x1 before the first branch's 3x3. This module follows the authors' code, which
    has none.
    """

    def __init__(
        self,
        in_channels: int,
        c3x3: int = 384,
        c3x3dbl: tuple[int, int, int] = (64, 96, 96),
        *,
        conv: Maker[ConvBN],
        width: Width,
    ):
        super().__init__()
        c1, c2, c3 = map(width, c3x3dbl)
        self.branch3x3 = conv(in_channels, width(c3x3), 3, stride=2, padding="valid")

        self.branch3x3dbl_1 = conv(in_channels, c1, 1)
        self.branch3x3dbl_2 = conv(c1, c2, 3)
        self.branch3x3dbl_3 = conv(c2, c3, 3, stride=2, padding="valid")

        self.out_channels = width(c3x3) + c3 + in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch3x3 = self.branch3x3(x)
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branch_pool = max_pool(x, 3, stride=2)
        return torch.cat([branch3x3, branch3x3dbl, branch_pool], dim=1)


class InceptionC(nn.Module):
    """17x17 module with 7x7 factorised into 1x7 and 7x1, the paper's figure 6 with n = 7."""

    def __init__(
        self,
        in_channels: int,
        channels_7x7: int,
        *,
        count_include_pad: bool,
        conv: Maker[ConvBN],
        width: Width,
    ):
        super().__init__()
        c7 = width(channels_7x7)
        self.branch1x1 = conv(in_channels, width(192), 1)

        self.branch7x7_1 = conv(in_channels, c7, 1)
        self.branch7x7_2 = conv(c7, c7, (1, 7))
        self.branch7x7_3 = conv(c7, width(192), (7, 1))

        self.branch7x7dbl_1 = conv(in_channels, c7, 1)
        self.branch7x7dbl_2 = conv(c7, c7, (7, 1))
        self.branch7x7dbl_3 = conv(c7, c7, (1, 7))
        self.branch7x7dbl_4 = conv(c7, c7, (7, 1))
        self.branch7x7dbl_5 = conv(c7, width(192), (1, 7))

        self.count_include_pad = count_include_pad
        self.branch_pool = conv(in_channels, width(192), 1)

        self.out_channels = 4 * width(192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch1x1 = self.branch1x1(x)
        branch7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        branch7x7dbl = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branch7x7dbl = self.branch7x7dbl_5(self.branch7x7dbl_4(branch7x7dbl))
        branch_pool = avg_pool(x, 3, 1, "same", count_include_pad=self.count_include_pad)
        branch_pool = self.branch_pool(branch_pool)
        return torch.cat([branch1x1, branch7x7, branch7x7dbl, branch_pool], dim=1)


class InceptionD(nn.Module):
    """Grid reduction 17x17 -> 8x8, similar to the paper's figure 10.

    As in the authors' code, a 1x7 and a 7x1 replace the first 3x3 of the figure's longest branch.
    """

    def __init__(
        self,
        in_channels: int,
        c3x3: int = 320,
        c7x7: int = 192,
        c7x7x3: int = 192,
        *,
        conv: Maker[ConvBN],
        width: Width,
    ):
        super().__init__()
        self.branch3x3_1 = conv(in_channels, width(192), 1)
        self.branch3x3_2 = conv(width(192), width(c3x3), 3, stride=2, padding="valid")

        self.branch7x7x3_1 = conv(in_channels, width(c7x7), 1)
        self.branch7x7x3_2 = conv(width(c7x7), width(c7x7), (1, 7))
        self.branch7x7x3_3 = conv(width(c7x7), width(c7x7x3), (7, 1))
        self.branch7x7x3_4 = conv(width(c7x7x3), width(c7x7x3), 3, stride=2, padding="valid")

        self.out_channels = width(c3x3) + width(c7x7x3) + in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch7x7x3 = self.branch7x7x3_2(self.branch7x7x3_1(x))
        branch7x7x3 = self.branch7x7x3_4(self.branch7x7x3_3(branch7x7x3))
        branch_pool = max_pool(x, 3, stride=2)
        return torch.cat([branch3x3, branch7x7x3, branch_pool], dim=1)


class InceptionE(nn.Module):
    """8x8 module with a parallel 1x3 and 3x1 at the end of two branches, the paper's figure 7."""

    def __init__(
        self,
        in_channels: int,
        pool: PoolKind = "avg",
        *,
        count_include_pad: bool = False,
        conv: Maker[ConvBN],
        width: Width,
    ):
        super().__init__()
        self.branch1x1 = conv(in_channels, width(320), 1)

        self.branch3x3_1 = conv(in_channels, width(384), 1)
        self.branch3x3_2a = conv(width(384), width(384), (1, 3))
        self.branch3x3_2b = conv(width(384), width(384), (3, 1))

        self.branch3x3dbl_1 = conv(in_channels, width(448), 1)
        self.branch3x3dbl_2 = conv(width(448), width(384), 3)
        self.branch3x3dbl_3a = conv(width(384), width(384), (1, 3))
        self.branch3x3dbl_3b = conv(width(384), width(384), (3, 1))

        self.pool: PoolKind = pool
        self.count_include_pad = count_include_pad
        self.branch_pool = conv(in_channels, width(192), 1)

        self.out_channels = width(320) + 4 * width(384) + width(192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch1x1 = self.branch1x1(x)
        y = self.branch3x3_1(x)
        branch3x3 = [self.branch3x3_2a(y), self.branch3x3_2b(y)]
        y = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branch3x3dbl = [self.branch3x3dbl_3a(y), self.branch3x3dbl_3b(y)]
        if self.pool == "max":
            branch_pool = max_pool(x, 3, 1, "same")
        else:
            branch_pool = avg_pool(x, 3, 1, "same", count_include_pad=self.count_include_pad)
        branch_pool = self.branch_pool(branch_pool)
        return torch.cat([branch1x1, *branch3x3, *branch3x3dbl, branch_pool], dim=1)


class InceptionAux(nn.Module):
    """Auxiliary classifier on the last 17x17 feature map, the paper's figure 8 and section 4.

    The published head needs the 17x17 feature map of a 299x299 image. For a smaller feature map,
    the pooling window is limited to its size, and the pooled result is padded with zeros to 5x5.
    For a larger one, the second convolution's output is averaged, as in torchvision.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        conv: Maker[ConvBN],
        width: Width,
    ):
        super().__init__()
        self.conv0 = conv(in_channels, width(128), 1)
        self.conv1 = conv(
            width(128), width(768), 5, padding="valid", kernel_init=init.truncated_normal(0.01)
        )
        self.fc = Linear(width(768), num_classes, kernel_init=init.truncated_normal(0.001))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = avg_pool(x, min(5, *x.shape[2:]), stride=3)  # 5x5x768
        x = self.conv0(x)  # 5x5x128
        x = self.conv1(_at_least_5x5(x))  # 1x1x768
        return self.fc(global_avg_pool(x))


def _at_least_5x5(x: torch.Tensor) -> torch.Tensor:
    rows, cols = (max(5 - n, 0) for n in x.shape[2:])
    return F.pad(x, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))


class InceptionV3(Model):
    """Inception V3; options select its variants.

    `inception_jax.models.InceptionV3` documents the options.
    """

    min_size = 75
    taps = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
    aux_names = ("AuxLogits",)
    aux_stages = ("Mixed_6e",)
    classifiers = ("fc", "AuxLogits.fc")

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        aux_heads: bool = False,
        width_multiplier: float = 1.0,
        dropout: float = 0.2,
        count_include_pad: bool = False,
        mixed_7c_pool: PoolKind = "avg",
        transform_input: bool = False,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.9,
    ):
        super().__init__()
        conv = functools.partial(ConvBN, bn_eps=bn_eps, bn_momentum=bn_momentum)
        width = channel_scaler(width_multiplier)
        common: dict[str, Any] = dict(conv=conv, width=width)
        pooled: dict[str, Any] = dict(count_include_pad=count_include_pad, **common)
        self.in_channels = in_channels
        self.transform_input = transform_input and in_channels == 3

        self.Conv2d_1a_3x3 = conv(in_channels, width(32), 3, stride=2, padding="valid")
        self.Conv2d_2a_3x3 = conv(width(32), width(32), 3, padding="valid")
        self.Conv2d_2b_3x3 = conv(width(32), width(64), 3)
        self.Conv2d_3b_1x1 = conv(width(64), width(80), 1)
        self.Conv2d_4a_3x3 = conv(width(80), width(192), 3, padding="valid")
        self.Mixed_5b = InceptionA(width(192), 32, **pooled)
        self.Mixed_5c = InceptionA(self.Mixed_5b.out_channels, 64, **pooled)
        self.Mixed_5d = InceptionA(self.Mixed_5c.out_channels, 64, **pooled)
        self.Mixed_6a = InceptionB(self.Mixed_5d.out_channels, **common)
        self.Mixed_6b = InceptionC(self.Mixed_6a.out_channels, 128, **pooled)
        self.Mixed_6c = InceptionC(self.Mixed_6b.out_channels, 160, **pooled)
        self.Mixed_6d = InceptionC(self.Mixed_6c.out_channels, 160, **pooled)
        self.Mixed_6e = InceptionC(self.Mixed_6d.out_channels, 192, **pooled)
        aux = functools.partial(InceptionAux, num_classes=num_classes, **common)
        self.AuxLogits = aux(self.Mixed_6e.out_channels) if aux_heads else None
        self.Mixed_7a = InceptionD(self.Mixed_6e.out_channels, **common)
        self.Mixed_7b = InceptionE(self.Mixed_7a.out_channels, **pooled)
        self.Mixed_7c = InceptionE(self.Mixed_7b.out_channels, mixed_7c_pool, **pooled)
        self.dropout = nn.Dropout(dropout)
        self.fc = Linear(self.Mixed_7c.out_channels, num_classes)

    def _body(self, x: torch.Tensor, maps: Maps) -> None:
        """Adds each stage's feature map [n, c, h, w] to `maps`, under its name in TF-slim."""
        # x is 299x299x3
        x = maps.add("Conv2d_1a_3x3", self.Conv2d_1a_3x3(x))  # 149x149x32
        x = maps.add("Conv2d_2a_3x3", self.Conv2d_2a_3x3(x))  # 147x147x32
        x = maps.add("Conv2d_2b_3x3", self.Conv2d_2b_3x3(x))  # 147x147x64
        x = maps.add("MaxPool_3a_3x3", max_pool(x, 3, stride=2))  # 73x73x64
        x = maps.add("Conv2d_3b_1x1", self.Conv2d_3b_1x1(x))  # 73x73x80
        x = maps.add("Conv2d_4a_3x3", self.Conv2d_4a_3x3(x))  # 71x71x192
        x = maps.add("MaxPool_5a_3x3", max_pool(x, 3, stride=2))  # 35x35x192
        x = maps.add("Mixed_5b", self.Mixed_5b(x))  # 35x35x256
        x = maps.add("Mixed_5c", self.Mixed_5c(x))  # 35x35x288
        x = maps.add("Mixed_5d", self.Mixed_5d(x))  # 35x35x288
        x = maps.add("Mixed_6a", self.Mixed_6a(x))  # 17x17x768
        x = maps.add("Mixed_6b", self.Mixed_6b(x))  # 17x17x768
        x = maps.add("Mixed_6c", self.Mixed_6c(x))  # 17x17x768
        x = maps.add("Mixed_6d", self.Mixed_6d(x))  # 17x17x768
        x = maps.add("Mixed_6e", self.Mixed_6e(x))  # 17x17x768
        x = maps.add("Mixed_7a", self.Mixed_7a(x))  # 8x8x1280
        x = maps.add("Mixed_7b", self.Mixed_7b(x))  # 8x8x2048
        x = maps.add("Mixed_7c", self.Mixed_7c(x))  # 8x8x2048


# The options that each published weight file needs; "" is the recommended variant.
register(
    "inception_v3",
    InceptionV3,
    tags={
        "": {},
        "tv_in1k": dict(count_include_pad=True, transform_input=True, dropout=0.5),
        "tf_in1k": dict(count_include_pad=True, dropout=0.0),
        "tf_adv_in1k": dict(count_include_pad=True, dropout=0.0),
        "gluon_in1k": dict(count_include_pad=True, dropout=0.0),
        "keras_in1k": dict(dropout=0.0),
        "slim_in1k": {},
        "fid": dict(num_classes=1008, mixed_7c_pool="max", dropout=0.0),
    },
)
