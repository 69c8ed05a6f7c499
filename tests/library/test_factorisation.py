"""Tests how many parameters factorised convolutions save, counted in the networks' modules.

The papers replace a 5x5 with two 3x3, an nxn with a 1xn and an nx1, a full convolution with a
depthwise and a pointwise one, and a large depthwise window with a small one, a 1xn and an nx1.
"""

from __future__ import annotations

import jax
import pytest
from flax import nnx

from inception_jax.nn.layers import Conv
from tests.helpers.networks import skeleton


def kernels(*layers: nnx.Module) -> int:
    """Counts the parameters of kernels only, as the papers do, not of biases and BatchNorm."""
    state = nnx.to_pure_dict(nnx.state(list(layers), nnx.Param))
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")


def full(in_channels: int, out_channels: int, window: int) -> int:
    build = lambda: Conv(in_channels, out_channels, window, rngs=nnx.Rngs(0))  # noqa: E731
    return kernels(nnx.eval_shape(build))


def test_two_3x3_for_a_5x5():
    """A 5x5 has 25/18 times the parameters of two 3x3.

    The 128 channels are those of BN-Inception's inception4b.
    """
    block = skeleton("bn_inception").inception4b
    last = kernels(block.branch3x3dbl_3)
    assert last == 9 * 128 * 128
    assert full(128, 128, 5) / (2 * last) == pytest.approx(25 / 18)


def test_inception_v2_takes_the_5x5_of_v3_apart():
    """In Mixed_5b, V3's 5x5 has 25/9 times the parameters of the 3x3 that replaces it in V2.

    In both networks, a 1x1 convolution with 48 output channels comes before.
    """
    ours, v3 = (skeleton(name).Mixed_5b for name in ("inception_v2", "inception_v3"))
    assert kernels(v3.branch5x5_2) / kernels(ours.branch3x3_2) == pytest.approx(25 / 9)


@pytest.mark.parametrize(
    ("name", "n", "saving"), [("inception_v2.blog", 3, 1.5), ("inception_v2.paper", 7, 3.5)]
)
def test_1xn_and_nx1_for_an_nxn(name, n, saving):
    """An nxn has n/2 times the parameters of a 1xn and an nx1 together.

    The pair saves 33 % for n = 3, and 71 % for n = 7.
    """
    block = skeleton(name).Mixed_6e  # 192 channels throughout
    pair = kernels(block.branchnxn_2, block.branchnxn_3)
    assert full(192, 192, n) / pair == pytest.approx(saving) == n / 2


def test_depthwise_separable():
    """Xception's separable convolution has 1/728 + 1/9 of a full 3x3's parameters."""
    layer = skeleton("xception").block5.sepconv1
    separable = kernels(layer.depthwise, layer.pointwise)
    assert separable == 9 * 728 + 728 * 728
    assert full(728, 728, 3) / separable == pytest.approx(1 / (1 / 728 + 1 / 9))


def test_bands_for_a_large_depthwise_window():
    """InceptionNeXt leaves 60 of 96 channels unchanged.

    A 3x3, a 1x11 and an 11x1 depthwise convolution get 12 channels each.
    """
    mixer = skeleton("inception_next_tiny").stages[0].blocks[0].token_mixer
    assert mixer.identity == 60
    assert kernels(mixer) == 12 * (9 + 11 + 11)
    assert 96 * 11 * 11 / kernels(mixer) > 31
