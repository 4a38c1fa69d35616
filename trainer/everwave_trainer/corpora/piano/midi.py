"""The notes of a standard MIDI file, with the sustain pedal worked into their lengths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from everwave.errors import EverwaveError

SUSTAIN = 64  # controller number of the pedal; down from 64 on
DRUMS = 9  # the channel that has no pitches
_DATA_BYTES = {0x80: 2, 0x90: 2, 0xA0: 2, 0xB0: 2, 0xC0: 1, 0xD0: 1, 0xE0: 2}


class MidiError(EverwaveError):
    """A file is no MIDI file, damaged, or has no notes."""


@dataclass(frozen=True)
class Note:
    """One note: start and end in seconds, MIDI number, velocity 1 to 127."""

    start: float
    end: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class _Event:
    tick: int
    status: int  # with channel; 0xFF: a tempo
    first: int  # key, controller, or microseconds per quarter
    second: int = 0


def read_notes(path: Path) -> list[Note]:
    """The notes of all tracks and channels but the drums, by their start. MidiError for what cannot be read.

    A note ends where its key is released and the pedal is up, or where the same key is struck again.
    """
    try:
        division, events = _parse(path.read_bytes())
    except (OSError, IndexError, ValueError) as error:
        raise MidiError(f"{path}: not readable as MIDI ({error}); leave it out or export it again") from None
    notes = sorted(_notes(division, events), key=lambda note: (note.start, note.pitch))
    if not notes:
        raise MidiError(f"{path}: no notes in it; leave it out")
    return notes


def texts(path: Path) -> tuple[str, str]:
    """Title (the first track's name) and copyright that the file states, each empty if it does not."""
    try:
        data = path.read_bytes()
        found = list(_texts(data[8 + int.from_bytes(data[4:8], "big") + 8 :]))
    except (OSError, IndexError):
        return "", ""
    title = next((text for kind, text in found if kind == 0x03), "")
    return title, next((text for kind, text in found if kind == 0x02), "")


def _texts(track: bytes) -> Iterator[tuple[int, str]]:
    """(kind, text) of the meta events at the beginning of a track."""
    at = 0
    while True:
        _, at = _variable(track, at)
        if track[at] != 0xFF:
            return
        length, start = _variable(track, at + 2)
        yield track[at + 1], " ".join(track[start : start + length].decode("latin-1").split())
        at = start + length


def _parse(data: bytes) -> tuple[int, list[_Event]]:
    """Ticks per quarter note, and the events of all tracks in order of time."""
    if data[:4] != b"MThd":
        raise ValueError("does not begin with MThd")
    division = int.from_bytes(data[12:14], "big")
    if not division or division & 0x8000:
        raise ValueError("counts time in film frames, not in beats")
    events: list[_Event] = []
    at = 8 + int.from_bytes(data[4:8], "big")
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "big")
        if data[at : at + 4] == b"MTrk":
            events += _track(data[at + 8 : at + 8 + length])
        at += 8 + length
    return division, sorted(events, key=lambda event: event.tick)  # stable: within a tick, as written


def _track(data: bytes) -> Iterator[_Event]:
    at, tick, status = 0, 0, 0
    while at < len(data):
        delta, at = _variable(data, at)
        tick += delta
        if data[at] & 0x80:
            status, at = data[at], at + 1
        if status in (0xF0, 0xF7):
            length, at = _variable(data, at)
            at += length
        elif status == 0xFF:
            kind = data[at]
            length, at = _variable(data, at + 1)
            if kind == 0x51:
                yield _Event(tick, 0xFF, int.from_bytes(data[at : at + length], "big"))
            at += length
        else:
            count = _DATA_BYTES.get(status & 0xF0, 0)
            if not count:
                raise ValueError(f"status {status:#x} at byte {at}")
            yield _Event(tick, status, data[at], data[at + 1] if count == 2 else 0)
            at += count


def _variable(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, seven bits a byte, and where it ends."""
    value = 0
    while True:
        value = value << 7 | data[at] & 0x7F
        at += 1
        if not data[at - 1] & 0x80:
            return value, at


def _notes(division: int, events: list[_Event]) -> Iterator[Note]:
    seconds, tick, per_tick = 0.0, 0, 0.5 / division
    down: dict[tuple[int, int], tuple[float, int]] = {}  # (channel, key): start and velocity of what sounds
    held: dict[int, set[int]] = defaultdict(set)  # by channel: keys that only the pedal holds
    pedal: dict[int, bool] = defaultdict(bool)

    def end(channel: int, key: int) -> Iterator[Note]:
        held[channel].discard(key)
        if (channel, key) in down:
            start, velocity = down.pop((channel, key))
            if seconds > start:
                yield Note(start, seconds, key, velocity)

    for event in events:
        seconds, tick = seconds + (event.tick - tick) * per_tick, event.tick
        kind, channel = event.status & 0xF0, event.status & 0x0F
        if event.status == 0xFF:
            per_tick = event.first * 1e-6 / division
        elif channel == DRUMS:
            continue
        elif kind == 0x90 and event.second:
            yield from end(channel, event.first)
            down[channel, event.first] = seconds, event.second
        elif kind in (0x80, 0x90):
            if pedal[channel]:
                held[channel].add(event.first)
            else:
                yield from end(channel, event.first)
        elif kind == 0xB0 and event.first == SUSTAIN:
            pedal[channel] = event.second >= 64
            if not pedal[channel]:
                for key in sorted(held[channel]):
                    yield from end(channel, key)
    for channel, key in sorted(down):  # never released
        start, velocity = down[channel, key]
        yield Note(start, max(seconds, start + 0.5), key, velocity)
