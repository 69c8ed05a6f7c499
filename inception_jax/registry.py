"""The registry of networks and published weights, with facts about each."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from inception_jax import words

if TYPE_CHECKING:  # facts do not need the networks' modules
    from inception_jax.nn.model import Model
    from inception_jax.nn.stages import FeatureInfo

INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)

# Preprocessing of the original implementations, as arguments of `Tag`.
IMAGENET: dict[str, Any] = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
KERAS: dict[str, Any] = dict(crop="squash", interpolation="nearest")
SLIM: dict[str, Any] = dict(crop="crop_resize", interpolation="bilinear_tf1")

SHARED_OPTIONS = ("aux_heads", "width_multiplier", "dtype", "param_dtype", "rngs")
"""Options that all networks have. All other keyword-only arguments of a network's constructor are
options of its class."""

Interpolation = Literal["bilinear", "bicubic", "nearest", "bilinear_tf1", "bilinear_torch"]
Crop = Literal["resize_crop", "crop_resize", "squash", "warp_crop"]
ChannelOrder = Literal["rgb", "bgr"]


class UnknownModelError(KeyError):
    """No network or tag has this name. The message suggests similar names."""

    def __str__(self) -> str:
        return str(self.args[0])


class FrozenDict(dict):
    """An immutable, hashable dict, which can be pickled and written as JSON."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("this dict is read-only; dict(...) makes a copy that can be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Tag:
    """The facts about one published set of weights: options, source and preprocessing.

    Attributes:
        readings: options of the network's constructor that reproduce the outputs of the original
            implementation.
        source: where the weights and the published accuracy come from, such as a repository and a
            file.
        num_classes: number of outputs of the classifier.
        num_params: number of parameters without auxiliary heads; None: the number given to
            `register`.
        input_size: side of the square images of the original evaluation, in pixels.
        channel_order: order of the colour channels in the network's input.
        input_range: largest possible value of a pixel before `mean` is subtracted, 1 or 255.
        mean: values subtracted from the channels, in `channel_order`.
        std: values by which the channels are divided after `mean` was subtracted.
        crop: how an image becomes square. "resize_crop": resize the shorter side to
            input_size / crop_pct, then crop the centre. "crop_resize": crop the central crop_pct of
            both sides, then resize. "squash": resize the whole image, ignoring its aspect ratio.
            "warp_crop": squash to input_size / crop_pct, then crop the centre.
        crop_pct: fraction, see `crop`.
        interpolation: "bilinear", "bicubic" and "nearest" are Pillow's, with antialiasing except
            for "nearest". "bilinear_tf1" and "bilinear_torch" have no antialiasing. They sample
            like TensorFlow 1 and like PyTorch's `interpolate(align_corners=False)`; see
            `crops.interpolated`.
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
    """Facts about a network with one of its tags.

    Fields that are not listed here are those of `Tag`.

    Attributes:
        name: `arch` or `arch.tag`, as `create_model` takes it.
        arch: name of the network, without a tag.
        tag: name of the set of weights; empty for the recommended variant.
        paper: URL of the paper.
        min_size: smallest height and width of images, in pixels.
        num_params: number of trainable parameters with `num_classes` outputs, without auxiliary
            heads.
        aux_heads: names of the auxiliary outputs that `aux_heads=True` adds.
        readings: options of the network's constructor that the tag sets. Read-only.
        upright: whether photos are rotated by their EXIF orientation. False for published weights,
            because torchvision and TensorFlow ignore the orientation.
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
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Crop
    crop_pct: float
    interpolation: Interpolation
    aux_heads: tuple[str, ...]
    readings: Mapping[str, Any]
    upright: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Values of the options of the network's class for this tag, by name.

        Options that the tag does not set have their defaults. `SHARED_OPTIONS` are left out.
        """
        return {**_DEFAULTS[self.arch], **self.readings}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing fields by name. A weight file can override them."""
        return {name: getattr(self, name) for name in _PREPROCESSING}

    def for_channels(self, channels: int) -> ModelInfo:
        """Returns the facts for images with this number of channels.

        For one channel, the normalisation maps images to [-1, 1]. Otherwise nothing changes.
        """
        if channels != 1:
            return self
        half = (0.5,)
        return dataclasses.replace(self, channel_order="rgb", input_range=1, mean=half, std=half)

    @functools.cached_property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """A `FeatureInfo` for each stage that `features` returns, in forward order.

        The first access takes a second or two.
        """
        from inception_jax.nn.stages import stages_of  # imports JAX

        return stages_of(_CLASSES[self.arch], self.options)


_PREPROCESSING = (
    "input_size", "crop", "crop_pct", "interpolation", "channel_order", "input_range", "mean",
    "std", "upright",
)  # fmt: skip

_CLASSES: dict[str, Any] = {}  # by arch; the constructors differ in their own options
_DEFAULTS: dict[str, dict[str, Any]] = {}  # by arch: own options of the class
_INFOS: dict[str, ModelInfo] = {}  # by name


def register(
    arch: str,
    model_class: type[Model],
    *,
    paper: str,
    num_params: int,
    tags: Mapping[str, Tag],
) -> None:
    """Registers a network as `arch.tag` for each tag.

    The tag "" is the recommended variant, which is registered as `arch`.

    Args:
        arch: name of the network without a tag.
        model_class: class of the network.
        paper: URL of the paper.
        num_params: number of parameters of tags that do not state it.
        tags: facts about each variant, by tag.
    """
    parameters = inspect.signature(model_class.__init__).parameters.values()
    _CLASSES[arch] = model_class
    _DEFAULTS[arch] = {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in SHARED_OPTIONS
    }
    for tag, facts in tags.items():
        name = f"{arch}.{tag}" if tag else arch
        fields = {f.name: getattr(facts, f.name) for f in dataclasses.fields(facts)}
        fields["num_params"] = facts.num_params or num_params
        fields["readings"] = FrozenDict(facts.readings)
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
    """Returns the sorted names that match a shell pattern.

    Args:
        pattern: shell pattern, such as "inception*". A tag is listed if its name matches with or
            without the tag.
        tags: whether to list names of the form `arch.tag` instead of `arch`.
    """
    return sorted(
        name
        for name, info in _INFOS.items()
        if bool(info.tag) == tags
        and (fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(info.arch, pattern))
    )


def model_info(name: str) -> ModelInfo:
    """Returns the facts about a network, or about a network with one of its tags.

    Args:
        name: `arch` or `arch.tag`, see `list_models`.

    Raises:
        UnknownModelError: for an unknown name; the message suggests similar ones.
    """
    try:
        return _INFOS[name]
    except KeyError:
        raise UnknownModelError(words.about_name(name, _INFOS)) from None


def model_class(name: str) -> Any:
    """Returns the class of a network.

    Raises:
        UnknownModelError: for an unknown name; the message suggests similar ones.
    """
    return _CLASSES[model_info(name).arch]
