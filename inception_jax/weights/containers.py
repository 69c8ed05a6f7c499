"""Finds a network's tensors in training checkpoints, pickled networks and other nested objects.

The object that was read from a file consists of dicts, lists and `Opaque` objects, which are
instances of unknown classes. Every dict of tensors in it is a candidate. `peel` returns the tensors
whose names match a known layout.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from inception_jax.weights import prefixes
from inception_jax.weights.pickles import Opaque, PickleError
from inception_jax.weights.prefixes import AVERAGE, OPTIMISER, Peeled
from inception_jax.weights.stored import as_array, is_tensor
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError

# Lightning's WeightAveraging stores the average as `state_dict`, and the raw weights as this.
_NOT_AVERAGED = "current_model_state"
# Common wrappers: no note reports that they were opened.
_USUAL = {"", "state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema"}
_STATISTICS = re.compile(r".*(running_mean|running_var|num_batches_tracked)$")
_DEPTH = 12
_ALIASES = 4  # references to one container that are followed: pickles may have any number


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """The tensors of a network, without the containers that they were in.

    Attributes:
        peeled: tensors, and the prefix that was removed from their names.
        path: keys of the containers that the tensors were in, the outermost first.
        notes: sentences for the user, such as which of several networks was chosen.
    """

    peeled: Peeled
    path: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def peel(source: Any, part: str = "") -> Content:
    """Returns the tensors of the network in an object that was read from a file.

    If no names match a known layout, the largest dict of tensors is returned.

    Args:
        source: object made of dicts, lists and `Opaque` objects.
        part: name of the network to return, if there are several: the keys of its containers, the
            prefix of its tensors' names, or both, joined by dots. Empty: the moving average if
            there is one, else the only network.

    Raises:
        WeightsError: if there are no tensors, if no network is called `part`, or if it is not
            clear which of several networks with different weights is meant.
    """
    candidates = list(_candidates(source))
    for group in (candidates, *_nested(source)):
        found = [Content(_read(x), path) for path, names in group for x in prefixes.networks(names)]
        if found:
            return _chosen(found, _asked(found, part) if part else [])
    if not candidates:
        raise WeightsError(f"it contains no named tensors, but {_described(source)}")
    if part:
        raise WeightsError(f"it contains no known network, and none under {part!r}")
    path, names = max(candidates, key=lambda candidate: len(candidate[1]))
    return Content(_read(Peeled(prefixes.without_wrappers(names))), path)


def _asked(found: list[Content], part: str) -> list[Content]:
    """Returns the networks of a file that the user asks for.

    Args:
        found: all networks of the file.
        part: keys of a network's containers, the prefix of its tensors' names, or both, joined by
            dots or slashes; the first parts of such a name select all networks below them.

    Raises:
        WeightsError: if `part` selects no network.
    """
    wanted = f"{part.strip('./')}.".replace("/", ".")
    asked = [x for x in found if any(f"{place}.".startswith(wanted) for place in _places(x))]
    if not asked:
        raise WeightsError(f"it holds no network under {part!r}, but {_listed(found)}")
    return asked


def _places(content: Content) -> tuple[str, str, str]:
    """Returns the names that select a network: container keys, prefix, and both joined by a dot."""
    keys, prefix = ".".join(content.path), content.peeled.prefix.strip("./").replace("/", ".")
    return keys, prefix, ".".join(filter(None, (keys, prefix)))


def _names(found: list[Content]) -> list[str]:
    """Returns a name for each network: its container keys, its prefix, or both joined by a dot.

    The first of these three kinds that names all networks differently is used, else the last.
    """
    kinds = list(zip(*map(_places, found), strict=True))
    best = next((x for x in kinds if len(set(x)) == len(found) and all(x)), kinds[-1])
    return [name or "(without a prefix)" for name in best]


def _listed(found: list[Content]) -> str:
    return " and ".join(map(repr, _names(found)))


def _chosen(found: list[Content], asked: list[Content]) -> Content:
    averages = [x for x in found if _is_average(x, found)]
    among = asked or averages or found
    chosen = _same(among)
    if chosen is None:
        raise WeightsError(
            f"it holds several networks with different weights: {_listed(among)}. "
            "Choose one: FILE#NAME with one of these names, or the mapping of its tensors"
        )
    notes = []
    names = dict(zip(map(id, found), _names(found), strict=True))
    others = [names[id(x)] for x in found if x is not chosen]
    raw = [x for x in found if x not in averages]
    peeled = chosen.peeled
    if chosen in averages and raw and _lacks_only_statistics(peeled, raw[0].peeled):
        peeled = dataclasses.replace(peeled, tensors={**raw[0].peeled.tensors, **peeled.tensors})
        notes.append(f"BatchNorm's statistics are from {names[id(raw[0])]!r}")
    if not asked and (others or not set(chosen.path) <= _USUAL):
        not_those = f", not of {' or '.join(map(repr, others))}" if others else ""
        notes.insert(0, f"the weights are those under {names[id(chosen)]!r}{not_those}")
    return dataclasses.replace(chosen, peeled=peeled, notes=tuple(notes))


def _is_average(content: Content, among: list[Content]) -> bool:
    if any(_NOT_AVERAGED in x.path for x in among):
        return _NOT_AVERAGED not in content.path
    return any(map(AVERAGE.search, (*content.path, content.peeled.prefix)))


def _same(found: list[Content]) -> Content | None:
    first = found[0]
    same = all(_equal(first.peeled.tensors, other.peeled.tensors) for other in found[1:])
    return first if same else None


def _equal(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def _lacks_only_statistics(average: Peeled, raw: Peeled) -> bool:
    lacking = raw.tensors.keys() - average.tensors.keys()
    return bool(lacking) and all(map(_STATISTICS.match, lacking))


def _candidates(source: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yields (keys, dict) for each dict of tensors in a source, with the keys that lead to it."""
    seen: collections.Counter[int] = collections.Counter()
    queue: collections.deque[tuple[tuple[str, ...], Any]] = collections.deque([((), source)])
    while queue:
        path, item = queue.popleft()
        seen[id(item)] += 1
        if seen[id(item)] > _ALIASES or len(path) > _DEPTH:
            continue
        if _is_module(item):
            yield path, dict(_module_tensors(item, "", collections.Counter()))
            continue
        entries = _entries(item)
        tensors = {_text(key): value for key, value in entries.items() if is_tensor(value)}
        if tensors:
            yield path, tensors
        if seen[id(item)] == 1:  # at the first visit only
            inner = [(k, value) for k, value in entries.items() if not is_tensor(value)]
            named = [(_text(key), value) for key, value in inner]
            queue += [((*path, k), value) for k, value in named if not OPTIMISER.fullmatch(k)]


def _nested(source: Any) -> Iterator[list[tuple[tuple[str, ...], dict[str, Any]]]]:
    """Yields the tensors of all nested dicts twice, as one dict with full paths as names.

    The first time, dots join the keys of a path; the second time, slashes do. Each item is a list
    with one candidate like those of `_candidates`, or an empty list if there are no tensors.
    """
    for separator in "./":
        flat = dict(_flat(_entries(source), "", separator, collections.Counter()))
        yield [((), flat)] if flat else []


def _entries(item: Any) -> Mapping[Any, Any]:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, Opaque):
        return {**dict(enumerate(item.args)), **item.attributes()}
    if isinstance(item, list | tuple) and len(item) < 1000:
        # A dict as a list of pairs, or several objects.
        pairs = all(isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str) for x in item)
        return dict(item) if item and pairs else dict(enumerate(item))
    return {}


def _text(key: Any) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)


def _flat(
    entries: Mapping[Any, Any], prefix: str, separator: str, seen: collections.Counter[int]
) -> Iterator[tuple[str, Any]]:
    for key, value in entries.items():
        name = f"{prefix}{_text(key)}"
        if OPTIMISER.fullmatch(_text(key)):
            continue
        if is_tensor(value):
            yield name, value
        elif isinstance(value, Mapping) and name.count(separator) < _DEPTH:
            seen[id(value)] += 1
            if seen[id(value)] <= _ALIASES:
                yield from _flat(value, f"{name}{separator}", separator, seen)


def _is_module(item: Any) -> bool:
    return isinstance(item, Opaque) and (
        "_modules" in item.attributes() or item.name.startswith("__torch__.")
    )


def _module_tensors(
    item: Opaque, prefix: str, seen: collections.Counter[int]
) -> Iterator[tuple[str, Any]]:
    """Yields (name, tensor) of a network that was pickled whole, or of a TorchScript module.

    The names are those of its state dict, with `prefix` in front. `seen` counts the visits to each
    object by its `id`, and an object is skipped after `_ALIASES` visits.
    """
    seen[id(item)] += 1
    if seen[id(item)] > _ALIASES or prefix.count(".") > _DEPTH:
        return
    attributes = item.attributes()
    own = attributes if "_modules" not in attributes else {}
    left_out = attributes.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        group = attributes.get(kind)
        own |= group if isinstance(group, Mapping) else {}
    for name, value in own.items():
        if is_tensor(value) and name not in left_out:
            yield f"{prefix}{name}", value
    children = attributes.get("_modules", attributes)
    for name, child in children.items() if isinstance(children, Mapping) else ():
        if isinstance(child, Opaque):
            yield from _module_tensors(child, f"{prefix}{name}.", seen)


def _read(peeled: Peeled) -> Peeled:
    return dataclasses.replace(peeled, tensors=_as_arrays(peeled.tensors))


def _as_arrays(tensors: Mapping[str, Any]) -> Tensors:
    arrays = {}
    for name, tensor in tensors.items():
        try:
            arrays[name] = as_array(tensor)
        except (PickleError, TypeError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise WeightsError(f"tensor {name} cannot be read: {reason}") from None
    return arrays


def _described(source: Any) -> str:
    if isinstance(source, Opaque):
        return f"a {source.name}"
    if isinstance(source, Mapping):
        keys = ", ".join(str(key) for key in list(source)[:8])
        return f"a dict with the keys {keys}" if keys else "an empty dict"
    return f"a {type(source).__name__}"
