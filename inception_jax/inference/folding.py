"""BatchNorm taken into the convolutions, for inference."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from flax import nnx

from inception_jax.nn.model import Model

Network = TypeVar("Network", bound=nnx.Module)


@runtime_checkable
class Foldable(Protocol):
    """A module that can take normalisations into its convolutions, in place."""

    def fold(self) -> None: ...


def fold(model: Network) -> Network:
    """Returns a copy for inference whose BatchNorms are part of the convolutions around them.

    Each scales the kernel of the convolution before it, or of an unpadded one after it, and adds to
    its bias; so do InceptionNeXt's `gamma` and the residual scale. Where a ReLU stands on either
    side (the blocks of xception41p and xception65p) it stays. Logits agree with the model's to
    rounding; in bfloat16 it is the folded kernels that are rounded.

    The copy has other parameters than the model, so it can be neither trained nor saved.

    Args:
        model: with parameters of float32 or wider. Left as it is.

    Raises:
        ValueError: if parameters are narrower than float32: published networks have variances
            around 1e-14, whose kernels would lose what is left of them.
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
        folded.spec = None  # by which weights would be saved
    return folded
