"""The base class of all networks: named stages, and a classifier on the last feature map."""

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
"""Maps a stage's name and feature map to the feature map with which the network continues."""

Record = Callable[[jax.Array], jax.Array]
"""Records a feature map inside a block; returns the one with which the block continues."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """The name and the arguments with which `create_model` built a network.

    A network has its spec as the attribute `spec`. `save_weights` stores the spec in the file. The
    field `name` includes the tag, if there is one. The field `readings` has the options of the
    network's class, as (name, value) pairs. For the other fields, see `Model`.
    """

    name: str
    num_classes: int
    in_channels: int
    aux_heads: bool
    width_multiplier: float
    readings: tuple[tuple[str, Any], ...]


class Maps:
    """Collects the feature maps of a network's stages, in forward order.

    Args:
        hook: see `Model.features`.

    Attributes:
        by_name: feature maps [n, h, w, c] by the names of their stages.
    """

    def __init__(self, hook: Hook | None = None):
        self.by_name: OrderedDict[str, jax.Array] = OrderedDict()  # `jax.jit` sorts a plain dict
        self._hook = hook

    def add(self, name: str, map: jax.Array) -> jax.Array:
        """Records a stage's feature map, or what the hook of `Model.features` returns for it.

        Returns:
            The recorded feature map, with which the network continues.
        """
        map = map if self._hook is None else self._hook(name, map)
        self.by_name[name] = map
        return map


class Model(Habits):
    """Base class of networks, which map images [n, h, w, c] to logits [n, num_classes].

    A subclass defines `_body` and its layers, of which `dropout` and `fc` are the classifier. A
    network with a different classifier overrides `embedding` or `logits`.

    Constructors take the number of classes, `num_classes`, the number of the images' channels,
    `in_channels`, and these keywords:

    - `width_multiplier`: scales every channel count (`layers.channel_scaler`).
    - `aux_heads`: build auxiliary classifiers, if the network has any; in training, their logits
      are returned too.
    - `bn_eps`: epsilon of every BatchNorm, added to the variance.
    - `bn_momentum`: share of the old running statistics that a training step keeps.
    - `dtype`: dtype in which the network computes.
    - `param_dtype`: dtype in which parameters are stored.
    - `rngs`: source of the initial parameters.

    A network's own options are documented in its class.

    Attributes:
        min_size: smallest height and width of images, in pixels.
        aux_names: names of the auxiliary classifiers, both as attributes and in the output. Each
            attribute is None, or a layer that is called with a stage's feature map and `rngs`.
        aux_stages: names of the stages whose feature maps the auxiliary classifiers take, in the
            order of `aux_names`.
        classifiers: paths of the layers that have one output for each class.
        taps: names of the stages for detectors and segmenters, one for each feature map size; see
            `inception_jax.features`. If timm has the network, they are the stages that its
            `features_only` returns.
        inner_taps: those of `taps` that are inside a block, not at the end of one.
        sums_of_products: whether the network has long chains of blocks that add a 1x1 convolution
            without BatchNorm to their input; see `cpu_libraries`.
        transform_input: whether the network first maps the images from ImageNet's normalisation
            (mean and standard deviation) to [-1, 1].
        deterministic: True in evaluation, False in training. `train`, `eval` and `nnx.view` set it,
            as they set the attribute `deterministic` of `nnx.Dropout`.
        spec: name and arguments with which `create_model` built the network; None if the network
            was built directly from its class.
        info: `ModelInfo` for `spec.name`. If a loaded weight file states the preprocessing, `info`
            has this preprocessing. None if the network was built directly from its class.
        classes: names of the classes; None if unknown.
        training: how the weights were trained, as a mapping with the keys `dataset`, `recipe` and
            `result`; None if unknown.
        layer_order: paths of all layers, and of the blocks that contain them, in the order of their
            definition. The numbers in the names of Keras and TF-slim follow this order.
            `create_model` records it, because `nnx.merge` and `nnx.eval_shape` sort attributes by
            name.
    """

    min_size: ClassVar[int]
    aux_names: ClassVar[tuple[str, ...]] = ()
    aux_stages: tuple[str, ...] = ()
    classifiers: ClassVar[tuple[str, ...]] = ("fc",)
    taps: tuple[str, ...] = ()
    inner_taps: tuple[str, ...] = ()
    transform_input: bool = False
    sums_of_products: ClassVar[bool] = False
    deterministic: bool = True
    spec: Spec | None = None
    info: Any = None  # a ModelInfo of the registry, which this package does not import
    classes: tuple[str, ...] | None = None
    training: Mapping[str, Any] | None = None
    layer_order: tuple[str, ...] = ()
    in_channels: int
    dropout: nnx.Dropout
    fc: Linear

    def __repr__(self) -> str:
        """Returns one line with the class, the name and the number of parameters.

        `nnx.display(model)` shows every layer, and `inception_jax.summary` shows the stages.
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
        """Sets `deterministic` unless None; called by `nnx.view(model, deterministic=...)`."""
        if deterministic is not None:
            self.deterministic = deterministic

    def eval_view(self) -> Self:
        """Returns a view of the network in evaluation mode.

        The view shares the network's arrays. The network itself is unchanged.
        """
        options = dict(deterministic=True, use_running_average=True)
        return nnx.view(self, **options, raise_if_not_found=False)

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        """Computes all stages and adds their feature maps to `maps`; every network implements it.

        Args:
            x: images [n, h, w, c].
            maps: collects each stage's feature map.
            rngs: random numbers with a stream `dropout`; needed only in training with stochastic
                depth.
        """
        raise NotImplementedError

    def features(
        self, images: jax.Array, *, rngs: nnx.Rngs | None = None, hook: Hook | None = None
    ) -> OrderedDict[str, jax.Array]:
        """Returns every stage's feature map [n, h, w, c] by its name, in forward order.

        Args:
            images: floats [n, h, w, c], normalised as `model_info` says.
            rngs: random numbers with a stream `dropout`; needed only in training with stochastic
                depth.
            hook: called with each stage's name and feature map. Its return value replaces the
                feature map, in the result and as the input of the next stages.

        Raises:
            ValueError: for images of a wrong shape or type, see `layers.check_images`.
        """
        check_images(images, self.min_size, self.in_channels)
        maps = Maps(hook)
        self._body(imagenet_to_inception(images) if self.transform_input else images, maps, rngs)
        return maps.by_name

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns the classifier's input for images, [n, d]: the mean of the last feature map.

        Args:
            images: floats [n, h, w, c], normalised as `model_info` says.
        """
        return self.embedding(self.features(images))

    def embedding(self, maps: dict[str, jax.Array], rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns the classifier's input, [n, d], for feature maps from `features`."""
        return global_avg_pool(next(reversed(maps.values())))

    def logits(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Classifies an embedding [n, d].

        Returns:
            Logits [n, num_classes]; for a network without classes, the input of the last layer.
        """
        return self.fc(self._pre_logits(embedding, rngs=rngs))

    def _pre_logits(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns the input of the last layer, [n, d], for an embedding."""
        return self.dropout(embedding, rngs=rngs)

    def classify(
        self, maps: dict[str, jax.Array], *, rngs: nnx.Rngs | None = None
    ) -> jax.Array | dict[str, jax.Array]:
        """Classifies the feature maps that `features` returned; for the result see `__call__`."""
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
            rngs: random numbers with a stream `dropout`; needed only in training.

        Returns:
            Logits [n, num_classes]; for a network without classes, the pooled features [n, d]. In
            training with auxiliary classifiers, a dict with the key `logits` and one key for each
            auxiliary classifier, all with values [n, num_classes].

        Raises:
            ValueError: for images of a wrong shape or type, see `layers.check_images`.
        """
        return self.classify(self.features(images, rngs=rngs), rngs=rngs)


def layer_paths(module: nnx.Module, prefix: str = "") -> Iterator[str]:
    """Yields the paths of all modules inside a newly built one, in the order of their definition.

    A path is a string such as `Mixed_5b.branch1x1.conv`. Blocks have paths too, not only layers.
    `prefix` is put in front of each path.
    """
    children = enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    for name, child in children:
        if isinstance(child, nnx.Module):
            yield f"{prefix}{name}"
            yield from layer_paths(child, f"{prefix}{name}.")
