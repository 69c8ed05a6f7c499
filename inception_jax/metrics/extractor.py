"""Features of images by the network of FID, on all cores or devices."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from inception_jax.create import model_for
from inception_jax.inference.compiled import cores, jit_call
from inception_jax.metrics.features import Features, joined, statistics_of, whole_batches
from inception_jax.metrics.image_loader import Images, LoaderOptions, batches, open_images
from inception_jax.metrics.origin import Origin, fingerprint
from inception_jax.metrics.presets import DEFAULT, preset_of
from inception_jax.metrics.resizing import RESIZES, SIDE, Resize
from inception_jax.metrics.statistics import Statistics
from inception_jax.models.inception_v3 import InceptionV3
from inception_jax.nn.layers import global_avg_pool
from inception_jax.nn.model import Model
from inception_jax.registry import model_info
from inception_jax.weights.weight_file import Source, spec_of

NAME = "inception_v3.fid"

Dims = Literal[64, 192, 768, 2048]
DIMS: tuple[Dims, ...] = get_args(Dims)
_SPATIAL_STAGE, _SPATIAL_CHANNELS = "Mixed_6d", 7  # of its first branch, `mixed_6/conv`
_STAGES = {64: "MaxPool_3a_3x3", 192: "MaxPool_5a_3x3", 768: "Mixed_6e", 2048: "Mixed_7c"}


class Extractor:
    """Turns images into features: reads, resizes, computes.

    The network computes in float32 without shortcuts ("highest" precision), also on devices whose
    default is bfloat16 or TF32. It is loaded and compiled when it is first needed.

    Args:
        weights: what `load_weights` takes, such as the path of pytorch-fid's
            `pt_inception-2015-12-05-6726825d.pth`; True: that file, fetched once and kept; or a
            network that `create_model("inception_v3.fid", weights=...)` built.
        preset: the program whose numbers are computed, by its name in `PRESETS`.
        dims: how many features, at one of pytorch-fid's four stages. 2048: the last, of FID proper.
        resize: a rule of `resizing.resized`; None: the preset's.
        batch_size: images that are computed at once; cut into one part for each core or device.
        recursive: take the images in a folder's subfolders too; None: as the preset's program.
        skip_unreadable: leave out files that are not whole images, with a warning at the end.
        progress: show bars on stderr.
        workers: threads that read and resize; None: one for each core.
        parts: see `jit_predict`.

    Raises:
        ValueError: for an option that is not there; later, by what uses the network, for a network
            that is not FID's.
        WeightsError, FileNotFoundError: later, see `load_weights`.
    """

    def __init__(
        self,
        weights: Source | Model = True,
        *,
        preset: str = DEFAULT,
        dims: int = 2048,
        resize: Resize | None = None,
        batch_size: int = 50,
        recursive: bool | None = None,
        skip_unreadable: bool = False,
        progress: bool = False,
        workers: int | None = None,
        parts: int | None = None,
    ):
        self.preset = preset_of(preset)
        if recursive is not None:
            files = dataclasses.replace(self.preset.files, recursive=recursive)
            self.preset = dataclasses.replace(self.preset, files=files)
        resize = self.preset.resize if resize is None else resize
        for option, value, known in (("dims", dims, DIMS), ("resize", resize, RESIZES)):
            if value not in known:
                raise ValueError(f"{option} is one of {', '.join(map(str, known))}, not {value!r}")
        if dims not in self.preset.dims:
            offered = ", ".join(map(str, self.preset.dims))
            raise ValueError(f"{self.preset.program} offers {offered} features, not {dims}")
        workers = cores() if workers is None else workers
        for option, value in (("batch_size", batch_size), ("workers", workers)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value}")
        self.dims = dims
        self.resize: Resize = resize
        files = self.preset.files
        self.files = files if recursive is None else dataclasses.replace(files, recursive=recursive)
        self._weights: Source | Model = weights
        self._parts = parts
        self._loader = LoaderOptions(
            resize, batch_size, workers, skip_unreadable, progress, self.preset.unit_floats
        )

    def open(self, images: Any) -> Images | Statistics | Features:
        """Finds out what images are, and whether they can be read; see `image_loader.open_images`.

        Whatever was opened, and features, are returned as they are.
        """
        if isinstance(images, Images | Statistics | Features):
            return images
        return open_images(images, self.preset)

    def load(self) -> None:
        """Loads the network now."""
        _ = self._model

    def features(self, images: Any) -> Features:
        """Returns the features of images; 12 kB an image.

        Args:
            images: a folder, an array uint8 [n, h, w, 3], or an iterable of images: paths, Pillow
                images, arrays uint8 [h, w, 3] or [n, h, w, 3]. Features are returned as they are.

        Raises:
            ValueError: for fewer than two images, or what is none; for statistics.
        """
        opened = self.open(images)
        if isinstance(opened, Features):
            return opened
        if isinstance(opened, Statistics):
            raise ValueError("statistics do not say the features of each image: give the images")
        parts = list(self._kept(opened))
        if sum(map(len, parts)) < 2:
            raise ValueError(f"{opened.name}: fewer than two images, of which nothing can be said")
        return joined(parts, self.origin)

    def statistics(self, images: Any) -> Statistics:
        """Returns the statistics of images, of which no more than a few batches are held.

        Args:
            images: as `features` takes, or an `.npz` file of statistics, or statistics.

        Raises:
            ValueError: for fewer than two images, or what is none.
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
        """What the features are of; loads the network."""
        weights = fingerprint(self._model, self.dims)
        return Origin(self.preset.name, self.resize, self.dims, weights)

    @functools.cached_property
    def width(self) -> int:
        """How many features there are: `dims`, unless the network's width was multiplied."""
        graphdef, state = nnx.split(self._model)
        images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32)
        pooled, *_ = jax.eval_shape(
            lambda state, images: _pooled(nnx.merge(graphdef, state), images, self.dims),
            state,
            images,
        )
        return pooled.shape[1]

    @functools.cached_property
    def _model(self) -> InceptionV3:
        weights = self._weights
        return _checked(weights if isinstance(weights, Model) else model_for(NAME, weights))

    @functools.cached_property
    def _call(self) -> Any:
        call = functools.partial(_pooled, dims=self.dims, spatial="sfid" in self.preset.metrics)
        return jit_call(self._model, call, parts=self._parts)

    def _kept(self, images: Images) -> Iterator[Features]:
        """Features batch by batch, without those that the preset's program leaves out."""
        parts = self._computed(images)
        size = self.preset.whole_batches
        return whole_batches(parts, size, images.name) if size else parts

    def _computed(self, images: Images) -> Iterator[Features]:
        """Features batch by batch; while one is fetched from the devices they compute the next."""
        pending: collections.deque[tuple[Any, int]] = collections.deque()
        size = None
        for batch in batches(images, self._loader):
            count = len(batch)
            size = size or count
            if count < size:  # another shape would be compiled anew
                batch = np.pad(batch, [(0, size - count), (0, 0), (0, 0), (0, 0)])
            with jax.default_matmul_precision("highest"):
                pending.append((self._call(batch), count))
            if len(pending) == 2:
                yield _fetched(*pending.popleft())
        while pending:
            yield _fetched(*pending.popleft())


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
        raise ValueError(f"FID is of the features of {NAME}, not of {spec.name}")
    if spec.in_channels != 3:
        raise ValueError(f"FID is of colour images; this network takes {spec.in_channels} channels")
    options = model_info(NAME).options
    needed = {k: options[k] for k in ("count_include_pad", "mixed_7c_pool", "bn_eps")}
    if jnp.promote_types(model.fc.dtype, jnp.float32) != model.fc.dtype:
        raise ValueError(f"FID needs float32; this network computes in {model.fc.dtype}")
    wrong = [f"{k}={v!r}" for k, v in spec.readings if k in needed and v != needed[k]]
    if wrong:
        raise ValueError(
            f"FID is of the features of {NAME}; {spec.name} has {', '.join(wrong)} instead of "
            f"{', '.join(f'{k}={v!r}' for k, v in needed.items())}"
        )
    return model
