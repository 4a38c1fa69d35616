"""MP3 files that do not say how long they are: libsndfile guesses from their size and first frame, and stops there.

A guess that is short loses the end of the music, and one that is long makes the file look cut off. So the frames are
counted, and libsndfile gets a copy that begins with a frame that states their number (the "Info" tag of Xing and
LAME). Layer III of MPEG 1, 2 and 2.5; headers as in ISO 11172-3 and 13818-3, section 2.4.2.3.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from typing import IO, NamedTuple

KILOBITS = (
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
)
HERTZ = (44100, 48000, 32000)  # of MPEG 1; half of it in 2, a quarter in 2.5
STATED = (b"Xing", b"Info", b"VBRI")
ONE_FIELD = 1  # flag of the tag: the number of frames, nothing else


class Frame(NamedTuple):
    """Bytes of a whole frame, and how many of them come before its data: the header and the side information."""

    size: int
    before: int


def stating_length(path: str | os.PathLike[str]) -> IO[bytes] | None:
    """The MP3 with its number of frames before it, as a temporary file to be closed; None if it is stated already."""
    with open(path, "rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
        starts = _frames(data)
        if (start := next(starts, None)) is None or _is_stated(data, start):
            return None
        count = 1 + sum(1 for _ in starts)
        version, rate, mode = data[start + 1] | 1, data[start + 2] & 0x0C, data[start + 3]  # | 1: no checksum
        header = bytes([0xFF, version, 0xE0 | rate, mode])  # at the highest bit rate, so that the tag fits
        frame = _frame(header, 0)
        assert frame
        tag = struct.pack(">4sII", b"Info", ONE_FIELD, count)
        whole = tempfile.TemporaryFile(prefix="everwave-mp3-")  # noqa: SIM115 # the caller closes it
        whole.write((header.ljust(frame.before, b"\0") + tag).ljust(frame.size, b"\0"))
        source.seek(start)
        shutil.copyfileobj(source, whole, 1 << 20)
        whole.seek(0)
        return whole


def _is_stated(data: mmap.mmap, start: int) -> bool:
    frame = _frame(data, start)
    assert frame
    places = [start + frame.before, start + frame.before - 2, start + 36]  # 2: a checksum
    return any(data[at : at + 4] in STATED for at in places)


def _frames(data: mmap.mmap) -> Iterator[int]:
    """Where every whole frame starts; tags and damage between them are passed over."""
    at, lost = _after_id3(data), True
    while 0 <= at <= len(data) - 4:
        frame = _frame(data, at)
        end = at + frame.size if frame else at
        if frame and end <= len(data) and not (lost and end + 4 <= len(data) and not _frame(data, end)):
            yield at
            at, lost = end, False
        else:  # go on where two frames follow one another
            at, lost = data.find(b"\xff", at + 1), True


def _after_id3(data: mmap.mmap) -> int:
    """Where the music starts: ID3v2 says its size in four bytes of seven bits (id3.org, version 2.4, section 3.1)."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _frame(data: bytes | mmap.mmap, at: int) -> Frame | None:
    """The frame whose header is at `at`; None if none of layer III begins there."""
    if data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:  # eleven ones, then the layer
        return None
    version, kilobits, rate = data[at + 1] >> 3 & 3, data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or kilobits in (0, 15) or rate == 3:
        return None
    first, mono = version == 3, data[at + 3] >> 6 == 3
    hertz = HERTZ[rate] >> (0 if first else 1 if version == 2 else 2)
    size = (144 if first else 72) * 1000 * KILOBITS[first][kilobits - 1] // hertz + (data[at + 2] >> 1 & 1)
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return Frame(size, 4 + side)
