"""Reads and writes `config.json` files in timm's format.

Reference implementation: `save_config_for_hf` and `_parse_model_cfg` in timm/models/_hub.py,
`transforms_imagenet_eval` in timm/data/transforms_factory.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inception_jax import words
from inception_jax.nn.model import Model, Spec
from inception_jax.registry import list_models, model_info
from inception_jax.version import __version__
from inception_jax.weights import layouts
from inception_jax.weights.facts import Facts
from inception_jax.weights.layouts import Layout
from inception_jax.weights.saving import to_torch
from inception_jax.weights.weight_file import WeightFile, spec_of
from inception_jax.weights.weights_error import WeightsError

_TO_TIMM = {"xception": "legacy_xception"}
_CROP_MODES = {"center": "resize_crop", "squash": "warp_crop"}
_INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
# Arguments of timm's constructors that are read elsewhere, or change nothing in evaluation.
_IGNORED = ("drop_rate", "drop_path_rate", "num_classes", "in_chans", "aux_logits", "pretrained")


def find(folder: Path) -> dict[str, Any] | None:
    """Reads timm's `config.json` in a folder.

    Returns:
        The content; None if there is no such file or it is not timm's.

    Raises:
        WeightsError: if the file is not JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    return config if isinstance(config, dict) and "architecture" in config else None


def described(file: WeightFile, config: Mapping[str, Any], folder: Path) -> WeightFile:
    """Returns a weight file with the facts in timm's configuration added.

    Args:
        file: weight file that the configuration describes.
        config: the content of `config.json`.
        folder: folder of `config.json`, for error messages.

    Raises:
        WeightsError: if the configuration is damaged, or names a network or options that this
            library does not have.
    """
    try:
        spec, layout = _spec(config)
        facts = Facts(_preprocessing(config, spec.in_channels), _classes(config), None, "timm")
    except (KeyError, TypeError, AttributeError) as error:
        path = folder / "config.json"
        raise WeightsError(f"{path} is not as timm writes it: {error!r}") from None
    except WeightsError as error:
        raise WeightsError(f"{folder / 'config.json'}: {error}") from None
    return dataclasses.replace(file, spec=spec, facts=facts, layout=file.layout or layout)


def _spec(config: Mapping[str, Any]) -> tuple[Spec, Layout]:
    architecture = str(config["architecture"])
    arch, layout = _ours(architecture)
    pretrained, arguments = _parts(config)
    options = model_info(arch).options
    readings = {**options, **layout.readings}
    for name, value in arguments.items():
        if name == "output_stride" and name in options:
            readings[name] = value
        elif name == "global_pool" and value == "avg":
            continue
        elif name not in _IGNORED:
            option = f"{name}={value!r}"
            raise WeightsError(f"timm's {architecture} with {option} has no counterpart here")
    tag = str(pretrained.get("tag") or "")
    name = f"{arch}.{tag}" if f"{arch}.{tag}" in list_models(tags=True) else arch
    channels = int(arguments.get("in_chans") or pretrained["input_size"][0])
    classes = int(config.get("num_classes", pretrained.get("num_classes", 1000)))
    return Spec(name, classes, channels, False, 1.0, tuple(sorted(readings.items()))), layout


def _ours(architecture: str) -> tuple[str, Layout]:
    named = {theirs: ours for ours, theirs in _TO_TIMM.items()}
    meant = [tag for name, who, tag in words.NAMES if who == "timm" and name == architecture]
    arch = named.get(architecture, meant[0].partition(".")[0] if meant else architecture)
    layout = layouts.for_writing("timm", arch)
    if layout is None:
        known = [_TO_TIMM.get(x, x) for x in list_models() if layouts.for_writing("timm", x)]
        raise WeightsError(
            f"timm's {architecture} is no network of this family; there are {', '.join(known)}"
        )
    return arch, layout


def _parts(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Returns `pretrained_cfg` (in old files, the whole configuration) and `model_args`."""
    return config.get("pretrained_cfg", config), config.get("model_args") or {}


def _preprocessing(config: Mapping[str, Any], channels: int) -> dict[str, Any]:
    pretrained, _ = _parts(config)
    _, height, width = pretrained["input_size"]
    mode = pretrained.get("crop_mode") or "center"
    interpolation = pretrained.get("interpolation") or "bicubic"
    if height != width:
        raise WeightsError(f"images of {height}x{width} pixels: only squares are cut here")
    if mode not in _CROP_MODES:
        known = ", ".join(_CROP_MODES)
        raise WeightsError(f"crop_mode {mode!r} is unknown here; known are {known}")
    if interpolation not in _INTERPOLATIONS:
        raise WeightsError(
            f"interpolation {interpolation!r} is unknown here; "
            f"known are {', '.join(_INTERPOLATIONS)}"
        )
    return {
        "input_size": int(height),
        "crop": _CROP_MODES[mode],
        "crop_pct": float(pretrained.get("crop_pct") or 0.875),
        "interpolation": interpolation,
        "channel_order": "rgb",
        "input_range": 1,
        "mean": _fitted(pretrained["mean"], channels),
        "std": _fitted(pretrained["std"], channels),
        "upright": False,
    }


def _fitted(values: Any, channels: int) -> tuple[float, ...]:
    """Returns timm's `mean` or `std`, for images of this number of channels.

    For grey images, `values` are averaged over the colours as in timm.
    """
    values = tuple(map(float, values))
    return (sum(values) / len(values),) if channels == 1 else values


def _classes(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    pretrained, _ = _parts(config)
    names = config.get("label_names") or pretrained.get("label_names") or config.get("labels")
    if not names:
        return None
    if isinstance(names, Mapping):  # from index to name
        names = [names[key] for key in sorted(names, key=int)]
    said = config.get("label_descriptions") or pretrained.get("label_descriptions") or {}
    return tuple(str(said.get(name, name)) for name in names)


def config_of(model: Model, layout: Layout) -> tuple[dict[str, Any], list[str]]:
    """Returns a network's configuration in timm's format, and a list of notes.

    Each note is a sentence about something that timm's format cannot express. `layout` is timm's
    layout for the network.

    Raises:
        WeightsError: if timm does not have the network's channel order or input range.
    """
    spec, info = spec_of(model), model.info
    if info.channel_order != "rgb" or info.input_range != 1:
        raise WeightsError("timm prepares only RGB images in [0, 1]: write this library's layout")
    notes = []
    modes = {ours: theirs for theirs, ours in _CROP_MODES.items()}
    mode, crop_pct = modes.get(info.crop, "center"), info.crop_pct
    if info.crop == "squash":
        mode, crop_pct = "squash", 1.0
    interpolation = info.interpolation.partition("_")[0]
    if info.crop == "crop_resize" or info.interpolation != interpolation:
        notes.append(
            f"timm cannot prepare images by {info.crop} and {info.interpolation}: its "
            f"configuration says {mode} and {interpolation}, which gives slightly other pixels"
        )
    arch, _, tag = spec.name.partition(".")
    size = [spec.in_channels, info.input_size, info.input_size]
    arguments: dict[str, Any] = {} if spec.in_channels == 3 else {"in_chans": spec.in_channels}
    stride = dict(spec.readings).get("output_stride", 32)
    arguments |= {} if stride == 32 else {"output_stride": stride}
    return {
        "architecture": _TO_TIMM.get(arch, arch),
        "num_classes": spec.num_classes,
        "num_features": model.num_features,
        "global_pool": "avg",
        **({"label_names": list(model.classes)} if model.classes else {}),
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            **({"tag": tag} if tag else {}),
            "custom_load": False,
            "input_size": size,
            "fixed_input_size": False,
            "interpolation": interpolation,
            "crop_pct": crop_pct,
            "crop_mode": mode,
            "mean": list(info.mean),
            "std": list(info.std),
            "num_classes": spec.num_classes,
            "first_conv": _their_layer(model, layout, first=True),
            "classifier": _their_layer(model, layout, first=False),
        },
        "inception_jax_version": __version__,
    }, notes


def _their_layer(model: Model, layout: Layout, *, first: bool) -> str:
    """Returns timm's name for the first convolution, or for the classifier if not `first`.

    `layout` is timm's layout for the network.
    """
    assert layout.names is not None
    state = to_torch(model)
    paths = model.layer_order if first else model.classifiers[:1]
    weight = next(
        (f"{path}.weight" for path in paths if not first or f"{path}.weight" in state),
        "",
    )
    theirs = layout.names([weight])
    return theirs[weight].rpartition(".")[0]
