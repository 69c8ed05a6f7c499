"""The base class of all networks: named stages, and a classifier on the last feature map."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from reference_torch.habits import Habits
from reference_torch.layers import Linear, check_images, global_avg_pool, imagenet_to_inception

Hook = Callable[[str, torch.Tensor], torch.Tensor]
"""Maps a stage's name and feature map to the feature map with which the network continues."""


class Maps:
    """Collects the feature maps of a network's stages, in forward order.

    Attributes:
        by_name: feature maps [n, c, h, w] by the names of their stages.
    """

    def __init__(self, hook: Hook | None = None):
        self.by_name: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._hook = hook

    def add(self, name: str, map: torch.Tensor) -> torch.Tensor:
        """Records a stage's feature map, or what the hook of `Model.features` returns for it.

        Returns:
            The recorded feature map, with which the network continues.
        """
        map = map if self._hook is None else self._hook(name, map)
        self.by_name[name] = map
        return map


class Model(Habits):
    """Base class of networks, which map images [n, c, h, w] to logits [n, num_classes].

    `inception_jax.nn.model.Model` documents the attributes and methods. PyTorch's attribute
    `training` replaces `in_training`.
    """

    min_size: ClassVar[int]
    aux_names: ClassVar[tuple[str, ...]] = ()
    aux_stages: tuple[str, ...] = ()
    classifiers: ClassVar[tuple[str, ...]] = ("fc",)
    taps: tuple[str, ...] = ()
    inner_taps: tuple[str, ...] = ()
    transform_input: bool = False
    in_channels: int
    dropout: nn.Dropout
    fc: Linear

    def _body(self, x: torch.Tensor, maps: Maps) -> None:
        """Computes all stages and adds their feature maps to `maps`; every network implements it.

        Args:
            x: images [n, c, h, w].
            maps: collects each stage's feature map.
        """
        raise NotImplementedError

    def features(
        self, images: torch.Tensor, *, hook: Hook | None = None
    ) -> OrderedDict[str, torch.Tensor]:
        """Returns every stage's feature map [n, c, h, w] by its name, in forward order.

        Args:
            images: floats [n, c, h, w].
            hook: function that is called with each stage's name and feature map. Its return value
                replaces the feature map, in the result and as the input of the next stages.

        Raises:
            ValueError: for images of a wrong shape or type, see `layers.check_images`.
        """
        check_images(images, self.min_size, self.in_channels)
        maps = Maps(hook)
        self._body(imagenet_to_inception(images) if self.transform_input else images, maps)
        return maps.by_name

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the classifier's input for images, [n, d]: the mean of the last feature map."""
        return self.embedding(self.features(images))

    def embedding(self, maps: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the classifier's input [n, d] for feature maps that `features` returned."""
        return global_avg_pool(next(reversed(maps.values())))

    def logits(self, embedding: torch.Tensor) -> torch.Tensor:
        """Classifies an embedding [n, d].

        Returns:
            Logits [n, num_classes]; for a network without classes, the input of the last layer.
        """
        return self.fc(self._pre_logits(embedding))

    def _pre_logits(self, embedding: torch.Tensor) -> torch.Tensor:
        """Returns the input of the last layer, [n, d], for an embedding."""
        return self.dropout(embedding)

    def classify(self, maps: dict[str, torch.Tensor]) -> torch.Tensor | dict[str, torch.Tensor]:
        """Classifies the feature maps that `features` returned; for the result see `forward`."""
        logits = self.logits(self.embedding(maps))
        heads = {name: getattr(self, name) for name in self.aux_names}
        if not self.training or not heads or None in heads.values():
            return logits
        stages = zip(heads.items(), self.aux_stages, strict=True)
        return {"logits": logits, **{name: head(maps[stage]) for (name, head), stage in stages}}

    def forward(self, images: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Classifies images.

        Returns:
            Logits [n, num_classes]; for a network without classes, the pooled features [n, d]. In
            training with auxiliary classifiers, a dict with the key `logits` and one key for each
            auxiliary classifier, all with values [n, num_classes].
        """
        return self.classify(self.features(images))
