"""Tests that names and calls of timm, torchvision and Keras work, or that errors give hints."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax import words
from inception_jax.create import abstract_model
from tests.helpers import tiny

# Maps every name of the family in these libraries' own lists to our name for the network.
IN_THE_WILD = {
    # timm 1.0: list_models with tags, and its deprecated names
    "legacy_xception": "xception.tf_in1k",
    "legacy_xception.tf_in1k": "xception.tf_in1k",
    "tf_inception_v3": "inception_v3.tf_in1k",
    "adv_inception_v3": "inception_v3.tf_adv_in1k",
    "gluon_inception_v3": "inception_v3.gluon_in1k",
    "ens_adv_inception_resnet_v2": "inception_resnet_v2.tf_ens_adv_in1k",
    # torchvision.models: list_models, and the weights' enumerations
    "googlenet": "inception_v1.tv_in1k",
    "GoogLeNet": "inception_v1.tv_in1k",
    "quantized_googlenet": "inception_v1.tv_in1k",
    "quantized_inception_v3": "inception_v3.tv_in1k",
    "Inception3": "inception_v3.tv_in1k",
    "GoogLeNet_Weights.IMAGENET1K_V1": "inception_v1.tv_in1k",
    "GoogLeNet_Weights.DEFAULT": "inception_v1.tv_in1k",
    "Inception_V3_Weights.IMAGENET1K_V1": "inception_v3.tv_in1k",
    "Inception_V3_Weights.DEFAULT": "inception_v3.tv_in1k",
    "GoogLeNet_QuantizedWeights.IMAGENET1K_FBGEMM_V1": "inception_v1.tv_in1k",
    "Inception_V3_QuantizedWeights.IMAGENET1K_FBGEMM_V1": "inception_v3.tv_in1k",
    # keras.applications
    "InceptionV3": "inception_v3.keras_in1k",
    "InceptionResNetV2": "inception_resnet_v2.keras_in1k",
    "Xception": "xception.keras_in1k",
    # TF-slim: checkpoints and scopes
    "inception_v1_2016_08_28": "inception_v1.slim_in1k",
    "inception_v2_2016_08_28": "bn_inception.slim_in1k",
    "inception_v3_2016_08_28": "inception_v3.slim_in1k",
    "inception_v4_2016_09_09": "inception_v4.slim_in1k",
    "inception_resnet_v2_2016_08_30": "inception_resnet_v2.slim_in1k",
    "InceptionV1": "inception_v1.slim_in1k",
    "InceptionV2": "bn_inception.slim_in1k",
    "InceptionV4": "inception_v4.slim_in1k",
    "InceptionResnetV2": "inception_resnet_v2.slim_in1k",
    # facenet-pytorch and davidsandberg/facenet
    "facenet": "inception_resnet_v1.vggface2",
    "InceptionResnetV1": "inception_resnet_v1.vggface2",
    "vggface2": "inception_resnet_v1.vggface2",
    "casia-webface": "inception_resnet_v1.casia_webface",
    "20180402-114759": "inception_resnet_v1.vggface2",
    "20180408-102900": "inception_resnet_v1.casia_webface",
    # Cadene's pretrainedmodels
    "bninception": "bn_inception.caffe_in1k",
    "inceptionv3": "inception_v3.tv_in1k",
    "inceptionv4": "inception_v4.cadene_in1k",
    "inceptionresnetv2": "inception_resnet_v2.cadene_in1k",
    # sail-sg/inceptionnext
    "inceptionnext_tiny": "inception_next_tiny.sail_in1k",
    "inceptionnext_base_384": "inception_next_base.sail_in1k_384",
}
# Names that these libraries share with us.
OURS = [
    "inception_v3", "inception_v4", "inception_resnet_v2", "xception", "xception41", "xception71",
    "inception_v3.tv_in1k", "inception_v3.gluon_in1k", "inception_resnet_v2.tf_ens_adv_in1k",
    "xception41.tf_in1k", "xception65.ra3_in1k", "inception_next_base.sail_in1k_384",
]  # fmt: skip


@pytest.mark.parametrize("name", IN_THE_WILD)
def test_names_in_the_wild(name):
    with pytest.raises(ij.UnknownModelError) as error:
        ij.create_model(name)
    assert IN_THE_WILD[name] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", OURS)
def test_names_that_are_the_same(name):
    assert ij.model_info(name).name == name


def test_the_table_names_tags_that_there_are():
    known = {*ij.list_models(), *ij.list_models(tags=True)}
    assert {tag for _, _, tag in words.NAMES} <= known
    assert not {name for name, _, _ in words.NAMES} & known  # or the hint would never be shown


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("inception_v3.tvin1k", "inception_v3.tv_in1k"),
        ("gluon_inceptionv3", "inception_v3.gluon_in1k"),
        ("inceptoin_v3", "inception_v3"),
        ("Xception-41", "xception41"),
        ("timm/inception_v3.tv_in1k", "hf-hub:timm/inception_v3.tv_in1k"),
        ("vit_base_patch16_224", "list_models"),
    ],
)
def test_near_misses(name, hint):
    with pytest.raises(ij.UnknownModelError) as error:
        ij.model_info(name)
    assert hint in str(error.value)


@pytest.mark.parametrize("word", ["imagenet", "IMAGENET1K_V1", "DEFAULT", "imagenet+background"])
def test_other_words_for_published_weights(word):
    with pytest.raises(ij.WeightsError, match=r"weights=True.*xception\.keras_in1k"):
        ij.create_model("xception", weights=word)
    with pytest.raises(ij.WeightsError, match=r"published file of xception\.tf_in1k$"):
        ij.create_model("xception.tf_in1k", weights=word)


def test_a_file_of_such_a_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").write_bytes(b"")
    with pytest.raises(ij.WeightsError, match="not a weight file"):
        ij.create_model("xception", weights="imagenet")


@pytest.mark.parametrize("option", words.OPTIONS)
def test_other_words_for_options(option):
    with pytest.raises(TypeError) as error:
        ij.create_model("xception", **{option: 1})
    assert option in str(error.value)
    assert words.OPTIONS[option] in str(error.value)
    with pytest.raises(TypeError, match="did you mean in_channels"):
        ij.create_model("xception", in_chanels=1)


@pytest.mark.parametrize("bad", [-1, "10", 2.5, True, None.__class__])
def test_sizes_that_are_none(bad):
    with pytest.raises(ValueError, match="num_classes must be a whole number"):
        ij.create_model("xception", num_classes=bad)
    if bad != -1:
        with pytest.raises(ValueError, match="in_channels must be a whole number"):
            ij.create_model("xception", in_channels=bad)
    with pytest.raises(ValueError, match="in_channels must be"):
        ij.create_model("xception", in_channels=0)


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    with tiny.registered():
        yield


@pytest.fixture(scope="module")
def network(_tiny):
    return ij.create_model("tiny", num_classes=4)


def images(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


def test_sizes_and_the_classifier(network):
    x = images(2, 16, 16, 3)
    assert (network.num_classes, network.num_features) == (4, 32)
    assert network.get_classifier() is network.fc
    last = network.forward_features(x)
    np.testing.assert_array_equal(network.forward_head(last), network(x))
    np.testing.assert_array_equal(network.forward_head(last, pre_logits=True), network.embed(x))


def test_a_new_classifier():
    model = ij.create_model("tiny", num_classes=4, aux_heads=False)
    model.classes, model.training = tuple("abcd"), {"dataset": "letters"}
    embedding = model.embed(images(2, 16, 16, 3))
    model.reset_classifier(7, nnx.Rngs(5))
    assert (model.num_classes, model.spec.num_classes, model.info.num_classes) == (7, 7, 7)
    assert model.classes is None
    assert model(images(2, 16, 16, 3)).shape == (2, 7)
    assert float(jnp.abs(model.fc.kernel[...]).max()) > 0
    model.reset_classifier(0)
    np.testing.assert_array_equal(model(images(2, 16, 16, 3)), embedding)
    with pytest.raises(ValueError, match="no classifier"):
        ij.classify(model, np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="num_classes"):
        model.reset_classifier("7")


def test_no_classes_are_saved_and_loaded(tmp_path):
    whole = ij.create_model("tiny", num_classes=4, rngs=nnx.Rngs(3))
    ij.save_weights(whole, tmp_path / "whole.safetensors")
    headless = ij.create_model("tiny", num_classes=0, weights=tmp_path / "whole.safetensors")
    x = images(2, 16, 16, 3)
    np.testing.assert_array_equal(headless(x), whole.embed(x))
    ij.save_weights(headless, tmp_path / "headless.safetensors")
    again = ij.load(tmp_path / "headless.safetensors")
    np.testing.assert_array_equal(again(x), headless(x))
    assert "fc.weight" not in ij.to_torch(headless)


HEADS = ["inception_v3", "inception_resnet_v1", "inception_next_atto"]  # each kind of head


@pytest.mark.parametrize(
    "name",
    [n if n in HEADS else pytest.param(n, marks=pytest.mark.slow) for n in ij.list_models()],
)
def test_no_classes_in_every_network(name):
    """Every network with `num_classes=0` runs in training and in evaluation mode.

    Without classes there are no auxiliary classifiers, and requesting them is an error.
    """
    blocks = {"blocks": (2, 2, 2)} if "blocks" in ij.model_info(name).options else {}
    model = abstract_model(name, num_classes=0, width_multiplier=0.1, **blocks)
    x = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32)
    for mode in (model.train, model.eval):
        mode()
        graphdef, state = nnx.split(model)

        def call(state, x, graphdef=graphdef):
            return nnx.merge(graphdef, state)(x, rngs=nnx.Rngs(0))

        assert jax.eval_shape(call, state, x).shape == (2, model.num_features)
    embed = lambda state, x: nnx.merge(graphdef, state).embed(x)  # noqa: E731
    assert jax.eval_shape(embed, state, x).shape == (2, model.num_features)
    if ij.model_info(name).aux_heads:
        with pytest.raises(ValueError, match="auxiliary heads need classes"):
            ij.create_model(name, num_classes=0, aux_heads=True)


@pytest.mark.parametrize("name", ["inception_v1", "inception_v3", "inception_next_atto"])
def test_auxiliary_classifiers_are_reset_too(name):
    aux = bool(ij.model_info(name).aux_heads)
    model = abstract_model(name, num_classes=4, aux_heads=aux, width_multiplier=0.1)
    model.reset_classifier(6)
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    kernels = {path: leaf.shape for path, leaf in flat}
    for path in model.classifiers:
        assert kernels[(*path.split("."), "kernel")][1] == 6
    model.reset_classifier(0)
    assert model.spec.aux_heads is False
    assert all(getattr(model, head) is None for head in model.aux_names)


def test_attributes_with_other_names(network):
    for attribute, answer in words.ATTRIBUTES.items():
        with pytest.raises(AttributeError) as error:
            getattr(network, attribute)
        assert attribute in str(error.value)
        assert answer in str(error.value)
    assert not hasattr(network, "nonsense")


def test_networks_are_copied_and_compared(network):
    """Networks with equal options have equal graph definitions, and copies give equal logits.

    Copies are deep copies and pickles. Layers store their initialiser, which must not make two
    graph definitions differ.
    """
    other = ij.create_model("tiny", num_classes=4, rngs=nnx.Rngs(1))
    assert nnx.graphdef(other) == nnx.graphdef(network)
    x = images(2, 16, 16, 3)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        np.testing.assert_array_equal(twin(x), network(x))


def test_wrong_images_are_told_what_is_expected(network):
    x = np.zeros((2, 16, 18, 3), np.float32)
    for wrong, remedy in [
        ("photo.jpg", r"preprocess"),
        ([x, x], r"preprocess"),
        (x.transpose(0, 3, 1, 2), r"transpose\(0, 2, 3, 1\)"),
        (x[0], r"images\[None\]"),
        (x.astype(np.uint8), r"preprocess"),
    ]:
        for call in (network, ij.jit_predict(network), ij.feature_extractor(network)):
            with pytest.raises(ValueError, match=remedy):
                call(wrong)
    torch = pytest.importorskip("torch")
    for call in (network, ij.jit_predict(network), ij.feature_extractor(network)):
        with pytest.raises(ValueError, match="permute"):
            call(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (np.full((16, 16, 3), 0.5, np.float32), r"\* 255"),
        (np.full((16, 16, 3), 200.0), r"image\.round\(\)"),
        (np.full((16, 16, 3), -2.0), r"normalisation"),
        (np.zeros((16, 16), bool), r"\* 255"),
        (np.zeros((3, 16, 16), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 16, 16, 3), np.uint8), r"classify"),
        (["a.jpg", "b.jpg"], r"classify"),
        (3, r"path"),
    ],
    ids=str,
)
def test_wrong_images_for_preprocess(network, wrong, remedy):
    with pytest.raises(ValueError, match=remedy):
        ij.preprocess(network, wrong)
