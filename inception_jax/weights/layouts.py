"""The layouts of published files: who laid them out, how they are recognised, what they need.

Each has a function that maps a file's tensors to the twin's names and axis order, and the readings
that its numbers were made with: loading them under another reading would give wrong outputs, so it
is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from inception_jax.weights import keras_layouts, published_names, slim_layouts
from inception_jax.weights.published_names import Names

Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Own:
    """The network that a file is to fit.

    Attributes:
        shapes: of its tensors by the twin's names, in the twin's axis order.
        layers: returns the paths of its layers in the order of definition.
    """

    shapes: Mapping[str, tuple[int, ...]]
    layers: Callable[[], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one publisher lays out one network.

    Attributes:
        name: for messages.
        archs: the networks that the files are of.
        recognise: says whether a file has this layout.
        translate: maps a file's tensors to the twin's names and axis order.
        readings: options of the network's constructor that the files need.
        background: row 0 of a classifier that has a row too many is the background, as TF-slim
            trains it.
        head_optional: files without a classifier are in use, for the features that they give.
        names: maps the twin's names to the file's, for writing; None: by another rule.
        writes: the formats of `inception-jax convert` that this is.
    """

    name: str
    archs: tuple[str, ...]
    recognise: Callable[[Tensors], bool]
    translate: Callable[[Tensors, Own], Tensors]
    readings: Mapping[str, Any]
    background: bool = False
    head_optional: bool = False
    names: Callable[[Iterable[str]], Names] | None = None
    writes: tuple[str, ...] = ()


def find(tensors: Tensors) -> Layout | None:
    """Returns the foreign layout of a file's names; None where they may be the twin's own."""
    return next((layout for layout in LAYOUTS if layout.recognise(tensors)), None)


def for_writing(format_name: str, arch: str) -> Layout | None:
    """Returns how a format lays out a network; None where it has none."""
    return next((x for x in LAYOUTS if format_name in x.writes and arch in x.archs), None)


def _any_name(pattern: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(re.match(pattern, name) for name in tensors)


def _by_names(
    name: str,
    archs: str | tuple[str, ...],
    recognise: str | Callable[[Tensors], bool],
    names: Callable[[Iterable[str]], Names],
    *,
    writes: str = "",
    classifier: str = "",
    heads: Sequence[str] = (),
    background: bool = False,
    head_optional: bool = False,
    **readings: Any,
) -> Layout:
    """Files in the twin's axis order.

    `classifier` is what some call it instead; `heads` are the twin's names of auxiliary heads that
    files have, whether or not the model has them.
    """

    def translate(tensors: Tensors, own: Own) -> Tensors:
        ours = {theirs: name for name, theirs in names([*own.shapes, *heads]).items()}
        result = {}
        for name, tensor in tensors.items():
            known = (
                f"{usual}.{name.partition('.')[2]}" if name.startswith(f"{classifier}.") else name
            )
            target = ours.get(known, name)
            result[target] = _without_axes_of_one(tensor, own.shapes.get(target))
        return result

    usual = next(iter(names(["fc.bias"]).values())).rpartition(".")[0]
    return Layout(
        name,
        (archs,) if isinstance(archs, str) else archs,
        _any_name(recognise) if isinstance(recognise, str) else recognise,
        translate,
        readings,
        background,
        head_optional,
        names,
        tuple(writes.split()),
    )


def _without_axes_of_one(tensor: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """Reshapes what differs from our shape only in axes of one.

    Old PyTorch wrote vectors as [1, c], Caffe as [1, 1, 1, c]; an old Xception has 1x1 kernels as
    [out, in].
    """
    # Of as many axes it is another tensor: a 1x7 kernel in the place of a 7x1.
    if shape is None or tensor.ndim == len(shape):
        return tensor
    if [n for n in tensor.shape if n > 1] != [n for n in shape if n > 1]:
        return tensor
    return tensor.reshape(shape)


def _keras(name: str, arch: str, **readings: Any) -> Layout:
    return Layout(
        f"Keras {name}",
        (arch,),
        lambda tensors: keras_layouts.recognise(tensors) == arch,
        lambda tensors, own: keras_layouts.to_twin(tensors, own.layers()),
        dict(readings, bn_eps=1e-3),
        writes=("keras",),
    )


def _slim(name: str, arch: str, **readings: Any) -> Layout:
    return Layout(
        f"TF-slim {name}",
        (arch,),
        _any_name(rf"{name}/"),
        lambda tensors, own: slim_layouts.to_twin(tensors, own.layers(), name),
        dict(readings, bn_eps=1e-3),
        background=True,
        head_optional=arch == "inception_resnet_v1",
    )


def _is_fid(tensors: Tensors) -> bool:
    fc = tensors.get("fc.bias")
    return "Mixed_7c.branch_pool.conv.weight" in tensors and fc is not None and len(fc) == 1008


def _is_v3(tensors: Tensors) -> bool:
    return {"Mixed_5b.branch5x5_1.conv.weight", "Mixed_6b.branch7x7_1.conv.weight"} <= set(tensors)


def _never(tensors: Tensors) -> bool:
    """Of layouts that only write: nothing tells their files from the twin's, see the one before."""
    return False


_RESNET: dict[str, Any] = dict(linear_last_block=True, scales=(0.17, 0.10, 0.20), bn_eps=1e-3)
_RESNET_V1: dict[str, Any] = dict(_RESNET, head="face", blocks=(5, 10, 6))
_RESNET_V2: dict[str, Any] = dict(_RESNET, layout="slim", blocks=(10, 20, 10))
_V3: dict[str, Any] = dict(count_include_pad=False, mixed_7c_pool="avg", transform_input=False)

LAYOUTS = (
    _by_names(
        "torchvision GoogLeNet",
        "inception_v1",
        r"inception\d\w\.branch[1-4]\.",
        published_names.googlenet,
        writes="torchvision",
        norm="bn",
        pad_mode="torch",
        kernel_5x5=3,
        maxpool4_window=2,
        aux_pool="adaptive",
        bn_eps=1e-3,
    ),
    _by_names(
        "Caffe BVLC GoogLeNet",
        "inception_v1",
        r"(inception_\d\w|loss\d|conv\d)/",
        published_names.googlenet_bvlc,
        heads=[
            f"aux{i}.{layer}.{leaf}"
            for i in (1, 2)
            for layer in ("conv.conv", "fc1", "fc2")
            for leaf in ("weight", "bias")
        ],
        norm="lrn",
        pad_mode="torch",
        kernel_5x5=5,
        maxpool4_window=3,
        aux_pool="5x5",
    ),
    _by_names(
        "Cadene BN-Inception",
        "bn_inception",
        r"inception_\d\w_",
        published_names.bn_inception,
        stem="conv",
        conv_bias=True,
        pad_mode="torch",
        count_include_pad=True,
        bn_eps=1e-5,
    ),
    _by_names(
        "pytorch-fid Inception V3",
        "inception_v3",
        _is_fid,
        published_names.same,
        count_include_pad=False,
        mixed_7c_pool="max",
        transform_input=False,
        bn_eps=1e-3,
    ),
    # The twin's names too, so that no reading can be asked for.
    _by_names("torchvision or timm Inception V3", "inception_v3", _is_v3, published_names.same),
    _by_names(
        "torchvision Inception V3",
        "inception_v3",
        _never,
        published_names.same,
        writes="torchvision",
        count_include_pad=True,
        mixed_7c_pool="avg",
        bn_eps=1e-3,
    ),
    _by_names(
        "timm Inception V3",
        "inception_v3",
        _never,
        published_names.same,
        writes="timm",
        count_include_pad=True,
        mixed_7c_pool="avg",
        transform_input=False,
        bn_eps=1e-3,
    ),
    _by_names(
        "timm or Cadene Inception V4",
        "inception_v4",
        r"features\.\d+\.(conv|bn|branch)",
        published_names.inception_v4,
        writes="timm",
        background=True,
        bn_eps=1e-3,
    ),
    _by_names(
        "facenet-pytorch Inception-ResNet-v1",
        "inception_resnet_v1",
        r"repeat_3\.",
        published_names.inception_resnet_v1,
        head_optional=True,
        **_RESNET_V1,
    ),
    _by_names(
        "timm or Cadene Inception-ResNet-v2",
        "inception_resnet_v2",
        r"(repeat|repeat_1)\.\d",
        published_names.inception_resnet_v2,
        writes="timm",
        classifier="last_linear",
        background=True,
        **_RESNET_V2,
    ),
    _by_names(
        "timm or Cadene Xception",
        "xception",
        r"block\d+\.(rep|skip|skipbn)\.",
        published_names.xception,
        writes="timm",
        classifier="last_linear",
        pad_mode="torch",
        bn_eps=1e-5,
    ),
    _keras("Xception", "xception", pad_mode="tf"),
    _keras("InceptionV3", "inception_v3", **_V3),
    _keras("InceptionResNetV2", "inception_resnet_v2", **_RESNET_V2),
    _slim("InceptionV1", "inception_v1", norm="bn", pad_mode="tf", kernel_5x5=3, maxpool4_window=2),
    _slim(
        "InceptionV2",
        "bn_inception",
        stem="separable",
        conv_bias=False,
        pad_mode="tf",
        count_include_pad=False,
        pool_4cd=96,
    ),
    _slim("InceptionV3", "inception_v3", **_V3),
    _slim("InceptionV4", "inception_v4"),
    _slim("InceptionResnetV1", "inception_resnet_v1", **_RESNET_V1),
    _slim("InceptionResnetV2", "inception_resnet_v2", **_RESNET_V2),
    _by_names(
        "timm aligned Xception",
        ("xception41", "xception65", "xception71"),
        r"blocks\.\d+\.stack\.conv\d\.bn_dw\.",
        published_names.xception_aligned,
        writes="timm",
        preact=False,
        bn_eps=1e-3,
    ),
    _by_names(
        "timm aligned Xception with pre-activation",
        ("xception41p", "xception65p"),
        r"blocks\.\d+\.norm\.",
        published_names.xception_aligned_preact,
        writes="timm",
        preact=True,
    ),
    _by_names(
        "timm or sail-sg InceptionNeXt",
        tuple(f"inception_next_{size}" for size in ("atto", "tiny", "small", "base")),
        r"(stem|stages\.\d\.downsample)\.[01]\.",
        published_names.inception_next,
        writes="timm",
        bn_eps=1e-5,
    ),
)
