"""The names that published files use, translated to the twin's.

A layout is recognised by names that no other has. Each has a function that maps a file's tensors to
the twin's, and the readings that its numbers were made with: loading them under another reading
would give wrong outputs, so it is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from inception_jax.weights import keras_layouts, pytorch_layouts
from inception_jax.weights.pytorch_layouts import Tensors


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one publisher lays out one network.

    Attributes:
        name: for messages.
        archs: the networks that the files are of.
        recognise: says whether a file has this layout.
        translate: maps a file's tensors to the twin's names and axis order. Its second argument
            returns the paths of our layers in the order of definition, which takes a while.
        readings: options of the network's constructor that the files need.
        background: row 0 of a classifier that has a row too many is the background, as TF-slim
            trains it.
    """

    name: str
    archs: tuple[str, ...]
    recognise: Callable[[Tensors], bool]
    translate: Callable[[Tensors, Callable[[], list[str]]], Tensors]
    readings: Mapping[str, Any]
    background: bool = False


def find(tensors: Tensors) -> Layout | None:
    """Returns the foreign layout of a file's names; None where they may be the twin's own."""
    return next((layout for layout in LAYOUTS if layout.recognise(tensors)), None)


def _timm_xception(tensors: Tensors) -> Tensors:
    """timm `legacy_xception` and Cadene `xception`: block i here is their block i - 1.

    Inside `rep`, ReLUs count as layers: a block that opens with one has its convolutions at
    1, 4, 7, the first block at 0, 3; a BatchNorm follows each.
    """
    return {_timm_xception_name(name): tensor for name, tensor in tensors.items()}


def _timm_xception_name(name: str) -> str:
    name = re.sub(r"^last_linear\.", "fc.", name)
    stem = re.fullmatch(r"(conv|bn)([12])\.(\w+)", name)
    if stem:
        return f"block1_conv{stem[2]}.{stem[1]}.{stem[3]}"
    tail = re.fullmatch(r"(?:conv([34])\.(conv1|pointwise)|bn([34]))\.(\w+)", name)
    if tail:
        layer = {"conv1": "depthwise", "pointwise": "pointwise", None: "bn"}[tail[2]]
        return f"block14_sepconv{int(tail[1] or tail[3]) - 2}.{layer}.{tail[4]}"
    block = re.fullmatch(r"block(\d+)\.(.+)", name)
    if not block:
        return name
    number, rest = int(block[1]), block[2]
    prefix = f"block{number + 1}"
    rest = re.sub(r"^skip\.", "residual.conv.", rest)
    rest = re.sub(r"^skipbn\.", "residual.bn.", rest)
    rep = re.fullmatch(r"rep\.(\d+)\.(?:(conv1|pointwise)\.)?(\w+)", rest)
    if not rep:
        return f"{prefix}.{rest}"
    position = int(rep[1]) + (number == 1)  # the first block has no opening ReLU
    layer = {"conv1": "depthwise", "pointwise": "pointwise", None: "bn"}[rep[2]]
    return f"{prefix}.sepconv{(position + 2) // 3}.{layer}.{rep[3]}"


def _layout(
    name: str,
    arch: str | tuple[str, ...],
    key: str,
    translate: Callable[[Tensors], Tensors],
    *,
    background: bool = False,
    **readings: Any,
) -> Layout:
    """A layout of names alone, recognised by one that no other has."""
    archs = (arch,) if isinstance(arch, str) else arch
    return Layout(name, archs, lambda t: key in t, lambda t, _: translate(t), readings, background)


def _keras(name: str, arch: str, **readings: Any) -> Layout:
    return Layout(
        f"Keras {name}",
        (arch,),
        lambda tensors: keras_layouts.recognise(tensors) == arch,
        lambda tensors, layers: keras_layouts.to_twin(tensors, layers()),
        dict(readings, bn_eps=1e-3),
    )


_NEXT = tuple(f"inception_next_{size}" for size in ("atto", "tiny", "small", "base"))

LAYOUTS = (
    _layout(
        "torchvision GoogLeNet",
        "inception_v1",
        "inception3a.branch2.0.conv.weight",
        pytorch_layouts.googlenet,
        norm="bn",
        pad_mode="torch",
        kernel_5x5=3,
        maxpool4_window=2,
        bn_eps=1e-3,
    ),
    _layout(
        "Cadene BN-Inception",
        "bn_inception",
        "inception_3a_1x1.weight",
        pytorch_layouts.bn_inception,
        stem="conv",
        conv_bias=True,
        pad_mode="torch",
        count_include_pad=True,
        bn_eps=1e-5,
    ),
    _layout(
        "timm or Cadene Inception V4",
        "inception_v4",
        "features.21.branch2_3a.conv.weight",
        pytorch_layouts.inception_v4,
        background=True,
        bn_eps=1e-3,
    ),
    _layout(
        "facenet-pytorch Inception-ResNet-v1",
        "inception_resnet_v1",
        "repeat_3.0.conv2d.weight",
        pytorch_layouts.inception_resnet_v1,
        head="face",
        blocks=(5, 10, 6),
        linear_last_block=True,
        scales=(0.17, 0.10, 0.20),
        bn_eps=1e-3,
    ),
    _layout(
        "timm or Cadene Inception-ResNet-v2",
        "inception_resnet_v2",
        "repeat.0.conv2d.weight",
        pytorch_layouts.inception_resnet_v2,
        background=True,
        layout="slim",
        blocks=(10, 20, 10),
        linear_last_block=True,
        scales=(0.17, 0.10, 0.20),
        bn_eps=1e-3,
    ),
    _layout(
        "timm or Cadene Xception",
        "xception",
        "block12.rep.4.pointwise.weight",
        _timm_xception,
        pad_mode="torch",
        bn_eps=1e-5,
    ),
    _keras("Xception", "xception", pad_mode="tf"),
    _keras(
        "InceptionV3",
        "inception_v3",
        count_include_pad=False,
        mixed_7c_pool="avg",
        transform_input=False,
    ),
    _keras(
        "InceptionResNetV2",
        "inception_resnet_v2",
        layout="slim",
        blocks=(10, 20, 10),
        linear_last_block=True,
        scales=(0.17, 0.10, 0.20),
    ),
    _layout(
        "timm aligned Xception",
        ("xception41", "xception65", "xception71"),
        "blocks.0.stack.conv1.bn_dw.weight",
        pytorch_layouts.xception_aligned,
        preact=False,
        bn_eps=1e-3,
    ),
    _layout(
        "timm aligned Xception with pre-activation",
        ("xception41p", "xception65p"),
        "blocks.0.norm.weight",
        pytorch_layouts.xception_aligned_preact,
        preact=True,
    ),
    _layout(
        "timm or sail-sg InceptionNeXt",
        _NEXT,
        "stem.0.weight",
        pytorch_layouts.inception_next,
        bn_eps=1e-5,
    ),
)
