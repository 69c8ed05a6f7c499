"""Convolution and pooling on NHWC arrays, in the form that each platform runs fastest.

XLA's CPU backend runs grouped convolutions, window reductions and 1x1 convolutions many times
slower than the same sums written over shifted slices or as a matrix product. On TPUs and GPUs it is
the other way round. Each function here has both forms. The form is chosen when the program is
lowered, so it follows the platform that runs the program, also when a CPU compiles for a TPU. All
forms give the same numbers and the same gradients, also where several pixels are the maximum.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from inception_jax.nn.remat import save_for_backward
from inception_jax.nn.rewrites import enabled

Padding = Literal["valid", "same", "symmetric", "ceil"]
"""How a window meets the border.

`valid`: no padding. `same`: TensorFlow's rule, output size ceil(n / stride), the odd pixel of
padding on the high side. `symmetric`: PyTorch's habit, k // 2 on both sides. `ceil`: Caffe's
pooling, PyTorch's `ceil_mode`: as `valid`, but a last window may hang over the high side. For odd
windows `same` and `symmetric` agree at stride 1, and at stride 2 only where the map's size is odd;
`same` and `ceil` agree for a 3x3 window at stride 2 only where that size is even.
"""

PadMode = Literal["tf", "torch"]
"""Whose rules strided convolutions and max pools follow: TensorFlow's, or PyTorch's and Caffe's."""

CONV_PADDING: dict[PadMode, Padding] = {"tf": "same", "torch": "symmetric"}
POOL_PADDING: dict[PadMode, Padding] = {"tf": "same", "torch": "ceil"}

Form = Literal["shifted", "native", "dense"]

_NARROW = 48  # channels; 64, in Xception's large maps, move more bytes as a full convolution

_forced_form = jax.make_user_context(None)


@contextlib.contextmanager
def forced_form(form: Form) -> Iterator[None]:
    """Traces with one form on every platform, for tests and counts that depend on it."""
    with _forced_form(form):
        yield


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


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding = "same") -> jax.Array:
    """Convolves [n, h, w, c] with a kernel [kh, kw, c, d], in x's dtype.

    A kernel of a wider dtype is rounded to x's. Its gradient is summed in the kernel's own dtype,
    over pixels, images and devices. Had the caller rounded the kernel, each device's sum would be
    rounded, and devices would add those sums in the narrow dtype.
    """
    if kernel.shape[:2] == (1, 1):
        if stride > 1:  # skipped pixels need not be read; a 1x1 is never padded
            x, stride = x[:, ::stride, ::stride], 1
        convolve = _by_platform(_conv_1x1, _conv_native, 1, padding)
    elif padding == "valid" and kernel.shape[0] > stride:
        convolve = _by_platform(_conv_bordered, _conv_native, stride, padding)
    else:
        convolve = functools.partial(_trailing, _conv_native, (stride, padding))
    products = _with_wide_kernel(convolve, _kernel_gradient(convolve, stride, padding))(x, kernel)
    return save_for_backward(products, work=math.prod(kernel.shape[:3]))


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding = "same", dilation: int = 1
) -> jax.Array:
    """Convolves every channel of [n, h, w, c] with m filters of its own, in x's dtype.

    Args:
        kernel: [kh, kw, 1, c * m]; the m results of a channel are neighbours. It may have a wider
            dtype, as for `conv`.
        dilation: distance between the pixels that a filter meets, along both axes.
    """
    # TPUs' matrix units are wider than so few channels: by the compiler's cycles, multiplying with
    # zeros between channels costs less than separating the channels.
    dense = _depthwise_dense if enabled("depthwise") and kernel.shape[3] <= _NARROW else None
    args = (stride, padding, dilation)
    convolve = _by_platform(_depthwise_shifted, _conv_native, *args, dense=dense)
    gradient = _kernel_gradient(convolve, stride, padding, dilation)
    # Differentiating the full convolution gives a gradient with entries for the zeros between
    # channels, which devices would all-reduce for nothing.
    always = dense is not None and jnp.finfo(x.dtype).bits < 32
    return _with_wide_kernel(convolve, gradient, always=always)(x, kernel)


def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies [n, c] by a kernel [c, d], perhaps of a wider dtype, in x's dtype, as `conv`."""

    def gradient(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.einsum("nc,nd->cd", x, g, preferred_element_type=kernel.dtype)

    return _with_wide_kernel(jnp.matmul, gradient)(x, kernel)


def max_pool(x: jax.Array, window: int, stride: int, padding: Padding = "valid") -> jax.Array:
    """Maximum over windows of [n, h, w, c].

    Padding never wins. NaN wins over every number. If several pixels are the maximum, the first in
    reading order gets the whole gradient, as in PyTorch and TensorFlow.
    """
    shifted = functools.partial(_pool_shifted, _first_max, -jnp.inf)
    native = functools.partial(_pool_native, lax.max, -jnp.inf)
    return _by_platform(shifted, native, window, stride, padding)(x)


def avg_pool(
    x: jax.Array,
    window: int,
    stride: int,
    padding: Padding = "valid",
    *,
    count_include_pad: bool = False,
) -> jax.Array:
    """Mean over windows of [n, h, w, c], summed in float32 or wider, returned in x's dtype.

    Args:
        count_include_pad: divide by the window's size at the border too (PyTorch's default)
            instead of by the number of pixels inside the map (TensorFlow's rule).
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    shifted = functools.partial(_pool_shifted, lax.add, 0)
    native = functools.partial(_pool_native, lax.add, 0.0)
    total = _by_platform(shifted, native, window, stride, padding)(wide)
    if count_include_pad:
        return (total / window**2).astype(x.dtype)
    rows, cols = (_window_counts(n, window, stride, padding) for n in x.shape[1:3])
    counts = np.outer(rows, cols)[:, :, None]
    return (total / counts.astype(total.dtype)).astype(x.dtype)


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Means of [n, h, w, c] over size x size windows that cover the map, [n, size, size, c].

    Window i of an axis of n pixels goes from floor(i n / size) to ceil((i + 1) n / size), PyTorch's
    `AdaptiveAvgPool2d`. Summed in float32 or wider, returned in x's dtype.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rows, cols = (_window_shares(n, size).astype(wide.dtype) for n in x.shape[1:3])
    return jnp.einsum("nhwc,ih,jw->nijc", wide, rows, cols).astype(x.dtype)


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """Divides [n, h, w, c] by (1 + alpha * mean of squares of `size` neighbouring channels)^beta.

    The mean counts absent neighbours as zeros, as in Caffe and PyTorch; TensorFlow's `tf.nn.lrn`
    takes the sum, so its alpha is a fifth. Computed in float32 or wider, returned in x's dtype.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = jnp.pad(jnp.square(wide), [(0, 0)] * 3 + [(size // 2, size // 2)])
    total = functools.reduce(lax.add, _shifts(squares, size, 1, axis=3))
    return (wide / (1 + alpha / size * total) ** beta).astype(x.dtype)


def _by_platform(
    shifted: Callable, native: Callable, *args, dense: Callable | None = None
) -> Callable:
    forms: dict[str, Callable] = {"shifted": shifted, "native": native, "dense": dense or native}
    forms = {name: functools.partial(_trailing, form, args) for name, form in forms.items()}
    if _forced_form.value is not None:
        return forms[_forced_form.value]
    chosen = {"cpu": forms["shifted"], "default": forms["native"]}
    chosen |= {"tpu": forms["dense"]} if dense else {}
    return lambda *arrays: lax.platform_dependent(*arrays, **chosen)


def _trailing(function: Callable, args: tuple, *arrays: jax.Array) -> jax.Array:
    return function(*arrays, *args)


def _pad(x: jax.Array, window: Sequence[int], stride: int, padding: Padding, value) -> jax.Array:
    (top, bottom), (left, right) = (
        pads(n, k, stride, padding) for n, k in zip(x.shape[1:3], window, strict=True)
    )
    widths = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    return lax.pad(x, jnp.asarray(value, x.dtype), widths)


def _shifts(
    x: jax.Array, window: int, stride: int, axis: int, dilation: int = 1
) -> list[jax.Array]:
    """The slices of a padded map under the window's 1st, 2nd, ... pixel along one axis."""
    count = (x.shape[axis] - _span(window, dilation)) // stride + 1
    span = (count - 1) * stride + 1
    starts = range(0, window * dilation, dilation)
    return [lax.slice_in_dim(x, i, i + span, stride, axis) for i in starts]


def _span(window: int, dilation: int) -> int:
    """Pixels from the first to the last under a dilated window."""
    return (window - 1) * dilation + 1


def _conv_native(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, dilation: int = 1
) -> jax.Array:
    windows = zip(x.shape[1:3], kernel.shape[:2], strict=True)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [pads(n, _span(k, dilation), stride, padding) for n, k in windows],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3] // kernel.shape[2],
    )


def _with_wide_kernel(
    multiply: Callable, kernel_gradient: Callable, *, always: bool = False
) -> Callable:
    """Lets `multiply(x, kernel)` take a kernel of a wider dtype than x.

    `kernel_gradient(x, g, kernel)` returns the kernel's gradient in the kernel's dtype; g is the
    gradient of the result. It is used for wider kernels, with `always` for all. Where it is used,
    forward-mode differentiation is not possible.
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
    """The gradient of a convolution's kernel, see `_with_wide_kernel`."""

    def widened(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
        of_kernel = jax.linear_transpose(lambda k: convolve(x.astype(k.dtype), k), kernel)
        return of_kernel(g.astype(kernel.dtype))[0]

    def native(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
        # Images and channels change places, because the sum is over images and pixels.
        spans = []
        for n, k, m in zip(x.shape[1:3], kernel.shape[:2], g.shape[1:3], strict=True):
            low, _ = pads(n, _span(k, dilation), stride, padding)
            spans.append((low, _span(k, dilation) + (m - 1) * stride - n - low))
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
    return _by_platform(widened, native)


def _conv_1x1(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    del stride, padding  # see `conv`
    return x @ kernel[0, 0]


def _conv_bordered(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """An unpadded convolution, computed over a map with one more row of zeros.

    XLA's CPU backend takes up to four times as long for a convolution without any padding.
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
    dtype = x.dtype  # of the result; the sum is wide, as inside a native convolution
    x, kernel = (a.astype(jnp.promote_types(dtype, jnp.float32)) for a in (x, kernel))
    x = jnp.repeat(x, multiplier, axis=3) if multiplier > 1 else x
    x = _pad(x, (_span(kh, dilation), _span(kw, dilation)), stride, padding, 0)
    rows = _shifts(x, kh, stride, 1, dilation)
    terms = [
        pixel * kernel[i, j, 0]
        for i, row in enumerate(rows)
        for j, pixel in enumerate(_shifts(row, kw, stride, 2, dilation))
    ]
    return functools.reduce(lax.add, terms).astype(dtype)


def _depthwise_dense(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, dilation: int
) -> jax.Array:
    """A full convolution whose kernel is zero between a channel and another channel's results."""
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


def _pool_shifted(
    combine: Callable, initial: float, x: jax.Array, window: int, stride: int, padding: Padding
) -> jax.Array:
    x = _pad(x, (window, window), stride, padding, initial)
    # Columns before rows: the first maximum in reading order is the first of its own row.
    x = functools.reduce(combine, _shifts(x, window, stride, axis=2))
    return functools.reduce(combine, _shifts(x, window, stride, axis=1))


def _first_max(best: jax.Array, new: jax.Array) -> jax.Array:
    """The larger of two, `best` if they are equal: unlike `jnp.maximum` it splits no gradient."""
    return jnp.where((new > best) | (new != new), new, best)


def _window_counts(size: int, window: int, stride: int, padding: Padding) -> np.ndarray:
    """How many pixels inside the map each window of one axis covers."""
    low, high = pads(size, window, stride, padding)
    starts = np.arange((size + low + high - window) // stride + 1) * stride - low
    return np.minimum(starts + window, size) - np.maximum(starts, 0)


def _window_shares(size: int, windows: int) -> np.ndarray:
    """[windows, size]: the weight of each pixel in each of the adaptive windows of one axis."""
    shares = np.zeros((windows, size))
    for i in range(windows):
        window = slice(i * size // windows, -(-(i + 1) * size // windows))
        shares[i, window] = 1 / (window.stop - window.start)
    return shares
