from __future__ import annotations

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import inception_jax as ij
from inception_jax.weights import torch_names
from inception_jax.weights.loading import unfit_heads
from tests.helpers.keras_layers import keras_tensors, later, xception_layers
from tests.helpers.networks import (
    WIDTH,
    filled,
    one_of_each_kind,
    options_for,
    random_images,
    run,
    skeleton,
)

torch = pytest.importorskip("torch")
import safetensors.torch

from tests.helpers.twins import pair, to_nchw

ARCHS = one_of_each_kind(ij.list_models())


def fresh(name: str, **options) -> nnx.Module:
    """Returns a network whose tensors differ from those of `pair`; nothing is compiled."""
    model = skeleton(name, width_multiplier=WIDTH, **{"num_classes": 10, **options})
    overwrite(model)
    return model


def overwrite(model: nnx.Module) -> None:
    other = lambda x: jnp.asarray(np.full(x.shape, 0.5, x.dtype))  # noqa: E731
    nnx.update(model, jax.tree.map(other, torch_names.state_of(model)))


def equal(a: nnx.Module, b: nnx.Module) -> bool:
    pairs = zip(
        torch_names.walk(torch_names.state_of(a)),
        torch_names.walk(torch_names.state_of(b)),
        strict=True,
    )
    return all(p == q and x.dtype == y.dtype and np.array_equal(x, y) for (p, x), (q, y) in pairs)


@pytest.mark.parametrize("name", ARCHS)
def test_to_torch_and_back_is_exact(name):
    _there_and_back(name, "float32")


@pytest.mark.parametrize("name", ["inception_v1", "inception_next_atto"])
def test_float64_to_torch_and_back_is_exact(name):
    with jax.enable_x64(True):
        _there_and_back(name, "float64")


def _there_and_back(name, dtype):
    model, twin = pair(name, dtype, **options_for(name))
    sent = ij.to_torch(model)
    received = twin.state_dict()
    assert list(sorted(sent)) == list(sorted(received))
    for key, tensor in received.items():
        np.testing.assert_array_equal(tensor.numpy(), sent[key])
        assert tensor.numpy().dtype == sent[key].dtype
    again = fresh(name, dtype=dtype, param_dtype=dtype, **options_for(name))
    assert not equal(again, model)
    ij.load_weights(again, {key: tensor.numpy() for key, tensor in received.items()})
    assert equal(again, model)


@pytest.mark.parametrize("name", ARCHS)
def test_files(name, tmp_path):
    model, twin = pair(name, "float32", **options_for(name))
    ij.save_weights(model, tmp_path / "a.safetensors")
    torch.save(twin.state_dict(), tmp_path / "b.pth")
    torch.save(
        {
            "epoch": 3,
            "state_dict": {},  # the average is loaded
            "state_dict_ema": {f"module._orig_mod.{k}": v for k, v in twin.state_dict().items()},
        },
        tmp_path / "c.pt",
        _use_new_zipfile_serialization=False,  # as before PyTorch 1.6
    )
    again = fresh(name, **options_for(name))
    for file in ("a.safetensors", "b.pth", "c.pt"):
        overwrite(again)
        ij.load_weights(again, tmp_path / file)
        assert equal(again, model)
    # Our file is the twin's state dict.
    twin.load_state_dict(safetensors.torch.load_file(tmp_path / "a.safetensors"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.pth", "c.pt"]


def test_create_model_loads(tmp_path):
    model, _ = pair("xception", "float32")
    ij.save_weights(model, tmp_path / "x.safetensors")
    again = ij.create_model(
        "xception", weights=tmp_path / "x.safetensors", width_multiplier=WIDTH, num_classes=10
    )
    assert equal(again, model)


@pytest.mark.parametrize("kind", [np.float16, jnp.bfloat16])
def test_half_precision_files(kind, tmp_path):
    model, _ = pair("xception", "float32")
    halves = {
        key: value.astype(kind) if value.dtype == np.float32 else value
        for key, value in ij.to_torch(model).items()
    }
    torch_kind = torch.float16 if kind is np.float16 else torch.bfloat16
    saved = {k: torch.from_numpy(v.astype(np.float32)).to(torch_kind) for k, v in halves.items()}
    torch.save(saved, tmp_path / "x.pth")
    safetensors.torch.save_file(saved, tmp_path / "x.safetensors")
    for source in (halves, tmp_path / "x.pth", tmp_path / "x.safetensors"):
        again = fresh("xception")
        ij.load_weights(again, source)
        ours = np.asarray(again.fc.kernel[...])
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, halves["fc.weight"].T.astype(np.float32))


def test_auxiliary_tensors_are_left_out_where_there_is_no_head():
    options = {"width_multiplier": WIDTH, "num_classes": 10}
    model = filled("inception_v3", aux_heads=True, **options)
    again = fresh("inception_v3")
    ij.load_weights(again, ij.to_torch(model))
    np.testing.assert_array_equal(again.fc.kernel[...], model.fc.kernel[...])
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(fresh("inception_v3", aux_heads=True), ij.to_torch(again))
    assert any(name.startswith("AuxLogits.conv0.") for name in error.value.missing)


def test_another_number_of_classes():
    model = filled("inception_v3", aux_heads=True, width_multiplier=WIDTH, num_classes=10)
    other = fresh("inception_v3", num_classes=7, aux_heads=True)
    before = fresh("inception_v3", num_classes=7, aux_heads=True)
    with pytest.raises(ij.WeightsError, match="head=False") as error:
        ij.load_weights(other, ij.to_torch(model))
    assert len(error.value.misshapen) == 4
    assert equal(other, before)
    ij.load_weights(other, ij.to_torch(model), head=False)
    np.testing.assert_array_equal(other.fc.kernel[...], before.fc.kernel[...])
    for part in ("Mixed_7c", "AuxLogits"):
        conv = getattr(other, part).branch1x1 if part == "Mixed_7c" else other.AuxLogits.conv0
        assert float(conv.conv.kernel[...].std()) > 0


def test_skipped_modules_keep_their_values():
    model = filled("inception_v3", aux_heads=True, width_multiplier=WIDTH, num_classes=10)
    tensors = ij.to_torch(model)
    parts = ("Mixed_7c", "AuxLogits", "fc")
    other = fresh("inception_v3", aux_heads=True)
    before = ij.to_torch(other)
    # The file's tensors of skipped parts are ignored, and may be missing.
    del tensors["Mixed_7c.branch1x1.conv.weight"]
    tensors["AuxLogits.fc.weight"] = np.ones((3, 3), np.float32)
    tensors["fc.extra"] = np.ones(3, np.float32)
    ij.load_weights(other, tensors, skip=parts)
    for name, tensor in ij.to_torch(other).items():
        expected = before if name.startswith(tuple(f"{part}." for part in parts)) else tensors
        np.testing.assert_array_equal(tensor, expected[name], name)
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(other, tensors, skip=("Mixed_7c",))
    assert error.value.unexpected == ("fc.extra",)
    # A mistyped name is refused, because its tensors would be overwritten. The name of an auxiliary
    # head that was not built is accepted.
    with pytest.raises(ValueError, match="no module Mixed_7x"):
        ij.load_weights(other, tensors, skip=("Mixed_7x",))
    ij.load_weights(fresh("inception_v3"), tensors, skip=parts)


@pytest.mark.parametrize(
    ("change", "unfit"),
    [
        (lambda tensors: tensors, ()),
        (lambda tensors: without(tensors, "aux2."), ("aux2",)),
        (lambda tensors: without(tensors, "fc.bias"), ("fc", "aux1.fc2", "aux2.fc2")),
        (lambda tensors: without(tensors, "aux"), ("aux1", "aux2")),
        (lambda tensors: without(tensors, "aux1.fc1."), ()),  # which is an error
        (
            lambda tensors: without(tensors, "fc.", "aux1."),
            ("aux1", "fc", "aux1.fc2", "aux2.fc2"),
        ),
    ],
)
def test_heads_that_a_file_does_not_fit(change, unfit):
    options = {"aux_heads": True, "width_multiplier": WIDTH, "num_classes": 10}
    tensors = change(ij.to_torch(filled("inception_v1", **options)))
    assert unfit_heads(fresh("inception_v1", aux_heads=True), tensors) == unfit
    plain = fresh("inception_v1")
    assert unfit_heads(plain, tensors) == (("fc",) if "fc" in unfit else ())


def without(tensors: dict[str, np.ndarray], *beginnings: str) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(beginnings)}


def test_everything_wrong_is_said_at_once_and_nothing_is_loaded():
    model, _ = pair("xception", "float32")
    tensors = ij.to_torch(model)
    for block in range(5, 13):
        for layer in "123":
            del tensors[f"block{block}.sepconv{layer}.pointwise.weight"]
    tensors["extra.weight"] = np.ones(3, np.float32)
    tensors["block2.residual.conv.weight"] = np.ones((16, 16, 3, 3), np.float32)
    again = fresh("xception")
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(again, tensors)
    assert len(error.value.missing) == 24
    assert error.value.unexpected == ("extra.weight",)
    assert "(16, 16, 3, 3) instead of (16, 16, 1, 1)" in error.value.misshapen[0]
    text = str(error.value)
    assert "24 missing" in text
    assert "and 4 more" in text
    assert equal(again, fresh("xception"))


def test_others_may_read_what_is_written(tmp_path):
    """A saved file has the permissions of any new file.

    The package safetensors alone would let only the owner read the file.
    """
    model, _ = pair("inception_v1", "float32")
    (tmp_path / "plain").touch()
    ij.save_weights(model, tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nan_is_refused():
    model, _ = pair("xception", "float32")
    tensors = ij.to_torch(model)
    tensors["block7.sepconv2.bn.running_var"][3] = np.nan
    with pytest.raises(ij.WeightsError, match=r"NaN.*block7\.sepconv2\.bn\.running_var"):
        ij.load_weights(fresh("xception"), tensors)


class Payload:
    def __reduce__(self):
        return (print, ("code from a weight file ran",))


def test_broken_files(tmp_path, capsys):
    model, twin = pair("xception", "float32")
    ij.save_weights(model, tmp_path / "whole.safetensors")
    torch.save(twin.state_dict(), tmp_path / "whole.pth")
    for suffix in ("safetensors", "pth"):
        data = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
        (tmp_path / f"empty.{suffix}").write_bytes(b"")
        (tmp_path / f"page.{suffix}").write_text("<!DOCTYPE html><title>Not found</title>")
    torch.save({"state_dict": Payload()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for i, note in enumerate(["{", "[1]", '{"name": "xception"}']):
        tensors = ij.to_torch(model)
        safetensors.numpy.save_file(tensors, tmp_path / f"{i}.safetensors", {"inception_jax": note})
    (tmp_path / "x.ckpt").write_text("")
    broken = [p for p in tmp_path.iterdir() if p.stem != "whole"]
    assert len(broken) == 12
    for path in broken:
        said = "own note" if path.stem.isdigit() else re.escape(str(path))
        with pytest.raises(ij.WeightsError, match=said):
            ij.load_weights(fresh("xception"), path)
    with pytest.raises(FileNotFoundError, match="absent"):
        ij.load_weights(fresh("xception"), tmp_path / "absent.pth")
    assert "code" not in capsys.readouterr().out
    with pytest.raises(ij.WeightsError, match="safetensors"):
        ij.save_weights(model, tmp_path / "x.pth")


def test_a_file_of_another_reading_is_refused(tmp_path):
    model, _ = pair("xception", "float32")
    ij.save_weights(model, tmp_path / "x.safetensors")
    with pytest.raises(ij.WeightsError, match=r"pad_mode='tf' \(the model has 'torch'\)"):
        ij.load_weights(fresh("xception.tf_in1k"), tmp_path / "x.safetensors")
    # Options that only affect training may differ.
    ij.load_weights(fresh("xception", dropout=0.1), tmp_path / "x.safetensors")


def timm_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns Xception's tensors by timm's names, without using the library's own name rules."""
    moved = {}

    def move(ours: str, theirs: str, layers: tuple[str, ...]) -> None:
        for key, value in tensors.items():
            if key.startswith(f"{ours}.") and key.split(".")[-2] in layers:
                moved[f"{theirs}.{key.split('.')[-1]}"] = value

    for i in (1, 2):
        move(f"block1_conv{i}", f"conv{i}", ("conv",))
        move(f"block1_conv{i}", f"bn{i}", ("bn",))
        move(f"block14_sepconv{i}", f"conv{i + 2}.conv1", ("depthwise",))
        move(f"block14_sepconv{i}", f"conv{i + 2}.pointwise", ("pointwise",))
        move(f"block14_sepconv{i}", f"bn{i + 2}", ("bn",))
    for block in range(1, 13):
        ours, layer = f"block{block + 1}", 0 if block == 1 else 1
        for i in range(1, 4 if 4 <= block <= 11 else 3):
            move(f"{ours}.sepconv{i}", f"block{block}.rep.{layer}.conv1", ("depthwise",))
            move(f"{ours}.sepconv{i}", f"block{block}.rep.{layer}.pointwise", ("pointwise",))
            move(f"{ours}.sepconv{i}", f"block{block}.rep.{layer + 1}", ("bn",))
            layer += 3
        move(f"{ours}.residual", f"block{block}.skip", ("conv",))
        move(f"{ours}.residual", f"block{block}.skipbn", ("bn",))
    moved |= {f"last_linear.{k}": tensors[f"fc.{k}"] for k in ("weight", "bias")}
    assert len(moved) == len(tensors)
    return moved


def keras_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns Xception's tensors by Keras' names, such as "block1_conv1/kernel".

    Keras numbers the layers of shortcuts automatically. They are named here as in the second model
    that a process builds, such as "conv2d_94", see `later`.

    Args:
        tensors: tensors by the names of the PyTorch twin, with PyTorch's axis order. The result has
            Keras' axis order.
    """
    return {
        f"{later(name)}/{leaf}": tensor
        for kind, name, path in xception_layers()
        for leaf, tensor in keras_tensors(kind, path, tensors, gamma=True).items()
    }


@pytest.mark.parametrize(
    ("write", "right", "wrong"),
    [
        (timm_names, "xception.tf_in1k", "xception.keras_in1k"),
        (keras_names, "xception.keras_in1k", "xception.tf_in1k"),
    ],
)
def test_foreign_names_of_xception(write, right, wrong):
    model, twin = pair(right, "float32")
    foreign = write(ij.to_torch(model))
    again = fresh(right)
    ij.load_weights(again, foreign)
    assert equal(again, model)
    images = random_images(model, "float32", (75, 90))
    logits, _ = run(again, lambda m, x: m(x), images)
    np.testing.assert_allclose(logits, twin(to_nchw(images)).detach(), rtol=1e-4, atol=1e-4)
    with pytest.raises(ij.WeightsError, match="bn_eps"):
        ij.load_weights(fresh(wrong), foreign)
    with pytest.raises(ij.WeightsError, match="weights of xception"):
        ij.load_weights(fresh("inception_v3"), foreign)


def test_first_kernel_fits_grey_images():
    """The first kernel, adapted to one channel, gives a grey image the original kernel's results.

    The original kernel gets an RGB copy of the image.
    """
    colour, _ = pair("inception_v3", "float32")
    model = fresh("inception_v3", in_channels=1)
    with pytest.warns(UserWarning, match=r"Conv2d_1a_3x3.*1 channel\(s\) from 3"):
        ij.load_weights(model, ij.to_torch(colour))
    grey = np.random.default_rng(0).normal(size=(1, 75, 75, 1)).astype("float32")
    ours, _ = run(model.Conv2d_1a_3x3, lambda m, x: m(x), grey)
    theirs, _ = run(colour.Conv2d_1a_3x3, lambda m, x: m(x), grey.repeat(3, axis=3))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("in_channels", [2, 4, 7])
def test_first_kernel_fits_more_channels(in_channels):
    colour, _ = pair("inception_v3", "float32")
    model = fresh("inception_v3", in_channels=in_channels)
    with pytest.warns(UserWarning, match=rf"{in_channels} channel\(s\) from 3"):
        ij.load_weights(model, ij.to_torch(colour))
    name = "Conv2d_1a_3x3.conv.weight"
    loaded, source = ij.to_torch(model)[name], ij.to_torch(colour)[name]
    for channel in range(in_channels):
        expected = source[:, channel % 3] * 3 / in_channels
        np.testing.assert_allclose(loaded[:, channel], expected, rtol=1e-6)


def test_only_colour_fits_other_channels():
    with pytest.raises(ij.WeightsError, match=r"Conv2d_1a_3x3.conv.weight \(\d+, 1, 3, 3\)"):
        ij.load_weights(fresh("inception_v3"), ij.to_torch(fresh("inception_v3", in_channels=1)))


@pytest.mark.parametrize("other", ["xception.tf_in1k", "inception_v4"])
def test_the_error_says_what_a_file_fits(other):
    model, _ = pair("xception.keras_in1k", "float32")
    with pytest.raises(ij.WeightsError, match=r"takes them as xception\.keras_in1k$"):
        ij.load_weights(fresh(other), keras_names(ij.to_torch(model)))


def test_readers_of_other_formats_are_imported_when_needed():
    optional = {"torch", "tensorflow", "h5py", "google.protobuf", "keras"}
    code = "import sys; from inception_jax import *; "
    code += f"sys.exit(', '.join({optional} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
