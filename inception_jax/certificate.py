"""Makes a certificate for a weight file.

A certificate lists what the file contains. It also states how much the outputs of the network in
JAX differ from those of its PyTorch twin in `reference_torch`, which has the same weights. For
comparison, it states how much the logits would change if an option of the network were wrong.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from inception_jax.create import NO_HEAD, create_model, model_for
from inception_jax.models import list_models, model_info
from inception_jax.nn.model import Model, Spec
from inception_jax.version import __version__
from inception_jax.weights import files
from inception_jax.weights.inspection import inspect
from inception_jax.weights.saving import to_torch
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weight_file import TRAINING_ONLY, spec_of
from inception_jax.weights.weights_error import WeightsError, optional_library

# Relative to the largest absolute value of a feature map. Allows for the rounding errors of some
# hundred layers.
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
_IMAGES = 2


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The content of a certificate: facts about a weight file and about its network.

    Attributes:
        source: name of the weight file.
        sha256: SHA-256 of the file; empty for a folder.
        found: facts that `inspect` finds about the file, by title.
        name: name of the network that the file was loaded into, see `create_model`.
        readings: values of the network's options, by name.
        image_size: side of the square test images, in pixels.
        distances: by dtype and stage, the largest absolute difference between the feature maps in
            JAX and in PyTorch, divided by the largest absolute value in PyTorch. The last entry of
            each dtype is for the logits.
        neighbours: for each changed option, such as "bn_eps=1e-05", the largest absolute difference
            between the changed and the correct logits, divided by the largest absolute value of the
            correct logits. All are computed by PyTorch in float64.
        passed: whether every value in `distances` is at most `TOLERANCE` of its dtype.
        versions: version of each library that was used, by name.
    """

    source: str
    sha256: str
    found: Mapping[str, str]
    name: str
    readings: Mapping[str, Any]
    image_size: int
    distances: Mapping[str, Mapping[str, float]]
    neighbours: Mapping[str, float]
    passed: bool
    versions: Mapping[str, str]


def certify(
    path: str | os.PathLike[str],
    name: str | None = None,
    image_size: int | None = None,
    *,
    head: bool = True,
) -> Certificate:
    """Loads a weight file, and compares the network with its PyTorch twin at every stage.

    Args:
        path: path of the weight file.
        name: name of the network, see `create_model`; None: the name that the file states, or else
            the name of the network that fits the tensors.
        image_size: side of the square test images, in pixels; None: the network's default.
        head: whether to compare the logits. False: the pooled features are compared instead, for a
            file whose classifier does not fit the network.

    Returns:
        The certificate.

    Raises:
        WeightsError: if the file cannot be read, if its tensors fit no network or several networks
            with different options, or if torch is missing.
        ValueError: if the images are too small for the network.
        FileNotFoundError: if there is no such file.
    """
    torch = optional_library("torch", path)
    found = inspect(path)
    name = name or _only(found.names, path)
    model = model_for(name, path, **({} if head else NO_HEAD))
    return _compared(torch, model, Path(path), found.facts, name, image_size)


def certify_model(model: Model, path: Path) -> Certificate:
    """Compares a network with its PyTorch twin at every stage, like `certify`.

    Args:
        model: network built by `create_model`.
        path: path of the weight file that the network was loaded from.

    Returns:
        The certificate.

    Raises:
        WeightsError: if torch is missing.
    """
    torch = optional_library("torch", path)
    return _compared(torch, model, path, inspect(path).facts, spec_of(model).name, None)


def _compared(
    torch: Any,
    model: Model,
    path: Path,
    facts: Mapping[str, str],
    name: str,
    image_size: int | None,
) -> Certificate:
    size = image_size or model.info.input_size
    images = natural_images(size, model.in_channels)
    state, spec = to_torch(model), spec_of(model)
    right = {dtype: _of_twin(torch, spec, state, images, dtype) for dtype in TOLERANCE}
    distances = {
        dtype: _distances(_of_ours(model, spec, state, images, dtype), right[dtype])
        for dtype in TOLERANCE
    }
    neighbours = {
        f"{option}={value!r}": _distance(
            _of_twin(torch, changed, state, images, "float64")["logits"], right["float64"]["logits"]
        )
        for option, value, changed in _neighbours(torch, spec, state)
    }
    return Certificate(
        source=path.name,
        sha256=_sha256(files.split_part(path)[0]),
        found={title: text for title, text in facts.items() if text},
        name=name,
        readings=dict(spec.readings),
        image_size=size,
        distances=distances,
        neighbours=neighbours,
        passed=all(
            distance <= TOLERANCE[dtype]
            for dtype, stages in distances.items()
            for distance in stages.values()
        ),
        versions={
            "inception_jax": __version__,
            **{library: importlib.import_module(library).__version__ for library in
               ("jax", "flax", "numpy", "torch")},
        },
    )  # fmt: skip


def _only(names: tuple[str, ...], path: Any) -> str:
    if not names:
        raise WeightsError(f"{path} fits no network here: `inception-jax inspect` says why")
    readings = {tuple(sorted(model_info(name).options.items(), key=str)) for name in names}
    if len(readings) > 1:
        raise WeightsError(
            f"{path} fits several names: give the one that it was trained as, --arch "
            f"{' or '.join(names)}"
        )
    return names[-1]  # among names with equal options, prefer one with a tag


def natural_images(size: int, channels: int, seed: int = 0) -> np.ndarray:
    """Returns square images of smooth noise with a 1/f spectrum, drawn with `seed`.

    Returns:
        float64 [_IMAGES, size, size, channels], from -1 to 1.
    """
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.normal(size=(_IMAGES, channels, size, size)))
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / size)
    images = np.fft.irfft2(spectrum / frequency, (size, size))
    images /= np.abs(images).max(axis=(1, 2, 3), keepdims=True)
    return images.transpose(0, 2, 3, 1)


def _of_ours(
    model: Model, spec: Spec, state: Tensors, images: np.ndarray, dtype: str
) -> dict[str, np.ndarray]:
    """Returns feature maps by stage, and logits by the key "logits", computed by JAX in `dtype`.

    `images` are network inputs [n, h, w, c]. `state` has the weights with the PyTorch twin's names;
    it is used only for float64. Otherwise `model` itself computes.
    """
    with jax.enable_x64(dtype == "float64"):
        if dtype == "float64":
            model = create_model(spec.name, weights=state, dtype=dtype, param_dtype=dtype,
                                 **_options(spec))  # fmt: skip
        graphdef, arrays = nnx.split(model)

        @jax.jit
        def run(arrays: Any, images: jax.Array) -> dict[str, Any]:
            merged = nnx.merge(graphdef, arrays)
            maps = merged.features(images)
            return {**maps, "logits": merged.classify(maps)}

        return jax.device_get(run(arrays, images.astype(dtype)))


def _of_twin(
    torch: Any, spec: Spec, state: Tensors, images: np.ndarray, dtype: str
) -> dict[str, np.ndarray]:
    twin = _twin(torch, spec, state, dtype)
    pixels = torch.from_numpy(images.astype(dtype)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        maps = {name: x.permute(0, 2, 3, 1).numpy() for name, x in twin.features(pixels).items()}
        return {**maps, "logits": twin(pixels).numpy()}


def _twin(torch: Any, spec: Spec, state: Tensors, dtype: str) -> Any:
    reference_torch = importlib.import_module("reference_torch")
    kind = getattr(torch, dtype)
    return reference_torch.create_model(spec.name, weights=state, dtype=kind, **_options(spec))


def _options(spec: Spec) -> dict[str, Any]:
    return dict(
        num_classes=spec.num_classes,
        in_channels=spec.in_channels,
        aux_heads=spec.aux_heads,
        width_multiplier=spec.width_multiplier,
        **dict(spec.readings),
    )


def _neighbours(torch: Any, spec: Spec, state: Tensors) -> Iterator[tuple[str, Any, Spec]]:
    """Yields the name of an option, a wrong value for it, and the spec with this value.

    `spec` is the correct spec; `state` has the weights with the PyTorch twin's names.

    Values for which the weights do not fit, and options that affect only training, are left out.
    """
    own = dict(spec.readings)
    arch = spec.name.partition(".")[0]
    every = [model_info(n).options for n in (arch, *list_models(f"{arch}.*", tags=True))]
    for option, value in own.items():
        others = [options[option] for options in every if option in options]
        others += [not value] if isinstance(value, bool) else []
        others += [1e-3, 1e-5] if option == "bn_eps" else []
        for other in {repr(x): x for x in others if x != value}.values():
            if option in TRAINING_ONLY or (option.startswith("aux") and not spec.aux_heads):
                continue
            changed = dataclasses.replace(
                spec, readings=tuple(sorted({**own, option: other}.items()))
            )
            try:
                _twin(torch, changed, state, "float32")
            except (RuntimeError, ValueError, TypeError, KeyError):  # the tensors do not fit
                continue
            yield option, other, changed


def _distances(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    return {name: _distance(ours[name], theirs[name]) for name in theirs}


def _distance(ours: Any, theirs: np.ndarray) -> float:
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        return float("inf")
    largest = max(float(np.abs(theirs).max()), float(np.finfo(theirs.dtype).tiny))
    return float(np.abs(ours - theirs).max()) / largest


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_page(certificate: Certificate, heading: str | None = None) -> str:
    """Formats a certificate as Markdown.

    Args:
        certificate: certificate to format.
        heading: first line of the page; None: the name of the weight file, as a title.
    """
    c = certificate
    result = "equal to rounding" if c.passed else "**not equal**"
    lines = [
        heading or f"# {c.source}",
        "",
        f"`{c.name}` in JAX and in PyTorch: {result}, on {_IMAGES} images of "
        f"{c.image_size}x{c.image_size}.",
        "",
        f"SHA-256 `{c.sha256}`",
        "",
        "| | |",
        "|---|---|",
        *(f"| {title} | {text} |" for title, text in c.found.items()),
        *(f"| {title} | {version} |" for title, version in c.versions.items()),
        "",
        "Distance between the two, relative to the largest number of each map:",
        "",
        f"| stage | {' | '.join(c.distances)} |",
        f"|---|{'---|' * len(c.distances)}",
        *(
            f"| {stage} | {' | '.join(f'{by[stage]:.1e}' for by in c.distances.values())} |"
            for stage in next(iter(c.distances.values()))
        ),
    ]
    if c.neighbours:
        lines += ["", "How far other readings of the same weights are, at the logits:", ""]
        lines += ["| reading | distance |", "|---|---|"]
        lines += [f"| {reading} | {distance:.1e} |" for reading, distance in c.neighbours.items()]
    own = ", ".join(f"{option}={value!r}" for option, value in c.readings.items())
    return "\n".join([*lines, "", f"The reading: {own}.", ""])
