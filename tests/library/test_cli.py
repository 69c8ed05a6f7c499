"""Tests the command `inception-jax`."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import inception_jax as ij
from inception_jax import classes
from inception_jax.cli import commands as cli
from inception_jax.cli import predict
from tests.helpers import networks
from tests.helpers.keras_layers import keras_tensors, xception_layers
from tests.helpers.networks import WIDTH, filled, network, skeleton

SMALL = {"num_classes": 10, "width_multiplier": WIDTH}


def logits(model, images) -> np.ndarray:
    return np.asarray(networks.run(model, lambda m, x: m(x), images)[0])


def run(capsys, *argv: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the tensors of a full-width Xception, and the path of its weights file.

    The formats of other libraries support the full width only.
    """
    model = filled("xception.keras_in1k", num_classes=7)
    path = tmp_path_factory.mktemp("whole") / "whole.safetensors"
    ij.save_weights(model, path)
    return ij.to_torch(model), path


def test_list(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ij.list_models()
    assert run(capsys, "list", "xception4*")[1] == "xception41 tf_in1k\nxception41p ra3_in1k\n"
    assert run(capsys, "list", "*.fid")[1] == "inception_v3.fid\n"
    code, out, err = run(capsys, "list", "resnet50")
    assert (code, out) == (2, "")
    assert "resnet50" in err


def test_the_command_alone(capsys):
    """Help lists all commands, each command's help has examples, `--version` prints versions."""
    code, out, _ = run(capsys)
    assert code == 0
    assert out == run(capsys, "--help")[1] == run(capsys, "help")[1]
    for name in cli.COMMANDS:
        assert f"\n  {name}" in out
        code, text, _ = run(capsys, name, "--help")
        assert code == 0
        assert f"  inception-jax {name} " in text or name == "list"
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"inception-jax \S+, jax \S+, flax \S+, Python \S+\n", out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst"], "unknown command 'lst'; did you mean list?"),
        (["classify", "x.png"], "unknown command 'classify'; did you mean predict?"),
        (["--colour"], "unknown option '--colour'"),
        (["predict", "x.png", "--model", "y"], "unknown option --model; did you mean --arch?"),
        (["predict", "x.png", "--wieghts", "y"], "did you mean --weights?"),
        (["export", "x", "--image_sise=3"], "did you mean --image-size?"),
        (["export", "x", "--format", "onx"], "'onx' is not onnx or stablehlo; did you mean onnx?"),
        (["convert", "a"], "missing: DST; see inception-jax convert --help"),
        (["predict", "x.png", "--top"], "--top: a value is missing"),
        (["fid", "a", "b", "--batch-size", "1.5"], "--batch-size: '1.5' is not a whole number"),
        (["fid", "a", "b", "--metrics", "precision"], "did you mean pr?"),
        (["list", "a", "b"], "unexpected 'b'"),
        (["list", "xceptoin"], "did you mean xception"),
    ],
)
def test_mistakes_are_one_line(capsys, words, message):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_info(capsys):
    code, out, _ = run(capsys, "info", "inception_v3.fid")
    assert code == 0
    for words in ("1008", "23,850,960", "pt_inception-2015-12-05-6726825d.pth", "'max'"):
        assert words in out


def test_convert_to_and_fro(capsys, tmp_path, whole):
    """Conversion through four file formats gives identical tensors."""
    expected, source = whole
    steps = [
        ("a.pth", []),
        ("b.weights.h5", []),
        ("c.h5", []),
        ("d.safetensors", []),
    ]
    for file, options in steps:
        arch = ["--arch", "xception.keras_in1k"]
        code, out, err = run(capsys, "convert", source, tmp_path / file, *arch, *options)
        assert (code, err) == (0, "")
        assert out == f"wrote {tmp_path / file}\n"
        source = tmp_path / file
    # The last file names its network. Converting a file to its own format copies the file.
    code, out, err = run(capsys, "convert", source, tmp_path / "e.safetensors")
    assert (code, err) == (0, "")
    final = safetensors.numpy.load_file(tmp_path / "e.safetensors")
    for name, tensor in expected.items():
        np.testing.assert_array_equal(final[name], tensor, name)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(file for file, _ in steps),
        "e.safetensors",
    ]


def test_keras_layers_are_written_in_its_order(capsys, tmp_path, whole):
    h5py = pytest.importorskip("h5py")
    state, source = whole
    for file in ("x.weights.h5", "x.h5"):
        run(capsys, "convert", source, tmp_path / file, "--arch", "xception.keras_in1k")
    layers = xception_layers()
    with h5py.File(tmp_path / "x.h5") as file:
        for (kind, name, path), stored in zip(layers, file.attrs["layer_names"], strict=True):
            assert kind in ("conv2d", "batch_normalization") or stored == name
            for leaf, tensor in keras_tensors(kind, path, state, gamma=True).items():
                np.testing.assert_array_equal(file[f"{stored}/{stored}/{leaf}:0"], tensor)
    counts: dict[str, int] = {}
    with h5py.File(tmp_path / "x.weights.h5") as file:
        for kind, _, path in layers:
            n = counts[kind] = counts.get(kind, -1) + 1
            arrays = file[f"layers/{kind}{f'_{n}' if n else ''}/vars"]
            expected = list(keras_tensors(kind, path, state, gamma=True).values())
            assert len(arrays) == len(expected)
            for i, tensor in enumerate(expected):
                np.testing.assert_array_equal(arrays[str(i)], tensor)


def test_a_factor_that_keras_lacks_is_folded(capsys, tmp_path):
    model = filled("inception_v3.keras_in1k", num_classes=4, aux_heads=True)
    ij.save_weights(model, tmp_path / "v3.safetensors")
    target = tmp_path / "v3.weights.h5"
    code, out, _ = run(
        capsys, "convert", tmp_path / "v3.safetensors", target, "--arch", "inception_v3.keras_in1k"
    )
    assert code == 0
    assert "94 kernels" in out
    assert "auxiliary head is left out" in out
    again = skeleton("inception_v3.keras_in1k", num_classes=4)
    ij.load_weights(again, target)
    before, after = ij.to_torch(model), ij.to_torch(again)
    layer = "Mixed_6c.branch7x7dbl_3"
    gamma = before[f"{layer}.bn.weight"]
    assert (after[f"{layer}.bn.weight"] == 1).all()
    np.testing.assert_array_equal(
        after[f"{layer}.conv.weight"], before[f"{layer}.conv.weight"] * gamma[:, None, None, None]
    )
    np.testing.assert_array_equal(
        after[f"{layer}.bn.running_mean"], before[f"{layer}.bn.running_mean"] * gamma
    )


@pytest.mark.parametrize(
    ("arch", "to", "file", "words"),
    [
        ("xception.keras_in1k", "timm", "x.pth", "pad_mode='torch'"),
        ("xception.keras_in1k", "torchvision", "x.pth", "torchvision has no xception"),
        ("xception.keras_in1k", "keras", "x.keras", "end in .h5"),
        ("xception.keras_in1k", "timm", "x.h5", "end in .safetensors or .pth"),
        ("xception.keras_in1k", None, "x.onnx", "'.onnx'"),
        ("xception.keras_in1k", None, "nowhere/x.pth", "no folder"),
        ("xception.tf_in1k", None, "x.pth", "needs other options"),
        ("inception_v3", None, "x.pth", "weights of xception.keras_in1k, not of inception_v3"),
        ("xceptoin", None, "x.pth", "did you mean xception"),
    ],
)
def test_what_cannot_be_converted(capsys, tmp_path, whole, arch, to, file, words):
    options = ["--to", to] if to else []
    code, out, err = run(capsys, "convert", whole[1], tmp_path / file, "--arch", arch, *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_the_width_of_other_libraries_is_fixed(capsys, tmp_path):
    model = network("xception.tf_in1k", "float32")
    ij.save_weights(model, tmp_path / "narrow.safetensors")
    files = (tmp_path / "narrow.safetensors", tmp_path / "x.pth")
    code, _, err = run(capsys, "convert", *files, "--arch", "xception.tf_in1k", "--to", "timm")
    assert code == 2
    assert f"width multiplier; the model's is {WIDTH}" in err
    # Our own format and the twin's support other widths.
    assert run(capsys, "convert", *files, "--arch", "xception.tf_in1k")[0] == 0
    torch = pytest.importorskip("torch")
    loaded = torch.load(files[1], weights_only=True)
    for name, tensor in ij.to_torch(model).items():
        np.testing.assert_array_equal(loaded[name], tensor)


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_predict(capsys, tmp_path, photograph, monkeypatch):
    model = filled("inception_v1.tv_in1k", width_multiplier=WIDTH)
    ij.save_weights(model, tmp_path / "w.safetensors")
    options = ["--arch", "inception_v1.tv_in1k", "--weights", tmp_path / "w.safetensors"]
    code, out, err = run(capsys, "predict", photograph, photograph, *options)
    assert (code, err) == (0, "")
    name, *lines = out.splitlines()
    assert name == str(photograph)
    assert lines[5] == name
    assert lines[:5] == lines[6:]
    images = ij.preprocess("inception_v1.tv_in1k", Image.open(photograph))
    scores = logits(model, images)[0].astype(np.float64)
    shares = np.exp(scores) / np.exp(scores).sum()
    names = classes.imagenet()
    best = np.argsort(-scores)[:5]
    for line, index in zip(lines[:5], best, strict=True):
        share, _, label = line.strip().partition(" %  ")
        assert float(share) == pytest.approx(100 * shares[index], abs=0.02)
        assert label == names[index]


def test_draw_and_summary(capsys, tmp_path):
    path = tmp_path / "m.svg"
    words = ["draw", "inception_v1.bvlc_in1k", "--module", "inception3a", "-o", path]
    assert run(capsys, *words) == (0, f"wrote {path}\n", "")
    assert "5×5 conv, 32" in path.read_text(encoding="utf-8")
    code, out, _ = run(capsys, "summary", "inception_next_atto", "--image-size", "64x96")
    assert code == 0
    assert "16x24x40" in out
    for words, message in (
        (["draw", "inception_v1", "--module", "Mixed_5b", "-o", path], "Mixed_5b"),
        (["draw", "inception_v1", "-o", tmp_path / "x.png"], "drawings end in .svg"),
        (["draw", "inception_v1", "-o", tmp_path / "absent/x.svg"], "no folder"),
        (["draw", "inception_v9", "-o", path], "did you mean"),
    ):
        code, out, err = run(capsys, *words)
        assert (code, out) == (2, "")
        assert message in err


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m inception_jax.cli list | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # depends on which process ends first
    assert done.stdout.count("\n") == 1


def test_predict_a_folder(capsys, tmp_path, monkeypatch):
    """`predict` on a folder writes a table and a contact sheet, and skips unreadable images."""
    monkeypatch.chdir(tmp_path)
    model = filled("inception_v1.tv_in1k", width_multiplier=WIDTH)
    ij.save_weights(model, "w.safetensors")
    rng = np.random.default_rng(1)
    (tmp_path / "images/deep").mkdir(parents=True)
    paths = [Path("images") / ("deep" if i % 2 else "") / f"{i:02d}.png" for i in range(18)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    (tmp_path / "images/broken.jpg").write_bytes(b"no image")
    (tmp_path / "images/notes.txt").write_text("no image either")
    options = ["--arch", "inception_v1.tv_in1k", "--weights", "w.safetensors"]
    assert run(capsys, "predict", "images", *options)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "w.safetensors"]
    options += ["--csv", "predictions.csv", "--sheet", "predictions.png"]
    code, out, err = run(capsys, "predict", "images", "--top", "2", *options)
    assert code == 0, err
    assert out.endswith("wrote predictions.csv\nwrote predictions.png\n")
    assert "skipped: images/broken.jpg: not an image" in err
    with open("predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {str(path) for path in paths}
    names = classes.imagenet()
    images = [ij.preprocess("inception_v1.tv_in1k", Image.open(row["file"])) for row in rows]
    shares = np.asarray(jax.nn.softmax(logits(model, np.concatenate(images))))
    for row, scores in zip(rows, shares, strict=True):
        assert row["file"] in out
        assert row["class_1"] == names[scores.argmax()]
        assert float(row["score_1"]) == pytest.approx(scores.max(), abs=1e-4)
        assert float(row["score_2"]) <= float(row["score_1"])
    with Image.open("predictions.png") as sheet:
        assert sheet.width > 4 * 168

    heat = ["--explain", "heat.png", "--sheet", "s.png"]
    code, _, err = run(capsys, "predict", paths[0], "--stage", "inception4e", *heat, *options[:4])
    assert code == 0, err
    with Image.open("heat.png") as heated, Image.open("s.png") as seen:
        assert heated.size == seen.size == (224, 224)
        assert heated.tobytes() != seen.tobytes()


def test_predict_keeps_few_pictures_of_many(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "_ON_SHEET", 3)
    monkeypatch.setattr(predict, "_BATCH", 2)
    ij.save_weights(filled("inception_v1.tv_in1k", width_multiplier=WIDTH), "w.safetensors")
    for i in range(5):
        Image.new("RGB", (30, 30), (50 * i, 0, 0)).save(f"{i}.png")
    options = ["--arch", "inception_v1.tv_in1k", "--weights", "w.safetensors"]
    options += ["--csv", "predictions.csv", "--sheet", "predictions.png"]
    for _ in range(2):  # the second run skips the first one's sheet
        code, out, err = run(capsys, "predict", ".", *options)
        assert code == 0, err
        assert out.endswith("wrote predictions.csv\nwrote predictions.png\n")
        assert "the picture shows the first 3 of 5 images" in err
        with open("predictions.csv", newline="") as file:
            assert [row["file"] for row in csv.DictReader(file)] == [f"{i}.png" for i in range(5)]
        with Image.open("predictions.png") as sheet:
            assert sheet.width < 3 * 168  # two columns


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["empty"], "no image in empty"),
        (["x.png", "--stage", "conv1"], "--stage"),
        (["x.png", "--explain", "h.png", "--stage", "Mixed_5b"], "no stage 'Mixed_5b'"),
        (["x.png", "--explain", "absent/h.png"], "no folder absent"),
        (["x.png", "--explain", "h.txt"], "h.txt: pictures end in .bmp"),
        (["x.png", "--classes", "names.txt"], "names.txt has 2 names for 1000"),
        (["junk"], "none of 1 files"),
    ],
)
def test_predict_says_what_is_wrong(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    ij.save_weights(filled("inception_v1.tv_in1k", width_multiplier=WIDTH), "w.safetensors")
    Image.new("RGB", (30, 30)).save("x.png")
    Path("empty").mkdir()
    Path("junk").mkdir()
    Path("junk/a.png").write_bytes(b"junk")
    Path("names.txt").write_text("one\ntwo\n")
    before = sorted(tmp_path.iterdir())
    options = ["--arch", "inception_v1.tv_in1k", "--weights", "w.safetensors"]
    code, out, err = run(capsys, "predict", *words, *options)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before


def test_predict_with_the_weights_of_a_run(capsys, tmp_path, photograph):
    model = filled("xception", **SMALL)
    ij.save_weights(model, tmp_path / "w.safetensors")
    options = ["--arch", "xception", "--weights", tmp_path / "w.safetensors"]
    code, out, _ = run(capsys, "predict", photograph, "--top", "3", *options)
    assert code == 0
    assert out.count("class ") == 3
    names = "".join(f"thing {i},5,0.9\n" for i in range(10))
    (tmp_path / "classes.csv").write_text(f"class,images,top1\n{names}")
    named = ["--classes", tmp_path / "classes.csv"]
    assert run(capsys, "predict", photograph, *named, *options)[1].count("thing ") == 5
    model = filled("xception", in_channels=1, **SMALL)
    ij.save_weights(model, tmp_path / "w.safetensors")
    code, out, err = run(capsys, "predict", photograph, *options)
    assert code == 0, err  # a grey network
    assert out.count("class ") == 5


def test_a_file_says_what_is_needed_to_use_it(capsys, tmp_path, photograph):
    """A saved file states its network, image size and classes, so the user need not.

    A file of an older version loads with a warning. A damaged file is refused.
    """
    model = ij.create_model("xception", in_channels=1, **SMALL)
    model.info = dataclasses.replace(model.info, input_size=71, crop="squash", upright=True)
    model.classes = tuple(f"kind {i}" for i in range(model.spec.num_classes))
    model.training = {"dataset": "folder", "recipe": "demo", "result": {"eval_top1": 0.5}}
    ij.save_weights(model, tmp_path / "weights.safetensors")
    code, out, err = run(capsys, "predict", photograph, "--weights", tmp_path)
    assert (code, err) == (0, "")
    loaded = ij.load(tmp_path)
    assert (loaded.info, loaded.classes, loaded.training) == (
        model.info,
        model.classes,
        model.training,
    )
    ((best, score),) = ij.classify(loaded, photograph, top=1)[0]
    assert f"{100 * score:6.2f} %  {best}" in out
    scores = logits(loaded, ij.preprocess(model, photograph))
    assert scores.argmax(-1) == [model.classes.index(best)]

    old = {"inception_jax": json.dumps(dataclasses.asdict(model.spec))}
    safetensors.numpy.save_file(ij.to_torch(model), tmp_path / "old.safetensors", old)
    with pytest.warns(UserWarning, match="written by an older version"):
        assert ij.load(tmp_path / "old.safetensors").info.input_size == 299

    data = bytearray((tmp_path / "weights.safetensors").read_bytes())
    data[-500] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(data)
    flipped = ["--weights", tmp_path / "flipped.safetensors"]
    code, out, err = run(capsys, "predict", photograph, *flipped)
    assert (code, out) == (2, "")
    assert "damaged" in err


def test_a_foreign_file_needs_a_name(capsys, tmp_path, photograph):
    twin = ij.to_torch(filled("xception", **SMALL))
    safetensors.numpy.save_file(twin, tmp_path / "foreign.safetensors")
    foreign = ["--weights", tmp_path / "foreign.safetensors"]
    code, out, err = run(capsys, "predict", photograph, *foreign)
    assert (code, out) == (2, "")
    assert "--arch NAME" in err
    assert run(capsys, "predict", photograph)[0] == 2


def test_broken_input_is_one_line(capsys, tmp_path, photograph):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    (tmp_path / "page.png").write_text("<!DOCTYPE html>")
    (tmp_path / "cut.png").write_bytes(photograph.read_bytes()[:500])
    bad = [
        ["predict", photograph, "--arch", "xception", "--weights", tmp_path / "page.pth"],
        ["predict", photograph, "--arch", "xception", "--weights", tmp_path / "absent.pth"],
        ["predict", photograph, "--arch", "xception", "--weights", tmp_path],
        ["predict", tmp_path / "page.png", "--arch", "xception"],
        ["predict", tmp_path / "cut.png", "--arch", "xception"],
        ["predict", tmp_path / "absent.png", "--arch", "xception"],
        ["predict", photograph, "--arch", "xception"],
        ["convert", tmp_path / "page.pth", tmp_path / "x.pth", "--arch", "xception"],
        ["info", "xcepion"],
    ]
    for argv in bad:
        code, out, err = run(capsys, *argv)
        assert (code, out) == (2, ""), argv
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err


def test_imagenet_names():
    names = classes.imagenet()
    assert len(names) == 1000
    assert (names[0], names[281], names[999]) == (
        "tench, Tinca tinca",
        "tabby, tabby cat",
        "toilet tissue, toilet paper, bathroom tissue",
    )
    assert classes.of_published("inception_v3.fid") is None
    assert classes.names(skeleton("xception", num_classes=10))[9] == "class 9"
    assert classes.names(skeleton("xception"))[281] == "tabby, tabby cat"


def test_the_installed_command():
    """The command `list` does not import JAX, PyTorch, TensorFlow or h5py in a new process."""
    code = (
        "import sys; from inception_jax.cli.commands import main;"
        "code = main(['list', 'xception']);"
        "assert not {'jax', 'torch', 'tensorflow', 'h5py'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "xception cadene_in1k keras_in1k tf_in1k\n"
