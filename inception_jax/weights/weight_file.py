"""The content of a weight file: its tensors, its layout, and the networks that it fits."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from inception_jax.nn.model import Model, Spec
from inception_jax.registry import list_models, model_info
from inception_jax.weights import containers, download, files, fit, heads, layouts
from inception_jax.weights.facts import Facts, verify
from inception_jax.weights.layouts import Layout
from inception_jax.weights.prefixes import listed
from inception_jax.weights.published import PUBLISHED
from inception_jax.weights.torch_names import Tensors, torch_shapes
from inception_jax.weights.weights_error import WeightsError

Source = str | os.PathLike[str] | Mapping[str, Any] | Literal[True]

_MOST = 0.5  # smallest `share` with which a file is taken for weights of a network
METADATA_KEY = "inception_jax"
TRAINING_ONLY = {"dropout", "aux_dropout", "drop_path", "bn_momentum"}


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The weights of a file or mapping, as they were read.

    Attributes:
        tensors: tensors by their names in the file, without `prefix`.
        spec: the name and options with which `create_model` built the network; None if the file
            does not state them.
        facts: preprocessing, class names and training of the network; None if the file does not
            state them.
        outside: tensors that do not belong to the network, by their full names; see
            `prefixes.Peeled`.
        notes: sentences about what was ignored or removed while reading.
        format: description of the file format.
        path: keys of the nested containers that held the tensors, the outermost first.
        prefix: prefix that was removed from the tensors' names.
        layout: layout of another library or program; None if the names are the PyTorch twin's, or
            unknown.
    """

    tensors: Tensors
    spec: Spec | None
    layout: Layout | None
    facts: Facts | None = None
    outside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: str = "mapping"
    path: tuple[str, ...] = ()
    prefix: str = ""

    def check(self, name: str, readings: Mapping[str, Any]) -> None:
        """Checks that the weights are those of a network with these options.

        Weights pass unchecked if the file does not state the network and has no known layout.

        Args:
            name: name of the network, see `create_model`.
            readings: the network's options.

        Raises:
            WeightsError: if the weights do not fit. The message names their network, or the options
                that differ; for another publisher's layout, usually the tags that fit too.
        """
        if self.spec:
            owner, needed = self.spec.name, self.spec.readings
            archs, what, hint = (owner.partition(".")[0],), f"this file of {owner}", ""
        elif self.layout:
            if self.layout.refusal:
                raise WeightsError(
                    f"these are weights of {self.layout.name}: {self.layout.refusal}"
                )
            archs, needed = self.layout.archs, self.layout.readings.items()
            owner, what = (
                f"{' or '.join(archs)} ({self.layout.name})",
                f"a file of {self.layout.name}",
            )
            hint = _hint(self.layout, archs)
        else:
            return
        arch = name.partition(".")[0]
        if arch not in archs and self.layout:
            archs = (self._nearest(archs),)
            owner, hint = f"{archs[0]} ({self.layout.name})", _hint(self.layout, archs)
        if arch not in archs:
            raise WeightsError(f"these are weights of {owner}, not of {arch}{hint}")
        wrong = wrong_readings(readings, needed)
        if wrong:
            raise WeightsError(f"{what} needs other options of {name}: {', '.join(wrong)}{hint}")

    def _nearest(self, archs: tuple[str, ...]) -> str:
        """Returns which of the networks `archs` the file most likely contains.

        Raises:
            WeightsError: if the `share` of this network is below one half.
        """
        name, share = nearest(self, archs)
        if share < _MOST:
            raise WeightsError(
                f"these are weights of an unknown network; the nearest is {name}, with {share:.0%} "
                "of its tensors"
            )
        return name

    def to_twin(self, model: Model) -> Tensors:
        """Returns the tensors with the names and axis orders of a model's PyTorch twin."""
        return self.translated(model)[0]

    def translated(self, model: Model) -> tuple[Tensors, list[str]]:
        """Translates the tensors to a model's PyTorch twin, and says what was changed or skipped.

        Returns:
            The tensors with the twin's names and axis orders, as from `to_twin`; and sentences for
            the user. They say what was ignored or removed while reading, which tensors were taken
            for the classifier, and which do not belong to the network.
        """
        tensors = self.tensors
        if self.layout is not None:
            tensors = self.layout.to_twin(tensors, model, spec_of(model).num_classes)
        tensors, classifier = heads.adopt(tensors, self.outside, model)
        notes = [f"the classifier is {' and '.join(classifier)}"] if classifier else []
        left_out = [name for name in self.outside if name not in classifier]
        if left_out:
            notes.append(f"skipped, because not part of the network: {listed(left_out)}")
        return tensors, [*self.notes, *notes]

    def other_head(self, tensors: Tensors, model: Model) -> Tensors:
        """Returns the tensors of a head that the file has and the model lacks; empty if none.

        Args:
            tensors: the result of `to_twin`.
            model: the network.
        """
        known = self.layout.backbone(model) if self.layout else ""
        return heads.head_of(tensors, model, known)

    def lacks_head(self, model: Model) -> bool:
        """Returns whether the file lacks the model's classifier, and its layout permits this."""
        if self.layout is None or not self.layout.head_optional:
            return False
        heads = tuple(f"{name}." for name in model.classifiers)
        return not any(name.startswith(heads) for name in self.to_twin(model))


def open_weights(name: str, source: Source | WeightFile) -> WeightFile:
    """Reads weights and recognises their layout.

    Args:
        name: name of the network. If `source` is True, its published weights are read.
        source: see `load_weights`; or a `WeightFile`, which is returned unchanged.

    Raises:
        WeightsError: if the weights cannot be read or downloaded.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(source, WeightFile):
        return source
    part = ""
    if isinstance(source, Mapping):
        read = files.Read(source, {}, "mapping")
    else:
        if source is True and name in PUBLISHED:
            files.check_readable(PUBLISHED[name].address)
        path, part = files.split_part(download.fetch(name) if source is True else source)
        read = files.read(path)
    if METADATA_KEY in read.metadata:
        if part:
            raise WeightsError(f"{source}: the file holds one network: leave {'#' + part!r} out")
        spec, facts = _saved(read.metadata[METADATA_KEY], read.content, str(source))
        return WeightFile(read.content, spec, None, facts, format=read.format)
    try:
        content = containers.peel(read.content, part)
    except WeightsError as error:
        raise WeightsError(f"{_named(source)}: {error}") from None
    peeled = content.peeled
    return WeightFile(
        peeled.tensors,
        None,
        layouts.find(peeled.tensors),
        outside=peeled.outside,
        notes=(*content.notes, *_note_of(peeled.prefix)),
        format=read.format,
        path=content.path,
        prefix=peeled.prefix,
    )


def _hint(layout: Layout, archs: Iterable[str]) -> str:
    names = fitting(layout, archs)
    return f"; create_model takes them as {names}" if names else ""


def _note_of(prefix: str) -> list[str]:
    return [f"the names begin with {prefix!r}, which is removed"] if prefix else []


def _named(source: Any) -> str:
    return "the mapping" if isinstance(source, Mapping) else str(source)


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
    """Returns the name and options with which a model was built.

    Raises:
        WeightsError: if the model was built directly from its class.
    """
    if model.spec is None:
        raise WeightsError("this model was not built by create_model, so its options are unknown")
    return model.spec


def fitting(layout: Layout, archs: Iterable[str] | None = None) -> str:
    """Returns the `create_model` names, joined by commas, of the variants that fit a layout.

    Args:
        layout: layout of the weights.
        archs: names of the networks to consider; None for all networks of the layout.
    """
    archs = layout.archs if archs is None else tuple(archs)
    names = [
        name
        for name in list_models(tags=True)
        if model_info(name).arch in archs
        and not wrong_readings(model_info(name).options, layout.readings.items())
    ]
    return ", ".join(names)


def wrong_readings(own: Mapping[str, Any], needed: Iterable[tuple[str, Any]]) -> list[str]:
    """Returns a message for each option of a network that differs from what weights need.

    Options that only training uses are not compared.

    Args:
        own: the network's options.
        needed: names and values of the options that the weights need.
    """
    return [
        f"{option}={value!r} (the model has {own[option]!r})"
        for option, value in needed
        if option in own and option not in TRAINING_ONLY and _plain(own[option]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    """Converts a value as JSON does: a tuple becomes a list."""
    return json.loads(json.dumps(value))


def nearest(file: WeightFile, names: Iterable[str]) -> tuple[str, float]:
    """Returns which of the networks `names` has the largest `share` with a file, and this share."""
    shares = {name: share(file, name) for name in names}
    best = max(shares, key=lambda name: shares[name])
    return best, shares[best]


def share(file: WeightFile, name: str) -> float:
    """Returns the share, from 0 to 1, of tensors that a network and a file have in common.

    It is a share of all tensors that occur in either of the two. Tensors are the same if their
    names and kernel windows are equal; their channels may differ. Classifiers and auxiliary heads
    are not counted.
    """
    model = fit.skeleton(name)
    needed = fit.backbone_shapes(model)
    found = file.to_twin(model)
    heads = file.other_head(found, model).keys() | (torch_shapes(model).keys() - needed.keys())
    same = [n for n, shape in needed.items() if n in found and fit.is_alike(found[n].shape, shape)]
    own = {n for n in found if not n.endswith("num_batches_tracked")} - heads
    own = {n for n in own if not n.startswith(tuple(f"{head}." for head in model.aux_names))}
    return len(same) / max(1, len(needed.keys() | own))
