"""Inception V4 (Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact...").

Read this file next to the paper's figures 3 to 9. Every public weight file comes from the authors'
code, TF-slim's `nets/inception_v4.py`. Where that code and a figure differ, a comment says so.
Shapes in comments are for a 299x299 image.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from reference_torch.layers import ConvBN, Linear, Maker, Width, channel_scaler
from reference_torch.model import Maps, Model
from reference_torch.models import inception_v3
from reference_torch.models.bn_inception import Inception
from reference_torch.models.inception_v3 import InceptionAux
from reference_torch.ops import avg_pool, max_pool
from reference_torch.registry import register


class Mixed3a(nn.Module):
    """The stem's first pair of branches, figure 3: pool and convolution, 147x147 -> 73x73."""

    def __init__(self, in_channels: int, *, conv: Maker[ConvBN], width: Width):
        super().__init__()
        self.branch3x3 = conv(in_channels, width(96), 3, stride=2, padding="valid")

        self.out_channels = in_channels + width(96)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([max_pool(x, 3, stride=2), self.branch3x3(x)], dim=1)


class Mixed4a(nn.Module):
    """The stem's second pair of branches, figure 3: 1x1 - 3x3, and 1x1 - 1x7 - 7x1 - 3x3.

    The figure has the 7x1 before the 1x7. This module follows the authors' code, which has the 1x7
    first.
    """

    def __init__(self, in_channels: int, *, conv: Maker[ConvBN], width: Width):
        super().__init__()
        self.branch3x3_1 = conv(in_channels, width(64), 1)
        self.branch3x3_2 = conv(width(64), width(96), 3, padding="valid")

        self.branch7x7_1 = conv(in_channels, width(64), 1)
        self.branch7x7_2 = conv(width(64), width(64), (1, 7))
        self.branch7x7_3 = conv(width(64), width(64), (7, 1))
        self.branch7x7_4 = conv(width(64), width(96), 3, padding="valid")

        self.out_channels = 2 * width(96)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch7x7 = self.branch7x7_2(self.branch7x7_1(x))
        branch7x7 = self.branch7x7_4(self.branch7x7_3(branch7x7))
        return torch.cat([branch3x3, branch7x7], dim=1)


class Mixed5a(nn.Module):
    """The stem's third pair of branches, figure 3: convolution and pool, 71x71 -> 35x35.

    The convolution has a stride of 2, which the figure omits.
    """

    def __init__(self, in_channels: int, *, conv: Maker[ConvBN], width: Width):
        super().__init__()
        self.branch3x3 = conv(in_channels, width(192), 3, stride=2, padding="valid")

        self.out_channels = width(192) + in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch3x3(x), max_pool(x, 3, stride=2)], dim=1)


class InceptionA(Inception):
    """35x35 module, figure 4.

    It is BN-Inception's module with other widths.
    """

    def __init__(self, in_channels: int, **common: Any):
        super().__init__(
            in_channels, c1x1=96, c3x3_reduce=64, c3x3=96, cdbl_reduce=64, cdbl=96, pool_proj=96,
            **common,
        )  # fmt: skip


class ReductionA(inception_v3.InceptionB):
    """Grid reduction 35x35 -> 17x17, figure 7: V3's `InceptionB` with other widths.

    The widths k, l, m and n are in table 1: 192, 224, 256, 384 for Inception V4; 192, 192, 256, 384
    for Inception-ResNet-v1; 256, 256, 384, 384 for Inception-ResNet-v2.
    """

    def __init__(self, in_channels: int, k: int, l: int, m: int, n: int, **common: Any):  # noqa: E741
        super().__init__(in_channels, c3x3=n, c3x3dbl=(k, l, m), **common)


class InceptionB(nn.Module):
    """17x17 module, figure 5.

    The figure prints 1x7 twice in its third branch; the second one is a 7x1. In the fourth branch,
    the figure has the 1x7 first. This module follows the authors' code, which has the 7x1 first.
    """

    def __init__(self, in_channels: int, *, conv: Maker[ConvBN], width: Width):
        super().__init__()
        self.branch1x1 = conv(in_channels, width(384), 1)

        self.branch7x7_1 = conv(in_channels, width(192), 1)
        self.branch7x7_2 = conv(width(192), width(224), (1, 7))
        self.branch7x7_3 = conv(width(224), width(256), (7, 1))

        self.branch7x7dbl_1 = conv(in_channels, width(192), 1)
        self.branch7x7dbl_2 = conv(width(192), width(192), (7, 1))
        self.branch7x7dbl_3 = conv(width(192), width(224), (1, 7))
        self.branch7x7dbl_4 = conv(width(224), width(224), (7, 1))
        self.branch7x7dbl_5 = conv(width(224), width(256), (1, 7))

        self.branch_pool = conv(in_channels, width(128), 1)

        self.out_channels = width(384) + 2 * width(256) + width(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch1x1 = self.branch1x1(x)
        branch7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        branch7x7dbl = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branch7x7dbl = self.branch7x7dbl_5(self.branch7x7dbl_4(branch7x7dbl))
        branch_pool = self.branch_pool(avg_pool(x, 3, 1, "same"))
        return torch.cat([branch1x1, branch7x7, branch7x7dbl, branch_pool], dim=1)


class ReductionB(inception_v3.InceptionD):
    """Grid reduction 17x17 -> 8x8, figure 8: V3's `InceptionD` with other widths."""

    def __init__(self, in_channels: int, **common: Any):
        super().__init__(in_channels, c3x3=192, c7x7=256, c7x7x3=320, **common)


class InceptionC(nn.Module):
    """8x8 module, figure 6.

    In the fourth branch, the figure has the 1x3 before the 3x1. This module follows the authors'
    code, which has the 3x1 first.
    """

    def __init__(self, in_channels: int, *, conv: Maker[ConvBN], width: Width):
        super().__init__()
        self.branch1x1 = conv(in_channels, width(256), 1)

        self.branch3x3_1 = conv(in_channels, width(384), 1)
        self.branch3x3_2a = conv(width(384), width(256), (1, 3))
        self.branch3x3_2b = conv(width(384), width(256), (3, 1))

        self.branch3x3dbl_1 = conv(in_channels, width(384), 1)
        self.branch3x3dbl_2 = conv(width(384), width(448), (3, 1))
        self.branch3x3dbl_3 = conv(width(448), width(512), (1, 3))
        self.branch3x3dbl_4a = conv(width(512), width(256), (1, 3))
        self.branch3x3dbl_4b = conv(width(512), width(256), (3, 1))

        self.branch_pool = conv(in_channels, width(256), 1)

        self.out_channels = 6 * width(256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch1x1 = self.branch1x1(x)
        y = self.branch3x3_1(x)
        branch3x3 = [self.branch3x3_2a(y), self.branch3x3_2b(y)]
        y = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branch3x3dbl = [self.branch3x3dbl_4a(y), self.branch3x3dbl_4b(y)]
        branch_pool = self.branch_pool(avg_pool(x, 3, 1, "same"))
        return torch.cat([branch1x1, *branch3x3, *branch3x3dbl, branch_pool], dim=1)


class InceptionV4(Model):
    """Inception V4.

    `inception_jax.models.InceptionV4` documents the options.
    """

    min_size = 75
    taps = ("Conv2d_2b_3x3", "Mixed_3a", "Mixed_5e", "Mixed_6h", "Mixed_7d")
    aux_names = ("AuxLogits",)
    aux_stages = ("Mixed_6h",)
    classifiers = ("fc", "AuxLogits.fc")

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        aux_heads: bool = False,
        width_multiplier: float = 1.0,
        dropout: float = 0.2,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.9,
    ):
        super().__init__()
        conv = functools.partial(ConvBN, bn_eps=bn_eps, bn_momentum=bn_momentum)
        width = channel_scaler(width_multiplier)
        common: dict[str, Any] = dict(conv=conv, width=width)
        self.in_channels = in_channels

        # Stem
        self.Conv2d_1a_3x3 = conv(in_channels, width(32), 3, stride=2, padding="valid")
        self.Conv2d_2a_3x3 = conv(width(32), width(32), 3, padding="valid")
        self.Conv2d_2b_3x3 = conv(width(32), width(64), 3)
        self.Mixed_3a = Mixed3a(width(64), **common)
        self.Mixed_4a = Mixed4a(self.Mixed_3a.out_channels, **common)
        self.Mixed_5a = Mixed5a(self.Mixed_4a.out_channels, **common)
        # 4 x Inception-A
        self.Mixed_5b = InceptionA(self.Mixed_5a.out_channels, **common)
        self.Mixed_5c = InceptionA(self.Mixed_5b.out_channels, **common)
        self.Mixed_5d = InceptionA(self.Mixed_5c.out_channels, **common)
        self.Mixed_5e = InceptionA(self.Mixed_5d.out_channels, **common)
        self.Mixed_6a = ReductionA(self.Mixed_5e.out_channels, 192, 224, 256, 384, **common)
        # 7 x Inception-B
        self.Mixed_6b = InceptionB(self.Mixed_6a.out_channels, **common)
        self.Mixed_6c = InceptionB(self.Mixed_6b.out_channels, **common)
        self.Mixed_6d = InceptionB(self.Mixed_6c.out_channels, **common)
        self.Mixed_6e = InceptionB(self.Mixed_6d.out_channels, **common)
        self.Mixed_6f = InceptionB(self.Mixed_6e.out_channels, **common)
        self.Mixed_6g = InceptionB(self.Mixed_6f.out_channels, **common)
        self.Mixed_6h = InceptionB(self.Mixed_6g.out_channels, **common)
        aux = functools.partial(InceptionAux, num_classes=num_classes, **common)
        self.AuxLogits = aux(self.Mixed_6h.out_channels) if aux_heads else None
        self.Mixed_7a = ReductionB(self.Mixed_6h.out_channels, **common)
        # 3 x Inception-C
        self.Mixed_7b = InceptionC(self.Mixed_7a.out_channels, **common)
        self.Mixed_7c = InceptionC(self.Mixed_7b.out_channels, **common)
        self.Mixed_7d = InceptionC(self.Mixed_7c.out_channels, **common)
        self.dropout = nn.Dropout(dropout)
        self.fc = Linear(self.Mixed_7d.out_channels, num_classes)

    def _body(self, x: torch.Tensor, maps: Maps) -> None:
        """Adds each stage's feature map [n, c, h, w] to `maps`, under its name in TF-slim."""
        # x is 299x299x3
        x = maps.add("Conv2d_1a_3x3", self.Conv2d_1a_3x3(x))  # 149x149x32
        x = maps.add("Conv2d_2a_3x3", self.Conv2d_2a_3x3(x))  # 147x147x32
        x = maps.add("Conv2d_2b_3x3", self.Conv2d_2b_3x3(x))  # 147x147x64
        x = maps.add("Mixed_3a", self.Mixed_3a(x))  # 73x73x160
        x = maps.add("Mixed_4a", self.Mixed_4a(x))  # 71x71x192
        x = maps.add("Mixed_5a", self.Mixed_5a(x))  # 35x35x384
        x = maps.add("Mixed_5b", self.Mixed_5b(x))  # 35x35x384
        x = maps.add("Mixed_5c", self.Mixed_5c(x))  # 35x35x384
        x = maps.add("Mixed_5d", self.Mixed_5d(x))  # 35x35x384
        x = maps.add("Mixed_5e", self.Mixed_5e(x))  # 35x35x384
        x = maps.add("Mixed_6a", self.Mixed_6a(x))  # 17x17x1024
        x = maps.add("Mixed_6b", self.Mixed_6b(x))  # 17x17x1024
        x = maps.add("Mixed_6c", self.Mixed_6c(x))  # 17x17x1024
        x = maps.add("Mixed_6d", self.Mixed_6d(x))  # 17x17x1024
        x = maps.add("Mixed_6e", self.Mixed_6e(x))  # 17x17x1024
        x = maps.add("Mixed_6f", self.Mixed_6f(x))  # 17x17x1024
        x = maps.add("Mixed_6g", self.Mixed_6g(x))  # 17x17x1024
        x = maps.add("Mixed_6h", self.Mixed_6h(x))  # 17x17x1024
        x = maps.add("Mixed_7a", self.Mixed_7a(x))  # 8x8x1536
        x = maps.add("Mixed_7b", self.Mixed_7b(x))  # 8x8x1536
        x = maps.add("Mixed_7c", self.Mixed_7c(x))  # 8x8x1536
        x = maps.add("Mixed_7d", self.Mixed_7d(x))  # 8x8x1536


# The options that each published weight file needs; "" is the recommended variant.
register(
    "inception_v4",
    InceptionV4,
    tags={
        "": {},
        "tf_in1k": dict(dropout=0.0),
        "cadene_in1k": dict(dropout=0.0),
        "slim_in1k": {},
    },
)
