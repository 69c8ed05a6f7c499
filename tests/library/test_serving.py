"""Tests that an exported program computes the same results as its network."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax import explain
from inception_jax.cli import commands as cli
from inception_jax.nn import layers, ops
from inception_jax.nn.model import Model
from tests.helpers import networks
from tests.helpers.networks import (
    WIDTH,
    compare,
    distinct_readings,
    filled,
    one_of_each_kind,
    options_for,
    random_images,
    run,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Response normalisation, pools that round up, a mapping of the input, a max pool in a module.
READINGS = ["inception_v1.bvlc_in1k", "inception_v1.tv_in1k", "inception_v3.fid"]


def network(name: str, **options):
    return networks.network(name, "float32", **options)


def small(model) -> tuple[int, int]:
    return model.min_size + 12, model.min_size + 35


def ours(model, images, call=lambda m, x: m(x), form: ops.Form = "native") -> np.ndarray:
    """Returns the results of `call`, with the network's operations in a given form.

    `inception_jax/nn/forms.py` explains the forms. "native" compiles twice as fast as "shifted".
    """
    with ops.forced_form(form):
        return np.asarray(run(model, call, images)[0])


def onnx_result(path, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the suite itself runs one process per core
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"images": images})
    return result


def stablehlo_result(path, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.export.deserialize(bytearray(Path(path).read_bytes())).call(images))


RESULT = {"onnx": onnx_result, "stablehlo": stablehlo_result}


def check(path, expected: np.ndarray, images: np.ndarray, what: str) -> None:
    """Compares an exported program's results with `expected`, for one image and for all.

    Args:
        path: file of the program, `.onnx` or `.stablehlo`.
        expected: results for all images.
        images: input of the program.
        what: name of the results in errors.
    """
    for n in (1, len(images)):
        result = RESULT[path.suffix[1:]](path, images[:n])
        compare(result, expected[:n], "float32", f"{what}, {n} images", np.abs(expected).max())


@pytest.mark.parametrize("name", [*one_of_each_kind(ij.list_models()), *READINGS])
def test_onnx(name, tmp_path):
    model = network(name, **options_for(name))
    images = random_images(model, "float32", small(model), n=3)
    ij.export(model, tmp_path / "x.onnx", image_size=small(model))
    check(tmp_path / "x.onnx", ours(model, images), images, name)


def test_other_channels_classes_and_widths(tmp_path):
    model = network("xception", in_channels=1, num_classes=3, width_multiplier=0.2)
    images = random_images(model, "float32", small(model), n=3)
    expected = ours(model, images)
    for format in ("onnx", "stablehlo"):
        path = tmp_path / f"x.{format}"
        ij.export(model, path, format, image_size=small(model))
        check(path, expected, images, format)


@pytest.mark.slow
@pytest.mark.parametrize("name", distinct_readings())
def test_networks_whole(name, tmp_path, optimizing_compiler):
    """ONNX and StableHLO programs give the logits at published width, image size and classes."""
    side = ij.model_info(name).input_size
    model = network(name, width_multiplier=1.0, num_classes=None)
    images = random_images(model, "float32", (side, side), n=2)
    expected = ours(model, images, form="shifted")
    for format in ("onnx", "stablehlo"):
        path = tmp_path / f"x.{format}"
        ij.export(model, path, format)
        check(path, expected, images, f"{name}, {format}")


def pixels_and_images(name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns RGB pixels, and the same images as the network's input."""
    info = ij.model_info(name)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    ordered = pixels[..., ::-1] if info.channel_order == "bgr" else pixels
    mean, std = np.float32(info.mean), np.float32(info.std)
    images = (ordered.astype(np.float32) / np.float32(255 / info.input_range) - mean) / std
    return pixels, images


@pytest.mark.parametrize("name", ["inception_v1.bvlc_in1k", "inception_v1.tv_in1k"])
def test_normalise(name, tmp_path):
    model = network(name)
    pixels, images = pixels_and_images(name, (40, 48))
    ij.export(model, tmp_path / "x.onnx", image_size=(40, 48), normalise=True)
    check(tmp_path / "x.onnx", ours(model, images), pixels, name)


def test_normalise_is_what_preprocess_does(tmp_path):
    """A program exported with `normalise=True` treats pixels as `preprocess` does.

    The pixels have the network's size, so `preprocess` does not crop or resize.
    """
    name = "inception_v3.fid"
    assert ij.model_info(name).crop == "squash"
    pixels = np.random.default_rng(0).integers(0, 256, (299, 299, 3), np.uint8)
    model = network(name)
    ij.export(model, tmp_path / "x.onnx", normalise=True)
    expected = ours(model, ij.preprocess(name, pixels))
    check(tmp_path / "x.onnx", expected, pixels[None], name)


def test_embedding(tmp_path):
    model = network("inception_resnet_v1.vggface2", blocks=(1, 1, 1))
    images = random_images(model, "float32", small(model), n=2)
    expected = ours(model, images, lambda m, x: m.embed(x))
    ij.export(model, tmp_path / "x.onnx", image_size=small(model), embedding=True)
    check(tmp_path / "x.onnx", expected, images, "embedding")


class TwoStages(Model):
    """A network of two convolutions with the head that every network has."""

    min_size, taps, in_channels = 4, ("first", "second"), 3

    def __init__(self):
        types = dict(dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
        norm = dict(bn_eps=1e-3, bn_momentum=0.9)
        self.first = layers.ConvBN(3, 5, 3, stride=2, **norm, **types)
        self.second = layers.ConvBN(5, 6, 3, **norm, **types)
        self.dropout = nnx.Dropout(0.5)
        self.fc = layers.Linear(6, 4, **types)
        self.fc.bias.set_value(jnp.arange(4.0))

    def _body(self, x, maps, rngs):
        maps.add("second", self.second(maps.add("first", self.first(x))))


class HiddenLayer(TwoStages):
    """`TwoStages` with a nonlinear function before the classifier."""

    def logits(self, embedding, rngs=None):
        return self.fc(jax.nn.relu(embedding - 0.1))


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_stages_and_heat(format, tmp_path):
    model, path, stages = TwoStages(), tmp_path / f"x.{format}", ("second", "first")
    images = random_images(model, "float32", (9, 12), n=2)
    ij.export(model, path, format, image_size=(9, 12), stages=stages, heat=True)
    if format == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        assert names == ["logits", "heat", *stages]
        results = dict(zip(names, session.run(None, {"images": images}), strict=True))
    else:
        results = jax.export.deserialize(bytearray(path.read_bytes())).call(images)
    assert set(results) == {"logits", "heat", *stages}
    maps = ij.feature_extractor(model, stages)(images)
    for name in stages:
        compare(results[name], maps[name], "float32", name)
    cam, some = explain.grad_cam(model), 0
    for k in range(4):
        heat, logits = cam(images, [k, k])
        compare(results["logits"], logits, "float32", "logits")
        resized = jax.image.resize(results["heat"][..., k], heat.shape, "bilinear")
        largest = jnp.maximum(resized.max((1, 2), keepdims=True), jnp.finfo(heat.dtype).tiny)
        compare(resized / largest, heat, "float32", f"heat of class {k}", 1.0)
        some += (heat.max((1, 2)) == 1).sum()
    assert some > 3  # of 8: some part of an image supports the class


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (TwoStages, {"stages": ["third"]}, "no stage 'third'"),
        (TwoStages, {"stages": ["first", "first"]}, "named twice"),
        (HiddenLayer, {"heat": True}, "HiddenLayer: its classifier is not one linear"),
    ],
)
def test_no_such_output(kind, options, words, tmp_path):
    with pytest.raises(ij.ExportError, match=words):
        ij.export(kind(), tmp_path / "x.onnx", image_size=8, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_program_runs_without_this_library(tmp_path):
    name = "inception_v1.bvlc_in1k"
    model = network(name)
    pixels, images = pixels_and_images(name, (32, 32))
    ij.export(model, tmp_path / "x.stablehlo", "stablehlo", image_size=32, normalise=True)
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import sys; from pathlib import Path; import jax, jax.export, numpy as np;"
        "program = jax.export.deserialize(bytearray(Path('x.stablehlo').read_bytes()));"
        "np.save('logits.npy', program.call(np.load('pixels.npy')));"
        "assert program.platforms == ('cpu', 'tpu', 'cuda'), program.platforms;"
        "assert not {'inception_jax', 'flax'} & set(sys.modules)"
    )
    quick = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as in this process
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=quick, check=True)
    compare(np.load(tmp_path / "logits.npy"), ours(model, images), "float32", "logits")


def test_each_platform_has_its_own_form(tmp_path):
    """One StableHLO file has shifted slices for CPUs and grouped convolutions for accelerators."""
    model = filled("xception", num_classes=2, width_multiplier=WIDTH)
    ij.export(model, tmp_path / "x.stablehlo", "stablehlo", image_size=71)
    program = jax.export.deserialize(bytearray((tmp_path / "x.stablehlo").read_bytes()))
    text = program.mlir_module()
    assert "feature_group_count = 16" in text
    assert "stablehlo.case" in text


def test_onnx_graph_is_plain(tmp_path):
    """An ONNX graph has one transpose, one node per convolution, and named inputs and outputs."""
    model = filled("inception_v3", num_classes=7, width_multiplier=WIDTH)
    ij.export(model, tmp_path / "x.onnx")
    program = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(program, full_check=True)
    graph = program.graph
    kinds = collections.Counter(node.op_type for node in graph.node)
    convolutions = sum(isinstance(m, layers.Conv) for _, m in nnx.iter_modules(model))
    assert kinds == {
        "Transpose": 1,
        "Conv": convolutions,
        "Relu": convolutions,
        "MaxPool": 4,
        "AveragePool": 9,
        "Concat": 11,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "MatMul": 1,
        "Add": 1,
    }
    assert [described(x) for x in (*graph.input, *graph.output)] == [
        ("images", ["batch", 299, 299, 3]),
        ("logits", ["batch", 7]),
    ]
    assert graph.name == "inception_v3"


def described(value: onnx.ValueInfoProto):
    dims = value.type.tensor_type.shape.dim
    return value.name, [dim.dim_param or dim.dim_value for dim in dims]


class Tiny(Model):
    """A network of a single function, to test the export of single operations."""

    min_size = 1
    in_channels = 3

    def __init__(self, function):
        self.function = function

    def __call__(self, images, *, rngs=None):
        return self.function(images)


def normalised(x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * ROW


def strided(x, *steps):
    return jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, *steps, 1))


KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
DEPTHWISE = np.random.default_rng(1).normal(size=(3, 5, 1, 6)).astype(np.float32)
ROW = np.float32([0.5, -2, 3])
PADDINGS = ("valid", "same", "symmetric", "ceil")
FUNCTIONS = {
    **{
        f"{padding} {stride}": lambda x, p=padding, s=stride: jnp.concatenate(
            [
                ops.max_pool(x, 3, s, p),
                ops.avg_pool(x, 3, s, p),
                ops.avg_pool(x, 3, s, p, count_include_pad=True),
                ops.conv(x, KERNEL, s, p),
            ],
            axis=-1,
        )
        for padding in PADDINGS
        for stride in (1, 2)
    },
    "max of 2": lambda x: ops.max_pool(x, 2, 2, "ceil"),
    "depthwise": lambda x: ops.depthwise_conv(x, DEPTHWISE, 2, "same"),
    "dilated": lambda x: ops.depthwise_conv(x, DEPTHWISE, 1, "same", 2),
    "responses": lambda x: ops.local_response_norm(x * 30),
    "a sum": lambda x: ops._pool_native(jax.lax.add, 0.0, x, 2, 1, "valid") / 3,
    "sums": lambda x: x.sum((1, 2)) / 7 - x.sum((1, 2)),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "erfc": lambda x: jax.lax.erfc(2 * x),
    "channels": lambda x: 1 - (x * ROW - ROW[::-1]) / ROW,
    "twice used": lambda x: (lambda y: y * ROW[0] + jax.nn.relu(y * 2 + 1))(ops.conv(x, KERNEL)),
    "floor": lambda x: jnp.maximum(x, 0.25) + jnp.maximum(-x, x),
    "pieces": lambda x: jnp.concatenate(jnp.split(x, [1, 4], axis=2)[::-1], axis=2),
    "every other": lambda x: jax.lax.slice_in_dim(x, 1, None, 2, axis=1),
    "layer norm": lambda x: normalised(x.mean((1, 2))),
    "strided by jnp": lambda x: x[:, ::2, 1::3] * jnp.sum(ROW),
    "reversed by jnp": lambda x: x[:, ::-1] * x[..., ::-1],
    "strided 1x1": lambda x: ops.conv(x, KERNEL[:1, :1], 2),
    "strided before 3x3": lambda x: ops.conv(strided(x, 1, 2), KERNEL),
    "strided before 1x1": lambda x: ops.conv(strided(x, 1, 2), KERNEL[:1, :1]),
    "a part before 1x1": lambda x: ops.conv(
        jax.lax.slice_in_dim(x, 1, None, axis=1), KERNEL[:1, :1]
    ),
    "constants": lambda x: x + jnp.cumsum(jnp.asarray(ROW)),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions(function, tmp_path):
    model = Tiny(FUNCTIONS[function])
    images = random_images(model, "float32", (7, 8), n=3)  # an odd side and an even one
    ij.export(model, tmp_path / "x.onnx", image_size=(7, 8))
    check(tmp_path / "x.onnx", ours(model, images), images, function)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (jnp.sin, "primitive 'sin'"),
        (lambda x: x.astype(jnp.bfloat16) * 2, "computes in bfloat16"),
        (lambda x: x.sum(1), "a sum over the axes"),
        (lambda x: jnp.ones((3, 3)), "does not depend"),
        (lambda x: jax.lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0))), "padding"),
        (lambda x: jax.lax.conv(x, x, (1, 1), "SAME"), "convolution"),
        (
            lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 1, 3), (1,) * 4, "SAME"),
            "pool",
        ),
        (lambda x: jnp.einsum("nhwc,cd->nhwd", x, jnp.ones((3, 3))), "matrix product"),
        (lambda x: x[:, jnp.asarray([0, 1, 3])], "uneven steps"),
        (lambda x: x[:, jnp.asarray([0, 1]), jnp.asarray([0, 1])], "this gather"),
        (lambda x: x[:, 1:3], "this gather"),
        (lambda x: x.sum((1, 2, 3))[:, None, None, None], "broadcast"),
        (lambda x: jnp.concatenate([x, jnp.zeros_like(x)]), "constant"),
    ],
)
def test_what_onnx_has_no_words_for(function, words, tmp_path):
    (tmp_path / "x.onnx").write_text("before")
    with pytest.raises(ij.ExportError, match=words):
        ij.export(Tiny(function), tmp_path / "x.onnx", image_size=4)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.onnx", "before")]


def test_the_mode_of_the_model_is_left_alone(tmp_path):
    model = network("inception_v1", aux_heads=True, dropout=0.5)
    images = random_images(model, "float32", (32, 32), n=3)
    expected = ours(model, images)
    model.train()
    ij.export(model, tmp_path / "x.onnx", image_size=32)
    assert not model.dropout.deterministic
    check(tmp_path / "x.onnx", expected, images, "evaluation")


def test_folded(tmp_path):
    """A folded network exports with the same results, although it no longer has a name."""
    model = network("inception_next_atto")
    images = random_images(model, "float32", small(model), n=2)
    ij.export(ij.fold(model), tmp_path / "x.onnx", image_size=small(model))
    check(tmp_path / "x.onnx", ours(model, images), images, "folded")


def test_a_network_built_by_its_class(tmp_path):
    model = network("inception_v1")
    model.spec = model.info = None
    with pytest.raises(ij.ExportError, match="image_size must be given"):
        ij.export(model, tmp_path / "x.onnx")
    with pytest.raises(ij.ExportError, match="normalised is unknown"):
        ij.export(model, tmp_path / "x.onnx", image_size=32, normalise=True)
    ij.export(model, tmp_path / "x.onnx", image_size=32)
    images = random_images(model, "float32", (32, 32), n=2)
    check(tmp_path / "x.onnx", ours(model, images), images, "inception_v1")


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("x.onnx", {"format": "tflite"}, "onnx or stablehlo, not 'tflite'"),
        ("x.pb", {}, r"end in \.onnx"),
        ("x.onnx", {"format": "stablehlo"}, r"end in \.stablehlo"),
        ("nowhere/x.onnx", {}, "no folder"),
        ("folder.onnx", {}, "is a folder"),
        ("x.onnx", {"image_size": 70}, "at least 71x71 pixels; got 70x70"),
        ("x.onnx", {"image_size": (80, 0)}, "got 80x0"),
    ],
)
def test_what_cannot_be_exported(file, options, words, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    model = filled("xception", in_channels=1, num_classes=2, width_multiplier=WIDTH)
    with pytest.raises(ij.ExportError, match=words):
        ij.export(model, tmp_path / file, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.onnx"]


def test_only_pictures_can_be_normalised(tmp_path):
    model = filled("xception", in_channels=2, num_classes=2, width_multiplier=WIDTH)
    with pytest.raises(ij.ExportError, match="2 channels"):
        ij.export(model, tmp_path / "x.onnx", normalise=True)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(ij.ExportError, match=r"cannot write in .*: Permission denied"):
        ij.export(Tiny(jnp.abs), tmp_path / "x.stablehlo", "stablehlo", image_size=4)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ij.ExportError, match=r"pip install 'inception-jax\[onnx\]'"):
        ij.export(Tiny(jax.nn.relu), tmp_path / "x.onnx", image_size=4)
    ij.export(Tiny(jax.nn.relu), tmp_path / "x.stablehlo", "stablehlo", image_size=4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    model = network("inception_v1.bvlc_in1k")
    ij.save_weights(model, path)
    return model, path


def command(capsys, *argv: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_command(capsys, tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, path = weights
    name = "inception_v1.bvlc_in1k"
    words = ["export", name, "--weights", path, "--image-size", "32x40", "--format"]
    images = random_images(model, "float32", (32, 40), n=2)
    expected = ours(model, images)
    for format in ("onnx", "stablehlo"):
        code, out, err = command(capsys, *words, format)
        assert (code, out, err) == (0, f"wrote {name}.{format}\n", "")
        check(Path(f"{name}.{format}"), expected, images, format)
    inside = ["--normalise", "--embedding", "--stages", "all", "--heat"]
    code, out, _ = command(capsys, *words, "onnx", "-o", "y.onnx", *inside)
    assert (code, out) == (0, "wrote y.onnx\n")
    graph = onnx.load("y.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert described(graph.output[0]) == ("embedding", ["batch", 128])
    stages = [info.name for info in ij.feature_info(model)]
    assert [output.name for output in graph.output] == ["embedding", "heat", *stages]
    assert described(graph.output[1])[1] == [*described(graph.output[-1])[1][:3], model.num_classes]
    command(capsys, "export", name, "--weights", path, "--format", "onnx")
    assert described(onnx.load(f"{name}.onnx").graph.input[0])[1] == ["batch", 224, 224, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--image-size", "31"], "at least 32x32 pixels; got 31x31"),
        (["-o", "nowhere/x.onnx"], "no folder"),
        (["-o", "x.pt"], "end in .onnx"),
        ([], "absent.pth"),
    ],
)
def test_command_refuses_before_it_reads_weights(capsys, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    argv = ["export", "inception_v1", "--weights", "absent.pth", "--format", "onnx", *options]
    code, out, err = command(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["big", "32x", "32x32x3", "-5"])
def test_command_refuses_sizes(capsys, size):
    options = ["export", "inception_v1", "--format", "onnx", f"--image-size={size}"]
    assert cli.main(options) == 2
    assert "must be N or HxW" in capsys.readouterr().err


def test_no_package_is_imported_before_it_is_needed():
    code = "import sys, inception_jax; assert not {'onnx', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
