"""Tests that Keras' files load. The tests write them from Keras' lists of layers."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax.weights import keras_files, torch_names
from inception_jax.weights.keras_files import write_hdf5
from inception_jax.weights.keras_layouts import from_twin
from tests.helpers.keras_layers import (
    RESNET_LAYERS,
    V3_LAYERS,
    inception_layers,
    keras_tensors,
    later,
    xception_layers,
)
from tests.helpers.networks import WIDTH, filled, skeleton

h5py = pytest.importorskip("h5py")
torch = pytest.importorskip("torch")
import reference_torch


class Case:
    """A network's random tensors, and its layers in Keras' order and with Keras' names.

    Attributes:
        arch: name of the network, one of three that Keras publishes.
        state: tensors by the PyTorch twin's names.
        layers: kind, Keras' name and our path of each layer.
        gamma: whether BatchNorm has a scale.
    """

    def __init__(self, arch: str):
        name, options = f"{arch}.keras_in1k", {"width_multiplier": WIDTH, "num_classes": 10}
        model = filled(name, **options)
        with torch.device("meta"):
            twin = reference_torch.create_model(name, **options)
        self.gamma = arch == "xception"
        self.state = {
            name: tensor if self.gamma or not name.endswith("bn.weight") else np.ones_like(tensor)
            for name, tensor in ij.to_torch(model).items()
        }
        self.layers = {
            "xception": xception_layers,
            "inception_v3": lambda: inception_layers(V3_LAYERS, twin),
            "inception_resnet_v2": lambda: inception_layers(RESNET_LAYERS, twin),
        }[arch]()
        self.arch = arch

    def tensors(self, top: bool = True) -> list[tuple[str, str, dict[str, np.ndarray]]]:
        return [
            (kind, name, keras_tensors(kind, path, self.state, self.gamma))
            for kind, name, path in self.layers
            if top or kind != "dense"
        ]

    def fresh(self):
        return skeleton(f"{self.arch}.keras_in1k", width_multiplier=WIDTH, num_classes=10)


def write_legacy(file, case: Case, top: bool = True, suffix: str = ":0") -> None:
    """Writes a file as Keras' `model.save_weights("x.h5")` does.

    Layers are named as in the second model that a process builds, see `later`. The classifier is
    left out unless `top`. `suffix` ends the names of the tensors.
    """
    with h5py.File(file, "w") as root:
        entries = case.tensors(top)
        np.random.default_rng(0).shuffle(entries)  # an HDF5 file's own order means nothing
        for _, name, tensors in entries:
            group = root.create_group(later(name))
            group.attrs["weight_names"] = [f"{later(name)}/{leaf}{suffix}" for leaf in tensors]
            for leaf, tensor in tensors.items():
                group[f"{later(name)}/{leaf}{suffix}"] = tensor
        root.attrs["layer_names"] = [later(name) for _, name, _ in entries]


def write_indexed(file, case: Case, top: bool = True, inside: str = "") -> None:
    """Writes a file as Keras 3's `model.save_weights("x.weights.h5")` does.

    Layers are named by class and index. `inside` is a prefix of their paths in the file.
    The classifier is left out unless `top`.
    """
    counts: dict[str, int] = {}
    with h5py.File(file, "w") as root:
        root.create_group("layers/activation/vars")
        for kind, _, tensors in case.tensors(top):
            n = counts[kind] = counts.get(kind, -1) + 1
            for i, tensor in enumerate(tensors.values()):
                root[f"{inside}layers/{kind}{f'_{n}' if n else ''}/vars/{i}"] = tensor


def write_archive(file: Path, case: Case) -> None:
    content = io.BytesIO()
    write_indexed(content, case)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", content.getvalue())


def write_tensorflow_js(file: Path, case: Case) -> None:
    """Writes a TensorFlow.js model with two shards; the split is within a tensor."""
    entries = [
        (f"{name}/{leaf}", tensor)
        for _, name, tensors in case.tensors()
        for leaf, tensor in tensors.items()
    ]
    content = b"".join(np.ascontiguousarray(tensor).tobytes() for _, tensor in entries)
    middle = len(content) // 2 + 1
    (file.parent / "group1-shard1of2.bin").write_bytes(content[:middle])
    (file.parent / "group1-shard2of2.bin").write_bytes(content[middle:])
    weights = [{"name": n, "shape": t.shape, "dtype": "float32"} for n, t in entries]
    paths = ["group1-shard1of2.bin", "group1-shard2of2.bin"]
    manifest = [{"paths": paths, "weights": weights}]
    file.write_text(json.dumps({"format": "layers-model", "weightsManifest": manifest}))


WRITERS = {
    "model.h5": write_legacy,
    "old.hdf5": lambda file, case: write_legacy(file, case, suffix=""),
    "model.weights.h5": write_indexed,
    "nested.weights.h5": lambda f, case: write_indexed(f, case, inside="layers/functional/"),
    "model.keras": write_archive,
    "model.json": write_tensorflow_js,
}
ARCHS = [
    "xception",
    "inception_v3",
    pytest.param("inception_resnet_v2", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [  # networks share the readers, but not the lists of layers
        ("xception", WRITERS),
        ("inception_v3", ("model.h5", "model.weights.h5")),
        ("inception_resnet_v2", ("model.h5", "model.weights.h5")),
    ],
)
@pytest.mark.filterwarnings("ignore:the names begin with 'layers/functional/'")
def test_every_kind_of_file(name, kinds, tmp_path):
    case = Case(name)
    model = case.fresh()
    for file in kinds:
        write = WRITERS[file]
        write(tmp_path / file, case)
        nnx.update(model, jax.tree.map(lambda x: jnp.zeros(x.shape), torch_names.state_of(model)))
        ij.load_weights(model, tmp_path / file)
        loaded = ij.to_torch(model)
        for key, expected in case.state.items():
            np.testing.assert_array_equal(loaded[key], expected, f"{file}: {key}")


@pytest.mark.parametrize("name", ARCHS)
def test_what_is_written_is_read(name, tmp_path):
    case = Case(name)
    model = case.fresh()
    layers = list(from_twin(case.state, model.layer_order, case.gamma))
    for file in ("a.h5", "a.weights.h5"):
        write_hdf5(tmp_path / file, layers, legacy=file == "a.h5")
        nnx.update(model, jax.tree.map(lambda x: jnp.zeros(x.shape), torch_names.state_of(model)))
        ij.load_weights(model, tmp_path / file)
        loaded = ij.to_torch(model)
        for key, expected in case.state.items():
            np.testing.assert_array_equal(loaded[key], expected, f"{file}: {key}")
    with h5py.File(tmp_path / "a.h5") as file:
        names = list(file.attrs["layer_names"])
    assert sorted(names) == sorted(name.removesuffix("_0") for _, name, _ in case.layers)
    for kind in ("conv2d", "batch_normalization"):
        listed = [name.removesuffix("_0") for _, name, _ in case.layers if name.startswith(kind)]
        assert [name for name in names if name.startswith(kind)] == listed


@pytest.mark.parametrize("name", ARCHS)
def test_without_top(name, tmp_path):
    case = Case(name)
    model = skeleton(f"{name}.keras_in1k", width_multiplier=WIDTH, num_classes=3)
    for file, write in (("a.h5", write_legacy), ("a.weights.h5", write_indexed)):
        write(tmp_path / file, case, top=False)
        nnx.update(model, jax.tree.map(lambda x: jnp.zeros(x.shape), torch_names.state_of(model)))
        head = np.array(model.fc.kernel[...])
        with pytest.raises(ij.WeightsError, match="head=False") as error:
            ij.load_weights(model, tmp_path / file)
        assert error.value.missing == ("fc.bias", "fc.weight")
        ij.load_weights(model, tmp_path / file, head=False)
        np.testing.assert_array_equal(model.fc.kernel[...], head)
        first = next(k for k in case.state if k.endswith("conv.weight"))
        np.testing.assert_array_equal(ij.to_torch(model)[first], case.state[first])


def test_quantised_codes(tmp_path):
    case = Case("xception")
    write_tensorflow_js(tmp_path / "model.json", case)
    manifest = json.loads((tmp_path / "model.json").read_text())
    content, weights = b"", manifest["weightsManifest"][0]["weights"]
    tensors = [t for _, _, layer in case.tensors() for t in layer.values()]
    for entry, tensor in zip(weights, tensors, strict=True):
        low, high = float(tensor.min()), float(tensor.max())
        step = (high - low) / 65535 or 1.0
        codes = np.round((tensor - low) / step).astype("<u2")
        entry["quantization"] = {"dtype": "uint16", "scale": step, "min": low}
        content += np.ascontiguousarray(codes).tobytes()
    manifest["weightsManifest"][0]["paths"] = ["all.bin"]
    (tmp_path / "all.bin").write_bytes(content)
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    model = case.fresh()
    ij.load_weights(model, tmp_path / "model.json")
    for key, tensor in ij.to_torch(model).items():
        expected = case.state[key]
        step = (np.max(expected) - np.min(expected)) / 65535
        np.testing.assert_allclose(tensor, expected, rtol=1e-6, atol=0.51 * step, err_msg=key)


def damaged(tmp_path: Path, case: Case):
    """Yields a description and a path for each kind of damaged, incomplete or unrelated file."""
    for file, write in WRITERS.items():
        path = tmp_path / file
        write(path, case)
        content = path.read_bytes()
        for what, rest in {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "page": b"<!DOCTYPE html><html>404</html>",
        }.items():
            path.write_bytes(rest)
            yield f"{what} {file}", path
    write_tensorflow_js(tmp_path / "model.json", case)
    (tmp_path / "group1-shard2of2.bin").write_bytes(b"")
    yield "shard cut", tmp_path / "model.json"
    manifest = json.loads((tmp_path / "model.json").read_text())
    manifest["weightsManifest"][0]["paths"] = ["../secret.bin"]
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    yield "shard elsewhere", tmp_path / "model.json"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    yield "another HDF5 file", tmp_path / "other.h5"
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme", "")
    yield "another archive", tmp_path / "other.keras"


def test_damaged_files(tmp_path):
    case = Case("xception")
    model = case.fresh()
    before = nnx.state(model)
    for what, path in damaged(tmp_path, case):
        with pytest.raises(ij.WeightsError) as error:
            ij.load_weights(model, path)
        assert path.name in str(error.value), what
    assert nnx.state(model) == before


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("xception", "xception.tf_in1k"),
        ("inception_v3", "inception_v3.tv_in1k"),
        ("inception_resnet_v2", "inception_v4"),
    ],
)
def test_refused_by_another_reading(name, other, tmp_path):
    write_indexed(tmp_path / "x.weights.h5", Case(name))
    model = skeleton(other, width_multiplier=WIDTH, num_classes=10)
    with pytest.raises(ij.WeightsError, match=r"other options|not of inception_v4"):
        ij.load_weights(model, tmp_path / "x.weights.h5")


@pytest.mark.parametrize("size", [0, 1 << 40])
def test_a_damaged_heap_of_names(size, tmp_path):
    """An HDF5 file whose heap has an object of impossible size is refused.

    libhdf5 would search such a heap for ever.
    """
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        file.create_group("conv").attrs["weight_names"] = [b"conv/kernel:0"]
        file["conv/conv/kernel:0"] = np.ones(3, np.float32)
    assert list(keras_files.read_hdf5(path)) == ["conv/kernel"]
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16  # the first object: index, count, size
    while content[at : at + 2] != b"\0\0":  # the last is the free rest
        at += 16 + -(-int.from_bytes(content[at + 8 : at + 16], "little") // 8) * 8
    content[at + 8 : at + 16] = size.to_bytes(8, "little")
    with pytest.raises(ValueError, match="impossible size"):
        keras_files._check_heaps(bytes(content))  # first, because the next line might not return
    path.write_bytes(content)
    with pytest.raises(ij.WeightsError, match="impossible size"):
        keras_files.read_hdf5(path)


def test_a_list_of_names_that_is_none(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = np.arange(3)
    with pytest.raises(ij.WeightsError, match="layer_names is no list of names"):
        keras_files.read_hdf5(tmp_path / "x.h5")
