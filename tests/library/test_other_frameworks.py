"""Tests files of Keras' and TensorFlow's users, such as fine-tuned networks and SavedModels."""

from __future__ import annotations

import os
import shutil
import warnings

import jax
import numpy as np
import pytest

import inception_jax as ij
from inception_jax.weights import fit, graph_layouts
from inception_jax.weights.torch_names import state_of, to_torch_order, torch_name, walk
from tests.helpers.networks import WIDTH, filled, skeleton

h5py = pytest.importorskip("h5py")
pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = pytest.importorskip("tensorflow")

import test_keras_files
import test_layouts
import test_slim_files
from test_keras_files import Case

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
OPTIONS = {"width_multiplier": WIDTH, "num_classes": 10}


def check(name, source, expected, head=True) -> str:
    """Loads weights, compares them with the expected tensors, and returns the warnings' text.

    Args:
        name: name of the network.
        source: file path or tensors, as `load_weights` takes them.
        expected: tensors by the twin's names.
        head: whether the classifier is loaded too; otherwise it must stay unloaded.
    """
    model = skeleton(name, **OPTIONS)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ij.load_weights(model, source, head=head)
    for path, leaf in walk(state_of(model)):
        key = torch_name(path)
        if key.startswith("fc.") and not head:
            assert isinstance(leaf, jax.ShapeDtypeStruct)
        else:
            found = to_torch_order(path, np.asarray(leaf))
            np.testing.assert_array_equal(found, expected[key], err_msg=key)
    return "; ".join(str(w.message) for w in said if w.category is UserWarning)


@pytest.fixture(scope="module")
def case():
    return Case("xception")


KERAS = "xception.keras_in1k"
HEADS = {
    "one Dense": [("flowers", ("kernel", "bias"))],
    "two": [("dense", ("kernel", "bias")), ("dense_1", ("kernel", "bias"))],
    "with BatchNorm": [
        ("batch_normalization_7", ("gamma", "beta", "moving_mean", "moving_variance")),
        ("dense_9", ("kernel", "bias")),
    ],
}


def tensors_of(head: str, case: Case) -> dict[str, dict[str, np.ndarray]]:
    weight, bias = case.state["fc.weight"].T, case.state["fc.bias"]
    values = {"kernel": weight, "bias": bias}
    return {
        layer: {leaf: values.get(leaf, np.ones(256, np.float32)) for leaf in leaves}
        for layer, leaves in HEADS[head]
    }


def write_legacy(path, case: Case, head: str, nested: bool) -> None:
    """Writes a fine-tuned network as Keras' `.h5` file.

    `head` is a key in `HEADS`. If `nested`, the backbone is one layer with many tensors.
    """
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        groups: dict[str, dict[str, np.ndarray]] = {}
        for _, layer, tensors in case.tensors(top=False):
            owner = "xception" if nested else layer
            for leaf, tensor in tensors.items():
                groups.setdefault(owner, {})[f"{layer}/{leaf}"] = tensor
        for layer, tensors in tensors_of(head, case).items():
            prefix = f"sequential/{layer}" if nested else layer
            groups[layer] = {f"{prefix}/{leaf}": x for leaf, x in tensors.items()}
        root.attrs["layer_names"] = list(groups)
        for layer, tensors in groups.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = list(tensors)
            for name, tensor in tensors.items():
                group[name] = tensor
        file["optimizer_weights/adam/iteration"] = np.int64(3)


def write_indexed(path, case: Case, head: str, nested: bool) -> None:
    """Writes a fine-tuned network as Keras 3's `.weights.h5`.

    In this format, layers are named by class and index, such as "conv2d_3".

    Args:
        path: path of the file.
        case: the network.
        head: key in `HEADS`, which lists the layers in place of the network's classifier.
        nested: whether the layers of the backbone are nested in one layer.
    """
    inside = "layers/functional/" if nested else ""
    test_keras_files.write_indexed(path, case, top=False, inside=inside)
    with h5py.File(path, "a") as file:
        for layer, tensors in tensors_of(head, case).items():
            kind = layer.rstrip("_0123456789") if layer != "flowers" else "dense"
            number = "_99" if kind == "batch_normalization" and not nested else ""
            number = "_1" if layer == "dense_1" else number
            for i, tensor in enumerate(tensors.values()):
                file[f"layers/{kind}{number}/vars/{i}"] = tensor
        file["optimizer/vars/0"] = np.int64(3)


@pytest.mark.parametrize("write", [write_legacy, write_indexed])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_keras_fine_tunes(write, nested, head, case, tmp_path):
    path = tmp_path / "x.h5"
    write(path, case, head, nested)
    if head == "one Dense":
        check(KERAS, path, case.state)
    else:
        with pytest.raises(ij.WeightsError, match="head=False"):
            check(KERAS, path, case.state)
    note = check(KERAS, path, case.state, head=False)
    if head != "one Dense":
        assert "skipped" in note
        assert "dense" in note or "batch_normalization" in note


SLIM = "inception_v1.slim_in1k"


@pytest.fixture(scope="module")
def slim():
    """Returns random tensors by TF-slim's names, and the same tensors by the twin's names."""
    ours = test_slim_files.numbers(filled(SLIM, **OPTIONS))
    return test_slim_files.variables(SLIM, ours), ours


@pytest.mark.parametrize(
    "scope", ["FeatureExtractor/", "module/", "tower_0/", "a/b/", "InceptionV1/"]
)
def test_scopes(scope, slim):
    variables, ours = slim
    note = check(SLIM, {f"{scope}{name}": x for name, x in variables.items()}, ours)
    assert f"'{scope}'" in note
    renamed = {name.replace("InceptionV1/", scope): x for name, x in variables.items()}
    if scope != "InceptionV1/":
        assert f"'{scope}'" in check(SLIM, renamed, ours)


def test_a_detector_in_two_stages(slim):
    variables, ours = slim
    halves = {True: "FirstStage/", False: "SecondStage/"}
    split = {f"{halves['Mixed_5' in name]}{name}": x for name, x in variables.items()}
    note = check(SLIM, {**split, "Other/weights": np.ones((3, 3), np.float32)}, ours)
    assert "FirstStage/" in note
    assert "Other/weights" in note


@pytest.mark.parametrize("slot", ["Adam", "Adam_1", "Momentum", "Ftrl_1", "LARS", "my_slot"])
def test_slots_of_any_optimizer(slot, slim):
    variables, ours = slim
    slots = {f"{name}/{slot}": x + 1 for name, x in variables.items()}
    slots |= {f"OptimizeLoss/{name}/{slot}": x + 1 for name, x in variables.items()}
    counts = {"global_step": np.int64(3), "OptimizeLoss/beta1_power": np.float32(0.9)}
    assert check(SLIM, {**variables, **slots, **counts}, ours) == ""


class Module(tf.Module):
    pass


@pytest.fixture(scope="module")
def folder(slim, tmp_path_factory):
    """Returns a folder that contains checkpoints and SavedModels of TensorFlow 1 and 2."""
    folder = tmp_path_factory.mktemp("training") / "run"
    variables, _ = slim
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        made = [tf.compat.v1.get_variable(name, initializer=x) for name, x in variables.items()]
        loss = tf.add_n([tf.reduce_sum(x) for x in made])
        tf.compat.v1.train.AdamOptimizer().minimize(loss)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        for step in (7, 12):
            saver.save(session, str(folder / "model.ckpt"), global_step=step)
        tensors = {"x": tf.identity(made[0])}, {"y": tf.identity(made[1])}
        tf.compat.v1.saved_model.simple_save(session, str(folder / "saved_1"), *tensors)
    module = Module()
    module.variables_ = [tf.Variable(x, name=name) for name, x in variables.items()]
    tf.saved_model.save(module, str(folder / "saved_2"))
    tf.train.Checkpoint(network=module).save(str(folder / "objects"))
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/run/model.ckpt-12"\n')
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "", "checkpoint", "model.ckpt-12.meta", "saved_1", "saved_2/saved_model.pb", "objects-1",
        pytest.param("model.ckpt-12", marks=pytest.mark.slow),
        pytest.param("model.ckpt-12.index", marks=pytest.mark.slow),
        pytest.param("model.ckpt-12.data-00000-of-00001", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_any_part_of_a_checkpoint(name, folder, slim):
    assert check(SLIM, folder / name, slim[1]) == ""


def test_a_checkpoint_with_a_part_missing(folder, tmp_path):
    shutil.copy(folder / "model.ckpt-12.meta", tmp_path)
    with pytest.raises(ij.WeightsError, match=r"model\.ckpt-12\.index is missing"):
        check(SLIM, tmp_path / "model.ckpt-12.meta", {})


def to_tensorflow(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


NORM = {
    "weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
    "running_var": "moving_variance",
}  # fmt: skip


def test_the_graph_of_2015():
    """Tensors with the names of TensorFlow's Inception graph of 2015 load.

    The graph has the layer order of our network.
    """
    name = "inception_v3.fid"
    model = filled(name, width_multiplier=WIDTH)
    state = {k: x for k, x in ij.to_torch(model).items() if not k.endswith("batches_tracked")}
    scopes = {path: scope for scope, path in graph_layouts._graph_places(model.layer_order)}
    graph = {}
    for key, tensor in state.items():
        layer, _, leaf = key.rpartition(".")
        place, _, kind = layer.rpartition(".")
        if layer == "fc":
            graph[f"FID/softmax/{'weights' if leaf == 'weight' else 'biases'}"] = tensor.T
        elif kind == "conv":
            graph[f"FID/{scopes[place]}/conv2d_params"] = to_tensorflow(tensor)
        else:
            graph[f"FID/{scopes[place]}/batchnorm/{NORM[leaf]}"] = tensor
    assert scopes["Mixed_7c.branch3x3dbl_3b"] == "mixed_10/tower_1/mixed/conv_1"
    model = skeleton(name, width_multiplier=WIDTH)
    with pytest.warns(UserWarning, match="'FID/'"):
        ij.load_weights(model, graph)
    loaded = ij.to_torch(model)
    for key, tensor in state.items():
        np.testing.assert_array_equal(loaded[key], tensor, err_msg=key)
    with pytest.raises(ij.WeightsError, match=r"takes them as inception_v3\.fid$"):
        ij.load_weights(skeleton("inception_v3", **OPTIONS), graph)


def deeplab_name(key: str) -> tuple[str, bool]:
    """Returns DeepLab's name for a tensor, and whether the tensor is a depthwise kernel.

    `key` is the twin's name for the tensor.
    """
    layer, _, leaf = key.rpartition(".")
    parts = layer.split(".")
    if layer == "fc":
        return f"logits/{'weights' if leaf == 'weight' else 'biases'}", False
    if parts[0] in ("conv1", "conv2"):
        scope, is_norm = f"entry_flow/conv1_{parts[0][-1]}", parts[1] == "bn"
        return (f"{scope}/BatchNorm/{NORM[leaf]}" if is_norm else f"{scope}/weights"), False
    flow, number, *_, last = parts
    n = int(number) + 1
    at = f"{flow}/block1/unit_{n}" if flow == "middle_flow" else f"{flow}/block{n}/unit_1"
    conv = "shortcut"
    if not last.startswith("shortcut"):
        conv = f"separable_conv{parts[2][-1]}_{last.removeprefix('bn_')}"
    scope = f"{at}/xception_module/{conv}"
    if "bn" in last:
        return f"{scope}/BatchNorm/{NORM[leaf]}", False
    depthwise = last == "depthwise"
    return f"{scope}/{'depthwise_weights' if depthwise else 'weights'}", depthwise


def test_deeplab():
    """DeepLab's segmentation checkpoint loads without its background class and extra layers."""
    name = "xception41.tf_in1k"
    state = ij.to_torch(filled(name, **OPTIONS))
    file = {"aspp0/weights": np.ones((1, 1, 3, 3), np.float32)}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        theirs, depthwise = deeplab_name(key)
        if key.startswith("fc."):
            tensor = np.concatenate([tensor[:1], tensor])
        array = tensor.transpose(2, 3, 0, 1) if depthwise else to_tensorflow(tensor)
        array = array[None, None] if theirs == "logits/weights" else array
        file[f"xception_41/{theirs}"] = array
        file[f"xception_41/{theirs}/Momentum"] = array
    note = check(name, file, state)
    assert "aspp0/weights" in note
    with pytest.raises(ij.WeightsError, match=r"takes them as xception41\.tf_in1k$"):
        check("inception_v4", file, state)


def test_faces_of_128_numbers():
    """FaceNet's files of 2017 have embeddings of 128 numbers, so they need `embedding_size=128`."""
    foreign, _ = test_layouts.numbered("inception_resnet_v1.vggface2", num_classes=3)
    foreign = {
        key: x[:16] if key.startswith("last_") and x.ndim else x[:, :16] if key == "logits.weight"
        else x
        for key, x in foreign.items()
    }  # fmt: skip
    model = skeleton("inception_resnet_v1", width_multiplier=WIDTH, num_classes=3,
                     embedding_size=128)  # fmt: skip
    ij.load_weights(model, foreign)
    np.testing.assert_array_equal(model.bottleneck.kernel[...].T, foreign["last_linear.weight"])
    bottleneck = {"bottleneck.weight": np.zeros((128, 1792), np.float32)}
    assert fit.options(bottleneck, model) == {"embedding_size": 128}
    foreign["last_linear.weight"] = np.zeros((128, 1792), np.float32)
    with pytest.raises(ij.WeightsError, match="they need embedding_size=128"):
        ij.load_weights(skeleton("inception_resnet_v1", num_classes=3), foreign)
