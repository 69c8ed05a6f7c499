"""Computes features of images that are on the devices, as pure functions of the parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from inception_jax.metrics import device_images, state
from inception_jax.metrics.device_images import Range, Rounding
from inception_jax.metrics.feature_networks import FeatureNetwork
from inception_jax.metrics.features import Features
from inception_jax.metrics.state import State

_LEAST = 2  # fewest images per device; see `OnDevices`


class OnDevices:
    """A network as pure functions of its parameters and of images.

    `apply` returns the features of images, `update` adds images to a `State`, and `shapes` returns
    the features' shapes and dtypes.

    Each device computes at least two images; black padding images are added if necessary. For a
    single image, XLA's CPU compiler would sum in another order. With two or more images, the
    features were bit-for-bit independent of the batch size in all tests on CPUs. `block` guarantees
    this on all devices, but takes more time.

    Args:
        network: the network with its parameters.
        rounding: rounding of float images if a call does not set it: "nearest", "down" or "none",
            see `device_images.pixels`.
        block: number of images that a device always computes at once; None: all images that it is
            given.
    """

    def __init__(self, network: FeatureNetwork, rounding: Rounding, block: int | None):
        self._network = network
        self._rounding: Rounding = rounding
        self._block = block
        self._placed: dict[Any, Any] = {}
        static = ("value_range", "rounding", "axes", "mesh")
        self._apply = jax.jit(self._features, static_argnames=static)
        self._update = jax.jit(self._updated, static_argnames=static)

    def apply(
        self, params: Any, images: Any, value_range: Range | None, rounding: Rounding | None
    ) -> Features:
        """Returns the features of images as JAX arrays; see `Extractor.apply`."""
        images, params, options = self._arguments(images, params, value_range, rounding)
        compute = functools.partial(self._apply, **options)
        first = jax.typeof(images).sharding.spec[:1]
        return _in_automatic_axes(compute, images, PartitionSpec(*first))(params, images)

    def update(
        self,
        old: State,
        images: Any,
        mask: Any,
        params: Any,
        value_range: Range | None,
        rounding: Rounding | None,
    ) -> State:
        """Returns the state with images added; see `Extractor.update`."""
        images, params, options = self._arguments(images, params, value_range, rounding)
        compute = functools.partial(self._update, **options)
        old, mask = jax.tree.map(_automatic, (old, mask))
        return _in_automatic_axes(compute, images, PartitionSpec())(params, old, images, mask)

    def _arguments(
        self, images: Any, params: Any, value_range: Range | None, rounding: Rounding | None
    ) -> tuple[jax.Array, Any, dict[str, Any]]:
        rounding = rounding or self._rounding
        images = device_images.checked(images, value_range, rounding)
        if self._network.whole and rounding == "none" and images.dtype != jnp.uint8:
            how = self._network.origin.resize
            raise ValueError(f"resize {how} needs 8-bit images, so rounding cannot be 'none'")
        images, axes, mesh = _laid_out(images)
        params = self._beside(images) if params is None else params
        if value_range is not None:
            value_range = (float(value_range[0]), float(value_range[1]))
        options = dict(value_range=value_range, rounding=rounding, axes=axes, mesh=mesh)
        return images, params, options

    def shapes(self) -> Features:
        """Returns the shapes and dtypes of the features of one image, without computing them.

        Each array of the returned `Features` is a `jax.ShapeDtypeStruct`.
        """
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
        compute = functools.partial(
            self._features, value_range=None, rounding="nearest", axes=(), mesh=None
        )
        return jax.eval_shape(compute, self._network.params, images)

    def _updated(
        self, params: Any, old: State, images: jax.Array, mask: Any, **options: Any
    ) -> State:
        count = images.shape[0]
        mask = jnp.ones(count, bool) if mask is None else state.checked_mask(mask, count)
        features = self._features(params, images, **options)
        seen = device_images.pixel_range(images, options["value_range"], mask)
        new = state.add(old, features, mask, seen)
        if options["mesh"] is not None:  # replicate the state on every device
            new = lax.with_sharding_constraint(new, NamedSharding(options["mesh"], PartitionSpec()))
        return new

    def _features(
        self,
        params: Any,
        images: jax.Array,
        *,
        value_range: Range | None,
        rounding: Rounding,
        axes: tuple[str, ...],
        mesh: Mesh | None,
    ) -> Features:
        network = self._network

        def compute(params: Any, images: jax.Array) -> Features:
            pixels = device_images.pixels(images, value_range, rounding)
            pooled, logits, spatial = network.call(params, network.on_devices(pixels))
            assert pooled is not None
            flat = None if spatial is None else spatial.reshape(spatial.shape[0], -1)
            arrays: Any = (pooled, logits, flat)  # JAX arrays; on the host they are NumPy's
            return Features(*arrays, origin=network.origin)

        with jax.default_matmul_precision("highest"):
            local = functools.partial(_in_blocks, compute, block=self._block)
            if not axes:
                return local(params, images)
            # Each device computes by itself: if the compiler partitions the network, the last bits
            # of the features differ.
            spread = PartitionSpec(axes)
            where = {"in_specs": (PartitionSpec(), spread), "out_specs": spread, "mesh": mesh}
            return jax.shard_map(local, **where, check_vma=False)(params, images)

    def _beside(self, images: jax.Array) -> Any:
        """Returns the parameters on the devices of the images. Keeps the copy for later calls."""
        place = _place(images)
        if place is None:
            return self._network.params
        if place not in self._placed:
            self._placed[place] = jax.device_put(self._network.params, place)
        return self._placed[place]


def _place(images: jax.Array) -> Any:
    if isinstance(images, jax.core.Tracer):
        return None
    if isinstance(images.sharding, NamedSharding):
        return NamedSharding(images.sharding.mesh, PartitionSpec())
    if isinstance(images.sharding, SingleDeviceSharding) and images.committed:
        return images.sharding
    return None


def _laid_out(images: jax.Array) -> tuple[jax.Array, tuple[str, ...], Mesh | None]:
    """Finds out how images are sharded.

    Returns:
        Three values. The images, moved to a mesh with automatic axes if their mesh has explicit
        axes. The names of the mesh axes over which their first axis is sharded, empty if there are
        none or they are unknown. The mesh, None if there is none or the images are traced.
    """
    if isinstance(images, jax.core.Tracer):
        sharding = jax.typeof(images).sharding
        explicit = AxisType.Explicit in sharding.mesh.axis_types
        return images, _axes_of(sharding.spec) if explicit else (), None
    if not isinstance(images.sharding, NamedSharding):
        return images, (), None
    images = _automatic(images)
    sharding: Any = images.sharding
    return images, _axes_of(sharding.spec), sharding.mesh


def _axes_of(spec: PartitionSpec) -> tuple[str, ...]:
    axes = spec[0] if len(spec) else None
    return tuple(axes) if isinstance(axes, tuple) else () if axes is None else (axes,)


def _automatic(array: Any) -> Any:
    """Moves an array from explicit to automatic mesh axes; returns any other array unchanged.

    JAX pads and slices arrays only if their mesh axes are automatic.
    """
    sharding = getattr(array, "sharding", None)
    if isinstance(array, jax.core.Tracer) or not isinstance(sharding, NamedSharding):
        return array
    mesh: Any = sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return array
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
    return jax.device_put(array, NamedSharding(mesh, sharding.spec))


def _in_automatic_axes(compute: Callable, images: jax.Array, out: PartitionSpec) -> Callable:
    """Returns a function that calls `compute` with all mesh axes of the images automatic.

    Args:
        compute: the function to call.
        images: images that `compute` takes. If their mesh has no explicit axes, `compute` itself is
            returned.
        out: sharding of the results over the explicit axes.
    """
    mesh = jax.typeof(images).sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return compute
    inside = jax.sharding.auto_axes(compute, out_sharding=out)

    def call(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh):
            return inside(*args)

    return call


def _in_blocks(
    compute: Callable[[Any, jax.Array], Features],
    params: Any,
    images: jax.Array,
    *,
    block: int | None,
) -> Features:
    """Computes features in blocks of equal size. Pads the last block with black images.

    `block` is the number of images in a block; None: all images, but at least two.
    """
    count = images.shape[0]
    each = block or max(count, _LEAST)
    blocks = -(-count // each)
    padded = jnp.pad(images, [(0, blocks * each - count), (0, 0), (0, 0), (0, 0)])
    if blocks == 1:
        found = compute(params, padded)
    else:
        cut = padded.reshape(blocks, each, *images.shape[1:])
        found = lax.map(functools.partial(compute, params), cut)
        found = jax.tree.map(lambda x: x.reshape(blocks * each, *x.shape[2:]), found)
    return jax.tree.map(lambda x: x[:count], found)
