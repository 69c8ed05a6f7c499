"""The version of this library, which weight files and the package name."""

__version__ = "0.1.0"
