"""State of a metric for images that stay on the devices: a pytree to update and merge.

    state = extractor.init()
    state = extractor.update(state, images)
    metrics.result(state, real)

The state does not depend on the order of the images or on the batch size, except for the features
that it can keep: those of the first images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from inception_jax.metrics import moments as sums
from inception_jax.metrics.features import Features
from inception_jax.metrics.moments import Moments
from inception_jax.metrics.origin import Origin, check_comparable
from inception_jax.metrics.statistics import Statistics
from inception_jax.metrics.value_ranges import check_far, warn_of_part

WIDTH = 2048
_AT_ONCE = 1 << 26  # bytes of a state that processes send each other at once


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Sums over the images so far, and the features that are kept; a pytree of arrays.

    Attributes:
        moments: sums over the features and their outer products, by the name of the features' field
            in `Features`.
        kept: features of the first images, [size, d], by the name of their field in `Features`;
            empty if none are kept.
        pixel_range: float32 [2], the smallest and the largest value of the images before clipping,
            where 0 is black and 1 is white; see `device_images.pixel_range`.
        origin: how features are computed; None if unknown.
    """

    moments: dict[str, Moments]
    kept: dict[str, jax.Array]
    pixel_range: jax.Array
    origin: Origin | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def count(self) -> jax.Array:
        """Number of images, int32 []."""
        return self.moments["pooled"].count


def init(
    widths: int | Mapping[str, int] = WIDTH,
    *,
    keep: int | Mapping[str, tuple[int, int]] = 0,
    origin: Origin | None = None,
) -> State:
    """Returns an empty `State`, to which `add` adds the features of images.

    `Extractor.init` returns an empty state for the features of an extractor.

    Args:
        widths: number of pooled features; or a mapping from fields of `Features` to numbers of
            features.
        keep: the state keeps the pooled features of the first `keep` images. Or a mapping from
            fields of `Features` to the shapes (number of images, d) of the features to keep.
        origin: how the features are computed; None if unknown.
    """
    widths = {"pooled": widths} if isinstance(widths, int) else dict(widths)
    if isinstance(keep, int):
        keep = {"pooled": (keep, widths["pooled"])} if keep else {}
    return State(
        moments={name: sums.empty(width) for name, width in widths.items()},
        kept={name: jnp.zeros(shape, jnp.float32) for name, shape in keep.items()},
        pixel_range=jnp.array([jnp.inf, -jnp.inf], jnp.float32),
        origin=origin,
    )


def add(
    state: State, features: Features, mask: jax.Array | None = None, pixel_range: Any = None
) -> State:
    """Adds features, from `Extractor.apply` or elsewhere, to a state and returns the new state.

    Args:
        state: state of the images so far. It is not changed.
        features: features [n, d] to add; they must have all fields that the state has.
        mask: bool [n], False for rows to ignore. None: no row is ignored.
        pixel_range: range of the images' values, see `State`; None: it is not recorded.

    Raises:
        ValueError: if the features lack a field of the state, or differ from the state in their
            number or origin.
    """
    check_comparable(state.origin, features.origin)
    pooled = features.pooled
    count = pooled.shape[0]
    mask = jnp.ones(count, bool) if mask is None else checked_mask(mask, count)
    moments = {}
    for name, old in state.moments.items():
        new = _of_kind(features, name)
        if new.ndim != 2 or new.shape[1] != old.shift.shape[0]:
            raise ValueError(
                f"the state is for {old.shift.shape[0]} features; got {list(new.shape)}: "
                "make the state with extractor.init()"
            )
        moments[name] = sums.add(old, new, mask)
    kept = {}
    for name, buffer in state.kept.items():
        at = jnp.where(mask, state.count + jnp.cumsum(mask, dtype=jnp.int32) - 1, len(buffer))
        new = _of_kind(features, name).astype(buffer.dtype)
        kept[name] = buffer.at[at].set(new, mode="drop")
    return State(
        moments, kept, _wider(state.pixel_range, pixel_range), state.origin or features.origin
    )


def _of_kind(features: Features, name: str) -> jax.Array:
    found = getattr(features, name)
    if found is None:
        raise ValueError(f"the state needs {name} features, but they are missing")
    return jnp.asarray(found)


def checked_mask(mask: Any, count: int) -> jax.Array:
    """Returns a mask of images as bool [count]; raises a ValueError for another shape."""
    mask = jnp.asarray(mask)
    if mask.shape != (count,):
        raise ValueError(f"a mask for {count} images must be [{count}]; got {list(mask.shape)}")
    return mask.astype(bool)


def _wider(a: jax.Array, b: Any) -> jax.Array:
    if b is None:
        return a
    return jnp.stack([jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])])


def merge(a: State, b: State) -> State:
    """Merges two states into one state for all their images; works under `jax.jit`.

    Raises:
        ValueError: if the fields, numbers or origins of the features differ.
    """
    check_comparable(a.origin, b.origin)
    shapes = [{k: m.shift.shape for k, m in s.moments.items()} for s in (a, b)]
    if shapes[0] != shapes[1] or a.kept.keys() != b.kept.keys():
        raise ValueError(f"the states have different features: {shapes[0]} and {shapes[1]}")
    moments = {name: sums.merge(a.moments[name], b.moments[name]) for name in a.moments}
    kept = {}
    for name, buffer in a.kept.items():
        more = jnp.arange(len(b.kept[name]))
        at = jnp.where(more < b.count, a.count + more, len(buffer))
        kept[name] = buffer.at[at].set(b.kept[name], mode="drop")
    return State(moments, kept, _wider(a.pixel_range, b.pixel_range), a.origin or b.origin)


def merge_over(state: State, axis_name: str) -> State:
    """Merges the states of all devices along a mesh axis, inside `jax.shard_map` or `jax.pmap`.

    It gathers all states, so each device briefly holds the states of all devices.

    Args:
        state: state of this device.
        axis_name: name of the axis.
    """
    every = jax.tree.map(lambda x: lax.all_gather(x, axis_name), state)
    parts = [jax.tree.map(lambda x: x[i], every) for i in range(len(every.count))]  # noqa: B023
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(merged, part)
    return merged


def across_processes(state: State) -> State:
    """Merges the states of all processes of `jax.distributed`, if each has seen different images.

    Every process must call this function. Do not call it if one `jax.jit` runs over the devices of
    all processes, because the state then already covers all images.

    Returns:
        The merged state, which is the same in every process, with NumPy arrays.
    """
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return state
    if any(isinstance(x, jax.Array) and not x.is_fully_addressable for x in jax.tree.leaves(state)):
        raise ValueError(
            "this state is already shared by the devices of all processes: give it to "
            "metrics.result"
        )
    local = jax.device_get(state)
    leaves, structure = jax.tree.flatten(local)
    gathered = [_gathered(leaf, multihost_utils.process_allgather) for leaf in leaves]
    parts = [
        jax.tree.unflatten(structure, [leaf[i] for leaf in gathered])
        for i in range(jax.process_count())
    ]
    merged = parts[0]
    join = jax.jit(merge)
    for part in parts[1:]:
        merged = join(merged, part)
    return jax.device_get(merged)


def _gathered(leaf: np.ndarray, gather: Any) -> np.ndarray:
    """Returns the arrays `leaf` of all processes, [processes, ...].

    `gather` does the same for one array; large arrays are passed to it in chunks.
    """
    if leaf.nbytes <= _AT_ONCE:
        return np.asarray(gather(leaf))
    flat = leaf.reshape(-1)
    step = _AT_ONCE // leaf.itemsize
    pieces = [np.asarray(gather(flat[i : i + step])) for i in range(0, len(flat), step)]
    return np.concatenate(pieces, axis=1).reshape(-1, *leaf.shape)


# Results, on the host


def statistics_of(state: State) -> Statistics:
    """Returns the mean and covariance of the features of a state's images.

    Raises:
        ValueError: for fewer than two images, features that are not finite, or images far outside
            the stated range.
    """
    state = _on_host(state)
    low, high = map(float, state.pixel_range)
    check_far(low, high)
    warn_of_part(low, high, stacklevel=3)
    found = {
        name: Statistics(*sums.mean_and_covariance(moments), origin=state.origin)
        for name, moments in state.moments.items()
    }
    return dataclasses.replace(found["pooled"], spatial=found.get("spatial"))


def features_of(state: State) -> Features:
    """Returns the features that the state kept: those of the first images, in order.

    Raises:
        ValueError: if the state keeps none.
    """
    if not state.kept:
        raise ValueError("this state keeps no features: extractor.init(keep=N) keeps the first N")
    state = _on_host(state)
    kept = {name: np.asarray(x)[: int(state.count)] for name, x in state.kept.items()}
    return Features(**kept, origin=state.origin)


def _on_host(state: State) -> State:
    return jax.tree.map(_fetched, state)


def _fetched(array: Any) -> np.ndarray:
    """Copies an array to NumPy; gathers it first if it is sharded over several processes."""
    whole = getattr(array, "is_fully_addressable", True) or array.is_fully_replicated
    if whole:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
