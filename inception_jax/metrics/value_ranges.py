"""Whether images have the range of values that was stated: what cannot be is refused or said."""

from __future__ import annotations

import warnings

import numpy as np

_REMEDY = "value_range=(0, 1), (-1, 1) or (0, 255)"


def check_far(low: float, high: float, name: str = "images") -> None:
    """Refuses images that are far outside of their range, nearly all of which would be clipped.

    Args:
        low: the least value of the images, 0 being black and 1 white.
        high: the largest.
        name: of the images.

    Raises:
        ValueError: if they are, or if a value is NaN.
    """
    if np.isnan(low) or np.isnan(high):
        raise ValueError(f"{name}: there are NaN among the pixels: check what generates them")
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"{name} are far outside of the stated range: they reached from {low:.3g} to "
            f"{high:.3g}, where 0 is black and 1 is white. State the range that they have: "
            f"{_REMEDY}"
        )


def warn_of_part(low: float, high: float, name: str = "images", *, stacklevel: int = 2) -> None:
    """Warns of images that fill only the upper half of their range, or none of it.

    Args:
        low: see `check_far`; infinite if there are no images.
        high: likewise.
        name: of the images.
        stacklevel: as of `warnings.warn`, from the caller.
    """
    if np.isfinite(high) and (high <= 1.001 / 255 or (low >= 0.4999 and high > 0.51)):
        warnings.warn(
            f"{name} reached only from {low:.3g} to {high:.3g} of the stated range, where 0 is "
            "black and 1 is white: is that the range that they have?",
            stacklevel=stacklevel + 1,
        )
