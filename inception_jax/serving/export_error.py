"""The error of a failed export."""


class ExportError(ValueError):
    """Raised if a network cannot be exported, or if the path is not suitable.

    Nothing is written.
    """
