"""What goes wrong with weights, said once."""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN = 20


class WeightsError(ValueError):
    """Weights do not fit the network, or cannot be read. The network is as it was.

    Attributes:
        missing: names that the network needs and the source lacks.
        unexpected: names in the source that the network has no place for.
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
