from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax.analysis import macs
from inception_jax.analysis.macs import count_macs
from inception_jax.create import abstract_model
from inception_jax.nn.layers import BatchNorm
from tests.helpers.networks import deep_ones_slow, one_of_each_kind, skeleton

ROOT = Path(__file__).parents[2]

# Numbers of parameters in the original implementations or in the papers' tables.
PARAMETERS = [
    ("inception_v1", {}, 6_624_904),
    ("inception_v1", {"aux_heads": True}, 13_004_888),
    ("inception_v1", {"kernel_5x5": 5}, 7_005_832),
    ("inception_v1.tv_in1k", {}, 6_624_904),
    ("inception_v1.bvlc_in1k", {}, 6_998_552),
    ("inception_v1.bvlc_in1k", {"aux_heads": True}, 13_378_280),
    ("bn_inception", {}, 11_295_240),
    ("bn_inception.caffe_in1k", {}, 11_295_240),
    ("inception_v2", {}, 23_326_696),
    ("inception_v2.paper", {"aux_heads": True}, 26_653_392),
    ("inception_v2.blog", {}, 20_672_488),
    ("inception_v2.blog", {"aux_heads": True}, 23_999_184),
    ("inception_v3", {}, 23_834_568),
    ("inception_v3", {"aux_heads": True}, 27_161_264),
    ("inception_v3.fid", {}, 23_850_960),
    ("inception_v4", {}, 42_679_816),
    ("inception_resnet_v1", {}, 23_995_624),
    ("inception_resnet_v1", {"head": "classifier"}, 24_357_096),
    ("inception_resnet_v1.paper", {}, 22_756_328),
    # The network with an embedding of 512 has 23,482,624; the classifier has the rest.
    ("inception_resnet_v1.vggface2", {}, 23_482_624 + 513 * 8_631),
    ("inception_resnet_v1.casia_webface", {}, 23_482_624 + 513 * 10_575),
    ("inception_resnet_v2", {}, 55_843_464),
    ("inception_resnet_v2.paper", {}, 32_433_928),
    ("inception_resnet_v2.paper", {"blocks": (10, 20, 10)}, 55_284_488),
    ("xception", {}, 22_855_952),
    ("xception41", {}, 26_969_560),
    ("xception65", {}, 39_916_312),
    ("xception71", {}, 42_338_736),
    ("xception41p", {}, 26_907_752),
    ("xception65p", {}, 39_819_560),
    ("inception_next_atto", {}, 4_156_520),
    ("inception_next_tiny", {}, 28_055_680),
    ("inception_next_small", {}, 49_374_016),
    ("inception_next_base", {}, 86_672_136),
]

# The constants of TF-slim's own tests. They count BatchNorm's statistics, but not the
# classifier, nor BatchNorm's scale, which TF-slim does not have.
SLIM_NUMBERS = {
    "inception_v1.slim_in1k": 5_607_184,
    "bn_inception.slim_in1k": 10_173_112,
    "inception_v3.slim_in1k": 21_802_784,
}

# Numbers of tensors in the published PyTorch files.
TENSORS = {
    "bn_inception.caffe_in1k": 485,
    "inception_v4.tf_in1k": 896,
    "inception_resnet_v2.tf_in1k": 1306,
    "xception.tf_in1k": 276,
    "xception41": 506,
    "xception65": 794,
    "xception71": 878,
    "xception41p": 286,
    "inception_next_atto": 226,
    "inception_next_tiny": 322,
}

# Billions of multiply-accumulates per image, from timm's benchmarks.
GIGAMACS = {
    "inception_v3": 5.73,
    "inception_v4": 12.28,
    "inception_resnet_v2": 13.18,
    "xception": 8.40,
    "xception41": 9.28,
    "xception65": 13.96,
    "xception71": 18.09,
    "inception_next_atto": 0.50,
    "inception_next_tiny": 4.19,
    "inception_next_small": 8.36,
    "inception_next_base": 14.85,
    "inception_next_base.sail_in1k_384": 43.64,
}

# Height = width and channels of each stage at the published image size.
_STEM = [(149, 32), (147, 32), (147, 64)]
_V1 = [(112, 64), (56, 64), (56, 64), (56, 192), (28, 192)]
_V4_STEM = [*_STEM, (73, 160), (71, 192), (35, 384)]
_V3_STEM = [*_STEM, (73, 64), (73, 80), (71, 192)]
_ALIGNED_STEM = [(150, 32), (150, 64)]
_ALIGNED_EXIT = [(10, 1024), (10, 2048)]
STAGES = {
    "inception_v1": [
        *_V1, (28, 256), (28, 480), (14, 480), (14, 512), (14, 512), (14, 512), (14, 528),
        (14, 832), (7, 832), (7, 832), (7, 1024),
    ],
    "bn_inception": [
        *_V1, (28, 256), (28, 320), (14, 576), (14, 576), (14, 576), (14, 608), (14, 608),
        (7, 1056), (7, 1024), (7, 1024),
    ],
    "bn_inception.slim_in1k": [
        *_V1, (28, 256), (28, 320), *[(14, 576)] * 5, (7, 1024), (7, 1024), (7, 1024),
    ],
    "inception_v2": [
        *_STEM, (73, 64), (71, 80), (35, 192), *[(35, 288)] * 3, *[(17, 768)] * 5, (8, 1280),
        (8, 2048), (8, 2048),
    ],
    "inception_v3": [
        *_V3_STEM, (35, 192), (35, 256), (35, 288), (35, 288), *[(17, 768)] * 5, (8, 1280),
        (8, 2048), (8, 2048),
    ],
    "inception_v4": [*_V4_STEM, *[(35, 384)] * 4, *[(17, 1024)] * 8, *[(8, 1536)] * 4],
    "inception_resnet_v1.paper": [
        *_V3_STEM, (35, 256), (35, 256), (17, 896), (17, 896), (8, 1792), (8, 1792),
    ],
    "inception_resnet_v2": [
        *_V3_STEM, (35, 192), (35, 320), (35, 320), (17, 1088), (17, 1088), (8, 2080), (8, 2080),
        (8, 1536),
    ],
    "inception_resnet_v2.paper": [
        *_V4_STEM, (35, 384), (17, 1152), (17, 1152), (8, 2144), (8, 2144),
    ],
    "xception": [
        (149, 32), (147, 64), (74, 128), (37, 256), *[(19, 728)] * 9, (10, 1024), (10, 1536),
        (10, 2048),
    ],
    "xception41": [*_ALIGNED_STEM, (75, 128), (38, 256), *[(19, 728)] * 9, *_ALIGNED_EXIT],
    "xception65": [*_ALIGNED_STEM, (75, 128), (38, 256), *[(19, 728)] * 17, *_ALIGNED_EXIT],
    "xception71": [
        *_ALIGNED_STEM, (75, 128), (75, 256), (38, 256), (38, 728), *[(19, 728)] * 17,
        *_ALIGNED_EXIT,
    ],
    "xception41p": [
        *_ALIGNED_STEM, (75, 128), (38, 256), *[(19, 728)] * 9, *_ALIGNED_EXIT, (10, 2048),
    ],
    "inception_next_atto": [(56, 40), (56, 40), (28, 80), (14, 160), (7, 320)],
    "inception_next_tiny": [(56, 96), (56, 96), (28, 192), (14, 384), (7, 768)],
}  # fmt: skip


def abstract(name: str, **options) -> nnx.Module:
    """Returns a network with shapes instead of arrays.

    Tags with the same shapes share one network, because tracing takes seconds.
    """
    info = ij.model_info(name)
    same = ("bn_eps", "bn_momentum", "dropout", "drop_path", "count_include_pad", "pad_mode")
    readings = {k: v for k, v in info.readings.items() if k not in same}
    return _abstract(info.arch, num_classes=info.num_classes, **(readings | options))


@functools.cache
def _abstract(arch: str, **options) -> nnx.Module:
    return skeleton(arch, **options)


def twin(name: str, **options):
    """Returns a network's PyTorch twin without allocated tensors."""
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        return importlib.import_module("reference_torch").create_model(name, **options)


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("name", "options", "expected"), PARAMETERS)
def test_parameter_counts(name, options, expected):
    assert count(nnx.state(abstract(name, **options), nnx.Param)) == expected
    assert sum(p.numel() for p in twin(name, **options).parameters()) == expected


@pytest.mark.parametrize("name", SLIM_NUMBERS)
def test_counts_of_slim(name):
    model = abstract(name)
    numbers = count(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    scales = sum(
        norm.scale.size for _, norm in nnx.iter_modules(model) if isinstance(norm, BatchNorm)
    )
    assert numbers - scales - count(nnx.state(model.fc)) == SLIM_NUMBERS[name]


@pytest.mark.parametrize("name", TENSORS)
def test_as_many_tensors_as_the_publishers_file(name):
    assert len(twin(name).state_dict()) == TENSORS[name]


@pytest.mark.parametrize("name", GIGAMACS)
def test_multiply_accumulates(name):
    """Counts agree with timm's within 1 %; timm also counts normalisations."""
    size = ij.model_info(name).input_size
    assert count_macs(abstract(name), (size, size)) == pytest.approx(GIGAMACS[name] * 1e9, rel=0.01)


@pytest.mark.parametrize("name", [*ij.list_models(), *ij.list_models(tags=True)])
def test_facts(name):
    info = ij.model_info(name)
    assert info.num_params == count(nnx.state(abstract(name), nnx.Param))
    assert info.name == name
    assert info.source
    assert info.paper.startswith("https://arxiv.org/")
    assert info.min_size <= info.input_size
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.mean = (0, 0, 0)
    with pytest.raises(TypeError):
        info.readings["bn_eps"] = 1


def test_facts_travel():
    """`ModelInfo` can be pickled, copied, hashed and written as JSON."""
    info = ij.model_info("inception_resnet_v1.paper")
    assert pickle.loads(pickle.dumps(info)) == copy.deepcopy(info) == info
    assert {info, pickle.loads(pickle.dumps(info))} == {info}
    assert info != dataclasses.replace(info, readings={})
    facts = json.loads(json.dumps(dataclasses.asdict(info)))
    assert facts["readings"]["blocks"] == [5, 10, 5]
    assert pickle.loads(pickle.dumps(info)).readings["blocks"] == (5, 10, 5)
    with pytest.raises(ij.UnknownModelError) as error:
        ij.model_info("inceptionv3")
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_statistics_follow_within_a_short_run():
    """Every network's BatchNorm has a momentum of 0.9 by default.

    Then 30 training steps reduce the share of the initial running statistics to 4 %. The papers'
    momenta are in the papers' training recipes.
    """
    for tags in (False, True):
        for name in ij.list_models(tags=tags):
            options = ij.model_info(name).options
            assert options.get("bn_momentum", 0.9) == 0.9, name


def test_own_options():
    """`ModelInfo.options` maps the class's own options to the tag's values.

    Options that every network has are not included.
    """
    options = ij.model_info("inception_next_base.sail_in1k_384").options
    assert options == {
        "size": "base", "drop_path": 0.7, "dropout": 0.5, "bn_eps": 1e-5, "bn_momentum": 0.9,
    }  # fmt: skip
    assert "drop_path" not in ij.model_info("inception_v3").options


def test_the_registry_builds_nothing():
    """The registry imports no code that reads weights, builds networks or traces them."""
    code = """
import sys, types
package = types.ModuleType("inception_jax")  # without what its own __init__ imports
package.__path__ = ["inception_jax"]
sys.modules["inception_jax"] = package
from inception_jax import models, registry
assert registry.list_models()
print(*[name for name in sys.modules if name.startswith("inception_jax.")])
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rooms = {name.split(".")[1] for name in found.stdout.split()}
    assert rooms == {"models", "nearest", "nn", "registry", "words"}


def test_both_frameworks_have_the_same_networks():
    twins = pytest.importorskip("reference_torch.registry")
    for tags in (False, True):
        names = ij.list_models(tags=tags)
        assert names == twins.list_models(tags=tags)
        for name in names:
            info, (_, options) = ij.model_info(name), twins._MODELS[name]
            own = {**info.readings, "num_classes": info.num_classes}
            assert {"num_classes": 1000, **options} == own, name
    with pytest.raises(twins.UnknownModelError):
        twins.create_model("xcepton")


def test_names_are_listed_in_order():
    names = ij.list_models(tags=True)
    assert names == sorted(names)
    assert ij.list_models("inception_v3*", tags=True)[0] == "inception_v3.fid"
    assert ij.list_models("xception") == ["xception"]
    assert ij.list_models("resnet*") == []


@pytest.mark.parametrize("name", deep_ones_slow(list(STAGES)))
def test_stages_have_the_published_shapes(name):
    size = 299 if name == "inception_resnet_v1.paper" else ij.model_info(name).input_size
    images = jnp.zeros((1, size, size, 3))

    graphdef, state = nnx.split(abstract(name))

    def forward(state):
        model = nnx.merge(graphdef, state)
        return model.features(images), model.embed(images), model(images)

    maps, vector, logits = jax.eval_shape(forward, state)
    shapes = [m.shape for stage, m in maps.items() if stage not in abstract(name).inner_taps]
    assert shapes == [(1, s, s, c) for s, c in STAGES[name]]
    assert vector.shape == (1, STAGES[name][-1][1])
    assert logits.shape == (1, 1000)


@pytest.mark.parametrize(("stride", "side"), [(32, 5), (16, 10), (8, 20)])
@pytest.mark.parametrize("name", deep_ones_slow(["xception41", "xception65p", "xception71"]))
def test_output_stride(name, stride, side):
    """A smaller output stride replaces strides with dilation, so the feature map is larger."""
    images = jnp.zeros((1, 160, 160, 3))
    model = skeleton(name, output_stride=stride)
    graphdef, state = nnx.split(model)
    maps = jax.eval_shape(lambda state: nnx.merge(graphdef, state).features(images), state)
    assert list(maps.values())[-1].shape == (1, side, side, 2048)
    # At output stride 8, timm's rule removes a 728x728 shortcut and its BatchNorm from xception71.
    less = 728 * 728 + 2 * 728 if (name, stride) == ("xception71", 8) else 0
    numbers = count(nnx.state(model, nnx.Param))
    assert numbers == ij.model_info(name).num_params - less
    with pytest.raises(ValueError, match="output_stride 8, 16 or 32"):
        ij.create_model(name, output_stride=4, width_multiplier=0.1)


@pytest.mark.parametrize("name", one_of_each_kind(ij.list_models()))
def test_options_of_every_network(name):
    """Every network supports custom channels, classes and widths, and non-square images.

    Errors name the size, number of channels or option that is wrong.
    """
    smallest = ij.model_info(name).min_size
    for channels, width in ((5, 0.3), (1, 1.2)):
        options = {"in_channels": channels, "width_multiplier": width, "num_classes": 7}
        model = abstract_model(name, **options)
        assert model.spec.name == name
        assert apply(model, (2, smallest, smallest + 9, channels)).shape == (2, 7)
    with pytest.raises(ValueError, match=f"{smallest}x{smallest}.*{smallest - 1}"):
        apply(model, (1, smallest - 1, 299, 1))
    with pytest.raises(ValueError, match=r"1 channels.*got 4"):
        apply(model, (1, 299, 299, 4))
    with pytest.raises(TypeError, match="bn_epsilon"):
        ij.create_model(name, bn_epsilon=1e-3)


def apply(model: nnx.Module, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    graphdef, state = nnx.split(model)
    return jax.eval_shape(lambda state: nnx.merge(graphdef, state)(jnp.zeros(shape)), state)


@pytest.mark.parametrize("name", one_of_each_kind(ij.list_models()))
def test_no_stage_hides_a_float32_copy(name):
    images = jnp.zeros((1, 160, 160, 3), jnp.bfloat16)
    model = skeleton(name, dtype=jnp.bfloat16)
    graphdef, state = nnx.split(model)
    maps = jax.eval_shape(lambda state: nnx.merge(graphdef, state).features(images), state)
    assert {str(m.dtype) for m in maps.values()} == {"bfloat16"}
    # Between the stages, all inputs of convolutions and matrix products are bfloat16 too.
    program = jax.make_jaxpr(lambda state: nnx.merge(graphdef, state)(images))(state)
    operands = [
        str(operand.aval.dtype)
        for equation in macs.equations(program.jaxpr)
        if equation.primitive.name in ("conv_general_dilated", "dot_general")
        for operand in equation.invars
    ]
    assert set(operands) == {"bfloat16"}
    stats = nnx.state(model, nnx.BatchStat)
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


def test_auxiliary_heads_only_where_there_are_some():
    with pytest.raises(ValueError, match="no auxiliary heads"):
        ij.create_model("xception", aux_heads=True, width_multiplier=0.1)


def test_neither_package_imports_the_other_framework():
    for package, other in (("inception_jax", "torch"), ("reference_torch", "jax")):
        pytest.importorskip(package)
        code = f"import sys; from {package} import *; sys.exit({other!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "inception_jax/models").glob("[!_]*.py")))
def test_twins_define_the_same_names_in_the_same_order(path):
    """A model's file and its twin define equal classes, bases and attributes in the same order."""
    ours, theirs = (
        _outline(ROOT / package / "models" / path.name)
        for package in ("inception_jax", "reference_torch")
    )
    assert ours == theirs


def _outline(path: Path) -> list[tuple[str, list[str], list[str]]]:
    classes = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)]
    return [(cls.name, _bases(cls), _attributes(cls)) for cls in classes]


def _bases(cls: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).rpartition(".")[2] for base in cls.bases]  # without `nn`, `nnx`


def _attributes(cls: ast.ClassDef) -> list[str]:
    """Returns the attributes that `__init__` assigns, not those that `fold` assigns later."""
    built = [n for n in cls.body if not isinstance(n, ast.FunctionDef) or n.name == "__init__"]
    assigned = [n for part in built for n in ast.walk(part) if isinstance(n, ast.Assign)]
    targets = [target for node in assigned for target in node.targets]
    return [
        target.attr
        for target in targets
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)
    ]
