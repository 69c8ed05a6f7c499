"""Keras' files, written here from Keras' own lists of layers."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from twins import WIDTH, pair

# Layers in the order of `model.layers`, as Keras 3.3 and 3.15 list them: a number n is conv2d_n,
# which a BatchNorm of the same number follows; the numbers are in the order of creation.
_V3_LAYERS = """
0 1 2 3 4 8 6 9 5 7 10 11 15 13 16 12 14 17 18 22 20 23 19 21 24 25 27 28 26 29
34 35 31 36 32 37 30 33 38 39 44 45 41 46 42 47 40 43 48 49 54 55 51 56 52 57 50 53 58 59
64 65 61 66 62 67 60 63 68 69 72 73 70 74 71 75 80 77 81 78 79 82 83 76 84 89 86 90 87 88 91 92
85 93""".split()


def _pattern(first: int, order: list[int], block: str, count: int) -> list[str]:
    width = max(order) + 1
    return [
        name
        for i in range(count)
        for name in [*(str(first + width * i + j) for j in order), f"{block}_{i + 1}_conv"]
    ]


_RESNET_LAYERS = [
    *"0 1 2 3 4 8 6 9 5 7 10 11".split(),
    *_pattern(12, [3, 1, 4, 0, 2, 5], "block35", 10),
    *"73 74 72 75".split(),
    *_pattern(76, [1, 2, 0, 3], "block17", 20),
    *"160 156 158 161 157 159 162".split(),
    *_pattern(163, [1, 2, 0, 3], "block8", 10),
    "conv_7b",
]
_SHORTCUTS = {2: 0, 3: 1, 4: 2, 13: 3}  # Xception's layers without a name of their own


def xception_layers() -> list[tuple[str, str, str]]:
    """Class, name and path of every layer, in the order of `model.layers`."""
    layers = []
    for i in (1, 2):
        layers.append(("conv2d", f"block1_conv{i}", f"block1_conv{i}.conv"))
        layers.append(("batch_normalization", f"block1_conv{i}_bn", f"block1_conv{i}.bn"))
    for block in range(2, 15):
        for i in (1, 2, 3) if 5 <= block <= 12 else (1, 2):
            joint = "_" if block == 14 else "."
            path, name = f"block{block}{joint}sepconv{i}", f"block{block}_sepconv{i}"
            layers.append(("separable_conv2d", name, path))
            layers.append(("batch_normalization", f"{name}_bn", f"{path}.bn"))
        if block in _SHORTCUTS:
            n, path = _SHORTCUTS[block], f"block{block}.residual"
            layers.append(("conv2d", f"conv2d_{n}", f"{path}.conv"))
            layers.append(("batch_normalization", f"batch_normalization_{n}", f"{path}.bn"))
    return [*layers, ("dense", "predictions", "fc")]


def inception_layers(listed: list[str], twin) -> list[tuple[str, str, str]]:
    """The same for V3 and Inception-ResNet-v2, whose n-th made layer is our twin's n-th."""
    paths = [name for name, _ in twin.named_modules()]
    made = [p for p in paths if p.endswith(".conv") and not p.startswith(("Aux", "Conv2d_7b"))]
    layers = []
    for name in listed:
        if name.isdigit():
            path = made[int(name)]
            layers.append(("conv2d", f"conv2d_{name}", path))
            bn = f"{path.removesuffix('.conv')}.bn"
            layers.append(("batch_normalization", f"batch_normalization_{name}", bn))
        elif name == "conv_7b":
            layers.append(("conv2d", name, "Conv2d_7b_1x1.conv"))
            layers.append(("batch_normalization", "conv_7b_bn", "Conv2d_7b_1x1.bn"))
        else:
            block, number, _ = name.split("_")
            layers.append(("conv2d", name, f"{block}.{int(number) - 1}.up"))
    return [*layers, ("dense", "predictions", "fc")]


def keras_tensors(kind: str, path: str, state: dict[str, np.ndarray], gamma: bool) -> dict:
    """A layer's tensors in Keras' order, names and axes."""
    if kind == "batch_normalization":
        names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
        names["moving_variance"] = "running_var"
        return {k: state[f"{path}.{v}"] for k, v in names.items() if gamma or k != "gamma"}
    if kind == "separable_conv2d":
        return {
            "depthwise_kernel": state[f"{path}.depthwise.weight"].transpose(2, 3, 0, 1),
            "pointwise_kernel": state[f"{path}.pointwise.weight"].transpose(2, 3, 1, 0),
        }
    weight = state[f"{path}.weight"]
    tensors = {"kernel": weight.T if kind == "dense" else weight.transpose(2, 3, 1, 0)}
    return tensors | ({"bias": state[f"{path}.bias"]} if f"{path}.bias" in state else {})


class Case:
    """A network, its numbers, and its layers as Keras has them."""

    def __init__(self, arch: str):
        self.model, twin = pair(f"{arch}.keras_in1k", "float32")
        self.gamma = arch == "xception"
        for path, module in nnx.iter_modules(self.model):
            if not self.gamma and path and path[-1] == "bn":
                module.scale[...] = np.ones_like(module.scale[...])
        self.state = ij.to_torch(self.model)
        self.layers = {
            "xception": xception_layers,
            "inception_v3": lambda: inception_layers(_V3_LAYERS, twin),
            "inception_resnet_v2": lambda: inception_layers(_RESNET_LAYERS, twin),
        }[arch]()
        self.arch = arch

    def tensors(self, top: bool = True) -> list[tuple[str, str, dict[str, np.ndarray]]]:
        return [
            (kind, name, keras_tensors(kind, path, self.state, self.gamma))
            for kind, name, path in self.layers
            if top or kind != "dense"
        ]

    def fresh(self):
        options = {"width_multiplier": WIDTH, "num_classes": 10}
        return nnx.eval_shape(lambda: ij.create_model(f"{self.arch}.keras_in1k", **options))


def write_legacy(file, case: Case, top: bool = True, suffix: str = ":0") -> None:
    """As `model.save_weights("x.h5")`; names of several models in one program go on counting."""
    with h5py.File(file, "w") as root:
        entries = case.tensors(top)
        np.random.default_rng(0).shuffle(entries)  # an HDF5 file's own order means nothing
        for _, name, tensors in entries:
            group = root.create_group(_later(name))
            group.attrs["weight_names"] = [f"{_later(name)}/{leaf}{suffix}" for leaf in tensors]
            for leaf, tensor in tensors.items():
                group[f"{_later(name)}/{leaf}{suffix}"] = tensor
        root.attrs["layer_names"] = [_later(name) for _, name, _ in entries]


def _later(name: str) -> str:
    """The numbers of a second model in one program; they pass from two digits to three."""
    prefix, _, number = name.rpartition("_")
    automatic = prefix in ("conv2d", "batch_normalization")
    return f"{prefix}_{int(number) + 94}" if automatic else name


def write_indexed(file, case: Case, top: bool = True, inside: str = "") -> None:
    """As Keras 3's `model.save_weights("x.weights.h5")`: a class and an index."""
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
    """Two shards that split a tensor, one group in 16-bit codes."""
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
ARCHS = ["xception", "inception_v3", "inception_resnet_v2"]


@pytest.mark.parametrize("name", ARCHS)
def test_every_kind_of_file(name, tmp_path):
    case = Case(name)
    for file, write in WRITERS.items():
        write(tmp_path / file, case)
        model = case.fresh()
        ij.load_weights(model, tmp_path / file)
        loaded = ij.to_torch(model)
        for key, expected in case.state.items():
            np.testing.assert_array_equal(loaded[key], expected, f"{file}: {key}")


@pytest.mark.parametrize("name", ARCHS)
def test_without_top(name, tmp_path):
    case = Case(name)
    for file, write in (("a.h5", write_legacy), ("a.weights.h5", write_indexed)):
        write(tmp_path / file, case, top=False)
        model = ij.create_model(f"{name}.keras_in1k", width_multiplier=WIDTH, num_classes=3)
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
    """Yields files that are no whole weights, each of them named for what is wrong."""
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
    options = {"width_multiplier": WIDTH, "num_classes": 10}
    model = nnx.eval_shape(lambda: ij.create_model(other, **options))
    with pytest.raises(ij.WeightsError, match=r"another reading|not of inception_v4"):
        ij.load_weights(model, tmp_path / "x.weights.h5")
