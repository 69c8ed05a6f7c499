"""The attributes and methods that users of timm expect of a network.

They are `num_classes`, `num_features`, `get_classifier`, `reset_classifier`, `forward_features` and
`forward_head`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import jax
from flax import nnx

from inception_jax import words
from inception_jax.nn.layers import Linear


class Habits(nnx.Module):
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
        return _at(self, self.classifiers[0])

    def reset_classifier(self, num_classes: int, rngs: nnx.Rngs | None = None) -> None:
        """Replaces the classifier in place, and the auxiliary classifiers if there are any.

        Class names and training results are removed from the network. Create a new optimizer
        afterwards.

        Args:
            num_classes: size of the output. With 0 the network returns its pooled features, and has
                no auxiliary classifiers.
            rngs: random numbers for the new parameters; None: `nnx.Rngs(0)`.

        Raises:
            ValueError: for a size that is not a whole number, or is negative.
        """
        words.check_counts(num_classes, 1)
        num_classes = int(num_classes)
        rngs = nnx.Rngs(0) if rngs is None else rngs
        if not num_classes:
            for name in self.aux_names:
                setattr(self, name, nnx.data(None))
        for path in self.classifiers:
            parent, _, leaf = path.rpartition(".")
            module = _at(self, parent) if parent else self
            if module is not None:
                setattr(module, leaf, getattr(module, leaf).with_outputs(num_classes, rngs))
        self._forget_classes(num_classes)

    def _forget_classes(self, num_classes: int) -> None:
        own: Any = self
        if own.spec is not None:
            aux = own.spec.aux_heads and num_classes > 0
            own.spec = dataclasses.replace(own.spec, num_classes=num_classes, aux_heads=aux)
            own.info = dataclasses.replace(own.info, num_classes=num_classes)
        own.classes = own.training = None

    def forward_features(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns the last feature map [n, h, w, c], the input of `forward_head`."""
        own: Any = self
        return next(reversed(own.features(images, rngs=rngs).values()))

    def forward_head(
        self, x: jax.Array, pre_logits: bool = False, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Classifies the last feature map.

        Args:
            x: result of `forward_features`, [n, h, w, c].
            pre_logits: return the input of the last layer, [n, d]: the pooled features, or for
                InceptionNeXt the hidden layer of its head.
            rngs: random numbers with a stream `dropout`; needed only in training.

        Returns:
            Logits [n, num_classes]; with `pre_logits`, [n, d].
        """
        own: Any = self
        embedding = own.embedding({"last": x}, rngs=rngs)
        return (own._pre_logits if pre_logits else own.logits)(embedding, rngs=rngs)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(words.about_attribute(self, name))


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
