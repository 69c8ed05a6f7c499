"""Convolution and pooling on NHWC arrays, with the implementation that is fastest on each platform.

XLA's CPU backend runs grouped convolutions, window reductions and 1x1 convolutions many times
slower than the same sums over shifted slices or as a matrix product. On TPUs and GPUs, XLA's own
operations are faster. The functions here have both implementations (see `forms`). One is chosen
when a program is lowered, for the platform that will run it, even if a CPU compiles for a TPU. All
implementations give the same values and the same gradients, even if several pixels of a max pool's
window are equal.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from inception_jax.nn import gradients
from inception_jax.nn.forms import (
    Form,
    by_platform,
    convolutions_are_native,
    forced_form,
    trailing,
)
from inception_jax.nn.max_pools import max_shifted
from inception_jax.nn.remat import save_for_backward
from inception_jax.nn.rewrites import enabled
from inception_jax.nn.windows import Padding, padded, pads, shifts, span, weighted_sum

__all__ = [
    "CONV_PADDING",
    "POOL_PADDING",
    "Form",
    "PadMode",
    "Padding",
    "adaptive_avg_pool",
    "avg_pool",
    "conv",
    "depthwise_conv",
    "forced_form",
    "linear",
    "local_response_norm",
    "max_pool",
    "pads",
]

PadMode = Literal["tf", "torch"]
"""Padding of strided convolutions and max pools: TensorFlow's, or PyTorch's and Caffe's."""

CONV_PADDING: dict[PadMode, Padding] = {"tf": "same", "torch": "symmetric"}
POOL_PADDING: dict[PadMode, Padding] = {"tf": "same", "torch": "ceil"}

_NARROW = 48  # channels; with 64, Xception's large maps move more bytes as a full convolution


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding = "same") -> jax.Array:
    """Convolves [n, h, w, c] with a kernel [kh, kw, c, d], in x's dtype.

    A kernel of a wider dtype is rounded to x's dtype, but its gradient is summed over pixels,
    images and devices in the wider dtype. If the caller rounded the kernel first, each device would
    round its sum, and the devices would add these sums in the narrow dtype.
    """
    return (_conv_once if enabled("gradients") else _conv)(x, kernel, stride, padding)


def _conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    if kernel.shape[:2] == (1, 1):
        if stride > 1:  # skipped pixels need not be read, and a 1x1 is never padded
            x, stride = x[:, ::stride, ::stride], 1
        product = _conv_native if convolutions_are_native(x.dtype) else _conv_1x1
        own = gradients.pointwise(product) if enabled("gradients") else product
        convolve = by_platform(own, _conv_native, 1, padding)
    else:
        convolve = _conv_by_platform(x, kernel, stride, padding)
    products = _with_wide_kernel(convolve, _kernel_gradient(convolve, stride, padding))(x, kernel)
    return save_for_backward(products, work=math.prod(kernel.shape[:3]))


# Inlined: jitted only so that each shape is traced once, because custom gradients take long.
_conv_once = jax.jit(_conv, static_argnums=(2, 3), inline=True)


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding = "same", dilation: int = 1
) -> jax.Array:
    """Convolves every channel of [n, h, w, c] with its own m filters, in x's dtype.

    Args:
        x: feature map [n, h, w, c].
        kernel: kernel [kh, kw, 1, c * m]; the m outputs of a channel are adjacent. Its dtype may be
            wider than x's, as for `conv`.
        stride: step of the window along both axes.
        padding: see `Padding`.
        dilation: distance between the pixels that a filter multiplies, along both axes.
    """
    # TPUs' matrix units are wider than so few channels. By the compiler's estimate in cycles,
    # multiplying by zeros between channels costs less than separating the channels.
    dense = _depthwise_dense if enabled("depthwise") and kernel.shape[3] <= _NARROW else None
    args = (stride, padding, dilation)
    own_gradient = enabled("gradients") and kernel.shape[3] == x.shape[3]
    # XLA's own gradient of its own depthwise convolution takes several times as long on CPUs.
    native = convolutions_are_native(x.dtype) and (own_gradient or not enabled("gradients"))
    shifted = _conv_native if native else _depthwise_shifted
    if own_gradient:
        shifted = gradients.depthwise(shifted, stride, padding, dilation)
    convolve = by_platform(shifted, _conv_native, *args, dense=dense)
    gradient = _kernel_gradient(convolve, stride, padding, dilation)
    # The gradient of the full convolution has entries for the zeros between channels, which devices
    # would all-reduce for nothing.
    always = dense is not None and jnp.finfo(x.dtype).bits < 32
    return _with_wide_kernel(convolve, gradient, always=always)(x, kernel)


def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies [n, c] by a kernel [c, d] in x's dtype.

    The kernel's dtype may be wider than x's, as for `conv`.
    """

    def gradient(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.einsum("nc,nd->cd", x, g, preferred_element_type=kernel.dtype)

    return _with_wide_kernel(jnp.matmul, gradient)(x, kernel)


def max_pool(x: jax.Array, window: int, stride: int, padding: Padding = "valid") -> jax.Array:
    """Returns the maximum over windows of [n, h, w, c].

    Padding is never the maximum. The maximum of a window with a NaN is NaN. If several pixels equal
    the maximum, the first in row-major order gets the whole gradient, as in PyTorch and TensorFlow.
    """
    native = functools.partial(_pool_native, lax.max, -jnp.inf)
    return by_platform(max_shifted, native, window, stride, padding)(x)


def avg_pool(
    x: jax.Array,
    window: int,
    stride: int,
    padding: Padding = "valid",
    *,
    count_include_pad: bool = False,
) -> jax.Array:
    """Returns the mean over windows of [n, h, w, c], in x's dtype.

    Sums are computed in float32 or wider.

    Args:
        x: feature map [n, h, w, c].
        window: height and width of the window.
        stride: step of the window along both axes.
        padding: see `Padding`.
        count_include_pad: at the border, divide by the size of the window (PyTorch's default)
            instead of the number of pixels inside the feature map (TensorFlow's rule).
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    native = functools.partial(_pool_native, lax.add, 0.0)
    total = by_platform(_sum_shifted, native, window, stride, padding)(wide)
    if count_include_pad:
        return (total / window**2).astype(x.dtype)
    rows, cols = (_window_counts(n, window, stride, padding) for n in x.shape[1:3])
    counts = np.outer(rows, cols)[:, :, None]
    return (total / counts.astype(total.dtype)).astype(x.dtype)


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Averages [n, h, w, c] to [n, size, size, c], over windows that cover the feature map.

    On an axis of n pixels, window i goes from floor(i n / size) to ceil((i + 1) n / size), as in
    PyTorch's `AdaptiveAvgPool2d`. Sums are computed in float32 or wider; the result has x's dtype.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rows, cols = (_window_shares(n, size).astype(wide.dtype) for n in x.shape[1:3])
    return jnp.einsum("nhwc,ih,jw->nijc", wide, rows, cols).astype(x.dtype)


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """Divides [n, h, w, c] by (1 + alpha * mean of squares of `size` neighbouring channels)^beta.

    The mean counts missing neighbours as zeros, as in Caffe and PyTorch. TensorFlow's `tf.nn.lrn`
    uses the sum, so the equivalent alpha there is alpha / size. The result is computed in float32
    or wider and returned in x's dtype.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = jnp.pad(jnp.square(wide), [(0, 0)] * 3 + [(size // 2, size // 2)])
    total = functools.reduce(lax.add, shifts(squares, size, 1, axis=3))
    return (wide / (1 + alpha / size * total) ** beta).astype(x.dtype)


def _conv_by_platform(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> Callable:
    """Returns a function that convolves a feature map with a kernel larger than 1x1.

    The arguments of the function are a feature map and a kernel, shaped like `x` and `kernel`.
    Nothing is computed here.

    Args:
        x: feature map [n, h, w, c]; only its shape and dtype matter.
        kernel: kernel [kh, kw, c, d]; only its shape matters.
        stride: step of the window along both axes.
        padding: see `Padding`.
    """
    bordered = padding == "valid" and kernel.shape[0] > stride
    native = convolutions_are_native(x.dtype) or not bordered
    shifted = _conv_native if native else _conv_bordered
    if enabled("gradients"):
        shifted = gradients.windowed(shifted, x, kernel, stride, padding)
    if shifted is _conv_native:
        return functools.partial(trailing, _conv_native, (stride, padding))
    return by_platform(shifted, _conv_native, stride, padding)


def _conv_native(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, dilation: int = 1
) -> jax.Array:
    windows = zip(x.shape[1:3], kernel.shape[:2], strict=True)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [pads(n, span(k, dilation), stride, padding) for n, k in windows],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3] // kernel.shape[2],
    )


def _with_wide_kernel(
    multiply: Callable, kernel_gradient: Callable, *, always: bool = False
) -> Callable:
    """Returns `multiply` as a function that also takes kernels of a wider dtype than x.

    The kernel is rounded to x's dtype. The gradient of a wider kernel is computed by
    `kernel_gradient`; forward-mode differentiation is then not possible.

    Args:
        multiply: function of x and a kernel of x's dtype.
        kernel_gradient: maps x, the gradient of the result, and the kernel to the kernel's
            gradient, in the kernel's dtype.
        always: use `kernel_gradient` for all kernels, not only for wider ones.
    """

    @jax.custom_vjp
    def rounded(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return multiply(x, kernel.astype(x.dtype))

    def forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
        return rounded(x, kernel), (x, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel = saved
        (dx,) = jax.vjp(lambda x: multiply(x, kernel.astype(x.dtype)), x)[1](g)
        return dx, kernel_gradient(x, g, kernel)

    rounded.defvjp(forward, backward)

    def choose(x: jax.Array, kernel: jax.Array) -> jax.Array:
        wider = jnp.promote_types(x.dtype, kernel.dtype) != x.dtype
        return rounded(x, kernel) if wider or always else multiply(x, kernel.astype(x.dtype))

    return choose


def _kernel_gradient(
    convolve: Callable, stride: int, padding: Padding, dilation: int = 1
) -> Callable:
    """Returns the function `kernel_gradient` for a convolution; see `_with_wide_kernel`.

    `convolve` maps x and a kernel to the convolution with these options.
    """
    # Read now, because the rewrite may be disabled again when the backward pass is traced.
    transposed = _pullback if enabled("gradients") else jax.linear_transpose

    def widened(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
        of_kernel = transposed(lambda k: convolve(x.astype(k.dtype), k), kernel)
        return of_kernel(g.astype(kernel.dtype))[0]

    def native(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
        # Images and channels are swapped, because the sum is over images and pixels.
        spans = []
        for n, k, m in zip(x.shape[1:3], kernel.shape[:2], g.shape[1:3], strict=True):
            low, _ = pads(n, span(k, dilation), stride, padding)
            spans.append((low, span(k, dilation) + (m - 1) * stride - n - low))
        return lax.conv_general_dilated(
            x,
            g,
            (dilation, dilation),
            spans,
            rhs_dilation=(stride, stride),
            dimension_numbers=("CHWN", "IHWO", "HWNC"),
            batch_group_count=x.shape[3] // kernel.shape[2],
            preferred_element_type=kernel.dtype,
        )

    # XLA's CPU backend has no narrow convolutions: it widens their operands anyway.
    return by_platform(widened, native)


def _pullback(function: Callable, x: jax.Array) -> Callable:
    """Returns the function that maps the gradient of `function(x)` to the gradient of x.

    Unlike `jax.linear_transpose`, it works for functions with a custom gradient.
    """
    return jax.vjp(function, x)[1]


def _conv_1x1(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    del stride, padding  # see `conv`
    return x @ kernel[0, 0]


def _conv_bordered(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Computes a convolution without padding as one with padding, which is faster on CPUs.

    A row of zeros is added below the feature map, and outputs that depend on it are dropped. XLA's
    CPU backend takes up to four times as long for a convolution without any padding.

    Args:
        x: feature map [n, h, w, c].
        kernel: kernel [kh, kw, c, d], with kh > `stride`.
        stride: step of the window along both axes.
        padding: always "valid"; here only so that the arguments equal those of `_conv_native`.
    """
    rows = (x.shape[1] - kernel.shape[0]) // stride + 1
    y = lax.conv_general_dilated(
        x, kernel, (stride, stride), [(0, 1), (0, 0)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y[:, :rows]


def _depthwise_shifted(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, dilation: int
) -> jax.Array:
    kh, kw = kernel.shape[:2]
    multiplier = kernel.shape[3] // x.shape[3]
    dtype = x.dtype  # dtype of the result; the sum is wider, as inside a native convolution
    x, kernel = (a.astype(jnp.promote_types(dtype, jnp.float32)) for a in (x, kernel))
    x = jnp.repeat(x, multiplier, axis=3) if multiplier > 1 else x
    x = padded(x, (span(kh, dilation), span(kw, dilation)), stride, padding)
    return weighted_sum(x, kernel, stride, dilation).astype(dtype)


def _depthwise_dense(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, dilation: int
) -> jax.Array:
    """Computes a depthwise convolution as a full convolution.

    The full kernel is zero from each input channel to the outputs of all other channels.
    """
    channels, results = x.shape[3], kernel.shape[3]
    own = np.arange(channels)[:, None] == np.arange(results) // (results // channels)
    return _conv_native(x, jnp.where(own, kernel, 0), stride, padding, dilation)


def _pool_native(
    combine: Callable, initial: float, x: jax.Array, window: int, stride: int, padding: Padding
) -> jax.Array:
    spans = [pads(n, window, stride, padding) for n in x.shape[1:3]]
    return lax.reduce_window(
        x,
        initial,
        combine,
        (1, window, window, 1),
        (1, stride, stride, 1),
        [(0, 0), *spans, (0, 0)],
    )


def _sum_shifted(x: jax.Array, window: int, stride: int, padding: Padding) -> jax.Array:
    x = padded(x, (window, window), stride, padding)
    x = functools.reduce(lax.add, shifts(x, window, stride, axis=2))
    return functools.reduce(lax.add, shifts(x, window, stride, axis=1))


def _window_counts(size: int, window: int, stride: int, padding: Padding) -> np.ndarray:
    """Returns the number of pixels inside the feature map for each window along one axis.

    The axis has `size` pixels, a window covers `window` of them.
    """
    low, high = pads(size, window, stride, padding)
    starts = np.arange((size + low + high - window) // stride + 1) * stride - low
    return np.minimum(starts + window, size) - np.maximum(starts, 0)


def _window_shares(size: int, windows: int) -> np.ndarray:
    """Returns the weight of each pixel in each adaptive window along one axis, [windows, size]."""
    shares = np.zeros((windows, size))
    for i in range(windows):
        window = slice(i * size // windows, -(-(i + 1) * size // windows))
        shares[i, window] = 1 / (window.stop - window.start)
    return shares
