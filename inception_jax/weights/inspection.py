"""Finds out what a weight file contains, without knowing its network."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from inception_jax.models import list_models, model_info
from inception_jax.nn.model import Model
from inception_jax.weights import files, fingerprint, fit, numbers
from inception_jax.weights.prefixes import listed
from inception_jax.weights.torch_names import Tensors, torch_shapes
from inception_jax.weights.weight_file import (
    TRAINING_ONLY,
    WeightFile,
    open_weights,
    share,
    wrong_readings,
)
from inception_jax.weights.weights_error import WeightsError

_SURE = 0.98  # a file that lacks some tensors still counts as the network
# Measured by benchmarks/fingerprint.py; docs/howto/load_weights.md has the counts.
_CONFIDENCE = "right whenever they answered for 30 networks trained in known ways"
# Trained in TensorFlow, whose average pools do not count padding; published for code that does.
_PORTED = {"inception_v3.tv_in1k", "inception_v3.tf_in1k", "inception_v3.tf_adv_in1k"}
_SHOWN = 20
_FEW = 4
_TRAINED, _EPSILON = "as of a trained network", "epsilon"


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Facts about a weight file.

    Attributes:
        source: path of the file, or "a mapping".
        facts: strings to print, by title. Empty strings are not printed.
        names: all names with which `create_model` builds a network that fits; may be empty.
        differences: how the file differs from the nearest network, if none fits.
    """

    source: str
    facts: Mapping[str, str]
    names: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


def inspect(source: str | os.PathLike[str] | Mapping[str, Any]) -> Inspection:
    """Returns what a weight file contains, as an `Inspection`.

    Args:
        source: path of a file or folder, or a mapping; see `load_weights`.

    Raises:
        WeightsError: if the source cannot be read. The message says what the file is, if known.
        FileNotFoundError: if there is no such file.
    """
    file = open_weights("", source)
    facts = {"format": file.format}
    where = "a mapping" if isinstance(source, Mapping) else str(source)
    path = None if isinstance(source, Mapping) else files.split_part(source)[0]
    if path and path.is_file():
        facts["size"] = f"{path.stat().st_size:,} bytes"
    facts["container"] = ".".join(file.path)
    facts["prefix"] = file.prefix
    facts["layout"] = _layout_name(file)
    if file.layout is not None and file.layout.refusal:
        return Inspection(where, {**facts, "network": f"none here: {file.layout.refusal}"})
    names, share = _nearest(file)
    model = fit.skeleton(names[0])
    arch = names[0].partition(".")[0]
    if share < _SURE:
        facts["network"] = f"unknown; the nearest is {names[0]}, by {share:.0%} of both"
        return Inspection(where, facts | _about(file.tensors), (), tuple(_differences(file, model)))
    tensors, notes = file.translated(model)
    facts |= {"network": arch, "names": ", ".join(names), "told apart by": _apart(names)}
    facts |= _sizes(tensors, model)
    facts |= _about(file.tensors)
    facts["statistics"] = _statistics(tensors, model)
    if facts["statistics"].startswith((_TRAINED, _EPSILON)):
        facts |= _hints(tensors, names)
    facts["also inside"] = listed(file.outside)
    facts["other head"] = listed(file.other_head(tensors, model))
    facts["notes"] = "; ".join(note for note in notes if not note.startswith(("left", "the names")))
    return Inspection(where, facts, names)


def _layout_name(file: WeightFile) -> str:
    if file.spec is not None:
        version = file.facts.version if file.facts else "an old version"
        return f"inception_jax {version}: {file.spec.name}"
    return file.layout.name if file.layout else "reference_torch, or none that is known"


def _nearest(file: WeightFile) -> tuple[tuple[str, ...], float]:
    """Returns the names of the networks that fit a file best, and the share of tensors that fit."""
    needed: Mapping[str, Any] = {}
    archs: Iterable[str] = list_models()
    if file.spec is not None:
        needed, archs = dict(file.spec.readings), [file.spec.name.partition(".")[0]]
    elif file.layout is not None:
        needed, archs = file.layout.readings, file.layout.archs
    if len(tuple(archs)) > _FEW:
        shares = {arch: share(file, arch) for arch in archs}
        archs = sorted(shares, key=lambda arch: -shares[arch])[:_FEW]
    names = [name for arch in archs for name in (arch, *list_models(f"{arch}.*", tags=True))]
    right = [n for n in names if not wrong_readings(model_info(n).options, needed.items())]
    shares = {name: share(file, name) for name in right or names}
    best = max(shares.values())
    return tuple(name for name, found in shares.items() if found == best), best


def _apart(names: tuple[str, ...]) -> str:
    """Returns a string with the options and preprocessing in which the networks `names` differ.

    The file itself does not show which network is right.
    """
    facts = {name: {**model_info(name).options, **model_info(name).preprocessing} for name in names}
    differing = {
        option: {name: own[option] for name, own in facts.items()}
        for option in facts[names[0]]
        if len({repr(own[option]) for own in facts.values()}) > 1 and option not in TRAINING_ONLY
    }
    if len(names) > 1 and not differing:
        return "nothing: they are the same network"
    return "; ".join(f"{option} ({_choices(values)})" for option, values in differing.items())


def _choices(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{value!r}: {_with(values, value)}" for value in _distinct(values))


def _distinct(values: Mapping[str, Any]) -> list[Any]:
    return list({repr(value): value for value in values.values()}.values())


def _with(values: Mapping[str, Any], value: Any) -> str:
    return " ".join(name.partition(".")[2] or name for name, own in values.items() if own == value)


def _hints(tensors: Tensors, names: tuple[str, ...]) -> dict[str, str]:
    """Guesses the preprocessing and pooling in training from BatchNorm's statistics.

    `names` are the names of the networks that fit the tensors.

    Returns:
        Strings by title, like `Inspection.facts`. One of them lists the names of the networks that
        agree with the guesses.
    """
    model = fit.skeleton(names[0])
    shapes = torch_shapes(model)
    first = next(n for n, shape in shapes.items() if len(shape) == 4 and shape[1] == 3)
    found = fingerprint.input_of(tensors, first.removesuffix(".conv.weight"))
    border = fingerprint.border_of_pools(tensors, names[0].partition(".")[0])
    counts = None if border is None else fingerprint.counts_border(border)
    facts = {}
    if found:
        means = ", ".join(f"{value:.2f}" for value in found.mean)
        facts["trained on"] = (
            f"pixels {found.range}{', ' * bool(found.order)}{found.order}; of the mean {means} "
            "in [0, 1]"
        )
    if counts is not None:
        facts["average pools"] = f"trained with count_include_pad={counts}"
    if facts:
        fits = [name for name in names if _agrees(name, found, counts)]
        facts["most likely"] = ", ".join(fits) or "other preprocessing or options than these"
        facts["most likely"] += f" (a hint, no proof: BatchNorm's statistics, {_CONFIDENCE})"
    return facts


def _agrees(name: str, found: fingerprint.Input | None, counts: bool | None) -> bool:
    info = model_info(name)
    if found and found.range != fingerprint.expected_input(info):
        return False
    if found and found.order and found.order.lower() != info.channel_order:
        return False
    either = counts is None or name in _PORTED
    return either or info.options.get("count_include_pad", counts) == counts


def _sizes(tensors: Tensors, model: Model) -> dict[str, str]:
    """Returns strings by title: the classes, channels and width that a file's shapes show."""
    shapes = torch_shapes(model)
    head = tensors.get(f"{model.classifiers[0]}.weight")
    last = [key for key, shape in shapes.items() if len(shape) == 4 and key in tensors][-1]
    width = tensors[last].shape[0] / shapes[last][0]
    found = fit.options(tensors, model)
    heads = [aux for aux in model.aux_names if any(key.startswith(f"{aux}.") for key in tensors)]
    return {
        "classes": "no classifier under a known name" if head is None else f"{head.shape[0]:,}",
        "channels": f"{found.pop('in_channels', model.in_channels)} of the images",
        "width": "1" if width == 1 else f"about {width:.3g} of the published",
        "auxiliary heads": ", ".join(heads),
        **{option: str(value) for option, value in found.items()},
    }


def _about(tensors: Tensors) -> dict[str, str]:
    types: dict[str, int] = {}
    for tensor in tensors.values():
        types[str(tensor.dtype)] = types.get(str(tensor.dtype), 0) + 1
    count = sum(tensor.size for tensor in tensors.values())
    return {
        "tensors": f"{len(tensors):,}, of {count:,} numbers",
        "types": ", ".join(f"{name} ({n})" for name, n in sorted(types.items())),
    }


def _statistics(tensors: Tensors, model: Model) -> str:
    """Returns a string: what looks wrong in the values, or that the network looks trained."""
    own = {name: tensors[name] for name in torch_shapes(model) if name in tensors}
    try:
        found = numbers.check(own)
    except WeightsError as error:
        return str(error)
    variances = {n: x for n, x in own.items() if n.endswith("running_var")}
    if variances and all((x == 1).all() for x in variances.values()):
        found.append("all variances are 1, as in a network that was never trained")
    dead = [n for n, x in variances.items() if (np.abs(x.astype(np.float64)) < 1e-10).any()]
    if dead:
        found.append(f"{_EPSILON} decides where a variance is below 1e-10: {listed(dead)}")
    return "; ".join(found) or _TRAINED


def _differences(file: WeightFile, model: Model) -> list[str]:
    tensors = file.to_twin(model)
    needed = fit.backbone_shapes(model)
    found = [f"missing {name} {shape}" for name, shape in needed.items() if name not in tensors]
    found += [
        f"{name} has the shape {tensors[name].shape} instead of {shape}"
        for name, shape in needed.items()
        if name in tensors and not fit.is_alike(tensors[name].shape, shape)
    ]
    known = torch_shapes(model).keys()
    found += [
        f"unexpected {name} {tensor.shape}"
        for name, tensor in tensors.items()
        if name not in known and not name.endswith("num_batches_tracked")
    ]
    more = len(found) - _SHOWN
    missing, others = found[: _SHOWN // 2], [x for x in found if not x.startswith("missing")]
    shown = [*missing, *others][:_SHOWN]
    return [*shown, f"and {more} more"] if more > 0 else found
