"""Tests weight files of training programs: averages, heads, folders, several networks."""

from __future__ import annotations

import argparse
import json
import pathlib

import numpy as np
import pytest

import inception_jax as ij
from inception_jax.cli.commands import main
from inception_jax.weights import contents
from inception_jax.weights.weight_file import open_weights
from tests.helpers.networks import WIDTH, filled
from train.engine.initial_weights import load_start
from train.errors import UsageError

torch = pytest.importorskip("torch")

from tests.library.test_doors import (
    BIAS,
    FILE,
    NAME,
    OTHER,
    TENSORS,
    WEIGHT,
    check,
    fresh,
    load,
    with_head,
)


def under(prefix: str, tensors: dict) -> dict:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


COUNT = torch.tensor(3)
# Files that hold a network and its average; the average (TENSORS) must be loaded.
AVERAGES = {
    "Lightning's callback": {
        "state_dict": under("model.", OTHER),
        "callbacks": {"EMACallback": {"ema_state_dict": under("model.", TENSORS)}},
    },
    "Lightning's WeightAveraging": {
        "state_dict": under("model.", TENSORS),
        "current_model_state": under("model.", OTHER),
        "averaging_state": {"n_averaged": COUNT},
    },
    "a module beside it": {
        "state_dict": under("model.", OTHER) | under("model_ema.module.", TENSORS)
    },
    "a module in it": OTHER | under("model_ema.", TENSORS),
    "ema-pytorch": under("online_model.", OTHER) | under("ema_model.", TENSORS) | {"step": COUNT},
    "DistributedDataParallel": {
        "model": under("module.", OTHER),
        "ema": {"n_averaged": COUNT, **under("module.module.", TENSORS)},
    },
    "a pair": {"model": OTHER, "ema": (TENSORS, 0.999)},
}


@pytest.mark.parametrize("trainer", AVERAGES)
def test_averages_are_taken(trainer):
    note = check(AVERAGES[trainer])
    assert "not of" in note


def test_averages_whose_names_have_no_dots(tmp_path):
    """Averages of latent diffusion's `LitEma` load, although their names have no dots.

    `LitEma` does not average BatchNorm's statistics, so these come from the network that was not
    averaged.
    """
    flat = {k.replace(".", ""): x for k, x in TENSORS.items() if "running" not in k}
    raw = {k: x if "running" in k else x * 2 for k, x in TENSORS.items()}
    state = under("model.", raw) | under("model_ema.", flat) | {"model_ema.decay": torch.ones(())}
    assert "statistics are from 'model'" in check({"state_dict": state})
    torch.save(state, tmp_path / "x.pt")
    assert "statistics are from 'model'" in check(f"{tmp_path}/x.pt#model_ema")


def test_pruned_weights_are_masked():
    masks = {k: (x != x.max()).float() for k, x in TENSORS.items() if k.endswith("conv.weight")}
    pruned = {k: x for k, x in TENSORS.items() if k not in masks}
    pruned |= {f"{k}_orig": TENSORS[k] for k in masks}
    pruned |= {f"{k}_mask": mask for k, mask in masks.items()}
    masked = {k: FILE[k] * (masks[k].numpy() if k in masks else 1) for k in FILE}
    check(pruned, expected=load(masked)[0])


# Heads of frameworks, and what their files also contain; the classifier must be found.
LAYERS = {"weight": WEIGHT, "bias": BIAS}
HEADS = {
    "mmpretrain": {
        "meta": {"mmcv_version": "2.1"},
        "state_dict": under("backbone.", with_head())
        | under("head.fc.", LAYERS)
        | {"data_preprocessor.mean": torch.ones(3, 1, 1), "data_preprocessor.std": torch.ones(3)},
    },
    "a loss with weights of classes": {
        "state_dict": under("net.", with_head())
        | under("head.1.", LAYERS)
        | {"criterion.weight": torch.ones(10)},
    },
    "DeepfakeBench": under("backbone.", with_head())
    | under("backbone.last_linear.", LAYERS)
    | under("backbone.adjust_channel.0.", {"weight": torch.ones(4, 8, 1, 1), "bias": BIAS})
    | {"backbone.adjust_channel.1.running_mean": BIAS},
    "fastai": {"model": TENSORS, "opt": {"state": [{"grad_avg": BIAS}], "hypers": [{"lr": 1e-3}]}},
}


@pytest.mark.parametrize("framework", HEADS)
def test_classifiers_of_frameworks(framework):
    check(HEADS[framework])


def test_whole_fastai_learners(tmp_path):
    """Only the network is read from a learner that fastai's `learn.export` pickled as a whole.

    No class of the learner is imported.
    """
    learner = argparse.Namespace(model=None, dls=[argparse.Namespace(path=pathlib.Path("x"))])
    learner.model = TENSORS
    torch.save(learner, tmp_path / "export.pkl")
    check(tmp_path / "export.pkl")


def test_folders_of_deepspeed_and_of_checkpoints(tmp_path):
    inner = tmp_path / "global_step100"
    inner.mkdir()
    (tmp_path / "latest").write_text("global_step100\n")
    torch.save({"module": under("module.", TENSORS)}, inner / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": {}}, inner / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    check(tmp_path)
    runs = tmp_path / "runs"
    for name in ("checkpoint-100", "checkpoint-200"):
        (runs / name).mkdir(parents=True)
        (runs / name / "model.safetensors").write_bytes(b"")
    with pytest.raises(ij.WeightsError, match="one of its folders: checkpoint-100, checkpoint-200"):
        load(runs)


def test_dicts_that_numpy_saves(tmp_path):
    np.save(tmp_path / "a.npy", FILE, allow_pickle=True)
    check(tmp_path / "a.npy")
    whole = (tmp_path / "a.npy").read_bytes()
    np.save(tmp_path / "b.npy", np.ones(3))
    np.save(tmp_path / "c.npy", np.array([{}, {}]), allow_pickle=True)
    (tmp_path / "d.npy").write_bytes(whole[: len(whole) // 2])
    for name, said in {
        "b": "a single NumPy array",
        "c": "an array of objects, not a dict",
        "d": "not a whole",
    }.items():
        with pytest.raises(ij.WeightsError, match=said):
            load(tmp_path / f"{name}.npy")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x04\x95\x00cjoblib.numpy_pickle\nNumpyArrayWrapper", r"joblib.*numpy\.savez"),
        (b"\x78\x9c" + bytes(range(30)), r"joblib.*numpy\.savez"),
        (b"\x81\xa6params\x82\xa5conv1", r"msgpack.*msgpack_restore"),
    ],
)
def test_other_containers_are_named(content, said, tmp_path):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(ij.WeightsError, match=said):
        load(tmp_path / "x.bin")


def test_headers_that_begin_as_other_files(tmp_path):
    """A safetensors file is recognised even if it begins with the bytes of another format.

    It begins with the length of its header, whose bytes may have any value.
    """
    array = np.ones(3, np.float32)
    for length in (0x0178, 0x9C78, 0xA188):
        entry = {"data_offsets": [0, 12], "dtype": "F32", "shape": [3]}
        header = json.dumps({"a": entry}).encode().ljust(length)
        content = length.to_bytes(8, "little") + header + array.tobytes()
        (tmp_path / "x.safetensors").write_bytes(content)
        assert contents.recognise(tmp_path / "x.safetensors") == "safetensors"


BOTH = under("student.net.", TENSORS) | under("teacher.net.", OTHER)


def test_one_network_of_several(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"epoch": 3, "state_dict": BOTH}, path)
    for name in ("student", "student.net", "student.net.", "state_dict.student", "student/net"):
        check(f"{path}#{name}")
    for name in ("stud", "encoder", "student.net.conv1"):
        with pytest.raises(ij.WeightsError, match=r"'student\.net' and 'teacher\.net'"):
            load(f"{path}#{name}")
    torch.save({"a": TENSORS, "model_ema": OTHER}, tmp_path / "y.pt")
    check(f"{tmp_path}/y.pt#a")  # not the average
    named = tmp_path / "z#student.pt"  # the # is part of the file's name
    torch.save(TENSORS, named)
    check(named)
    with pytest.raises(FileNotFoundError):
        load(f"{tmp_path}/absent.pt#student")
    ours = tmp_path / "ours.safetensors"
    ij.save_weights(filled("inception_v1", num_classes=3, width_multiplier=WIDTH), ours)
    with pytest.raises(ij.WeightsError, match="holds one network"):
        open_weights(NAME, f"{ours}#student")


def test_training_starts_from_one_of_several(tmp_path):
    torch.save(BOTH, tmp_path / "x.pt")
    model = fresh()
    with pytest.warns(UserWarning, match=r"'teacher\.net\.', which is removed"):
        load_start(model, tmp_path / "x.pt#teacher")
    np.testing.assert_array_equal(model.fc.kernel[...].T, np.asarray(OTHER["fc.weight"]))
    with pytest.raises(UsageError, match="no such file"):
        load_start(model, tmp_path / "y.pt#teacher")


@pytest.fixture(scope="module")
def whole():
    """Returns a full-width network, because the command line has no option for the width."""
    return filled("inception_v1.tv_in1k", num_classes=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::UserWarning")  # the command prints them
def test_the_command_line_chooses_and_leaves_out(whole, tmp_path, capsys):
    state = {k: torch.from_numpy(x) for k, x in ij.to_torch(whole).items()}
    doubled = {k: x * 2 for k, x in state.items()}
    path, target = tmp_path / "two.pt", tmp_path / "one.safetensors"
    torch.save({**under("student.", state), **under("teacher.", doubled)}, path)
    arch = ["--arch", "inception_v1.tv_in1k"]
    assert main(["convert", str(path), str(target), *arch]) == 2
    assert "'student' and 'teacher'. Choose one: FILE#NAME" in capsys.readouterr().err
    assert main(["convert", f"{path}#teacher", str(target), *arch]) == 0
    found = ij.to_torch(ij.load(target))
    for name, tensor in doubled.items():
        np.testing.assert_array_equal(found[name], tensor)
    assert main(["inspect", f"{path}#student"]) == 0
    said = capsys.readouterr().out
    assert "inception_v1.tv_in1k" in said
    assert "bytes" in said

    other = {k: x for k, x in state.items() if not k.startswith("fc.")}
    other |= {"mlp.0.weight": torch.ones(5, 7), "mlp.2.weight": torch.ones(3, 5)}
    torch.save(other, path)
    assert main(["convert", str(path), str(target), *arch]) == 2
    assert "--no-head" in capsys.readouterr().err
    assert main(["convert", str(path), str(target), *arch, "--no-head"]) == 0
    assert "mlp.0.weight" in capsys.readouterr().err
    model = ij.load(target)
    assert model.num_classes == 0
    assert main(["convert", str(target), str(tmp_path / "again.safetensors"), "--no-head"]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default::UserWarning")
def test_certify_chooses_and_leaves_out(whole, tmp_path, capsys):
    state = {k: torch.from_numpy(x) for k, x in ij.to_torch(whole).items()}
    torch.save({**under("student.", state), **under("teacher.", {})}, tmp_path / "x.pt")
    path = f"{tmp_path}/x.pt#student"
    arch = ["--arch", "inception_v1.tv_in1k", "--image-size", "64", "--no-head"]
    assert main(["certify", path, *arch]) == 0
    found = json.loads((tmp_path / "x.pt#student.certificate.json").read_text())
    assert found["passed"]
    assert len(found["sha256"]) == 64
