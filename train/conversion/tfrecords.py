"""TFRecord files without TensorFlow: length, checksum of the length, record, its checksum."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

try:
    import google_crc32c
except ModuleNotFoundError:  # lengths are still checked
    google_crc32c = None

from train.errors import UsageError

_MAX_RECORD = 1 << 31  # what protobuf can hold


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the records of a file.

    Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.

    Raises:
        UsageError: if the file is cut short, damaged or no TFRecord file; checksums are verified
            where google-crc32c is installed.
    """
    with path.open("rb") as stream:
        number = 0
        while header := stream.read(12):
            where = f"{path}, record {number}"
            if len(header) < 12:
                raise UsageError(f"{where}: the file is cut short")
            (length,) = struct.unpack("<Q", header[:8])
            _check(header[:8], header[8:], where)
            if length > _MAX_RECORD:
                raise UsageError(f"{where}: {length} bytes long: no TFRecord file, or a packed one")
            record, checksum = stream.read(length), stream.read(4)
            if len(checksum) < 4:
                raise UsageError(f"{where}: the file is cut short")
            _check(record, checksum, where)
            yield record
            number += 1


def frame(record: bytes) -> bytes:
    """Puts a record into the frame that `read_records` takes off; needs google-crc32c."""
    length = struct.pack("<Q", len(record))
    return length + _checksum(length) + record + _checksum(record)


def _check(content: bytes, checksum: bytes, where: str) -> None:
    if google_crc32c is not None and _checksum(content) != checksum:
        raise UsageError(f"{where}: wrong checksum: the file is damaged, or no TFRecord file")


def _checksum(content: bytes) -> bytes:
    """CRC-32C, rotated and shifted so that a checksum of checksums is not degenerate."""
    if google_crc32c is None:
        raise ModuleNotFoundError("No module named 'google_crc32c'")
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
