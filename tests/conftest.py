import gc
import importlib
import os
import re
from importlib.metadata import version

# Two virtual devices show faults that one device hides, in shardings, global statistics and padded
# batches.
_FLAGS = "--xla_force_host_platform_device_count=2"
# XLA's older loop emitter compiles in a third of the time. Later releases do not have it, and abort
# if they get an unknown flag.
if version("jaxlib") < "0.11":
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _FLAGS)

# The suite runs one process per core, so PyTorch and BLAS must not start threads of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jax
import pytest

import inception_jax as ij
from inception_jax.nn import gradients
from tests.helpers.networks import forget

hypothesis.settings.register_profile(
    "suite",
    deadline=None,  # the first example compiles
    max_examples=25,
    # Fixtures with function scope are set up once for all examples of a test, as intended.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("suite")

_NETWORKS = set(ij.list_models())

# This halves the time to compile, and makes the compiled programs slower.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Runs a test in float32 and float64, and yields the dtype's name.

    Rounding errors shrink in float64, mistakes do not.
    """
    if request.param == "float32":
        yield request.param
    else:
        with jax.enable_x64(True):
            yield request.param


@pytest.fixture
def own_gradients_everywhere(monkeypatch):
    """Makes the rewrite `gradients` apply to small convolutions too, which it normally skips.

    The rewrite gives convolutions custom gradients; see `inception_jax.nn.rewrites`.
    """
    monkeypatch.setattr(gradients, "_LARGE_MAP", 1)
    monkeypatch.setattr(gradients, "_LEAST_CHANNELS", 1)


@pytest.fixture(scope="module")
def optimizing_compiler():
    """Enables the compiler's optimisations, for tests that run long enough to benefit."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Returns a scheduler for pytest-xdist that keeps tests with common caches in one process.

    All tests of a network run in one process. Of the other tests, those of a file run in one
    process.
    """
    # pytest-xdist's marks cannot be used: pytest 9.2 does not pass them on.
    scheduler = importlib.import_module("xdist.scheduler").LoadScopeScheduling(config, log)
    scheduler._split_scope = _group
    config.option.loadscopereorder = False  # in the order of collection, see below
    return scheduler


_LONGEST = ("tests/train/test_train_main.py",)


def pytest_collection_modifyitems(items):
    """Puts the longest groups of tests first, so that all processes end at about the same time."""

    def rank(item) -> int:
        group = _group(item.nodeid)
        if group in _LONGEST:
            return _LONGEST.index(group)
        return len(_LONGEST) + (group not in _NETWORKS)

    items.sort(key=rank)


def _group(nodeid):
    file, _, test = nodeid.partition("::")
    words = re.findall(r"\w+", test.partition("[")[2])
    return next((word for word in words if word in _NETWORKS), file)


@pytest.fixture(scope="session")
def last_group():
    return [None]


@pytest.fixture(autouse=True)
def forget_the_last_network(request, last_group):
    """Clears caches before a test whose network or file differs from that of the test before.

    The compiled programs of all networks would fill the memory. `last_group` is a list of one item:
    the network or file of the test before; None before the first test.
    """
    group = _group(request.node.nodeid)
    if last_group[0] not in (None, group):
        forget()
        jax.clear_caches()
        gc.collect()
    last_group[0] = group
