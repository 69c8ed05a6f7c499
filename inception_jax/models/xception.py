"""Xception (Chollet 2016, "Xception: Deep Learning with Depthwise Separable Convolutions").

Read this file next to the paper's figure 5. Blocks are numbered as in the author's code, Keras'
`applications/xception.py`. timm and Cadene (pretrained-models.pytorch) count from the first
residual block, so their block 1 is block 2 here. Shapes in comments are for a 299x299 image.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax.nn.layers import ConvBN, Linear, Maker, SeparableConvBN, channel_scaler
from inception_jax.nn.model import Maps, Model, Record
from inception_jax.nn.ops import CONV_PADDING, Padding, PadMode, max_pool
from inception_jax.nn.remat import save_for_backward
from inception_jax.registry import KERAS, Tag, register


class DownBlock(nnx.Module):
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
        self.residual = conv(in_channels, out_channels, 1, stride=2, relu=False)
        self.sepconv1 = sepconv(in_channels, mid_channels)
        self.sepconv2 = sepconv(mid_channels, out_channels)
        self.relu_first = relu_first
        self.padding: Padding = padding

    def __call__(self, x: jax.Array) -> jax.Array:
        return self._recorded(x, None)

    def _recorded(self, x: jax.Array, record: Record | None) -> jax.Array:
        residual = self.residual(x)
        x = jax.nn.relu(x) if self.relu_first else x
        x = self.sepconv1(x if record is None else record(x))
        x = self.sepconv2(jax.nn.relu(x))
        x = max_pool(x, 3, 2, self.padding)
        return save_for_backward(x + residual)


class MiddleBlock(nnx.Module):
    """Three separable convolutions, each after a ReLU, plus the block's input."""

    def __init__(self, channels: int, *, sepconv: Maker[SeparableConvBN]):
        self.sepconv1 = sepconv(channels, channels)
        self.sepconv2 = sepconv(channels, channels)
        self.sepconv3 = sepconv(channels, channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        residual = x
        x = self.sepconv1(jax.nn.relu(x))
        x = self.sepconv2(jax.nn.relu(x))
        x = self.sepconv3(jax.nn.relu(x))
        return save_for_backward(x + residual)


class Xception(Model):
    """Xception; options select its variants.

    Args:
        dropout: dropout rate of the pooled features; 0.5 in the paper's section 4.5, 0 in Keras and
            timm.
        pad_mode: padding of the strided max pools: "tf" as in Keras (`SAME`), "torch" as in timm
            and Cadene (one pixel on each side). The two differ only for feature maps with an even
            side: in a network for 299x299 images, only in the second pool.
        bn_eps: epsilon of every BatchNorm, added to the variance: 1e-3 in Keras, where the weights
            were trained; 1e-5 in timm and Cadene, which use the same weights.
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
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        bn: dict[str, Any] = dict(bn_eps=bn_eps, bn_momentum=bn_momentum)
        conv = functools.partial(ConvBN, **bn, **types)
        sepconv = functools.partial(SeparableConvBN, **bn, **types)
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
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.fc = Linear(width(2048), num_classes, **types)

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        """Adds every stage's feature map [n, h, w, c] to `maps`, in forward order.

        Names follow Keras. The feature map of a residual block is its sum, before any ReLU. Blocks
        3, 4 and 13 first add another stage, such as `block3_sepconv1_act`: the block's input after
        its first ReLU. timm has this stage too.
        """
        # x is 299x299x3
        x = maps.add("block1_conv1", self.block1_conv1(x))  # 149x149x32
        x = maps.add("block1_conv2", self.block1_conv2(x))  # 147x147x64
        x = maps.add("block2", self.block2(x))  # 74x74x128
        record = functools.partial(maps.add, "block3_sepconv1_act")
        x = maps.add("block3", self.block3._recorded(x, record))  # 37x37x256
        record = functools.partial(maps.add, "block4_sepconv1_act")
        x = maps.add("block4", self.block4._recorded(x, record))  # 19x19x728
        x = maps.add("block5", self.block5(x))  # 19x19x728
        x = maps.add("block6", self.block6(x))  # 19x19x728
        x = maps.add("block7", self.block7(x))  # 19x19x728
        x = maps.add("block8", self.block8(x))  # 19x19x728
        x = maps.add("block9", self.block9(x))  # 19x19x728
        x = maps.add("block10", self.block10(x))  # 19x19x728
        x = maps.add("block11", self.block11(x))  # 19x19x728
        x = maps.add("block12", self.block12(x))  # 19x19x728
        record = functools.partial(maps.add, "block13_sepconv1_act")
        x = maps.add("block13", self.block13._recorded(x, record))  # 10x10x1024
        x = maps.add("block14_sepconv1", jax.nn.relu(self.block14_sepconv1(x)))  # 10x10x1536
        x = maps.add("block14_sepconv2", jax.nn.relu(self.block14_sepconv2(x)))  # 10x10x2048


# The options that each published weight file needs, and its publisher's preprocessing.
_TIMM: dict[str, Any] = dict(
    readings=dict(pad_mode="torch", bn_eps=1e-5, dropout=0.0), crop_pct=0.8975
)

register(
    "xception",
    Xception,
    paper="https://arxiv.org/abs/1610.02357",
    num_params=22_855_952,
    tags={
        "": Tag(source="keras.applications.Xception", **KERAS),
        "keras_in1k": Tag(
            readings=dict(dropout=0.0), source="keras.applications.Xception", **KERAS
        ),
        "tf_in1k": Tag(source="timm/legacy_xception.tf_in1k", **_TIMM),
        "cadene_in1k": Tag(
            source="Cadene pretrained-models.pytorch xception-43020ad28.pth",
            interpolation="bilinear",
            **_TIMM,
        ),
    },
)
