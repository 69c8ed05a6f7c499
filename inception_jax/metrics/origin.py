"""Records how features were computed. Only features of the same origin can be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from inception_jax.nn.model import Model
from inception_jax.weights.facts import checksum
from inception_jax.weights.saving import to_torch

_LAST = {64: "Conv2d_2b_3x3", 192: "Conv2d_4a_3x3", 768: "Mixed_6e", 2048: "Mixed_7c"}
NETWORK = "inception_v3.fid"
_SHOWN = 12  # digits of a fingerprint in messages


@dataclasses.dataclass(frozen=True)
class Origin:
    """How features were computed.

    Attributes:
        preset: name of the preset; see `presets.PRESETS`.
        resize: rule by which images were resized: a name in `resizing.resized`, or a description.
        dims: number of features; for FID's network, the option `dims` of `Extractor`.
        weights: fingerprint of the weights; see `fingerprint`.
        network: name of the network or function that computed the features.
    """

    preset: str
    resize: str
    dims: int
    weights: str
    network: str = NETWORK

    def __str__(self) -> str:
        own = "" if self.network == NETWORK else f"features of {self.network}, "
        return (
            f"{own}preset {self.preset}, resize {self.resize}, dims {self.dims}, "
            f"weights {short(self.weights)}"
        )

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Returns the fields as arrays by name, for a file of statistics or of features."""
        return {name: np.asarray(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Origin | None:
        """Reads how the features in a file were computed, from the arrays of `as_arrays`.

        Args:
            arrays: arrays of a file of statistics or of features, by name.

        Returns:
            The `Origin`; None if an array other than `network` is missing. Without `network`, the
            features are of FID's network.

        Raises:
            ValueError: if an array does not hold a single value, or if `dims` is not a number.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not names - {"network"} <= arrays.keys():
            return None
        values: dict[str, Any] = {name: arrays[name].item() for name in names & arrays.keys()}
        values["dims"] = int(values["dims"])
        return cls(**values)


def check_comparable(
    a: Origin | None,
    b: Origin | None,
    names: tuple[str | None, str | None] = (None, None),
) -> None:
    """Checks that two sets of features were computed in the same way, if this is known of both.

    Args:
        a: how one set was computed; None if unknown.
        b: how the other set was computed; None if unknown.
        names: names of the sets, if they have any.

    Raises:
        ValueError: if the origins differ; the message shows both.
    """
    if a is None or b is None or a == b:
        return
    differ = [f.name for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name)]
    if "dims" in differ and "weights" in differ:
        differ.remove("weights")  # the fingerprint covers only the layers up to these features
    one, other = names[0] or "one set", names[1] or "the other"
    raise ValueError(
        f"features of different {' and '.join(differ)} cannot be compared: {one} has {a}; "
        f"{other} has {b}. Compute both with the same {' and '.join(differ)}"
    )


def short(weights: str) -> str:
    """Returns the first digits of a fingerprint, for messages."""
    return weights.removeprefix("sha256:")[:_SHOWN]


def fingerprint(model: Model, dims: int) -> str:
    """Returns a SHA-256 checksum of the weights that the features depend on.

    The checksum is computed from float32 values, with the names and axes that the tensors have in a
    PyTorch file. So files with the same weights have the same fingerprint, whatever their layout.

    Args:
        model: an Inception V3 network.
        dims: number of features, which determines the last layer that is included.
    """
    modules = dict.fromkeys(path.partition(".")[0] for path in model.layer_order)
    trunk = [module for module in modules if module not in ("AuxLogits", "fc")]
    needed = tuple(f"{module}." for module in trunk[: trunk.index(_LAST[dims]) + 1])
    return fingerprint_of(
        {
            name: tensor
            for name, tensor in to_torch(model).items()
            if name.startswith(needed) and not name.endswith("num_batches_tracked")
        }
    )


def fingerprint_of(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns a SHA-256 checksum of the names of tensors and of their values as float32."""
    return checksum({name: np.asarray(x, np.float32) for name, x in tensors.items()})
