"""Folds BatchNorm into convolutions, for inference."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from flax import nnx

from inception_jax.nn.model import Model

Network = TypeVar("Network", bound=nnx.Module)


@runtime_checkable
class Foldable(Protocol):
    """Protocol of modules that can fold normalisations or scales into their layers, in place."""

    def fold(self) -> None: ...


def fold(model: Network) -> Network:
    """Returns a copy for inference with its BatchNorms folded into convolutions.

    A BatchNorm is multiplied into the kernel and bias of the convolution before it, or of the
    convolution after it if that convolution is unpadded. InceptionNeXt's `gamma` and the residual
    scale of Inception-ResNets are folded in the same way. A BatchNorm between ReLUs, as in the
    blocks of xception41p and xception65p, is kept. The logits agree with those of the model up to
    rounding. If the network computes in bfloat16, the folded kernels are rounded to bfloat16.

    The copy cannot be trained or saved, because its parameters differ from those of the model.

    Args:
        model: network with parameters of float32 or wider. It is not changed.

    Raises:
        ValueError: if parameters are narrower than float32: published networks have variances
            around 1e-14, and folded kernels of low precision would lose too many digits.
    """
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if jnp.promote_types(leaf[...].dtype, jnp.float32) != leaf[...].dtype:
            raise ValueError(
                f"{'.'.join(map(str, path))} is stored in {leaf[...].dtype}: fold a network whose "
                "parameters are float32 (create_model(param_dtype=...)); dtype may be narrower"
            )
    folded = nnx.clone(model)
    for _, module in nnx.iter_modules(folded):
        if isinstance(module, Foldable):
            module.fold()
    if isinstance(folded, Model):
        folded.spec = None  # so that its weights cannot be saved
    return folded
