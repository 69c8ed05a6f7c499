"""Every network reproduces numbers that its PyTorch twin computed; PyTorch is not needed."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import inception_jax as ij
from tests import reference_numbers

# Sums over whole tensors. Terms cancel, in some sums to a thousandth of their size.
SUMS = ("gradients", "change of statistics")
# float32 is compared with float64. Normalising by statistics of few values amplifies rounding.
TOLERANCE = {"float64": 1e-9, "float32": 1e-2}


def only(names):
    """Returns all networks as test parameters; networks not in `names` are marked slow."""
    return [n if n in names else pytest.param(n, marks=pytest.mark.slow) for n in ij.list_models()]


@pytest.fixture(scope="module")
def file():
    return json.loads(reference_numbers.FILE.read_text())


def test_no_network_is_forgotten(file):
    assert list(file) == ij.list_models()


def assert_same(found, expected, rtol):
    assert set(found) == set(expected)
    for what, value in expected.items():
        if what in SUMS:
            assert list(found[what]) == list(value)
            for name, number in value.items():
                np.testing.assert_allclose(
                    found[what][name], number, rtol=1000 * rtol, err_msg=f"{what} {name}"
                )
        else:
            scale = np.abs(value).max()
            np.testing.assert_allclose(found[what], value, rtol=0, atol=rtol * scale, err_msg=what)


# The other networks are compared in continuous integration.
USUAL = {"inception_v1", "inception_resnet_v1"}


@pytest.mark.parametrize("name", only(USUAL))
def test_jax_gives_the_numbers_of_the_file(name, file):
    with jax.enable_x64(True):
        found = reference_numbers.of_jax(name, "float64")
    assert_same(found, file[name], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ij.list_models())
def test_float32_is_near(name, file):
    """Float32 gives the twin's stored numbers within 1 %.

    The quantities in `SUMS` are skipped, because so many of their terms cancel that rounding
    dominates.
    """
    found = reference_numbers.of_jax(name, "float32")
    kept = {what: value for what, value in file[name].items() if what not in SUMS}
    assert_same({what: found[what] for what in kept}, kept, 1e-2)


@pytest.mark.parametrize("name", only({"inception_v1", "inception_next_atto"}))
def test_the_twin_gives_the_numbers_of_the_file(name, file):
    pytest.importorskip("torch")
    assert_same(reference_numbers.of_pytorch(name), file[name], 1e-10)
