"""Tests that checkpoints and graphs of TF-slim and FaceNet load. The tests write these files."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from tests.helpers.networks import WIDTH, filled, made_up, skeleton
from tests.helpers.slim_scopes import AUX_SCOPES, SCOPES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

LEAVES = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def build(name: str, **options) -> nnx.Module:
    return skeleton(name, **{"width_multiplier": WIDTH, "num_classes": 10, **options})


def numbers(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns random tensors by the twin's names, in the twin's order of definition.

    BatchNorm's scale is 1, because TF-slim's BatchNorm has none.
    """
    import torch

    import reference_torch

    spec = model.spec
    with torch.device("meta"):
        twin = reference_torch.create_model(
            spec.name,
            num_classes=spec.num_classes,
            width_multiplier=WIDTH,
            aux_heads=spec.aux_heads,
        )
    rng = np.random.default_rng(0)
    return {
        key: np.ones(tensor.shape, np.float32)
        if key.endswith(("bn.weight", "bottleneck_bn.weight"))  # which TF-slim does not have
        else made_up(rng, key, tensor.shape)
        for key, tensor in twin.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def layers(state: dict[str, np.ndarray]) -> list[str]:
    """Returns the names of our convolutions and classifiers in order, without auxiliary heads.

    `conv1.pointwise` is left out too, because it shares a scope with the depthwise convolution.
    """
    found = [
        name.removesuffix(".weight").removesuffix(".conv")
        for name in state
        if name.endswith(".weight") and not name.endswith("bn.weight")
    ]
    found = [name for name in found if not name.startswith("AuxLogits")]
    return [name for name in found if name != "conv1.pointwise"]  # shares the depthwise scope


def variables(name: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    root, scopes = SCOPES[name]
    pairs = dict(zip(layers(state), scopes, strict=True))
    pairs = {ours: f"{root}/{scope}" for ours, scope in pairs.items()}
    if name == "inception_resnet_v1":
        pairs["fc"] = "Logits"
    if "AuxLogits.fc.weight" in state:
        aux = zip(("conv0", "conv1", "fc"), AUX_SCOPES[name], strict=True)
        pairs |= {f"AuxLogits.{ours}": f"{root}/AuxLogits/{scope}" for ours, scope in aux}
    result = {}
    for ours, scope in pairs.items():
        if ours == "conv1.depthwise":
            depthwise = state["conv1.depthwise.weight"]
            shape = (3, depthwise.shape[0] // 3, *depthwise.shape[2:])
            result[f"{scope}/depthwise_weights"] = depthwise.reshape(shape).transpose(2, 3, 0, 1)
            pointwise = state["conv1.pointwise.weight"]
            result[f"{scope}/pointwise_weights"] = pointwise.transpose(2, 3, 1, 0)
            result[f"{scope}/biases"] = state["conv1.pointwise.bias"]
            continue
        has_bn = f"{ours}.bn.bias" in state or ours == "bottleneck"
        kernel = state[f"{ours}.conv.weight" if f"{ours}.bn.bias" in state else f"{ours}.weight"]
        if kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)
        elif scope.endswith("1x1"):  # V1 to V3 classify by a convolution
            kernel = kernel.T[None, None]
        else:
            kernel = kernel.T
        result[f"{scope}/weights"] = kernel
        if has_bn:
            norm = "bottleneck_bn" if ours == "bottleneck" else f"{ours}.bn"
            for leaf, theirs in LEAVES.items():
                result[f"{scope}/BatchNorm/{theirs}"] = state[f"{norm}.{leaf}"]
        elif f"{ours}.bias" in state:
            result[f"{scope}/biases"] = state[f"{ours}.bias"]
    return result


def assert_loaded(model: nnx.Module, state: dict[str, np.ndarray]) -> None:
    loaded = ij.to_torch(model)
    for key, expected in state.items():
        np.testing.assert_array_equal(loaded[key], expected, err_msg=key)


@pytest.mark.parametrize("name", SCOPES)
def test_scopes(name):
    options = {"aux_heads": True} if name in AUX_SCOPES else {}
    model = build(name, num_classes=11, **options)
    state = numbers(model)
    tensors = variables(name, state)
    shuffled = dict(sorted(tensors.items(), key=lambda item: hash(item[0])))
    ij.load_weights(model, shuffled)
    assert_loaded(model, state)
    # The first class is the background, in both classifiers; no auxiliary head was asked for.
    plain = build(name, num_classes=10)
    ij.load_weights(plain, shuffled)
    np.testing.assert_array_equal(ij.to_torch(plain)["fc.bias"], state["fc.bias"][1:])
    if options:
        both = build(name, num_classes=10, **options)
        ij.load_weights(both, shuffled)
        aux = ij.to_torch(both)["AuxLogits.fc.weight"]
        np.testing.assert_array_equal(aux, state["AuxLogits.fc.weight"][1:])


@pytest.fixture(scope="module")
def v1() -> tuple[nnx.Module, dict[str, np.ndarray], dict[str, np.ndarray]]:
    model = build("inception_v1.slim_in1k")
    state = numbers(model)
    return model, state, variables("inception_v1.slim_in1k", state)


def test_what_training_leaves_behind(v1):
    """Moving averages replace the variables; optimiser slots and the step count are skipped."""
    _, state, tensors = v1
    training = {"global_step": np.int64(7)}
    for name, tensor in tensors.items():
        training[name] = np.zeros_like(tensor)
        training[f"{name}/ExponentialMovingAverage"] = tensor
        training[f"{name}/RMSProp"] = training[f"{name}/RMSProp_1"] = np.ones_like(tensor)
    model = build("inception_v1.slim_in1k")
    ij.load_weights(model, training)
    assert_loaded(model, state)


def test_a_lost_layer_or_tensor(v1):
    model, _, tensors = v1
    scope = "InceptionV1/Mixed_4c/Branch_1/Conv2d_0b_3x3"
    lost = {k: v for k, v in tensors.items() if k != f"{scope}/BatchNorm/beta"}
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(model, lost)
    assert error.value.missing == ("inception4b.branch3x3_2.bn.bias",)
    lost = {k: v for k, v in tensors.items() if not k.startswith(scope)}
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(model, lost)
    assert "inception4b.branch3x3_2.conv.weight" in error.value.missing
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(model, {**tensors, "InceptionV1/Extra/weights": np.ones(3)})
    assert error.value.unexpected == ("InceptionV1/Extra/weights",)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("inception_v1.slim_in1k", "inception_v1.tv_in1k"),
        ("inception_v1.slim_in1k", "bn_inception.slim_in1k"),
        ("bn_inception.slim_in1k", "bn_inception.caffe_in1k"),
        ("inception_v3.slim_in1k", "inception_v3.tf_in1k"),
        ("inception_resnet_v1", "inception_resnet_v1.paper"),
    ],
)
def test_refused_elsewhere(name, wrong):
    tensors = variables(name, numbers(build(name)))
    with pytest.raises(ij.WeightsError, match=r"create_model takes them as .*(slim|vgg)"):
        ij.load_weights(build(wrong), tensors)


def write_checkpoint(path: Path, tensors: dict[str, np.ndarray], version) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        made = [tf.compat.v1.Variable(tensor, name=name) for name, tensor in tensors.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(made, write_version=version)
        saver.save(session, str(path), write_meta_graph=False)


def test_checkpoint_files(v1, tmp_path):
    _, state, tensors = v1
    versions = tf.compat.v1.train.SaverDef
    (tmp_path / "old").mkdir()
    write_checkpoint(tmp_path / "old/inception_v1.ckpt", tensors, versions.V1)
    write_checkpoint(tmp_path / "model.ckpt-7", tensors, versions.V2)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "old/inception_v1.ckpt", "inception_v1.ckpt")
    files = ["old/inception_v1.ckpt", "model.ckpt-7", "model.ckpt-7.index", "a.tar.gz"]
    for file in files:
        model = build("inception_v1.slim_in1k")
        ij.load_weights(model, tmp_path / file)
        assert_loaded(model, state)
    damage = {
        "old/inception_v1.ckpt": "old/inception_v1.ckpt",
        "model.ckpt-7": "model.ckpt-7.data-00000-of-00001",
        "a.tar.gz": "a.tar.gz",
    }
    for file, part in damage.items():
        content = (tmp_path / part).read_bytes()
        for rest in (content[: len(content) // 2], b"", b"<!DOCTYPE html>"):
            (tmp_path / part).write_bytes(rest)
            with pytest.raises(ij.WeightsError, match=Path(file).name):
                ij.load_weights(build("inception_v1.slim_in1k"), tmp_path / file)
    (tmp_path / "model.ckpt-7.data-00000-of-00001").unlink()
    with pytest.raises(ij.WeightsError, match=r"model\.ckpt-7"):
        ij.load_weights(build("inception_v1.slim_in1k"), tmp_path / "model.ckpt-7")


@pytest.mark.parametrize(
    "name", ["../outside.ckpt", "/tmp/../outside.ckpt", "a/../../outside.ckpt"]
)
def test_archives_cannot_write_outside_their_folder(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(
        ij.WeightsError, match=r"a\.tar\.gz.*outside\.ckpt would be written outside"
    ):
        ij.load_weights(build("inception_v1.slim_in1k"), path)
    assert list(tmp_path.iterdir()) == [path]


def test_links_in_archives_are_left_out(v1, tmp_path):
    _, state, tensors = v1
    versions = tf.compat.v1.train.SaverDef
    write_checkpoint(tmp_path / "inception_v1.ckpt", tensors, versions.V1)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("b.ckpt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.add(tmp_path / "inception_v1.ckpt", "a/inception_v1.ckpt")
    model = build("inception_v1.slim_in1k")
    ij.load_weights(model, tmp_path / "a.tar.gz")
    assert_loaded(model, state)


def graph_of(tensors: dict[str, np.ndarray], folded: bool):
    """Returns a frozen graph (`GraphDef`) with the constants of each layer.

    `tensors` have TF-slim's names. If `folded`, the graph also has each layer's operations, with a
    bias, BatchNorm's beta, in place of BatchNorm.
    """
    graph = tf.compat.v1.GraphDef()

    def node(op: str, name: str, *inputs: str):
        made = graph.node.add(op=op, name=name)
        made.input.extend(inputs)
        return name

    def constant(name: str, array: np.ndarray) -> str:
        made = graph.node.add(op="Const", name=name)
        made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
        return node("Identity", f"{name}/read", name)

    image = node("Placeholder", "image_batch")
    for name, array in tensors.items():
        if not folded or "/BatchNorm/" not in f"{name}/":
            read = constant(name, array)
        if folded and name.endswith("/weights"):
            scope = name.removesuffix("/weights")
            x = node("Conv2D" if array.ndim == 4 else "MatMul", f"{scope}/Conv2D", image, read)
            if f"{scope}/BatchNorm/beta" in tensors:
                shift = constant(f"{scope}/Conv2D_bn_offset", tensors[f"{scope}/BatchNorm/beta"])
                x = node("BiasAdd", f"{scope}/BatchNorm/add", x, shift)
            node("Relu", f"{scope}/Relu", x)
    return graph


@pytest.mark.parametrize("folded", [False, True])
def test_frozen_graph_of_faces(folded, tmp_path):
    # The model needs values, because its classifier is not loaded and keeps them.
    model = filled("inception_resnet_v1", num_classes=10, width_multiplier=WIDTH)
    state = numbers(model)
    if folded:  # a folded graph has only the shift
        for key, tensor in state.items():
            if key.endswith("running_mean"):
                tensor[:] = 0
            elif key.endswith("running_var"):
                tensor[:] = 1
    tensors = variables("inception_resnet_v1", state)
    tensors = {k: v for k, v in tensors.items() if not k.startswith("Logits/")}
    path = tmp_path / "20180402-114759.pb"
    path.write_bytes(graph_of(tensors, folded).SerializeToString())
    with pytest.warns(UserWarning, match="no classifier"):
        ij.load_weights(model, path)
    loaded = ij.to_torch(model)
    for key, expected in state.items():
        if key.startswith("fc."):
            continue
        # This scale cancels the division by the root of the variance 1 plus epsilon.
        gain = np.sqrt(1.001) if folded and key.endswith("bn.weight") else 1
        np.testing.assert_allclose(loaded[key], expected * gain, rtol=1e-6, err_msg=key)
    content = path.read_bytes()
    for rest in (content[: len(content) // 2], b"", b"<!DOCTYPE html>"):
        path.write_bytes(rest)
        with pytest.raises(ij.WeightsError, match=r"20180402-114759\.pb"):
            ij.load_weights(model, path)
