"""Runs the unchanged code of other programs that compute FID, with random weights.

pytorch-fid, torch-fidelity, clean-fid and torchmetrics are installed packages. For the others, the
environment variable `FID_PROGRAMS` names a folder with copies of their repositories:
`guided-diffusion`, `TTUR`, `jax-fid-parallel` and `jax-fid`. A test is skipped if its program is
missing. The weights are written once, in the four file formats that these programs read. The files
are in a folder `weights`, which is in the folder of `FID_PROGRAMS`, or in a temporary folder if the
variable is not set.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import inception_jax as ij
from tests.helpers.graph_2015 import write_graph
from tests.helpers.photos import photo

PYTORCH = "pt_inception-2015-12-05-6726825d.pth"
TORCHSCRIPT = "inception-2015-12-05.pt"
GRAPH = "classify_image_graph_def.pb"
JAX_FID = "inception_v3_weights_fid.pickle"


def weights(temporary: Path) -> Path:
    """Returns the folder of the weight files; writes the files if they are missing.

    Args:
        temporary: parent of the folder if the variable `FID_PROGRAMS` is not set.
    """
    folder = Path(os.environ.get("FID_PROGRAMS", temporary)) / "weights"
    if not (folder / JAX_FID).exists():
        write_weights(folder)
    return folder


def write_weights(folder: Path) -> None:
    """Writes random weights of the full-width `inception_v3.fid` for all programs.

    `write_layouts` lists the programs and their file formats. BatchNorm's statistics and scales are
    random too, and some variances are far below its epsilon. The features are about as large as
    those of the published weights.

    Args:
        folder: folder to write to, created if missing.
    """
    torch = pytest.importorskip("torch")
    import reference_torch

    twin = reference_torch.create_model("inception_v3.fid")
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in twin.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    seen = np.stack([np.asarray(photo(299, 299, i)) for i in range(6)])
    seen = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        for tensor in twin.parameters():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
            tensor.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        for norm in norms:
            norm.momentum = 1.0  # the statistics of one batch
            norm.weight.uniform_(0.5, 1.5, generator=generator)
        twin.train()(seen)
        twin.eval()
        for norm in norms:
            spread = norm.running_var.sqrt()
            norm.running_mean += 0.3 * spread * torch.randn(spread.shape, generator=generator)
            few = torch.rand(spread.shape, generator=generator) < 0.1
            norm.weight[few] *= (1e-3 / (norm.running_var[few] + 1e-3)) ** 0.5
            norm.running_var[few] = 1e-14  # far below epsilon
        for norm in [m for m in twin.Mixed_7c.modules() if isinstance(m, torch.nn.BatchNorm2d)]:
            norm.weight *= 0.1
            norm.bias *= 0.1
    write_layouts(folder, twin)


def write_layouts(folder: Path, twin: Any) -> None:
    """Writes a network's weights in the four file formats that the programs read.

    - a state dict: pytorch-fid, torch-fidelity and torchmetrics
    - a TorchScript file: clean-fid; written only if torch-fidelity is installed
    - a TensorFlow graph: guided-diffusion and TTUR; written only if TensorFlow is installed
    - a pickle file: jax-fid and jax-fid-parallel

    Args:
        folder: folder to write to, created if missing.
        twin: the network, `inception_v3.fid` in PyTorch.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(twin.state_dict(), folder / PYTORCH)
    state = {
        name: tensor.numpy()
        for name, tensor in twin.state_dict().items()
        if not name.endswith("batches_tracked")
    }
    if importlib.util.find_spec("tensorflow"):
        model: Any = nnx.eval_shape(lambda: ij.create_model("inception_v3.fid"))
        write_graph(folder / GRAPH, state, model.layer_order)
    if importlib.util.find_spec("torch_fidelity"):
        _write_torchscript(folder)
    (folder / JAX_FID).write_bytes(pickle.dumps(_jax_fids(state)))


def _jax_fids(state: dict[str, np.ndarray]) -> dict[str, Any]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    tree: dict[str, Any] = {}
    for name, tensor in state.items():
        *scopes, leaf = name.split(".")
        place = tree
        for scope in scopes:
            place = place.setdefault(scope, {})
        if scopes[-1] == "bn":
            place[names[leaf]] = tensor
        elif leaf == "weight":
            place["kernel"] = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        else:
            place[leaf] = tensor
    return tree


def _write_torchscript(folder: Path) -> None:
    """Writes a network in TorchScript, like NVIDIA's file, which clean-fid downloads.

    Its attribute `layers` takes normalised images.

    Args:
        folder: folder of the weight files, which already has the state dict.
    """
    import torch

    class Layers(torch.nn.Module):
        def __init__(self, network: Any):
            super().__init__()
            self.network = network

        def forward(self, x):
            network = self.network
            for name in _STAGES:
                x = getattr(network, name)(x)
            return network.AvgPool(x)

    class Whole(torch.nn.Module):
        def __init__(self, layers: Any):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return self.layers(x)

    example = torch.zeros(1, 3, 299, 299)
    layers = torch.jit.trace(Layers(torch_fidelitys(folder)).eval(), example)
    torch.jit.trace(Whole(layers), example).save(str(folder / TORCHSCRIPT))


_STAGES = (
    "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_1 Conv2d_3b_1x1 Conv2d_4a_3x3 MaxPool_2 "
    "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b "
    "Mixed_7c"
).split()


# Images

_KINDS = (
    (".png", "RGB", {}),
    (".jpg", "RGB", {"quality": 90}),
    (".png", "L", {}),
    (".png", "RGBA", {}),
    (".jpg", "L", {}),
    (".png", "P", {}),
    (".png", "I;16", {}),
    (".jpeg", "CMYK", {}),
    (".png", "LA", {}),
    (".png", "1", {}),
    (".bmp", "RGB", {}),
    (".webp", "RGB", {"lossless": True}),
    (".tiff", "F", {}),
    (".ppm", "RGB", {}),
    (".tif", "I;16", {}),
    (".pgm", "L", {}),
)
SIZES = ((64, 64), (32, 32), (299, 299), (256, 256), (123, 77), (300, 480), (17, 401), (512, 333))


def write_images(folder: Path, count: int, *, seed: int = 0, dark: float = 1.0) -> Path:
    """Writes images of mixed sizes, modes and formats; returns the folder.

    Args:
        folder: folder to write to, created if missing.
        count: number of images.
        seed: seed of the images' content.
        dark: factor on the pixels' values, to darken the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        ending, mode, options = _KINDS[i % len(_KINDS)]
        height, width = SIZES[(i * 5 + i // 8) % len(SIZES)]
        image = photo(height, width, 1000 * seed + i).point(lambda value: int(value * dark))
        if mode == "I;16":
            deep = np.asarray(image.convert("L")).astype(np.uint16) * (3 if i % 32 < 16 else 257)
            image = Image.fromarray(deep)
        elif mode == "RGBA":
            image.putalpha(Image.fromarray(np.asarray(image)[:, :, 0]))
        else:
            image = image.convert(mode)
        image.save(folder / f"{i:04}{ending}", **options)
    return folder


def write_plain(folder: Path, count: int, *, seed: int = 0, dark: float = 1.0, size=(64, 48)):
    """Writes RGB images of one size in formats that every program reads, PNG and JPEG.

    Args:
        folder: folder to write to, created if missing.
        count: number of images.
        seed: seed of the images' content.
        dark: factor on the pixels' values, to darken the images.
        size: height and width of the images.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = photo(*size, 1000 * seed + i).point(lambda value: int(value * dark))
        image.save(folder / f"{i:04}{'.png' if i % 3 else '.jpg'}")
    return folder


def as_array(folder: Path) -> np.ndarray:
    """Returns a folder's images, all of one size, as uint8 [n, h, w, 3], sorted by name."""
    return np.stack([np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.iterdir())])


# Programs


@contextlib.contextmanager
def replaced(module: Any, **values: Any) -> Iterator[None]:
    """Replaces attributes of a module inside a `with` block.

    `values` are the new values by name.
    """
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def package(name: str) -> Any:
    """Imports an installed program; skips the test if it is missing."""
    return pytest.importorskip(name, exc_type=ImportError)


def repository(name: str) -> Path:
    """Returns the folder with a program's repository; skips the test if it is missing."""
    folder = os.environ.get("FID_PROGRAMS")
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip(f"no {name} in the folder that FID_PROGRAMS names")
    return Path(folder) / name


def module_of(name: str, path: Path) -> Any:
    """Imports a file as a module with the given name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def pytorch_fids(folder: Path, dims: int) -> Any:
    """Returns pytorch-fid's network with `dims` features, for its `get_activations`.

    Args:
        folder: folder of the weight files, see `weights`.
        dims: number of features: 64, 192, 768 or 2048.
    """
    inception = package("pytorch_fid.inception")
    import torch

    state = torch.load(folder / PYTORCH, weights_only=True)
    with replaced(inception, load_state_dict_from_url=lambda *_, **__: state):
        return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]])


def torch_fidelitys(folder: Path, *names: str) -> Any:
    """Returns torch-fidelity's network with the named features, by default the pooled 2048.

    Args:
        folder: folder of the weight files, see `weights`.
        *names: names of features in torch-fidelity, such as "2048".
    """
    extractor = package("torch_fidelity.feature_extractor_inceptionv3")
    return extractor.FeatureExtractorInceptionV3(
        "inception-v3-compat", list(names or ("2048",)), str(folder / PYTORCH)
    )


def cleans(folder: Path) -> Callable[[Any], Any]:
    """Returns clean-fid's network, which takes resized images with values from 0 to 255.

    Args:
        folder: folder of the weight files, see `weights`.
    """
    script = package("cleanfid.inception_torchscript")
    return script.InceptionV3W(str(folder), download=False)


@contextlib.contextmanager
def torchmetrics_weights(folder: Path) -> Iterator[Any]:
    """Makes torchmetrics load our random weights in a `with` block; yields `torchmetrics.image`.

    torchmetrics uses torch-fidelity's network, which otherwise downloads the published weights.

    Args:
        folder: folder of the weight files, see `weights`.
    """
    package("torchmetrics")
    extractor = package("torch_fidelity.feature_extractor_inceptionv3")
    import torch

    state = torch.load(folder / PYTORCH, weights_only=True)
    with replaced(extractor, load_state_dict_from_url=lambda *_, **__: state):
        yield importlib.import_module("torchmetrics.image")


def tensorflow_1() -> Any:
    """Returns TensorFlow with its version 1 interface."""
    package("tensorflow")
    return importlib.import_module("tensorflow.compat.v1")


def adm(folder: Path) -> Any:
    """Returns guided-diffusion's evaluator, which computes FID, with a new TensorFlow session.

    Args:
        folder: folder of the weight files, see `weights`. The evaluator loads the graph in it.
    """
    path = repository("guided-diffusion") / "evaluations" / "evaluator.py"
    tf = tensorflow_1()
    module = module_of("evaluator", path)
    with replaced(module, INCEPTION_V3_PATH=str(folder / GRAPH)), tf.Graph().as_default():
        return module.Evaluator(tf.Session())


@functools.cache
def ttur() -> Any:
    """Returns TTUR's module `fid`, with TensorFlow's version 1 interface as its `tensorflow`."""
    path = repository("TTUR") / "fid.py"
    tf = tensorflow_1()
    package("imageio")
    modern = sys.modules["tensorflow"]
    sys.modules["tensorflow"] = tf
    try:
        return module_of("ttur_fid", path)
    finally:
        sys.modules["tensorflow"] = modern


def ttur_statistics(folder: Path, images: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and covariance that TTUR's program computes for a folder of images.

    Args:
        folder: folder of the weight files, see `weights`.
        images: folder of images.
    """
    tf, module = tensorflow_1(), ttur()
    definition = tf.GraphDef()
    definition.ParseFromString((folder / GRAPH).read_bytes())
    for node in definition.node:  # TensorFlow 2 does not accept a batch instead of one image
        if node.name == "ExpandDims":
            node.op = "Placeholder"
            del node.input[:]
            node.attr.clear()
            node.attr["dtype"].type = tf.float32.as_datatype_enum
    batched = folder / f"batched_{GRAPH}"
    batched.write_bytes(definition.SerializeToString())
    with tf.Graph().as_default():
        module.create_inception_graph(str(batched))
        with tf.Session() as session:
            return module._handle_path(str(images), session)


def jax_fid_parallel(folder: Path) -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    """Returns jax-fid-parallel's module, and a function from images to its features.

    The function takes images [n, h, w, 3] with values from 0 to 255.

    Args:
        folder: folder of the weight files, see `weights`.
    """
    module = module_of("jax_fid_parallel", repository("jax-fid-parallel") / "fid.py")
    import jax
    import jax.numpy as jnp

    module.download = lambda *_, **__: str(folder / JAX_FID)  # used by each network call
    network = module.InceptionV3(pretrained=True)
    variables = network.init(jax.random.PRNGKey(0), jnp.ones((1, 299, 299, 3)))
    apply = jax.jit(lambda x: network.apply(variables, x, train=False))

    def features(images: np.ndarray) -> np.ndarray:
        x = jnp.array(images, jnp.float32) / 255.0
        x = jax.image.resize(x, (len(x), 299, 299, 3), method="bilinear", antialias=False)
        with jax.default_matmul_precision("highest"):
            return np.array(apply(2 * x - 1)).reshape(len(images), -1)

    return module, features


def jax_fid(folder: Path) -> tuple[Any, Any, Any]:
    """Returns jax-fid's `fid` module, its network's variables, and the network as a function.

    The function takes the variables and images, and returns the features.

    Args:
        folder: folder of the weight files, see `weights`.
    """
    root = repository("jax-fid")
    import jax
    import jax.numpy as jnp

    keras = types.ModuleType("keras.preprocessing.image")  # imported, but not used here
    keras.ImageDataGenerator = None  # type: ignore[attr-defined]
    names = ("keras", "keras.preprocessing", "keras.preprocessing.image")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, keras)
        patch.syspath_prepend(root)
        module = importlib.import_module("jax_fid.fid")
        inception = importlib.import_module("jax_fid.inception")
    inception.utils.download = lambda *_, **__: str(folder / JAX_FID)  # used by each network call
    network = inception.InceptionV3(pretrained=True)
    variables = network.init(jax.random.PRNGKey(0), jnp.ones((1, 256, 256, 3)))
    compiled = jax.jit(lambda variables, x: network.apply(variables, x, train=False))

    def apply(variables: Any, x: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return compiled(variables, x)

    return module, variables, apply


def one_by_one(call: Callable[[Any], Any], images: Sequence[Any]) -> np.ndarray:
    """Returns a PyTorch network's features of images whose sizes differ, one call per image.

    The result is one array, with the images on the first axis.

    Args:
        call: the network, or a function that runs it.
        images: inputs of the network, each a batch of one image.
    """
    import torch

    with torch.no_grad():
        return np.concatenate([np.asarray(call(image)) for image in images])
