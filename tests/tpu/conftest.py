from __future__ import annotations

import pytest

from tests.helpers import stand_in


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """Returns an empty folder, in which `environment` makes a small stand-in for this repository.

    In the stand-in, `python train/main.py` trains a network of three layers; see `stand_in.make`.
    """
    return tmp_path_factory.mktemp("checkout")


@pytest.fixture(scope="session")
def environment(checkout):
    """Writes a small stand-in for this repository; returns the environment variables of its runs.

    It is written to `checkout`.
    """
    return stand_in.make(checkout)


@pytest.fixture(scope="session")
def undisturbed(checkout, environment):
    """Returns the workdir of an uninterrupted run on two devices, a reference for other runs."""
    return stand_in.undisturbed(environment, checkout / "undisturbed")
