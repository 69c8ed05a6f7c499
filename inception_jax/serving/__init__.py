"""Exports networks as programs that run without this library: ONNX and StableHLO."""

from inception_jax.serving.export_error import ExportError
from inception_jax.serving.exporting import FORMATS, check_size, check_target, export

__all__ = ["FORMATS", "ExportError", "check_size", "check_target", "export"]
