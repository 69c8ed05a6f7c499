"""Compares the preprocessing of this library with that of the original implementations.

`pytest -m peers` runs these tests for the implementations that are installed. They compare the
network's inputs, its logits, `classify`, and `--eval-only --init-from`, on fifty photos of unusual
sizes. All networks are narrow networks of this library with random weights; test_peers.py compares
the networks themselves. `tests/helpers/peers` says where to get TF-slim's code. Without that code,
`test_slims_functions` is the only comparison with TF-slim.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import inception_jax as ij
from inception_jax import classes, crops
from tests.helpers.networks import filled
from tests.helpers.peers.runtime import AbsentRuntimeError
from tests.helpers.peers.slim import of_research
from tests.helpers.photos import photo, write_photos

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.peers,
    # Warnings of the installed libraries, and this library's warning about EXIF.
    pytest.mark.filterwarnings("ignore"),
]

TOLERANCE = 2e-5  # of the logits, relative to the largest
Pipeline = Callable[[Path], np.ndarray]
CADENE = {
    "bn_inception.caffe_in1k": "bninception",
    "inception_v4.cadene_in1k": "inceptionv4",
    "inception_resnet_v2.cadene_in1k": "inceptionresnetv2",
    "xception.cadene_in1k": "xception",
}


def _rgb(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def _channels_last(tensor: torch.Tensor) -> np.ndarray:
    return tensor.permute(1, 2, 0).numpy()


def torchvision(weights: str) -> Pipeline:
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    transform = models.get_weight(weights).transforms()
    return lambda path: _channels_last(transform(_rgb(path)))


def timm(name: str) -> Pipeline:
    library = pytest.importorskip("timm", exc_type=ImportError)
    data = pytest.importorskip("timm.data", exc_type=ImportError)
    facts = library.get_pretrained_cfg(name).to_dict()
    transform = data.create_transform(**data.resolve_data_config(pretrained_cfg=facts))
    return lambda path: _channels_last(transform(_rgb(path)))


def cadene(name: str) -> Pipeline:
    """Returns a function that preprocesses a file as Cadene's `examples/imagenet_eval.py` does.

    `name` is the network's name in pretrainedmodels, such as "inceptionv4". The function returns
    the network's input [h, w, c], as do those of the other pipelines here.
    """
    library = pytest.importorskip("pretrainedmodels", exc_type=ImportError)
    utils = pytest.importorskip("pretrainedmodels.utils", exc_type=ImportError)
    settings = library.pretrained_settings[name]["imagenet"]
    transform = utils.TransformImage(settings, scale=settings.get("scale", 0.875))
    return lambda path: _channels_last(transform(_rgb(path)))


def keras(module: str) -> Pipeline:
    """Returns a function that preprocesses a file as Keras' documentation describes.

    The function calls `load_img` with the network's size, and `preprocess_input` of the module
    `keras.applications.MODULE`.
    """
    library = pytest.importorskip("keras", exc_type=ImportError)
    preprocess_input = getattr(library.applications, module).preprocess_input
    utils = library.utils

    def run(path: Path) -> np.ndarray:
        image = utils.load_img(path, target_size=(299, 299))
        return preprocess_input(utils.img_to_array(image)[None])[0]

    return run


def facenet() -> Pipeline:
    """Returns a function that preprocesses a whole photo as MTCNN does a detected face."""
    library = pytest.importorskip("facenet_pytorch", exc_type=ImportError)
    faces = pytest.importorskip("facenet_pytorch.models.utils.detect_face", exc_type=ImportError)

    def run(path: Path) -> np.ndarray:
        image = _rgb(path)
        face = faces.extract_face(image, (0, 0, *image.size), 160)
        return _channels_last(library.fixed_image_standardization(face))

    return run


def pytorch_fid() -> Pipeline:
    score = pytest.importorskip("pytorch_fid.fid_score", exc_type=ImportError)
    transforms = pytest.importorskip("torchvision.transforms", exc_type=ImportError)

    def run(path: Path) -> np.ndarray:
        image = score.ImagePathDataset([path], transforms.ToTensor())[0][None]
        resize = functools.partial(torch.nn.functional.interpolate, size=(299, 299))
        return _channels_last(2 * resize(image, mode="bilinear", align_corners=False)[0] - 1)

    return run


def slim(side: int) -> Pipeline:
    """Returns a function that preprocesses a file as TF-slim's `eval_image_classifier.py` does.

    Pillow decodes the file. `side` is the side of the result in pixels.
    """
    try:
        preprocessing = of_research("preprocessing.inception_preprocessing")
    except AbsentRuntimeError as error:
        pytest.skip(str(error))
    preprocess = preprocessing.preprocess_for_eval
    return lambda path: preprocess(np.asarray(_rgb(path)), side, side).numpy()


PIPELINES: dict[str, Callable[[], Pipeline]] = {
    "inception_v1.tv_in1k": lambda: torchvision("GoogLeNet_Weights.IMAGENET1K_V1"),
    "inception_v3.tv_in1k": lambda: torchvision("Inception_V3_Weights.IMAGENET1K_V1"),
    "inception_v3.fid": pytorch_fid,
    **{
        name: functools.partial(timm, ij.model_info(name).source.removeprefix("timm/"))
        for name in ij.list_models(tags=True)
        if ij.model_info(name).source.startswith("timm/")
    },
    **{ours: functools.partial(cadene, theirs) for ours, theirs in CADENE.items()},
    **{
        f"{name}.keras_in1k": functools.partial(keras, name)
        for name in ("inception_v3", "xception", "inception_resnet_v2")
    },
    **{
        name: functools.partial(slim, ij.model_info(name).input_size)
        for name in ij.list_models(tags=True)
        if name.endswith(".slim_in1k")
    },
    "inception_resnet_v1.vggface2": facenet,
    "inception_resnet_v1.casia_webface": facenet,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("name", PIPELINES)
def test_the_network_is_fed_the_same(name, photos):
    pipeline = PIPELINES[name]()
    for path in photos:
        ours, theirs = ij.preprocess(name, path)[0], pipeline(path)
        scale = max(np.abs(theirs).max(), 1)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * scale, err_msg=path.name)


@pytest.mark.parametrize("name", PIPELINES)
def test_logits_and_accuracy_are_those_of_the_publishers_pipeline(
    name, photos, train_here, tmp_path
):
    pipeline = PIPELINES[name]()
    model = filled(name, width_multiplier=0.125)
    torch.save(
        {key: torch.from_numpy(array.copy()) for key, array in ij.to_torch(model).items()},
        tmp_path / "published.pth",
    )
    predict = ij.jit_predict(model)
    theirs = _logits(predict, [pipeline(path)[None] for path in photos])
    ours = _logits(predict, [ij.preprocess(model, path) for path in photos])
    scale = float(np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * scale)

    best = theirs.argmax(-1)
    names = classes.names(model)
    assert [top[0][0] for top in ij.classify(model, photos, top=1)] == [names[i] for i in best]

    # Two of three photos are in the folder of the class that the publisher's pipeline predicts.
    labels = [(i + (n % 3 == 0)) % len(names) for n, i in enumerate(best)]
    for path, label in zip(photos, labels, strict=True):
        copy = tmp_path / "d/val" / str(label) / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    code, out, err = train_here(
        "--arch", name, "--eval-only", "--init-from", "published.pth", "--dataset", "folder",
        "--data-dir", "d", "--width-multiplier", "0.125", "--batch-size", "16",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    own = theirs[np.arange(len(labels)), labels]
    assert result["eval_examples"] == len(photos)
    assert result["eval_top1"] == pytest.approx(np.mean(own == theirs.max(-1)), abs=1e-9)
    top5 = [(row > value).sum() < 5 for row, value in zip(theirs, own, strict=True)]
    assert result["eval_top5"] == pytest.approx(np.mean(top5), abs=1e-9)
    losses = np.asarray(jax.nn.logsumexp(theirs, axis=-1)) - own
    assert result["eval_loss"] == pytest.approx(float(losses.mean()), abs=TOLERANCE * scale)


def _logits(predict: Any, inputs: list[np.ndarray]) -> np.ndarray:
    batches = [np.concatenate(inputs[i : i + 10]) for i in range(0, len(inputs), 10)]
    return np.concatenate([np.asarray(predict(batch.astype(np.float32))) for batch in batches])


@pytest.mark.parametrize("size", [(375, 500), (401, 257), (120, 121), (299, 299)])
def test_slims_functions(size):
    """`crops.cropped` gives the same pixels as the TensorFlow functions that TF-slim calls.

    `preprocess_for_eval` calls `tf.image.central_crop` and `resize_bilinear`.
    """
    tf = pytest.importorskip("tensorflow", exc_type=ImportError)
    image = photo(*size, seed=0)
    info = ij.model_info("inception_v3.slim_in1k")
    pixels = tf.image.central_crop(np.asarray(image).astype(np.float32), 0.875)
    side = [info.input_size] * 2
    expected = tf.compat.v1.image.resize_bilinear(pixels[None], side, align_corners=False)[0]
    np.testing.assert_allclose(crops.cropped(image, info), expected, rtol=0, atol=1e-3)
    assert math.isclose(info.crop_pct, 0.875)
