from __future__ import annotations

import pytest

from tests.helpers import stand_in


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """Returns an empty folder, which the fixture `environment` fills with a stand-in.

    The stand-in takes the place of a checkout of this repository. There, `python train/main.py`
    trains a network of three layers, see `stand_in.make`.
    """
    return tmp_path_factory.mktemp("checkout")


@pytest.fixture(scope="session")
def environment(checkout):
    """Fills the folder `checkout`; returns the environment variables that runs in it need."""
    return stand_in.make(checkout)


@pytest.fixture(scope="session")
def undisturbed(checkout, environment):
    """Returns the workdir of an uninterrupted run on two devices, a reference for other runs."""
    return stand_in.undisturbed(environment, checkout / "undisturbed")
