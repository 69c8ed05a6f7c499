"""The attributes and methods that users of timm expect of a network.

They are `num_classes`, `num_features`, `get_classifier`, `reset_classifier`, `forward_features` and
`forward_head`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from inception_jax import words
from reference_torch.layers import Linear
from reference_torch.weights import tensors_of


class Habits(nn.Module):
    """Base class with timm's names for attributes and methods.

    If code asks for an attribute that only another library has, the AttributeError names this
    library's equivalent.
    """

    aux_names: ClassVar[tuple[str, ...]]
    classifiers: ClassVar[tuple[str, ...]]

    @property
    def num_classes(self) -> int:
        """Size of the output; 0 for a network that returns its pooled features."""
        return self.get_classifier().out_features

    @property
    def num_features(self) -> int:
        """Size of the pooled features that `embed` returns."""
        return self.get_classifier().in_features

    def get_classifier(self) -> Linear:
        """Returns the last layer, which has one output for each class."""
        return self.get_submodule(self.classifiers[0])  # type: ignore[return-value]

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the classifier in place, and auxiliary classifiers if there are any.

        Args:
            num_classes: size of the output. With 0, the network returns its pooled features and has
                no auxiliary classifiers.

        Raises:
            ValueError: if `num_classes` is not an integer of at least 0.
        """
        words.check_counts(num_classes, 1)
        if not num_classes:
            for name in self.aux_names:
                setattr(self, name, None)
        for path in self.classifiers:
            parent, _, leaf = path.rpartition(".")
            module = getattr(self, parent) if parent else self
            if module is not None:
                setattr(module, leaf, getattr(module, leaf).with_outputs(int(num_classes)))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the last feature map [n, c, h, w], the input of `forward_head`."""
        own: Any = self
        return next(reversed(own.features(images).values()))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Classifies the last feature map.

        `inception_jax.nn.habits.Habits` documents the arguments and the result.
        """
        own: Any = self
        embedding = own.embedding({"last": x})
        return (own._pre_logits if pre_logits else own.logits)(embedding)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads a state dict of tensors, or of NumPy arrays as from `inception_jax.to_torch`."""
        return super().load_state_dict(tensors_of(state_dict), strict=strict, assign=assign)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(words.about_attribute(self, name)) from None
