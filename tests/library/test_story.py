"""Tests that docs/story.md has the figures of benchmarks/story.py and existing drawings."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import inception_jax as ij
from train.engine.training_options import OptimizerOptions

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "story.md"


@pytest.fixture(scope="module")
def story():
    return importlib.import_module("benchmarks.story")


def _written(page: Path) -> dict[str, str]:
    """Returns the sections of a page that `benchmarks/story.py` writes, by name."""
    pattern = r"^<!-- (?!end )(.+?) -->\n(.*?)\n<!-- end \1 -->$"
    return dict(re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE))


@pytest.mark.slow
def test_the_tables_are_what_is_counted(story):
    written, counted = _written(PAGE), story.tables(PAGE.parent)
    assert list(written) == list(counted), "the page has other sections"
    stale = [name for name in counted if written[name] != counted[name]]
    assert not stale, f"run python benchmarks/story.py: {stale}"


def test_the_speeds_are_those_of_the_page_on_performance(story):
    """The speeds in docs/story.md are those in docs/performance.md.

    The test is not marked slow, so that new measurements show at once what else must be updated.
    """
    speeds = story.speeds(PAGE.with_name("performance.md"))
    assert _written(PAGE)["speeds"] == speeds, "run python benchmarks/story.py"


def test_what_the_papers_count(story):
    """Counts match the papers: the depths of GoogLeNet and BN-Inception, and the cost of module 3a.

    Module 3a is GoogLeNet's; its cost is its parameters and multiply-adds. BN-Inception adds nine
    layers to GoogLeNet's modules, and three layers in a new module.
    """
    googlenet = story.whole("inception_v1.bvlc_in1k")
    assert googlenet.deep == 22
    assert story.whole("bn_inception").deep == 22 + 9 + 3
    module = story.network("inception_v1.bvlc_in1k").inception3a
    found = story.cost(module, 28, 28, 192)
    assert (found.params // 1024, round(found.macs / 1e6)) == (159, 128)


@pytest.mark.slow
def test_what_the_text_says_of_the_tables(story):
    whole = story.whole
    v3, v4 = whole("inception_v3"), whole("inception_v4")
    # "Rethinking" claims 2.5 times BN-Inception's computation. The V4 paper claims equal costs.
    base = whole("bn_inception").macs
    assert whole("inception_v2.blog").macs < 2.5 * base < whole("inception_v2.paper").macs
    assert whole("inception_resnet_v1.paper").macs == pytest.approx(v3.macs, rel=0.1)
    assert whole("inception_resnet_v2").macs == pytest.approx(v4.macs, rel=0.1)
    figures = whole("inception_resnet_v2.paper")
    assert figures.macs < 0.8 * v4.macs
    assert figures.layers < v4.layers < whole("inception_resnet_v2").layers
    # V3's module is between three and four of Xception's segments.
    module = story.network("inception_v3").Mixed_6e
    three, four = (story.cost(lambda n=n: story.Segments(768, n), 17, 17, 768) for n in (3, 4))
    assert four.params < story.cost(module, 17, 17, 768).params < three.params
    # Two 3x3 compute less than a 5x5, and move more.
    one, two = story.convs(35, 96, 5), story.convs(35, 96, 3, 3)
    assert two.macs / one.macs == two.params / one.params == pytest.approx(18 / 25)
    assert two.moved > one.moved


def test_the_longest_way_is_counted(story):
    """Depth is the number of convolutions on the longest path; a shorter branch is ignored."""
    short, long = story.conv(8, 8), nnx.Sequential(story.conv(8, 8), story.Pool(), story.conv(8, 8))
    both = story.SideBySide(nnx.Sequential(short, story.Pool()), long)
    found = story.cost(both, 9, 9, 8)
    assert (found.deep, found.layers, found.shape) == (2, 3, (4, 4, 16))
    # Three kernels of 64 weights; three maps of 648 values that they read, and so on.
    maps = 9 * 9 * 8, 4 * 4 * 8
    assert found.moved == 3 * 64 + 2 * (2 * maps[0] + maps[0] + maps[1]) + 2 * maps[1]


@pytest.mark.slow
def test_drawings_can_be_drawn():
    from inception_jax import drawing

    targets = set(re.findall(r"\]\(gallery/([^)]+)\)", PAGE.read_text()))
    assert any(target.endswith(".svg") for target in targets)
    modules: dict[str, Any] = {}
    for target in sorted(targets):
        name, _, rest = target.partition(".")
        assert name in ij.list_models(), target
        module = rest.removesuffix("svg").removesuffix("md").rstrip(".")
        if module:
            modules.setdefault(name, []).append(module)
    for name, wanted in modules.items():
        assert set(wanted) <= set(drawing.modules(name)), name


def test_smoothed_labels_ask_for_finite_logits(story):
    """With smoothed labels, the gradient vanishes at a finite gap between the logits.

    The formula for this gap is in docs/story.md, and a table there lists the gap.
    """
    classes, share = 10, 0.1
    gap = math.log(1 + classes * (1 - share) / share)
    targets = optax.smooth_labels(jax.nn.one_hot(jnp.array(0), classes), share)
    logits = jnp.zeros(classes).at[0].set(gap)
    loss, gradient = jax.value_and_grad(optax.softmax_cross_entropy)(logits, targets)
    assert jnp.abs(gradient).max() < 1e-6
    assert f"| {gap:.2f} | {loss:.3f} |" in story.story_training.smoothing()


def test_rmsprop_with_epsilon_one_is_nearly_sgd(story):
    """With epsilon 1, RMSProp's steps settle at a small gradient itself, and at 1 for a large one.

    The gradient is constant, and the learning rate is 1. The form of RMSProp is TensorFlow's. Its
    first step for a small gradient is the gradient divided by about the root of 2. docs/story.md
    has these numbers.
    """
    options = OptimizerOptions(rms_eps=1.0)
    first, later = story.story_training.step_sizes(options, 0.001, torch_form=False)
    assert first == pytest.approx(0.001 / math.sqrt(2), rel=0.05)
    assert later == pytest.approx(0.001, rel=1e-4)
    assert story.story_training.step_sizes(options, 10.0, False)[1] == pytest.approx(1, abs=0.01)
