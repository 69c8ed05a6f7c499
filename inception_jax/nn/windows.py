"""Windows over feature maps: their start positions, border padding and slices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

Padding = Literal["valid", "same", "symmetric", "ceil"]
"""How the border of a feature map is padded.

- `valid`: no padding.
- `same`: TensorFlow's rule: output size ceil(n / stride), an odd pixel of padding on the high side.
- `symmetric`: k // 2 on both sides for a window of size k, as is usual in PyTorch.
- `ceil`: like `valid`, but the last window may extend beyond the high side, as in Caffe's pooling
  and PyTorch's `ceil_mode`.

For odd windows, `same` and `symmetric` agree at stride 1. At stride 2 they agree only for odd
sizes. For a 3x3 window at stride 2, `same` and `ceil` agree only for even sizes.
"""


def pads(size: int, window: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Returns the (low, high) padding of an axis of `size` pixels.

    `window` is the window's length on this axis.

    Raises:
        ValueError: for an unknown padding.
    """
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


def padded(
    x: jax.Array, window: Sequence[int], stride: int, padding: Padding, value: Any = 0
) -> jax.Array:
    """Returns [n, h, w, c] padded with `value` at the border.

    `window` has the height and width of the windows that will move over it.
    """
    (top, bottom), (left, right) = (
        pads(n, k, stride, padding) for n, k in zip(x.shape[1:3], window, strict=True)
    )
    widths = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    return lax.pad(x, jnp.asarray(value, x.dtype), widths)


def shifts(x: jax.Array, window: int, stride: int, axis: int, dilation: int = 1) -> list[jax.Array]:
    """Returns one strided slice of a padded feature map for each position in a window.

    Slice i holds, for every output pixel, the input pixel at the window's position i along `axis`.
    `window` is the number of positions, and `dilation` the distance between them.
    """
    count = (x.shape[axis] - span(window, dilation)) // stride + 1
    length = (count - 1) * stride + 1
    starts = range(0, window * dilation, dilation)
    return [lax.slice_in_dim(x, i, i + length, stride, axis) for i in starts]


def taps(
    x: jax.Array, window: int, stride: int, padding: Padding, axis: int, value: Any
) -> list[jax.Array]:
    """Returns what `shifts` returns for the feature map padded with `value` along `axis`.

    Each slice is padded by itself, which takes less time on CPUs than padding the feature map.
    """
    size = x.shape[axis]
    low, high = pads(size, window, stride, padding)
    count = (size + low + high - window) // stride + 1
    slices = []
    for i in range(window):
        # Window j has its position i at pixel j * stride + i - low. Windows from `first` to before
        # `end` have it inside the map.
        first = min(max(-((i - low) // stride), 0), count)
        end = max(min((size - 1 + low - i) // stride + 1, count), first)
        start = min(first * stride + i - low, size)
        stop = start + max((end - first - 1) * stride + 1, 0)
        inside = lax.slice_in_dim(x, start, stop, stride, axis)
        widths = [(0, 0, 0)] * x.ndim
        widths[axis] = (first, count - end, 0)
        slices.append(lax.pad(inside, jnp.asarray(value, x.dtype), widths))
    return slices


def span(window: int, dilation: int) -> int:
    """Returns the number of pixels from the first to the last position of a dilated window."""
    return (window - 1) * dilation + 1


def weighted_sum(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Returns the depthwise convolution of a padded feature map, as a sum of shifted slices.

    Args:
        x: feature map [n, h, w, c], already padded.
        kernel: kernel [kh, kw, 1, c].
        stride: step of the window along both axes.
        dilation: distance between the pixels that a filter multiplies.
    """
    kh, kw = kernel.shape[:2]
    terms = [
        pixel * kernel[i, j, 0]
        for i, row in enumerate(shifts(x, kh, stride, 1, dilation))
        for j, pixel in enumerate(shifts(row, kw, stride, 2, dilation))
    ]
    return functools.reduce(lax.add, terms)
