"""Tests `inception-jax inspect` and `certify` on weight files.

`inspect` identifies the network of a file; `certify` compares this network in JAX and in PyTorch.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

import inception_jax as ij
from inception_jax.certificate import as_page, certify
from inception_jax.cli.commands import main
from inception_jax.weights import layouts
from inception_jax.weights.inspection import inspect
from tests.helpers.networks import WIDTH, filled

torch = pytest.importorskip("torch")

OPTIONS = {"width_multiplier": WIDTH, "num_classes": 10}


@pytest.fixture(scope="module")
def model():
    return filled("inception_v1.tv_in1k", **OPTIONS)


def theirs(model, layout: str) -> dict[str, np.ndarray]:
    names = next(x for x in layouts.LAYOUTS if x.name == layout).names
    state = {k: x for k, x in ij.to_torch(model).items() if not k.endswith("batches_tracked")}
    return {there: state[key] for key, there in names(state).items()}


def test_a_trainers_file(model, tmp_path, capsys):
    file = {k: torch.from_numpy(x) for k, x in theirs(model, "torchvision GoogLeNet").items()}
    state = {f"model.{key}": tensor for key, tensor in file.items()} | {"loss.w": torch.ones(3)}
    torch.save({"epoch": 3, "net": state}, tmp_path / "x.ckpt")
    assert main(["inspect", str(tmp_path / "x.ckpt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = dict(line.strip().split("  ", 1) for line in lines[1:])
    said = {title: text.strip() for title, text in said.items()}
    assert said["format"] == "PyTorch (zip)"
    assert said["container"] == "net"
    assert said["prefix"] == "model."
    assert said["layout"] == "torchvision GoogLeNet"
    assert said["names"] == "inception_v1.tv_in1k"
    assert said["classes"] == "10"
    assert said["width"].startswith("about 0.125")
    assert said["also inside"] == "loss.w"


@pytest.mark.slow
def test_readings_that_names_do_not_tell(model):
    found = inspect(ij.to_torch(model))
    assert set(found.names) == {"inception_v1", "inception_v1.slim_in1k", "inception_v1.tv_in1k"}
    assert "pad_mode" in found.facts["told apart by"]
    assert "transform_input" in found.facts["told apart by"]


def test_numbers_that_look_wrong(model):
    file = theirs(model, "torchvision GoogLeNet")
    file["conv1.bn.running_var"] = np.full_like(file["conv1.bn.running_var"], -1)
    assert "negative variances in conv1.bn" in inspect(file).facts["statistics"]
    file["conv1.bn.running_var"][:] = 1e-14
    assert "epsilon decides" in inspect(file).facts["statistics"]
    fresh = {k: np.ones_like(x) if "running_var" in k else x for k, x in file.items()}
    assert "never trained" in inspect(fresh).facts["statistics"]


def test_a_file_of_no_network_here(model):
    file = theirs(model, "torchvision GoogLeNet")
    for name in [name for name in file if name.startswith("inception4")]:
        del file[name]
    file["another.weight"] = np.ones((3, 3), np.float32)
    found = inspect(file)
    assert found.names == ()
    assert "nearest is inception_v1" in found.facts["network"]
    assert 10 < len(found.differences) <= 21
    assert found.differences[0].startswith("missing inception4a.branch1x1.")
    assert any("another.weight" in line for line in found.differences)


def test_what_is_no_file(tmp_path, capsys):
    (tmp_path / "x.pth").write_text("<html>")
    assert main(["inspect", str(tmp_path / "x.pth")]) == 2
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "an HTML page" in said[0]


def test_a_certificate(model, tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    ij.save_weights(model, path)
    assert main(["certify", str(path), "--image-size", "40"]) == 0
    assert "float64: at most" in capsys.readouterr().out
    found = json.loads((tmp_path / "x.safetensors.certificate.json").read_text())
    assert found["name"] == "inception_v1.tv_in1k"
    assert found["passed"]
    assert found["distances"]["float64"]["logits"] < 1e-12
    assert found["distances"]["float32"]["inception5b"] < 1e-5
    assert found["neighbours"]["pad_mode='tf'"] > 1e-3  # another option changes the results
    assert found["neighbours"]["bn_eps=1e-05"] > 1e-4
    assert "kernel_5x5=5" not in found["neighbours"]  # needs other tensors
    page = (tmp_path / "x.safetensors.certificate.md").read_text()
    assert "| logits |" in page
    assert "equal to rounding" in page


@pytest.mark.slow
def test_a_certificate_needs_a_reading(model, tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(ij.to_torch(model), path)
    with pytest.raises(ij.WeightsError, match=r"several readings: .*--arch"):
        certify(path)


def test_a_difference_is_said(model, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    ij.save_weights(model, path)
    monkeypatch.setattr("inception_jax.certificate.TOLERANCE", {"float32": 0.0, "float64": 0.0})
    found = certify(path, image_size=40)
    assert not found.passed
    assert "**not equal**" in as_page(found)
