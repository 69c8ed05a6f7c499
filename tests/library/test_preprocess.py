from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import inception_jax as ij
from tests.helpers.photos import turned


def photo(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", [*ij.list_models(), *ij.list_models(tags=True)])
@pytest.mark.parametrize("size", [(500, 375), (300, 451), (80, 60)])
def test_every_tag_gives_its_own_input(name, size):
    info = ij.model_info(name)
    x = ij.preprocess(name, photo(*size))
    assert x.shape == (1, info.input_size, info.input_size, 3)
    assert x.dtype == np.float32
    low = (0 - np.float32(info.mean)) / info.std
    high = (info.input_range - np.float32(info.mean)) / info.std
    assert (x >= low - 1e-6).all()
    assert (x <= high + 1e-6).all()


def test_grey_images_arrays_and_modes_agree():
    grey = photo(400, 350)[:, :, 0]
    expected = ij.preprocess("xception.tf_in1k", grey)
    for image in (grey[:, :, None], np.stack([grey] * 3, -1), Image.fromarray(grey)):
        np.testing.assert_array_equal(ij.preprocess("xception.tf_in1k", image), expected)


def test_torchvision_rule():
    """torchvision's rule resizes the shorter side to 342 and crops the central 299x299 pixels.

    Pixels are normalised with ImageNet's mean and standard deviation.
    """
    image = Image.fromarray(photo(480, 640))
    resized = image.resize((456, 342), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized)[22:321, 78:377] / 255  # round((456 - 299) / 2) is 78
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(ij.preprocess("inception_v3.tv_in1k", image)[0], expected, atol=1e-6)


def test_caffe_takes_bytes_from_blue_to_red():
    """Caffe's rule resizes the whole image to 256x256 and crops the centre.

    The result is the BGR bytes minus their mean.
    """
    image = Image.fromarray(photo(480, 640))
    warped = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR))[16:240, 16:240]
    expected = warped[:, :, ::-1] - np.float32([104, 117, 123])
    np.testing.assert_array_equal(ij.preprocess("inception_v1.bvlc_in1k", image)[0], expected)


def test_faces_are_scaled_by_128():
    image = photo(160, 160)
    expected = (image.astype(np.float32) - 127.5) / 128
    ours = ij.preprocess("inception_resnet_v1.vggface2", image)[0]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_fid_resizes_as_pytorch_does():
    image = photo(401, 256)
    torch = pytest.importorskip("torch")
    t = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    expected = (
        2 * torch.nn.functional.interpolate(t, (299, 299), mode="bilinear", align_corners=False) - 1
    )
    ours = ij.preprocess("inception_v3.fid", image)
    np.testing.assert_allclose(ours, expected.permute(0, 2, 3, 1), atol=2e-5)


def test_slim_interpolates_from_the_corner():
    """TF-slim's output pixel i samples the input at i * scale, so pixel 0 is unchanged."""
    image = photo(400, 400)
    ours = ij.preprocess("inception_v3.slim_in1k", image)[0]
    crop = image[25:375, 25:375].astype(np.float64)  # 87.5 % of each side
    at = 7 * 350 / 299
    low, share = int(at), at % 1
    row = crop[0, low] * (1 - share) + crop[0, low + 1] * share
    np.testing.assert_allclose(ours[0, 7], row / 127.5 - 1, atol=1e-5)
    np.testing.assert_allclose(ours[0, 0], crop[0, 0] / 127.5 - 1, atol=1e-6)


def test_an_orientation_that_is_ignored_is_said(tmp_path):
    """An EXIF orientation is ignored, with a warning, if the original implementation ignored it."""
    Image.fromarray(photo(40, 60)).save(tmp_path / "x.png", exif=turned())
    with pytest.warns(UserWarning, match=r"EXIF orientation ignored: 1 image \(.*x\.png\)"):
        ours = ij.preprocess("xception.tf_in1k", tmp_path / "x.png")
    np.testing.assert_array_equal(ours, ij.preprocess("xception.tf_in1k", photo(40, 60)))


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.float32), np.zeros((9, 9, 4), np.uint8)])
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="image array must"):
        ij.preprocess("xception", image)
