"""The layouts of published files: their publisher, how to recognise them, which options they need.

A layout maps a file's tensors to the PyTorch twin's names and axis order. It also lists the options
with which the file was trained. A network with other options would give wrong outputs, so loading
the file into it fails.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from inception_jax.nn.model import Model
from inception_jax.weights import graph_layouts, keras_layouts, published_names, slim_layouts
from inception_jax.weights.published_names import Names, Renaming
from inception_jax.weights.torch_names import Tensors, torch_shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How one publisher stores one or several networks.

    Attributes:
        name: name of the layout, shown in messages.
        archs: names of the networks that such files may contain.
        recognise: function that returns whether a file has this layout. None: this layout is only
            used for writing; another layout reads the files.
        readings: options of the network's constructor that such weights need.
        names: function that maps the PyTorch twin's names to those in the file. The axis order is
            the same.
        more_names: additional names in files, mapped to the PyTorch twin's names.
        translate: function that maps a file's tensors to the PyTorch twin's names and axis order,
            if renaming is not enough.
        background: whether the classifier may have an additional row 0 for a background class, as
            in TF-slim. This row is removed.
        head_optional: whether files may lack a classifier, because they are used for features.
        bn_scale: whether BatchNorm has a scale in these files.
        writes: formats of `inception-jax convert` that are written in this layout.
        refusal: why no network of this library can use such weights; empty if one can.
        modules: regular expression for the backbone's names in the file, if `names` is None.
    """

    name: str
    archs: tuple[str, ...]
    recognise: Callable[[Tensors], bool] | None = None
    readings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    names: Renaming | None = None
    more_names: Names = dataclasses.field(default_factory=dict)
    translate: Callable[[Tensors, Model], Tensors] | None = None
    background: bool = False
    head_optional: bool = False
    bn_scale: bool = True
    writes: tuple[str, ...] = ()
    modules: str = ""
    refusal: str = ""

    def backbone(self, model: Model) -> str:
        """Returns a regular expression for the backbone's names in the file."""
        if self.names is None:
            return self.modules
        heads = tuple(f"{path}." for path in model.classifiers)
        names = self.names(name for name in torch_shapes(model) if not name.startswith(heads))
        beginnings = {re.split(r"[^A-Za-z]", name, maxsplit=1)[0] for name in names.values()}
        return "|".join(sorted(beginnings))

    def to_twin(self, tensors: Tensors, model: Model, num_classes: int) -> Tensors:
        """Translates a file's tensors to the names and axis orders of a model's PyTorch twin.

        Args:
            tensors: tensors by their names in the file.
            model: network to load the tensors into.
            num_classes: number of classes of the model. A classifier with one row more has a
                background class.
        """
        if self.translate:
            tensors = _with_unit_scales(self.translate(tensors, model))
        else:
            tensors = self._renamed(tensors, model)
        if not self.background:
            return tensors
        return {
            name: tensor[1:] if _is_row_longer(name, tensor, model, num_classes) else tensor
            for name, tensor in tensors.items()
        }

    def _renamed(self, tensors: Tensors, model: Model) -> Tensors:
        assert self.names is not None
        shapes = torch_shapes(model)
        ours = {theirs: name for name, theirs in self.names(shapes).items()}
        ours = {**self.more_names, **ours}
        named = {ours.get(name, name): tensor for name, tensor in tensors.items()}
        return {name: _without_axes_of_one(x, shapes.get(name)) for name, x in named.items()}


def _is_row_longer(name: str, tensor: np.ndarray, model: Model, num_classes: int) -> bool:
    is_head = name.rpartition(".")[0] in model.classifiers
    return is_head and tensor.shape[0] == num_classes + 1


def _without_axes_of_one(tensor: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """Removes or adds axes of size one to give a tensor this shape, if that is possible.

    Otherwise, or if `shape` is None, the tensor is returned unchanged.

    Old PyTorch wrote vectors as [1, c], and Caffe as [1, 1, 1, c]. An old file of Xception has 1x1
    kernels of shape [out, in].
    """
    # With the same number of axes it is a different tensor, such as a 1x7 kernel for a 7x1.
    if shape is None or tensor.ndim == len(shape):
        return tensor
    if [n for n in tensor.shape if n > 1] != [n for n in shape if n > 1]:
        return tensor
    return tensor.reshape(shape)


def _with_unit_scales(tensors: Tensors) -> Tensors:
    """Adds scales of ones for BatchNorm layers that have no scale."""
    ones = {}
    for name, tensor in tensors.items():
        if re.search(r"bn\.(bias|running_mean|running_var)$", name):
            ones[f"{name.rpartition('.')[0]}.weight"] = np.ones_like(tensor)
    return {**ones, **tensors}


def find(tensors: Tensors) -> Layout | None:
    """Returns the publisher's layout that fits these names; None if none fits."""
    return next((x for x in LAYOUTS if x.recognise and x.recognise(tensors)), None)


def for_writing(format_name: str, arch: str) -> Layout | None:
    """Returns the layout of a network's files in a format; None if the format cannot store it.

    `format_name` is a value of `inception-jax convert --to`.
    """
    return next((x for x in LAYOUTS if format_name in x.writes and arch in x.archs), None)


def archs_of(format_name: str) -> list[str]:
    """Returns the names of the networks that a format of `inception-jax convert` can store."""
    return [arch for x in LAYOUTS if format_name in x.writes for arch in x.archs]


def _has_name(pattern: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(re.match(pattern, name) for name in tensors)


def _keras(name: str, arch: str, *, bn_scale: bool = False, **readings: Any) -> Layout:
    return Layout(
        name=f"Keras {name}",
        archs=(arch,),
        recognise=lambda tensors: keras_layouts.recognise(tensors) == arch,
        readings=dict(readings, bn_eps=1e-3),
        translate=lambda tensors, model: keras_layouts.to_twin(tensors, model.layer_order),
        bn_scale=bn_scale,
        writes=("keras",),
        # A head may have BatchNorm too; it is numbered after the backbone's.
        modules=r"(?:layers/)?(?:conv|separable|block\d)",
    )


def _slim(name: str, arch: str, **readings: Any) -> Layout:
    return Layout(
        name=f"TF-slim {name}",
        archs=(arch,),
        recognise=_has_name(rf"{name}/{slim_layouts.MODULE}"),
        readings=dict(readings, bn_eps=1e-3),
        translate=lambda tensors, model: slim_layouts.to_twin(tensors, model.layer_order, name),
        background=True,
        head_optional=arch == "inception_resnet_v1",
        modules=rf"{name}/(?:{slim_layouts.MODULE}|AuxLogits)",
    )


def _is_fid(tensors: Tensors) -> bool:
    fc = tensors.get("fc.bias")
    return (
        "Mixed_7c.branch_pool.conv.weight" in tensors
        and fc is not None
        and tuple(fc.shape) == (1008,)
    )


def _is_v3(tensors: Tensors) -> bool:
    return {"Mixed_5b.branch5x5_1.conv.weight", "Mixed_6b.branch7x7_1.conv.weight"} <= set(tensors)


_RESNET: dict[str, Any] = dict(linear_last_block=True, scales=(0.17, 0.10, 0.20), bn_eps=1e-3)
_RESNET_V1: dict[str, Any] = dict(_RESNET, head="face", blocks=(5, 10, 6))
_RESNET_V2: dict[str, Any] = dict(_RESNET, layout="slim", blocks=(10, 20, 10))
_V3: dict[str, Any] = dict(count_include_pad=False, mixed_7c_pool="avg", transform_input=False)
_V3_TORCH: dict[str, Any] = dict(count_include_pad=True, mixed_7c_pool="avg", bn_eps=1e-3)
_CADENE_HEAD = {f"last_linear.{leaf}": f"fc.{leaf}" for leaf in ("weight", "bias")}
_BVLC_AUX = [
    f"aux{i}.{layer}.{leaf}"
    for i in (1, 2)
    for layer in ("conv.conv", "fc1", "fc2")
    for leaf in ("weight", "bias")
]

LAYOUTS = (
    Layout(
        name="torchvision GoogLeNet",
        archs=("inception_v1",),
        recognise=_has_name(r"inception\d\w\.branch[1-4]\."),
        readings=dict(
            norm="bn",
            pad_mode="torch",
            kernel_5x5=3,
            maxpool4_window=2,
            aux_pool="adaptive",
            bn_eps=1e-3,
        ),
        names=published_names.googlenet,
        writes=("torchvision",),
    ),
    Layout(
        name="Caffe BVLC GoogLeNet",
        archs=("inception_v1",),
        recognise=_has_name(r"(inception_\d\w|loss\d|conv\d)/"),
        readings=dict(
            norm="lrn", pad_mode="torch", kernel_5x5=5, maxpool4_window=3, aux_pool="5x5"
        ),
        names=published_names.googlenet_bvlc,
        # Names of auxiliary heads that the model may not have.
        more_names={
            theirs: name for name, theirs in published_names.googlenet_bvlc(_BVLC_AUX).items()
        },
    ),
    Layout(
        name="Cadene BN-Inception",
        archs=("bn_inception",),
        recognise=_has_name(r"inception_\d\w_"),
        readings=dict(
            stem="conv", conv_bias=True, pad_mode="torch", count_include_pad=True, bn_eps=1e-5
        ),
        names=published_names.bn_inception,
    ),
    Layout(
        name="pytorch-fid Inception V3",
        archs=("inception_v3",),
        recognise=_is_fid,
        readings=dict(_V3, mixed_7c_pool="max", bn_eps=1e-3),
        names=published_names.same,
    ),
    # These are also the twin's names, so no options can be derived from them.
    Layout(
        name="torchvision or timm Inception V3",
        archs=("inception_v3",),
        recognise=_is_v3,
        names=published_names.same,
    ),
    Layout(
        name="torchvision Inception V3",
        archs=("inception_v3",),
        readings=_V3_TORCH,
        names=published_names.same,
        writes=("torchvision",),
    ),
    Layout(
        name="timm Inception V3",
        archs=("inception_v3",),
        readings=dict(_V3_TORCH, transform_input=False),
        names=published_names.same,
        writes=("timm",),
    ),
    Layout(
        name="timm or Cadene Inception V4",
        archs=("inception_v4",),
        recognise=_has_name(r"features\.\d+\.(conv|bn|branch)"),
        readings=dict(bn_eps=1e-3),
        names=published_names.inception_v4,
        background=True,
        writes=("timm",),
    ),
    Layout(
        name="facenet-pytorch Inception-ResNet-v1",
        archs=("inception_resnet_v1",),
        recognise=_has_name(r"repeat_3\."),
        readings=_RESNET_V1,
        names=published_names.inception_resnet_v1,
        head_optional=True,
    ),
    Layout(
        name="timm or Cadene Inception-ResNet-v2",
        archs=("inception_resnet_v2",),
        recognise=_has_name(r"(repeat|repeat_1)\.\d"),
        readings=_RESNET_V2,
        names=published_names.inception_resnet_v2,
        more_names=_CADENE_HEAD,
        background=True,
        writes=("timm",),
    ),
    Layout(
        name="DeepLab's Xception in PyTorch",
        archs=(),
        recognise=_has_name(r"block\d+\.rep\.\d+\.bn\."),
        refusal="its residual branches change the input of its shortcuts (ReLU in place), which no "
        "network here computes; TensorFlow's own checkpoints fit xception65.tf_in1k",
    ),
    Layout(
        name="timm or Cadene Xception",
        archs=("xception",),
        recognise=_has_name(r"block\d+\.(rep|skip|skipbn)\."),
        readings=dict(pad_mode="torch", bn_eps=1e-5),
        names=published_names.xception,
        more_names=_CADENE_HEAD,
        writes=("timm",),
    ),
    _keras("Xception", "xception", bn_scale=True, pad_mode="tf"),
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
    Layout(
        name="TensorFlow's Inception graph of 2015",
        archs=("inception_v3",),
        recognise=_has_name(r"mixed(_\d+)?/.*conv2d_params$"),
        readings=dict(_V3, mixed_7c_pool="max", bn_eps=1e-3),
        translate=graph_layouts.graph_of_2015,
        modules=r"(?:conv|mixed)(?:_\d+)?/",
    ),
    Layout(
        name="DeepLab's Xception",
        archs=("xception65", "xception41", "xception71"),
        recognise=_has_name(r"(entry|middle)_flow/block\d+/unit_\d+/xception_module/"),
        readings=dict(preact=False, bn_eps=1e-3),
        translate=graph_layouts.deeplab,
        background=True,
        modules=r"(?:entry|middle|exit)_flow/",
    ),
    Layout(
        name="timm aligned Xception",
        archs=("xception41", "xception65", "xception71"),
        recognise=_has_name(r"blocks\.\d+\.stack\.conv\d\.bn_dw\."),
        readings=dict(preact=False, bn_eps=1e-3),
        names=published_names.xception_aligned,
        writes=("timm",),
    ),
    Layout(
        name="timm aligned Xception with pre-activation",
        archs=("xception41p", "xception65p"),
        recognise=_has_name(r"blocks\.\d+\.norm\."),
        readings=dict(preact=True),
        names=published_names.xception_aligned_preact,
        writes=("timm",),
    ),
    Layout(
        name="timm or sail-sg InceptionNeXt",
        archs=tuple(f"inception_next_{size}" for size in ("atto", "tiny", "small", "base")),
        recognise=_has_name(r"(stem|stages\.\d\.downsample)\.[01]\."),
        readings=dict(bn_eps=1e-5),
        names=published_names.inception_next,
        writes=("timm",),
    ),
)
