"""The version of this library. Weight files and the package metadata state it."""

__version__ = "0.1.0"
