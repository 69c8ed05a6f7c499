from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx

import inception_jax as ij
import reference_torch
import reference_torch.registry

ROOT = Path(__file__).parent.parent

# Parameters without and with auxiliary heads, as the publishers' own networks count them.
PARAMETERS = {
    "inception_v3": (23_834_568, 27_161_264),
    "inception_v3.fid": (23_850_960, None),
    "xception": (22_855_952, None),
}

# Height = width and channels of each stage at the published image size.
STAGES = {
    "inception_v3": [
        (149, 32), (147, 32), (147, 64), (73, 64), (73, 80), (71, 192), (35, 192),
        (35, 256), (35, 288), (35, 288),
        (17, 768), (17, 768), (17, 768), (17, 768), (17, 768),
        (8, 1280), (8, 2048), (8, 2048),
    ],
    "xception": [
        (149, 32), (147, 64), (74, 128), (37, 256), *[(19, 728)] * 9, (10, 1024), (10, 1536),
        (10, 2048),
    ],
}  # fmt: skip


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    for aux_heads, expected in zip((False, True), PARAMETERS[name], strict=True):
        if expected is None:
            continue
        model = nnx.eval_shape(lambda: ij.create_model(name, aux_heads=aux_heads))  # noqa: B023
        assert count(nnx.state(model, nnx.Param)) == expected
        with torch.device("meta"):
            twin = reference_torch.create_model(name, aux_heads=aux_heads)
        assert sum(p.numel() for p in twin.parameters()) == expected


@pytest.mark.parametrize("name", [*ij.list_models(), *ij.list_models(tags=True)])
def test_facts(name):
    info = ij.model_info(name)
    model = nnx.eval_shape(lambda: ij.create_model(name))
    assert info.num_params == count(nnx.state(model, nnx.Param))
    assert info.name == name == model.spec.name
    assert info.source
    assert info.paper.startswith("https://arxiv.org/")
    assert info.min_size <= info.input_size
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.mean = (0, 0, 0)
    with pytest.raises(TypeError):
        info.readings["bn_eps"] = 1
    # The twin's table says the same.
    _, options = reference_torch.registry._MODELS[name]
    own = {**info.readings, "num_classes": info.num_classes}
    assert {"num_classes": 1000, **options} == own


def test_both_frameworks_have_the_same_networks():
    for tags in (False, True):
        names = ij.list_models(tags=tags)
        assert names == sorted(names) == reference_torch.list_models(tags=tags)
    assert ij.list_models("inception_v3*", tags=True)[0] == "inception_v3.fid"
    assert ij.list_models("xception") == ["xception"]
    assert ij.list_models("resnet*") == []


@pytest.mark.parametrize("name", STAGES)
def test_stages_have_the_published_shapes(name):
    images = jnp.zeros((1, 299, 299, 3))

    def forward():
        model = ij.create_model(name)
        return model.features(images), model.embed(images), model(images)

    maps, vector, logits = nnx.eval_shape(forward)
    assert [m.shape for m in maps.values()] == [(1, s, s, c) for s, c in STAGES[name]]
    assert vector.shape == (1, 2048)
    assert logits.shape == (1, 1000)


@pytest.mark.parametrize("name", ij.list_models())
def test_options_of_every_network(name):
    smallest = ij.model_info(name).min_size

    def forward(channels, height, width, **options):
        model = ij.create_model(name, in_channels=channels, num_classes=7, **options)
        return model(jnp.zeros((2, height, width, channels), options.get("dtype", jnp.float32)))

    for options in ({}, {"width_multiplier": 0.3}, {"width_multiplier": 1.5}):
        out = nnx.eval_shape(lambda: forward(5, smallest, smallest + 9, **options))  # noqa: B023
        assert out.shape == (2, 7)
    half = nnx.eval_shape(lambda: forward(1, smallest, smallest, dtype=jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=f"{smallest}x{smallest}.*{smallest - 1}"):
        forward(3, smallest - 1, 299, width_multiplier=0.1)
    with pytest.raises(ValueError, match=r"3 channels.*got 4"):
        ij.create_model(name, width_multiplier=0.1)(jnp.zeros((1, 299, 299, 4)))
    with pytest.raises(TypeError, match="bn_epsilon"):
        ij.create_model(name, bn_epsilon=1e-3)


@pytest.mark.parametrize("name", ij.list_models())
def test_no_stage_hides_a_float32_copy(name):
    images = jnp.zeros((1, 160, 160, 3), jnp.bfloat16)
    model = lambda: ij.create_model(name, dtype=jnp.bfloat16)  # noqa: E731
    maps = nnx.eval_shape(lambda: model().features(images))
    assert {str(m.dtype) for m in maps.values()} == {"bfloat16"}
    stats = nnx.eval_shape(lambda: nnx.state(model(), nnx.BatchStat))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(stats)} == {"float32"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("xcepton", "xception"),
        ("inceptionv3", "inception_v3"),
        ("inception_v3.tv_in21k", "tv_in1k"),
        ("resnet50", "list_models"),
    ],
)
def test_unknown_names_come_with_near_ones(name, hint):
    for call in (ij.model_info, ij.create_model):
        with pytest.raises(ij.UnknownModelError) as error:
            call(name)
        assert name.partition(".")[2] in str(error.value)
        assert hint in str(error.value)
    with pytest.raises(reference_torch.UnknownModelError):
        reference_torch.create_model(name)


def test_auxiliary_heads_only_where_there_are_some():
    with pytest.raises(ValueError, match="no auxiliary heads"):
        ij.create_model("xception", aux_heads=True, width_multiplier=0.1)


def test_neither_package_imports_the_other_framework():
    for package, other in (("inception_jax", "torch"), ("reference_torch", "jax")):
        code = f"import sys, {package}; sys.exit({other!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "inception_jax/models").glob("[!_]*.py")))
def test_twins_define_the_same_names_in_the_same_order(path):
    """A file and its twin can be read side by side: classes, and attributes of each class."""
    ours, theirs = (
        _outline(ROOT / package / "models" / path.name)
        for package in ("inception_jax", "reference_torch")
    )
    assert ours == theirs


def _outline(path: Path) -> list[tuple[str, list[str]]]:
    classes = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)]
    return [(cls.name, _attributes(cls)) for cls in classes]


def _attributes(cls: ast.ClassDef) -> list[str]:
    targets = [t for node in ast.walk(cls) if isinstance(node, ast.Assign) for t in node.targets]
    return [
        target.attr
        for target in targets
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)
    ]
