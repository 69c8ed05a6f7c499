"""Property tests of the converter: a file loads exactly, or fails and loads nothing."""

from __future__ import annotations

import functools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import test_layouts
import test_slim_files

import inception_jax as ij
from inception_jax.weights import layouts, torch_names
from tests.helpers.networks import DEEP, WIDTH, filled

# The smallest network of each kind of layout.
FILES = ["inception_v1.tv_in1k", "bn_inception.caffe_in1k", "inception_v1.slim_in1k"]

# Loading a file takes a tenth of a second. A file is damaged in one of four ways, or loses names at
# random, so few examples suffice.
few = hypothesis.settings(max_examples=10)


@functools.cache
def file_of(name: str):
    """Returns a network, and the tensors of its weight file by our names and by published names.

    Auxiliary classifiers, which the network does not have, are only among the published names.
    """
    model = filled(name, width_multiplier=WIDTH, num_classes=10)
    if name.endswith("slim_in1k"):
        ours = test_slim_files.numbers(model)
        return model, ours, test_slim_files.variables(name, ours)
    aux = {"aux_heads": True} if name == "inception_v1.tv_in1k" else {}
    foreign, ours = test_layouts.numbered(name, num_classes=10, **aux)
    return model, {k: v for k, v in ours.items() if not k.startswith("aux")}, foreign


def state(model) -> list[np.ndarray]:
    return [np.array(leaf) for _, leaf in torch_names.walk(torch_names.state_of(model))]


def loaded(model, expected) -> bool:
    now = ij.to_torch(model)
    return all(np.array_equal(now[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("name", FILES)
@few
@hypothesis.given(data=st.data())
def test_any_order_and_wrapping(name, data):
    model, expected, file = file_of(name)
    names = data.draw(st.permutations(list(file)))
    prefix = data.draw(st.sampled_from(["", "module."]))
    ij.load_weights(model, {f"{prefix}{key}": file[key] for key in names})
    assert loaded(model, expected)


def needed(file: dict[str, np.ndarray]) -> list[str]:
    return [key for key in file if not key.endswith("batches_tracked") and key[:3] != "aux"]


@pytest.mark.parametrize("name", FILES)
@few
@hypothesis.given(data=st.data())
def test_lost_tensors_are_named_and_nothing_is_loaded(name, data):
    model, _, file = file_of(name)
    lost = data.draw(st.sets(st.sampled_from(needed(file)), min_size=1, max_size=30))
    before = state(model)
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(model, {key: file[key] for key in file if key not in lost})
    assert len(error.value.missing) >= len(lost)
    assert f"{len(error.value.missing)} missing" in str(error.value)
    assert str(error.value).count(",") < 80  # twenty of each are shown
    assert all(map(np.array_equal, before, state(model)))


@pytest.mark.parametrize("name", FILES)
@few
@hypothesis.given(
    extra=st.text(st.sampled_from("abc019._/"), min_size=1, max_size=12),
    shape=st.lists(st.integers(0, 3), max_size=4),
)
def test_unknown_tensors_are_named_and_nothing_is_loaded(name, extra, shape):
    model, _, file = file_of(name)
    before = state(model)
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(model, {**file, f"zz.{extra}": np.zeros(shape, np.float32)})
    assert error.value.unexpected == (f"zz.{extra}",)
    assert all(map(np.array_equal, before, state(model)))


@pytest.mark.parametrize("name", FILES)
@few
@hypothesis.given(data=st.data())
def test_misshapen_or_infinite_tensors_are_named_and_nothing_is_loaded(name, data):
    model, _, file = file_of(name)
    key = data.draw(st.sampled_from(needed(file)))
    damage = data.draw(st.sampled_from([_longer, _with_an_axis, _infinite, _nan]))
    before = state(model)
    with pytest.raises(ij.WeightsError):
        ij.load_weights(model, {**file, key: damage(file[key])})
    assert all(map(np.array_equal, before, state(model)))


def _longer(tensor: np.ndarray) -> np.ndarray:
    return np.concatenate([tensor, tensor], axis=-1)


def _with_an_axis(tensor: np.ndarray) -> np.ndarray:
    return np.stack([tensor, tensor])


def _infinite(tensor: np.ndarray) -> np.ndarray:
    broken = tensor.astype(np.float32).copy()
    broken.flat[-1] = -np.inf
    return broken


def _nan(tensor: np.ndarray) -> np.ndarray:
    broken = tensor.astype(np.float16)
    broken.flat[0] = np.nan
    return broken


@pytest.mark.parametrize("layout", [x for x in layouts.LAYOUTS if x.names], ids=lambda x: x.name)
def test_names_are_one_to_one(layout):
    """No two of our tensors map to the same name in a file, so writing loses no tensor."""
    for arch in set(layout.archs) - DEEP:
        model = test_layouts.build(arch)
        names = layout.names(torch_names.torch_shapes(model))
        assert len(set(names.values())) == len(names)
