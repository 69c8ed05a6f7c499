"""The error for weights that cannot be used, and functions that create it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from inception_jax import extras

_SHOWN = 20


class WeightsError(ValueError):
    """Weights do not fit the network, or cannot be read. The network is unchanged.

    Attributes:
        missing: names of tensors that the network needs and the source lacks.
        unexpected: names of tensors in the source that the network has no place for.
        misshapen: names of tensors whose shape differs from the network's, with both shapes.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        misshapen: Iterable[str] = (),
    ):
        self.missing, self.unexpected, self.misshapen = map(tuple, (missing, unexpected, misshapen))
        lines = [message]
        for kind in ("missing", "unexpected", "misshapen"):
            names = getattr(self, kind)
            if names:
                more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                lines.append(f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}")
        super().__init__("\n  ".join(lines))


def damaged(path: str | os.PathLike[str], kind: str, error: Exception) -> WeightsError:
    """Returns the error for a file that is damaged, or not of the expected kind.

    The message has the path, `kind` (such as "safetensors file") and the text of `error`.
    """
    reason = repr(error) if isinstance(error, KeyError) else str(error).partition("\n")[0]
    return WeightsError(f"{path} is not a whole {kind}: {reason}. Copy or download it again")


def optional_library(module: str, path: str | os.PathLike[str]) -> Any:
    """Imports and returns an optional library that is needed to read or write a file.

    Args:
        module: name of the library's module, such as "h5py".
        path: path of the file, for the error message.

    Raises:
        WeightsError: if the library is not installed. The message names the extra that installs it.
    """
    return extras.require(module, f"{path}: such a file", WeightsError)
