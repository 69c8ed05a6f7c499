"""Computes features of images with FID's network, on all cores or devices."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from inception_jax.create import load, model_for
from inception_jax.inference.compiled import cores
from inception_jax.memory import return_freed_memory
from inception_jax.metrics import feature_networks, state
from inception_jax.metrics.device_images import Range, Rounding, pixel_range
from inception_jax.metrics.feature_networks import FeatureNetwork, OwnFeatures
from inception_jax.metrics.features import Features, joined, statistics_of, whole_batches
from inception_jax.metrics.image_loader import Images, LoaderOptions, batches, open_images
from inception_jax.metrics.on_devices import OnDevices
from inception_jax.metrics.origin import Origin, fingerprint
from inception_jax.metrics.presets import DEFAULT, preset_of
from inception_jax.metrics.resizing import RESIZES, Resize
from inception_jax.metrics.sources import Generated
from inception_jax.metrics.state import State
from inception_jax.metrics.statistics import Statistics
from inception_jax.metrics.value_ranges import check_far, warn_of_part
from inception_jax.models.inception_v3 import InceptionV3
from inception_jax.nn.layers import global_avg_pool
from inception_jax.nn.model import Model
from inception_jax.registry import model_info
from inception_jax.weights import hub
from inception_jax.weights.weight_file import Source, spec_of

NAME = "inception_v3.fid"

Dims = Literal[64, 192, 768, 2048]
DIMS: tuple[Dims, ...] = get_args(Dims)
_SPATIAL_STAGE, _SPATIAL_CHANNELS = "Mixed_6d", 7  # channels of the first branch, `mixed_6/conv`
_STAGES = {64: "MaxPool_3a_3x3", 192: "MaxPool_5a_3x3", 768: "Mixed_6e", 2048: "Mixed_7c"}


class Extractor:
    """Reads and resizes images, and computes their features with FID's or another network.

    FID's network is Inception V3. The network computes in full float32 (precision "highest"), even
    on devices that use bfloat16 or TF32 by default. It is loaded and compiled when it is first
    needed.

    Args:
        weights: weights of the network, in any form that `load_weights` takes, such as the path of
            pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`. True: this file, downloaded once
            and cached. Or a network that `create_model("inception_v3.fid", weights=...)` built.
        features: a network to use in place of FID's: a name of `list_models`, with `weights`; the
            path of a file or folder that names its network; a network of this library; an
            `OwnFeatures`; or a function of images, see `OwnFeatures.function`. The number of
            features and the resizing of this network override `dims` and `resize`.
        preset: name of the preset in `PRESETS`, which is the program to imitate.
        dims: number of features, which selects one of pytorch-fid's four stages. 2048 selects the
            last stage, on which FID is defined.
        resize: name of a resizing rule, see `resizing.resized`; None: the preset's rule.
        batch_size: number of images in a batch; a batch is split over the cores or devices.
        recursive: whether to read the images in subfolders too; None: as the preset's program does.
        skip_unreadable: whether to skip files that are not whole images, with a warning at the end.
        progress: whether to show progress bars on stderr.
        workers: number of threads that read and resize images; None: one for each core.
        parts: number of parts of a batch that run in parallel; see `jit_predict`.
        block: number of images that a device computes at once in `apply` and `update`, whatever
            the batch size; None: all images that it is given. With a number, the features are
            bit-for-bit independent of the batch size; see `on_devices.OnDevices`.

    Raises:
        ValueError: for an invalid option. Also at the first use of the network, if `features` is
            None and `weights` is a network other than FID's.
        WeightsError, FileNotFoundError: at the first use of the weights, see `load_weights`.
    """

    def __init__(
        self,
        weights: Source | Model = True,
        *,
        features: str | Model | OwnFeatures | Callable[..., Any] | None = None,
        preset: str = DEFAULT,
        dims: int = 2048,
        resize: Resize | None = None,
        batch_size: int = 50,
        recursive: bool | None = None,
        skip_unreadable: bool = False,
        progress: bool = False,
        workers: int | None = None,
        parts: int | None = None,
        block: int | None = None,
    ):
        self.preset = preset_of(preset)
        if recursive is not None:
            files = dataclasses.replace(self.preset.files, recursive=recursive)
            self.preset = dataclasses.replace(self.preset, files=files)
        resize = self.preset.resize if resize is None else resize
        for option, value, known in (("dims", dims, DIMS), ("resize", resize, RESIZES)):
            if value not in known:
                values = ", ".join(map(str, known))
                raise ValueError(f"{option} must be one of {values}, not {value!r}")
        if dims not in self.preset.dims:
            offered = ", ".join(map(str, self.preset.dims))
            raise ValueError(f"{self.preset.program} offers {offered} features, not {dims}")
        workers = cores() if workers is None else workers
        for option, value in (
            ("batch_size", batch_size),
            ("workers", workers),
            ("block", 1 if block is None else block),
        ):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value}")
        self.dims = dims
        self.resize: Resize = resize
        self._weights: Source | Model = weights
        self._parts = parts
        self._block = block
        self._progress = progress
        self._own = _own_features(features)
        self._options = (batch_size, workers, skip_unreadable, progress, self.preset.unit_floats)

    def open(self, images: Any) -> Images | Statistics | Features:
        """Opens a source of images, without reading an image; see `image_loader.open_images`.

        Returns:
            `Images`, or the `Statistics` or `Features` that a file holds. Objects of these three
            types are returned unchanged.
        """
        if isinstance(images, Images | Statistics | Features):
            return images
        if isinstance(images, str | os.PathLike) and (saved := Features.saved_in(images)):
            return saved
        return open_images(images, self.preset)

    def load(self) -> None:
        """Loads the network now, instead of at its first use."""
        _ = self._network

    def features(self, images: Any) -> Features:
        """Returns the features of images.

        The features take 12 kB per image, and 8 kB more with spatial features.

        Args:
            images: a folder; an array uint8 [n, h, w, 3]; or an iterable of paths, Pillow images
                and arrays uint8 [h, w, 3] or [n, h, w, 3]. `image_loader.open_images` lists all
                sources. `Features`, or the features in a file, are returned unchanged.

        Raises:
            ValueError: for fewer than two images, an input that is not an image, or statistics.
        """
        opened = self.open(images)
        if isinstance(opened, Features):
            return opened
        if isinstance(opened, Statistics):
            raise ValueError("statistics do not hold the features of each image: give the images")
        parts = list(self._kept(opened))
        if sum(map(len, parts)) < 2:
            raise ValueError(f"{opened.name}: at least two images are needed")
        return joined(parts, self.origin)

    def statistics(self, images: Any) -> Statistics:
        """Returns the statistics of images. Only a few batches are in memory at a time.

        Statistics that are stored with the images are returned without computing them again.

        Args:
            images: any input of `features`, an `.npz` file of statistics, or `Statistics`.

        Raises:
            ValueError: for fewer than two images, or an input that is not an image.
        """
        opened = self.open(images)
        if isinstance(opened, Statistics):
            return opened
        if isinstance(opened, Features):
            return opened.statistics
        if opened.statistics is not None:
            return opened.statistics
        return statistics_of(self._kept(opened), self.preset, self.origin)

    @functools.cached_property
    def origin(self) -> Origin:
        """The `Origin` of the features: how they are computed. Loads the network if needed."""
        return self._network.origin

    @functools.cached_property
    def width(self) -> int:
        """Number of features per image: `dims` for FID's network without a width multiplier."""
        return self._on_devices.shapes().pooled.shape[1]

    # In a training loop

    @property
    def params(self) -> Any:
        """The network's parameters, a pytree of arrays. Loads the network if needed."""
        return self._network.params

    def apply(
        self,
        params: Any,
        images: Any,
        *,
        value_range: Range | None = None,
        rounding: Rounding | None = None,
    ) -> Features:
        """Computes the features of images and leaves them on the devices; works under `jax.jit`.

        Args:
            params: parameters of the network; None: `self.params`. Pass `self.params` to a compiled
                function as an argument, or the parameters become constants of its program.
            images: uint8 or float images, [n, h, w, 3] or grey [n, h, w, 1]; a JAX or NumPy array,
                on one device or sharded over a mesh along the first axis.
            value_range: see `device_images.pixels`.
            rounding: see `device_images.pixels`; None: "down" if the preset's program rounds down,
                else "nearest".

        Returns:
            `Features` that hold JAX arrays.

        Raises:
            ValueError: for images of an unsupported shape or dtype, or float images without a
                `value_range`.
        """
        return self._on_devices.apply(params, images, value_range, rounding)

    def init(self, *, keep: int = 0) -> State:
        """Returns an empty `State`, to which `update` adds images. Loads the network if needed.

        Args:
            keep: the state keeps the features of the first `keep` images. Metrics other than FID
                and sFID need these features, see `metrics.features_of`. They take 12 kB per image,
                and 8 kB more with spatial features.

        Raises:
            ValueError: if `keep` is negative.
        """
        if keep < 0:
            raise ValueError(f"keep must not be negative; got {keep}")
        shapes = self._on_devices.shapes()
        widths = {"pooled": shapes.pooled.shape[1]}
        if shapes.spatial is not None:
            widths["spatial"] = shapes.spatial.shape[1]
        kept = {
            name: (keep, array.shape[1])
            for name in ("pooled", "logits_unbiased", "spatial")
            if keep and (array := getattr(shapes, name)) is not None
        }
        return state.init(widths, keep=kept, origin=self.origin)

    def update(
        self,
        state: State,
        images: Any,
        mask: Any = None,
        *,
        params: Any = None,
        value_range: Range | None = None,
        rounding: Rounding | None = None,
    ) -> State:
        """Adds images to a state, on the devices, and returns the new state.

        It works under `jax.jit`.

        Args:
            state: state of the images so far. It is not changed.
            images: see `apply`.
            mask: bool [n], False for images to ignore, such as the padding of the last batch. None:
                no image is ignored.
            params: see `apply`.
            value_range: see `apply`.
            rounding: see `apply`.

        Raises:
            ValueError: see `apply`; also if the state is for other features than the extractor's.
        """
        return self._on_devices.update(state, images, mask, params, value_range, rounding)

    @functools.cached_property
    def _on_devices(self) -> OnDevices:
        rounding: Rounding = "down" if self.preset.unit_floats else "nearest"
        return OnDevices(self._network, rounding, self._block)

    @functools.cached_property
    def _network(self) -> FeatureNetwork:
        weights, own, preset = self._weights, self._own, self.preset.name
        if isinstance(own, OwnFeatures):
            return feature_networks.of_function(own, preset)
        if own is not None:
            model = _network_at(own, weights) if isinstance(own, str) else own
            return feature_networks.of_library(model, preset)
        model = _checked(weights if isinstance(weights, Model) else model_for(NAME, weights))
        call = functools.partial(_pooled, dims=self.dims, spatial="sfid" in self.preset.metrics)
        origin = Origin(preset, self.resize, self.dims, fingerprint(model, self.dims))
        return feature_networks.of_fid(model, call, origin)

    @functools.cached_property
    def _loader(self) -> LoaderOptions:
        return LoaderOptions(self._network.on_host, *self._options)

    @functools.cached_property
    def _call(self) -> Any:
        return self._network.compiled(self._parts)

    def _kept(self, images: Images) -> Iterator[Features]:
        """Yields features in batches, without the images that the preset's program drops.

        If `Preset.whole_batches` is set, the program drops the images of an incomplete last batch.
        """
        parts = self._computed(images)
        size = self.preset.whole_batches
        return whole_batches(parts, size, images.name) if size else parts

    def _generated(self, images: Generated) -> Iterator[Features]:
        """Yields features, as NumPy arrays, of each batch that is generated on the devices."""
        bar = tqdm(total=images.count, unit=" images", desc=images.name, disable=not self._progress)
        low, high = np.inf, -np.inf
        with bar:
            for batch, count in images:
                found = self.apply(
                    None, batch, value_range=images.value_range, rounding=images.rounding
                )
                least, most = map(float, _pixel_range(batch, images.value_range, count))
                low, high = np.minimum(low, least), np.maximum(high, most)  # NaN stays NaN
                check_far(low, high, images.name)
                yield jax.tree.map(lambda x: np.asarray(x)[:count], found)  # noqa: B023
                bar.update(count)
        warn_of_part(low, high, images.name)

    def _computed(self, images: Images) -> Iterator[Features]:
        """Yields features in batches.

        The devices compute one batch while the features of the previous one are copied to the host.
        """
        if isinstance(images.items, Generated):
            yield from self._generated(images.items)
            return
        pending: collections.deque[tuple[Any, int]] = collections.deque()
        size = None
        for batch in batches(images, self._loader):
            count = len(batch)
            first = size is None
            size = size or count
            if count < size:  # another shape would need another compilation
                batch = np.pad(batch, [(0, size - count), (0, 0), (0, 0), (0, 0)])
            with jax.default_matmul_precision("highest"):
                pending.append((self._call(batch), count))
            if first:
                return_freed_memory()  # which the compilation used
            if len(pending) == 2:
                yield _fetched(*pending.popleft())
        while pending:
            yield _fetched(*pending.popleft())


@functools.partial(jax.jit, static_argnames="value_range")
def _pixel_range(images: jax.Array, value_range: Range | None, count: jax.Array) -> jax.Array:
    """Returns `device_images.pixel_range` of the first `count` images."""
    return pixel_range(images, value_range, jnp.arange(len(images)) < count)


def _own_features(features: Any) -> str | Model | OwnFeatures | None:
    if features is None or isinstance(features, str | Model | OwnFeatures):
        return features
    if callable(features):
        return OwnFeatures(features, getattr(features, "__name__", type(features).__name__))
    raise ValueError(
        "features must be a network's name, a network or a function of images, not a "
        f"{type(features).__name__}"
    )


def _network_at(name: str, weights: Any) -> Model:
    """Loads a network by its name, or from a file or folder that names its network.

    Args:
        name: name of the network; or path of the file or folder, or `hf-hub:owner/name`.
        weights: weights of a network given by name; see `Extractor`.
    """
    if weights is True and (Path(name).exists() or hub.is_source(name)):
        return load(name)
    return model_for(name, weights)


def _pooled(
    model: Model, images: jax.Array, dims: int, *, spatial: bool = False
) -> tuple[jax.Array | None, ...]:
    maps = model.features(images)
    pooled = global_avg_pool(maps[_STAGES[dims]])
    beside = maps[_SPATIAL_STAGE][..., :_SPATIAL_CHANNELS] if spatial else None
    if dims != 2048:
        return pooled, None, beside
    assert isinstance(model, InceptionV3)
    return pooled, pooled @ model.fc.kernel[...], beside


def _fetched(result: tuple[jax.Array | None, ...], count: int) -> Features:
    pooled, logits, spatial = (
        x if x is None else np.asarray(x, np.float32)[:count] for x in result
    )
    assert pooled is not None
    return Features(pooled, logits, None if spatial is None else spatial.reshape(count, -1))


def _checked(model: Model) -> InceptionV3:
    spec = spec_of(model)
    if not isinstance(model, InceptionV3):
        raise ValueError(f"FID needs the features of {NAME}, not those of {spec.name}")
    if spec.in_channels != 3:
        raise ValueError(f"FID needs a network of 3 channels; this one takes {spec.in_channels}")
    options = model_info(NAME).options
    needed = {k: options[k] for k in ("count_include_pad", "mixed_7c_pool", "bn_eps")}
    if jnp.promote_types(model.fc.dtype, jnp.float32) != model.fc.dtype:
        raise ValueError(f"FID needs float32; this network computes in {model.fc.dtype}")
    wrong = [f"{k}={v!r}" for k, v in spec.readings if k in needed and v != needed[k]]
    if wrong:
        raise ValueError(
            f"FID needs the features of {NAME}; {spec.name} has {', '.join(wrong)} instead of "
            f"{', '.join(f'{k}={v!r}' for k, v in needed.items())}"
        )
    return model
