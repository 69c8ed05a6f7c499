"""Tests folders for the Hugging Face Hub: written, read, uploaded, and loaded offline."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import types
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
import yaml
from flax import nnx
from huggingface_hub import constants

import inception_jax as ij
from inception_jax.nn.layers import IMAGENET_MEAN, IMAGENET_STD
from inception_jax.weights.facts import _frozen
from tests.helpers import tiny
from tests.helpers.networks import filled

TRAINING = {
    "dataset": "clothes",
    "recipe": "demo",
    "result": {"step": 7, "train_loss": 0.25, "eval_top1": 0.875, "eval_examples": 48},
}


@pytest.fixture(autouse=True)
def _tiny():
    with tiny.registered():
        yield


@pytest.fixture
def model():
    model = ij.create_model("tiny", num_classes=3, in_channels=1, rngs=nnx.Rngs(5))
    model.classes = ("shirt", "bag|box", "ä")
    model.training = _frozen(TRAINING)
    model.info = dataclasses.replace(model.info, input_size=20, crop="squash", upright=True)
    return model


def images(channels: int = 1) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, 20, 20, channels))


def test_a_folder_is_the_network(model, tmp_path):
    ij.save_pretrained(model, tmp_path / "a/b", license="mit")
    again = ij.load(tmp_path / "a/b")
    np.testing.assert_array_equal(again(images()), model(images()))
    assert (again.info, again.classes, again.training) == (
        model.info,
        model.classes,
        model.training,
    )
    config = json.loads((tmp_path / "a/b/config.json").read_text(encoding="utf-8"))
    assert config["architecture_name"] == "tiny"
    assert config["classes"] == list(model.classes)
    assert config["preprocessing"]["input_size"] == 20


def test_the_card(model, tmp_path):
    ij.save_pretrained(model, tmp_path, license="mit", repository="me/clothes")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    said = yaml.safe_load(header)
    assert said["license"] == "mit"
    assert said["pipeline_tag"] == "image-classification"
    (result,) = said["model-index"][0]["results"]
    assert result["dataset"]["name"] == "clothes"
    assert result["metrics"][0]["value"] == 0.875
    assert "**Top-1 accuracy 87.50%** on 48 test images." in body
    assert 'ij.load("hf-hub:me/clothes")' in body
    assert "| train loss | 0.25 |" in body
    card = huggingface_hub.ModelCard(text)  # as the Hub's own package reads it
    assert card.data.eval_results[0].metric_value == 0.875
    assert "bag|box" in body


def test_a_card_that_was_changed_is_kept(model, tmp_path):
    ij.save_pretrained(model, tmp_path)
    ij.save_pretrained(model, tmp_path)  # its own card is rewritten
    (tmp_path / "README.md").write_text("mine")
    with pytest.warns(UserWarning, match="kept"):
        ij.save_pretrained(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_bad_arguments(model, tmp_path):
    with pytest.raises(ValueError, match="inception_jax, timm"):
        ij.save_pretrained(model, tmp_path / "x", layout="keras")
    with pytest.raises(ij.WeightsError, match="timm has no tiny"):
        ij.save_pretrained(model, tmp_path / "x", layout="timm")
    with pytest.raises(ij.WeightsError, match="not built by create_model"):
        ij.save_pretrained(tiny.Tiny(rngs=nnx.Rngs(0)), tmp_path / "x")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        ij.save_pretrained(model, tmp_path / "file")
    assert not (tmp_path / "x").exists()


def test_a_folder_under_other_options(model, tmp_path):
    ij.save_pretrained(model, tmp_path)
    name = f"local-dir:{tmp_path}"
    np.testing.assert_array_equal(ij.create_model(name)(images()), model(images()))
    five = ij.create_model(name, num_classes=5)
    np.testing.assert_array_equal(five.embed(images()), model.embed(images()))
    assert (five.num_classes, five.classes, five.info.input_size) == (5, None, 20)
    features = ij.create_model(name, num_classes=0)
    np.testing.assert_array_equal(features(images()), model.embed(images()))
    with pytest.raises(ValueError, match="has its own weights"):
        ij.create_model(name, weights="x.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        ij.create_model("local-dir:/nowhere/at/all")


class FakeHub:
    """A fake Hugging Face Hub that puts uploads into the local cache, where loading finds them."""

    def __init__(self, cache: Path):
        self.cache, self.calls = cache, []

    def __call__(self, token=None):
        return self

    def create_repo(self, repository, **options):
        self.calls.append(("create_repo", repository, options))
        return types.SimpleNamespace(repo_id=repository)

    def file_exists(self, repository, name, revision=None):
        return bool(list(self._repo(repository).glob(f"snapshots/*/{name}")))

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns, **options):
        repo = self._repo(repo_id)
        commit = hashlib.sha1(f"{len(self.calls)}".encode()).hexdigest()
        shutil.copytree(
            folder_path,
            repo / "snapshots" / commit,
            ignore=shutil.ignore_patterns(*(ignore_patterns or [])),
        )
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / (options["revision"] or "main")).write_text(commit)
        self.calls.append(("upload_folder", ignore_patterns, options))
        return f"https://hub/{repo_id}/commit/{commit}"

    def _repo(self, repository):
        return self.cache / f"models--{repository.replace('/', '--')}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(fake.cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return fake


def test_to_the_hub_and_back(model, hub):
    address = ij.push_to_hub(model, "me/clothes", private=True)
    assert address.startswith("https://hub/me/clothes/commit/")
    assert hub.calls[0] == ("create_repo", "me/clothes", {"private": True, "exist_ok": True})
    again = ij.load("hf-hub:me/clothes")
    np.testing.assert_array_equal(again(images()), model(images()))
    assert again.training["result"]["eval_top1"] == 0.875
    assert ij.create_model("hf-hub:me/clothes", num_classes=5).num_classes == 5
    ij.push_to_hub(model, "me/clothes", revision="second")
    assert hub.calls[-1][1] == ["README.md"]  # the existing card is kept
    assert ij.load("hf-hub:me/clothes@second").classes == model.classes


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        ("hf-hub:me/absent", ij.WeightsError, "cannot fetch hf-hub:me/absent"),
        ("hf-hub:a/b/c", ij.WeightsError, "hf-hub:owner/name"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have(source, error, match):
    with pytest.raises(error, match=match):
        ij.load(source)


SMALL = "inception_next_atto"  # 4 million numbers, the fewest of the networks that timm has


def timm_model(name: str = SMALL, **options) -> nnx.Module:
    model = filled(name, **options)
    model.classes = tuple(f"class {i}" for i in range(model.num_classes))
    return model


def test_timms_layout_and_back(tmp_path):
    model = timm_model(num_classes=3, in_channels=1)
    model.info = dataclasses.replace(model.info, input_size=96, crop="squash")
    ij.save_pretrained(model, tmp_path, layout="timm")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == SMALL
    assert config["model_args"] == {"in_chans": 1}
    assert config["pretrained_cfg"]["input_size"] == [1, 96, 96]
    assert config["pretrained_cfg"]["first_conv"] == "stem.0"
    assert config["pretrained_cfg"]["classifier"] == "head.fc2"
    assert "timm.create_model" in (tmp_path / "README.md").read_text()
    again = ij.load(tmp_path)
    assert again.spec == dataclasses.replace(model.spec, readings=again.spec.readings)
    assert again.info == dataclasses.replace(model.info, crop="warp_crop", crop_pct=1.0)
    assert again.classes == model.classes
    for ours, theirs in zip(*map(jax.tree.leaves, map(nnx.state, (model, again))), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_timm_cannot_say_is_said(tmp_path):
    model = timm_model(num_classes=3)
    model.info = dataclasses.replace(model.info, crop="crop_resize", interpolation="bilinear_tf1")
    with pytest.warns(UserWarning, match="slightly other pixels"):
        ij.save_pretrained(model, tmp_path / "a", layout="timm")
    config = json.loads((tmp_path / "a/config.json").read_text())["pretrained_cfg"]
    assert (config["crop_mode"], config["interpolation"]) == ("center", "bilinear")
    model.info = dataclasses.replace(model.info, channel_order="bgr")
    with pytest.raises(ij.WeightsError, match="RGB"):
        ij.save_pretrained(model, tmp_path / "b", layout="timm")
    with pytest.raises(ij.WeightsError, match="computes otherwise"):
        ij.save_pretrained(filled("xception", num_classes=2), tmp_path / "b", layout="timm")
    assert not (tmp_path / "b").exists()


def test_torchvisions_input_goes_into_timms_mean(tmp_path):
    """torchvision's V3, saved for timm, takes images in [-1, 1] and keeps its embeddings."""
    model = timm_model("inception_v3.tv_in1k", num_classes=3, aux_heads=True)
    with (
        pytest.warns(UserWarning, match="auxiliary classifier is left out"),
        pytest.warns(UserWarning, match=r"takes images in \[-1, 1\]"),
    ):
        ij.save_pretrained(model, tmp_path, layout="timm")
    again = ij.load(tmp_path)
    assert again.info.mean == again.info.std == (0.5, 0.5, 0.5)
    assert model.info.mean == IMAGENET_MEAN  # the network itself is unchanged
    assert model.spec.aux_heads
    picture = np.random.default_rng(0).integers(0, 256, (96, 90, 3), np.uint8)
    for network in (model, again):
        network.info = dataclasses.replace(network.info, input_size=75)
    theirs = again.embed(ij.preprocess(again, picture))
    ours = model.embed(ij.preprocess(model, picture))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * float(np.abs(theirs).max()))
    assert model.info.std == IMAGENET_STD


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"architecture": "resnet50"}, "no network of this family"),
        ({"pretrained_cfg": {}}, "not as timm writes it"),
        ({"model_args": {"norm_layer": "gn"}}, "no counterpart"),
        ({"crop_mode": "border"}, "crop_mode 'border'"),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'"),
        ({"input_size": [3, 224, 200]}, "224x200"),
        ({"num_classes": 4}, "do not fit"),
    ],
    ids=str,
)
def test_folders_of_timm_that_do_not_fit(tmp_path, change, match):
    ij.save_pretrained(timm_model(num_classes=3), tmp_path, layout="timm")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for key, value in change.items():
        inside = key in config["pretrained_cfg"] and key != "num_classes"
        (config["pretrained_cfg"] if inside else config)[key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(ij.WeightsError, match=match):
        ij.load(tmp_path)


def test_an_older_configuration_of_timm(tmp_path):
    """A configuration of timm before 0.9, with all keys on one level, loads.

    The descriptions of its labels become the class names.
    """
    model = timm_model(num_classes=2)
    ij.save_pretrained(model, tmp_path, layout="timm")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    flat = {**config.pop("pretrained_cfg"), "architecture": SMALL, "labels": ["n01", "n02"]}
    path.write_text(json.dumps({**flat, "label_descriptions": {"n01": "tench"}}))
    again = ij.load(tmp_path)
    assert again.classes == ("tench", "n02")
    assert again.info.input_size == model.info.input_size


def test_the_twin_reads_files_and_arrays(model, tmp_path):
    torch = pytest.importorskip("torch")
    import reference_torch

    options = dict(num_classes=3, width_multiplier=0.1)
    ours = filled(SMALL, **options)
    ij.save_weights(ours, tmp_path / "x.safetensors")
    twin = reference_torch.create_model(SMALL, weights=tmp_path / "x.safetensors", **options)
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    nchw = torch.from_numpy(x).permute(0, 3, 1, 2)
    expected = twin(nchw).detach().numpy()
    np.testing.assert_allclose(ours(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    ij.save_pretrained(ours, tmp_path / "folder")
    other = reference_torch.create_model(SMALL, weights=str(tmp_path / "folder"), **options)
    assert torch.equal(other(nchw), twin(nchw))
    with pytest.raises(ValueError, match=r"create_model\('inception_next_atto', num_classes=3"):
        reference_torch.create_model(SMALL, weights=tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="another network"):
        reference_torch.create_model("inception_next_tiny", weights=tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError):
        reference_torch.create_model(SMALL, weights=tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="fetches nothing"):
        reference_torch.create_model(SMALL, weights="imagenet")
    with pytest.raises(ValueError, match="fetches nothing"):
        reference_torch.create_model(SMALL, weights=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_twin_takes_arrays(dtype):
    torch = pytest.importorskip("torch")
    import reference_torch

    options = dict(num_classes=3, width_multiplier=0.1)
    ours = ij.create_model(SMALL, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(1), **options)
    state = ij.to_torch(ours)
    twin = reference_torch.create_model(SMALL, **options)
    twin.load_state_dict(state)
    built = reference_torch.create_model(
        SMALL, weights=state, dtype=getattr(torch, dtype), **options
    )
    assert built.stem.conv.weight.dtype == getattr(torch, dtype)
    for name, tensor in twin.state_dict().items():
        np.testing.assert_array_equal(tensor.float().numpy(), np.asarray(state[name], np.float32))
    del state["stem.conv.weight"]
    with pytest.raises(RuntimeError, match=r"stem\.conv\.weight"):
        twin.load_state_dict(state)


def test_the_twins_habits():
    torch = pytest.importorskip("torch")
    import copy
    import io

    import reference_torch

    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    twin = reference_torch.create_model(SMALL, num_classes=4, width_multiplier=0.1)
    assert (twin.num_classes, twin.num_features) == (4, 32)
    last = twin.forward_features(x)
    assert torch.equal(twin.forward_head(last), twin(x))
    assert twin.forward_head(last, pre_logits=True).shape == (2, 96)
    embedding = twin.embed(x)
    twin.reset_classifier(7)
    assert twin(x).shape == (2, 7)
    torch.save(copy.deepcopy(twin), io.BytesIO())  # layers keep their initialiser
    twin.reset_classifier(0)
    assert torch.equal(twin(x), embedding)
    headless = reference_torch.create_model(SMALL, num_classes=0, width_multiplier=0.1)
    assert headless(x).shape == (2, headless.num_features)
    with pytest.raises(TypeError, match="in_channels"):
        reference_torch.create_model(SMALL, in_chans=1)
    with pytest.raises(AttributeError, match=r"model\.features"):
        twin.forward_intermediates(x)
    with pytest.raises(ValueError, match="num_classes"):
        reference_torch.create_model(SMALL, num_classes="10")
    with pytest.raises(reference_torch.UnknownModelError, match=r"inception_v1\.tv_in1k"):
        reference_torch.create_model("googlenet")
    for wrong, remedy in [
        (x.permute(0, 2, 3, 1), r"permute\(0, 3, 1, 2\)"),
        (x[0], r"images\[None\]"),
        (x.numpy(), "from_numpy"),
        ("photo.jpg", "preprocess"),
        (x.to(torch.uint8), "preprocess"),
    ]:
        with pytest.raises(ValueError, match=remedy):
            twin(wrong)


@pytest.mark.slow
def test_a_certificate_in_the_card(model, tmp_path):
    small = ij.create_model("inception_v1", num_classes=3, width_multiplier=0.125)
    small.info = dataclasses.replace(small.info, input_size=40)
    ij.save_pretrained(small, tmp_path / "plain")
    assert "Certificate" not in (tmp_path / "plain" / "README.md").read_text()
    ij.save_pretrained(small, tmp_path / "with", certificate=True)
    card = (tmp_path / "with" / "README.md").read_text()
    page = card[card.index("## Certificate") :]
    assert "equal to rounding, on 2 images of 40x40" in page
    sha256 = hashlib.sha256((tmp_path / "with" / "model.safetensors").read_bytes()).hexdigest()
    assert sha256 in page
    assert "| logits |" in page


def test_a_certificate_needs_torch(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ij.WeightsError, match="torch"):
        ij.save_pretrained(model, tmp_path / "x", certificate=True)
    assert not (tmp_path / "x").exists()  # before anything is written
