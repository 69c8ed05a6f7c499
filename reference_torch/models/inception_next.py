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

import torch
import torch.nn.functional as F
from torch import nn

from reference_torch import init
from reference_torch.layers import (
    BatchNorm,
    Chain,
    Conv,
    DepthwiseConv,
    DropPath,
    LayerNorm,
    Linear,
    Maker,
    channel_scaler,
)
from reference_torch.model import Maps, Model
from reference_torch.registry import register

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


class InceptionDWConv(nn.Module):
    """Inception depthwise convolution, the paper's algorithm 1.

    Three groups of channels go through a 3x3, a 1 x band and a band x 1 convolution. Each group has
    the share `branch_ratio` of all channels. The other channels pass unchanged.
    """

    def __init__(
        self, channels: int, *, branch_ratio: float, band: int, depthwise: Maker[DepthwiseConv]
    ):
        super().__init__()
        group = int(channels * branch_ratio)
        self.dwconv_hw = depthwise(group, 3)
        self.dwconv_w = depthwise(group, (1, band))
        self.dwconv_h = depthwise(group, (band, 1))
        self.identity = channels - 3 * group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity, rest = x.tensor_split([self.identity], dim=1)
        x_hw, x_w, x_h = rest.tensor_split(3, dim=1)
        branches = [self.dwconv_hw(x_hw), self.dwconv_w(x_w), self.dwconv_h(x_h)]
        return torch.cat([identity, *branches], dim=1)


class MLP(nn.Module):
    """Two 1x1 convolutions with an exact GELU (by the error function) between them."""

    def __init__(self, channels: int, hidden: int, *, conv: Maker[Conv]):
        super().__init__()
        self.fc1 = conv(channels, hidden, 1)
        self.fc2 = conv(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
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
    ):
        super().__init__()
        self.token_mixer = mixer(channels)
        self.norm = norm(channels)
        self.mlp = MLP(channels, mlp_ratio * channels, conv=conv)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.mlp(self.norm(self.token_mixer(x)))
        branch = branch * self.gamma[:, None, None]
        return x + self.drop_path(branch)


class Stem(nn.Module):
    """4x4 convolution of stride 4 and BatchNorm, 224x224 -> 56x56."""

    def __init__(
        self, in_channels: int, out_channels: int, *, conv: Maker[Conv], norm: Maker[BatchNorm]
    ):
        super().__init__()
        self.conv = conv(in_channels, out_channels, 4, stride=4, padding="valid")
        self.norm = norm(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Downsample(nn.Module):
    """BatchNorm and a 2x2 convolution of stride 2 between two stages."""

    def __init__(
        self, in_channels: int, out_channels: int, *, conv: Maker[Conv], norm: Maker[BatchNorm]
    ):
        super().__init__()
        self.norm = norm(in_channels)
        self.conv = conv(in_channels, out_channels, 2, stride=2, padding="valid")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x))


class Stage(nn.Module):
    """A stage: downsampling (none in the first stage), then blocks."""

    def __init__(self, downsample: Downsample | None, blocks: list[Block]):
        super().__init__()
        self.downsample = downsample
        self.blocks = Chain(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.downsample is None else self.downsample(x)
        return self.blocks(x)


class Head(nn.Module):
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
        super().__init__()
        self.fc1 = linear(in_features, 3 * in_features)
        self.norm = norm(3 * in_features, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = linear(3 * in_features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.hidden(x)) if self.fc2.out_features else x

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the input of the last linear layer, after dropout, for pooled features [n, d]."""
        return self.dropout(self.norm(F.gelu(self.fc1(x))))


class InceptionNeXt(Model):
    """InceptionNeXt in four sizes.

    `inception_jax.models.InceptionNeXt` documents the options.
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
    ):
        super().__init__()
        shape = SHAPES[size]
        kernels: dict[str, Any] = dict(kernel_init=init.truncated_normal(0.02))
        conv = functools.partial(Conv, bias=True, **kernels)
        norm = functools.partial(BatchNorm, eps=bn_eps, momentum=bn_momentum)
        mixer = functools.partial(
            InceptionDWConv,
            branch_ratio=shape.branch_ratio,
            band=shape.band,
            depthwise=functools.partial(DepthwiseConv, bias=True, **kernels),
        )
        block = functools.partial(Block, mixer=mixer, norm=norm, conv=conv)
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
            norm=LayerNorm,
        )

    def _body(self, x: torch.Tensor, maps: Maps) -> None:
        """Adds the feature maps [n, c, h, w] of the stem and the four stages to `maps`."""
        # x is 224x224x3
        x = maps.add("stem", self.stem(x))  # 56x56x96
        x = maps.add("stage1", self.stages[0](x))  # 56x56x96
        x = maps.add("stage2", self.stages[1](x))  # 28x28x192
        x = maps.add("stage3", self.stages[2](x))  # 14x14x384
        x = maps.add("stage4", self.stages[3](x))  # 7x7x768

    def logits(self, embedding: torch.Tensor) -> torch.Tensor:
        """Classifies the pooled features [n, num_features]; returns logits [n, num_classes]."""
        return self.head(embedding)

    def _pre_logits(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.head.hidden(embedding)

    @property
    def num_features(self) -> int:
        """Size of the pooled features that `embed` returns."""
        return self.head.fc1.in_features


# The options that each published weight file needs; "" is the recommended variant.
def _register(size: Size, drop_path: float, **more: dict[str, Any]) -> None:
    readings = dict(size=size, drop_path=drop_path)
    tags = {"": readings, "sail_in1k": readings, **more}
    register(f"inception_next_{size}", InceptionNeXt, tags=tags)


_register("atto", drop_path=0.0)
_register("tiny", drop_path=0.1)
_register("small", drop_path=0.3)
_register("base", drop_path=0.4, sail_in1k_384=dict(size="base", drop_path=0.7, dropout=0.5))
