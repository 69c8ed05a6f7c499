"""Inception-ResNet-v2 (Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact...").

Read this file next to the paper's figures 16 to 19. Every public weight file comes from the
authors' code, TF-slim's `nets/inception_resnet_v2.py`. That network differs from the paper's: it
has V3's stem and a module Mixed_5b in place of V4's stem, twice as many blocks, and a last 1x1
convolution. This file can build both networks. The residual modules and the last reduction are
those of v1 with different widths. Shapes in comments are for TF-slim's network and a 299x299 image,
followed by the shapes in the paper where they differ.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax.models.inception_resnet_v1 import Block8, Block17, Block35, ReductionB, chain
from inception_jax.models.inception_v3 import InceptionA, InceptionAux
from inception_jax.models.inception_v4 import Mixed3a, Mixed4a, Mixed5a, ReductionA
from inception_jax.nn.layers import Conv, ConvBN, Linear, channel_scaler
from inception_jax.nn.model import Maps, Model
from inception_jax.nn.ops import max_pool
from inception_jax.registry import KERAS, SLIM, Tag, register

Source = Literal["slim", "paper"]


class Mixed5b(InceptionA):
    """The end of TF-slim's stem: V3's 35x35 module with a wider 1x1 branch.

    The paper has no such module.
    """

    def __init__(self, in_channels: int, **common: Any):
        super().__init__(in_channels, pool_features=64, c1x1=96, **common)


class InceptionResNetV2(Model):
    """Inception-ResNet-v2; options select its variants.

    Args:
        aux_heads: whether to build TF-slim's auxiliary classifier, which the paper's figures do not
            show. In training, its logits are returned too.
        dropout: dropout rate of the pooled features. The paper and TF-slim state the keep
            probability, 0.8.
        layout: arrangement of the layers. "slim": as in the authors' code. "paper": V4's stem, no
            Mixed_5b, no Conv2d_7b.
        blocks: numbers of block35, block17 and block8: 10, 20, 10 in TF-slim; 5, 10, 5 in the
            paper.
        linear_last_block: whether the last block8 has a scale of 1 and no ReLU, as in TF-slim.
        scales: factors by which the branches of block35, block17 and block8 are multiplied before
            they are added (the paper's section 3.3). The defaults are TF-slim's.
    """

    min_size = 75
    sums_of_products = True
    taps = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "block35", "block17", "Conv2d_7b_1x1")
    aux_names = ("AuxLogits",)
    aux_stages = ("block17",)
    classifiers = ("fc", "AuxLogits.fc")

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        aux_heads: bool = False,
        width_multiplier: float = 1.0,
        dropout: float = 0.2,
        layout: Source = "slim",
        blocks: tuple[int, int, int] = (10, 20, 10),
        linear_last_block: bool = True,
        scales: tuple[float, float, float] = (0.17, 0.10, 0.20),
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.9,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        conv = functools.partial(ConvBN, bn_eps=bn_eps, bn_momentum=bn_momentum, **types)
        linear_conv = functools.partial(Conv, bias=True, **types)
        linear = functools.partial(Linear, **types)
        width = channel_scaler(width_multiplier)
        common: dict[str, Any] = dict(conv=conv, width=width)
        residual: dict[str, Any] = dict(linear_conv=linear_conv, **common)
        self.in_channels = in_channels
        self.layout = layout

        # Stem: TF-slim's (figure 14 of Inception-ResNet-v1, then Mixed_5b) or V4's (figure 3)
        self.Conv2d_1a_3x3 = conv(in_channels, width(32), 3, stride=2, padding="valid")
        self.Conv2d_2a_3x3 = conv(width(32), width(32), 3, padding="valid")
        self.Conv2d_2b_3x3 = conv(width(32), width(64), 3)
        if layout == "paper":
            self.taps = ("Conv2d_2b_3x3", "Mixed_3a", "block35", "block17", "block8")
        if layout == "slim":
            self.Conv2d_3b_1x1 = conv(width(64), width(80), 1)
            self.Conv2d_4a_3x3 = conv(width(80), width(192), 3, padding="valid")
            self.Mixed_5b = Mixed5b(width(192), **common)
            c35 = self.Mixed_5b.out_channels
        else:
            self.Mixed_3a = Mixed3a(width(64), **common)
            self.Mixed_4a = Mixed4a(self.Mixed_3a.out_channels, **common)
            self.Mixed_5a = Mixed5a(self.Mixed_4a.out_channels, **common)
            c35 = self.Mixed_5a.out_channels
        # Residual modules and reductions, figures 16 to 19: v1's, with other widths. Figure 17
        # prints 1154 filters in its last 1x1, figure 19 prints 2048. Neither is the number of
        # channels before it: 1152 and 2144 with the paper's stem, 1088 and 2080 with TF-slim's.
        # The caption of figure 18 names the wrong network.
        self.block35 = chain(Block35, blocks[0], c35, 48, 64, scale=scales[0], **residual)
        self.Mixed_6a = ReductionA(c35, 256, 256, 384, 384, **common)
        c17 = self.Mixed_6a.out_channels
        self.block17 = chain(Block17, blocks[1], c17, 192, 160, 192, scale=scales[1], **residual)
        self.AuxLogits = nnx.data(None)
        if aux_heads:
            self.AuxLogits = InceptionAux(c17, num_classes, linear=linear, **common)
        self.Mixed_7a = ReductionB(c17, 288, 288, 320, **common)
        c8 = self.Mixed_7a.out_channels
        last: dict[str, Any] = dict(linear_last=linear_last_block, **residual)
        self.block8 = chain(Block8, blocks[2], c8, 224, 256, scale=scales[2], **last)
        if layout == "slim":
            self.Conv2d_7b_1x1 = conv(c8, width(1536), 1)
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.fc = linear(width(1536) if layout == "slim" else c8, num_classes)

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        """Adds each stage's feature map [n, h, w, c] to `maps`, under its name in TF-slim."""
        # x is 299x299x3
        x = maps.add("Conv2d_1a_3x3", self.Conv2d_1a_3x3(x))  # 149x149x32
        x = maps.add("Conv2d_2a_3x3", self.Conv2d_2a_3x3(x))  # 147x147x32
        x = maps.add("Conv2d_2b_3x3", self.Conv2d_2b_3x3(x))  # 147x147x64
        if self.layout == "slim":
            x = maps.add("MaxPool_3a_3x3", max_pool(x, 3, stride=2))  # 73x73x64
            x = maps.add("Conv2d_3b_1x1", self.Conv2d_3b_1x1(x))  # 73x73x80
            x = maps.add("Conv2d_4a_3x3", self.Conv2d_4a_3x3(x))  # 71x71x192
            x = maps.add("MaxPool_5a_3x3", max_pool(x, 3, stride=2))  # 35x35x192
            x = maps.add("Mixed_5b", self.Mixed_5b(x))  # 35x35x320
        else:
            x = maps.add("Mixed_3a", self.Mixed_3a(x))  # 73x73x160
            x = maps.add("Mixed_4a", self.Mixed_4a(x))  # 71x71x192
            x = maps.add("Mixed_5a", self.Mixed_5a(x))  # 35x35x384
        x = maps.add("block35", self.block35(x))  # 35x35x320, paper 384
        x = maps.add("Mixed_6a", self.Mixed_6a(x))  # 17x17x1088, paper 1152
        x = maps.add("block17", self.block17(x))  # 17x17x1088, paper 1152
        x = maps.add("Mixed_7a", self.Mixed_7a(x))  # 8x8x2080, paper 2144
        x = maps.add("block8", self.block8(x))  # 8x8x2080, paper 2144
        if self.layout == "slim":
            x = maps.add("Conv2d_7b_1x1", self.Conv2d_7b_1x1(x))  # 8x8x1536


# Options and preprocessing of each published weight file.
_PYTORCH: dict[str, Any] = dict(dropout=0.0)
_TIMM: dict[str, Any] = dict(readings=_PYTORCH, crop_pct=0.8975)

register(
    "inception_resnet_v2",
    InceptionResNetV2,
    paper="https://arxiv.org/abs/1602.07261",
    num_params=55_843_464,
    tags={
        "": Tag(source="TF-slim nets/inception_resnet_v2.py", **SLIM),
        "tf_in1k": Tag(source="timm/inception_resnet_v2.tf_in1k", **_TIMM),
        "tf_ens_adv_in1k": Tag(source="timm/inception_resnet_v2.tf_ens_adv_in1k", **_TIMM),
        "keras_in1k": Tag(
            readings=dict(dropout=0.0),
            source="keras.applications.InceptionResNetV2",
            **KERAS,
        ),
        "cadene_in1k": Tag(
            readings=_PYTORCH,
            source="Cadene pretrained-models.pytorch inceptionresnetv2-520b38e4.pth",
            interpolation="bilinear",  # with the default crop; only Cadene's xception has another
        ),
        "slim_in1k": Tag(source="TF-slim inception_resnet_v2_2016_08_30.tar.gz", **SLIM),
        "paper": Tag(
            readings=dict(layout="paper", blocks=(5, 10, 5), linear_last_block=False),
            source="1602.07261, figures 3 and 15 to 19",
            num_params=32_433_928,
            **SLIM,
        ),
    },
)
