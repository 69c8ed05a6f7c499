"""The layers that all networks are built from.

Tensors are [n, c, h, w]. Classes, arguments and attributes are those of `inception_jax.nn.layers`,
which documents them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from reference_torch import init, ops
from reference_torch.ops import Padding

Layer = TypeVar("Layer")
Maker = Callable[..., Layer]
"""A layer's class with the options that the whole network shares already filled in."""

Width = Callable[[int], int]
"""Maps the paper's channel count to that of a wider or narrower network."""

KernelInit = Callable[[torch.Tensor], None]


class Conv(nn.Conv2d):
    """Convolution with a kernel [out, in, h, w], padded as `ops.pads` computes."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        window: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: Padding = "same",
        *,
        bias: bool = False,
        bias_value: float = 0.0,
        kernel_init: KernelInit = init.conv_kernel,
        groups: int = 1,
        dilation: int = 1,
    ):
        super().__init__(
            in_channels, out_channels, window, stride, 0, dilation, groups=groups, bias=bias
        )
        self.border: Padding = padding
        kernel_init(self.weight.data)
        if self.bias is not None:
            nn.init.constant_(self.bias, bias_value)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kh, kw = ((n - 1) * self.dilation[0] + 1 for n in self.weight.shape[2:])
        return super().forward(ops.pad(input, (kh, kw), self.stride[0], self.border))


class DepthwiseConv(Conv):
    """Depthwise convolution: every channel has its own filters.

    The kernel is [c * multiplier, 1, h, w].
    """

    def __init__(
        self,
        channels: int,
        window: int | tuple[int, int] = 3,
        stride: int = 1,
        padding: Padding = "same",
        *,
        multiplier: int = 1,
        dilation: int = 1,
        bias: bool = False,
        kernel_init: KernelInit = init.depthwise_kernel,
    ):
        super().__init__(
            channels,
            channels * multiplier,
            window,
            stride,
            padding,
            bias=bias,
            kernel_init=kernel_init,
            groups=channels,
            dilation=dilation,
        )


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation.

    Args:
        channels: number of channels; statistics are averaged over all other axes.
        eps: small number that is added to the variance.
        momentum: share of the old running average that a training step keeps, as in TensorFlow,
            Keras and Flax. PyTorch's own `momentum` is 1 minus this share.
    """

    def __init__(self, channels: int, *, eps: float, momentum: float):
        super().__init__(channels, eps=eps, momentum=1 - momentum)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accepts every shape: vectors [n, c] too, which PyTorch's `BatchNorm2d` rejects."""


class ConvBN(nn.Module):
    """Convolution, batch normalisation and ReLU; called `Conv2d` in TF-slim's Inceptions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        window: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: Padding = "same",
        *,
        relu: bool = True,
        bias: bool = False,
        kernel_init: KernelInit = init.conv_kernel,
        bn_eps: float,
        bn_momentum: float,
    ):
        super().__init__()
        self.conv = Conv(
            in_channels, out_channels, window, stride, padding, bias=bias, kernel_init=kernel_init
        )
        self.bn = BatchNorm(out_channels, eps=bn_eps, momentum=bn_momentum)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x) if self.relu else x


class SeparableConvBN(nn.Module):
    """Depthwise 3x3 and pointwise 1x1 convolution, then BatchNorm (Xception paper, section 3).

    There is no activation between the two convolutions: the paper's figure 10 shows that one is
    harmful.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bn_eps: float, bn_momentum: float):
        super().__init__()
        self.depthwise = DepthwiseConv(in_channels)
        self.pointwise = Conv(in_channels, out_channels)
        self.bn = BatchNorm(out_channels, eps=bn_eps, momentum=bn_momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.pointwise(self.depthwise(x)))


class Linear(nn.Linear):
    """Affine map of [n, d] with a weight [out, in] and, unless `bias` is False, a bias.

    With 0 outputs, as in a network without classes, it has no parameters and returns its input.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        kernel_init: KernelInit = init.linear_kernel,
    ):
        super().__init__(in_features, max(out_features, 1), bias=bias)
        self.out_features, self.use_bias, self.kernel_init = out_features, bias, kernel_init
        if not out_features:
            self.weight = self.bias = None  # type: ignore[assignment]
            return
        kernel_init(self.weight.data)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) if self.out_features else input

    def with_outputs(self, out_features: int) -> Linear:
        """Returns a new layer of the same kind with `out_features` outputs."""
        new = Linear(
            self.in_features, out_features, bias=self.use_bias, kernel_init=self.kernel_init
        )
        return new if self.weight is None else new.to(self.weight)


class LayerNorm(nn.LayerNorm):
    """Normalises the last axis of [n, d] to mean 0 and variance 1, then scales and shifts it."""

    def __init__(self, features: int, *, eps: float):
        super().__init__(features, eps=eps)


class DropPath(nn.Module):
    """Stochastic depth, the dropout of whole examples (Huang et al. 2016, arXiv:1603.09382).

    In training, each example becomes 0 with probability `rate`, else it is divided by 1 - `rate`.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * (keep / (1 - self.rate))


class Chain(nn.Sequential):
    """Calls layers in sequence."""

    def __init__(self, layers: Iterable[nn.Module] = ()):
        super().__init__(*layers)


def global_avg_pool(x: torch.Tensor) -> torch.Tensor:
    """Averages each channel over height and width: [n, c, h, w] -> [n, c]."""
    return x.mean((2, 3))


def l2_normalised(x: torch.Tensor) -> torch.Tensor:
    """Divides each vector of [n, d] by its L2 norm, or by 1e-12 if the norm is smaller."""
    return F.normalize(x, dim=-1)


def imagenet_to_inception(images: torch.Tensor) -> torch.Tensor:
    """Maps images normalised with ImageNet's mean and standard deviation to [-1, 1].

    torchvision calls this `transform_input`. Its pretrained GoogLeNet and Inception V3 need it.
    """
    mean = images.new_tensor((0.485, 0.456, 0.406))[:, None, None]
    std = images.new_tensor((0.229, 0.224, 0.225))[:, None, None]
    return images * (std / 0.5) + (mean - 0.5) / 0.5


def channel_scaler(width_multiplier: float) -> Width:
    """Returns a function that scales a channel count by a width multiplier.

    As with TF-slim's `depth_multiplier`, the result is rounded down and never below 16.

    Raises:
        ValueError: if the multiplier is not positive.
    """
    if width_multiplier <= 0:
        raise ValueError(f"width_multiplier must be positive, not {width_multiplier}")
    return lambda channels: max(int(channels * width_multiplier), 16)


def check_images(images: torch.Tensor, min_size: int, in_channels: int) -> None:
    """Checks that the network can take these images.

    Raises:
        ValueError: if the images are not a tensor [n, in_channels, h, w] of floats, or have a side
            shorter than `min_size`.
    """
    if not isinstance(images, torch.Tensor):
        raise ValueError(
            "images must be a torch tensor [n, channels, height, width], not "
            f"{type(images).__module__}.{type(images).__name__}: of inception_jax.preprocess, "
            "torch.from_numpy(images).permute(0, 3, 1, 2)"
        )
    shape = tuple(images.shape)
    if len(shape) != 4:
        hint = ": one image needs images[None]" if len(shape) == 3 else ""
        raise ValueError(f"images must be [n, channels, height, width]; got shape {shape}{hint}")
    if shape[1] != in_channels:
        hint = ": channels come second, images.permute(0, 3, 1, 2)"
        raise ValueError(
            f"this network takes {in_channels} channels; got {shape[1]} in images of shape {shape}"
            f"{hint if shape[3] == in_channels else ''}"
        )
    if min(shape[2:]) < min_size:
        raise ValueError(
            f"this network needs images of at least {min_size}x{min_size} pixels; "
            f"got {shape[2]}x{shape[3]}"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images must be normalised floats, not {images.dtype}: see inception_jax.preprocess"
        )
