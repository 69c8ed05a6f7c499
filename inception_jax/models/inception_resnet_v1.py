"""Inception-ResNet-v1 (Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact...").

Read this file next to the paper's figures 10 to 14. No ImageNet weights were ever published. The
published weights are for face embeddings. They come from FaceNet's TensorFlow code and its port
facenet-pytorch. Both add a sixth block8 and a bottleneck layer of 512 features. Shapes in comments
are for a 299x299 image; the face weights are used at 160x160.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax.models.inception_v4 import ReductionA
from inception_jax.nn.branches import siblings
from inception_jax.nn.layers import (
    Chain,
    Conv,
    ConvBN,
    Linear,
    Maker,
    Width,
    channel_scaler,
    folded,
    l2_normalised,
)
from inception_jax.nn.model import Maps, Model
from inception_jax.nn.norms import BatchNorm
from inception_jax.nn.ops import max_pool
from inception_jax.nn.remat import save_for_backward
from inception_jax.registry import SLIM, Tag, register

Head = Literal["face", "classifier"]


class Residual(nnx.Module):
    """Base class of residual modules: relu(x + scale * up(branches)).

    `up` is a 1x1 convolution to the channels of `x`, with a bias and without BatchNorm.
    """

    up: Conv
    scale: float
    relu: bool = True

    def _add(self, x: jax.Array, branches: list[jax.Array]) -> jax.Array:
        """Concatenates the branches, applies `up`, scales the result and adds it to `x`.

        If `relu` is set, returns the ReLU of the sum.
        """
        x = save_for_backward(x + self.scale * self.up(jnp.concatenate(branches, axis=-1)))
        return jax.nn.relu(x) if self.relu else x

    def fold(self) -> None:
        """Folds the scale into the 1x1 convolution `up`, in place, for `folding.fold`."""
        self.up.scale_output(self.scale)
        self.scale = 1.0


class Block35(Residual):
    """35x35 residual module, figure 10; in Inception-ResNet-v2, figure 16.

    The longest branch is wider in figure 16, so its widths are arguments.
    """

    def __init__(
        self,
        in_channels: int,
        c3x3dbl_2: int,
        c3x3dbl_3: int,
        *,
        scale: float,
        conv: Maker[ConvBN],
        linear_conv: Maker[Conv],
        width: Width,
    ):
        self.branch1x1 = conv(in_channels, width(32), 1)

        self.branch3x3_1 = conv(in_channels, width(32), 1)
        self.branch3x3_2 = conv(width(32), width(32), 3)

        self.branch3x3dbl_1 = conv(in_channels, width(32), 1)
        self.branch3x3dbl_2 = conv(width(32), width(c3x3dbl_2), 3)
        self.branch3x3dbl_3 = conv(width(c3x3dbl_2), width(c3x3dbl_3), 3)

        self.up = linear_conv(2 * width(32) + width(c3x3dbl_3), in_channels, 1)
        self.scale = scale

    def __call__(self, x: jax.Array) -> jax.Array:
        branch1x1, branch3x3, branch3x3dbl = siblings(
            x, self.branch1x1, self.branch3x3_1, self.branch3x3dbl_1
        )
        branch3x3 = self.branch3x3_2(branch3x3)
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(branch3x3dbl))
        return self._add(x, [branch1x1, branch3x3, branch3x3dbl])


class Block17(Residual):
    """17x17 residual module, figure 11; in Inception-ResNet-v2, figure 17.

    The widths that differ between the figures are arguments.
    """

    def __init__(
        self,
        in_channels: int,
        c1x1: int,
        c7x7_2: int,
        c7x7_3: int,
        *,
        scale: float,
        conv: Maker[ConvBN],
        linear_conv: Maker[Conv],
        width: Width,
    ):
        self.branch1x1 = conv(in_channels, width(c1x1), 1)

        self.branch7x7_1 = conv(in_channels, width(128), 1)
        self.branch7x7_2 = conv(width(128), width(c7x7_2), (1, 7))
        self.branch7x7_3 = conv(width(c7x7_2), width(c7x7_3), (7, 1))

        self.up = linear_conv(width(c1x1) + width(c7x7_3), in_channels, 1)
        self.scale = scale

    def __call__(self, x: jax.Array) -> jax.Array:
        branch1x1, branch7x7 = siblings(x, self.branch1x1, self.branch7x7_1)
        branch7x7 = self.branch7x7_3(self.branch7x7_2(branch7x7))
        return self._add(x, [branch1x1, branch7x7])


class ReductionB(nnx.Module):
    """Grid reduction 17x17 -> 8x8, figure 12; in Inception-ResNet-v2, figure 18.

    The widths that differ between the figures are arguments.
    """

    def __init__(
        self,
        in_channels: int,
        c3x3b: int,
        c3x3dbl_2: int,
        c3x3dbl_3: int,
        *,
        conv: Maker[ConvBN],
        width: Width,
    ):
        self.branch3x3a_1 = conv(in_channels, width(256), 1)
        self.branch3x3a_2 = conv(width(256), width(384), 3, stride=2, padding="valid")

        self.branch3x3b_1 = conv(in_channels, width(256), 1)
        self.branch3x3b_2 = conv(width(256), width(c3x3b), 3, stride=2, padding="valid")

        self.branch3x3dbl_1 = conv(in_channels, width(256), 1)
        self.branch3x3dbl_2 = conv(width(256), width(c3x3dbl_2), 3)
        self.branch3x3dbl_3 = conv(width(c3x3dbl_2), width(c3x3dbl_3), 3, stride=2, padding="valid")

        self.out_channels = width(384) + width(c3x3b) + width(c3x3dbl_3) + in_channels

    def __call__(self, x: jax.Array) -> jax.Array:
        branch3x3a, branch3x3b, branch3x3dbl = siblings(
            x, self.branch3x3a_1, self.branch3x3b_1, self.branch3x3dbl_1
        )
        branch3x3a = self.branch3x3a_2(branch3x3a)
        branch3x3b = self.branch3x3b_2(branch3x3b)
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(branch3x3dbl))
        branch_pool = max_pool(x, 3, stride=2)
        return jnp.concatenate([branch3x3a, branch3x3b, branch3x3dbl, branch_pool], axis=-1)


class Block8(Residual):
    """8x8 residual module, figure 13; in Inception-ResNet-v2, figure 19.

    The widths that differ between the figures are arguments.
    """

    def __init__(
        self,
        in_channels: int,
        c3x3_2: int,
        c3x3_3: int,
        *,
        scale: float,
        relu: bool = True,
        conv: Maker[ConvBN],
        linear_conv: Maker[Conv],
        width: Width,
    ):
        self.branch1x1 = conv(in_channels, width(192), 1)

        self.branch3x3_1 = conv(in_channels, width(192), 1)
        self.branch3x3_2 = conv(width(192), width(c3x3_2), (1, 3))
        self.branch3x3_3 = conv(width(c3x3_2), width(c3x3_3), (3, 1))

        self.up = linear_conv(width(192) + width(c3x3_3), in_channels, 1)
        self.scale = scale
        self.relu = relu

    def __call__(self, x: jax.Array) -> jax.Array:
        branch1x1, branch3x3 = siblings(x, self.branch1x1, self.branch3x3_1)
        branch3x3 = self.branch3x3_3(self.branch3x3_2(branch3x3))
        return self._add(x, [branch1x1, branch3x3])


def chain(
    kind: Maker[Residual],
    count: int,
    *channels: int,
    scale: float,
    linear_last: bool = False,
    **options: Any,
) -> Chain:
    """Returns a chain of residual modules that are built with the same arguments.

    Args:
        kind: class of the modules.
        count: number of modules.
        channels: numbers of channels, the positional arguments of `kind`.
        scale: factor by which the branches are multiplied before they are added to the input.
        linear_last: whether the last module differs, with a scale of 1 and no ReLU.
        options: keyword arguments of `kind`.
    """
    blocks = [kind(*channels, scale=scale, **options) for _ in range(count - linear_last)]
    if linear_last:
        blocks.append(kind(*channels, scale=1.0, relu=False, **options))
    return Chain(blocks)


class InceptionResNetV1(Model):
    """Inception-ResNet-v1; options select its variants.

    Args:
        dropout: dropout rate of the pooled features; 0.2 in the paper, 0.6 in facenet-pytorch.
        head: "face": FaceNet's head, a linear layer without bias and a BatchNorm before the
            classifier. `embed` then returns the output of this BatchNorm; facenet-pytorch divides
            it by its norm. "classifier": the paper's head, a classifier of the pooled features.
        embedding_size: size of the embedding of a face head; 128 in FaceNet's files of 2017.
        blocks: numbers of block35, block17 and block8.
        linear_last_block: whether the last block8 has a scale of 1 and no ReLU, as in FaceNet.
        scales: factors by which the branches of block35, block17 and block8 are multiplied before
            they are added (the paper's section 3.3). The defaults are those of the authors' code.
    """

    min_size = 75
    sums_of_products = True
    taps = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "block35", "block17", "block8")

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        width_multiplier: float = 1.0,
        dropout: float = 0.6,
        head: Head = "face",
        embedding_size: int = 512,
        blocks: tuple[int, int, int] = (5, 10, 6),
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

        # Stem, figure 14
        self.Conv2d_1a_3x3 = conv(in_channels, width(32), 3, stride=2, padding="valid")
        self.Conv2d_2a_3x3 = conv(width(32), width(32), 3, padding="valid")
        self.Conv2d_2b_3x3 = conv(width(32), width(64), 3)
        self.Conv2d_3b_1x1 = conv(width(64), width(80), 1)
        self.Conv2d_4a_3x3 = conv(width(80), width(192), 3, padding="valid")
        self.Conv2d_4b_3x3 = conv(width(192), width(256), 3, stride=2, padding="valid")
        # Residual modules and reductions
        c35 = width(256)
        self.block35 = chain(Block35, blocks[0], c35, 32, 32, scale=scales[0], **residual)
        self.Mixed_6a = ReductionA(c35, 192, 192, 256, 384, **common)
        c17 = self.Mixed_6a.out_channels
        self.block17 = chain(Block17, blocks[1], c17, 128, 128, 128, scale=scales[1], **residual)
        self.Mixed_7a = ReductionB(c17, 256, 256, 256, **common)
        c8 = self.Mixed_7a.out_channels
        last: dict[str, Any] = dict(linear_last=linear_last_block, **residual)
        self.block8 = chain(Block8, blocks[2], c8, 192, 192, scale=scales[2], **last)
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.bottleneck, self.bottleneck_bn = nnx.data(None), nnx.data(None)
        if head == "face":
            size = width(embedding_size)
            self.bottleneck = linear(c8, size, bias=False)
            self.bottleneck_bn = BatchNorm(
                size, eps=bn_eps, momentum=bn_momentum, dtype=dtype, param_dtype=param_dtype
            )
        self.fc = linear(width(embedding_size) if head == "face" else c8, num_classes)

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        """Adds each stage's feature map [n, h, w, c] to `maps`, under its name in TF-slim."""
        # x is 299x299x3
        x = maps.add("Conv2d_1a_3x3", self.Conv2d_1a_3x3(x))  # 149x149x32
        x = maps.add("Conv2d_2a_3x3", self.Conv2d_2a_3x3(x))  # 147x147x32
        x = maps.add("Conv2d_2b_3x3", self.Conv2d_2b_3x3(x))  # 147x147x64
        x = maps.add("MaxPool_3a_3x3", max_pool(x, 3, stride=2))  # 73x73x64
        x = maps.add("Conv2d_3b_1x1", self.Conv2d_3b_1x1(x))  # 73x73x80
        x = maps.add("Conv2d_4a_3x3", self.Conv2d_4a_3x3(x))  # 71x71x192
        x = maps.add("Conv2d_4b_3x3", self.Conv2d_4b_3x3(x))  # 35x35x256
        x = maps.add("block35", self.block35(x))  # 35x35x256
        x = maps.add("Mixed_6a", self.Mixed_6a(x))  # 17x17x896
        x = maps.add("block17", self.block17(x))  # 17x17x896
        x = maps.add("Mixed_7a", self.Mixed_7a(x))  # 8x8x1792
        x = maps.add("block8", self.block8(x))  # 8x8x1792

    def embed(self, images: jax.Array, *, normalise: bool = False) -> jax.Array:
        """Returns the classifier's input: [n, embedding_size] with a face head, else [n, 1792].

        Args:
            images: floats [n, h, w, c].
            normalise: whether to divide each vector by its norm, as facenet-pytorch does. The dot
                product of two such vectors is their cosine similarity, which is used to compare
                faces.
        """
        x = super().embed(images)
        return l2_normalised(x) if normalise else x

    def embedding(self, maps: dict[str, jax.Array], rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns the classifier's input, after dropout, from the feature maps of `features`."""
        x = self.dropout(super().embedding(maps), rngs=rngs)  # 1792
        if self.bottleneck is None or self.bottleneck_bn is None:
            return x
        return self.bottleneck_bn(self.bottleneck(x))  # 512

    def logits(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Classifies an embedding; returns logits [n, num_classes]."""
        return self.fc(self._pre_logits(embedding))

    def _pre_logits(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return embedding  # dropout is before the bottleneck

    def fold(self) -> None:
        """Folds the last normalisation into the layer before it, in place, for `folding.fold`."""
        if self.bottleneck is not None and self.bottleneck_bn is not None:
            self.bottleneck_bn = folded(self.bottleneck_bn, self.bottleneck)


# Preprocessing of the published weight files: images are cropped faces, resized to 160x160 and
# normalised by (x - 127.5) / 128.
_FACE: dict[str, Any] = dict(
    input_size=160,
    mean=(0.5, 0.5, 0.5),
    std=(128 / 255, 128 / 255, 128 / 255),
    crop="squash",
    interpolation="bilinear",
)

register(
    "inception_resnet_v1",
    InceptionResNetV1,
    paper="https://arxiv.org/abs/1602.07261",
    num_params=23_995_624,
    tags={
        "": Tag(source="davidsandberg/facenet src/models/inception_resnet_v1.py", **_FACE),
        "vggface2": Tag(
            source="facenet-pytorch 20180402-114759-vggface2.pt",
            num_classes=8631,
            num_params=27_910_327,
            **_FACE,
        ),
        "casia_webface": Tag(
            source="facenet-pytorch 20180408-102900-casia-webface.pt",
            num_classes=10575,
            num_params=28_907_599,
            **_FACE,
        ),
        "paper": Tag(
            readings=dict(
                head="classifier",
                blocks=(5, 10, 5),
                linear_last_block=False,
                dropout=0.2,
            ),
            source="1602.07261, figures 10 to 14",
            num_params=22_756_328,
            **SLIM,
        ),
    },
)
