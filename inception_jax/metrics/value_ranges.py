"""Raises an error or warns if images do not seem to have the stated range of values."""

from __future__ import annotations

import warnings

import numpy as np

_REMEDY = "value_range=(0, 1), (-1, 1) or (0, 255)"


def check_far(low: float, high: float, name: str = "images") -> None:
    """Raises an error for images far outside the stated range, where clipping would ruin them.

    Args:
        low: smallest value of the images, where 0 is black and 1 is white.
        high: largest value of the images, on the same scale.
        name: name of the images, for messages.

    Raises:
        ValueError: if `low` is below -0.5, `high` is above 1.5, or one of them is NaN.
    """
    if np.isnan(low) or np.isnan(high):
        raise ValueError(f"{name}: some pixels are NaN: check what generates the images")
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"{name} are far outside the stated range: they reach from {low:.3g} to {high:.3g}, "
            f"where 0 is black and 1 is white. State the range that they have: {_REMEDY}"
        )


def warn_of_part(low: float, high: float, name: str = "images", *, stacklevel: int = 2) -> None:
    """Warns if all images are nearly black, or use only the upper half of the stated range.

    Args:
        low: see `check_far`; inf if there are no images.
        high: see `check_far`; -inf if there are no images.
        name: name of the images, for messages.
        stacklevel: stack level of the warning, as for `warnings.warn`, counted from the caller.
    """
    if np.isfinite(high) and (high <= 1.001 / 255 or (low >= 0.4999 and high > 0.51)):
        warnings.warn(
            f"{name} use only {low:.3g} to {high:.3g} of the stated range, where 0 is black and 1 "
            "is white: is the stated range right?",
            stacklevel=stacklevel + 1,
        )
