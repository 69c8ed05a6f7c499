"""Networks that compute features: FID's, any network of this library, or a user's function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from inception_jax.crops import as_input, crop_of, described, rounds
from inception_jax.images import Picture
from inception_jax.inference.compiled import frozen, jit_frozen
from inception_jax.metrics import device_crops, device_images, resizing
from inception_jax.metrics.origin import Origin, fingerprint_of
from inception_jax.nn.model import Model
from inception_jax.preprocessing import facts_of
from inception_jax.weights.weight_file import spec_of

Function = Callable[..., Any]
Outputs = tuple[jax.Array | None, ...]
"""The fields of `Features`, in order: pooled, logits_unbiased, spatial."""


@dataclasses.dataclass(frozen=True)
class OwnFeatures:
    """A user's function that computes features.

    Args:
        function: function that maps images, float32 [n, h, w, 3] from 0 to 1, to features [n, d].
            With `params`, it is called as `function(params, images)`. It must work under `jax.jit`.
        name: name of the features, shown in results and stored in files of statistics.
        params: parameters of the function, a pytree of arrays. Without `params`, arrays that the
            function closes over become constants of the compiled program.
        size: height and width in pixels to which images are resized first, with Pillow's 8-bit
            bilinear filter. None: images are not resized and must all have the same size.
    """

    function: Function
    name: str
    params: Any = None
    size: int | None = None

    def __post_init__(self):
        if not callable(self.function):
            raise ValueError(f"function must be a function of images, not a {type(self.function)}")
        if not self.name:
            raise ValueError("own features need a name, to be shown in results and files")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network, and how images are prepared for it.

    Attributes:
        params: parameters of the network, a pytree of arrays.
        call: function that maps `params` and prepared images [n, h, w, c] to `Outputs`.
        on_host: function that prepares one image, uint8 [h, w, 3], on the host.
        on_devices: function that prepares images, float32 [n, h, w, 3] from 0 to 255, on the
            devices.
        whole: whether the pixels given to `on_devices` must be whole numbers.
        compiled: function that maps a number of parts (see `jit_predict`) to a compiled function.
            The compiled function maps prepared images, an array on the host, to `Outputs`.
        origin: how the features are computed.
    """

    params: Any
    call: Callable[[Any, jax.Array], Outputs]
    on_host: Callable[[np.ndarray], np.ndarray]
    on_devices: Callable[[jax.Array], jax.Array]
    whole: bool
    compiled: Callable[[int | None], Callable[[Any], Outputs]]
    origin: Origin


def of_fid(
    model: Model, call: Callable[[Model, jax.Array], Outputs], origin: Origin
) -> FeatureNetwork:
    """Returns a `FeatureNetwork` for FID's network.

    Args:
        model: FID's network.
        call: function that maps the network and prepared images to `Outputs`.
        origin: how the features are computed; its `resize` is the resizing rule.
    """
    resize: Any = origin.resize
    return FeatureNetwork(
        **_of_model(model, call),
        on_host=functools.partial(resizing.resized, resize=resize),
        on_devices=functools.partial(device_images.resized, resize=resize),
        whole=resize == "bilinear_pillow",
        origin=origin,
    )


def of_library(model: Model, preset: str) -> FeatureNetwork:
    """Returns a `FeatureNetwork` for any network of this library.

    The features are the input of the network's classifier. Images are prepared as
    `inception_jax.preprocess` does. `preset` is the name of the preset to record in the origin.

    Raises:
        ValueError: if the network was not built by `create_model`, takes neither 1 nor 3 channels,
            or computes in less than float32.
    """
    info, channels = facts_of(model)
    dtype = getattr(model.fc, "dtype", jnp.float32) if hasattr(model, "fc") else jnp.float32
    if jnp.promote_types(dtype, jnp.float32) != dtype:
        raise ValueError(f"features need float32; this network computes in {dtype}")

    def on_host(image: np.ndarray) -> np.ndarray:
        picture = Picture(Image.fromarray(image), ())
        return as_input(crop_of(picture, info, channels), info)[0]

    # The classifier does not affect the features.
    tensors = {k: v for k, v in _named(model).items() if k.partition(".")[0] != "fc"}
    name = spec_of(model).name
    width = jax.eval_shape(model.embed, _input(info.input_size, channels)).shape[1]
    return FeatureNetwork(
        **_of_model(model, lambda model, images: (model.embed(images), None, None)),
        on_host=on_host,
        on_devices=lambda images: device_crops.prepared(images, info, channels),
        whole=rounds(info),
        origin=Origin(preset, described(info), width, fingerprint_of(tensors), name),
    )


def of_function(own: OwnFeatures, preset: str) -> FeatureNetwork:
    """Returns a `FeatureNetwork` that calls the user's function.

    `preset` is the name of the preset to record in the origin.

    Raises:
        ValueError: if the function does not return features [n, d].
    """
    size = own.size

    def on_host(image: np.ndarray) -> np.ndarray:
        if size is not None:
            picture = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
            image = np.asarray(picture)
        return image.astype(np.float32) / np.float32(255)

    def on_devices(images: jax.Array) -> jax.Array:
        if size is not None:
            images = device_images.pillow_resized(images, (size, size), "bilinear")
        return images / np.float32(255)

    def call(params: Any, images: jax.Array) -> Outputs:
        found = own.function(images) if own.params is None else own.function(params, images)
        if getattr(found, "ndim", 0) != 2 or found.shape[0] != images.shape[0]:
            got = f"{type(found).__name__} {list(getattr(found, 'shape', []))}"
            raise ValueError(
                f"{own.name} must return features [n, d] for images [n, h, w, 3]; for "
                f"{list(images.shape)} it returned {got}"
            )
        return found.astype(jnp.float32), None, None

    compute = jax.jit(call)
    leaves = jax.tree_util.tree_leaves_with_path(own.params)
    tensors = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    resize = "as they are" if size is None else f"{size}x{size}, bilinear, 8 bits"
    width = jax.eval_shape(call, own.params, _input(size or 64, 3))[0].shape[1]
    weights = fingerprint_of(tensors) if tensors else "not known"
    return FeatureNetwork(
        params=own.params,
        call=call,
        on_host=on_host,
        on_devices=on_devices,
        whole=size is not None,
        compiled=lambda _: functools.partial(compute, own.params),
        origin=Origin(preset, resize, width, weights, own.name),
    )


def _of_model(model: Model, call: Callable[[Model, jax.Array], Outputs]) -> dict[str, Any]:
    network = frozen(model)  # keeping `model` too would take twice the memory
    return {
        "params": network.params,
        "call": lambda params, images: call(nnx.merge(network.graphdef, params), images),
        "compiled": lambda parts: jit_frozen(network, call, parts=parts, save_memory=True),
    }


def _input(size: int, channels: int) -> Any:
    return jax.ShapeDtypeStruct((2, size, size, channels), np.float32)


def _named(model: Model) -> dict[str, np.ndarray]:
    from inception_jax.weights.saving import to_torch

    return {k: v for k, v in to_torch(model).items() if not k.endswith("num_batches_tracked")}
