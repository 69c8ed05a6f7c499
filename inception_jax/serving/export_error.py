"""What goes wrong with an export, said once."""


class ExportError(ValueError):
    """A network cannot be written as a program, or not there; nothing is written."""
