import os

# Two virtual devices show what one device hides: shardings, global statistics, padded batches.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import hypothesis
import jax
import pytest
import torch

hypothesis.settings.register_profile(
    "suite",
    deadline=None,  # the first example compiles
    max_examples=25,
    # The fixture that forces a form of the operations holds for all examples alike.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("suite")

# Half the time to compile; what is compiled is the same, less optimised.
jax.config.update("jax_disable_most_optimizations", True)
torch.set_num_threads(1)  # the suite itself runs one process per core


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Runs a test in both precisions: rounding shrinks in float64, a mistake does not."""
    if request.param == "float32":
        yield request.param
    else:
        with jax.enable_x64(True):
            yield request.param


@pytest.fixture(scope="module")
def optimizing_compiler():
    """For tests that run long enough to earn the compiler's effort back."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def pytest_collection_modifyitems(items):
    """Keeps the tests of one network, or of one file, in one process, which then reuses it."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        group = parameters and str(parameters.params.get("name", ""))
        group = group.partition(".")[0] if group else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
