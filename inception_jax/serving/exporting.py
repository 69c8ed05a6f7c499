"""Exports a network as an ONNX or StableHLO file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax

from inception_jax import extras, outputs
from inception_jax.nn.model import Model
from inception_jax.serving.export_error import ExportError
from inception_jax.serving.program import Program, program_of

Format = Literal["onnx", "stablehlo"]
FORMATS: tuple[Format, ...] = get_args(Format)

PLATFORMS = ("cpu", "tpu", "cuda")
"""Platforms that a StableHLO file runs on."""


def export(
    model: Model,
    path: str | os.PathLike[str],
    format: Format = "onnx",
    *,
    image_size: int | tuple[int, int] | None = None,
    normalise: bool = False,
    embedding: bool = False,
    stages: Sequence[str] = (),
    heat: bool = False,
) -> None:
    """Writes a network as a program that contains its weights. Writing is atomic.

    The program takes `images` [n, h, w, c] for any n. It returns float `logits` [n, num_classes],
    or `embedding` [n, d]. It always computes in evaluation mode. The images are float32, normalised
    as `model.info` states; with `normalise` they are uint8 pixels.

    The preprocessing and the class names are stored as JSON. An ONNX file has them in its metadata
    under "inception_jax". For StableHLO they are in a second file, `FILE.json`.

    With `stages` or `heat` the program has more outputs. ONNX returns them by name after the first
    output. StableHLO returns a dictionary of all outputs.

    Args:
        model: any network of this library, folded or not.
        path: path of the file. It ends in `.onnx` or `.stablehlo`, depending on the format.
        format: "onnx" for onnxruntime and other runtimes, only for float32 networks; "stablehlo"
            for `jax.export.deserialize`, on CPUs, TPUs and NVIDIA's GPUs.
        image_size: side of square images, or height and width, in pixels; None: the network's own
            size.
        normalise: take pixels 0 to 255 as uint8 [n, h, w, c], RGB or grey, and apply what
            `preprocess` applies after cropping and resizing: channel order, range, mean and
            standard deviation.
        embedding: return the result of `model.embed` instead of the logits.
        stages: names of stages, from `feature_info`. Their feature maps [n, h', w', c'] become
            outputs with these names.
        heat: add the output `heat`, float32 [n, h', w', num_classes]: the Grad-CAM of each class at
            the last stage. Unlike the result of `grad_cam`, it is not resized, nor divided by its
            maximum. This needs a network whose classifier is one linear layer on the mean of the
            last feature map.

    Raises:
        ExportError: if the format is unknown, or cannot express the network; if the path does not
            fit the format, or cannot be written; if a package is missing; if the images are too
            small for the network; if a stage does not exist; if the network's classifier does not
            allow `heat`; if `normalise` is set for images that are neither RGB nor grey; if the
            image size or the normalisation is unknown, because `create_model` did not build the
            network.
    """
    path = check_target(path, format)
    size = _size_for(model, image_size)
    program = program_of(
        model, size, normalise=normalise, embedding=embedding, stages=tuple(stages), heat=heat
    )
    content = _stablehlo(program) if format == "stablehlo" else _onnx(program)
    if format == "stablehlo":
        with outputs.atomic_write(path.with_name(f"{path.name}.json")) as partial:
            partial.write_text(json.dumps(program.facts, indent=2) + "\n", encoding="utf-8")
    with outputs.atomic_write(path) as partial:
        partial.write_bytes(content)


def check_target(path: str | os.PathLike[str], format: str) -> Path:
    """Checks the path, the format and the packages for an export, and returns the path.

    Raises:
        ExportError: if the format is unknown, the path does not fit it or cannot be written, or a
            package is missing.
    """
    if format not in FORMATS:
        raise ExportError(f"format must be {' or '.join(FORMATS)}, not {format!r}")
    path = outputs.check_target(path, (f".{format}",), error=ExportError, what=f"{format} files")
    package = {"onnx": "onnx", "stablehlo": "flatbuffers"}[format]
    extras.require(package, f"writing .{format} files", ExportError)
    return path


def check_size(size: int | tuple[int, int], min_size: int) -> tuple[int, int]:
    """Returns the height and width of images, and checks that a network can take them.

    Args:
        size: side of square images, or height and width, in pixels.
        min_size: smallest height and width that the network takes.

    Raises:
        ExportError: if the images are too small for the network.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < min_size:
        raise ExportError(
            f"this network needs images of at least {min_size}x{min_size} pixels; "
            f"got {height}x{width}"
        )
    return height, width


def _size_for(model: Model, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if size is None and model.info is None:
        raise ExportError(
            "this model was not built by create_model, so its image_size must be given"
        )
    return check_size(size or int(model.info.input_size), model.min_size)


def _stablehlo(program: Program) -> bytes:
    def function(images: Any) -> Any:
        results = program.function(images)
        return results if len(results) > 1 else results[program.outputs[0]]

    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(program.images)
    return bytes(exported.serialize())


def _onnx(program: Program) -> bytes:
    from inception_jax.serving import onnx_file  # imports onnx

    return onnx_file.from_program(program)
