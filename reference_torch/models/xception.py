"""Xception (Chollet 2016, "Xception: Deep Learning with Depthwise Separable Convolutions").

Read this file next to the paper's figure 5. Blocks are numbered as in the author's code, Keras'
`applications/xception.py`. timm and Cadene (pretrained-models.pytorch) count from the first
residual block, so their block 1 is block 2 here. Shapes in comments are for a 299x299 image.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from reference_torch.layers import ConvBN, Linear, Maker, SeparableConvBN, channel_scaler
from reference_torch.model import Maps, Model
from reference_torch.ops import CONV_PADDING, Padding, PadMode, max_pool
from reference_torch.registry import register


class DownBlock(nn.Module):
    """Two separable convolutions and a max pool, plus a strided 1x1 shortcut.

    The shortcut takes the block's input before the first ReLU.

    Args:
        in_channels: channels of the input.
        mid_channels: channels between the two separable convolutions.
        out_channels: channels of the output.
        relu_first: apply a ReLU before the first separable convolution.
        padding: padding of the max pool.
        conv: creates the 1x1 convolution of the shortcut.
        sepconv: creates a separable convolution.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        relu_first: bool = True,
        padding: Padding,
        conv: Maker[ConvBN],
        sepconv: Maker[SeparableConvBN],
    ):
        super().__init__()
        self.residual = conv(in_channels, out_channels, 1, stride=2, relu=False)
        self.sepconv1 = sepconv(in_channels, mid_channels)
        self.sepconv2 = sepconv(mid_channels, out_channels)
        self.relu_first = relu_first
        self.padding: Padding = padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.residual(x)
        x = F.relu(x) if self.relu_first else x
        x = self.sepconv1(x)
        x = self.sepconv2(F.relu(x))
        x = max_pool(x, 3, 2, self.padding)
        return x + residual


class MiddleBlock(nn.Module):
    """Three separable convolutions, each after a ReLU, plus the block's input."""

    def __init__(self, channels: int, *, sepconv: Maker[SeparableConvBN]):
        super().__init__()
        self.sepconv1 = sepconv(channels, channels)
        self.sepconv2 = sepconv(channels, channels)
        self.sepconv3 = sepconv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = x
        x = self.sepconv1(F.relu(x))
        x = self.sepconv2(F.relu(x))
        x = self.sepconv3(F.relu(x))
        return x + residual


class Xception(Model):
    """Xception; options select its variants.

    `inception_jax.models.Xception` documents the options.
    """

    min_size = 71
    inner_taps = ("block3_sepconv1_act", "block4_sepconv1_act", "block13_sepconv1_act")
    taps = ("block1_conv2", *inner_taps, "block14_sepconv2")

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        width_multiplier: float = 1.0,
        dropout: float = 0.5,
        pad_mode: PadMode = "tf",
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.9,
    ):
        super().__init__()
        bn: dict[str, Any] = dict(bn_eps=bn_eps, bn_momentum=bn_momentum)
        conv = functools.partial(ConvBN, **bn)
        sepconv = functools.partial(SeparableConvBN, **bn)
        down = functools.partial(
            DownBlock, padding=CONV_PADDING[pad_mode], conv=conv, sepconv=sepconv
        )
        middle = functools.partial(MiddleBlock, sepconv=sepconv)
        width = channel_scaler(width_multiplier)
        self.in_channels = in_channels

        # Entry flow
        self.block1_conv1 = conv(in_channels, width(32), 3, stride=2, padding="valid")
        self.block1_conv2 = conv(width(32), width(64), 3, padding="valid")
        self.block2 = down(width(64), width(128), width(128), relu_first=False)
        self.block3 = down(width(128), width(256), width(256))
        self.block4 = down(width(256), width(728), width(728))
        # Middle flow
        self.block5 = middle(width(728))
        self.block6 = middle(width(728))
        self.block7 = middle(width(728))
        self.block8 = middle(width(728))
        self.block9 = middle(width(728))
        self.block10 = middle(width(728))
        self.block11 = middle(width(728))
        self.block12 = middle(width(728))
        # Exit flow
        self.block13 = down(width(728), width(728), width(1024))
        self.block14_sepconv1 = sepconv(width(1024), width(1536))
        self.block14_sepconv2 = sepconv(width(1536), width(2048))
        self.dropout = nn.Dropout(dropout)
        self.fc = Linear(width(2048), num_classes)

    def _body(self, x: torch.Tensor, maps: Maps) -> None:
        """Adds every stage's feature map [n, c, h, w] to `maps`, in forward order.

        Names follow Keras. The feature map of a residual block is its sum, before any ReLU. Blocks
        3, 4 and 13 first add another stage, such as `block3_sepconv1_act`: the block's input after
        its first ReLU. timm has this stage too.
        """
        # x is 299x299x3
        x = maps.add("block1_conv1", self.block1_conv1(x))  # 149x149x32
        x = maps.add("block1_conv2", self.block1_conv2(x))  # 147x147x64
        x = maps.add("block2", self.block2(x))  # 74x74x128
        maps.add("block3_sepconv1_act", F.relu(x))
        x = maps.add("block3", self.block3(x))  # 37x37x256
        maps.add("block4_sepconv1_act", F.relu(x))
        x = maps.add("block4", self.block4(x))  # 19x19x728
        x = maps.add("block5", self.block5(x))  # 19x19x728
        x = maps.add("block6", self.block6(x))  # 19x19x728
        x = maps.add("block7", self.block7(x))  # 19x19x728
        x = maps.add("block8", self.block8(x))  # 19x19x728
        x = maps.add("block9", self.block9(x))  # 19x19x728
        x = maps.add("block10", self.block10(x))  # 19x19x728
        x = maps.add("block11", self.block11(x))  # 19x19x728
        x = maps.add("block12", self.block12(x))  # 19x19x728
        maps.add("block13_sepconv1_act", F.relu(x))
        x = maps.add("block13", self.block13(x))  # 10x10x1024
        x = maps.add("block14_sepconv1", F.relu(self.block14_sepconv1(x)))  # 10x10x1536
        x = maps.add("block14_sepconv2", F.relu(self.block14_sepconv2(x)))  # 10x10x2048


# The options that each published weight file needs; "" is the recommended variant.
register(
    "xception",
    Xception,
    tags={
        "": {},
        "keras_in1k": dict(dropout=0.0),
        "tf_in1k": dict(pad_mode="torch", bn_eps=1e-5, dropout=0.0),
        "cadene_in1k": dict(pad_mode="torch", bn_eps=1e-5, dropout=0.0),
    },
)
