"""What taking convolutions apart saves, counted in the modules themselves.

The claims are those with which the papers argue: two 3x3 for a 5x5, 1xn and nx1 for an nxn,
depthwise and pointwise for both at once, bands for a large depthwise window.
"""

from __future__ import annotations

import jax
import pytest
from flax import nnx

from inception_jax.nn.layers import Conv
from tests.helpers.networks import skeleton


def kernels(*layers: nnx.Module) -> int:
    """Numbers in the kernels of some layers: the papers do not count biases and BatchNorm."""
    state = nnx.to_pure_dict(nnx.state(list(layers), nnx.Param))
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")


def full(in_channels: int, out_channels: int, window: int) -> int:
    build = lambda: Conv(in_channels, out_channels, window, rngs=nnx.Rngs(0))  # noqa: E731
    return kernels(nnx.eval_shape(build))


def test_two_3x3_for_a_5x5():
    """25/18 at equal widths: BN-Inception's pair is 3x3x128 and 3x3x128 in 4b."""
    block = skeleton("bn_inception").inception4b
    last = kernels(block.branch3x3dbl_3)
    assert last == 9 * 128 * 128
    assert full(128, 128, 5) / (2 * last) == pytest.approx(25 / 18)


def test_inception_v2_takes_the_5x5_of_v3_apart():
    """Mixed_5b has a 3x3 where V3 has a 5x5, after the same 1x1 to 48 channels."""
    ours, v3 = (skeleton(name).Mixed_5b for name in ("inception_v2", "inception_v3"))
    assert kernels(v3.branch5x5_2) / kernels(ours.branch3x3_2) == pytest.approx(25 / 9)


@pytest.mark.parametrize(
    ("name", "n", "saving"), [("inception_v2.blog", 3, 1.5), ("inception_v2.paper", 7, 3.5)]
)
def test_1xn_and_nx1_for_an_nxn(name, n, saving):
    """n/2: 33 % of a 3x3 and 71 % of a 7x7 are saved."""
    block = skeleton(name).Mixed_6e  # 192 channels throughout
    pair = kernels(block.branchnxn_2, block.branchnxn_3)
    assert full(192, 192, n) / pair == pytest.approx(saving) == n / 2


def test_depthwise_separable():
    """1 / (1/728 + 1/9): Xception's middle flow has a ninth of a full 3x3, nearly."""
    layer = skeleton("xception").block5.sepconv1
    separable = kernels(layer.depthwise, layer.pointwise)
    assert separable == 9 * 728 + 728 * 728
    assert full(728, 728, 3) / separable == pytest.approx(1 / (1 / 728 + 1 / 9))


def test_bands_for_a_large_depthwise_window():
    """InceptionNeXt: of 96 channels 60 pass, three twelves meet 3x3, 1x11 and 11x1."""
    mixer = skeleton("inception_next_tiny").stages[0].blocks[0].token_mixer
    assert mixer.identity == 60
    assert kernels(mixer) == 12 * (9 + 11 + 11)
    assert 96 * 11 * 11 / kernels(mixer) > 31
