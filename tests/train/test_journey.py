"""Tests that `predict`, `classify` and ONNX agree with the evaluation of a run on photos."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import inception_jax as ij
from inception_jax.cli import commands as cli
from train.data.image_folder import open_folder

_COLOURS = {"red": (220, 40, 30), "green": (40, 200, 60), "blue": (30, 60, 220)}
_SIZES = [(20, 31), (45, 24), (33, 33), (64, 17), (29, 80)]


def write_photos(root: Path, count: int = 10) -> None:
    """Writes photos of several sizes, modes and formats as root/class/image, without a split.

    Each class has `count` photos.
    """
    rng = np.random.default_rng(0)
    for name, colour in _COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            noise = rng.normal(0, 90, (*_SIZES[i % len(_SIZES)], 3))
            photo = Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8))
            path = root / name / f"{i}"
            if i % 5 == 0:
                exif = Image.Exif()
                exif[0x0112] = 6  # to be turned by a quarter
                photo.save(path.with_suffix(".jpg"), exif=exif, quality=92)
            elif i % 5 == 1:
                deep = np.asarray(photo.convert("L")).astype(np.uint16) * 257
                Image.fromarray(deep).save(path.with_suffix(".png"))
            elif i % 5 == 2:
                photo.convert("P").save(path.with_suffix(".png"))
            else:
                photo.save(path.with_suffix(".webp" if i % 5 == 3 else ".jpg"), quality=92)


@pytest.fixture
def run(train_here, tmp_path):
    """Trains on photos without splits; returns the result and the paths of the test images.

    The result is the dict that the programme prints as its last line.
    """
    write_photos(tmp_path / "photos")
    options = ["--arch", "tiny", "--dataset", "folder", "--data-dir", "photos", "--workdir", "w",
               "--batch-size", "6", "--epochs", "3", "--eval-share", "0.4", "--image-size", "19",
               "--no-tensorboard"]  # fmt: skip
    code, out, err = train_here(*options)
    assert code == 0, err
    assert "12 of 30 images" in out
    test = open_folder(tmp_path / "photos", eval_share=0.4).test
    paths = [tmp_path / "photos" / test[i].name for i in range(len(test))]
    return json.loads(out.splitlines()[-1]), paths


def test_predict_classify_and_onnx_agree_with_the_evaluation(run, tmp_path, capsys):
    result, paths = run
    assert cli.main(["predict", *map(str, paths), "--weights", "w", "--csv", "t.csv"]) == 0
    with open("t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["class_1"] == Path(row["file"]).parent.name for row in rows]
    assert np.mean(right) == pytest.approx(result["eval_top1"], abs=1e-9)

    model = ij.load(tmp_path / "w")
    assert model.classes == ("blue", "green", "red")
    assert (model.info.input_size, model.info.upright) == (19, True)
    assert model.training["result"]["eval_top1"] == result["eval_top1"]
    classified = ij.classify(model, paths, top=1)
    assert [best for ((best, _),) in classified] == [row["class_1"] for row in rows]

    assert cli.main(["export", "w", "-o", "m.onnx"]) == 0
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["inception_jax"])
    images = np.concatenate([ij.preprocess(model, path) for path in paths])
    (logits,) = session.run(None, {"images": images})
    assert [facts["classes"][i] for i in logits.argmax(-1)] == [row["class_1"] for row in rows]


def test_the_shared_out_images_are_not_trained_on(tmp_path):
    write_photos(tmp_path)
    data = open_folder(tmp_path)
    train, test = ({s[i].name for i in range(len(s))} for s in (data.train, data.test))
    assert not train & test
    assert len(test) == 6
    assert len(train | test) == 30
    (tmp_path / "red/new.jpg").write_bytes((tmp_path / "red/4.jpg").read_bytes())
    after = open_folder(tmp_path).test
    kept = {after[i].name for i in range(len(after))} & test
    assert len(kept) >= 5  # one more image moves at most one
