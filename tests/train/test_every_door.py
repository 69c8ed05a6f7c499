"""Tests how training, `predict`, `classify` and FID read a folder with difficult files.

Training, `predict` and `classify` get the same pixels from a file. FID reads files like the program
that a preset names: with `pytorch_fid`, it skips GIF files and clips values of more than 8 bits.
Skipped files and lost image data are reported.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import re
import warnings

import numpy as np
import pytest
from PIL import Image

import inception_jax as ij
from inception_jax import images
from inception_jax.cli import commands as cli
from inception_jax.metrics.image_loader import LoaderOptions, batches, open_images
from inception_jax.metrics.presets import PRESETS
from inception_jax.metrics.resizing import resized
from tests.helpers import networks
from tests.helpers.photos import photo, turned, write_photos
from train.data.augment import evaluation_view
from train.data.image_folder import open_test_folder
from train.engine.augmentation import Augmentation, AugmentationOptions

SIZE = 16


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of two classes, with various images and with files that cannot be used."""
    root = tmp_path / "d"
    for name in ("left", "right"):
        write_photos(root / name, 14, scale=8)
    deep = np.arange(30 * 41, dtype=np.uint16).reshape(30, 41) * 53
    Image.fromarray(deep).save(root / "left/deep.png")
    Image.fromarray(deep // 16).save(root / "left/twelve.tif")
    Image.fromarray(deep.astype(np.int32)).save(root / "right/integers.tif")
    photo(31, 44, 99).save(root / "right/turned.webp", exif=turned(8))
    photo(31, 44, 98).save(root / "right/new\nline\x1b[31m.png")
    photo(31, 44, 97).save(os.fsencode(root) + b"/right/latin-\xe9.png")
    frames = [photo(20, 20, i) for i in range(3)]
    frames[0].save(root / "left/animated.gif", save_all=True, append_images=frames[1:])
    # Files that are no images.
    os.mkfifo(root / "left/pipe.jpg")
    (root / "left/zeros.jpg").symlink_to("/dev/zero")
    (root / "left/all").symlink_to("..")
    (root / "left/notes.txt").write_text("no picture")
    (root / "right/.hidden.jpg").write_text("no picture")
    # Images that cannot be read.
    (root / "right/itself.jpg").symlink_to("itself.jpg")
    Image.fromarray(np.ones((5, 6), np.float32)).save(root / "right/float.tif")
    (root / "right/cut.jpg").write_bytes((root / "right/01.jpg").read_bytes()[:200])
    return root


@pytest.fixture
def model(with_tiny, tmp_path):
    """Returns a network, and writes its weights and class names to w.safetensors."""
    model = ij.create_model("tiny", num_classes=2)
    networks.fill(model)
    model.classes = ("left", "right")
    ij.save_weights(model, tmp_path / "w.safetensors")
    return model


@pytest.mark.filterwarnings("default")
def test_every_door_sees_the_same(folder, model, train_here, tmp_path, capsys):
    data = open_test_folder(folder).test
    paths, seen = [], []
    augmentation = Augmentation(AugmentationOptions(), "tiny", SIZE, "float32", model.info)
    for i in range(len(data)):
        try:
            view, _ = evaluation_view(data[i].image, model.info, 3)
        except images.BadImageError:
            continue
        paths.append(os.path.join(os.fsencode(folder), _file(data, i)))
        seen.append(np.asarray(augmentation.prepare(view[None])))
    assert len(paths) == 28 + 7
    for path, array in zip(paths, seen, strict=True):
        np.testing.assert_allclose(ij.preprocess(model, os.fsdecode(path)), array, atol=1e-6)

    logits = np.asarray(model(np.concatenate(seen)))
    best = [model.classes[i] for i in logits.argmax(-1)]
    with pytest.warns(UserWarning, match="EXIF orientation ignored: 3 images"):
        classified = ij.classify(model, [os.fsdecode(path) for path in paths], top=1)
    assert [name for ((name, _),) in classified] == best

    outputs = ["--csv", "t.csv", "--explain", "heat.png"]
    capsys.readouterr()
    assert cli.main(["predict", "d", "--weights", "w.safetensors", *outputs]) == 0
    out, err = capsys.readouterr()
    with open("t.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = {os.fsencode(tmp_path / row["file"]): row["class_1"] for row in csv.DictReader(file)}
    assert rows == dict(zip(paths, best, strict=True))
    right = sum(os.fsencode(name) in path for path, name in zip(paths, best, strict=True)
                for name in [f"/{name}/"])  # fmt: skip
    assert f"{right} of 35 images" in out
    assert "7 of 42 files have no prediction: 3 cannot be read; skipped: " in out
    assert "2 not a regular file" in out
    assert "1 .txt (left/notes.txt)" in out
    assert "\x1b" not in out + err
    assert "new\\nline\\x1b[31m.png" in out
    assert "latin-\\xe9.png" in out
    assert len(re.findall("EXIF orientation ignored: 3 images", err)) == 1

    evaluate = ["--arch", "tiny", "--eval-only", "--init-from", "w.safetensors"]
    evaluate += ["--dataset", "folder", "--data-dir", "d"]
    code, out, err = train_here(*evaluate)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["eval_top1"] == pytest.approx(right / 35, abs=1e-9)
    assert (result["eval_examples"], result["eval_left_out"], result["passed_over"]) == (35, 3, 4)
    assert "EXIF orientation ignored: 3 images" in err
    assert "4 of 42 files are skipped" in out

    code, out, err = train_here(*evaluate, "--upright")
    assert code == 0, err
    assert "turned upright: 3 images" in err
    assert json.loads(out.splitlines()[-1])["protocol"]["upright"] is True


def _file(source, index):
    label = int(np.searchsorted(source.starts, index, side="right")) - 1
    return os.fsencode(source.classes[label]) + b"/" + source.file(index)


def test_metrics_read_as_pillow_and_say_what_is_lost(folder):
    """The preset `pytorch_fid` gives Pillow's pixels, and one warning for each kind of problem.

    Like pytorch-fid, it clips values of more than 8 bits and skips GIF files.
    """
    for name in ("cut.jpg", "itself.jpg", ".hidden.jpg"):
        (folder / "right" / name).unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        preset = PRESETS["pytorch_fid"]
        files = dataclasses.replace(preset.files, recursive=True)
        found = open_images(folder, dataclasses.replace(preset, files=files))
        prepare = functools.partial(resized, resize="bilinear_torch")
        options = LoaderOptions(prepare, 50, 2, False, False)
        (batch,) = batches(found, options)
    words = [str(warning.message) for warning in caught]
    read = (np.asarray(Image.open(path).convert("RGB")) for path in found.items)
    expected = [resized(pixels, "bilinear_torch") for pixels in read]
    np.testing.assert_array_equal(batch, np.stack(expected))
    (lost,) = (line for line in words if "clipped" in line)
    assert "clipped: 4 images (such as" in lost
    assert "the program's" in lost
    assert any("EXIF orientation ignored: 3 images" in line for line in words)
    assert any(".gif" in line and "2 not a regular file" in line for line in words)
    assert len(words) == 3
