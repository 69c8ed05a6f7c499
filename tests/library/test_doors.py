"""Tests that files of training programs load, and that files without weights are refused."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pathlib
import pickle
import shutil
import tarfile
import warnings
import zipfile

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import inception_jax as ij
from inception_jax.weights import containers, layouts
from inception_jax.weights.torch_names import (
    state_of,
    to_torch_order,
    torch_name,
    torch_shapes,
    walk,
)
from inception_jax.weights.weight_file import open_weights
from tests.helpers.networks import WIDTH, made_up, skeleton

torch = pytest.importorskip("torch")
import reference_torch

OPTIONS = {"num_classes": 10, "width_multiplier": WIDTH}
NAME = "inception_v1.tv_in1k"


def fresh(name: str = NAME, **options):
    return skeleton(name, **{**OPTIONS, **options})


def files_of(name: str, layout: layouts.Layout | None) -> tuple[dict, dict]:
    """Returns random tensors by a layout's names, and the same tensors by the twin's names.

    Without a layout, both dictionaries have the twin's names.
    """
    rng = np.random.default_rng(0)
    shapes = torch_shapes(fresh(name))
    ours = {key: made_up(rng, key, shape) for key, shape in shapes.items()}
    names = layout.names(ours) if layout and layout.names else {key: key for key in ours}
    return {theirs: ours[key] for key, theirs in names.items()}, ours


def layout(name: str) -> layouts.Layout:
    return next(x for x in layouts.LAYOUTS if x.name == name)


FILE, OURS = files_of(NAME, layout("torchvision GoogLeNet"))
TENSORS = {name: torch.from_numpy(array) for name, array in FILE.items()}
OTHER = {name: tensor * 2 for name, tensor in TENSORS.items()}


def load(source, name: str = NAME, head: bool = True, **options):
    """Loads weights; returns the loaded tensors by the twin's names, and the warnings' text.

    Args:
        source: file path or tensors, as `load_weights` takes them.
        name: name of the network that loads them.
        head: whether to load the classifier too.
        **options: options of the network.
    """
    model = fresh(name, **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ij.load_weights(model, source, head=head)
    leaves = {torch_name(p): (p, leaf) for p, leaf in walk(state_of(model))}
    loaded = {
        key: to_torch_order(path, np.asarray(leaf))
        for key, (path, leaf) in leaves.items()
        if head or not isinstance(leaf, jax.ShapeDtypeStruct)  # not loaded
    }
    return loaded, "; ".join(str(w.message) for w in said)


def check(source, expected=OURS, **options) -> str:
    loaded, note = load(source, **options)
    for key, tensor in expected.items():
        if options.get("head", True) or not key.startswith("fc."):
            np.testing.assert_array_equal(loaded[key], tensor, err_msg=key)
    return note


def trainer(tensors=TENSORS, **more) -> dict:
    """Returns a checkpoint like those of timm's CheckpointSaver and torchvision's scripts.

    `tensors` are the network's; `more` adds or replaces entries of the checkpoint.
    """
    weights = [torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.AdamW(weights)
    weights[0].sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "arch": "googlenet",
        "state_dict": tensors,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_lr": [np.float64(0.1)], "_last": np.int64(3)},
        "args": argparse.Namespace(lr=0.1, output=pathlib.Path("/x"), device=torch.device("cpu")),
        "metric": np.float32(77.1),
        "amp_scaler": {"scale": 65536.0},
        **more,
    }


@pytest.mark.parametrize("name", ["model_best.pth.tar", "last.ckpt", "x.pkl", "checkpoint-3"])
@pytest.mark.parametrize("legacy", [False, True])
def test_training_checkpoints_under_any_name(name, legacy, tmp_path):
    torch.save(trainer(), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert check(tmp_path / name) == ""


class Whole(torch.nn.Module):
    """A user's module that contains the network as its `encoder`."""

    def __init__(self, twin):
        super().__init__()
        self.encoder = twin
        self.register_buffer("scratch", torch.ones(3), persistent=False)
        self.config = argparse.Namespace(width=3)


@pytest.fixture(scope="module")
def twin():
    network = reference_torch.create_model(NAME, **OPTIONS)
    state = {key: torch.from_numpy(array) for key, array in OURS.items()}
    network.load_state_dict(state, strict=False)
    return network


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_networks_that_were_pickled_whole(legacy, twin, tmp_path):
    torch.save(twin, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    assert check(tmp_path / "a.pt") == ""
    torch.save({"ema": Whole(twin)}, tmp_path / "b.pt", _use_new_zipfile_serialization=not legacy)
    note = check(tmp_path / "b.pt")
    assert "'encoder.'" in note
    assert "'ema'" in note


def test_averages(twin, tmp_path):
    average = torch.optim.swa_utils.AveragedModel(twin)
    torch.save(average.state_dict(), tmp_path / "x.pt")
    assert check(tmp_path / "x.pt") == ""
    note = check({"model": OTHER, "model_ema": TENSORS})
    assert note == "the weights are those under 'model_ema', not of 'model'"
    shadow = {k: v for k, v in TENSORS.items() if "running" not in k}
    raw = {k: v if "running" in k else v * 2 for k, v in TENSORS.items()}
    note = check({"net": raw, "ema": {"decay": 0.9, "shadow": shadow}})
    assert "statistics are from 'net'" in note


def test_what_optimisers_keep_is_no_network():
    """Optimiser states are not loaded, even if their entries have the names of the weights."""
    moments = {key: tensor * 0.1 for key, tensor in TENSORS.items()}
    check({"params": TENSORS, "opt": {"mu": moments}, "optimizer_state": moments})
    check({"model": TENSORS, "opt_m": {f"exp_avg.{key}": x for key, x in moments.items()}})
    with pytest.raises(ij.WeightsError):
        load({"optimizer": moments})
    with pytest.raises(ij.WeightsError):
        load({f"state.exp_avg.{key}": x for key, x in moments.items()})


def test_lightning():
    state = {f"model.{key}": tensor for key, tensor in TENSORS.items()}
    state |= {"loss.weight": torch.ones(10), "accuracy.total": torch.tensor(3)}
    note = check({"state_dict": state, "pytorch-lightning_version": "2.4", "loops": {"a": [{}]}})
    assert "'model.'" in note
    assert "loss.weight" in note
    assert "accuracy" not in note


PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "backbone.", "timm_model.", "encoder.", "0."]


@pytest.mark.parametrize("prefix", [*PREFIXES, "a.b.c.", "module.model._orig_mod."])
def test_prefixes(prefix):
    note = check({f"{prefix}{key}": tensor for key, tensor in TENSORS.items()})
    plain = prefix.replace("module.", "").replace("_orig_mod.", "")
    assert note == (f"the names begin with '{plain}', which is removed" if plain else "")


def test_wrappers_within_names():
    """A file loads if wrappers such as FSDP or `torch.compile` inserted parts into tensor names."""
    for part in ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.", "module."):
        names = {k.replace("inception4a.", f"inception4a.{part}"): v for k, v in TENSORS.items()}
        assert check(names) == ""


def test_several_networks_are_refused():
    both = {f"student.{key}": tensor for key, tensor in TENSORS.items()}
    both |= {f"teacher.{key}": tensor for key, tensor in OTHER.items()}
    with pytest.raises(ij.WeightsError, match="'student' and 'teacher'"):
        load(both)
    with pytest.raises(ij.WeightsError, match="'a' and 'b'"):
        load({"a": TENSORS, "b": OTHER})
    with pytest.raises(ij.WeightsError, match="'ema_1' and 'ema_2'"):
        load({"model": TENSORS, "ema_1": TENSORS, "ema_2": OTHER})
    check({"a": TENSORS, "b": dict(TENSORS)})  # the same numbers


# Maps networks to layouts: one network for each layout of names, then networks with our names.
LAYOUTS = {
    "inception_v1.tv_in1k": "torchvision GoogLeNet",
    "inception_v1.bvlc_in1k": "Caffe BVLC GoogLeNet",
    "bn_inception.caffe_in1k": "Cadene BN-Inception",
    "inception_v3.tv_in1k": "torchvision Inception V3",
    "inception_v4.tf_in1k": "timm or Cadene Inception V4",
    "inception_resnet_v1.vggface2": "facenet-pytorch Inception-ResNet-v1",
    "inception_resnet_v2.tf_in1k": "timm or Cadene Inception-ResNet-v2",
    "xception.tf_in1k": "timm or Cadene Xception",
    "xception41.tf_in1k": "timm aligned Xception",
    "xception41p.ra3_in1k": "timm aligned Xception with pre-activation",
    "inception_next_atto.sail_in1k": "timm or sail-sg InceptionNeXt",
    "inception_v2": None,
    "inception_v1": None,
    "bn_inception": None,
    "inception_v4": None,
    "inception_resnet_v1": None,
    "inception_resnet_v2": None,
    "xception": None,
    "xception41": None,
    "xception41p": None,
    "inception_next_atto": None,
}
WORD = st.text(st.sampled_from("abcxyz_09"), min_size=1, max_size=8)
COUNTS = {
    "n_averaged": torch.tensor(7),
    "num_updates": torch.tensor([3.0]),
    "{}conv1.total_ops": torch.zeros(1, dtype=torch.float64),
    "total_params": torch.zeros(1, dtype=torch.float64),
    "{}conv1.bn.num_batches_tracked": torch.tensor(3),
    "global_step": torch.tensor(9),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_prefix_wrapper_and_count(name):
    found = LAYOUTS[name]
    file, _ = files_of(name, layout(found) if found else None)

    @hypothesis.given(data=st.data())
    @hypothesis.settings(max_examples=3)
    def peels(data):
        prefix = "".join(f"{word}." for word in data.draw(st.lists(WORD, max_size=3)))
        tensors = {f"{prefix}{key}": torch.from_numpy(array) for key, array in file.items()}
        for count in data.draw(st.sets(st.sampled_from(list(COUNTS)))):
            tensors.setdefault(count.format(prefix), COUNTS[count])
        source = tensors
        words = data.draw(st.lists(WORD, max_size=3))
        for word in words:
            source = {"epoch": 3, word: source, "opt": {"state": {0: {"m": torch.ones(3)}}}}
        content = containers.peel(source)
        found = {k: x for k, x in content.peeled.tensors.items() if "num_batches" not in k}
        assert found.keys() == file.keys()
        assert all(np.shares_memory(found[key], file[key]) for key in file)
        assert (content.peeled.prefix, content.path) == (prefix, tuple(reversed(words)))
        assert not content.peeled.outside

    peels()


def with_head(**head) -> dict:
    tensors = {key: tensor for key, tensor in TENSORS.items() if not key.startswith("fc.")}
    return {**tensors, **{key.replace("__", "."): x for key, x in head.items()}}


WEIGHT, BIAS = TENSORS["fc.weight"], TENSORS["fc.bias"]


@pytest.mark.parametrize("name", ["fc__1", "last_linear__1", "classifier", "head__fc", "heads__0"])
def test_a_classifier_under_any_name(name):
    """A classifier is found under common names besides `fc`, and a warning gives the name.

    FaceForensics uses such names, and so do networks with a dropout before the classifier.
    """
    head = {f"{name}__weight": WEIGHT, f"{name}__bias": BIAS}
    called = name.replace("__", ".")
    assert f"the classifier is {called}.weight and {called}.bias" in check(with_head(**head))
    both = {f"model.{key}": tensor for key, tensor in with_head().items()}
    check({**both, f"{called}.weight": WEIGHT, f"{called}.bias": BIAS})


def test_other_heads_are_left_out_and_listed():
    two = with_head(
        fc__0__weight=torch.ones(5, 128), fc__0__bias=torch.ones(5), fc__1__running_mean=BIAS,
        fc__3__weight=torch.ones(10, 5), fc__3__bias=BIAS,
    )  # fmt: skip
    for prefix in ("", "net."):
        tensors = {f"{prefix}{key}": tensor for key, tensor in two.items()}
        with pytest.raises(ij.WeightsError, match=r"head=False .*leaves .*fc\.0\.weight"):
            load(tensors)
        assert "fc.3.bias" in check(tensors, head=False)
    # Tensors of the backbone are never skipped.
    for name in ("inception5c.branch1.conv.weight", "conv9.conv.weight"):
        with pytest.raises(ij.WeightsError) as error:
            load({**TENSORS, name: torch.ones(3, 3, 1, 1)}, head=False)
        assert error.value.unexpected == (name,)


def test_backbones_of_detectors():
    body = {f"backbone.body.{key}": tensor for key, tensor in with_head().items()}
    body |= {
        "backbone.fpn.inner_blocks.0.0.weight": torch.ones(3, 3, 1, 1),
        "roi_heads.box_predictor.cls_score.weight": torch.ones(10, 1024),
        "roi_heads.box_predictor.cls_score.bias": torch.ones(10),
    }
    assert "backbone.fpn" in check(body, head=False)
    with pytest.raises(ij.WeightsError, match="head=False"):
        load(body)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.to(torch.int32), "not floating-point"),
        (lambda x: x.to(torch.complex64), "not floating-point"),
        (lambda x: x * torch.nan, "NaN"),
    ],
)
def test_numbers_that_cannot_be(change, said):
    with pytest.raises(ij.WeightsError, match=said):
        load({key: change(tensor) for key, tensor in TENSORS.items()})


def test_layers_without_information_are_named():
    var = "conv1.bn.running_var"
    with pytest.raises(ij.WeightsError, match=rf"negative variances in {var}"):
        load({**TENSORS, var: -TENSORS[var]})
    for name, value in (("conv1.conv.weight", 0), ("conv2.conv.weight", 0.5), (var, 0)):
        _, note = load({**TENSORS, name: torch.full_like(TENSORS[name], value)})
        assert note == f"all numbers are the same in {name}"


def test_mappings_are_as_files():
    bf16 = {key: tensor.bfloat16() for key, tensor in TENSORS.items()}
    expected = {
        key: np.asarray(x).astype(jnp.bfloat16).astype("float32") for key, x in OURS.items()
    }
    check(bf16, expected=expected)
    check({key: torch.nn.Parameter(tensor) for key, tensor in TENSORS.items()})
    check({key: jnp.asarray(array) for key, array in FILE.items()})
    nested: dict = {}
    for key, array in OURS.items():
        *parents, leaf = key.split(".")
        at = nested
        for parent in parents:
            at = at.setdefault(parent, {})
        at[leaf] = array
    check({"step": 3, "params": nested})


def test_a_bfloat16_network_into_the_twin(twin):
    model = fresh(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    ij.load_weights(model, FILE)
    state = {key: torch.from_numpy(array) for key, array in ij.to_torch(model).items()}
    again = reference_torch.create_model(NAME, **OPTIONS).bfloat16()
    again.load_state_dict(state)
    sent = again.fc.weight.detach().float().numpy()
    np.testing.assert_array_equal(sent, np.asarray(model.fc.kernel[...]).T.astype("float32"))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_formats_by_content(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        pickle.dump(FILE, file)
    with (tmp_path / "b").open("wb") as file:
        pickle.dump({key: jnp.asarray(array) for key, array in FILE.items()}, file, protocol=0)
    np.savez(tmp_path / "c.npz", **FILE)
    safetensors.numpy.save_file(FILE, tmp_path / "d.pth")
    torch.save(TENSORS, tmp_path / "e.safetensors")
    torch.jit.trace(Sum(TENSORS), torch.ones(1)).save(tmp_path / "f.pt")
    for path in sorted(tmp_path.iterdir()):
        check(path)


class Sum(torch.nn.Module):
    """A module for `torch.jit.trace` that holds tensors as buffers under their dotted names."""

    def __init__(self, tensors):
        super().__init__()
        for key, tensor in tensors.items():
            *parents, leaf = key.split(".")
            at = self
            for parent in parents:
                if not hasattr(at, parent):
                    at.add_module(parent, torch.nn.Module())
                at = getattr(at, parent)
            at.register_buffer(leaf, tensor)

    def forward(self, x):
        return x + 1


def test_folders_and_shards(tmp_path):
    names = list(FILE)
    halves = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, keys in halves.items():
        safetensors.numpy.save_file({key: FILE[key] for key in keys}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    places = {key: file for file, keys in halves.items() for key in keys}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    check(index)
    check(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ij.WeightsError, match=r"b\.safetensors beside it"):
        load(index)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(ij.WeightsError, match="outside"):
        load(index)
    index.unlink()
    with pytest.raises(ij.WeightsError, match="do not fit"):
        load(tmp_path)
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "c.safetensors")
    with pytest.raises(ij.WeightsError, match=r"a\.safetensors, c\.safetensors"):
        load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ij.WeightsError, match="without a weight file"):
        load(tmp_path / "empty")


def archive(files: dict[str, bytes], mode: str = "w:") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return content.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 95345\n"
NO_WEIGHTS = {
    b"<!DOCTYPE html>\n<html><title>Sign in</title></html>": "an HTML page",
    b"\n\n  <HTML lang=en>": "an HTML page",
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': "an XML document",
    b'{"error": "not found"}': "a JSON text",
    LFS: r"a Git LFS pointer to a file of 95345 bytes.* `git lfs pull`",
    b"/annex/objects/SHA256E-s3--1.pth\n": "a git-annex pointer",
    b"": "an empty file",
    bytes(500): "zeros",
    b"Not Found": "a text",
    b"import torch\nprint(1)\n": "a text",
    b"\x89PNG\r\n\x1a\n....": "a PNG image",
    b"%PDF-1.4": "a PDF document",
    b"\xde\xad\xbe\xef" * 40: "not known here",
    zipped({"run/weights.pth": b"x"}): r"a ZIP archive of run/weights\.pth.*Unpack",
    zipped({"a/data.pkl": b"x"})[:-10]: "incomplete.*download it again",
    archive({"sys_info": b"", "pickle": b"", "storages": b"", "tensors": b""}): "before 2017",
    gzip.compress(b"x" * 100): "tar archive",
    b"\x80\x02}q\x00": "not a whole PyTorch file",
    b"\x80\x04.": "not a whole PyTorch file",
    b"\x89HDF\r\n\x1a\n" + bytes(50): "not a whole HDF5 file",
    b"\x40\0\0\0\0\0\0\0{" + b" " * 20: "not a whole safetensors file",
}


@pytest.mark.parametrize("content", NO_WEIGHTS, ids=lambda x: NO_WEIGHTS[x][:20])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_what_is_no_weight_file_is_said(content, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ij.WeightsError, match=NO_WEIGHTS[content]) as error:
        load(path)
    said = str(error.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert "weights_only" not in said
    assert "\x1b" not in said


@pytest.mark.parametrize("keep", [10, 100, 1000, 20_000, -1000, -30, -1])
def test_cut_downloads(keep, tmp_path):
    safetensors.numpy.save_file(FILE, tmp_path / "a.safetensors")
    torch.save(trainer(), tmp_path / "b.pth")
    torch.save(TENSORS, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(FILE))
    np.savez(tmp_path / "e.npz", **FILE)
    for path in sorted(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ij.WeightsError) as error:
            load(path)
        assert "\n" not in str(error.value)


def test_other_networks_are_not_called_by_a_name_of_ours():
    """A file with a few tensor names of a known layout is not mistaken for that layout."""
    for name in (
        "stages.{}.downsample.0.weight",
        "block{}.rep.1.weight",
        "features.{}.conv.weight",
    ):
        tensors = {name.format(i): np.ones((3, 3), np.float32) for i in range(9)}
        tensors |= {f"other.{i}": np.ones(3, np.float32) for i in range(30)}
        with pytest.raises(ij.WeightsError, match=r"unknown network|none of the names"):
            load(tensors, name="inception_v3.tv_in1k")


def test_deeplab_in_pytorch_is_refused():
    """DeepLab's Xception in PyTorch is refused.

    Its residual branches change the shortcut's input in place, which no network here does.
    """
    names = [f"block{i}.rep.{j}.{leaf}.weight" for i in (1, 2, 20) for j in (0, 1, 2, 3)
             for leaf in ("conv1", "bn", "pointwise")]  # fmt: skip
    with pytest.raises(ij.WeightsError, match=r"DeepLab's Xception in PyTorch.*in place"):
        load(
            {f"backbone.{name}": np.ones(3, np.float32) for name in names}, name="xception.tf_in1k"
        )


def test_what_was_found_is_kept():
    """`open_weights` reports the path, prefix and layout that it found in a file."""
    file = open_weights(NAME, {"x": {f"net.{key}": tensor for key, tensor in TENSORS.items()}})
    assert (file.path, file.prefix) == (("x",), "net.")
    assert file.layout is layout("torchvision GoogLeNet")
