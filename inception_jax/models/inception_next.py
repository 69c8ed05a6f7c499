"""InceptionNeXt (Yu et al. 2023, "InceptionNeXt: When Inception Meets ConvNeXt").

Read this file next to the paper's figure 3 and table 2. The network is ConvNeXt with its large
depthwise filters split into parallel branches: a small square filter, two band filters and an
identity. Layers have the names of the authors' code, sail-sg/inceptionnext. Shapes in comments are
for the tiny network and a 224x224 image.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax.nn import init
from inception_jax.nn.layers import (
    Chain,
    Conv,
    DepthwiseConv,
    DropPath,
    Linear,
    Maker,
    channel_scaler,
    folded,
)
from inception_jax.nn.model import Maps, Model
from inception_jax.nn.norms import BatchNorm, Folded, LayerNorm
from inception_jax.registry import IMAGENET, Tag, register

Size = Literal["atto", "tiny", "small", "base"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """The dimensions of an InceptionNeXt network.

    Attributes:
        depths: number of blocks of each stage.
        dims: number of channels of each stage.
        branch_ratio: share of the channels in each convolved group, see `InceptionDWConv`.
        band: length of the band filters.
    """

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    branch_ratio: float = 1 / 8
    band: int = 11


SHAPES: dict[str, Shape] = {
    "atto": Shape((2, 2, 6, 2), (40, 80, 160, 320), branch_ratio=1 / 4, band=9),
    "tiny": Shape((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Shape((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Shape((3, 3, 27, 3), (128, 256, 512, 1024)),
}
MLP_RATIOS = (4, 4, 4, 3)


class InceptionDWConv(nnx.Module):
    """Inception depthwise convolution, the paper's algorithm 1.

    Three groups of channels go through a 3x3, a 1 x band and a band x 1 convolution. Each group has
    the share `branch_ratio` of all channels. The other channels pass unchanged.
    """

    def __init__(
        self, channels: int, *, branch_ratio: float, band: int, depthwise: Maker[DepthwiseConv]
    ):
        group = int(channels * branch_ratio)
        self.dwconv_hw = depthwise(group, 3)
        self.dwconv_w = depthwise(group, (1, band))
        self.dwconv_h = depthwise(group, (band, 1))
        self.identity = channels - 3 * group

    def __call__(self, x: jax.Array) -> jax.Array:
        identity, rest = jnp.split(x, [self.identity], axis=-1)
        x_hw, x_w, x_h = jnp.split(rest, 3, axis=-1)
        branches = [self.dwconv_hw(x_hw), self.dwconv_w(x_w), self.dwconv_h(x_h)]
        return jnp.concatenate([identity, *branches], axis=-1)


class MLP(nnx.Module):
    """Two 1x1 convolutions with an exact GELU (by the error function) between them."""

    def __init__(self, channels: int, hidden: int, *, conv: Maker[Conv]):
        self.fc1 = conv(channels, hidden, 1)
        self.fc2 = conv(hidden, channels, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Block(nnx.Module):
    """Residual block x + gamma * MLP(norm(mix(x))), the paper's figure 2(d).

    `mix` is an `InceptionDWConv`.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: int,
        *,
        drop_path: float,
        mixer: Maker[InceptionDWConv],
        norm: Maker[BatchNorm],
        conv: Maker[Conv],
        param_dtype: DTypeLike,
    ):
        self.token_mixer = mixer(channels)
        self.norm = norm(channels)
        self.mlp = MLP(channels, mlp_ratio * channels, conv=conv)
        self.gamma = nnx.Param(jnp.full(channels, 1e-6, param_dtype))
        self.drop_path = DropPath(drop_path)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        branch = self.mlp(self.norm(self.token_mixer(x)))
        branch = (branch * self.gamma[...]).astype(branch.dtype)
        return x + self.drop_path(branch, rngs=rngs)

    def fold(self) -> None:
        """Folds the normalisation and gamma into the MLP's convolutions, in place."""
        if isinstance(self.norm, BatchNorm):
            self.mlp.fc1.scale_input(*self.norm.affine())
        self.norm = Folded()
        self.mlp.fc2.scale_output(self.gamma[...])
        self.gamma.set_value(jnp.ones_like(self.gamma[...]))


class Stem(nnx.Module):
    """4x4 convolution of stride 4 and BatchNorm, 224x224 -> 56x56."""

    def __init__(
        self, in_channels: int, out_channels: int, *, conv: Maker[Conv], norm: Maker[BatchNorm]
    ):
        self.conv = conv(in_channels, out_channels, 4, stride=4, padding="valid")
        self.norm = norm(out_channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))

    def fold(self) -> None:
        """Folds the normalisation into the convolution before it, in place."""
        self.norm = folded(self.norm, self.conv)


class Downsample(nnx.Module):
    """BatchNorm and a 2x2 convolution of stride 2 between two stages."""

    def __init__(
        self, in_channels: int, out_channels: int, *, conv: Maker[Conv], norm: Maker[BatchNorm]
    ):
        self.norm = norm(in_channels)
        self.conv = conv(in_channels, out_channels, 2, stride=2, padding="valid")

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(self.norm(x))

    def fold(self) -> None:
        """Folds the normalisation into the convolution after it, in place."""
        if isinstance(self.norm, BatchNorm):
            self.conv.scale_input(*self.norm.affine())
        self.norm = Folded()


class Stage(nnx.Module):
    """A stage: downsampling (none in the first stage), then blocks."""

    def __init__(self, downsample: Downsample | None, blocks: list[Block]):
        self.downsample = nnx.data(downsample)
        self.blocks = Chain(blocks)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = x if self.downsample is None else self.downsample(x)
        return self.blocks(x, rngs=rngs)


class Head(nnx.Module):
    """Classifier of two linear layers with GELU and LayerNorm between them."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        dropout: float,
        linear: Maker[Linear],
        norm: Maker[LayerNorm],
    ):
        self.fc1 = linear(in_features, 3 * in_features)
        self.norm = norm(3 * in_features, eps=1e-6)
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.fc2 = linear(3 * in_features, num_classes)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        if not self.fc2.out_features:
            return x
        return self.fc2(self.hidden(x, rngs=rngs))

    def hidden(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns the input of the last linear layer, after dropout, for pooled features [n, d]."""
        x = self.norm(jax.nn.gelu(self.fc1(x), approximate=False))
        return self.dropout(x, rngs=rngs)


class InceptionNeXt(Model):
    """InceptionNeXt in four sizes.

    Args:
        size: "atto", "tiny", "small" or "base", see `SHAPES`.
        dropout: dropout rate of the head's hidden layer.
        drop_path: rate of stochastic depth: the share of examples that skip the last block in
            training. The rate decreases linearly to 0 at the first block.
    """

    min_size = 32
    taps = ("stage1", "stage2", "stage3", "stage4")
    classifiers = ("head.fc2",)

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        width_multiplier: float = 1.0,
        size: Size = "tiny",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.9,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = SHAPES[size]
        dtypes: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype)
        kernels: dict[str, Any] = dict(kernel_init=init.truncated_normal(0.02), **dtypes, rngs=rngs)
        conv = functools.partial(Conv, bias=True, **kernels)
        norm = functools.partial(BatchNorm, eps=bn_eps, momentum=bn_momentum, **dtypes)
        mixer = functools.partial(
            InceptionDWConv,
            branch_ratio=shape.branch_ratio,
            band=shape.band,
            depthwise=functools.partial(DepthwiseConv, bias=True, **kernels),
        )
        block = functools.partial(Block, mixer=mixer, norm=norm, conv=conv, param_dtype=param_dtype)
        dims = [channel_scaler(width_multiplier)(dim) for dim in shape.dims]
        last = sum(shape.depths) - 1
        rates = iter([drop_path * i / last for i in range(last + 1)])
        self.in_channels = in_channels

        self.stem = Stem(in_channels, dims[0], conv=conv, norm=norm)
        self.stages = Chain()
        for i, (depth, dim, ratio) in enumerate(zip(shape.depths, dims, MLP_RATIOS, strict=True)):
            downsample = Downsample(dims[i - 1], dim, conv=conv, norm=norm) if i else None
            blocks = [block(dim, ratio, drop_path=next(rates)) for _ in range(depth)]
            self.stages.append(Stage(downsample, blocks))
        self.head = Head(
            dims[3],
            num_classes,
            dropout=dropout,
            linear=functools.partial(Linear, **kernels),
            norm=functools.partial(LayerNorm, **dtypes),
        )

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        """Adds the feature maps [n, h, w, c] of the stem and the four stages to `maps`."""
        # x is 224x224x3
        x = maps.add("stem", self.stem(x))  # 56x56x96
        x = maps.add("stage1", self.stages[0](x, rngs=rngs))  # 56x56x96
        x = maps.add("stage2", self.stages[1](x, rngs=rngs))  # 28x28x192
        x = maps.add("stage3", self.stages[2](x, rngs=rngs))  # 14x14x384
        x = maps.add("stage4", self.stages[3](x, rngs=rngs))  # 7x7x768

    def logits(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Classifies the pooled features [n, num_features]; returns logits [n, num_classes]."""
        return self.head(embedding, rngs=rngs)

    def _pre_logits(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.head.hidden(embedding, rngs=rngs)

    @property
    def num_features(self) -> int:
        """Size of the pooled features that `embed` returns."""
        return self.head.fc1.in_features


# Options and preprocessing of each published weight file.
def _register(size: Size, num_params: int, drop_path: float, crop_pct: float, **more: Tag) -> None:
    tag = Tag(
        readings=dict(size=size, drop_path=drop_path),
        source=f"timm/inception_next_{size}.sail_in1k",
        input_size=224,
        **IMAGENET,
        crop_pct=crop_pct,
    )
    register(
        f"inception_next_{size}",
        InceptionNeXt,
        paper="https://arxiv.org/abs/2303.16900",
        num_params=num_params,
        tags={"": tag, "sail_in1k": tag, **more},
    )


_register("atto", 4_156_520, drop_path=0.0, crop_pct=0.875)
_register("tiny", 28_055_680, drop_path=0.1, crop_pct=0.875)
_register("small", 49_374_016, drop_path=0.3, crop_pct=0.875)
_register(
    "base",
    86_672_136,
    drop_path=0.4,
    crop_pct=0.95,
    sail_in1k_384=Tag(
        readings=dict(size="base", drop_path=0.7, dropout=0.5),
        source="timm/inception_next_base.sail_in1k_384",
        input_size=384,
        **IMAGENET,
        crop_pct=1.0,
    ),
)
