"""The registry of networks and of published weights, with the facts about each."""

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

# How publishers preprocess images, as arguments of `Tag`.
IMAGENET: dict[str, Any] = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
KERAS: dict[str, Any] = dict(crop="squash", interpolation="nearest")
SLIM: dict[str, Any] = dict(crop="crop_resize", interpolation="bilinear_tf1")

SHARED_OPTIONS = ("aux_heads", "width_multiplier", "dtype", "param_dtype", "rngs")
"""Options that all networks have. Further keyword arguments of a constructor are its own
options."""

Interpolation = Literal["bilinear", "bicubic", "nearest", "bilinear_tf1", "bilinear_torch"]
Crop = Literal["resize_crop", "crop_resize", "squash", "warp_crop"]
ChannelOrder = Literal["rgb", "bgr"]


class UnknownModelError(KeyError):
    """There is no network or tag of this name. The message suggests similar names."""

    def __str__(self) -> str:
        return str(self.args[0])


class FrozenDict(dict):
    """An immutable, hashable dict. JSON and pickle treat it as a dict."""

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
        readings: options of the network's constructor that reproduce the publisher's outputs.
        source: the repository and file of the weights and of the published accuracy.
        num_classes: outputs of the classifier.
        num_params: number of parameters without auxiliary heads; None: that of the network.
        input_size: side of the square images on which the publisher evaluates, in pixels.
        channel_order: the order of colours in the network's input.
        input_range: the largest value of a pixel before `mean` is subtracted, 1 or 255.
        mean: subtracted from each channel, in the order of the network's input.
        std: divides each channel after `mean` was subtracted.
        crop: how the square is made. "resize_crop": resize the shorter side to
            input_size / crop_pct, then crop the centre. "crop_resize": crop the central crop_pct of
            both sides, then resize. "squash": resize the whole image, ignoring its aspect ratio.
            "warp_crop": squash to input_size / crop_pct, then crop the centre.
        crop_pct: see `crop`.
        interpolation: "bilinear", "bicubic" and "nearest" are Pillow's, with antialiasing.
            "bilinear_tf1" and "bilinear_torch" have no antialiasing; they use TensorFlow 1's
            corner-aligned grid and the grid of PyTorch's `interpolate(align_corners=False)`.
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
    """Facts about a network with one of its tags. See `Tag` for the fields that are not listed
    here.

    Attributes:
        name: `arch` or `arch.tag`, as `create_model` takes it.
        arch: the network.
        tag: the set of weights; empty for the recommended variant.
        paper: address of the paper.
        min_size: smallest height and width of images, in pixels.
        num_params: number of trainable parameters without auxiliary heads, for `num_classes`.
        aux_heads: names of the auxiliary outputs that `aux_heads=True` adds.
        readings: options of the network's constructor that the tag sets. Read-only.
        upright: whether photos are rotated by their EXIF orientation. False for published weights:
            torchvision and TensorFlow ignore the orientation.
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
        """The network's own options with the values of this tag, without `SHARED_OPTIONS`."""
        return {**_DEFAULTS[self.arch], **self.readings}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing: the fields that a weight file can override."""
        return {name: getattr(self, name) for name in _PREPROCESSING}

    def for_channels(self, channels: int) -> ModelInfo:
        """Returns the facts for images with this number of channels.

        Grey images are mapped to [-1, 1].
        """
        if channels != 1:
            return self
        half = (0.5,)
        return dataclasses.replace(self, channel_order="rgb", input_range=1, mean=half, std=half)

    @functools.cached_property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The stages that `features` returns, in forward order.

        The first access takes a second or two.
        """
        from inception_jax.nn.stages import stages_of  # where JAX is

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
    """Registers a network under `arch` and `arch.tag`. The tag "" is the recommended variant."""
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
    """Returns the names that fit a shell pattern, sorted.

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
