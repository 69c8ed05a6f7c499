"""Imports optional packages. If one is missing, the error names the extra to install."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

EXTRAS = {
    "flatbuffers": "stablehlo",
    "gcsfs": "gcs",
    "google.protobuf": "caffe",
    "h5py": "keras",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "pillow_heif": "heif",
    "s3fs": "s3",
    "tensorflow": "tensorflow",
    "torch": "torch",
    "wandb": "wandb",
}
"""The extra that installs each module. Modules that are not listed belong to the extra `train`."""

_PACKAGES = {  # packages whose name differs from their module's
    "cv2": "opencv-python-headless",
    "google.protobuf": "protobuf",
    "google_crc32c": "google-crc32c",
    "orbax": "orbax-checkpoint",
    "pillow_heif": "pillow-heif",
    "tensorflow_datasets": "tensorflow-datasets",
}


def require(module: str, what: str, error: type[Exception] = ValueError) -> ModuleType:
    """Imports a module.

    Args:
        module: name of the module, such as "h5py".
        what: what needs the module, for the message, such as "writing .h5 files".
        error: class of the error to raise.

    Raises:
        error: if the module cannot be imported. The message is one line; it names the package and
            the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise error(_missing(module, what, problem)) from None


def check(module: str, what: str, error: type[Exception] = ValueError) -> None:
    """Checks that a module is installed. It is not imported, because that takes time.

    Args:
        module: see `require`.
        what: see `require`.
        error: see `require`.

    Raises:
        error: see `require`.
    """
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # the parent package is missing, or the module is blocked
        found = None
    if found is None:
        raise error(_missing(module, what, None))


def missing(problem: ImportError, what: str) -> str:
    """Returns the error message for a failed import.

    Args:
        problem: error that the import raised.
        what: see `require`.

    Raises:
        ImportError: `problem` itself, if the missing module belongs to this repository.
    """
    if (problem.name or "").partition(".")[0] in ("inception_jax", "reference_torch", "train"):
        raise problem
    return _missing(problem.name or "a package", what, problem)


def _missing(module: str, what: str, problem: ImportError | None) -> str:
    top = module.partition(".")[0]
    extra = EXTRAS.get(module) or EXTRAS.get(top, "train")
    package = _PACKAGES.get(module) or _PACKAGES.get(top, top)
    reason = ""
    # A package may be installed but broken, for example if a shared library is missing.
    if problem is not None and not isinstance(problem, ModuleNotFoundError):
        reason = f", which cannot be imported ({str(problem).partition(chr(10))[0]})"
    # Training is run from a checkout.
    target = '-e ".[train]"' if extra == "train" else f"'inception-jax[{extra}]'"
    return f"{what} needs the package {package}{reason}: pip install {target}"
