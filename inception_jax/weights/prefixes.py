"""Removes prefixes from tensor names: those of wrappers, and of modules of larger networks.

A prefix is removed if the remaining names match a known layout, a publisher's or this library's.
Tensors without the prefix go into `outside`: a head, a loss, the parts of a detector.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from inception_jax.weights import layouts, slim_layouts
from inception_jax.weights.stored import as_array

_FEWEST = 20  # tensors of a network; the smallest here has over a hundred
_SHOWN = 6

# Components that wrappers add anywhere in PyTorch's names: DataParallel, torch.compile, FSDP and
# activation checkpointing.
_INFIX = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# timm's `features_only` takes sequences apart: features_0 for features.0.
_SEQUENCE = re.compile(r"(?:(?<=\.)|^)(features|blocks|stages|stem)_(?=\d+\.)")
# Counters and other tensors that no network reads.
_COUNTS = re.compile(
    r"(?:.*[./])?(?:num_batches_tracked|n_averaged|total_ops|total_params|num_updates|updates|"
    r"decay|step|steps|epoch|iteration|iterations|global_step|local_step|save_counter|"
    r"learning_rate|lr|best_\w+|beta\d_power|_extra_state|initted)"
)
# TensorFlow's optimiser slots: a variable's name with one more component. Averages are not slots.
_SLOT = re.compile(
    r"(?:.*/)?(?:weights|biases|depthwise_weights|pointwise_weights|gamma|beta|moving_mean|"
    r"moving_variance|kernel|bias|depthwise_kernel|pointwise_kernel)/"
    r"(?!ExponentialMovingAverage$)[^/]+(?<!:0)"
)
_TRAINING = re.compile(r"(?:optimizer|optimizers?_\w+|metrics)/|.*\.OPTIMIZER_SLOT/")

# A module that DeepfakeBench adds to the network, but does not use for classification.
_UNUSED = re.compile(r"adjust_channel\.")
# If a checkpoint has both, the averaged weights are the network that its author evaluated.
AVERAGE = re.compile(r"(?:^|[_.\s])(?:ema|swa|avg|averaged?|shadow)(?:$|[_.\s\d])", re.IGNORECASE)
_FLAT_AVERAGE = re.compile(r"(?:.*\.)?model_ema\.[^.]+")

# Optimiser state has the shapes of weights, and may have their names.
OPTIMISER = re.compile(
    r"(?:\w+_)?(?:opt|optim|optimi[sz]ers?)(?:_\w+)?|momentum\w*|exp_avg\w*|grad\w*|velocity|mu|nu",
    re.IGNORECASE,
)

# This library's own names, which `layouts.find` does not know: one pattern for each network.
_OWN = re.compile(
    r"inception\d\w\.branch1x1\.conv\."
    r"|Mixed_\d\w\.branch\dx\d(?:dbl)?(?:_\d\w?)?\.conv\."
    r"|block35\.\d+\.branch1x1\.conv\."
    r"|block1_conv1\.conv\."
    r"|entry_flow\.\d+\.(?:sepconv|depthwise)"
    r"|stages\.\d\.blocks\.\d+\.token_mixer\."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Peeled:
    """Tensors with the prefix removed from their names.

    Attributes:
        tensors: tensors by their names in the layout.
        prefix: removed prefix.
        outside: tensors that do not have the prefix, by their full names. Training counters are
            left out.
    """

    tensors: dict[str, Any]
    prefix: str = ""
    outside: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def listed(names: Collection[str]) -> str:
    """Joins names for a message: at most six, then how many more there are."""
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def without_wrappers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Removes what wrappers add to names, such as `module.`; drops counters and optimiser state.

    Weights that were pruned by `torch.nn.utils.prune` are multiplied by their masks.
    """
    return {
        _SEQUENCE.sub(r"\1.", _INFIX.sub("", name)): tensor
        for name, tensor in _unpruned(tensors).items()
        if not _is_bookkeeping(name, tensor)
    }


def _unpruned(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """Multiplies weights by their masks, like `torch.nn.utils.prune` before each use."""
    pruned = [
        name.removesuffix("_orig")
        for name in tensors
        if name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in tensors
    ]
    if not pruned:
        return tensors
    parts = {f"{name}{end}" for name in pruned for end in ("_orig", "_mask")}
    products = {n: as_array(tensors[f"{n}_orig"]) * as_array(tensors[f"{n}_mask"]) for n in pruned}
    return {name: x for name, x in tensors.items() if name not in parts} | products


def _is_bookkeeping(name: str, tensor: Any) -> bool:
    if _SLOT.fullmatch(name) or _TRAINING.match(name):
        return True
    # Kept, because complete files of the PyTorch twin contain these counters.
    if name.endswith("num_batches_tracked"):
        return False
    is_count = str(getattr(tensor, "dtype", "")).rpartition(".")[2].startswith(("int", "uint"))
    scalar = tuple(tensor.shape) in ((), (1,))
    return scalar and (is_count or _COUNTS.fullmatch(name) is not None)


def networks(tensors: Mapping[str, Any]) -> list[Peeled]:
    """Finds the networks of known layouts in a dict of tensors, and removes their prefixes.

    Returns:
        A list of the networks: usually one, empty if none is found. Tensors that belong to no
        network are in `Peeled.outside`.
    """
    named = _with_dots(without_wrappers(tensors))
    found = {prefix: rest for prefix, rest in _by_prefix(named).items() if is_known(rest)}
    if is_known(named):
        # Next to a network without a prefix, only its average can be a second network.
        found = {p: r for p, r in found.items() if AVERAGE.search(p)}
        own = {k: t for k, t in named.items() if not k.startswith(tuple(found))}
        return [_peeled(own), *(_peeled(rest, prefix) for prefix, rest in found.items())]
    # Of nested prefixes, the shortest is enough.
    found = {p: r for p, r in found.items() if not any(p != o and p.startswith(o) for o in found)}
    if not found:
        return _with_root(named)
    inside = tuple(found)
    outside = {
        name: tensor
        for name, tensor in named.items()
        if not name.startswith(inside) and not name.endswith("num_batches_tracked")
    }
    if _are_parts(list(found.values())):  # a detector's first and second stage
        found = {" and ".join(found): {k: t for r in found.values() for k, t in r.items()}}
    return [_peeled(rest, prefix, outside) for prefix, rest in found.items()]


def _peeled(
    rest: Mapping[str, Any], prefix: str = "", outside: Mapping[str, Any] | None = None
) -> Peeled:
    unused = {f"{prefix}{name}": tensor for name, tensor in rest.items() if _UNUSED.match(name)}
    used = {name: tensor for name, tensor in rest.items() if not _UNUSED.match(name)}
    return Peeled(used, prefix, {**(outside or {}), **unused})


def _with_dots(named: dict[str, Any]) -> dict[str, Any]:
    """Restores the dots that latent-diffusion's `LitEma` removes, as in `model_ema.conv1weight`.

    The dots are taken from the network's other names in `named`, which are unchanged.
    """
    flat = {name for name in named if _FLAT_AVERAGE.fullmatch(name)}
    if len(flat) < _FEWEST:
        return named
    whole = {}
    for name in named.keys() - flat:
        parts = name.split(".")
        whole |= {"".join(parts[i:]): ".".join(parts[i:]) for i in range(len(parts))}
    renamed = {}
    for name, tensor in named.items():
        prefix, _, end = name.rpartition(".")
        renamed[f"{prefix}.{whole.get(end, end)}" if name in flat else name] = tensor
    return renamed


def _with_root(named: dict[str, Any]) -> list[Peeled]:
    """Finds a TF-slim network whose variable names lack the network's scope.

    An example is the name `Mixed_5b/...` instead of `InceptionV3/Mixed_5b/...`.

    Returns:
        A list with this network, its names completed by the scope; empty if there is none.
    """
    for prefix, rest in {"": named, **_by_prefix(named)}.items():
        root = slim_layouts.root_of(rest)
        if root:
            tensors = {f"{root}/{name}": tensor for name, tensor in rest.items()}
            outside = {k: t for k, t in named.items() if not k.startswith(prefix)}
            return [Peeled(tensors, prefix, outside)]
    return []


def is_known(tensors: Mapping[str, Any]) -> bool:
    """Returns whether names match a known layout, a publisher's or this library's."""
    if len(tensors) < _FEWEST:
        return False
    return layouts.find(dict(tensors)) is not None or any(map(_OWN.match, tensors))


def _by_prefix(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Groups tensors by every prefix that ends at a dot or slash, the shortest prefix first.

    The result maps each prefix to its group, in which names lack the prefix. Optimiser state and
    groups of fewer than `_FEWEST` tensors are left out.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        for match in re.finditer(r"[./]", name):
            groups.setdefault(name[: match.end()], {})[name[match.end() :]] = tensor
    large = {
        prefix: rest
        for prefix, rest in groups.items()
        if len(rest) >= _FEWEST and not any(map(OPTIMISER.fullmatch, re.split(r"[./]", prefix)))
    }
    return dict(sorted(large.items(), key=lambda item: len(item[0])))


def _are_parts(rests: list[dict[str, Any]]) -> bool:
    names = [name for rest in rests for name in rest]
    return len(names) == len(set(names))
