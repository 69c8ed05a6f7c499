"""What every network of the family has."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Spec:
    """How `create_model` built a network; kept on it as `spec` and stored with its weights."""

    name: str
    num_classes: int
    in_channels: int
    aux_heads: bool
    width_multiplier: float
    readings: tuple[tuple[str, Any], ...]


class Model(nnx.Module):
    """A network: images [n, h, w, c] to logits [n, num_classes].

    Attributes:
        min_size: smallest height and width that it takes, in pixels.
        aux_names: attributes, and names in the output, of its auxiliary classifiers.
        classifiers: paths of the layers whose size is the number of classes.
        taps: the stages that a detector or a segmenter takes, one a size of map, where timm taps
            the networks that it has; see `inception_jax.features`.
        inner_taps: those of them that are no stage of their own, but inside a block or before one.
        spec: how `create_model` built it; None for a network built by its class.
        layer_order: paths of all its layers in the order of their definition, which the numbered
            names of Keras and TF-slim follow. Recorded by `create_model`, because `nnx.merge` and
            `nnx.eval_shape` sort attributes by name.
    """

    min_size: ClassVar[int]
    aux_names: ClassVar[tuple[str, ...]] = ()
    classifiers: ClassVar[tuple[str, ...]] = ("fc",)
    taps: tuple[str, ...] = ()
    inner_taps: tuple[str, ...] = ()
    spec: Spec | None = None
    layer_order: tuple[str, ...] = ()
    in_channels: int

    def __repr__(self) -> str:
        """A line; `nnx.display(model)` shows every layer, `inception_jax.summary` the stages."""
        spec = self.spec
        if spec is None:
            return f"{type(self).__name__}()"
        params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))
        width = "" if spec.width_multiplier == 1 else f" x{spec.width_multiplier:g}"
        return f"{type(self).__name__}({spec.name!r}{width}, {params:,} parameters)"

    __str__ = __repr__

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns every stage's map [n, h, w, c] by its name, in forward order."""
        raise NotImplementedError

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns the pooled features before the classifier, [n, d]."""
        raise NotImplementedError

    def __call__(
        self, images: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array | dict[str, jax.Array]:
        raise NotImplementedError


def layer_paths(module: nnx.Module, prefix: str = "") -> Iterator[str]:
    """Yields the paths of all layers below a new module in the order of their definition."""
    children = enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    for name, child in children:
        if isinstance(child, nnx.Module):
            yield f"{prefix}{name}"
            yield from layer_paths(child, f"{prefix}{name}.")
