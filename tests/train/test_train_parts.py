"""Tests the parts of the training programme that need no training of a network."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

import inception_jax as ij
from tests.helpers.networks import filled
from train.config import fields, option_parser, other_words, recipes, usage
from train.config.demo import DEMO
from train.data.open_dataset import open_dataset
from train.engine.initial_weights import load_start
from train.engine.optimizer import make_optimizer
from train.engine.schedule import ScheduleOptions, learning_rate, peak_rate
from train.errors import UsageError
from train.report import reporter
from train.run.command_line import Config, changes, given, parse
from train.workdir import claim as claims
from train.workdir import identity

ROOT = Path(__file__).parents[2]


def optimizer(options, steps_per_epoch, total):
    """Returns the optimiser that a dict of options describes, with its learning rate schedule.

    `total` is the number of steps of the run.
    """
    config = fields.override(Config(), options)
    rate = learning_rate(config.schedule, 32, steps_per_epoch, total)
    return make_optimizer(config.optimizer, rate)


def test_optimizer_is_tensorflows_rmsprop():
    """Twelve RMSProp steps match TensorFlow's rule in NumPy.

    The steps have a decaying learning rate, momentum, L2 and a limit on the gradient norm.
    """
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "bias": (3,), "scale": (3,)}
    w = {k: rng.normal(size=s) for k, s in shapes.items()}
    square = {k: np.ones(s) for k, s in shapes.items()}  # TensorFlow starts it at one
    moved = {k: np.zeros(s) for k, s in shapes.items()}
    options = dict(lr_decay=0.8, lr_decay_epochs=0.5, weight_decay=0.1, clip_norm=2.0)
    steps_per_epoch = 6
    with jax.enable_x64(True):
        tx = optimizer(options, steps_per_epoch, 12)
        params = {"layer": {k: jnp.asarray(v) for k, v in w.items()}}
        state = tx.init(params)
        for step in range(12):
            grads = {k: 3 * rng.normal(size=s) for k, s in shapes.items()}
            updates, state = tx.update(
                {"layer": {k: jnp.asarray(g) for k, g in grads.items()}}, state, params
            )
            params = optax.apply_updates(params, updates)

            grads["kernel"] = grads["kernel"] + 0.1 * w["kernel"]
            norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
            rate = 0.045 * 0.8 ** (step / (0.5 * steps_per_epoch))
            for k in shapes:
                g = grads[k] * min(1, 2.0 / norm)
                square[k] = 0.9 * square[k] + 0.1 * g**2
                moved[k] = 0.9 * moved[k] + rate * g / np.sqrt(square[k] + 1.0)
                w[k] = w[k] - moved[k]
                np.testing.assert_allclose(params["layer"][k], w[k], rtol=1e-10)


def drive(tx, params, gradients):
    """Applies an optimiser to a list of gradients in float64; returns the new parameters."""
    with jax.enable_x64(True):
        params = {"layer": jax.tree.map(jnp.asarray, params)}
        state = tx.init(params)
        for grads in gradients:
            grads = {"layer": jax.tree.map(jnp.asarray, grads)}
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
    return jax.device_get(params["layer"])


def test_sgd_is_caffes():
    """Five SGD steps match Caffe's rule in NumPy.

    The rule has momentum of the updates, L2 on kernels, twice the learning rate for biases, and a
    learning rate that decays with a square root.
    """
    rng = np.random.default_rng(0)
    w = {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}
    grads = [{k: rng.normal(size=v.shape) for k, v in w.items()} for _ in range(5)]
    options = dict(optimizer="sgd", lr_schedule="polynomial", lr_power=0.5, weight_decay=0.1,
                     bias_lr_multiplier=2.0, learning_rate=0.01)  # fmt: skip
    got = drive(optimizer(options, 2, total=5), w, grads)
    v = {k: np.zeros_like(x) for k, x in w.items()}
    for step, g in enumerate(grads):
        rate = 0.01 * (1 - step / 5) ** 0.5
        v["kernel"] = 0.9 * v["kernel"] + rate * (g["kernel"] + 0.1 * w["kernel"])
        v["bias"] = 0.9 * v["bias"] + 2 * rate * g["bias"]
        w = {k: w[k] - v[k] for k in w}
    for k in w:
        np.testing.assert_allclose(got[k], w[k], rtol=1e-6)  # the rate is a float32


def test_adamw_is_pytorchs():
    rng = np.random.default_rng(0)
    w = {"kernel": rng.normal(size=(4, 3)), "scale": rng.normal(size=3)}
    grads = [{k: rng.normal(size=v.shape) for k, v in w.items()} for _ in range(6)]
    options = dict(optimizer="adamw", learning_rate=1e-2, lr_schedule="cosine", lr_floor=0.1,
                     weight_decay=0.05)  # fmt: skip
    got = drive(optimizer(options, 2, total=6), w, grads)
    torch = pytest.importorskip("torch")
    tensors = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in w.items()}
    twin = torch.optim.AdamW(
        [
            {"params": [tensors["kernel"]], "weight_decay": 0.05},
            {"params": [tensors["scale"]], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    for step, g in enumerate(grads):
        for group in twin.param_groups:
            group["lr"] = 1e-2 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * step / 6)))
        for k, tensor in tensors.items():
            tensor.grad = torch.tensor(g[k])
        twin.step()
    for k in w:
        np.testing.assert_allclose(got[k], tensors[k].detach().numpy(), rtol=1e-5)


def rates(steps, per_epoch=10, total=1000, **options):
    rate = learning_rate(ScheduleOptions(**options), 32, per_epoch, total)
    return [float(rate(step)) for step in steps]


def test_staircase_falls_at_the_end_of_its_period():
    got = rates([0, 19, 20, 39, 40], learning_rate=1.0, lr_staircase=True)
    np.testing.assert_allclose(got, [1, 1, 0.94, 0.94, 0.94**2], rtol=1e-6)
    got = rates([0, 9, 10], learning_rate=1.0, lr_staircase=True, lr_decay_images=320)
    np.testing.assert_allclose(got, [1, 1, 0.94], rtol=1e-6)


def test_warm_up_stands_in_front_of_the_schedule():
    options = dict(learning_rate=2.0, lr_staircase=True, cold_epochs=2.0, warmup_epochs=3.0)
    got = rates([0, 19, 20, 35, 50, 59, 60], **options)
    end = 0.94**2
    middle = 0.1 + (end - 0.1) / 2
    np.testing.assert_allclose(
        got, [0.2, 0.2, 0.2, 2 * middle, 2 * end, 2 * end, 2 * 0.94**3], rtol=1e-5
    )


def test_the_rate_is_in_proportion_to_the_batch_where_it_says_so():
    assert peak_rate(ScheduleOptions(learning_rate=0.165), 1024) == 0.165
    scaled = ScheduleOptions(learning_rate=0.165, lr_base_batch=256)
    assert peak_rate(scaled, 1024) == pytest.approx(0.66)
    low = rates([999], learning_rate=1.0, lr_decay_epochs=0.1, lr_floor=1e-4)
    np.testing.assert_allclose(low, 1e-4, rtol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "arch"),
    [
        *(("demo", arch) for arch in ij.list_models()),
        *((recipe, "xception") for recipe in recipes.names()[1:]),
    ],
)
def test_any_recipe_trains_any_network(recipe, arch):
    nothing = ["--eval-only"] if recipe == "finetune" else []  # it starts from weights
    config, _ = parse(["--arch", arch, "--recipe", recipe, *nothing])
    assert config.run.recipe == recipe
    assert config.input.image_size >= ij.model_info(arch).min_size


@pytest.mark.parametrize(
    ("arch", "recipe"),
    [
        ("inception_v1", "googlenet"), ("bn_inception", "bn_inception"),
        ("inception_v2", "inception_v3"), ("inception_v3", "inception_v3"),
        ("inception_v4", "inception_v4"), ("inception_resnet_v1", "inception_resnet"),
        ("inception_resnet_v2", "inception_resnet"), ("xception", "xception_imagenet"),
        ("xception65p", "xception_imagenet"), ("inception_next_atto", "inception_next_atto"),
        ("inception_next_base", "inception_next"),
    ],
)  # fmt: skip
def test_the_data_decide_the_recipe(arch, recipe):
    assert recipes.default_recipe(arch, 1_281_167) == recipe
    assert recipes.default_recipe(arch, 6000) == "demo"


def test_every_recipe_says_its_momentum_of_statistics():
    """Every recipe sets `bn_momentum`, the momentum of BatchNorm's statistics.

    The default momentum of the networks' constructors is meant for users' own training loops.
    """
    for name in recipes.names():
        options = recipes.options(name, "inception_v3", photographs=True)
        assert "bn_momentum" in options, name
    assert recipes.options("inception_v3", "xception", photographs=True)["bn_momentum"] == 0.9997


def test_options_go_over_the_recipe():
    argv = ["--arch", "inception_v3", "--batch-size", "8", "--workdir", "w", "--steps=3"]
    config, dataset = parse(argv)
    options = fields.flat(config)
    assert (options["batch_size"], str(options["workdir"]), options["steps"]) == (8, "w", 3)
    assert options["image_size"] == DEMO["inception_v3"]["image_size"]
    assert (
        str(parse(["--arch", "inception_v3"])[0].run.workdir) == "runs/inception_v3-fashion_mnist"
    )
    assert len(dataset.train) == 6000
    tpu, _ = parse(["--arch", "inception_v3", "--recipe", "inception_v3_tpu", "--lr-floor", "0"])
    rate = tpu.schedule
    assert (rate.learning_rate, rate.lr_base_batch, rate.lr_floor) == (0.165, 256, 0)


@pytest.mark.parametrize("classes", [10, 5])
def test_auxiliary_classifiers_that_a_file_lacks_start_anew(classes, tmp_path, capsys):
    small = dict(width_multiplier=0.05)
    source = filled("inception_v1", num_classes=10, **small)
    path = tmp_path / "w.safetensors"
    ij.save_weights(source, path)
    model = ij.create_model("inception_v1", num_classes=classes, aux_heads=True, **small)
    before = ij.to_torch(model)
    load_start(model, path)
    out = capsys.readouterr().out
    assert "has no aux1 and aux2: these start from random values" in out
    assert ("has no classifier of this size" in out) == (classes == 5)
    kept = ("aux1.", "aux2.", *(["fc."] if classes == 5 else []))
    after, loaded = ij.to_torch(model), ij.to_torch(source)
    assert any(name.startswith("aux1.") for name in after)
    for name, tensor in after.items():
        expected = before if name.startswith(kept) else loaded
        np.testing.assert_array_equal(tensor, expected[name], name)


def test_half_an_auxiliary_classifier_is_refused(tmp_path):
    small = dict(num_classes=10, width_multiplier=0.05, aux_heads=True)
    tensors = ij.to_torch(filled("inception_v1", **small))
    del tensors["aux1.fc1.weight"]
    safetensors.numpy.save_file(tensors, tmp_path / "w.safetensors")
    model = ij.create_model("inception_v1", **small)
    before = ij.to_torch(model)
    with pytest.raises(ij.WeightsError, match=r"1 missing: aux1\.fc1\.weight"):
        load_start(model, tmp_path / "w.safetensors")
    jax.tree.map(np.testing.assert_array_equal, ij.to_torch(model), before)


def test_a_network_without_a_recipe_is_named():
    with pytest.raises(UsageError, match="inception_v9"):
        recipes.default_recipe("inception_v9", 10**6)
    with pytest.raises(UsageError, match=r"demo\.py says nothing of inception_v9"):
        recipes.options("demo", "inception_v9", photographs=False)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--recipe", "demon"], ["demon", "demo"]),
        (["--image-size", "70"], ["--image-size 70", "71"]),
        (["--batch-size", "0"], ["--batch-size 0"]),
        (["--epochs", "nan"], ["--epochs nan"]),
        (["--learning-rate", "-1"], ["--learning-rate -1"]),
        (["--ema-decay", "1"], ["--ema-decay 1"]),
        (["--init-from", "absent.safetensors"], ["absent.safetensors"]),
        (["--freeze-backbone"], ["--freeze-backbone", "--init-from"]),
        (["--drop-path", "0.1"], ["--drop-path", "xception"]),
        (["--profile-steps", "5"], ["--profile-steps 5", "A:B"]),
        (["--crop-area-min", "0"], ["--crop-area-min 0"]),
        (["--random-erasing", "1.5"], ["--random-erasing 1.5"]),
        (["--dataset", "folder"], ["--data-dir"]),
        (["--arch"], ["--arch"]),
    ],
)
def test_unusable_options_are_named(argv, words):
    with pytest.raises(UsageError) as error:
        parse(argv)
    assert all(word in str(error.value) for word in words)


def test_help_says_default_and_unit_of_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--arch", "inception_v3", "--help-all"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in option_parser.options_of(Config()):
        words = rf"--{option.name.replace('_', '-')}\b.*?\(default:"
        assert option.text
        assert re.search(words, text, re.DOTALL), option.name
    for name in fields.flat(Config()).keys() - {"scaled"}:  # which is no option
        assert f"--{name.replace('_', '-')}" in text
    assert "default: 75" in text  # the recipe's, not the class's
    for recipe in recipes.names():
        assert re.search(rf"\b{recipe}\b", text)


def test_help_is_short_and_names_every_option(capsys):
    with pytest.raises(SystemExit):
        parse(["--arch", "inception_v3", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 70
    assert max(map(len, lines)) <= 88
    assert "  --image-size N            side of the images, in pixels (default: 75)" in lines
    for option in option_parser.options_of(Config()):
        assert any(option.flag in line.split() for line in lines), option.name
    common = [name for section in usage._COMMON.values() for name in section]
    assert len(common) == len(set(common))


def test_help_and_mistakes_do_not_wait_for_jax():
    code = """
import sys
from train.errors import UsageError
from train.run import command_line
for argv in (["--help"], ["--help-all"], ["--version"], ["--lr", "3"]):
    try:
        command_line.given(argv)
    except (SystemExit, UsageError):
        pass
assert not {"jax", "flax", "cv2", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--lr", "0.1"], "did you mean --learning-rate?"),
        (["-lr", "0.1"], "did you mean --learning-rate?"),
        (["--batchsize", "3"], "did you mean --batch-size?"),
        (["--batch=3"], "did you mean --batch-size?"),
        (["--data", "cifar"], "did you mean --data-dir or --dataset?"),
        (["--epoch", "3"], "did you mean --epochs?"),
        (["--lerning_rate", "3"], "did you mean --learning-rate or"),
        (["--resume", "x"], "the same command resumes"),
        (["--amp"], "--dtype bfloat16"),
        (["--dtype", "fp16"], "'fp16' is not float32, bfloat16 or float64; did you mean bfloat16?"),
        (["--optimizer", "adam"], "did you mean adamw?"),
        (["--eval-crops", "5"], "5 is not 1, 12 or 144"),
        (["--rewrites", "pool"], "did you mean pools?"),
        (["--batch-size", "1.5"], "'1.5' is not a whole number"),
        (["--learning-rate", "0,1"], "write 0.1"),
        (["xception"], "unexpected 'xception'"),
        (["--remat", "True"], "unexpected 'True'"),
        (["--quux"], "--help lists them"),
    ],
)
def test_mistakes_are_answered_by_name(argv, words):
    with pytest.raises(UsageError) as error:
        given(argv)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_command_line_gives():
    assert given([]) == {}
    argv = ["--image_size=32", "--no-flip", "--upright", "--rewrites", "--steps", "None",
            "--epochs", "1e-1", "--batch-size", "1e3", "--eval-crops", "12"]  # fmt: skip
    assert given(argv) == dict(image_size=32, flip=False, upright=True, rewrites=(), steps=None,
                               epochs=0.1, batch_size=1000, eval_crops=12)  # fmt: skip
    config, _ = parse(["--rewrites", "pools", "siblings", "--no-upright", "--workdir", "w"])
    assert config.network.rewrites == ("pools", "siblings")
    assert config.input.upright is False


def test_words_of_other_programs_stand_for_options_that_exist():
    names = {name.replace("_", "-") for name in fields.flat(Config())}
    flags = {"config"}
    for word, meant in other_words.OPTIONS.items():
        assert set([meant] if isinstance(meant, str) else meant) <= names, word
        assert word not in names
    assert not set(other_words.ANSWERS) & (names - flags)
    assert set(other_words.VALUES) <= set(fields.flat(Config()))


def test_what_differs_from_the_recipe():
    config, dataset = parse(["--arch", "xception", "--batch-size", "8", "--steps", "3"])
    assert changes(config, dataset) == {"batch_size": (32, 8), "steps": (None, 3)}
    argv = ["--recipe", "inception_v3_tpu", "--image-size", "299", "--workdir", "w"]
    config, dataset = parse(argv)
    assert changes(config, dataset) == {"workdir": (Path("runs/xception-fashion_mnist"), Path("w"))}


def claim(folder, total, **options):
    config = fields.override(Config(), options)
    own = identity.describe(config, open_dataset("fashion_mnist"), total)
    claims.prepare(folder)
    claims.write(folder, claims.compare(folder, config, own, None, evaluates=False))


def test_workdir_of_another_configuration(tmp_path):
    folder = tmp_path / "w"
    claim(folder, 100, batch_size=4)
    claim(folder, 100, batch_size=8)  # nothing was saved yet, so nothing can be spoilt
    (folder / "checkpoints/50").mkdir(parents=True)
    claim(folder, 9, batch_size=8, steps=9, log_every=1, rewrites=())
    with pytest.raises(UsageError, match=r"batch_size 8, now 16.*another --workdir"):
        claim(folder, 100, batch_size=16)
    (folder / "config.json").write_text('{"arch": ')
    with pytest.raises(UsageError, match=r"batch_size 8, now 16"):
        claim(folder, 100, batch_size=16)  # run.json has them too
    (folder / "run.json").unlink()
    with pytest.raises(UsageError, match="damaged"):
        claim(folder, 100, batch_size=8)


def test_an_option_that_a_workdir_does_not_know_had_its_default(tmp_path):
    claim(tmp_path, 100)
    (tmp_path / "checkpoints/50").mkdir(parents=True)
    stored = json.loads((tmp_path / "run.json").read_text())
    del stored["configuration"]["options"]["mixup"]
    (tmp_path / "run.json").write_text(json.dumps(stored))
    (tmp_path / "config.json").write_text(json.dumps(stored["configuration"]["options"]))
    claim(tmp_path, 100)
    with pytest.raises(UsageError, match=r"mixup 0\.0, now 0\.8"):
        claim(tmp_path, 100, mixup=0.8)


def test_a_rate_that_falls_to_the_end_needs_the_same_end(tmp_path):
    cosine = dict(lr_schedule="cosine")
    claim(tmp_path, 100, **cosine)
    (tmp_path / "checkpoints/50").mkdir(parents=True)
    claim(tmp_path, 100, **cosine)
    with pytest.raises(UsageError, match="last_step 100, now 120"):
        claim(tmp_path, 120, **cosine)


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        claim(tmp_path / "file/w", 100)


@dataclasses.dataclass(frozen=True)
class Inner:
    size: Annotated[int | None, fields.POSITIVE, fields.MAY_CHANGE] = None
    share: Annotated[float, fields.NOT_NEGATIVE, fields.BELOW_ONE] = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    name: str = "a"


def test_options_are_flat_wherever_they_are_nested():
    options = fields.override(Outer(), {"size": 3, "name": "b"})
    assert options == Outer(Inner(size=3), "b")
    assert fields.flat(options) == {"size": 3, "share": 0.5, "name": "b"}
    assert fields.may_change(options) == {"size"}
    with pytest.raises(TypeError, match="no such option: siez"):
        fields.override(Outer(), {"siez": 3})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": 0}, "--size 0: must be above zero"),
        ({"share": -0.1}, "--share -0.1: must be at least 0"),
        ({"share": 1.0}, "--share 1.0: must be at least 0 and below 1"),
        ({"share": float("nan")}, "--share nan: must be a finite number"),
    ],
)
def test_a_range_stands_on_its_field(values, words):
    fields.check_ranges(Outer())
    with pytest.raises(UsageError, match=f"^{re.escape(words)}$"):
        fields.check_ranges(fields.override(Outer(), values))


def test_no_two_options_have_one_name():
    config = Config()
    parts = [getattr(config, field.name) for field in dataclasses.fields(config)]
    assert sum(len(fields.flat(part)) for part in parts) == len(fields.flat(config))


def test_metrics_after_the_last_checkpoint_are_dropped(tmp_path, capsys):
    steps = [{"kind": "train", "step": s, "loss": 1.0, "lr": 0.1} for s in (10, 20, 30)]
    lines = [json.dumps(entry) for entry in steps]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"kind": "tra')
    options = reporter.ReportOptions()
    report = reporter.Reporter(options, tmp_path, 20, 100, 10, batch_size=8, configuration={})
    report.train(30, {"loss": 2.0, "lr": 0.1})
    report.close()
    entries = reporter.read_metrics(tmp_path)
    assert [entry["step"] for entry in entries] == [10, 20, 30]
    assert entries[-1]["loss"] == 2.0
    assert "step 30/100  epoch 3.00  loss 2.0000" in capsys.readouterr().out
