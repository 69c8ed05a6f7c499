"""Reads images, for all parts of the library and of the training programme.

Every image is converted to 8 bits per channel, grey or RGB; the table in `read` has the rules.
Damaged images, and images whose range of values is unknown, raise `BadImageError`. The attribute
`notes` of a `Picture` lists unusual conversions, such as that of a CMYK image.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import stat
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from inception_jax.notes import printable

EXTENSIONS = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif", ".j2c",
    ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm",
    ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Suffixes of image files, in lower case."""

MAX_PIXELS = 178_956_970
"""Largest number of pixels. Pillow's own guard against decompression bombs has the same limit."""

MAX_BYTES = 1 << 30
"""Largest file that is read, in bytes."""

_LARGE = 1 << 25  # pixels; for larger images, saving memory matters more than time
_STRIP = 256  # rows that are scaled to 8 bits at once

# Formats that contain pixels. Reading EPS would start a program; other formats have no pixels.
_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP",
)  # fmt: skip

_ORIENTATION = 0x0112  # the EXIF tag
_MAX_SAMPLE_VALUE = 281  # the TIFF tag
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

_CUT_PNG = "PNG that was cut off before its end"

# Errors for JPEGs that the TurboJPEG interface of libjpeg-turbo cannot decode, but Pillow can.
_UNSUPPORTED = re.compile(r"Unsupported (JPEG data|color|JPEG process)|Could not determine subsamp")
# Padding between segments: TensorFlow and libjpeg skip it, and files of ImageNet have it.
_HARMLESS = re.compile(r"extraneous bytes before marker")


class BadImageError(ValueError):
    """An image cannot be used. The message is a short reason.

    Args:
        reason: the message.
        name: name of the file or example, if known.
    """

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.name = name


EXIF_IGNORED = "EXIF orientation ignored"
CLIPPED = "more than 8 bits, clipped"
SIXTEEN_BIT_COLOUR = "16-bit colour"


class Picture(NamedTuple):
    """An image as it was read.

    Attributes:
        image: Pillow image in mode "L" or "RGB".
        notes: short descriptions of unusual conversions and of what was ignored, such as
            "16-bit grey" or "first of several frames".
    """

    image: Image.Image
    notes: tuple[str, ...]

    def array(self, channels: int) -> np.ndarray:
        """Returns the pixels as uint8 [h, w, channels].

        For one channel, a colour image is converted to its luma.
        """
        if self.image.mode == "L" and channels == 3:  # needs a third of the memory of a conversion
            return np.repeat(np.asarray(self.image)[:, :, None], 3, axis=2)
        pixels = np.asarray(self.with_channels(channels))
        return pixels.reshape(*pixels.shape[:2], channels)

    def with_channels(self, channels: int) -> Image.Image:
        """Returns the image in mode "L" for one channel, else in mode "RGB"."""
        mode = "L" if channels == 1 else "RGB"
        return self.image if self.image.mode == mode else self.image.convert(mode)


def read(source: Any, *, upright: bool = False, as_pillow: bool = False) -> Picture:
    """Reads an image, and converts it as in this table. Refused images raise `BadImageError`.

    | stored as | becomes | `as_pillow` |
    |---|---|---|
    | 8 bits, grey or RGB | itself | the same |
    | 1 bit | 0 or 255 | the same |
    | palette | its colours | the same |
    | transparency | ignored, as torchvision, timm and Keras do | the same |
    | CMYK, YCbCr, Lab, HSV | RGB by Pillow's conversion | the same |
    | 16-bit grey | divided by 257 | clipped at 255 |
    | 12-bit grey: the file says so, or no value is above 4095 | divided by 4095 / 255 | clipped |
    | 16-bit RGB | the upper 8 bits | the same |
    | 32-bit integers | as 16-bit grey if they fit, else refused | clipped |
    | floating point | refused: its range is not stated | clipped |
    | several frames or pages | the first | the same |
    | EXIF orientation | applied if `upright`, else ignored | the same |
    | damage | refused | read if Pillow can read it, else refused |

    Args:
        source: path or bytes of a file, a Pillow image, or a NumPy, jax or torch array, uint8
            [h, w], [h, w, 1] or [h, w, 3].
        upright: whether to apply the EXIF orientation.
        as_pillow: whether to convert like `PIL.Image.open(source).convert("RGB")`, as pytorch-fid
            does. Pillow clips values and ignores some damage without an error; the notes report
            both.

    Raises:
        BadImageError: if the image is incomplete or damaged, or its range of values is unknown.
        ValueError: for an array of another shape or dtype.
        OSError: if the file cannot be opened.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            return read(read_file(path), upright=upright, as_pillow=as_pillow)
        except BadImageError as error:
            raise BadImageError(f"{printable(path)}: {error}", str(path)) from error
    if isinstance(source, bytes | bytearray | memoryview):
        return _decoded(bytes(source), upright, as_pillow)
    if isinstance(source, Image.Image):
        return _converted(source, upright, as_pillow)
    return Picture(_of_array(source), ())


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads all bytes of a regular file.

    Pipes and devices are refused, because reading them may never end.

    Raises:
        BadImageError: if it is not a regular file, or is larger than `MAX_BYTES`.
        OSError: if it cannot be opened.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImageError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise BadImageError(f"{status.st_size} bytes are more than {MAX_BYTES}")
        return file.read(status.st_size)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _of_array(source: Any) -> Image.Image:
    array = np.asarray(source.detach().cpu() if hasattr(source, "detach") else source)
    found = f"got {array.dtype} {list(array.shape)}"
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        hint = _remedy(array)
        raise ValueError(f"an image array must be uint8 [h, w] or [h, w, 1 or 3]; {found}{hint}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[2] != 3:
        hint = ""
        if array.shape[0] in (1, 3):
            hint = ": channels come last, transpose it with image.transpose(1, 2, 0)"
        raise ValueError(f"an image array must have 1 or 3 channels; {found}{hint}")
    return Image.fromarray(np.ascontiguousarray(array))


def _remedy(array: np.ndarray) -> str:
    """Returns a hint for converting an unsuitable array to an image; empty if there is none."""
    if array.ndim == 4 or array.dtype == object:
        return ": one image at a time; ij.classify(model, images) takes many"
    if array.ndim < 2 or array.dtype.kind in "US":
        return ": give one path, picture or array; ij.classify(model, images) takes many"
    if array.dtype == np.bool_:
        return ": (image * 255).astype('uint8')"
    if not np.issubdtype(array.dtype, np.floating) or array.size == 0:
        return ""
    low, high = array.min(), array.max()
    if low >= 0 and high <= 1:
        return ", of [0, 1]: (image * 255).round().astype('uint8')"
    if low >= 0 and high <= 255:
        return ", of [0, 255]: image.round().astype('uint8')"
    return ": undo its normalisation, or give it to the model as it is, with model(images)"


def _decoded(data: bytes, upright: bool, as_pillow: bool) -> Picture:
    if not data:
        raise BadImageError("empty file")
    try:
        _register_heif(data)
        Image.init()
        formats = [name for name in _FORMATS if name in Image.OPEN]
        with Image.open(io.BytesIO(data), formats=formats) as image:
            check_size(image.height, image.width)
            return _converted(image, upright, as_pillow, data)
    except BadImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImageError(f"not an image: {_described(data)}") from error
    # Pillow's readers raise many kinds of errors for damaged files: SyntaxError, struct.error, ...
    except Exception as error:
        raise BadImageError(str(error).partition("\n")[0] or type(error).__name__) from error


def _converted(
    opened: Image.Image, upright: bool, as_pillow: bool, data: bytes | None = None
) -> Picture:
    """Converts an open image as in the table of `read`.

    Args:
        opened: image opened by Pillow.
        upright: see `read`.
        as_pillow: see `read`.
        data: bytes of the image's file; None: the image is not checked for damage.
    """
    notes = []
    stored = str(getattr(opened, "tile", ""))  # gone once the pixels or a PNG's EXIF are loaded
    image = opened
    try:
        image = opened if data is None else _undamaged(data, opened)
    except BadImageError as error:
        if not as_pillow:
            raise
        notes.append(f"damaged: {error}")
    orientation = opened.getexif().get(_ORIENTATION, 1)
    if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":  # a photo with a preview
        notes.append("first of several frames")
    if ";16" in stored and image.mode in ("RGB", "RGBA"):
        notes.append(SIXTEEN_BIT_COLOUR)
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image, note = _clipped(image) if as_pillow else _to_8_bits(image)
        notes.append(note)
    elif image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            notes.append(image.mode)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # Pillow requires this step
        image = image.convert("RGB")
    if orientation != 1:
        notes.append("turned upright" if upright else EXIF_IGNORED)
        image = _turned(image, orientation) if upright else image
    return Picture(image, tuple(notes))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    bare = image.copy()
    bare.info = {"exif": exif.tobytes()}
    return ImageOps.exif_transpose(bare)


def _undamaged(data: bytes, image: Image.Image) -> Image.Image:
    """Checks an image for damage that Pillow ignores.

    Returns:
        The image itself, or a Pillow image of its pixels if the check has decoded them.

    Raises:
        BadImageError: if it is damaged.
    """
    if image.format == "PNG":
        _check_png(data)
    if image.format not in ("JPEG", "MPO"):
        return image
    space = {"L": "GRAY", "CMYK": "CMYK"}.get(image.mode, "RGB")
    is_large = image.height * image.width > _LARGE  # only checked, at an eighth of its size
    least, factor = (1, 8) if is_large else (0, 1)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, space, min_height=least, min_width=least, min_factor=factor
        )
    except KeyError:  # chroma subsampling that simplejpeg has no name for
        return image
    except ValueError as error:
        check_only_pillow_can(data, error)
        return image
    if is_large or image.mode == "CMYK":
        return image  # simplejpeg and Pillow interpret CMYK differently
    return Image.fromarray(pixels[:, :, 0] if image.mode == "L" else pixels)  # equal to Pillow's


def check_only_pillow_can(data: bytes, error: ValueError) -> None:
    """Checks that simplejpeg rejected a JPEG for a reason other than damage.

    Pillow can decode such a JPEG: it has a format that simplejpeg does not support, or harmless
    padding between segments. simplejpeg reports only the first problem, so a file with padding is
    also checked for its end marker.

    Args:
        data: bytes of the file.
        error: error that simplejpeg raised.

    Raises:
        BadImageError: if the file is damaged.
    """
    reason = str(error)
    padded = _HARMLESS.search(reason) and b"\xff\xd9" in data[-4096:]
    if not padded and not _UNSUPPORTED.search(reason):
        raise BadImageError(reason) from error


def _to_8_bits(image: Image.Image) -> tuple[Image.Image, str]:
    """Scales 16-bit or 12-bit grey to 8 bits; returns the image and a note, such as "16-bit grey".

    Pillow's own conversion would clip values above 255.

    Raises:
        BadImageError: for floating point, or for integers outside 0 to 65535.
    """
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no stated range: save it in 8 or 16 bits")
    strips = [(top, min(top + _STRIP, image.height)) for top in range(0, image.height, _STRIP)]
    ranges = [(v.min(), v.max()) for v in (_rows(image, *strip) for strip in strips)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if low < 0 or high > 65535:
        raise BadImageError("32-bit integer pixels outside 0 to 65535: save it in 8 or 16 bits")
    stated = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
    stated = stated[0] if isinstance(stated, tuple) else stated
    is_12_bit = (stated or high) <= 4095
    pixels = np.empty((image.height, image.width), np.uint8)
    for top, bottom in strips:
        values = _rows(image, top, bottom)
        scaled = (values * 255 + 2047) // 4095 if is_12_bit else (values + 128) // 257
        pixels[top:bottom] = scaled.astype(np.uint8)
    return Image.fromarray(pixels), "12-bit grey" if is_12_bit else "16-bit grey"


def _rows(image: Image.Image, top: int, bottom: int) -> np.ndarray:
    return np.asarray(image.crop((0, top, image.width, bottom))).astype(np.int64)


def _clipped(image: Image.Image) -> tuple[Image.Image, str]:
    return image.convert("RGB").getchannel(0), CLIPPED


def is_turned(data: bytes) -> bool:
    """Returns whether a JPEG file has an EXIF orientation other than upright."""
    if b"Exif" not in data[: 1 << 16]:
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.getexif().get(_ORIENTATION, 1) != 1
    except (OSError, SyntaxError, ValueError):
        return False  # not a JPEG, or a damaged one, which `read` reports


def check_size(height: int, width: int) -> None:
    """Raises an error for an image that would fill the memory.

    Raises:
        BadImageError: for more than `MAX_PIXELS`.
    """
    if height * width > MAX_PIXELS:
        raise BadImageError(f"{width}x{height} pixels are more than {MAX_PIXELS}")


def _check_png(data: bytes) -> None:
    """Verifies the checksums of a PNG's critical chunks.

    Pillow does not verify the checksums of pixel data.

    Raises:
        BadImageError: if a checksum is wrong or the file is truncated.
    """
    view, position, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        if position + 8 > len(data):
            raise BadImageError(_CUT_PNG)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise BadImageError(_CUT_PNG)
        (checksum,) = struct.unpack_from(">I", data, end)
        critical = kind[:1].isupper()
        if critical and zlib.crc32(view[position + 4 : end]) != checksum:
            raise BadImageError("PNG with a wrong checksum")
        position = end + 4


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _register_heif(data: bytes) -> None:
    """Registers Pillow's HEIC plugin if `data` is a HEIC file.

    Raises:
        BadImageError: if the plugin is not installed.
    """
    if not _is_heif(data):
        return
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ModuleNotFoundError:
        raise BadImageError(
            "HEIC needs the package pillow-heif: pip install 'inception-jax[heif]'"
        ) from None


def _described(data: bytes) -> str:
    """Returns a description of a file that is not an image, from its first bytes."""
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "an HTML page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    return f"{len(data)} bytes of an unknown format"
