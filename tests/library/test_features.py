"""Tests the feature maps of stages, the tables that describe stages, and Grad-CAM."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import inception_jax as ij
from inception_jax.analysis import explain, macs
from inception_jax.cli.contact_sheet import contact_sheet
from tests.helpers.networks import WIDTH, filled, network, one_of_each_kind, run, skeleton

# num_chs and reduction of timm's feature_info.
TIMM = {
    "inception_v3": [(64, 2), (192, 4), (288, 8), (768, 16), (2048, 32)],
    "inception_v4": [(64, 2), (160, 4), (384, 8), (1024, 16), (1536, 32)],
    "inception_resnet_v2": [(64, 2), (192, 4), (320, 8), (1088, 16), (1536, 32)],
    "xception": [(64, 2), (128, 4), (256, 8), (728, 16), (2048, 32)],
    "xception41": [(128, 2), (256, 4), (728, 8), (1024, 16), (2048, 32)],
    "xception41p": [(128, 2), (256, 4), (728, 8), (1024, 16), (2048, 32)],
    "inception_next_atto": [(40, 4), (80, 8), (160, 16), (320, 32)],
}


@pytest.mark.parametrize("name", one_of_each_kind([*ij.list_models(), "inception_resnet_v2.paper"]))
def test_every_stage_is_described(name):
    model = skeleton(name)
    infos = ij.model_info(name).feature_info
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, 640, 512, 3), jnp.float32)
    maps = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s).features(x), state, images)
    assert [info.name for info in infos] == list(maps)
    for info in infos:
        _, h, w, c = maps[info.name].shape
        assert c == info.channels
        # Unpadded convolutions remove at most six pixels of the last map.
        assert 0 <= 640 / info.reduction - h < 7
        assert 0 <= 512 / info.reduction - w < 7
    taps = [(info.channels, info.reduction) for info in infos if info.tap]
    assert tuple(info.name for info in infos if info.tap) == model.taps
    # The taps' reductions are distinct and increase.
    assert [r for _, r in taps] == sorted({r for _, r in taps})
    assert taps == TIMM.get(name, taps)


def test_widths_and_strides_are_described():
    model = skeleton("xception41", width_multiplier=0.5, output_stride=16)
    taps = [(i.channels, i.reduction) for i in ij.feature_info(model) if i.tap]
    assert taps == [(64, 2), (128, 4), (364, 8), (512, 16), (1024, 16)]


def test_some_stages_without_the_rest():
    model = filled("inception_v1.tv_in1k", width_multiplier=WIDTH)
    images = np.random.default_rng(0).normal(size=(2, 70, 96, 3)).astype(np.float32)
    extract = ij.feature_extractor(model, ["inception3b", "conv3"])
    maps = extract(images)
    assert list(maps) == ["conv3", "inception3b"]  # in forward order, not as requested
    every, _ = run(model, lambda m, x: m.features(x), images)
    for name, map in maps.items():
        np.testing.assert_allclose(map, every[name], rtol=1e-4, atol=1e-5)
    # The extractor also works in another compiled function, and can be differentiated.
    gradient = jax.jit(jax.grad(lambda x: extract(x)["conv3"].sum()))(images)
    assert gradient.shape == images.shape
    assert np.abs(gradient).max() > 0
    assert list(ij.feature_extractor(model)(images)) == list(model.taps)
    with pytest.raises(ValueError, match=r"no stage 'inception3'; there is .*inception3"):
        ij.feature_extractor(model, ["inception3"])
    with pytest.raises(ValueError, match="no stage is named"):
        ij.feature_extractor(model, [])
    with pytest.raises(ValueError, match="at least"):
        extract(images[:, :8])


def test_what_is_not_asked_for_is_not_computed():
    model = filled("inception_v1.tv_in1k", width_multiplier=WIDTH)
    images = jnp.zeros((1, 64, 64, 3))
    costs = []
    for stage in ("conv3", "inception5b"):
        extract = jax.jit(ij.feature_extractor(model, [stage]))
        costs.append(extract.lower(images).compile().cost_analysis()["flops"])
    assert costs[0] < 0.7 * costs[1]


@pytest.mark.parametrize("name", ["inception_v1", "xception41p", "inception_next_atto"])
def test_a_hook_sees_and_replaces_maps(name):
    model = filled(name, width_multiplier=WIDTH, num_classes=7)
    size = model.min_size
    images = jax.random.normal(jax.random.key(0), (2, size, size + 8, 3))

    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state, images):
        model = nnx.merge(graphdef, state)
        maps = model.features(images)
        return maps, model.classify(maps), model(images)

    @jax.jit
    def hooked(state, images):
        seen = {}

        def hook(name, map):
            seen[name] = map
            return 0 * map

        maps = nnx.merge(graphdef, state).features(images, hook=hook)
        assert list(seen) == list(maps)
        return seen, maps

    maps, classified, logits = run(state, images)
    np.testing.assert_array_equal(classified, logits)
    seen, replaced = hooked(state, images)
    assert list(replaced) == list(maps)
    assert not any(map.any() for map in replaced.values())
    first, last = next(iter(maps)), next(reversed(maps))
    np.testing.assert_array_equal(seen[first], maps[first])
    assert not np.allclose(seen[last], maps[last])


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("inception_v1", "inception4e"),
        ("inception_v1", None),
        pytest.param("xception", "block13_sepconv1_act", marks=pytest.mark.slow),
        pytest.param("xception41p", "block12_conv2", marks=pytest.mark.slow),
    ],
)
def test_grad_cam(name, stage):
    """Heat maps equal Grad-CAM's definition, computed with gradients from finite differences."""
    with jax.enable_x64(True):
        model = network(name, "float64")
        size = model.min_size + 20
        images = jax.random.normal(jax.random.key(1), (2, size, size + 8, 3), "float64")
        classes = np.array([3, 1])
        heat, logits = explain.grad_cam(model, stage=stage)(images, classes)
        (expected, maps), _ = run(model, lambda m, x: (m(x), m.features(x)), images)
        np.testing.assert_allclose(logits, expected, rtol=1e-8)
        stage = stage or model.taps[-1]
        map = maps[stage]

        @jax.jit
        def rest(map):
            hook = lambda name, found: map if name == stage else found  # noqa: E731
            return model.classify(model.features(images, hook=hook))

        step = 1e-5  # a smaller one drowns in the rounding of large logits
        weights = []
        for channel in range(map.shape[-1]):
            moved = map.at[..., channel].add(step)
            back = map.at[..., channel].add(-step)
            change = (rest(moved) - rest(back))[np.arange(2), classes] / (2 * step)
            weights.append(change / np.prod(map.shape[1:3]))
        summed = np.maximum(np.einsum("nhwc,cn->nhw", map, np.stack(weights)), 0)
        expected = np.asarray(jax.image.resize(summed, images.shape[:3], "bilinear"))
        expected = expected / np.maximum(expected.max((1, 2), keepdims=True), 1e-30)
    assert heat.shape == images.shape[:3]
    np.testing.assert_allclose(heat, expected, atol=2e-4)


def test_grad_cam_takes_the_likeliest_class_and_known_stages():
    model = filled("inception_v1.tv_in1k", width_multiplier=WIDTH, num_classes=6)
    images = jax.random.normal(jax.random.key(2), (3, 64, 64, 3))
    cam = explain.grad_cam(model)
    heat, logits = cam(images)
    again, _ = cam(images, logits.argmax(-1))
    np.testing.assert_array_equal(heat, again)
    others, _ = cam(images, logits.argmin(-1))
    assert np.abs(heat - others).max() > 0.1
    assert float(heat.min()) >= 0
    assert float(heat.max()) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"no stage 'Mixed_5b'"):
        explain.grad_cam(model, stage="Mixed_5b")


def test_heat_is_laid_over_the_picture():
    picture = Image.new("RGB", (40, 30), (10, 120, 200))
    heat = np.zeros((6, 8), np.float32)
    heat[:, 4:] = 1
    mixed = np.asarray(explain.overlaid(picture, heat))
    assert mixed.shape == (30, 40, 3)
    np.testing.assert_array_equal(mixed[15, 2], (10, 120, 200))  # no heat: unchanged
    assert mixed[15, 38, 0] > 100  # yellow


def test_contact_sheet():
    pictures = [Image.new("RGB", (50 + i, 90), (10 * i, 0, 0)) for i in range(7)]
    page = contact_sheet(pictures, [(f"image {i}", "x" * 200) for i in range(7)])
    assert page.width < 4 * 190
    rows = -(-7 // 3)
    assert page.height > rows * 168
    assert contact_sheet(pictures[:1], [()]).width < 200


@pytest.mark.parametrize("name", one_of_each_kind(ij.list_models()))
def test_summary(name):
    info = ij.model_info(name)
    model = skeleton(name, **({"aux_heads": True} if info.aux_heads else {}))
    table = ij.summary(model)
    assert table.params == sum(stage.params for stage in table.stages) == info.num_params
    assert table.macs == macs.count_macs(skeleton(name), (info.input_size,) * 2)
    everything = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert table.params + table.aux_params == everything
    names = [stage.name for stage in table.stages]
    inner = set(model.inner_taps)
    assert names == [*(i.name for i in info.feature_info if i.name not in inner), "classifier"]
    text, page = str(table), table._repr_html_()
    for stage in table.stages:
        assert stage.kind
        assert f"{stage.params:,}" in text
        assert stage.name in page


def test_a_network_in_training_is_looked_at_in_evaluation():
    """Features, heat maps, predictions and summaries of a network in training use evaluation mode.

    The networks stay in training mode. One has dropout and an auxiliary classifier, one drop path.
    """
    options = dict(width_multiplier=WIDTH, aux_heads=True, dropout=0.5)
    model = filled("inception_v1.tv_in1k", **options)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)

    def looked_at() -> list:
        heat, logits = explain.grad_cam(model)(images)
        return [ij.feature_extractor(model)(images), heat, logits, ij.jit_predict(model)(images)]

    expected, table = looked_at(), str(ij.summary(model, 64))
    infos = ij.feature_info(model)
    model.train()
    jax.tree.map(np.testing.assert_array_equal, looked_at(), expected)
    assert str(ij.summary(model, 64)) == table
    assert ij.feature_info(model) == infos
    assert model.inception3a.branch1x1.bn.use_running_average is False  # as it was
    model = filled("inception_next_atto", width_multiplier=WIDTH, drop_path=0.5)
    model.train()
    assert ij.feature_info(model)[-1].reduction == 32


def test_summary_of_blocks_and_sizes():
    table = ij.summary("inception_resnet_v2", (299, 331))
    stages = {stage.name: stage for stage in table.stages}
    assert stages["block17"].kind == "20 x Block17"
    assert stages["block17"].shape == (17, 19, 1088)
    assert stages["MaxPool_3a_3x3"].kind == "max pool"
    assert stages["classifier"].shape == (1000,)
    assert ij.summary("inception_next_atto", 64).macs < ij.summary("inception_next_atto").macs
    with pytest.raises(ValueError, match="75x75"):
        ij.summary("inception_v3", 32)


def test_repr_is_a_line():
    model = skeleton("inception_v3.tv_in1k", width_multiplier=0.5)
    assert repr(model) == str(model)
    assert repr(model).startswith("InceptionV3('inception_v3.tv_in1k' x0.5, ")
    assert "\n" not in repr(model)


def test_face_embeddings_of_length_one():
    few = {"blocks": (2, 2, 2)}
    model = network("inception_resnet_v1.vggface2", "float32", **few)
    images = np.random.default_rng(3).normal(size=(2, 80, 80, 3)).astype(np.float32)
    both = lambda m, x: (m.embed(x, normalise=True), m.embed(x))  # noqa: E731
    vectors, plain = map(np.asarray, run(model, both, images)[0])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        vectors, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5, atol=1e-7
    )
    twins = pytest.importorskip("tests.helpers.twins")
    twin = twins.twin_of(model, "inception_resnet_v1.vggface2", "float32", **few)
    expected = twin.embed(twins.to_nchw(images), normalise=True)
    np.testing.assert_allclose(vectors, expected.detach(), atol=2e-5)
