"""Reads TFRecord files without TensorFlow.

Each record is stored as its length, the length's checksum, the record and the record's checksum:
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details. TFDS reads them
through TensorFlow only, and `grain.experimental.TFRecordIterDataset` does not verify checksums.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from train.errors import UsageError

_MAX_RECORD = 1 << 31  # what protobuf can hold


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the records of a file.

    Raises:
        UsageError: if the file is truncated, damaged or not a TFRecord file.
    """
    with path.open("rb") as stream:
        number = 0
        while header := stream.read(12):
            where = f"{path}, record {number}"
            if len(header) < 12:
                raise UsageError(f"{where}: the file is cut short")
            (length,) = struct.unpack("<Q", header[:8])
            _verify(header[:8], header[8:], where)
            if length > _MAX_RECORD:
                raise UsageError(f"{where}: {length} bytes long: no TFRecord file, or a packed one")
            record, checksum = stream.read(length), stream.read(4)
            if len(checksum) < 4:
                raise UsageError(f"{where}: the file is cut short")
            _verify(record, checksum, where)
            yield record
            number += 1


def _verify(content: bytes, checksum: bytes, where: str) -> None:
    """Compares CRC-32C, which TFRecord stores rotated and shifted."""
    crc = google_crc32c.value(content)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if struct.pack("<I", masked) != checksum:
        raise UsageError(f"{where}: wrong checksum: the file is damaged, or no TFRecord file")
