"""WAV of any length to a file or a pipe: 16 or 24-bit integers or 32-bit floats, RF64 past 4 GiB.

The header has a JUNK chunk of the size of RF64's `ds64`, and turns into an RF64 header at the end if the file has
grown past what 32 bits can count (EBU Tech 3306, 2009, section 3.5). No time stamps: same samples, same bytes.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO

import numpy as np

Array = np.ndarray

log = logging.getLogger(__name__)

UNKNOWN = 0xFFFFFFFF  # what 32 bits say of a length that does not fit or is not known: read to the end
BYTES = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}  # of one sample


def quantise(samples: Array, bits: int, kind: str = "<i4") -> Array:
    """float32 in [-1, 1] -> integers of `bits` bits, rounded to nearest; they read back as value / 2^(bits - 1)."""
    scale = np.float32(2 ** (bits - 1))
    scaled = samples * scale
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -scale, scale - 1, out=scaled).astype(kind, order="C")


INFO_IDS = {"title": b"INAM", "comment": b"ICMT", "software": b"ISFT", "copyright": b"ICOP"}
ENCODINGS: dict[str, Callable[[Array], bytes]] = {  # little-endian
    "PCM_16": lambda samples: quantise(samples, 16, "<i2").tobytes(),
    "PCM_24": lambda samples: quantise(samples, 24).view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
    "FLOAT": lambda samples: samples.astype("<f4").tobytes(),
}


@dataclass(frozen=True)
class Layout:
    """What a header says besides the length; `limit` is the largest RIFF size before RF64."""

    sample_rate: int
    channels: int
    subtype: str
    limit: int = UNKNOWN
    tags: Mapping[str, str] = field(default_factory=dict)  # of INFO_IDS

    @property
    def frame_bytes(self) -> int:
        return self.channels * BYTES[self.subtype]

    def is_large(self, frames: int) -> bool:
        return self._riff_size(frames) >= self.limit

    def header(self, frames: int | None) -> bytes:
        """The bytes before the samples, always equally many; `frames` is None for a stream of unknown length."""
        if frames is None:
            return self._chunks(b"RIFF", UNKNOWN, _chunk(b"JUNK", bytes(28)), UNKNOWN, UNKNOWN)
        riff, data = self._riff_size(frames), frames * self.frame_bytes
        if not self.is_large(frames):
            return self._chunks(b"RIFF", riff, _chunk(b"JUNK", bytes(28)), frames, data)
        sizes = _chunk(b"ds64", struct.pack("<QQQI", riff, data, frames, 0))
        return self._chunks(b"RF64", UNKNOWN, sizes, min(frames, UNKNOWN), UNKNOWN)

    def _chunks(self, tag: bytes, riff: int, sizes: bytes, frames: int, data: int) -> bytes:
        floats, width = self.subtype == "FLOAT", BYTES[self.subtype]
        kind = 3 if floats else 1
        rate, frame = self.sample_rate, self.frame_bytes
        form = _chunk(b"fmt ", struct.pack("<HHIIHH", kind, self.channels, rate, rate * frame, frame, 8 * width))
        fact = _chunk(b"fact", struct.pack("<I", frames)) if floats else b""
        start = struct.pack("<4sI4s", tag, riff, b"WAVE") + sizes + form + fact + self._info()
        return start + struct.pack("<4sI", b"data", data)

    def _info(self) -> bytes:
        """The tags as a LIST chunk of type INFO (RIFF, 1991); every text ends with a zero and has an even length."""
        texts = {INFO_IDS[name]: text.encode() + b"\0" for name, text in self.tags.items() if text}
        chunks = b"".join(_chunk(name, text) + bytes(len(text) % 2) for name, text in texts.items())
        return _chunk(b"LIST", b"INFO" + chunks) if chunks else b""

    def _riff_size(self, frames: int) -> int:
        data = frames * self.frame_bytes
        return self._overhead + data + data % 2

    @cached_property
    def _overhead(self) -> int:
        """Bytes of the RIFF chunk beside the samples."""
        return len(self._chunks(b"RIFF", 0, _chunk(b"JUNK", bytes(28)), 0, 0)) - 8


def _chunk(tag: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", tag, len(content)) + content


class WavSink:
    """Samples behind a header. A file gets its true length at the end; a pipe, `frames` if known, at the start."""

    def __init__(self, file: BinaryIO, layout: Layout, name: str, pipe: bool, frames: int | None) -> None:
        self._file, self._layout, self._name, self._pipe = file, layout, name, pipe
        self._encode = ENCODINGS[layout.subtype]
        self._frames = 0
        known = frames if pipe and frames is not None and not layout.is_large(frames) else None
        write_all(file, layout.header(known))

    def write(self, samples: Array) -> None:
        small = not self._layout.is_large(self._frames)
        write_all(self._file, self._encode(samples))
        self._frames += len(samples)
        if self._pipe:
            self._file.flush()
        elif small and self._layout.is_large(self._frames):
            log.warning("%s: passes 4 GiB, so it becomes RF64, a WAV that old players may not open", self._name)

    def close(self) -> None:
        if self._pipe:
            self._file.flush()
            return
        with self._file as file:
            header = self._layout.header(self._frames)
            data = self._frames * self._layout.frame_bytes
            file.truncate(len(header) + data)  # an interrupt or a full disk may have left part of a block
            file.seek(0, os.SEEK_END)
            file.write(bytes(data % 2))
            file.seek(0)
            file.write(header)


def write_all(file: BinaryIO, content: bytes) -> None:
    """To a file without a buffer, which may take less than it is given; what it took last can be cut off again."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


class RawSink:
    """Samples without a header, flushed at every block: someone may be listening."""

    def __init__(self, file: BinaryIO, subtype: str, pipe: bool) -> None:
        self._file, self._encode, self._pipe = file, ENCODINGS[subtype], pipe

    def write(self, samples: Array) -> None:
        write_all(self._file, self._encode(samples))
        self._file.flush()

    def close(self) -> None:
        if not self._pipe:
            self._file.close()
