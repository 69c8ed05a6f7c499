"""Networks of other libraries, where they are installed, against ours with the same weights.

`pytest -m peers`. Theirs get random numbers and write their own files; ours load those, give
the same logits, and write files that they load again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax.weights.other_formats import save_as

torch = pytest.importorskip("torch")
from tests.helpers.twins import to_nchw

pytestmark = [
    pytest.mark.peers,
    # The libraries' own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::ResourceWarning"),
]

# Relative to the largest logit.
TOLERANCE = {"float32": 2e-5, "float64": 1e-10}


def timm(name: str, **options: Any) -> torch.nn.Module:
    library = pytest.importorskip("timm", exc_type=ImportError)
    return library.create_model(name, pretrained=False, **options)


def torchvision(name: str) -> torch.nn.Module:
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    build = getattr(models, name)
    return build(weights=None, aux_logits=True, transform_input=True, init_weights=False)


def cadene(name: str, num_classes: int) -> torch.nn.Module:
    models = pytest.importorskip("pretrainedmodels.models", exc_type=ImportError)
    network = getattr(models, name)(num_classes=num_classes, pretrained=None)
    return network


def facenet() -> torch.nn.Module:
    library = pytest.importorskip("facenet_pytorch", exc_type=ImportError)
    return library.InceptionResnetV1(classify=True, num_classes=20, pretrained=None)


PEERS: list[tuple[str, Callable[[], torch.nn.Module], tuple[int, int], str]] = [
    # Ours; theirs; size of the images; what to write.
    ("inception_v1.tv_in1k", lambda: torchvision("googlenet"), (224, 97), "torchvision"),
    ("inception_v3.tv_in1k", lambda: torchvision("inception_v3"), (299, 299), "torchvision"),
    *(
        (f"{ours}", functools.partial(timm, theirs), size, "timm")
        for ours, theirs, size in [
            ("inception_v3.tf_in1k", "inception_v3", (97, 150)),
            ("inception_v4.tf_in1k", "inception_v4", (97, 150)),
            ("inception_resnet_v2.tf_in1k", "inception_resnet_v2", (97, 150)),
            ("xception.tf_in1k", "legacy_xception", (97, 150)),
            ("xception41.tf_in1k", "xception41", (97, 150)),
            ("xception65.ra3_in1k", "xception65", (97, 150)),
            ("xception71.tf_in1k", "xception71", (97, 150)),
            ("xception41p.ra3_in1k", "xception41p", (97, 150)),
            ("xception65p.ra3_in1k", "xception65p", (97, 150)),
            ("inception_next_atto.sail_in1k", "inception_next_atto", (97, 150)),
            ("inception_next_tiny.sail_in1k", "inception_next_tiny", (97, 150)),
            ("inception_next_small.sail_in1k", "inception_next_small", (97, 150)),
            ("inception_next_base.sail_in1k", "inception_next_base", (97, 150)),
        ]
    ),
    # Their pools are of fixed sizes.
    ("bn_inception.caffe_in1k", lambda: cadene("bninception", 1000), (224, 224), ""),
    ("inception_v4.cadene_in1k", lambda: cadene("inceptionv4", 1001), (299, 299), ""),
    ("inception_resnet_v2.cadene_in1k", lambda: cadene("inceptionresnetv2", 1001), (299, 299), ""),
    ("xception.cadene_in1k", lambda: cadene("xception", 1000), (97, 150), ""),
    ("inception_resnet_v1", facenet, (160, 97), ""),
]


@pytest.mark.parametrize(("name", "build", "size", "written"), PEERS, ids=[p[0] for p in PEERS])
def test_pytorch_peer(name, build, size, written, tmp_path):
    theirs = build()
    _fill(theirs, torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(1)))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    classes = {"num_classes": 20} if name == "inception_resnet_v1" else {}
    aux = {"aux_heads": True} if written == "torchvision" else {}
    for dtype in ("float64", "float32"):
        ours = _load(name, tmp_path / "theirs.pth", dtype, **classes, **aux)
        images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(dtype)
        with torch.no_grad():
            expected = theirs.to(getattr(torch, dtype))(to_nchw(images)).numpy()
        expected = expected[:, 1:] if expected.shape[1] == 1001 else expected
        with jax.enable_x64(dtype == "float64"):
            _compare(_logits(ours, images), expected, TOLERANCE[dtype])
    if written:
        save_as(ours, tmp_path / "ours.pth", to=written)
        again = torch.load(tmp_path / "ours.pth", weights_only=True)
        theirs.load_state_dict(again)  # all names, and no others
        original = torch.load(tmp_path / "theirs.pth", weights_only=True)
        for key, tensor in again.items():
            if not key.endswith("num_batches_tracked"):
                torch.testing.assert_close(tensor, original[key], rtol=0, atol=0)


TIMM = [(peer[0], peer[1]) for peer in PEERS if peer[3] == "timm"]


@pytest.mark.parametrize(("name", "build"), TIMM, ids=[name for name, _ in TIMM])
def test_taps_are_timms(name, build, tmp_path):
    """The maps that `features_only` of timm returns, number by number."""
    whole = build()
    _fill(whole, torch.randn(4, 3, 97, 150, generator=torch.Generator().manual_seed(1)))
    torch.save(whole.state_dict(), tmp_path / "theirs.pth")
    numbers = {key.replace(".", "_"): tensor for key, tensor in whole.state_dict().items()}
    theirs = build(features_only=True)
    names = {key: key.removeprefix("body.").replace(".", "_") for key in theirs.state_dict()}
    theirs.load_state_dict({key: numbers[flat] for key, flat in names.items()})
    theirs.double().eval()
    images = np.random.default_rng(0).normal(size=(2, 97, 150, 3))
    with torch.no_grad():
        expected = [x.permute(0, 2, 3, 1).numpy() for x in theirs(to_nchw(images))]
    ours = _load(name, tmp_path / "theirs.pth", "float64")
    with jax.enable_x64(True):
        found = list(ij.feature_extractor(ours)(images).values())
    assert [x.shape for x in found] == [x.shape for x in expected]
    for a, b in zip(found, expected, strict=True):
        _compare(a, b, TOLERANCE["float64"])


KERAS = {
    "xception": "Xception",
    "inception_v3": "InceptionV3",
    "inception_resnet_v2": "InceptionResNetV2",
}


@pytest.mark.parametrize("name", KERAS)
@pytest.mark.parametrize(
    ("ending", "dtype"),
    [
        (".weights.h5", "float64"),
        (".weights.h5", "float32"),
        (".h5", "float32"),
        (".keras", "float32"),
    ],
)
def test_keras_peer(name, ending, dtype, tmp_path):
    keras = pytest.importorskip("keras", exc_type=ImportError)
    keras.utils.set_random_seed(0)
    keras.config.set_floatx(dtype)
    build = functools.partial(
        getattr(keras.applications, KERAS[name]),
        weights=None,
        input_shape=(75, 97, 3),
        classes=10,
        classifier_activation=None,
    )
    theirs = build()
    _fill_keras(theirs)
    images = np.random.default_rng(0).normal(size=(2, 75, 97, 3)).astype(dtype)
    path = tmp_path / f"theirs{ending}"
    (theirs.save_weights if ending == ".weights.h5" else theirs.save)(path)
    ours = _load(f"{name}.keras_in1k", path, dtype, num_classes=10)
    with jax.enable_x64(dtype == "float64"):
        _compare(_logits(ours, images), np.asarray(theirs(images)), TOLERANCE[dtype])
    if ending != ".keras":
        save_as(ours, tmp_path / f"ours{ending}", to="keras")
        again = build()
        again.load_weights(tmp_path / f"ours{ending}")
        for a, b in zip(again.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def _load(name: str, path: Any, dtype: str, **options: Any) -> nnx.Module:
    with jax.enable_x64(dtype == "float64"):
        model = nnx.eval_shape(
            lambda: ij.create_model(name, dtype=dtype, param_dtype=dtype, **options)
        )
        ij.load_weights(model, path)
    return model


def _logits(model: nnx.Module, images: np.ndarray) -> np.ndarray:
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(state, images))


def _compare(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert np.ptp(theirs) > 1e-3 * np.abs(theirs).max()  # the images make a difference
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@torch.no_grad()
def _fill(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Random numbers; statistics as a batch has them, then moved, a few variances down to 1e-14."""
    torch.manual_seed(0)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for name, tensor in network.named_parameters():
        if tensor.ndim >= 2:
            tensor.normal_(0, float(np.sqrt(2 / tensor[0].numel())))
        elif name.endswith("weight"):
            tensor.uniform_(0.5, 1.5)
        else:
            tensor.normal_(0, 0.1)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn(norm.num_features)
        dead = torch.rand(norm.num_features) < 0.01
        norm.running_var[dead] = 1e-14
        # Such a channel is constant in its publisher's network too.
        norm.weight[dead] *= 1e-2


def _fill_keras(network: Any) -> None:
    """Moves the statistics of each layer to what a batch has there, and off a little."""
    rng = np.random.default_rng(0)
    for layer in network.layers:
        values = layer.get_weights()
        if type(layer).__name__ != "BatchNormalization":
            values = [v if v.ndim > 1 else rng.normal(0, 0.1, v.shape) for v in values]
        else:
            *factors, variance = values
            values = [v + rng.normal(0, 0.1, v.shape) for v in factors]
            values.append(variance * rng.uniform(0.05, 0.3, variance.shape))
        layer.set_weights(values)


FOLDERS = {
    "inception_v3.tf_in1k": "inception_v3",
    "inception_v3.tv_in1k": "inception_v3",
    "inception_v4.tf_in1k": "inception_v4",
    "inception_resnet_v2.tf_ens_adv_in1k": "inception_resnet_v2",
    "xception.tf_in1k": "legacy_xception",
    "xception41.tf_in1k": "xception41",
    "xception65p.ra3_in1k": "xception65p",
    "inception_next_atto.sail_in1k": "inception_next_atto",
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("channels", [3, 1])
def test_folders_of_timm(name, channels, tmp_path):
    """Ours loads there and theirs here, with the same logits and the same preparation."""
    timm_data = pytest.importorskip("timm.data", exc_type=ImportError)
    hub = pytest.importorskip("timm.models._hub", exc_type=ImportError)
    theirs = timm(FOLDERS[name], num_classes=7, in_chans=channels)
    images = torch.randn(2, channels, 97, 150, generator=torch.Generator().manual_seed(1))
    _fill(theirs, images)
    hub.save_for_hf(
        theirs,
        tmp_path / "theirs",
        model_config={"label_names": list("abcdefg")},
        safe_serialization=True,
    )
    ours = ij.load(tmp_path / "theirs")
    assert ours.classes == tuple("abcdefg")
    data = timm_data.resolve_model_data_config(theirs)
    preparation = {key: list(data[key]) for key in ("mean", "std")}
    if channels == 1:  # of grey images timm takes the mean of what it has for colours
        preparation = {key: [sum(values) / 3] for key, values in preparation.items()}
    assert {"mean": list(ours.info.mean), "std": list(ours.info.std)} == preparation
    assert (ours.in_channels, ours.info.input_size) == (channels, data["input_size"][1])
    assert ours.info.crop_pct == data["crop_pct"]
    nhwc = images.permute(0, 2, 3, 1).numpy()
    with torch.no_grad():
        expected = theirs(images).numpy()
        pooled = theirs.forward_head(theirs.forward_features(images), pre_logits=True).numpy()
    _compare(_logits(ours, nhwc), expected, TOLERANCE["float32"])
    last = jax.jit(ours.forward_features)(nhwc)
    _compare(np.asarray(ours.forward_head(last, pre_logits=True)), pooled, TOLERANCE["float32"])
    assert ours.num_features == theirs.num_features

    ij.save_pretrained(ours, tmp_path / "ours", layout="timm")
    library = pytest.importorskip("timm", exc_type=ImportError)
    again = library.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(images), theirs(images))
    said = timm_data.resolve_model_data_config(again)
    assert {key: list(said[key]) for key in ("mean", "std")} == preparation
    assert list(said["input_size"]) == [channels, *data["input_size"][1:]]
    for key in ("crop_pct", "interpolation", "crop_mode"):
        assert said[key] == data[key], key
    other = library.create_model(
        f"local-dir:{tmp_path / 'ours'}", pretrained=True, num_classes=4
    )  # their names of the classifier and the first convolution are right
    assert other.get_classifier().out_features == 4


def test_words_know_every_name():
    """Of timm's and torchvision's lists, as they are installed."""
    library = pytest.importorskip("timm", exc_type=ImportError)
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    from timm.models._registry import _deprecated_models

    patterns = ("*inception*", "*xception*", "*googlenet*")
    names = {n for p in patterns for n in library.list_models(p, include_tags=False)}
    names |= {n for p in patterns for n in library.list_models(p, pretrained=True)}
    names |= {n for n in _deprecated_models if "ception" in n}
    for name in (n for p in patterns for n in models.list_models(include=p)):
        names |= {name, *map(str, models.get_model_weights(name))}
    assert len(names) > 40
    for name in names:
        if name not in (*ij.list_models(), *ij.list_models(tags=True)):
            with pytest.raises(ij.UnknownModelError, match="is called"):
                ij.model_info(name)
