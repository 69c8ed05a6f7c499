"""The error of a failed export."""


class ExportError(ValueError):
    """Raised if a network cannot be exported, or not to this path. Nothing is written."""
