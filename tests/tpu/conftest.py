from __future__ import annotations

import pytest

from tests.helpers import stand_in


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """Folder of a checkout that trains the network of three layers, see `stand_in`.

    The fixture `environment` fills it.
    """
    return tmp_path_factory.mktemp("checkout")


@pytest.fixture(scope="session")
def environment(checkout):
    """Fills the checkout; returns environment variables for programs that are started in it."""
    return stand_in.make(checkout)


@pytest.fixture(scope="session")
def undisturbed(checkout, environment):
    """Workdir of an uninterrupted run on two devices, to compare others with."""
    return stand_in.undisturbed(environment, checkout / "undisturbed")
