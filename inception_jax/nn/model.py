"""The base class of all networks: stages as features, and the head on the last stage."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self

import jax
from flax import nnx

from inception_jax.nn.habits import Habits
from inception_jax.nn.layers import Linear, check_images, global_avg_pool, imagenet_to_inception

Hook = Callable[[str, jax.Array], jax.Array]
"""Called with a stage's name and map; the network continues with the map that it returns."""

Record = Callable[[jax.Array], jax.Array]
"""Records a map inside a block; the block continues with the map that it returns."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """How `create_model` built a network; its attribute `spec`, also stored with its weights."""

    name: str
    num_classes: int
    in_channels: int
    aux_heads: bool
    width_multiplier: float
    readings: tuple[tuple[str, Any], ...]


class Maps:
    """The maps of a network's stages, in forward order, as its `_body` computes them.

    Attributes:
        by_name: each stage's map [n, h, w, c].
    """

    def __init__(self, hook: Hook | None = None):
        self.by_name: OrderedDict[str, jax.Array] = OrderedDict()  # `jax.jit` sorts a plain dict
        self._hook = hook

    def add(self, name: str, map: jax.Array) -> jax.Array:
        """Records a stage's map, and returns the map with which the network continues."""
        map = map if self._hook is None else self._hook(name, map)
        self.by_name[name] = map
        return map


class Model(Habits):
    """A network: images [n, h, w, c] to logits [n, num_classes].

    A network defines its layers, with `dropout` and `fc` as its classifier, and its `_body`. A
    network with another head overrides `embedding` or `logits`.

    All constructors take `num_classes` and `in_channels`, the sizes of output and input, and these
    keywords:

    - `width_multiplier`: scales every channel count (`layers.channel_scaler`).
    - `aux_heads`: build auxiliary classifiers; in training, their logits are returned too.
    - `bn_eps`: added to the variance in every BatchNorm.
    - `bn_momentum`: share of the running statistics that a step keeps.
    - `dtype`: dtype in which the network computes.
    - `param_dtype`: dtype in which parameters are stored.
    - `rngs`: source of the initial parameters.

    A network's own options are documented in its class.

    Attributes:
        min_size: smallest height and width of images, in pixels.
        aux_names: attributes of the auxiliary classifiers, and their names in the output. Each
            attribute is None, or is called with the map of its stage and `rngs`.
        aux_stages: the stages that they classify, in the same order.
        classifiers: paths of the layers whose size is the number of classes.
        taps: the stages for detectors and segmenters, one for each map size, as in timm if it has
            the network; see `inception_jax.features`.
        inner_taps: those taps that are not stages, but inside a block or before one.
        transform_input: whether images, normalised with ImageNet's mean and deviation, are mapped
            to [-1, 1] first.
        deterministic: True in evaluation; set by `train`, `eval` and `nnx.view`, as for
            `nnx.Dropout`.
        spec: how `create_model` built it; None for a network built by its class.
        info: a `ModelInfo`: the facts of its tag, overridden by those of its weight file; None for
            a network built by its class.
        classes: names of the outputs; None if unknown.
        training: how it was trained, if its weight file says so: `dataset`, `recipe`, `result`.
        layer_order: paths of all its layers in the order of their definition, which the numbered
            names of Keras and TF-slim follow. Recorded by `create_model`, because `nnx.merge` and
            `nnx.eval_shape` sort attributes by name.
    """

    min_size: ClassVar[int]
    aux_names: ClassVar[tuple[str, ...]] = ()
    aux_stages: tuple[str, ...] = ()
    classifiers: ClassVar[tuple[str, ...]] = ("fc",)
    taps: tuple[str, ...] = ()
    inner_taps: tuple[str, ...] = ()
    transform_input: bool = False
    deterministic: bool = True
    spec: Spec | None = None
    info: Any = None  # a ModelInfo; the registry defines it, which this package does not import
    classes: tuple[str, ...] | None = None
    training: Mapping[str, Any] | None = None
    layer_order: tuple[str, ...] = ()
    in_channels: int
    dropout: nnx.Dropout
    fc: Linear

    def __repr__(self) -> str:
        """Returns one line.

        `nnx.display(model)` shows every layer, `inception_jax.summary` the stages.
        """
        spec = self.spec
        if spec is None:
            return f"{type(self).__name__}()"
        params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))
        width = "" if spec.width_multiplier == 1 else f" x{spec.width_multiplier:g}"
        return f"{type(self).__name__}({spec.name!r}{width}, {params:,} parameters)"

    __str__ = __repr__

    @property
    def in_training(self) -> bool:
        """Whether dropout is active and the logits of auxiliary classifiers are returned."""
        return not self.deterministic

    def set_view(self, deterministic: bool | None = None) -> None:
        """Takes its part of `nnx.view(model, deterministic=...)`."""
        if deterministic is not None:
            self.deterministic = deterministic

    def eval_view(self) -> Self:
        """Returns a view in evaluation mode, which shares the arrays; the network is unchanged."""
        options = dict(deterministic=True, use_running_average=True)
        return nnx.view(self, **options, raise_if_not_found=False)

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        """Computes all stages and adds their maps; every network has its own.

        Args:
            x: images [n, h, w, c].
            maps: where to add each stage's map.
            rngs: with a stream `dropout`, for stochastic depth in training.
        """
        raise NotImplementedError

    def features(
        self, images: jax.Array, *, rngs: nnx.Rngs | None = None, hook: Hook | None = None
    ) -> OrderedDict[str, jax.Array]:
        """Returns every stage's map [n, h, w, c] by its name, in forward order.

        Args:
            images: floats [n, h, w, c], normalised as `model_info` says.
            rngs: with a stream `dropout`; needed only in training with stochastic depth.
            hook: called with each stage's name and map. Its return value replaces the map, in the
                result and in the stages after it.

        Raises:
            ValueError: for images of a wrong shape or type, see `layers.check_images`.
        """
        check_images(images, self.min_size, self.in_channels)
        maps = Maps(hook)
        self._body(imagenet_to_inception(images) if self.transform_input else images, maps, rngs)
        return maps.by_name

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns the classifier's input for images, the mean of the last map, [n, d].

        Args:
            images: floats [n, h, w, c], normalised as `model_info` says.
        """
        return self.embedding(self.features(images))

    def embedding(self, maps: dict[str, jax.Array], rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns the classifier's input, [n, d], given the maps of `features`."""
        return global_avg_pool(next(reversed(maps.values())))

    def logits(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns logits [n, num_classes] of an embedding [n, d]; the latter without classes."""
        return self.fc(self._pre_logits(embedding, rngs=rngs))

    def _pre_logits(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns the input of the last layer, [n, d]."""
        return self.dropout(embedding, rngs=rngs)

    def classify(
        self, maps: dict[str, jax.Array], *, rngs: nnx.Rngs | None = None
    ) -> jax.Array | dict[str, jax.Array]:
        """Classifies the maps of `features`; see `__call__` for arguments and result."""
        logits = self.logits(self.embedding(maps, rngs=rngs), rngs=rngs)
        heads = {name: getattr(self, name) for name in self.aux_names}
        if not self.in_training or not heads or None in heads.values():
            return logits
        stages = zip(heads.items(), self.aux_stages, strict=True)
        return {
            "logits": logits,
            **{name: head(maps[stage], rngs=rngs) for (name, head), stage in stages},
        }

    def __call__(
        self, images: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array | dict[str, jax.Array]:
        """Classifies images.

        Args:
            images: floats [n, h, w, c], normalised as `model_info` says.
            rngs: with a stream `dropout`; needed only in training.

        Returns:
            Logits [n, num_classes]; without classes the pooled features [n, d]. In training with
            auxiliary classifiers, a dict of `logits` and the auxiliary logits by name, each
            [n, num_classes].

        Raises:
            ValueError: for images of a wrong shape or type, see `layers.check_images`.
        """
        return self.classify(self.features(images, rngs=rngs), rngs=rngs)


def layer_paths(module: nnx.Module, prefix: str = "") -> Iterator[str]:
    """Yields the paths of all layers in a newly built module, in the order of their definition."""
    children = enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    for name, child in children:
        if isinstance(child, nnx.Module):
            yield f"{prefix}{name}"
            yield from layer_paths(child, f"{prefix}{name}.")
