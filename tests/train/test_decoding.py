"""Tests that decoding gives the right pixels or raises a BadImageError."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.helpers.written_images import encode, gradient
from train.data import decoding
from train.data.bad_images import BadImageError
from train.data.decoding import Box, decode_crop, decode_whole


def pillow(data: bytes, mode: str = "RGB") -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert(mode))


def box(*numbers: int):
    return lambda height, width: Box(*numbers)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b)


def test_a_crop_is_that_part_of_the_image():
    data = encode(gradient(200, 300), quality=95, subsampling=0)
    crop = decode_crop(data, box(40, 60, 100, 180), 50, 3).image
    assert crop.shape == (50, 50, 3)
    # The middle of the first and the last pixel, in shares of the image.
    red = (60 + 180 * (np.array([0, 49]) + 0.5) / 50 - 0.5) / 299 * 255
    green = (40 + 100 * (np.array([0, 49]) + 0.5) / 50 - 0.5) / 199 * 255
    np.testing.assert_allclose(crop[25, [0, 49], 0], red, atol=3)
    np.testing.assert_allclose(crop[[0, 49], 25, 1], green, atol=3)


def test_resizing_is_bilinear_with_half_pixel_centers_and_without_antialiasing():
    line = np.uint8([0, 0, 0, 255, 0, 0, 0, 0])[None, :, None].repeat(8, 0)
    np.testing.assert_array_equal(decoding.resize(line, 8, 2)[0, :, 0], [0, 0])  # averaging: 32
    np.testing.assert_array_equal(
        decoding.resize(np.uint8([[[0], [100]]]), 1, 4)[0, :, 0], [0, 25, 75, 100]
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_large_photo_decodes_smaller_to_the_same_pixels(monkeypatch, factor, channels):
    noise = np.random.default_rng(0).normal(size=(811, 1207, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 20)
    pixels = np.uint8(np.clip(128 + 50 * smooth / smooth.std(), 0, 255))
    data = encode(pixels, quality=97, subsampling=0)
    part = box(101, 203, 613, 809)
    size = 613 // factor
    reduced = decode_crop(data, part, size, channels).image
    monkeypatch.setattr(decoding, "_reduction", lambda *_: 1)
    full = decode_crop(data, part, size, channels).image
    assert np.ptp(full) > 100
    assert difference(reduced, full).mean() < 1.5
    # A position that is off by half a reduced pixel is worse than that.
    matched = difference(reduced, full)[1:-1, 1:-1].mean()
    for shift in ((0, 1), (1, 0)):
        moved = np.roll(full, shift, axis=(0, 1))
        between = (moved.astype(int) + full) / 2
        assert matched < np.abs(reduced - between)[1:-1, 1:-1].mean()


def test_how_much_smaller_a_photo_decodes(monkeypatch):
    factors = []
    whole = decoding._decode_jpeg
    monkeypatch.setattr(decoding, "_decode_jpeg", lambda *a: (factors.append(a[-1]), whole(*a))[1])
    data = encode(gradient(600, 800))
    for size in (601, 301, 300, 150, 75, 10):
        decode_crop(data, decoding.full_box, size, 3)
    assert factors == [1, 1, 2, 4, 8, 8]
    assert decode_whole(data, 3, min_side=150).image.shape == (150, 200, 3)
    assert decode_whole(data, 3).image.shape == (600, 800, 3)


def test_formats_that_pillow_reads():
    pixels = gradient(20, 30)
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(decode_whole(encode(pixels, kind), 3).image, pixels)
    lossless = encode(pixels, "WEBP", lossless=True)
    np.testing.assert_array_equal(decode_whole(lossless, 3).image, pixels)
    frames = [Image.fromarray(np.full((5, 6, 3), v, np.uint8)) for v in (10, 200)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_whole(stream.getvalue(), 3).image, np.full((5, 6, 3), 10))


def test_gray_and_luma():
    gray = gradient(20, 30)[..., 0]
    for kind in ("PNG", "JPEG"):
        three = decode_whole(encode(gray, kind), 3).image
        np.testing.assert_array_equal(three, decode_whole(encode(gray, kind), 1).image.repeat(3, 2))
    color = gradient(20, 30)
    luma = decode_whole(encode(color, "PNG"), 1).image
    assert luma.shape == (20, 30, 1)
    assert difference(luma[..., 0], pillow(encode(color, "PNG"), "L")).max() <= 1
    assert difference(decoding.with_channels(color, 1), luma).max() <= 1
    assert difference(decode_whole(encode(color, quality=95), 1).image, luma).max() <= 4


def test_cmyk_is_converted_and_says_so():
    ink = np.dstack([gradient(20, 30), np.full((20, 30), 40, np.uint8)])
    data = encode(ink, "JPEG", "CMYK", quality=95)
    decoded = decode_crop(data, decoding.full_box, 20, 3)
    assert decoded.converted == "CMYK"
    expected = decoding.resize(pillow(data), 20, 20)
    np.testing.assert_array_equal(decoded.image, expected)
    damaged = data[: len(data) // 2]
    with pytest.raises(BadImageError):
        decode_whole(damaged, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_not_clipped(kind, channels):
    deep = np.uint16([[0, 128, 129, 257, 32896, 65535]])
    decoded = decode_whole(encode(deep, kind), channels)
    assert decoded.converted == "16-bit grey"
    assert decoded.image.shape == (1, 6, channels)
    np.testing.assert_array_equal(decoded.image[0, :, 0], [0, 0, 1, 1, 128, 255])


def test_rare_ways_of_subsampling_are_left_to_pillow():
    changed = bytearray(encode(gradient(64, 64), quality=90, subsampling=0))
    changed[changed.index(b"\xff\xc0") + 11] = 0x14  # the luma four times as high as the chroma
    data = bytes(changed)
    with pytest.raises(KeyError):
        simplejpeg.decode_jpeg_header(data)
    np.testing.assert_array_equal(decode_whole(data, 3).image, pillow(data))


def test_palettes_and_alpha():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 200, 10
    np.testing.assert_array_equal(decode_whole(encode(pixels, "PNG"), 3).image, pixels[..., :3])
    palette = Image.fromarray(pixels[..., :3]).quantize(4)
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=b"\x00\x80")
    np.testing.assert_array_equal(decode_whole(stream.getvalue(), 3).image, pixels[..., :3])


def test_padding_before_a_marker_is_harmless_but_truncation_with_it_is_not():
    data = encode(gradient(64, 64), quality=90)
    at = data.index(b"\xff\xc4")
    padded = data[:at] + bytes(254) + data[at:]
    np.testing.assert_array_equal(decode_whole(padded, 3).image, decode_whole(data, 3).image)
    with pytest.raises(BadImageError):
        decode_whole(padded[:-40], 3)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_what_cannot_be_used_says_why():
    photo, drawing = encode(gradient(64, 48)), encode(gradient(64, 48), "PNG")
    frame = photo.index(b"\xff\xc0")
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = drawing[:8] + png_chunk(b"IHDR", header) + png_chunk(b"IEND", b"")
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(stream, "TIFF")
    wide = io.BytesIO()
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(wide, "TIFF")
    bad = {
        "empty": b"",
        "not an image": b"no image at all",
        "Premature end": photo[:-100],
        "checksum": drawing[:60] + bytes([drawing[60] ^ 1]) + drawing[61:],
        "pixels": photo[: frame + 5] + b"\xff\xfe\xff\xfe" + photo[frame + 9 :],
        "bomb|pixels": bomb,
        "floating": stream.getvalue(),
        "16 bits": wide.getvalue(),
    }
    for reason, data in bad.items():
        for channels in (1, 3):
            with pytest.raises(BadImageError, match=reason):
                decode_whole(data, channels)
        with pytest.raises(BadImageError, match=reason):
            decode_crop(data, decoding.full_box, 16, 3)
    assert decode_whole(encode(gradient(1, 1)), 3).image.shape == (1, 1, 3)
    assert decode_crop(encode(gradient(1, 40_000), "PNG"), decoding.full_box, 8, 3).image.any()


def test_a_png_that_was_cut_off_is_said_to_be():
    data = encode(gradient(9, 9), "PNG")
    for end in range(50, len(data)):
        with pytest.raises(BadImageError, match=r"^PNG that was cut off before its end$"):
            decode_whole(data[:end], 3)


@pytest.mark.parametrize(
    "kind", ["JPEG", "progressive", "CMYK", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
)
def test_damage_raises_one_error_or_gives_an_image(kind):
    """A damaged file raises a BadImageError or decodes to the right shape and dtype.

    The damaged files are truncations of a small file, and 250 copies with changed bytes.
    """
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (13, 17, 4 if kind == "CMYK" else 3), np.uint8)
    if kind == "progressive":
        data = encode(pixels, "JPEG", progressive=True)
    elif kind == "CMYK":
        data = encode(pixels, "JPEG", "CMYK")
    else:
        data = encode(pixels, kind)
    damaged = [data[:end] for end in range(0, len(data), max(len(data) // 150, 1))]
    for _ in range(250):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 5)):
            changed[at] = rng.integers(256)
        damaged.append(bytes(changed))
    outcomes = set()
    for number, item in enumerate(damaged):
        channels = 1 if number % 4 == 0 else 3
        try:
            image = decode_crop(item, decoding.full_box, 8, channels).image
        except BadImageError:
            outcomes.add("raised")
        else:
            assert (image.shape, image.dtype) == ((8, 8, channels), np.uint8)
            outcomes.add("decoded")
    assert "raised" in outcomes
    cut = data[: len(data) * 2 // 3]
    if kind != "GIF":  # a GIF's first frame may be whole
        with pytest.raises(BadImageError):
            decode_whole(cut, 3)
