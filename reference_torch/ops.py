"""Padding and pooling on NCHW tensors, with the rules of `inception_jax.nn.ops`."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

Padding = Literal["valid", "same", "symmetric", "ceil"]
"""Padding of windows at the border.

- `valid`: no padding.
- `same`: TensorFlow's rule. The output size is ceil(n / stride); if the padding is odd, the high
  side gets one pixel more.
- `symmetric`: k // 2 on both sides for a window of size k, as is usual in PyTorch.
- `ceil`: like `valid`, but the last window may extend beyond the high side, as in Caffe's pooling
  and PyTorch's `ceil_mode`.
"""

PadMode = Literal["tf", "torch"]
"""Padding of strided convolutions and max pools: TensorFlow's, or PyTorch's and Caffe's."""

CONV_PADDING: dict[PadMode, Padding] = {"tf": "same", "torch": "symmetric"}
POOL_PADDING: dict[PadMode, Padding] = {"tf": "same", "torch": "ceil"}


def pads(size: int, window: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Returns the (low, high) padding of one axis."""
    if padding == "valid":
        return 0, 0
    if padding == "symmetric":
        return window // 2, window // 2
    if padding == "same":
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
        return total // 2, total - total // 2
    if padding == "ceil":
        # The last window starts inside the map.
        windows = min(-(-max(size - window, 0) // stride), (size - 1) // stride)
        return 0, max(windows * stride + window - size, 0)
    raise ValueError(f"padding must be 'valid', 'same', 'symmetric' or 'ceil', not {padding!r}")


def pad(
    x: torch.Tensor, window: tuple[int, int], stride: int, padding: Padding, value: float = 0.0
) -> torch.Tensor:
    """Pads [n, c, h, w] with `value`, for windows of this size and stride.

    PyTorch's own layers cannot pad the two sides of an axis differently.
    """
    rows = pads(x.shape[2], window[0], stride, padding)
    cols = pads(x.shape[3], window[1], stride, padding)
    return F.pad(x, (*cols, *rows), value=value) if any((*rows, *cols)) else x


def max_pool(x: torch.Tensor, window: int, stride: int, padding: Padding = "valid") -> torch.Tensor:
    """Returns the maximum over windows of [n, c, h, w]. Padding is never the maximum."""
    return F.max_pool2d(pad(x, (window, window), stride, padding, -math.inf), window, stride)


def avg_pool(
    x: torch.Tensor,
    window: int,
    stride: int,
    padding: Padding = "valid",
    *,
    count_include_pad: bool = False,
) -> torch.Tensor:
    """Returns the mean over windows of [n, c, h, w].

    At the border, the sum over a window is divided by the window's size if `count_include_pad` is
    true, else by the number of the window's pixels that are inside the feature map.
    """
    total = F.avg_pool2d(pad(x, (window, window), stride, padding), window, stride)
    if count_include_pad or padding == "valid":
        return total
    ones = pad(x.new_ones(1, 1, *x.shape[2:]), (window, window), stride, padding)
    return total / F.avg_pool2d(ones, window, stride)


def adaptive_avg_pool(x: torch.Tensor, size: int) -> torch.Tensor:
    """Averages [n, c, h, w] over a grid of size x size windows, to [n, c, size, size]."""
    return F.adaptive_avg_pool2d(x, size)


def local_response_norm(
    x: torch.Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> torch.Tensor:
    """Divides [n, c, h, w] by (1 + alpha * mean square of `size` neighbouring channels)^beta."""
    return F.local_response_norm(x, size, alpha, beta, k=1.0)
