"""Faster gradients of convolutions on CPUs, for the rewrite `gradients` (see `rewrites`).

XLA's CPU backend computes a kernel's gradient as a convolution with a window as large as the
feature map. For depthwise convolutions, it writes the gradient of each shifted slice as a separate
padded array. The gradients here are matrix products and sums of shifted slices instead. They take a
third of the time or less.

A function with such a gradient has reverse-mode derivatives of any order. Its gradient can also be
differentiated in forward mode, but the function itself cannot: for `jax.jvp`, trace without this
rewrite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from inception_jax.nn.windows import Padding, padded, pads, shifts, span, weighted_sum

Convolve = Callable[..., jax.Array]
"""Maps [n, h, w, c], a kernel, and further arguments that are not arrays, to [n, h, w, d]."""

_LARGE_MAP = 64 * 64  # pixels; for smaller maps XLA's own gradient is as fast
_SMALL_MAP = 8 * 8  # pixels; XLA's own gradient takes up to twice as long as products
_MOST_PIECES = 8  # limits the size of the program, whatever the batch
_LEAST_CHANNELS = 64  # products of fewer channels do not fill the processor's vectors


def pointwise(multiply: Convolve) -> Convolve:
    """Returns `multiply`, a 1x1 convolution of stride 1, with a custom gradient.

    `multiply` is a function of x and the kernel. The gradients of the input and of the kernel are
    one matrix product each.
    """

    def of_input(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return g @ kernel[0, 0].T

    def of_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return _product(x, g)[None, None]

    return _with_gradient(multiply, of_input, of_kernel)


def windowed(convolve: Convolve, x: jax.Array, kernel: jax.Array, *args: Any) -> Convolve:
    """Gives a convolution with a kernel larger than 1x1 a custom gradient if that is faster.

    - At stride 1, for feature maps of at least 64x64 pixels: the kernel's gradient is a sum over
      groups of images, because XLA takes up to five times as long for the whole batch at once.
    - For a stride above 1, an n x 1 kernel, or a feature map of at most 8x8 pixels, with at least
      64 input channels: the kernel's gradient is one matrix product for each position in the
      kernel.
    - Otherwise XLA's own gradient is as fast, and is kept.

    Args:
        convolve: function of x, the kernel and `args`.
        x: input [n, h, w, c]; only its shape matters.
        kernel: kernel [kh, kw, c, d]; only its shape matters.
        args: stride and padding.

    Returns:
        `convolve` with a custom gradient, or unchanged.
    """
    (_, kw, channels, _), (stride, _) = kernel.shape, args
    pixels = x.shape[1] * x.shape[2]
    if stride == 1 and pixels >= _LARGE_MAP:
        of_kernel = functools.partial(_by_images, *args)
    elif channels >= _LEAST_CHANNELS and (stride > 1 or kw == 1 or pixels <= _SMALL_MAP):
        of_kernel = functools.partial(_by_taps, *args)
    else:
        return convolve

    def of_input(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        if stride == 1:
            return _turned(args[1], x, kernel, g)
        return jax.vjp(lambda x: convolve(x, kernel, *args), x)[1](g)[0]

    return _with_gradient(convolve, of_input, of_kernel)


def _turned(padding: Padding, x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    """Returns the gradient of x at stride 1, from the gradient `g` of the output.

    `padding` and `kernel` are those of the convolution of x. Of `x`, only the shape matters.

    It is the convolution of `g` with the kernel rotated by 180 degrees. The kernel's channel axes
    are swapped before the convolution, not by its dimension numbers. These would make it forty
    times slower in a function that is called for repeated layers.
    """
    turned = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    widths = _widths(x.shape[1:3], kernel.shape[:2], padding)
    order = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        g, turned.astype(g.dtype), (1, 1), widths, dimension_numbers=order
    )


def _widths(sizes: tuple[int, ...], spans: tuple[int, ...], padding: Padding) -> list:
    """Returns the (low, high) padding of the output's gradient on each axis, at stride 1.

    With this padding, the gradient's convolution with the rotated kernel has the input's size.

    Args:
        sizes: height and width of the input.
        spans: height and width of the kernel, including its dilation.
        padding: padding of the convolution.
    """
    widths = []
    for n, s in zip(sizes, spans, strict=True):
        low, high = pads(n, s, 1, padding)
        widths.append((s - 1 - low, s - 1 - high))
    return widths


def _by_taps(
    stride: int, padding: Padding, x: jax.Array, kernel: jax.Array, g: jax.Array
) -> jax.Array:
    kh, kw = kernel.shape[:2]
    x = padded(x, (kh, kw), stride, padding)
    rows = shifts(x, kh, stride, 1)
    taps = [_product(tap, g) for row in rows for tap in shifts(row, kw, stride, 2)]
    return jnp.stack(taps).reshape(kernel.shape)


def _by_images(
    stride: int, padding: Padding, x: jax.Array, kernel: jax.Array, g: jax.Array
) -> jax.Array:
    kh, kw = kernel.shape[:2]
    borders = [pads(n, k, stride, padding) for n, k in zip(x.shape[1:3], (kh, kw), strict=True)]
    # Each piece takes images from all over the batch. So if the batch is split over devices, each
    # device has a share of every piece.
    pieces = max(n for n in range(1, _MOST_PIECES + 1) if x.shape[0] % n == 0)
    x, g = (a.reshape(-1, pieces, *a.shape[1:]) for a in (x, g))
    return functools.reduce(
        lax.add,
        [
            lax.conv_general_dilated(
                x[:, i], g[:, i], (1, 1), borders, dimension_numbers=("CHWN", "IHWO", "HWNC")
            )
            for i in range(pieces)
        ],
    )


def depthwise(convolve: Convolve, stride: int, padding: Padding, dilation: int) -> Convolve:
    """Returns `convolve`, a depthwise convolution, with a custom gradient.

    The convolution, a function of x and the kernel, must have one filter per channel, and this
    `stride`, `padding` and `dilation`. At stride 1, the gradient of the input is a sum of shifted
    slices, with the kernel rotated by 180 degrees. Otherwise it is the one that JAX derives for a
    sum of shifted slices. The gradient of the kernel is accumulated row by row in one array
    [n, 1, w, c] for each position in the kernel, because sums over whole feature maps are slower.
    """

    def spans(kernel: jax.Array) -> tuple[int, int]:
        return span(kernel.shape[0], dilation), span(kernel.shape[1], dilation)

    def of_input(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        if stride > 1:
            g = g.astype(wide)
            return _scattered(stride, padding, dilation, x, kernel.astype(wide), g).astype(x.dtype)
        widths = [(*w, 0) for w in _widths(x.shape[1:3], spans(kernel), padding)]
        g = lax.pad(g.astype(wide), jnp.zeros((), wide), ((0, 0, 0), *widths, (0, 0, 0)))
        turned = kernel[::-1, ::-1].astype(wide)
        return weighted_sum(g, turned, 1, dilation).astype(x.dtype)

    def of_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        x = padded(x.astype(wide), spans(kernel), stride, padding)
        g = g.astype(wide)
        window = kernel.shape[:2]

        def add_row(sums: list[jax.Array], i: jax.Array) -> tuple[list[jax.Array], None]:
            rows = lax.dynamic_slice_in_dim(x, i * stride, spans(kernel)[0], axis=1)
            pixels = lax.dynamic_index_in_dim(g, i, axis=1)
            taps = [
                tap
                for row in shifts(rows, window[0], 1, 1, dilation)
                for tap in shifts(row, window[1], stride, 2, dilation)
            ]
            return [s + tap * pixels for s, tap in zip(sums, taps, strict=True)], None

        zeros = jnp.zeros((g.shape[0], 1, *g.shape[2:]), wide)
        sums, _ = lax.scan(add_row, [zeros] * (window[0] * window[1]), jnp.arange(g.shape[1]))
        return jnp.stack([s.sum((0, 1, 2)) for s in sums]).reshape(kernel.shape)

    return _with_gradient(convolve, of_input, of_kernel)


def _scattered(
    stride: int, padding: Padding, dilation: int, x: jax.Array, kernel: jax.Array, g: jax.Array
) -> jax.Array:
    """Returns the gradient of x above stride 1, from the gradient `g` of the output.

    `stride`, `padding`, `dilation` and `kernel` are those of the depthwise convolution of x. Of
    `x`, only the shape matters. The result has the dtype of `g`.
    """
    n, h, w, c = x.shape
    (top, bottom), (left, right) = (
        pads(size, span(k, dilation), stride, padding)
        for size, k in zip((h, w), kernel.shape[:2], strict=True)
    )
    # Because of the row of zeros, XLA computes `g` before the sum, not once for each position.
    g = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), (0, 1, 0), (0, 0, 0), (0, 0, 0)))
    taller = jax.ShapeDtypeStruct((n, top + h + bottom + stride, left + w + right, c), g.dtype)
    scatter = jax.linear_transpose(lambda x: weighted_sum(x, kernel, stride, dilation), taller)
    return scatter(g)[0][:, top : top + h, left : left + w]


def _product(x: jax.Array, g: jax.Array) -> jax.Array:
    """Returns x^T g [c, d] of x [n, h, w, c] and g [n, h, w, d], summed over images and pixels."""
    # Without the barrier, XLA fuses the computation of x or g into the product, and writes that
    # feature map transposed. This would take a third of the time of Xception's step.
    x, g = lax.optimization_barrier((x, g))
    return lax.dot_general(
        x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]), (((0,), (0,)), ((), ()))
    )


def _with_gradient(multiply: Convolve, of_input: Callable, of_kernel: Callable) -> Convolve:
    """Returns `multiply` with a custom gradient.

    Args:
        multiply: function of x, kernel, and further arguments that are not arrays.
        of_input: maps x, kernel and the gradient of the result to the gradient of x.
        of_kernel: maps x, kernel and the gradient of the result to the gradient of the kernel.
    """

    def call(x: jax.Array, kernel: jax.Array, *args) -> jax.Array:
        @jax.custom_vjp
        def own(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return multiply(x, kernel, *args)

        def forward(x: jax.Array, kernel: jax.Array):
            # The plain function, so that a gradient can be differentiated in forward mode too.
            return multiply(x, kernel, *args), (x, kernel)

        # Inlined: jitted only because JAX traces it twice for each call.
        @functools.partial(jax.jit, inline=True)
        def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array):
            dkernel = of_kernel(*saved, g)
            return of_input(*saved, g), dkernel.astype(saved[1].dtype)

        own.defvjp(forward, backward)
        return own(x, kernel)

    return call
