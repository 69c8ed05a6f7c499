"""Tests metrics of images from archives and data loaders, and of features by users' functions.

Also runs the code of docs/howto/fid_in_a_loop.md.
"""

from __future__ import annotations

import functools
import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import inception_jax as ij
from inception_jax import metrics
from inception_jax.metrics import device_crops, device_images
from inception_jax.preprocessing import facts_of
from inception_jax.tfrecords import bytes_features
from tests.helpers import tiny
from tests.helpers.networks import CLASSES, WIDTH, filled
from tests.helpers.written_images import encode

PAGE = Path(__file__).parents[2] / "docs/howto/fid_in_a_loop.md"


def pictures(n: int, seed: int = 0, size: tuple[int, int] = (24, 31)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), np.uint8)


def pixels(images: jax.Array) -> jax.Array:
    return images[:, ::8, ::8].reshape(-1, 12)


@functools.cache
def extractor() -> metrics.Extractor:
    own = metrics.OwnFeatures(pixels, "pixels", size=16)
    return metrics.Extractor(features=own, batch_size=4)


def assert_features(source, images: np.ndarray):
    found = extractor().features(source)
    expected = extractor().features(images)
    # One of two divisions is compiled, which rounds differently.
    np.testing.assert_allclose(found.pooled, expected.pooled, rtol=2e-7)
    assert found.origin == expected.origin


# Archives and records


def test_zip_files(tmp_path):
    images = pictures(5)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for i in (3, 0, 4, 1, 2):
            file.writestr(f"0000{i // 2}/img{i}.png", encode(images[i], "PNG"))
        file.writestr("__MACOSX/._img.png", b"no image")
        file.writestr("dataset.json", b"{}")
    assert_features(tmp_path / "a.zip", images)
    opened = extractor().open(tmp_path / "a.zip")
    assert opened.count == 5
    for _ in range(2):  # a source can be read more than once
        assert len(extractor().features(opened)) == 5


def test_zip_files_that_are_none(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK no")
    with pytest.raises(ValueError, match=r"a\.zip is not a whole zip file"):
        extractor().features(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("x.txt", b"x")
    with pytest.raises(ValueError, match=r"no image among the 1 entries of .*b\.zip"):
        extractor().features(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as file:
        file.writestr("x.png", b"x")
        file.writestr("y.png", encode(pictures(1)[0], "PNG"))
    with pytest.raises(metrics.UnreadableError, match=r"c\.zip/x\.png is not a whole image"):
        extractor().features(tmp_path / "c.zip")


def example(**features: bytes | list[int]) -> bytes:
    """Returns the bytes of a `tf.train.Example`, encoded without TensorFlow."""

    def field(number: int, content: bytes) -> bytes:
        size, length = b"", len(content)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        else:
            feature = field(3, field(1, bytes(value)))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def write_tfrecord(path: Path, records: list[bytes]):
    writer = pytest.importorskip("tensorboardX.record_writer").RecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()


def write_array_record(path: Path, records: list[bytes]):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize(
    ("ending", "write"), [("tfrecord", write_tfrecord), ("array_record", write_array_record)]
)
def test_files_of_records(ending, write, tmp_path):
    images = pictures(6)
    encoded = [encode(image, "PNG") for image in images]
    examples = [example(label=[3], image=x, file_name=b"x.png") for x in encoded]
    write(tmp_path / f"x-test.{ending}-00000-of-00002", examples[:4])
    write(tmp_path / f"x-test.{ending}-00001-of-00002", examples[4:])
    assert_features(str(tmp_path / f"x-test.{ending}*"), images)
    write(tmp_path / f"plain.{ending}", encoded)
    assert_features(tmp_path / f"plain.{ending}", images)
    write(tmp_path / f"odd.{ending}", [example(left=x, right=x) for x in encoded])
    with pytest.raises(ValueError, match=r"record 0: which .*'left', 'right': metrics\.Records"):
        extractor().features(tmp_path / f"odd.{ending}")
    assert_features(metrics.Records((tmp_path / f"odd.{ending}",), key="right"), images)
    whole = (tmp_path / f"plain.{ending}").read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(whole[:-7])
    with pytest.raises(ValueError, match=r"cut\."):
        extractor().features(tmp_path / f"cut.{ending}")


def test_records_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        extractor().features(tmp_path / "absent.tfrecord")
    with pytest.raises(FileNotFoundError):
        extractor().features(tmp_path / "absent*.tfrecord")


@pytest.mark.parametrize("junk", [b"\xff", b"\x0a\x05\x0a", b"\x0b", bytes(range(9, 60))])
def test_junk_is_no_example(junk):
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
        bytes_features(junk)


# Loaders


def test_batches_of_loaders():
    images = pictures(6)
    labels = np.arange(3)
    assert_features([(images[:3], labels), (images[3:], labels)], images)
    assert_features([{"image": images[:3], "label": labels}, {"image": images[3:]}], images)
    named = [{"x": images[:3], "y": images[:3]}, {"x": images[3:], "y": images[3:]}]
    assert_features(metrics.Loader(named, key="y"), images)
    assert_features(metrics.Loader([(labels, images)], key=1), images)
    assert_features([(labels, images)], images)
    assert_features([list(images[:2]), list(images[2:])], images)  # lists of images
    assert_features([(image, 3) for image in images], images)
    assert_features([(Image.fromarray(image), 3) for image in images], images)
    floats = (images / 127.5 - 1).astype(np.float32)
    assert_features(metrics.Loader([(floats, labels)], value_range=(-1, 1)), images)
    first = floats.transpose(0, 3, 1, 2)
    loader = metrics.Loader([first], value_range=(-1, 1), channels_first=True)
    assert_features(loader, images)


def test_loaders_of_pytorch():
    torch = pytest.importorskip("torch")
    images = pictures(6)
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    data = torch.utils.data.TensorDataset(tensor, torch.arange(6))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    assert_features(loader, images)
    floats = torch.utils.data.TensorDataset(tensor.float() / 255, torch.arange(6))
    loader = torch.utils.data.DataLoader(floats, batch_size=4)
    assert_features(metrics.Loader(loader, value_range=(0, 1)), images)
    assert_features(tensor, images)
    few_bits = torch.from_numpy(images // 16 * 16).permute(0, 3, 1, 2).bfloat16()
    assert_features(metrics.Loader([few_bits], value_range=(0, 255)), images // 16 * 16)


def test_grey_arrays():
    images = pictures(5)[..., :1]
    colour = np.repeat(images, 3, axis=3)
    for source in (images, jnp.asarray(images), list(images), metrics.Loader([images])):
        assert_features(source, colour)


def test_floats_of_another_range_than_was_stated():
    images = pictures(5) / 255
    for array in (images, jnp.asarray(images, jnp.bfloat16)):
        source = metrics.Loader([array], value_range=(-1, 1), name="mine")
        with pytest.warns(UserWarning, match=r"^mine use only 0\.5 to 1 of the stated"):
            extractor().features(source)
    with pytest.warns(UserWarning, match=r"use only 0 to 0\.00392 of the stated range"):
        extractor().features(images.round().astype(np.uint8))
    images[3, 5] = np.nan
    with pytest.raises(ValueError, match="mine: some pixels are NaN"):
        extractor().features(metrics.Loader([images], value_range=(0, 1), name="mine"))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (pictures(3) / 255, r"got float64 .*: give floats by metrics\.Loader\(images, value"),
        (pictures(3).transpose(0, 3, 1, 2), "channels last with np.moveaxis"),
        (np.zeros((3, 8, 8, 4), np.uint8), r"got uint8 \[3, 8, 8, 4\]$"),
    ],
)
def test_arrays_that_are_no_images(array, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        extractor().features(array)
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=rf"a\.npy: .*{words}"):
        extractor().features(tmp_path / "a.npy")


def test_loaders_of_grain():
    grain = pytest.importorskip("grain")
    images = pictures(6)
    data = grain.MapDataset.source([{"image": x, "label": 1} for x in images]).batch(4)
    assert_features(data.to_iter_dataset(), images)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([{"a": 1, "b": 2}], r"which of 'a', 'b' are the images\? Loader\(batches, key"),
        (metrics.Loader([{"a": 1}], key="c"), "has 'a', but no 'c'"),
        (metrics.Loader([(1, 2)], key=2), "has 2 parts, but no 2"),
        ([(1, 2)], r"which of the 2 parts of a batch are the images"),
        ([(pictures(2), pictures(2))], r"which of the 2 parts of a batch are the images"),
        (metrics.Loader([pictures(2)], key="image"), "ndarray, which has no 'image'"),
        (metrics.Loader([pictures(2) / 255]), r"need a value_range; got float64 .*value_range"),
        (metrics.Loader([pictures(2) * 1.0], value_range=(-1, 1)), "far outside the stated"),
    ],
)
def test_batches_without_images(source, words):
    with pytest.raises(ValueError, match=words):
        extractor().features(source)


# Generators


def generate(key, n):
    return jax.random.uniform(key, (n, 16, 16, 3), minval=-1)


def test_generated_images():
    source = metrics.Generated(generate, count=14, batch_size=4, seed=3, value_range=(-1, 1))
    keys = [jax.random.fold_in(jax.random.key(3), i) for i in range(4)]
    floats = np.concatenate([generate(key, 4) for key in keys])[:14]
    images = np.floor((floats + 1) * np.float32(127.5) + np.float32(0.5)).astype(np.uint8)
    assert_features(source, images)
    found = metrics.fid(source, images, extractor=extractor())
    assert found == pytest.approx(0, abs=1e-9)


def test_generators_that_are_none():
    with pytest.raises(TypeError, match=r"metrics\.Generated\(function, count"):
        extractor().features(generate)
    with pytest.raises(ValueError, match="count must be at least 2"):
        metrics.Generated(generate, count=1)
    with pytest.raises(ValueError, match=r"50 images were requested; got \[3, 4, 4, 3\]"):
        extractor().features(metrics.Generated(lambda key, n: jnp.zeros((3, 4, 4, 3)), count=9))
    with pytest.raises(ValueError, match="need a value_range"):
        extractor().features(metrics.Generated(generate, count=9))
    of_another_range = metrics.Generated(generate, count=50, value_range=(0, 1))
    with pytest.raises(ValueError, match=r"far outside .*from -1 to .*State the range"):
        extractor().features(of_another_range)

    def upper_half(key, n):
        return jax.random.uniform(key, (n, 16, 16, 3))

    with pytest.warns(UserWarning, match=r"use only 0\.5 to 1 of the stated range"):
        extractor().features(metrics.Generated(upper_half, count=50, value_range=(-1, 1)))


# The user's own features


@pytest.fixture(scope="module")
def network():
    with tiny.registered():
        yield ij.create_model("tiny", num_classes=4)


def test_features_of_another_network(network):
    who = metrics.Extractor(features=network, batch_size=3)
    images = pictures(5, size=(20, 30))
    expected = np.concatenate([network.embed(ij.preprocess(network, x)) for x in images])
    found = who.features(images)
    np.testing.assert_allclose(found.pooled, expected, rtol=0, atol=2e-6)
    on_devices = who.apply(who.params, images).pooled
    np.testing.assert_allclose(on_devices, expected, rtol=0, atol=2e-6)
    assert who.origin.network == "tiny"
    assert who.width == 32
    assert found.logits_unbiased is None
    with pytest.warns(UserWarning, match="5 and 5 images for 32 features"):
        found_fid = metrics.fid(found, metrics.Statistics.of(found.pooled))
    assert found_fid == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="features of tiny"):
        metrics.fid(found, extractor().features(images))


def test_features_of_a_network_in_a_file(network, tmp_path):
    path = tmp_path / "mine.safetensors"
    ij.save_weights(network, path)
    who = metrics.Extractor(features=str(path))
    assert who.origin == metrics.Extractor(features=network).origin
    with pytest.raises(ij.UnknownModelError):
        metrics.Extractor(features="inceptoin_v1").load()


@pytest.mark.parametrize(
    "name",
    [
        "inception_v1.tv_in1k",
        "inception_v3.tf_in1k",
        "inception_v3.gluon_in1k",
        "inception_v4.slim_in1k",
        "bn_inception.caffe_in1k",
        "xception.keras_in1k",
        "inception_resnet_v1.vggface2",
    ],
)
@pytest.mark.parametrize("size", [(500, 375), (60, 83)])
def test_images_are_prepared_as_publishers_do(name, size):
    """Images prepared on devices equal those of `preprocess`, up to rounding.

    Where Pillow resizes in integers, the pixels before normalisation are identical.
    """
    info = ij.model_info(name)
    image = pictures(1, size=size)[0]
    expected = ij.preprocess(name, image)
    found = device_crops.prepared(device_images.pixels(image[None]), info, 3)
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * scale)


def test_grey_networks_see_luma(network):
    grey = ij.create_model("tiny", in_channels=1, num_classes=2)  # registered by the fixture
    info, channels = facts_of(grey)
    image = pictures(1)[0]
    expected = ij.preprocess(grey, Image.fromarray(image))
    found = device_crops.prepared(device_images.pixels(image[None]), info, channels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_functions_with_parameters():
    own = metrics.OwnFeatures(lambda p, x: pixels(x) * p, "scaled", params=jnp.float32(2), size=16)
    who = metrics.Extractor(features=own, batch_size=4)
    images = pictures(4)
    expected = 2 * extractor().features(images).pooled
    np.testing.assert_array_equal(who.features(images).pooled, expected)
    found = who.apply(jnp.float32(1), images).pooled * 2
    np.testing.assert_allclose(found, expected, rtol=2e-7)
    assert who.origin.weights.startswith("sha256:")


def test_a_plain_function_takes_images_as_they_are():
    def colours(images):
        return images.mean((1, 2))

    who = metrics.Extractor(features=colours)
    assert who.origin.network == "colours"
    images = pictures(4)
    found = who.apply(None, images).pooled
    np.testing.assert_allclose(found, images.mean((1, 2)) / 255, rtol=1e-5)


def test_functions_that_give_no_features():
    for function in (lambda x: x, lambda x: x.mean((0, 1)), lambda x: 3):
        own = metrics.OwnFeatures(function, "odd", size=16)
        with pytest.raises(ValueError, match=r"odd must return features \[n, d\]"):
            metrics.Extractor(features=own).load()
    with pytest.raises(ValueError, match="not a int"):
        metrics.Extractor(features=3)
    with pytest.raises(ValueError, match="need a name"):
        metrics.OwnFeatures(pixels, "")


# The page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*images for .* features")
def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    """The code of docs/howto/fid_in_a_loop.md runs with a narrow network's weights."""
    narrow = filled("inception_v3.fid", width_multiplier=WIDTH, num_classes=CLASSES)

    def with_weights(weights=True, **options):
        given = narrow if "features" not in options else True
        return metrics_extractor(given if weights is True else weights, **options)

    metrics_extractor = metrics.Extractor
    monkeypatch.setattr(metrics, "Extractor", with_weights)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    for i, image in enumerate(pictures(40, size=(32, 32))):
        Image.fromarray(image).save(tmp_path / "real" / f"{i}.png")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    assert int(names["state"].count) == 100
