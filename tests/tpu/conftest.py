from __future__ import annotations

import pytest

from tests.helpers import stand_in


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A checkout that trains the network of three layers, see `stand_in`."""
    return tmp_path_factory.mktemp("checkout")


@pytest.fixture(scope="session")
def environment(checkout):
    """What is set in the environment of what is started in the checkout."""
    return stand_in.make(checkout)


@pytest.fixture(scope="session")
def undisturbed(checkout, environment):
    """The workdir of a run on two devices that nothing disturbed."""
    return stand_in.undisturbed(environment, checkout / "undisturbed")
