"""What a weight file holds: its tensors, its layout, and which networks it fits."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from inception_jax.nn.model import Model, Spec
from inception_jax.registry import list_models, model_info
from inception_jax.weights import download, files, layouts
from inception_jax.weights.facts import Facts, verify
from inception_jax.weights.layouts import Layout
from inception_jax.weights.published import PUBLISHED
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError

Source = str | os.PathLike[str] | Mapping[str, Any] | Literal[True]

METADATA_KEY = "inception_jax"
_WRAPPER = re.compile(r"^(?:module\.|_orig_mod\.)+")  # of DataParallel and of torch.compile
_TRAINING_ONLY = {"dropout", "aux_dropout", "drop_path", "bn_momentum"}


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The weights of a file or mapping, as they were read.

    Attributes:
        tensors: by the names of the file.
        spec: how `create_model` built the network that `save_weights` wrote; None for other files.
        facts: what else a file of `save_weights` says of its network; see `facts.Facts`.
        layout: of foreign names; None where they are the twin's.
    """

    tensors: Tensors
    spec: Spec | None
    layout: Layout | None
    facts: Facts | None = None

    def check(self, name: str, readings: Mapping[str, Any]) -> None:
        """Refuses weights of another network, or of another reading of it.

        Raises:
            WeightsError: naming the tags that fit.
        """
        if self.spec:
            owner, needed = self.spec.name, self.spec.readings
            archs, what, hint = (owner.partition(".")[0],), f"this file of {owner}", ""
        elif self.layout:
            archs, needed = self.layout.archs, self.layout.readings.items()
            owner, what = (
                f"{' or '.join(archs)} ({self.layout.name})",
                f"a file of {self.layout.name}",
            )
            hint = f"; create_model takes them as {fitting(self.layout)}"
        else:
            return
        arch = name.partition(".")[0]
        if arch not in archs:
            raise WeightsError(f"these are weights of {owner}, not of {arch}{hint}")
        wrong = wrong_readings(readings, needed)
        if wrong:
            raise WeightsError(f"{what} needs another reading of {name}: {', '.join(wrong)}{hint}")

    def to_twin(self, model: Model) -> Tensors:
        """Returns the tensors by the names and in the axis orders of a model's twin."""
        if self.layout is None:
            return self.tensors
        return self.layout.to_twin(self.tensors, model, spec_of(model).num_classes)

    def lacks_head(self, model: Model) -> bool:
        """Says whether this is one of the files that come without a classifier."""
        if self.layout is None or not self.layout.head_optional:
            return False
        heads = tuple(f"{name}." for name in model.classifiers)
        return not any(name.startswith(heads) for name in self.to_twin(model))


def open_weights(name: str, source: Source | WeightFile) -> WeightFile:
    """Reads a source and recognises its layout; one that was read is returned as it is.

    Args:
        name: of the network, whose published file is read where the source is True.
        source: see `load_weights`.

    Raises:
        WeightsError: if it cannot be read or fetched.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(source, WeightFile):
        return source
    if isinstance(source, Mapping):
        tensors, metadata = {str(k): np.asarray(v) for k, v in source.items()}, {}
    else:
        if source is True and name in PUBLISHED:
            files.check_readable(PUBLISHED[name].address)
        tensors, metadata = files.read(download.fetch(name) if source is True else source)
    tensors = {_WRAPPER.sub("", key): tensor for key, tensor in tensors.items()}
    if METADATA_KEY not in metadata:
        return WeightFile(tensors, None, layouts.find(tensors))
    spec, facts = _saved(metadata[METADATA_KEY], tensors, str(source))
    return WeightFile(tensors, spec, None, facts)


def _saved(text: str, tensors: Tensors, name: str) -> tuple[Spec, Facts | None]:
    try:
        saved = json.loads(text)
        model_info(saved["name"])
        facts = Facts.from_json(saved.get("facts"))
        saved["readings"] = tuple(
            (option, tuple(value) if isinstance(value, list) else value)
            for option, value in saved["readings"]
        )
        spec = Spec(**{field.name: saved[field.name] for field in dataclasses.fields(Spec)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"the file's own note of what it is cannot be read ({error}): another version of this "
            "library wrote it, or it was changed since"
        ) from None
    verify(saved.get("checksum"), tensors, name)
    return spec, facts


def spec_of(model: Model) -> Spec:
    """Returns how a model was built.

    Raises:
        WeightsError: if it was built by its class.
    """
    if model.spec is None:
        raise WeightsError("this model was not built by create_model, so its reading is unknown")
    return model.spec


def fitting(layout: Layout) -> str:
    """Lists the names that make networks which files of a layout fit."""
    names = [
        name
        for name in list_models(tags=True)
        if model_info(name).arch in layout.archs
        and not wrong_readings(model_info(name).options, layout.readings.items())
    ]
    return ", ".join(names)


def wrong_readings(own: Mapping[str, Any], needed: Iterable[tuple[str, Any]]) -> list[str]:
    """Lists the options among `needed` pairs that a network has set otherwise."""
    return [
        f"{option}={value!r} (the model has {own[option]!r})"
        for option, value in needed
        if option in own and option not in _TRAINING_ONLY and _plain(own[option]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    """As JSON gives it back: a list for a tuple."""
    return json.loads(json.dumps(value))
