"""TensorFlow checkpoints read without TensorFlow: an `.index` in LevelDB's table format beside one file of raw data.

Sources: tensorflow/core/protobuf/tensor_bundle.proto, LevelDB's doc/table_format.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from everwave.errors import EverwaveError

MAGIC = bytes.fromhex("57fb808b247547db")  # ends every table
FOOTER, TRAILER = 48, 5  # bytes of the footer, and of type and checksum after every block
FLOAT = 1  # TensorFlow's number for float32


def read(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """The float32 tensors of a checkpoint of one shard; EverwaveError if `index` is not that of one."""
    if index[-8:] != MAGIC:
        raise EverwaveError("the checkpoint's .index is not a TensorFlow table; get the file again")
    _, _, offset, size = _varints(index[-FOOTER:], 4)
    tensors = {}
    for _, handle in _block(index, offset, size):
        for key, value in _block(index, *_varints(handle, 2)):
            entry = dict(_fields(value))
            if key and entry.get(1) == FLOAT:
                shape = [dict(_fields(dim)).get(1, 0) for field, dim in _fields(entry.get(2, b"")) if field == 2]
                values = np.frombuffer(data, "<f4", entry[5] // 4, entry.get(4, 0))
                tensors[key.decode()] = values.reshape(shape)
    return tensors


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of an uncompressed block; a key repeats the start of the one before."""
    block = table[offset : offset + size + TRAILER]
    if block[size]:
        raise EverwaveError("the checkpoint's .index is compressed, which TensorFlow does not do by itself")
    end = size - 4 - 4 * int.from_bytes(block[size - 4 : size], "little")  # without the list of restart points
    key, position = b"", 0
    while position < end:
        (shared, own, length), position = _varints_at(block, position, 3)
        key = key[:shared] + block[position : position + own]
        yield key, block[position + own : position + own + length]
        position += own + length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a protobuf message: integers, or bytes of strings and messages."""
    position = 0
    while position < len(message):
        (tag,), position = _varints_at(message, position, 1)
        if tag & 7 == 0:
            (value,), position = _varints_at(message, position, 1)
            yield tag >> 3, value
        else:
            length = {5: 4, 1: 8}.get(tag & 7)
            if length is None:
                (length,), position = _varints_at(message, position, 1)
            yield tag >> 3, message[position : position + length]
            position += length


def _varints(data: bytes, count: int) -> list[int]:
    return _varints_at(data, 0, count)[0]


def _varints_at(data: bytes, position: int, count: int) -> tuple[list[int], int]:
    """`count` integers of 7 bits a byte, least significant first, and the position after them."""
    values = []
    for _ in range(count):
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        values.append(value)
    return values, position
