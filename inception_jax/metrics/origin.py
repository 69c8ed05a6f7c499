"""What features are of: only those of one origin can be compared."""

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
        preset: its name; see `presets.PRESETS`.
        resize: the rule by which images were resized; see `resizing.resized`.
        dims: how many features, before any change of the network's width.
        weights: the fingerprint of the weights; see `fingerprint`.
        network: of which the features are, or the name of a function.
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
        """For a file of statistics."""
        return {name: np.asarray(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Origin | None:
        """Reads what `as_arrays` wrote; None if it is not there.

        Raises:
            ValueError: if it is something else.
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
    """Compares the origins of two sets of features, where both are known.

    Args:
        a: of one set.
        b: of the other.
        names: of the sets, where they have some.

    Raises:
        ValueError: if they differ, with both.
    """
    if a is None or b is None or a == b:
        return
    differ = [f.name for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name)]
    if "dims" in differ and "weights" in differ:
        differ.remove("weights")  # the fingerprint is of the layers that these features need
    one, other = names[0] or "one set", names[1] or "the other"
    raise ValueError(
        f"features of different {' and '.join(differ)} have no common metric: {one} is of {a}; "
        f"{other} is of {b}. Compute both with the same {' and '.join(differ)}"
    )


def short(weights: str) -> str:
    """The first digits of a fingerprint, for people."""
    return weights.removeprefix("sha256:")[:_SHOWN]


def fingerprint(model: Model, dims: int) -> str:
    """Returns the SHA-256 over the tensors that features depend on.

    The names and the order of axes are the PyTorch twin's, in float32, so that all files of the
    same numbers have one fingerprint, in whatever layout they are.

    Args:
        model: Inception V3.
        dims: the number of features, which tells the last layer that counts.
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
    """Returns the SHA-256 over tensors and their names, in float32."""
    return checksum({name: np.asarray(x, np.float32) for name, x in tensors.items()})
