"""Reads TFRecord files without TensorFlow.

Each record is stored as its length, the length's checksum, the record and the record's checksum:
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details. TFDS needs
TensorFlow to read such files, and `grain.experimental.TFRecordIterDataset` does not verify
checksums.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from inception_jax import extras

_MAX_RECORD = 1 << 31  # bytes; the limit of protobuf


def read_records(path: Path, error: type[Exception] = ValueError) -> Iterator[bytes]:
    """Yields the bytes of each record of a file, in the order of the file.

    Args:
        path: path of the file.
        error: class of the error to raise.

    Raises:
        error: if the file is truncated, damaged or not a TFRecord file.
    """
    crc32c = extras.require("google_crc32c", "a TFRecord file", error)
    with path.open("rb") as stream:
        number = 0
        while header := stream.read(12):
            where = f"{path}, record {number}"
            if len(header) < 12:
                raise error(f"{where}: the file is truncated")
            (length,) = struct.unpack("<Q", header[:8])
            _verify(crc32c.value(header[:8]), header[8:], where, error)
            if length > _MAX_RECORD:
                raise error(f"{where}: {length} bytes long: no TFRecord file, or a packed one")
            record, checksum = stream.read(length), stream.read(4)
            if len(checksum) < 4:
                raise error(f"{where}: the file is truncated")
            _verify(crc32c.value(record), checksum, where, error)
            yield record
            number += 1


def _verify(crc: int, checksum: bytes, where: str, error: type[Exception]) -> None:
    """Checks a CRC-32C against a stored checksum, which is rotated and has an offset added.

    Args:
        crc: CRC-32C of the data.
        checksum: stored checksum, 4 bytes.
        where: file and record, for the message.
        error: class of the error to raise.

    Raises:
        error: if they do not match.
    """
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if struct.pack("<I", masked) != checksum:
        raise error(f"{where}: wrong checksum: the file is damaged, or no TFRecord file")


def bytes_features(example: bytes) -> dict[str, bytes]:
    """Returns those features of a `tf.train.Example` that are a single byte string, by name.

    Raises:
        ValueError: if the bytes are not a `tf.train.Example`.
    """
    try:
        found = {}
        for features in _fields(example, 1):
            for entry in _fields(features, 1):
                (name,) = _fields(entry, 1)
                values = [v for feature in _fields(entry, 2) for b in _fields(feature, 1)
                          for v in _fields(b, 1)]  # fmt: skip
                if len(values) == 1:
                    found[name.decode()] = values[0]
        return found
    except (IndexError, ValueError) as error:
        raise ValueError(f"no tf.train.Example: {error}") from None


def _fields(message: bytes, wanted: int) -> list[bytes]:
    """Returns the values of one field of a protobuf message.

    Only length-delimited values are returned: bytes, text and messages.

    Args:
        message: the serialised message.
        wanted: field number.
    """
    found, at = [], 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("it is truncated")
            if tag >> 3 == wanted:
                found.append(message[at : at + length])
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"kind of field {kind}")
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
