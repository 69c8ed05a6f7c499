"""Tests which files of a folder are used as images, and how other files are reported."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

import inception_jax as ij
from inception_jax import folders, images
from inception_jax.notes import Counts, printable
from tests.helpers.written_images import encode, gradient


def relative(listing, root):
    return [os.path.relpath(path, root) for path in listing.images]


def test_what_is_passed_over_is_counted_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_missing_readers", lambda: {".heic": "pillow-heif"})
    data = encode(gradient(4, 4))
    for name in (
        "b.JPG",
        "a/x.png",
        "c.heic",
        "n.txt",
        "a/m.txt",
        ".hidden.jpg",
        "png",
        "a.b/y.gif",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/x.jpg").write_bytes(data)
    listing = folders.image_files(tmp_path)
    assert relative(listing, tmp_path) == ["b.JPG", "a/x.png", "a.b/y.gif"]
    note = folders.passed_over_note("d", len(listing.images), listing.passed_over)
    assert note == (
        "d: 4 of 7 files are skipped: 2 .txt (such as n.txt), "
        "1 .heic, which need pillow-heif (c.heic), 1 without an ending (png)"
    )
    assert folders.passed_over_note("d", 3, Counts()) is None


def test_only_regular_files_are_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(gradient(4, 4)))
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "pipe_link.jpg").symlink_to("pipe.jpg")
    (tmp_path / "zeros.jpg").symlink_to("/dev/zero")
    (tmp_path / "own.jpg").symlink_to("own.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    listing = folders.image_files(tmp_path)
    # Broken links are listed, and fail when they are read.
    assert relative(listing, tmp_path) == ["a.jpg", "gone.jpg", "link.jpg", "own.jpg"]
    assert "3 not a regular file" in str(listing.passed_over)
    for name in ("pipe.jpg", "pipe_link.jpg", "zeros.jpg"):
        with pytest.raises(images.BadImageError, match="not a regular file"):
            images.read(tmp_path / name)
    for name in ("own.jpg", "gone.jpg"):
        with pytest.raises(OSError, match=r"No such file|symbolic links"):
            images.read(tmp_path / name)


def test_loops_and_links_inside_are_not_followed(tmp_path):
    data = encode(gradient(4, 4))
    for name in ("root/a/x.jpg", "root/b/y.jpg", "outside/deep/z.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(data)
    a = tmp_path / "root/a"
    (a / "parent").symlink_to("..")
    (a / "self").symlink_to(".")
    (a / "above").symlink_to(tmp_path)
    (a / "sibling").symlink_to("../b")
    (a / "extra").symlink_to(tmp_path / "outside")
    (a / "again").symlink_to(tmp_path / "outside/deep")
    (tmp_path / "outside/back").symlink_to(tmp_path / "root")
    listing = folders.image_files(tmp_path / "root")
    found = {os.path.basename(path) for path in listing.images}
    assert (found, len(listing.images)) == ({"x.jpg", "y.jpg", "z.jpg"}, 3)
    assert "6 link to a folder that is read already" in str(listing.passed_over)
    # Images of one class are not listed under another class.
    walk = folders.Walk(tmp_path / "root")
    assert [os.path.basename(path) for path in walk.images(a)] == ["x.jpg", "z.jpg"]
    (tmp_path / "linked").symlink_to(tmp_path / "root")  # an explicitly given link is followed
    assert len(folders.image_files(tmp_path / "linked").images) == 3


def test_names_are_printable():
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert printable(os.fsdecode(b"\xff.jpg")) == "\\xff.jpg"
    assert printable("ä 中\u202e") == "ä 中\\u202e"


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_large_images_take_little_memory(mode, kind, monkeypatch):
    """A large image gives the same pixels when it is read in strips as when it is read whole.

    A grey image is read as one channel, and gives the same pixels as its RGB copy.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (70, 41, 3), np.uint8)
    if mode == "I;16":
        pixels = pixels[..., 0].astype(np.uint16) * 251
    elif mode == "L":
        pixels = pixels[..., 0]
    data = encode(pixels, kind)
    expected = [ij.preprocess(name, data) for name in ("xception.tf_in1k", "inception_v3.fid")]
    monkeypatch.setattr(images, "_STRIP", 7)
    monkeypatch.setattr(images, "_LARGE", 10)
    for name, array in zip(("xception.tf_in1k", "inception_v3.fid"), expected, strict=True):
        np.testing.assert_array_equal(ij.preprocess(name, data), array)
    if mode == "L":
        colour = Image.fromarray(np.stack([pixels] * 3, -1))
        np.testing.assert_array_equal(ij.preprocess("xception.tf_in1k", colour), expected[0])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_large_jpeg_is_checked_and_read_by_pillow(mode, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 41, 3), np.uint8)
    data = encode(np.asarray(Image.fromarray(pixels).convert(mode)))
    expected = images.read(data).array(3)
    monkeypatch.setattr(images, "_LARGE", 10)
    np.testing.assert_array_equal(images.read(data).array(3), expected)
    with pytest.raises(images.BadImageError):
        images.read(data[: len(data) // 2])


def test_files_too_large_are_refused(tmp_path, monkeypatch):
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(images.BadImageError, match=r"sparse\.png: 1073741825 bytes are more than"):
        images.read(tmp_path / "sparse.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 15)
    with pytest.raises(images.BadImageError, match="4x4 pixels are more than 15"):
        images.read(encode(gradient(4, 4), "PNG"))
