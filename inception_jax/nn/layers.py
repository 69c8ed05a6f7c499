"""The layers that all networks are built from.

Arrays are [n, h, w, c]. A layer computes in `dtype`, returns `dtype`, and stores its parameters in
`param_dtype`. Kernels are rounded to `dtype`. Biases and scales are applied unrounded, then the
result is rounded. Gradients are summed in `param_dtype`, also over devices. After
`nnx.view(model, wide_gradients=False)`, the gradients of kernels are summed in `dtype`.

`reference_torch.layers` has the same layers with the same attributes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax.nn import init, ops
from inception_jax.nn.norms import BatchNorm, Centred, Folded
from inception_jax.nn.ops import Padding
from inception_jax.nn.rewrites import enabled

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Layer = TypeVar("Layer")
Maker = Callable[..., Layer]
"""A layer's class with the options that the whole network shares already filled in."""

Width = Callable[[int], int]
"""Maps the paper's channel count to that of a wider or narrower network."""


class Weighted(nnx.Module):
    """A layer with a kernel and an optional bias, stored in `param_dtype`, used in `dtype`.

    With `wide_gradients`, the gradient of the kernel is summed in `param_dtype`, else in `dtype`.
    """

    kernel: nnx.Param
    bias: nnx.Param | None
    dtype: DTypeLike
    wide_gradients: bool = True

    def set_view(self, wide_gradients: bool | None = None) -> None:
        """Sets `wide_gradients`; called by `nnx.view(model, wide_gradients=...)`."""
        if wide_gradients is not None:
            self.wide_gradients = wide_gradients

    def kernel_for_ops(self) -> jax.Array:
        """Returns the kernel: unrounded if `wide_gradients`, else rounded to `dtype`.

        The functions of `ops` round the kernel to `dtype` in either case. They sum its gradient in
        the dtype of the kernel returned here.
        """
        kernel = self.kernel[...]
        return kernel if self.wide_gradients else kernel.astype(self.dtype)

    def add_bias(self, x: jax.Array) -> jax.Array:
        """Adds the bias and rounds the sum to `dtype`; returns `x` if there is no bias."""
        return x if self.bias is None else (x + self.bias[...]).astype(self.dtype)

    def scale_output(self, gain: jax.Array | float, shift: jax.Array | float = 0.0) -> None:
        """Changes the layer in place, so that it returns `gain * output + shift` per channel.

        `gain` and `shift` have one value for each output channel, or are single numbers.
        """
        kernel = self.kernel[...]
        old = 0.0 if self.bias is None else self.bias[...]
        self.kernel = nnx.Param((kernel * gain).astype(kernel.dtype))
        bias = jnp.asarray(old * gain + shift, kernel.dtype)
        self.bias = nnx.Param(jnp.broadcast_to(bias, kernel.shape[-1:]))

    def scale_input(self, gain: jax.Array, shift: jax.Array) -> None:
        """Changes the layer in place, so that it first maps its input to `gain * input + shift`.

        `gain` and `shift` have one value for each input channel. The layer must not pad its input,
        because the shift does not apply to padded zeros.
        """
        kernel = self.kernel[...]
        self.scale_output(1.0, shift @ kernel.sum((0, 1)))
        self.kernel = nnx.Param((kernel * gain[:, None]).astype(kernel.dtype))


class Conv(Weighted):
    """Convolution with a kernel [h, w, in, out] and an optional bias.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        window: height and width of the kernel, or one number for both.
        stride: step of the window along both axes.
        padding: see `ops.Padding`.
        bias: add a bias to each channel.
        bias_value: initial value of the bias.
        kernel_init: initial values of the kernel.
    """

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
        kernel_init: nnx.Initializer = init.conv_kernel,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kh, kw = (window, window) if isinstance(window, int) else window
        shape = (kh, kw, in_channels, out_channels)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.data(None)
        if bias:
            self.bias = nnx.Param(jnp.full(out_channels, bias_value, param_dtype))
        self.stride = stride
        self.padding: Padding = padding
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.add_bias(self.convolve(x))

    def convolve(self, x: jax.Array) -> jax.Array:
        """Convolves `x` [n, h, w, c] without adding the bias."""
        return ops.conv(x.astype(self.dtype), self.kernel_for_ops(), self.stride, self.padding)


class DepthwiseConv(Weighted):
    """Convolution of every channel with its own filters: kernel [h, w, 1, c * multiplier].

    Args:
        channels: channels of the input.
        multiplier: filters per channel.
        dilation: distance between the pixels that a filter multiplies.

    For the other arguments see `Conv`.
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
        kernel_init: nnx.Initializer = init.depthwise_kernel,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kh, kw = (window, window) if isinstance(window, int) else window
        shape = (kh, kw, 1, channels * multiplier)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros(shape[3], param_dtype)) if bias else nnx.data(None)
        self.stride = stride
        self.padding: Padding = padding
        self.dilation = dilation
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel = x.astype(self.dtype), self.kernel_for_ops()
        return self.add_bias(
            ops.depthwise_conv(x, kernel, self.stride, self.padding, self.dilation)
        )


def folded(norm: BatchNorm | Folded, layer: Weighted) -> Folded:
    """Folds a normalisation into the layer before it, which is changed in place.

    A `Folded` norm leaves the layer unchanged.

    Returns:
        The `Folded` module that replaces the normalisation.
    """
    if isinstance(norm, BatchNorm):
        layer.scale_output(*norm.affine())
    return Folded()


class ConvBN(nnx.Module):
    """Convolution, batch normalisation and ReLU; called `Conv2d` in TF-slim's Inception networks.

    Args:
        relu: apply the ReLU; Xception's residual shortcuts have none.
        bias: give the convolution a bias, which the normalisation cancels; only Caffe's
            BN-Inception has one.
    """

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
        kernel_init: nnx.Initializer = init.conv_kernel,
        bn_eps: float,
        bn_momentum: float,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            window,
            stride,
            padding,
            bias=bias,
            kernel_init=kernel_init,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.bn: BatchNorm | Folded = BatchNorm(
            out_channels, eps=bn_eps, momentum=bn_momentum, dtype=dtype, param_dtype=param_dtype
        )
        self.relu = relu

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.after_conv(self.conv.convolve(x))

    @property
    def norm_of_batch(self) -> BatchNorm | None:
        """The BatchNorm if it normalises by the statistics of the convolution's output; else None.

        It does so in training, if the convolution has no bias.
        """
        if isinstance(self.bn, Folded) or self.bn.use_running_average or self.conv.bias is not None:
            return None
        return self.bn

    def after_conv(self, x: jax.Array | Centred) -> jax.Array:
        """Applies bias, normalisation and ReLU to the convolution's output.

        Args:
            x: output of `conv.convolve`; or, if there is a `norm_of_batch`, that output with its
                statistics.
        """
        fused = self.relu and enabled("gradients")  # one gradient for both
        if isinstance(x, tuple):
            assert self.norm_of_batch is not None
            x = self.norm_of_batch.by_batch(x, relu=fused)
        else:
            x = self.bn(self.conv.add_bias(x), relu=fused)
        return jax.nn.relu(x) if self.relu and not fused else x

    def fold(self) -> None:
        """Folds the BatchNorm into the convolution, in place; called by `folding.fold`."""
        self.bn = folded(self.bn, self.conv)


class SeparableConvBN(nnx.Module):
    """Depthwise 3x3 and pointwise 1x1 convolution, then BatchNorm (Xception paper, section 3).

    There is no activation between the two convolutions: the paper's figure 10 shows that an
    activation there is harmful.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bn_eps: float,
        bn_momentum: float,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype)
        self.depthwise = DepthwiseConv(in_channels, **types, rngs=rngs)
        self.pointwise = Conv(in_channels, out_channels, **types, rngs=rngs)
        self.bn: BatchNorm | Folded = BatchNorm(
            out_channels, eps=bn_eps, momentum=bn_momentum, **types
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.pointwise(self.depthwise(x)))

    def fold(self) -> None:
        """Folds the BatchNorm into the pointwise convolution, in place, for `folding.fold`."""
        self.bn = folded(self.bn, self.pointwise)


class Linear(Weighted):
    """Affine map of [n, d]: kernel [in, out] and, unless `bias` is False, a bias.

    With 0 outputs, as in a network without classes, it has no parameters and returns its input.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        kernel_init: nnx.Initializer = init.linear_kernel,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.in_features, self.out_features, self.use_bias = in_features, out_features, bias
        self.kernel_init = kernel_init
        self.kernel = nnx.data(None)  # type: ignore[assignment]
        self.bias = nnx.data(None)
        if out_features:
            shape = (in_features, out_features)
            self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
            self.bias = nnx.Param(jnp.zeros(out_features, param_dtype)) if bias else nnx.data(None)
        self.dtype, self.param_dtype = dtype, param_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.out_features:
            return x
        return self.add_bias(ops.linear(x.astype(self.dtype), self.kernel_for_ops()))

    def with_outputs(self, out_features: int, rngs: nnx.Rngs) -> Linear:
        """Returns a new layer of the same kind with `out_features` outputs."""
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        options: dict[str, Any] = dict(bias=self.use_bias, kernel_init=self.kernel_init, **types)
        return Linear(self.in_features, out_features, **options, rngs=rngs)


class DropPath(nnx.Dropout):
    """Stochastic depth, the dropout of whole examples (Huang et al. 2016, arXiv:1603.09382).

    In training, each example becomes 0 with probability `rate`, else it is divided by 1 - `rate`.
    """

    def __init__(self, rate: float):
        super().__init__(rate, broadcast_dims=(1, 2, 3), deterministic=True)


class Chain(nnx.List):
    """Calls layers in sequence, and passes the keyword arguments to each of them.

    With the rewrite `repeats` (see `rewrites`), `jax.jit` traces only one of several layers that
    have the same structure. Tracing Inception-ResNet's forty blocks then takes a seventh of the
    time. The compiled program still has all layers.
    """

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        once = enabled("repeats") and isinstance(x, jax.core.Tracer)
        # Every layer draws its own random numbers, so layers that are given `rngs` are not shared.
        once &= all(option is None for option in options.values())
        kinds = [nnx.graphdef(layer) if once else None for layer in self]
        for layer, kind in zip(self, kinds, strict=True):
            if kind is not None and kinds.count(kind) > 1:
                x, stats = _traced_once(kind, nnx.to_pure_dict(nnx.state(layer)), x)
                nnx.update(layer, stats)
            else:
                x = layer(x, **options)
        return x


@functools.partial(jax.jit, static_argnums=0)
def _traced_once(kind: nnx.GraphDef, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    layer = nnx.merge(kind, state)
    before = nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat))
    x = layer(x)
    stats = nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat))
    # In evaluation nothing is updated, so that functions which close over the network can call it.
    same = all(a is b for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(stats), strict=True))
    return x, {} if same else stats


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Averages each channel over height and width: [n, h, w, c] -> [n, c].

    Sums are computed in float32 or wider; the result has x's dtype.
    """
    return x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)


def l2_normalised(x: jax.Array) -> jax.Array:
    """Divides each vector of [n, d] by its L2 norm, or by 1e-12 if the norm is smaller."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def imagenet_to_inception(images: jax.Array) -> jax.Array:
    """Maps images normalised with ImageNet's mean and standard deviation to [-1, 1].

    torchvision calls this `transform_input`. Its pretrained GoogLeNet and Inception V3 need it.
    """
    mean, std = jnp.asarray(IMAGENET_MEAN, images.dtype), jnp.asarray(IMAGENET_STD, images.dtype)
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


def check_images(images: jax.Array, min_size: int, in_channels: int) -> None:
    """Checks that the network can take these images.

    Raises:
        ValueError: if the images are not [n, h, w, c], have the wrong number of channels, are
            smaller than the network's minimum, or are integers.
    """
    check_is_array(images)
    shape = tuple(images.shape)
    if len(shape) != 4:
        hint = ": one image needs images[None]" if len(shape) == 3 else ""
        raise ValueError(f"images must be [n, height, width, channels]; got shape {shape}{hint}")
    if shape[3] != in_channels:
        hint = ": channels come last, images.transpose(0, 2, 3, 1)"
        raise ValueError(
            f"this network takes {in_channels} channels; got {shape[3]} in images of shape {shape}"
            f"{hint if shape[1] == in_channels else ''}"
        )
    if min(shape[1:3]) < min_size:
        raise ValueError(
            f"this network needs images of at least {min_size}x{min_size} pixels; "
            f"got {shape[1]}x{shape[2]}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be normalised floats, not {images.dtype}: see inception_jax.preprocess"
        )


def check_is_array(images: Any) -> None:
    """Checks that images are a JAX or NumPy array.

    Raises:
        ValueError: if they are not; the message says how to convert them.
    """
    kind = f"{type(images).__module__}.{type(images).__name__}"
    if kind.startswith("torch."):
        raise ValueError(
            f"images must be an array of jax or NumPy, not {kind}: "
            "images.permute(0, 2, 3, 1).numpy(), as channels come last here"
        )
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise ValueError(
            f"images must be an array [n, height, width, channels], not {kind}: "
            "inception_jax.preprocess(model, image) makes one of a path or picture, and "
            "inception_jax.classify(model, images) takes them as they are"
        )
