"""Compares original implementations, if installed, with our networks with the same weights.

`pytest -m peers` runs these tests. The original implementation gets random weights and writes its
files. Our network loads the files, gives the same logits, and writes files that the original
library loads. `benchmarks/peers.py` measures the same differences, and lists the packages.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

import inception_jax as ij
from inception_jax.models import inception_v1
from inception_jax.nn import ops
from inception_jax.weights.other_formats import save_as
from inception_jax.weights.published import PUBLISHED

torch = pytest.importorskip("torch")
from tests.helpers.peers import pytorch
from tests.helpers.peers.in_keras import InKeras
from tests.helpers.peers.runtime import AbsentRuntimeError, Theirs
from tests.helpers.peers.table import PEERS, Peer, distance, distances, loaded, logits
from tests.helpers.twins import to_nchw

pytestmark = [
    pytest.mark.peers,
    # Warnings of the libraries themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::ResourceWarning"),
]

# Largest difference allowed, relative to the largest logit.
TOLERANCE = {"float32": 2e-5, "float64": 1e-10}


def built(peer: Peer) -> Theirs:
    try:
        return peer.build()
    except AbsentRuntimeError as error:
        pytest.skip(str(error))


def timm(name: str, **options: Any) -> torch.nn.Module:
    try:
        return pytorch.timm(name, **options)
    except AbsentRuntimeError as error:
        pytest.skip(str(error))


def test_each_published_tag_has_a_runtime():
    assert {peer.tag for peer in PEERS} == set(PUBLISHED)


@pytest.mark.parametrize("peer", PEERS, ids=str)
def test_logits(peer, tmp_path, monkeypatch):
    theirs = built(peer)
    if peer.runtime == "caffe":
        # Caffe stores the alpha of response normalisation as float32, 2.5e-8 less than 1e-4. The
        # difference shows in float64.
        norm = functools.partial(ops.local_response_norm, alpha=float(np.float32(1e-4)))
        monkeypatch.setattr(inception_v1, "local_response_norm", norm)
    first, *others = theirs.write(tmp_path)
    exact = {}
    for dtype, size, found in distances(peer, theirs, first):
        tolerance = TOLERANCE[dtype]
        if dtype == "float64":
            exact[size] = found
        elif size in exact:
            # A network that amplifies rounding in float64, such as xception65p, does so in float32.
            tolerance = max(tolerance, min(4 * exact[size] * 2**29, 1e-4))
        assert found <= tolerance, (dtype, size)
    expected = ij.to_torch(loaded(peer.tag, first, "float32", aux_heads=peer.aux_heads))
    for path in others:
        again = ij.to_torch(loaded(peer.tag, path, "float32", aux_heads=peer.aux_heads))
        for key, tensor in again.items():
            np.testing.assert_array_equal(tensor, expected[key], err_msg=f"{path.name}: {key}")


WRITTEN = [peer for peer in PEERS if peer.written]


@pytest.mark.parametrize("peer", WRITTEN, ids=str)
def test_they_load_what_is_written_for_them(peer, tmp_path):
    theirs = built(peer)
    ours = loaded(peer.tag, theirs.write(tmp_path)[0], "float32", aux_heads=peer.aux_heads)
    if isinstance(theirs, InKeras):
        for ending in (".weights.h5", ".h5"):
            save_as(ours, tmp_path / f"ours{ending}", to="keras")
            again = theirs.build(theirs.size, "float32")
            again.load_weights(tmp_path / f"ours{ending}")
            for a, b in zip(again.get_weights(), theirs.weights, strict=True):
                np.testing.assert_array_equal(a, b)
        return
    save_as(ours, tmp_path / "ours.pth", to=peer.written)
    again = torch.load(tmp_path / "ours.pth", weights_only=True)
    theirs.network.load_state_dict(again)  # all names, and no others
    original = torch.load(tmp_path / "theirs.pth", weights_only=True)
    for key, tensor in again.items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, original[key], rtol=0, atol=0)


# If a network has several tags, the last one is used.
TIMM = {x.tag.partition(".")[0]: x.tag for x in PEERS if x.runtime == "timm"}


@pytest.mark.parametrize("name", TIMM.values())
def test_taps_are_timms(name, tmp_path):
    """Our stages' feature maps equal those of timm's `features_only`, element by element."""
    published = ij.model_info(name).source.removeprefix("timm/")
    whole = timm(published)
    pytorch.fill(whole, torch.randn(4, 3, 97, 150, generator=torch.Generator().manual_seed(1)))
    torch.save(whole.state_dict(), tmp_path / "theirs.pth")
    numbers = {key.replace(".", "_"): tensor for key, tensor in whole.state_dict().items()}
    theirs = timm(published, features_only=True)
    names = {key: key.removeprefix("body.").replace(".", "_") for key in theirs.state_dict()}
    theirs.load_state_dict({key: numbers[flat] for key, flat in names.items()})
    theirs.double().eval()
    images = np.random.default_rng(0).normal(size=(2, 97, 150, 3))
    with torch.no_grad():
        expected = [x.permute(0, 2, 3, 1).numpy() for x in theirs(to_nchw(images))]
    ours = loaded(name, tmp_path / "theirs.pth", "float64")
    with jax.enable_x64(True):
        found = list(ij.feature_extractor(ours)(images).values())
    assert [x.shape for x in found] == [x.shape for x in expected]
    for a, b in zip(found, expected, strict=True):
        assert distance(a, b) <= TOLERANCE["float64"]


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
    """timm's folders load here and our folders load in timm: logits and preprocessing are equal."""
    timm_data = pytest.importorskip("timm.data", exc_type=ImportError)
    hub = pytest.importorskip("timm.models._hub", exc_type=ImportError)
    theirs = timm(FOLDERS[name], num_classes=7, in_chans=channels)
    images = torch.randn(2, channels, 97, 150, generator=torch.Generator().manual_seed(1))
    pytorch.fill(theirs, images)
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
    if channels == 1:  # for grey images timm averages the values of the colours
        preparation = {key: [sum(values) / 3] for key, values in preparation.items()}
    assert {"mean": list(ours.info.mean), "std": list(ours.info.std)} == preparation
    assert (ours.in_channels, ours.info.input_size) == (channels, data["input_size"][1])
    assert ours.info.crop_pct == data["crop_pct"]
    nhwc = images.permute(0, 2, 3, 1).numpy()
    with torch.no_grad():
        expected = theirs(images).numpy()
        pooled = theirs.forward_head(theirs.forward_features(images), pre_logits=True).numpy()
    assert distance(logits(ours, nhwc), expected) <= TOLERANCE["float32"]
    last = jax.jit(ours.forward_features)(nhwc)
    ours_pooled = np.asarray(ours.forward_head(last, pre_logits=True))
    assert distance(ours_pooled, pooled) <= TOLERANCE["float32"]
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
    )  # timm's names for the classifier and the first convolution are right
    assert other.get_classifier().out_features == 4


def test_words_know_every_name():
    """Every name in the installed timm and torchvision works, or the error gives our name."""
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
