"""Tests `--compile-only`: estimates from compiled programs, and the search for the largest batch.

Tests with a compiler for TPUs or GPUs run only if the extra `tpu` or `cuda` is installed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from flax import nnx
from jax.sharding import SingleDeviceSharding

import inception_jax as ij
from train.compile import estimates, hlo, topology, training_step
from train.compile.compiler import TooLargeError
from train.config.fields import override
from train.errors import UsageError
from train.run.command_line import parse

ROOT = Path(__file__).parents[2]

# ruff: noqa: E501
TEXT = """\
HloModule jit_train_step

%fused_computation (p: bf16[8,8]) -> bf16[8,8] {
  %p = bf16[8,8]{1,0} parameter(0)
  ROOT %add.9 = bf16[8,8]{1,0} add(%p, %p), backend_config={"estimated_cycles":"999"}
}

ENTRY %main (a: f32[4,2], b: bf16[10]) -> (f32[4,2]) {
  %a = f32[4,2]{1,0:T(8,128)} parameter(0)
  %fusion.1 = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} fusion(%a), kind=kLoop, backend_config={"window_config":{"estimated_cycles":"1826"}}
  %all-reduce.1 = f32[4,2]{1,0} all-reduce(%a), channel_id=1, replica_groups={{0,1}}
  %all-reduce.2 = (f32[3]{0}, bf16[10]{0}, bf16[2,5]{1,0}) all-reduce(%x, %y, %z), channel_id=2
  %ag = (f32[2]{0}, f32[4]{0}) all-gather-start(%q), dimensions={0}
  %agd = f32[4]{0} all-gather-done(%ag)
  %ar3 = f32[] all-reduce-start(%s), to_apply=%sum
  %send.3 = (f32[1,1,128]{2,1,0:T(1,128)}, u32[], token[]) send(%ar3, %after-all.3), channel_id=11
  %send-done.3 = token[] send-done(%send.3), channel_id=11
  %cc = pred[16]{0} custom-call(), custom_call_target="AllocateBuffer"
  %unknown = f32[2]{0} fusion(%q), backend_config={"estimated_cycles":"1152921504606846976"}
  %copy-start.1 = (f32[2]{0}, f32[2]{0}, u32[]) copy-start(%q)
  %gte = f32[3]{0} get-tuple-element(%all-reduce.2), index=0
  ROOT %t = (f32[4,2]{1,0}) tuple(%all-reduce.1)
}

%later (p: f32[]) -> f32[] {
  ROOT %l = f32[] fusion(%p), backend_config={"estimated_cycles":"5"}
}
"""


def test_exchanges_are_read_by_kind_and_dtype():
    found = {(c.kind, c.dtype): (c.count, c.bytes, c.largest) for c in hlo.collectives(TEXT)}
    assert found == {
        ("all-reduce", "f32"): (3, 32 + 12 + 4, 32),
        ("all-reduce", "bf16"): (1, 40, 40),
        ("all-gather", "f32"): (1, 16, 16),  # its result, not its operand
        ("send", "f32"): (1, 512, 512),
    }


def test_cycles_are_summed_over_the_entry_computation():
    total, without = hlo.cycles(TEXT)
    assert total == 1826
    assert without == {
        "all-reduce": 2, "all-gather-start": 1, "all-gather-done": 1, "all-reduce-start": 1,
        "custom-call": 1, "fusion": 1, "copy-start": 1, "send": 1, "send-done": 1,
    }  # fmt: skip
    assert hlo.custom_calls(TEXT) == 1


def test_a_roofline_gets_back_what_unknown_operations_took():
    found = {"optimal_seconds": -230.918, "custom_calls": 231, "grad_accum": 1}
    assert estimates._roofline(found) == pytest.approx(0.082)
    assert estimates._roofline({**found, "grad_accum": 4}) == pytest.approx(0.328)
    assert estimates._roofline({**found, "custom_calls": 0}) is None
    # Custom calls for which the compiler subtracts nothing.
    assert estimates._roofline({**found, "optimal_seconds": 0.05}) == pytest.approx(0.05)
    assert estimates._roofline({**found, "optimal_seconds": None}) is None


def test_memory_is_read_out_of_a_refusal():
    refusal = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (40.64G) exceeds available HBM (15.75G)"
    )
    assert topology.required(refusal) == round(40.64 * 2**30)
    assert topology.available(refusal) == round(15.75 * 2**30)
    assert topology.required("another reason") is None


@pytest.mark.parametrize(
    "name", ["", "v5e", "v5e:", "v5e:4", "v5e:0x4", "v5e:4x4x4x4", "0*v5e:2x2", "v5e-17", "v5e:axb"]
)
def test_what_is_no_topology_is_refused(name):
    with pytest.raises(UsageError, match="--compile-only"):
        topology.describe(name)


def test_a_missing_compiler_is_named_with_its_extra(monkeypatch):
    def missing(package: str) -> str:
        raise topology.PackageNotFoundError(package)

    monkeypatch.setattr(topology, "version", missing)
    with pytest.raises(UsageError, match=r"libtpu: pip install .*\[train,tpu\]"):
        topology.describe("v5e:2x2")
    with pytest.raises(UsageError, match=r"jax-cuda13-plugin: pip install .*\[train,cuda\]"):
        topology.describe("h100:1x8")


@pytest.mark.parametrize("largest", [1, 5, 8, 31, 120, 128, 1000, 20_000])
@pytest.mark.parametrize("start", [1, 32, 4096])
@pytest.mark.parametrize("growth", [0.7, 1.0, 1.2])
def test_the_largest_batch_is_found_in_a_few_steps(monkeypatch, largest, start, growth):
    """The search finds the largest batch in at most eight compilations.

    Memory grows as a power of the batch size. The search does not know the exponent.
    """
    tried = []

    def compile_step(settings, dataset, target):
        each = settings.batch.batch_size // 4
        tried.append(each)
        needed = 100 + 1000 * (each / largest) ** growth
        if each > largest:
            raise TooLargeError("", round(needed), 1100)
        return {"memory_bytes": needed, "capacity_bytes": 1100}

    monkeypatch.setattr(training_step, "compile_step", compile_step)
    settings, dataset = parse(
        ["--arch", "inception_v3", "--compile-only", "v5e:2x2", "--batch-size", str(4 * start)]
    )
    target = SimpleNamespace(devices=range(4))
    found = training_step.largest_batch(settings, dataset, target) / 4
    assert found <= largest
    assert found >= largest - max(8, largest / 16) if largest > 8 else found == largest
    assert len(tried) == len(set(tried)) <= 8


def test_nothing_fits(monkeypatch):
    def compile_step(*_):
        raise TooLargeError("", 3000, 1000)

    monkeypatch.setattr(training_step, "compile_step", compile_step)
    settings, dataset = parse(["--compile-only", "v5e:2x2", "--batch-size", "64"])
    assert training_step.largest_batch(settings, dataset, SimpleNamespace(devices=range(4))) == 0


def test_no_data_are_needed_to_compile():
    settings, dataset = parse(["--arch", "inception_v4", "--compile-only", "v5e:2x2"])
    assert (settings.run.recipe, settings.data.dataset) == ("inception_v4", "imagenet2012")
    assert (len(dataset.train), len(dataset.classes)) == (1_281_167, 1000)
    settings, dataset = parse(["--compile-only", "v5e:2x2", "--dataset", "fashion_mnist"])
    assert (settings.run.recipe, len(dataset.classes)) == ("demo", 10)
    with pytest.raises(UsageError, match="--grad-reduce bfloat16"):
        parse(["--grad-reduce", "bfloat16"])


# ---- With the compiler of the TPUs ----

SMALL = ["--arch", "xception", "--width-multiplier", "0.05", "--image-size", "71",
         "--dtype", "bfloat16"]  # fmt: skip

compiler = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs the extra `tpu`")


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    """Returns a function that runs `train/main.py` in a separate process.

    The function takes options. It returns the exit code, the compiler's report as a dict, the
    standard output and the standard error.
    """
    cache = tmp_path_factory.mktemp("cache")

    def main(*options: str):
        done = subprocess.run(
            [sys.executable, str(ROOT / "train/main.py"), *options],
            env={**os.environ, "XLA_FLAGS": "", "INCEPTION_JAX_CACHE": str(cache)},
            text=True,
            capture_output=True,
            check=False,
        )
        last = done.stdout.splitlines()[-1] if done.stdout else ""
        found = json.loads(last) if last.startswith("{") else {}
        return done.returncode, found, done.stdout, done.stderr

    return main


@compiler
@pytest.mark.slow
def test_a_step_is_compiled_for_devices_that_are_not_there(main):
    options = [*SMALL, "--compile-only", "v5e:2x2", "--batch-size", "32"]
    code, found, out, err = main(*options)
    assert code == 0, err
    assert (found["devices"], found["chips"], found["device_kind"]) == (4, 4, "TPU v5 lite")
    # All arguments except the batch are donated. They are larger than the state because of the
    # padding of tiles, which is smaller in wider networks.
    assert found["donated_bytes"] >= found["state_bytes"]
    assert found["argument_bytes"] - found["donated_bytes"] < 0.1 * found["argument_bytes"]
    used = sum(found[f"{n}_bytes"] for n in ("argument", "output", "temporary", "code"))
    assert found["memory_bytes"] == used - found["donated_bytes"]
    assert 15e9 < found["capacity_bytes"] < 17.2e9
    assert found["flops"] > 0
    assert found["roofline_seconds"] > 0
    assert found["cycles_seconds"] is None  # the estimate is useless at this effort
    assert {c["dtype"] for c in found["collectives"]} == {"f32"}
    assert "roofline" in out

    again = main(*options)
    assert again[1] == found  # from the cache, compile time included

    code, narrow, _, err = main(*options, "--grad-reduce", "bfloat16")
    assert code == 0, err
    sums = {c["dtype"]: c["bytes"] for c in narrow["collectives"] if c["kind"] == "all-reduce"}
    before = {c["dtype"]: c["bytes"] for c in found["collectives"] if c["kind"] == "all-reduce"}
    # Most sums that were in float32 are now in bfloat16, with half the bytes.
    assert sums["f32"] + 2 * sums["bf16"] == pytest.approx(before["f32"], rel=0.02)
    assert sums["bf16"] > sums["f32"]


@compiler
@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_said_with_the_largest_that_does(main):
    options = [*SMALL, "--compile-only", "v5e:2x2"]
    code, _, out, err = main(*options, "--batch-size", str(4 * 100_000))
    assert code == 1
    assert "images a device need" in out
    largest = int(err.split("--batch-size ")[1].split()[0])
    assert "Traceback" not in err
    code, found, _, err = main(*options, "--batch-size", str(largest))
    assert code == 0, err
    assert 0.8 < found["memory_bytes"] / found["capacity_bytes"] <= 1


@compiler
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["v5e:3x3"], "there is no such topology"),
        (["v6e:2x2", "--compile-effort", "full"], "--compile-effort forced"),
        (["v5e:2x2", "--dtype", "float64"], "float64"),
        (["v5e:4x4", "--batch-size", "24"], "not a multiple of 16 devices"),
    ],
)
def test_what_cannot_be_compiled_is_said_at_once(main, options, words):
    code, _, _, err = main("--arch", "xception", "--compile-only", *options)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


@compiler
@pytest.mark.parametrize(
    ("name", "devices", "chips", "kind"),
    [
        ("v5e:1x1", 1, 1, "TPU v5 lite"),
        ("v5e:16x16", 256, 256, "TPU v5 lite"),
        ("v5litepod-8", 8, 8, "TPU v5 lite"),
        ("v6e:2x2", 4, 4, "TPU v6 lite"),
        ("v6e-256", 256, 256, "TPU v6 lite"),
        ("v5p:2x2x1", 4, 4, "TPU v5"),
        ("v4:2x2x2", 8, 8, "TPU v4"),  # two cores as one device
        ("v3:2x2", 8, 4, "TPU v3"),
        ("tpu7x:2x2x1", 8, 4, "TPU7x"),
        ("2*v5e:4x4", 32, 32, "TPU v5 lite"),
    ],
)
def test_topologies(name, devices, chips, kind):
    found = topology.describe(name)
    assert (len(found.devices), found.chips, found.kind) == (devices, chips, kind)


def test_every_option_of_a_run_changes_nothing_else():
    """`--compile-only` changes no option of a run except the data set and the workdir."""
    one, _ = parse([*SMALL, "--recipe", "xception_imagenet"])
    other, _ = parse([*SMALL, "--recipe", "xception_imagenet", "--compile-only", "v5e:2x2"])
    own = {"dataset": one.data.dataset, "workdir": one.run.workdir}
    same = override(other, {"compile_only": None, **own})
    assert same == one


# ---- With the compiler of the GPUs ----


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax_cuda13_plugin") is None, reason="needs the extra `cuda`")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2", "xception"])
def test_no_feature_map_is_transposed_on_gpus(name, training):
    """XLA's program for an H100 transposes kernels, but no feature map, in bfloat16.

    Feature maps are known by the number of images, 13, which is no other array's dimension.
    """
    sharding = SingleDeviceSharding(topology.describe("h100:1x1").devices[0])
    model = nnx.eval_shape(lambda: ij.create_model(name, dtype="bfloat16", num_classes=10))
    model.eval()
    graphdef, state = nnx.split(model)

    def loss(state, images):
        return nnx.merge(graphdef, state)(images).astype("float32").sum()

    size = ij.model_info(name).input_size
    state, images = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        (state, jax.ShapeDtypeStruct((13, size, size, 3), "bfloat16")),
    )
    program = jax.jit(jax.grad(loss) if training else loss).lower(state, images).compile()
    text = program.as_text()
    assert text.count("__cudnn$conv") > 50
    transposed = re.findall(r" = \w+\[([\d,]+)\]\S* transpose\(", text)
    assert len(transposed) > 50
    assert not [shape for shape in transposed if "13" in shape.split(",")]
