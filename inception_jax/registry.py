"""Names of networks and of published weights, and what each of them needs."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
import inspect
import types
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax.nn.init import ONE_KEY
from inception_jax.nn.model import Model, Spec

if TYPE_CHECKING:
    from inception_jax.analysis.features import FeatureInfo

INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Interpolation = Literal["bilinear", "bicubic", "nearest", "bilinear_tf1", "bilinear_torch"]
Crop = Literal["resize_crop", "crop_resize", "squash", "warp_crop"]
ChannelOrder = Literal["rgb", "bgr"]


class UnknownModelError(KeyError):
    """No network, or no set of weights, has this name."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclasses.dataclass(frozen=True)
class Tag:
    """What one published set of weights needs, beside the network's defaults.

    Attributes:
        readings: options of the network's constructor.
        source: the repository and file that the weights and figures are from.
        num_classes: rows of the classifier.
        num_params: parameters without auxiliary heads; None: the network's own figure.
        input_size: side of the square that the publisher evaluates on, in pixels.
        channel_order: of the network's input.
        input_range: the largest value of a pixel before `mean` is subtracted, 1 or 255.
        mean: subtracted from each channel, in the order of the network's input.
        std: divides the difference.
        crop: how the square is cut: "resize_crop" resizes the shorter side to
            input_size / crop_pct and cuts the centre; "crop_resize" cuts the central crop_pct of
            both sides and resizes it; "squash" resizes the whole image; "warp_crop" resizes the
            whole image to input_size / crop_pct and cuts the centre.
        crop_pct: see `crop`.
        interpolation: "bilinear", "bicubic" and "nearest" are Pillow's, which smooth before they
            shrink; "bilinear_tf1" and "bilinear_torch" do not, with TensorFlow 1's corner-aligned
            grid and with PyTorch's `interpolate(align_corners=False)`.
    """

    source: str
    readings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_classes: int = 1000
    num_params: int | None = None
    input_size: int = 299
    channel_order: ChannelOrder = "rgb"
    input_range: int = 1
    mean: tuple[float, float, float] = INCEPTION_MEAN
    std: tuple[float, float, float] = INCEPTION_STD
    crop: Crop = "resize_crop"
    crop_pct: float = 0.875
    interpolation: Interpolation = "bicubic"


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Facts about a network under one of its tags; see `Tag` for the fields not listed here.

    Attributes:
        name: what `create_model` takes, `arch` or `arch.tag`.
        arch: the network.
        tag: the set of weights; empty for the recommended reading.
        paper: address of the paper.
        min_size: smallest height and width that the network takes, in pixels.
        num_params: trainable numbers without auxiliary heads, at `num_classes`.
        aux_heads: names of the auxiliary outputs that `aux_heads=True` adds.
        readings: options of the network's constructor that the tag fixes.
    """

    name: str
    arch: str
    tag: str
    paper: str
    source: str
    num_classes: int
    num_params: int
    input_size: int
    min_size: int
    channel_order: ChannelOrder
    input_range: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: Crop
    crop_pct: float
    interpolation: Interpolation
    aux_heads: tuple[str, ...]
    readings: Mapping[str, Any]

    @functools.cached_property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The stages that `features` returns, in forward order; see `features.feature_info`."""
        from inception_jax.analysis.features import (
            feature_info,  # which traces a network: a second or two
        )

        return feature_info(abstract_model(self.name))


_CLASSES: dict[str, Any] = {}  # each with options of its own
_INFOS: dict[str, ModelInfo] = {}


def register(
    arch: str,
    model_class: type[Model],
    *,
    paper: str,
    num_params: int,
    tags: Mapping[str, Tag],
) -> None:
    """Makes a network known by `arch` and `arch.tag`; the tag "" is the recommended reading."""
    for tag, facts in tags.items():
        name = f"{arch}.{tag}" if tag else arch
        fields = {f.name: getattr(facts, f.name) for f in dataclasses.fields(facts)}
        fields["num_params"] = facts.num_params or num_params
        fields["readings"] = types.MappingProxyType(dict(facts.readings))
        _CLASSES[name] = model_class
        _INFOS[name] = ModelInfo(
            name=name,
            arch=arch,
            tag=tag,
            paper=paper,
            min_size=model_class.min_size,
            aux_heads=model_class.aux_names,
            **fields,
        )


def list_models(pattern: str = "*", *, tags: bool = False) -> list[str]:
    """Returns the networks whose name fits a shell pattern, sorted.

    Args:
        pattern: such as "inception*".
        tags: list `name.tag` for every published set of weights instead.
    """
    return sorted(
        name
        for name, info in _INFOS.items()
        if bool(info.tag) == tags
        and (fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(info.arch, pattern))
    )


def model_info(name: str) -> ModelInfo:
    """Returns the facts about a network, or about one of its published sets of weights.

    Raises:
        UnknownModelError: with near names.
    """
    try:
        return _INFOS[name]
    except KeyError:
        raise UnknownModelError(_unknown(name)) from None


def _unknown(name: str) -> str:
    arch = name.partition(".")[0]
    if arch in _INFOS:
        tags = [info.tag for info in _INFOS.values() if info.arch == arch and info.tag]
        return f"{arch} has no tag {name.partition('.')[2]!r}; it has {', '.join(tags)}"
    near = difflib.get_close_matches(name, _INFOS, n=3)
    near += difflib.get_close_matches(arch, list_models(), n=3)
    hint = "all are in list_models(), or `inception-jax list`"
    if near:
        hint = f"did you mean {', '.join(dict.fromkeys(near))}?"
    return f"unknown model {name!r}; {hint}"


def create_model(
    name: str,
    *,
    weights: Any = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    aux_heads: bool = False,
    width_multiplier: float = 1.0,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs | None = None,
    **readings: Any,
) -> Model:
    """Builds a network in evaluation mode.

    Args:
        name: `arch` or `arch.tag`, see `list_models`.
        weights: None for random parameters; True for the tag's published file, fetched once and
            kept; else what `load_weights` takes.
        num_classes: size of the output; None: the tag's own.
        in_channels: channels of the images.
        aux_heads: build the auxiliary classifiers, whose logits training returns too.
        width_multiplier: scales every channel count.
        dtype: what the network computes in.
        param_dtype: what the parameters are stored in.
        rngs: source of the initial parameters; None: `nnx.Rngs(0)`. Not used up by weights.
        **readings: further options of the network's class, over those that the tag fixes.

    Raises:
        UnknownModelError: with near names.
        WeightsError: if the weights do not fit, or cannot be fetched.
        TypeError: for an option that the network does not have.
        ValueError: if it has no auxiliary heads to build.
    """
    info = model_info(name)
    if aux_heads and not info.aux_heads:
        raise ValueError(f"{info.arch} has no auxiliary heads: leave aux_heads at False")
    num_classes = info.num_classes if num_classes is None else num_classes
    model_class = _CLASSES[name]
    readings = {**full_readings(name), **readings}

    def build(rngs: nnx.Rngs) -> Model:
        model: Model = model_class(
            num_classes,
            in_channels,
            **({"aux_heads": True} if aux_heads else {}),
            width_multiplier=width_multiplier,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
            **readings,
        )
        model.eval()
        options = tuple(sorted(readings.items()))
        model.spec = Spec(name, num_classes, in_channels, aux_heads, width_multiplier, options)
        return model

    rngs = nnx.Rngs(0) if rngs is None else rngs
    return build(rngs) if weights is None else _loaded(name, build, rngs, weights)


def abstract_model(name: str, **options: Any) -> Model:
    """Builds a network of shapes without numbers, in a second or less.

    Args:
        name: what `create_model` takes.
        **options: of `create_model`.

    Raises:
        UnknownModelError: with near names.
    """
    return nnx.eval_shape(lambda: create_model(name, rngs=ONE_KEY, **options))


def _loaded(name: str, build: Callable[[nnx.Rngs], Model], rngs: nnx.Rngs, weights: Any) -> Model:
    """Builds a network around its weights: random ones, only to be replaced, take long to make."""
    from inception_jax.weights.loading import load_weights, open_source  # which import this module

    weights = open_source(name, weights)
    model = nnx.eval_shape(lambda: build(ONE_KEY))
    load_weights(model, weights)
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(nnx.state(model))):
        return model
    model = build(rngs)  # a file without a classifier, as has just been said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_weights(model, weights)
    return model


def full_readings(name: str) -> dict[str, Any]:
    """Returns every option that only this network has, as `create_model(name)` sets it."""
    return {**_default_readings(_CLASSES[name]), **model_info(name).readings}


def _default_readings(model_class: type[Model]) -> dict[str, Any]:
    """The options that only this network has, with their defaults."""
    shared = inspect.signature(create_model).parameters
    own = list(inspect.signature(model_class.__init__).parameters.values())[1:]
    return {p.name: p.default for p in own if p.name not in shared}
