"""The information that a weight file stores about its network, and its tensors' checksum."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import warnings
from typing import Any

import numpy as np

from inception_jax.nn.model import Model
from inception_jax.registry import Crop, FrozenDict, Interpolation, model_info
from inception_jax.version import __version__
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError

_CROPS, _INTERPOLATIONS = Crop.__args__, Interpolation.__args__  # pyright: ignore


@dataclasses.dataclass(frozen=True)
class Facts:
    """Everything that is needed to use a network, except the options with which it was built.

    Attributes:
        preprocessing: preprocessing of images, see `ModelInfo.preprocessing`.
        classes: names of the classes; None if unknown.
        training: how the network was trained, as a dict with the keys `dataset`, `recipe` and
            `result`; None if it was trained by other code.
        version: version of the library that wrote the file.
    """

    preprocessing: dict[str, Any]
    classes: tuple[str, ...] | None
    training: dict[str, Any] | None
    version: str

    @classmethod
    def of(cls, model: Model) -> Facts:
        """Returns the facts about a network."""
        training = None if model.training is None else dict(model.training)
        return cls(model.info.preprocessing, model.classes, training, __version__)

    @classmethod
    def from_json(cls, found: Any) -> Facts | None:
        """Reads the facts from the metadata of a weight file.

        Args:
            found: decoded JSON; None for a file of an older version of the library, which stored no
                facts.

        Returns:
            The facts; None if `found` is None.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if the JSON is invalid.
        """
        if found is None:
            return None
        preprocessing = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in found["preprocessing"].items()
        }
        _check(preprocessing)
        classes = found["classes"]
        if classes is not None:
            classes = tuple(classes)
            if not all(isinstance(name, str) for name in classes):
                raise TypeError("a class name is not text")
        training = found["training"]
        return cls(preprocessing, classes, None if training is None else dict(training),
                   str(found["version"]))  # fmt: skip

    def tell(self, model: Model) -> None:
        """Sets `info`, `classes` and `training` of a network from these facts."""
        assert model.spec is not None
        info = dataclasses.replace(model_info(model.spec.name), **self.preprocessing)
        if len(info.mean) == 3:  # unless the file already describes grey images
            info = info.for_channels(model.spec.in_channels)
        model.info = dataclasses.replace(info, num_classes=model.spec.num_classes)
        fits = self.classes is not None and len(self.classes) == model.spec.num_classes
        model.classes = self.classes if fits else None
        model.training = None if self.training is None else _frozen(self.training)


def warn_of_old_file(name: str, source: object) -> None:
    """Warns that a file of an older library version lacks preprocessing and class names.

    Args:
        name: name of the network whose preprocessing and class names are assumed.
        source: path of the file.
    """
    warnings.warn(
        f"{source} was written by an older version, which stored no image size, crop, "
        f"normalisation and class names: those of {name} are assumed",
        stacklevel=3,
    )


def checksum(tensors: Tensors) -> str:
    """Returns one SHA-256 of all tensors' names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return f"sha256:{digest.hexdigest()}"


def verify(stated: Any, tensors: Tensors, name: str) -> None:
    """Compares the checksum that a file states with the checksum of its tensors.

    Args:
        stated: checksum that the file states; None: nothing is compared.
        tensors: tensors as read from the file.
        name: name of the file, for the error message.

    Raises:
        WeightsError: if the checksums differ.
    """
    if stated is not None and stated != checksum(tensors):
        raise WeightsError(
            f"{name} is damaged: its tensors are not those that were written (their checksum "
            "differs). Copy or download it again"
        )


def _check(preprocessing: dict[str, Any]) -> None:
    known = set(model_info("inception_v3").preprocessing)
    if set(preprocessing) - known:
        raise KeyError(f"unknown {', '.join(sorted(set(preprocessing) - known))}")
    size, pct = preprocessing["input_size"], preprocessing["crop_pct"]
    right = (
        isinstance(size, int) and 0 < size < 1 << 16
        and isinstance(pct, float | int) and 0 < pct <= 2
        and preprocessing["crop"] in _CROPS
        and preprocessing["interpolation"] in _INTERPOLATIONS
        and preprocessing["channel_order"] in ("rgb", "bgr")
        and preprocessing["input_range"] in (1, 255)
        and all(math.isfinite(x) for x in preprocessing["mean"])
        and all(math.isfinite(x) and x > 0 for x in preprocessing["std"])
    )  # fmt: skip
    if not right:
        raise ValueError(f"preprocessing that does not exist: {preprocessing}")


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return FrozenDict({key: _frozen(item) for key, item in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
