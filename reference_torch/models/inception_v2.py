"""Inception V2 (Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision").

Read this file next to the paper's table 1 and figures 5 to 8 and 10. The numbers of filters inside
the modules were in a supplement that is lost. This file uses V3's numbers, and replaces the 5x5
convolution of V3's first modules by two 3x3 convolutions. The channels of each module then sum to
the numbers in the table. No weights were ever published. TF-slim's `inception_v2` is a different
network, see `bn_inception.py`. Shapes in comments are for a 299x299 image.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import nn

from reference_torch.layers import ConvBN, Linear, Maker, Width, channel_scaler
from reference_torch.model import Maps, Model
from reference_torch.models.bn_inception import Inception, InceptionReduction
from reference_torch.models.inception_v3 import InceptionAux, InceptionE
from reference_torch.ops import avg_pool, max_pool
from reference_torch.registry import register

AuxPosition = Literal["last_17x17", "first_17x17"]

UNPADDED: dict[str, Any] = dict(padding="valid", pool_padding="valid")


class InceptionA(Inception):
    """35x35 module with two 3x3 convolutions in place of a 5x5, the paper's figure 5.

    It is BN-Inception's module with other widths.
    """

    def __init__(self, in_channels: int, **common: Any):
        super().__init__(
            in_channels, c1x1=64, c3x3_reduce=48, c3x3=64, cdbl_reduce=64, cdbl=96, pool_proj=64,
            **common,
        )  # fmt: skip


class ReductionA(InceptionReduction):
    """Grid reduction 35x35 -> 17x17, the paper's figure 10."""

    def __init__(self, in_channels: int, **common: Any):
        super().__init__(
            in_channels, c3x3_reduce=128, c3x3=384, cdbl_reduce=64, cdbl=96, **UNPADDED, **common
        )


class InceptionB(nn.Module):
    """17x17 module with n x n factorised into 1xn and nx1, the paper's figure 6."""

    def __init__(
        self, in_channels: int, channels_nxn: int, *, n: int, conv: Maker[ConvBN], width: Width
    ):
        super().__init__()
        c = width(channels_nxn)
        self.branch1x1 = conv(in_channels, width(192), 1)

        self.branchnxn_1 = conv(in_channels, c, 1)
        self.branchnxn_2 = conv(c, c, (1, n))
        self.branchnxn_3 = conv(c, width(192), (n, 1))

        self.branchnxndbl_1 = conv(in_channels, c, 1)
        self.branchnxndbl_2 = conv(c, c, (n, 1))
        self.branchnxndbl_3 = conv(c, c, (1, n))
        self.branchnxndbl_4 = conv(c, c, (n, 1))
        self.branchnxndbl_5 = conv(c, width(192), (1, n))

        self.branch_pool = conv(in_channels, width(192), 1)

        self.out_channels = 4 * width(192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch1x1 = self.branch1x1(x)
        branchnxn = self.branchnxn_3(self.branchnxn_2(self.branchnxn_1(x)))
        branchnxndbl = self.branchnxndbl_3(self.branchnxndbl_2(self.branchnxndbl_1(x)))
        branchnxndbl = self.branchnxndbl_5(self.branchnxndbl_4(branchnxndbl))
        branch_pool = self.branch_pool(avg_pool(x, 3, 1, "same"))
        return torch.cat([branch1x1, branchnxn, branchnxndbl, branch_pool], dim=1)


class ReductionB(InceptionReduction):
    """Grid reduction 17x17 -> 8x8. Like `ReductionA`, it follows the paper's figure 10."""

    def __init__(self, in_channels: int, **common: Any):
        super().__init__(
            in_channels, c3x3_reduce=192, c3x3=320, cdbl_reduce=192, cdbl=192, **UNPADDED, **common
        )


class InceptionC(InceptionE):
    """8x8 module with a parallel 1x3 and 3x1 at the end of two branches, the paper's figure 7.

    It is the same as V3's `InceptionE`.
    """


class InceptionV2(Model):
    """Inception V2; options select its variants.

    `inception_jax.models.InceptionV2` documents the options.
    """

    min_size = 75
    taps = ("Conv2d_2b_3x3", "Conv2d_3b_3x3", "Mixed_5c", "Mixed_6e", "Mixed_7c")
    classifiers = ("fc", "AuxLogits.fc")
    aux_names = ("AuxLogits",)

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        aux_heads: bool = False,
        width_multiplier: float = 1.0,
        n: Literal[3, 7] = 7,
        aux_position: AuxPosition = "last_17x17",
        dropout: float = 0.2,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.9,
    ):
        super().__init__()
        conv = functools.partial(ConvBN, bn_eps=bn_eps, bn_momentum=bn_momentum)
        width = channel_scaler(width_multiplier)
        common: dict[str, Any] = dict(conv=conv, width=width)
        self.in_channels = in_channels
        self.aux_stages = ({"last_17x17": "Mixed_6e", "first_17x17": "Mixed_6a"}[aux_position],)

        self.Conv2d_1a_3x3 = conv(in_channels, width(32), 3, stride=2, padding="valid")
        self.Conv2d_2a_3x3 = conv(width(32), width(32), 3, padding="valid")
        self.Conv2d_2b_3x3 = conv(width(32), width(64), 3)
        self.Conv2d_3b_3x3 = conv(width(64), width(80), 3, padding="valid")
        self.Conv2d_4a_3x3 = conv(width(80), width(192), 3, stride=2, padding="valid")
        self.Conv2d_4b_3x3 = conv(width(192), width(288), 3)
        self.Mixed_5b = InceptionA(width(288), **common)
        self.Mixed_5c = InceptionA(self.Mixed_5b.out_channels, **common)
        self.Mixed_6a = ReductionA(self.Mixed_5c.out_channels, **common)
        self.Mixed_6b = InceptionB(self.Mixed_6a.out_channels, 128, n=n, **common)
        self.Mixed_6c = InceptionB(self.Mixed_6b.out_channels, 160, n=n, **common)
        self.Mixed_6d = InceptionB(self.Mixed_6c.out_channels, 160, n=n, **common)
        self.Mixed_6e = InceptionB(self.Mixed_6d.out_channels, 192, n=n, **common)
        self.AuxLogits = None
        if aux_heads:
            aux_channels = getattr(self, self.aux_stages[0]).out_channels
            self.AuxLogits = InceptionAux(aux_channels, num_classes, **common)
        self.Mixed_7a = ReductionB(self.Mixed_6e.out_channels, **common)
        self.Mixed_7b = InceptionC(self.Mixed_7a.out_channels, **common)
        self.Mixed_7c = InceptionC(self.Mixed_7b.out_channels, **common)
        self.dropout = nn.Dropout(dropout)
        self.fc = Linear(self.Mixed_7c.out_channels, num_classes)

    def _body(self, x: torch.Tensor, maps: Maps) -> None:
        """Adds each stage's feature map [n, c, h, w] to `maps`, under a name in TF-slim's style."""
        # x is 299x299x3
        x = maps.add("Conv2d_1a_3x3", self.Conv2d_1a_3x3(x))  # 149x149x32
        x = maps.add("Conv2d_2a_3x3", self.Conv2d_2a_3x3(x))  # 147x147x32
        x = maps.add("Conv2d_2b_3x3", self.Conv2d_2b_3x3(x))  # 147x147x64
        x = maps.add("MaxPool_3a_3x3", max_pool(x, 3, stride=2))  # 73x73x64
        x = maps.add("Conv2d_3b_3x3", self.Conv2d_3b_3x3(x))  # 71x71x80
        x = maps.add("Conv2d_4a_3x3", self.Conv2d_4a_3x3(x))  # 35x35x192
        x = maps.add("Conv2d_4b_3x3", self.Conv2d_4b_3x3(x))  # 35x35x288
        # The table counts 3, 5 and 2 modules. The 3 include the reduction Mixed_6a, and the 5
        # include the reduction Mixed_7a.
        x = maps.add("Mixed_5b", self.Mixed_5b(x))  # 35x35x288
        x = maps.add("Mixed_5c", self.Mixed_5c(x))  # 35x35x288
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
    "inception_v2",
    InceptionV2,
    tags={"": {}, "paper": {}, "blog": dict(n=3, aux_position="first_17x17")},
)
