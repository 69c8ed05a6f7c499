"""Compiler options with which XLA's CPU backend calls oneDNN for convolutions.

jaxlib includes oneDNN for x86 processors from version 0.11 on, disabled by default. With it,
Inception V3 classifies a sixth faster in float32. On processors with AVX512-BF16, it classifies
twice as fast in bfloat16. Matrix products stay with XLA's own library, which is faster for them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from inception_jax.nn.layers import Conv, DepthwiseConv

CompilerOptions = dict[str, bool | str]

_OPTIONS: CompilerOptions = {
    "xla_cpu_experimental_onednn_custom_call": True,
    # Only matrix products stay with YNNPACK; no other operation uses it.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}
_CALL = 'custom_call_target="__onednn'
_DTYPES = ("float32", "bfloat16")
_MANY_WEIGHTS = 15_000_000  # Inception V1 has 6 million, V3 22 million


def inference_options(model: nnx.Module) -> CompilerOptions:
    """Returns compiler options with which oneDNN computes a network's convolutions on this CPU.

    Returns:
        Options for `jax.jit` and `Lowered.compile`; empty if this jaxlib cannot call oneDNN for the
        dtype in which the network computes.
    """
    layers = _convolutions(model)
    dtypes = {jnp.dtype(layer.dtype).name for layer in layers}  # a dtype may be a name
    return compiler_options(dtypes.pop()) if len(dtypes) == 1 else {}


def training_options(model: nnx.Module) -> CompilerOptions:
    """Returns the compiler options for a training step; see `inference_options`.

    The options are empty unless a step was measured to be faster with oneDNN: in float32, for
    networks with many weights and few depthwise convolutions. With four images of 299x299 pixels, a
    step of Inception-ResNet-v2 takes a sixth less time, one of V4 a twentieth less, and one of V3
    slightly less. A step of Xception would take a sixth more.
    """
    layers = _convolutions(model)
    if any(jnp.dtype(layer.dtype) != jnp.float32 for layer in layers):
        return {}
    depthwise = sum(isinstance(layer, DepthwiseConv) for layer in layers)
    weights = sum(layer.kernel.get_value().size for layer in layers)
    faster = weights >= _MANY_WEIGHTS and 8 * depthwise < len(layers)
    return compiler_options() if faster else {}


def _convolutions(model: nnx.Module) -> list[Conv | DepthwiseConv]:
    modules = (module for _, module in nnx.iter_modules(model))
    return [module for module in modules if isinstance(module, (Conv, DepthwiseConv))]


@functools.cache
def compiler_options(dtype: str = "float32") -> CompilerOptions:
    """Returns compiler options with which oneDNN computes convolutions of a dtype on this CPU.

    The first call for a dtype compiles a small convolution to find out whether oneDNN computes it,
    because no version number shows this.

    Returns:
        Options for `jax.jit` and `Lowered.compile`; empty if this jaxlib cannot call oneDNN for the
        dtype.
    """
    if dtype not in _DTYPES:
        return {}
    cpu = jax.local_devices(backend="cpu")[0]
    x, kernel = (jax.ShapeDtypeStruct(s, dtype) for s in ((1, 8, 8, 16), (3, 3, 16, 16)))

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        order = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)

    with jax.default_device(cpu):
        lowered = jax.jit(convolve).lower(x, kernel)
        try:
            program = lowered.compile(compiler_options=_OPTIONS)
        except jax.errors.JaxRuntimeError:  # an option or its value is unknown
            return {}
    return _OPTIONS if _CALL in (program.as_text() or "") else {}
