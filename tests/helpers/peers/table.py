"""Lists the original implementations of our networks, and compares our networks with them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import inception_jax as ij
from inception_jax.create import abstract_model
from inception_jax.weights.published import PUBLISHED
from tests.helpers.peers import pytorch
from tests.helpers.peers.caffe import InCaffe, InOpenCV
from tests.helpers.peers.in_keras import InKeras
from tests.helpers.peers.pytorch import InPyTorch
from tests.helpers.peers.runtime import Size, Theirs
from tests.helpers.peers.slim import InFaceNet, InSlim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """The original implementation of a network whose weights were published.

    Attributes:
        tag: name of our network with the tag of the weights, such as "inception_v3.tv_in1k".
        runtime: name of the package that runs the original implementation.
        build: function that builds the original implementation with random weights.
        sizes: image sizes (height, width) for the comparison.
        aux_heads: whether the original files contain the auxiliary classifiers of our network,
            which is then built with them.
        written: value of `inception-jax convert --to` for files that the package can load; empty if
            there is none.
    """

    tag: str
    runtime: str
    build: Callable[[], Theirs]
    sizes: tuple[Size, ...]
    aux_heads: bool = False
    written: str = ""

    def __str__(self) -> str:
        return f"{self.tag}-{self.runtime}"


def _in_pytorch(build: Callable[..., Any], *arguments: Any, size: Size) -> Callable[[], InPyTorch]:
    return lambda: InPyTorch(build(*arguments), size)


def _timm() -> Iterator[Peer]:
    for name in ij.list_models(tags=True):
        info = ij.model_info(name)
        if info.source.startswith("timm/"):
            theirs = info.source.removeprefix("timm/")
            build = _in_pytorch(pytorch.timm, theirs, size=(97, 150))
            own = (info.input_size, info.input_size)
            sizes = ((97, 150), (160, 128), own)
            yield Peer(tag=name, runtime="timm", build=build, sizes=sizes, written="timm")


def _keras() -> Iterator[Peer]:
    applications = {
        "xception": "Xception",
        "inception_v3": "InceptionV3",
        "inception_resnet_v2": "InceptionResNetV2",
    }
    for arch, theirs in applications.items():
        sizes = ((97, 150), (128, 112), (299, 299))
        build = functools.partial(InKeras, theirs, sizes[0])
        tag = f"{arch}.keras_in1k"
        yield Peer(tag=tag, runtime="keras", build=build, sizes=sizes, written="keras")


def _slim() -> Iterator[Peer]:
    names = {"bn_inception": "inception_v2"}
    for name in ij.list_models(tags=True):
        arch, _, tag = name.partition(".")
        if tag == "slim_in1k":
            own = (ij.model_info(name).input_size,) * 2
            sizes = (own, (128, 112), (97, 150))
            build = functools.partial(InSlim, names.get(arch, arch), own)
            aux = arch in ("inception_v3", "inception_v4", "inception_resnet_v2")
            yield Peer(tag=name, runtime="tf_slim", build=build, sizes=sizes, aux_heads=aux)


_FACES = {"vggface2": 8631, "casia_webface": 10575}
_ODD = ((97, 150), (128, 112), (160, 160))
_SQUARE: dict[str, Any] = dict(size=(299, 299))
# Image sizes for networks with a fixed final pool of 8x8 or 7x7 pixels.
_EIGHTS = ((299, 299), (320, 305), (330, 299))
_SEVENS = ((224, 224), (226, 223), (225, 224))

PEERS: tuple[Peer, ...] = (
    Peer(
        tag="inception_v1.tv_in1k",
        runtime="torchvision",
        build=_in_pytorch(pytorch.torchvision, "googlenet", size=(224, 97)),
        sizes=((224, 97), (128, 113), (224, 224)),
        aux_heads=True,
        written="torchvision",
    ),
    Peer(
        tag="inception_v3.tv_in1k",
        runtime="torchvision",
        build=_in_pytorch(pytorch.torchvision, "inception_v3", **_SQUARE),
        sizes=((97, 150), (128, 112), (299, 299)),
        aux_heads=True,
        written="torchvision",
    ),
    Peer(
        tag="inception_v3.fid",
        runtime="pytorch_fid",
        build=_in_pytorch(pytorch.pytorch_fid, **_SQUARE),
        sizes=((97, 150), (128, 112), (299, 299)),
    ),
    *_timm(),
    Peer(
        tag="bn_inception.caffe_in1k",
        runtime="pretrainedmodels",
        build=_in_pytorch(pytorch.cadene, "bninception", 1000, size=(224, 224)),
        sizes=_SEVENS,
    ),
    Peer(
        tag="inception_v4.cadene_in1k",
        runtime="pretrainedmodels",
        build=_in_pytorch(pytorch.cadene, "inceptionv4", 1001, **_SQUARE),
        sizes=_EIGHTS,
    ),
    Peer(
        tag="inception_resnet_v2.cadene_in1k",
        runtime="pretrainedmodels",
        build=_in_pytorch(pytorch.cadene, "inceptionresnetv2", 1001, **_SQUARE),
        sizes=_EIGHTS,
    ),
    Peer(
        tag="xception.cadene_in1k",
        runtime="pretrainedmodels",
        build=_in_pytorch(pytorch.cadene, "xception", 1000, size=(97, 150)),
        sizes=((97, 150), (128, 112), (299, 299)),
    ),
    *(
        Peer(
            tag=f"inception_resnet_v1.{name}",
            runtime="facenet_pytorch",
            build=_in_pytorch(pytorch.facenet, classes, size=(160, 97)),
            sizes=_ODD,
        )
        for name, classes in _FACES.items()
    ),
    *(
        Peer(
            tag=f"inception_resnet_v1.{name}",
            runtime="facenet",
            build=functools.partial(InFaceNet, classes, (160, 160)),
            sizes=((160, 160), (97, 150), (128, 112)),
        )
        for name, classes in _FACES.items()
    ),
    *_keras(),
    *_slim(),
    *(
        Peer(tag="inception_v1.bvlc_in1k", runtime=runtime, build=build, sizes=sizes)
        for sizes in [((224, 224), (97, 150), (231, 161))]
        for runtime, build in {"caffe": InCaffe, "cv2": InOpenCV}.items()
    ),
)


def without_runtime() -> list[str]:
    """Returns the names of published weights whose original implementation is not listed.

    The names are sorted, such as "inception_v3.tv_in1k".
    """
    return sorted({*PUBLISHED} - {peer.tag for peer in PEERS})


def distances(
    peer: Peer, theirs: Theirs, path: Path, n: int = 2
) -> Iterator[tuple[str, Size, float]]:
    """Compares the logits of our network and of an original implementation.

    All image sizes are compared in float64, where mistakes stand out from rounding. The first size
    is also compared in float32. An original implementation that computes in one dtype is compared
    in this dtype at all sizes.

    Args:
        peer: the original implementation as listed in `PEERS`.
        theirs: the original implementation, made by `peer.build`.
        path: weight file that `theirs` wrote, which our network loads.
        n: number of images of each size.

    Yields:
        The dtype, the image size, and the largest absolute difference between corresponding logits,
        relative to the largest absolute logit of the original implementation.
    """
    info = ij.model_info(peer.tag)
    noise = 60 if info.input_range == 255 else 1
    for dtype in theirs.dtypes:
        ours = loaded(peer.tag, path, dtype, aux_heads=peer.aux_heads)
        for size in peer.sizes if dtype == theirs.dtypes[0] else peer.sizes[:1]:
            rng = np.random.default_rng(0)
            images = (noise * rng.normal(size=(n, *size, 3))).astype(dtype)
            with jax.enable_x64(dtype == "float64"):
                found = logits(ours, images)
            expected = theirs.logits(images)
            # Removes the background class, which our networks do not have.
            expected = expected[:, expected.shape[1] - found.shape[1] :]
            yield dtype, size, distance(found, expected)


def loaded(name: str, path: Path, dtype: str, **options: Any) -> nnx.Module:
    """Builds our network, and loads the weights of a file into it.

    Args:
        name: name of our network, with or without a tag.
        path: path of the weight file, in any layout that `load_weights` reads.
        dtype: dtype of the parameters and of the computation, "float64" or "float32".
        **options: options of `create_model`, such as `aux_heads`.

    Returns:
        The network.
    """
    with jax.enable_x64(dtype == "float64"):
        model = abstract_model(name, dtype=dtype, param_dtype=dtype, **options)
        ij.load_weights(model, path)
    return model


def logits(model: nnx.Module, images: np.ndarray) -> np.ndarray:
    """Compiles our network; returns its logits of the images."""
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(state, images))


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the relative difference between two arrays.

    It is the largest absolute difference, divided by the largest absolute value of `theirs`.

    Args:
        ours: logits or feature maps of our network, one row per image.
        theirs: those of the original implementation.

    Raises:
        AssertionError: if the shapes or dtypes differ, a value of `theirs` is not finite, or all
            images have nearly equal results.
    """
    ours = np.asarray(ours)  # jax would subtract in float32, outside of `enable_x64`
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert ours.dtype == theirs.dtype, (ours.dtype, theirs.dtype)
    scale = np.abs(theirs).max()
    assert np.isfinite(scale)
    assert np.abs(theirs[:1] - theirs[1:]).max() > 1e-3 * scale
    return float(np.abs(ours - theirs).max() / scale)
