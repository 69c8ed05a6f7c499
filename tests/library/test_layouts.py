"""Tests that published PyTorch files load, by the tensor names of the original implementations.

The published files and our twins both list their layers in the paper's order. So the n-th name of a
file belongs to the n-th tensor of the twin, and the tests need not use the name rules under test.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax.weights import published_names
from tests.helpers.networks import WIDTH, filled, made_up, network, skeleton

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def conv_bn(prefix: str) -> list[str]:
    return [f"{prefix}.conv.weight", *(f"{prefix}.bn.{leaf}" for leaf in BN)]


def affine(*prefixes: str) -> list[str]:
    return [f"{prefix}.{leaf}" for prefix in prefixes for leaf in ("weight", "bias")]


def norm(prefix: str) -> list[str]:
    return [f"{prefix}.{leaf}" for leaf in BN]


def module(prefix: str, *layers: int | str) -> list[str]:
    """Returns the tensor names of a module with one branch for each of `layers`.

    0 is a branch of one layer, another number is a sequence of that many layers, and "pool" is a
    pool followed by a layer.
    """
    names = []
    for i, count in enumerate(layers):
        branch = f"{prefix}.branch{i}"
        if count == 0:
            names += conv_bn(branch)
        elif count == "pool":
            names += conv_bn(f"{branch}.1")
        else:
            names += [name for j in range(int(count)) for name in conv_bn(f"{branch}.{j}")]
    return names


def googlenet() -> list[str]:
    names = [name for i in (1, 2, 3) for name in conv_bn(f"conv{i}")]
    for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        for layer in ("1", "2.0", "2.1", "3.0", "3.1", "4.1"):
            names += conv_bn(f"inception{block}.branch{layer}")
        aux = {"4a": "aux1", "4d": "aux2"}.get(block)
        if aux:
            names += [*conv_bn(f"{aux}.conv"), *affine(f"{aux}.fc1", f"{aux}.fc2")]
    return [*names, *affine("fc")]


def bn_inception() -> list[str]:
    layers = ["conv1_7x7_s2", "conv2_3x3_reduce", "conv2_3x3"]
    double = ["double_3x3_reduce", "double_3x3_1", "double_3x3_2"]
    for block in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        strided = block in ("3c", "4e")
        branches = ["3x3_reduce", "3x3", *double]
        branches = branches if strided else ["1x1", *branches, "pool_proj"]
        layers += [f"inception_{block}_{branch}" for branch in branches]
    return [n for layer in layers for n in affine(layer) + norm(f"{layer}_bn")] + affine(
        "last_linear"
    )


def inception_v4(head: str = "last_linear") -> list[str]:
    names = [name for i in (0, 1, 2) for name in conv_bn(f"features.{i}")]
    names += [*conv_bn("features.3.conv"), *module("features.4", 2, 4)]
    names += conv_bn("features.5.conv")
    for i in range(6, 10):
        names += module(f"features.{i}", 0, 2, 3, "pool")
    names += module("features.10", 0, 3)
    for i in range(11, 18):
        names += module(f"features.{i}", 0, 3, 5, "pool")
    names += module("features.18", 2, 4)
    for i in range(19, 22):
        for layer in ("0", "1_0", "1_1a", "1_1b", "2_0", "2_1", "2_2", "2_3a", "2_3b", "3.1"):
            names += conv_bn(f"features.{i}.branch{layer}")
    return [*names, *affine(head)]


def residual(prefix: str, *layers: int) -> list[str]:
    return [*module(prefix, *layers), *affine(f"{prefix}.conv2d")]


def inception_resnet_v1() -> list[str]:
    names = [n for i in ("1a", "2a", "2b", "3b", "4a", "4b") for n in conv_bn(f"conv2d_{i}")]
    names += [n for i in range(5) for n in residual(f"repeat_1.{i}", 0, 2, 3)]
    names += module("mixed_6a", 0, 3)
    names += [n for i in range(10) for n in residual(f"repeat_2.{i}", 0, 3)]
    names += module("mixed_7a", 2, 2, 3)
    names += [n for i in range(5) for n in residual(f"repeat_3.{i}", 0, 3)]
    names += residual("block8", 0, 3)
    return [*names, "last_linear.weight", *norm("last_bn"), *affine("logits")]


def inception_resnet_v2(head: str = "classif") -> list[str]:
    names = [n for i in ("1a", "2a", "2b", "3b", "4a") for n in conv_bn(f"conv2d_{i}")]
    names += module("mixed_5b", 0, 2, 3, "pool")
    names += [n for i in range(10) for n in residual(f"repeat.{i}", 0, 2, 3)]
    names += module("mixed_6a", 0, 3)
    names += [n for i in range(20) for n in residual(f"repeat_1.{i}", 0, 3)]
    names += module("mixed_7a", 2, 2, 3)
    names += [n for i in range(9) for n in residual(f"repeat_2.{i}", 0, 3)]
    names += residual("block8", 0, 3)
    return [*names, *conv_bn("conv2d_7b"), *affine(head)]


def aligned(blocks: int, shortcuts: tuple[int, ...]) -> list[str]:
    names = [*conv_bn("stem.0"), *conv_bn("stem.1")]
    for i in range(blocks):
        names += conv_bn(f"blocks.{i}.shortcut") if i in shortcuts else []
        for j in (1, 2, 3):
            conv = f"blocks.{i}.stack.conv{j}"
            names += [f"{conv}.conv_dw.weight", *norm(f"{conv}.bn_dw")]
            names += [f"{conv}.conv_pw.weight", *norm(f"{conv}.bn_pw")]
    return [*names, *affine("head.fc")]


def aligned_preact(blocks: int, shortcuts: tuple[int, ...]) -> list[str]:
    names = [*conv_bn("stem.0"), "stem.1.weight"]
    for i in range(blocks):
        names += [f"blocks.{i}.shortcut.weight"] if i in shortcuts else []
        names += norm(f"blocks.{i}.norm")
        for j in (1, 2, 3):
            conv = f"blocks.{i}.stack.conv{j}"
            names += norm(f"{conv}.norm") if j > 1 else []
            names += [f"{conv}.conv_dw.weight", f"{conv}.conv_pw.weight"]
    return [*names, *affine("head.fc")]


def inception_next(*depths: int) -> list[str]:
    names = [*affine("stem.0"), *norm("stem.1")]
    for i, depth in enumerate(depths):
        if i:
            names += [*norm(f"stages.{i}.downsample.0"), *affine(f"stages.{i}.downsample.1")]
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            names += [f"{block}.gamma"]
            names += affine(*(f"{block}.token_mixer.dwconv_{k}" for k in ("hw", "w", "h")))
            names += [*norm(f"{block}.norm"), *affine(f"{block}.mlp.fc1", f"{block}.mlp.fc2")]
    return [*names, *affine("head.fc1", "head.norm", "head.fc2")]


PUBLISHED = {
    "inception_v1.tv_in1k": googlenet(),
    "bn_inception.caffe_in1k": bn_inception(),
    "inception_v4.tf_in1k": inception_v4(),
    "inception_v4.cadene_in1k": inception_v4(),
    "inception_resnet_v1.vggface2": inception_resnet_v1(),
    "inception_resnet_v2.tf_in1k": inception_resnet_v2(),
    "inception_resnet_v2.cadene_in1k": inception_resnet_v2("last_linear"),
    "xception41.tf_in1k": aligned(13, (0, 1, 2, 11)),
    "xception65.ra3_in1k": aligned(21, (0, 1, 2, 19)),
    "xception71.tf_in1k": aligned(23, (0, 1, 2, 3, 4, 21)),
    "xception41p.ra3_in1k": aligned_preact(13, (0, 1, 2, 11)),
    "xception65p.ra3_in1k": aligned_preact(21, (0, 1, 2, 19)),
    "inception_next_atto.sail_in1k": inception_next(2, 2, 6, 2),
    "inception_next_tiny.sail_in1k": inception_next(3, 3, 9, 3),
}


def build(name: str, **options) -> nnx.Module:
    return skeleton(name, **{"width_multiplier": WIDTH, **options})


def numbered(name: str, **options) -> tuple[dict, dict]:
    """Returns random tensors by published names, and the same tensors by the twin's names."""
    options = {"width_multiplier": WIDTH, **options}
    torch = pytest.importorskip("torch")
    reference_torch = pytest.importorskip("reference_torch")
    with torch.device("meta"):
        state = reference_torch.create_model(name, **options).state_dict()
    rng = np.random.default_rng(0)
    ours = {
        key: np.zeros((), np.int64)
        if key.endswith("num_batches_tracked")
        else made_up(rng, key, tensor.shape)
        for key, tensor in state.items()
    }
    names = PUBLISHED[name]
    assert len(names) == len(set(names)) == len(ours)
    return dict(zip(names, ours.values(), strict=True)), ours


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names(name):
    options = {"aux_heads": True} if name == "inception_v1.tv_in1k" else {}
    foreign, ours = numbered(name, **options)
    model = build(name, **options)
    ij.load_weights(model, foreign)
    loaded = ij.to_torch(model)
    assert set(loaded) == set(ours)
    for key, tensor in ours.items():
        np.testing.assert_array_equal(loaded[key], tensor, err_msg=key)
    other = build("xception" if name.startswith("inception") else "inception_v3")
    with pytest.raises(ij.WeightsError, match=f"weights of .*{name.partition('.')[0]}"):
        ij.load_weights(other, foreign)


@pytest.mark.parametrize("name", ["inception_v4.cadene_in1k", "inception_resnet_v2.cadene_in1k"])
def test_the_background_is_left_out(name):
    foreign, _ = numbered(name, num_classes=1001)
    model = build(name)
    ij.load_weights(model, foreign)
    np.testing.assert_array_equal(model.fc.kernel[...].T, foreign["last_linear.weight"][1:])
    np.testing.assert_array_equal(model.fc.bias[...], foreign["last_linear.bias"][1:])
    whole = build(name, num_classes=1001)
    ij.load_weights(whole, foreign)
    np.testing.assert_array_equal(whole.fc.bias[...], foreign["last_linear.bias"])


def test_vectors_of_two_axes():
    """A file loads if its vectors are stored as [1, c].

    Cadene's file of BN-Inception, from an old PyTorch, stores them so.
    """
    foreign, ours = numbered("bn_inception.caffe_in1k")
    old = {k: v[None] if "_bn." in k and v.ndim == 1 else v for k, v in foreign.items()}
    model = build("bn_inception.caffe_in1k")
    ij.load_weights(model, old)
    key = "inception4c.branch3x3dbl_2.bn.running_var"
    np.testing.assert_array_equal(ij.to_torch(model)[key], ours[key])


@pytest.mark.parametrize(
    ("name", "wrong", "reason"),
    [
        ("inception_v1.tv_in1k", "inception_v1.slim_in1k", "pad_mode='torch'"),
        ("bn_inception.caffe_in1k", "bn_inception.slim_in1k", "stem='conv'"),
        ("inception_resnet_v1.vggface2", "inception_resnet_v1.paper", "head='face'"),
        ("inception_resnet_v2.tf_in1k", "inception_resnet_v2.paper", "layout='slim'"),
    ],
)
def test_a_file_of_another_reading_is_refused(name, wrong, reason):
    options = {"aux_heads": True} if name == "inception_v1.tv_in1k" else {}
    foreign, _ = numbered(name, **options)
    with pytest.raises(ij.WeightsError, match=reason):
        ij.load_weights(build(wrong), foreign)


def test_kernels_of_two_axes():
    """A file loads if its 1x1 kernels are stored as [out, in], as in an old file of Xception."""
    ours = ij.to_torch(filled("xception.tf_in1k", width_multiplier=WIDTH, num_classes=10))
    names = published_names.xception(ours)
    old = {
        theirs: ours[name][:, :, 0, 0] if ".pointwise." in theirs else ours[name]
        for name, theirs in names.items()
    }
    again = build("xception.tf_in1k", num_classes=10)
    ij.load_weights(again, old)
    name = "block7.sepconv2.pointwise.weight"
    np.testing.assert_array_equal(ij.to_torch(again)[name], ours[name])


def test_a_kernel_on_its_side_is_another():
    """A 1x7 kernel in place of a 7x1 is refused, although both have equally many elements."""
    foreign, _ = numbered("inception_v4.tf_in1k")
    name = "features.11.branch1.1.conv.weight"
    foreign[name] = foreign[name].transpose(0, 1, 3, 2)
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(build("inception_v4.tf_in1k"), foreign)
    assert error.value.misshapen[0].startswith("Mixed_6b.branch7x7_2.conv.weight")


def test_a_file_of_v3_says_so_elsewhere():
    """The error names Inception V3 if its file is loaded into another network.

    torchvision and timm name V3's tensors as this library does.
    """
    file = ij.to_torch(filled("inception_v3", width_multiplier=WIDTH))
    with pytest.raises(ij.WeightsError, match=r"of inception_v3 .*not of xc.*v3\.tv_in1k"):
        ij.load_weights(build("xception"), file)


def test_faces_without_a_classifier():
    """A file of facenet-pytorch without a classifier loads, with a warning.

    facenet-pytorch builds a classifier only on request. `load_weights` keeps the model's
    classifier, and `create_model` initialises the classifier randomly.
    """
    foreign, ours = numbered("inception_resnet_v1.vggface2")
    features = {k: v for k, v in foreign.items() if not k.startswith("logits.")}
    model = filled("inception_resnet_v1.vggface2", width_multiplier=WIDTH, num_classes=3)
    before = np.array(model.fc.kernel[...])
    with pytest.warns(UserWarning, match="no classifier"):
        ij.load_weights(model, features)
    np.testing.assert_array_equal(model.fc.kernel[...], before)
    np.testing.assert_array_equal(model.bottleneck.kernel[...].T, ours["bottleneck.weight"])
    # `create_model` does the same.
    with pytest.warns(UserWarning, match="no classifier") as said:
        whole = ij.create_model(
            "inception_resnet_v1.vggface2",
            weights=features,
            rngs=nnx.Rngs(3),
            num_classes=3,
            width_multiplier=WIDTH,
        )
    assert len(said) == 1
    np.testing.assert_array_equal(whole.bottleneck.kernel[...], model.bottleneck.kernel[...])
    assert float(jnp.std(whole.fc.kernel[...])) > 0
    del features["last_bn.bias"]  # all other tensors are still needed
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(model, features)
    assert error.value.missing == ("bottleneck_bn.bias",)


def test_1008_rows_are_the_graph_of_fid():
    """A V3 file with 1008 classes is FID's, so other tags of V3 refuse it.

    Such a file has torchvision's names, but FID's network differs from torchvision's in its pools.
    """
    file = ij.to_torch(filled("inception_v3.fid", width_multiplier=WIDTH))
    ij.load_weights(build("inception_v3.fid"), file)
    for options in ({}, {"num_classes": 1008}):
        with pytest.raises(ij.WeightsError, match=r"'max'.*takes them as inception_v3\.fid$"):
            ij.load_weights(build("inception_v3.keras_in1k", **options), file)


def test_own_files_with_tuples_in_their_reading(tmp_path):
    """Options that are tuples still match after saving, although JSON turns tuples into lists."""
    model = network("inception_resnet_v1", "float32", blocks=(2, 2, 2))
    ij.save_weights(model, tmp_path / "x.safetensors")
    options = {"num_classes": 10, "width_multiplier": WIDTH}
    again = ij.create_model(
        "inception_resnet_v1", blocks=(2, 2, 2), weights=tmp_path / "x.safetensors", **options
    )
    np.testing.assert_array_equal(again.fc.kernel[...], model.fc.kernel[...])
    with pytest.raises(ij.WeightsError, match=r"blocks=\(2, 2, 2\)"):
        ij.load_weights(build("inception_resnet_v1", num_classes=10), tmp_path / "x.safetensors")
