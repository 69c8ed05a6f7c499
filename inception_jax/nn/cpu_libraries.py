"""Compiler options that choose the libraries which XLA's CPU backend calls.

oneDNN, for x86 processors, is in jaxlib from version 0.11 on, disabled by default. With its
convolutions, Inception V3 classifies a sixth faster in float32. On processors with AVX512-BF16, it
classifies twice as fast in bfloat16. A training step takes up to an eighth less time.

YNNPACK, XLA's own library, is enabled by default, for single operations. It can also compute a
matrix product together with the elementwise operations after it. Where oneDNN cannot be called,
this saves a tenth of Inception-ResNet-v2's time. Without it, XLA computes the sum of a residual
block again wherever it is needed, from the products of all blocks before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from inception_jax.nn.layers import Conv, DepthwiseConv
from inception_jax.nn.model import Model

CompilerOptions = dict[str, bool | str]

_ONEDNN = "xla_cpu_experimental_onednn_custom_call"
_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
# What is left to YNNPACK beside oneDNN. BatchNorm's many sums are slow as XLA's loops.
_PRODUCTS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_PRODUCTS_AND_REDUCTIONS = f"{_PRODUCTS},LIBRARY_FUSION_TYPE_REDUCE"
# What YNNPACK computes without oneDNN: products with what follows, convolutions, reductions.
_FUSED_PRODUCTS = ",".join(
    f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("DOT", "INDIVIDUAL_CONVOLUTION", "REDUCE")
)
_DTYPES = ("float32", "bfloat16")


def inference_options(model: Model) -> CompilerOptions:
    """Returns compiler options with which a network is fast on this CPU.

    Returns:
        Options for `jax.jit` and `Lowered.compile`. If `call_onednn` says so, the network must be
        traced with `forms.native_convolutions`.
    """
    dtypes = _dtypes(model)
    if len(dtypes) != 1:
        return {}
    (dtype,) = dtypes
    return onednn_options(dtype) or (ynnpack_options() if _gains(model, dtype) else {})


def training_options(model: Model) -> CompilerOptions:
    """Returns the compiler options for a training step; see `inference_options`.

    The options are empty for networks that compute in another dtype than float32: their step was
    not measured to be faster.
    """
    if _dtypes(model) != {"float32"}:
        return {}
    return onednn_options(training=True) or (ynnpack_options() if _gains(model, "float32") else {})


def call_onednn(options: CompilerOptions) -> bool:
    """Returns whether oneDNN computes the convolutions with these options."""
    return _ONEDNN in options


def _dtypes(model: Model) -> set[str]:
    modules = (module for _, module in nnx.iter_modules(model))
    # A dtype may be a name.
    return {jnp.dtype(m.dtype).name for m in modules if isinstance(m, (Conv, DepthwiseConv))}


def _gains(model: Model, dtype: str) -> bool:
    """Returns whether a network that computes in this dtype gains from `ynnpack_options`."""
    return model.sums_of_products and dtype == "float32"


@functools.cache
def onednn_options(dtype: str = "float32", *, training: bool = False) -> CompilerOptions:
    """Returns compiler options with which oneDNN computes convolutions of a dtype on this CPU.

    The first call for a dtype compiles a small convolution to find out whether oneDNN computes it,
    because no version number shows this.

    Args:
        dtype: dtype of the convolutions.
        training: return the options for a training step.

    Returns:
        Options for `jax.jit` and `Lowered.compile`; empty if this jaxlib cannot call oneDNN for the
        dtype.
    """
    if dtype not in _DTYPES:
        return {}
    options: CompilerOptions = {
        _ONEDNN: True,
        _YNNPACK: _PRODUCTS_AND_REDUCTIONS if training else _PRODUCTS,
    }
    order = ("NHWC", "HWIO", "NHWC")

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)

    shapes = [jax.ShapeDtypeStruct(s, dtype) for s in ((1, 8, 8, 16), (3, 3, 16, 16))]
    text = _compiled(convolve, shapes, options)
    return options if 'custom_call_target="__onednn' in text else {}


@functools.cache
def ynnpack_options() -> CompilerOptions:
    """Returns compiler options with which YNNPACK adds matrix products, in float32, on this CPU.

    The first call compiles a small sum to find out whether YNNPACK computes it with the product.

    Returns:
        Options for `jax.jit` and `Lowered.compile`; empty if this jaxlib cannot do this.
    """
    options: CompilerOptions = {_YNNPACK: _FUSED_PRODUCTS}
    x, kernel = (jax.ShapeDtypeStruct(s, "float32") for s in ((256, 64), (64, 64)))
    text = _compiled(lambda x, kernel: jax.nn.relu(x + x @ kernel), [x, kernel], options)
    return options if text.count(" fusion(") == text.count("__ynn_fusion") == 1 else {}


def _compiled(
    function: Callable, shapes: Sequence[jax.ShapeDtypeStruct], options: CompilerOptions
) -> str:
    """Returns the text of a function compiled for the CPU; "" if an option is not supported."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(function).lower(*shapes)
        try:
            return lowered.compile(compiler_options=options).as_text() or ""
        except jax.errors.JaxRuntimeError:  # an option or its value is unknown
            return ""
