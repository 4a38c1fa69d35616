"""Rhythms, scales and genres, as data. A rhythm is a bar of sixteen steps: X accented, x plain, o soft."""

from __future__ import annotations

from dataclasses import dataclass

VELOCITY = {"X": 1.0, "x": 0.75, "o": 0.4}

KICKS = {
    "four": (
        "X...X...X...X...",
        "X...X...X...X...",
        "X...X...X...X.o.",
        "X...X...X..oX...",
    ),
    "broken": (
        "X.....x...X.....",
        "X..x......X.....",
        "X.x.......X..x..",
        "X......x..X.....",
        "X.........X.....",
    ),
    "electro": (
        "X.....x...X...x.",
        "X..x....X.x.....",
        "X..x..x...X.....",
    ),
}
SNARES = {
    "four": ("....X.......X...", "....X.......X...", "....X.......X..o"),
    "broken": ("....X.......X...", "....X..o.o..X...", "....X..o....X..o"),
    "electro": ("....X.......X...", "....X.......X.o."),
}
HATS = (
    "x.o.x.o.x.o.x.o.",
    "xoxoxoxoxoxoxoxo",
    "..x...x...x...x.",
    "oox.oox.oox.oox.",
    "xoXoxoXoxoXoxoXo",
    "x.x.x.x.x.x.x.xo",
)
OPEN_HATS = {
    "four": ("..X...X...X...X.", "..X...X...X...X.", "..X...X...X..xX."),
    "broken": ("......X.......X.", "..............X.", "..x...x...x...x."),
}
CHORD_STEPS = (
    "X.....x.........",
    "..X...X...X...X.",
    "X..x..x.........",
    "...X......x.....",
    "X..x..x..x..x.x.",
    "......X.....x...",
)

# kind: (patch, rhythms, octave above the root, level)
BASS_LINES: dict[str, tuple[str, tuple[str, ...], int, float]] = {
    "offbeat": ("saw bass", ("..X...X...X...X.",), 0, 0.16),
    "rolling": ("round bass", (".xXx.xXx.xXx.xXx", "..xX..xX..xX..xX", ".oXo.oXo.oXo.oXo"), 0, 0.15),
    "groove": (
        "square bass",
        ("X..x..x...x..x..", "..x..x.x..x..x..", "X.....x..x....x.", "..xx..x...xx..x."),
        0,
        0.15,
    ),
    "gallop": ("saw bass", ("..xx..xx..xx..xx", "x.xxx.xxx.xxx.xx"), 0, 0.15),
    "sub": ("sub bass", ("X.......x.......", "X.....x...x....."), 0, 0.18),
    "reese": ("reese bass", ("X.......x.......", "X..x......x....."), 0, 0.14),
    "acid": ("acid", (), 1, 0.12),
}

MODES = {
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "major": (0, 2, 4, 5, 7, 9, 11),
}
# scale degrees of the chords, 0 is the tonic; negative ones lie below it
PROGRESSIONS = {
    "static": "0",
    "two": "0 0 -2 -1",
    "anthem": "0 -2 2 -1",
    "falling": "0 -1 -2 -1",
    "plagal": "0 3 -2 4",
    "dark": "0 0 1 0",
    "house": "0 3 0 4",
    "rising": "-2 -1 0 0",
}


@dataclass(frozen=True)
class Genre:
    """What a genre draws from. `voices`: (part, chance); `drums`: which kicks and snares; `drive` of the master."""

    name: str
    weight: float
    drums: str
    swing: tuple[float, float]
    basses: tuple[str, ...]
    voices: tuple[tuple[str, float], ...]
    modes: tuple[str, ...]
    progressions: tuple[str, ...]
    drive: tuple[float, float]


GENRES = (
    Genre(
        "house", 2, "four", (0.0, 0.25), ("groove", "offbeat", "sub"),
        (("stab", 0.8), ("pad", 0.6), ("arp", 0.3), ("lead", 0.3)),
        ("minor", "dorian", "mixolydian", "major"), ("house", "anthem", "plagal", "two"), (1.0, 1.5),
    ),
    Genre(
        "techno", 3, "four", (0.0, 0.12), ("rolling", "gallop", "offbeat"),
        (("stab", 0.7), ("pad", 0.4), ("arp", 0.5)),
        ("minor", "phrygian", "dorian"), ("static", "dark", "static"), (1.3, 2.2),
    ),
    Genre(
        "acid", 1.5, "four", (0.0, 0.15), ("acid",),
        (("stab", 0.5), ("pad", 0.4), ("arp", 0.2)),
        ("minor", "phrygian"), ("static", "dark", "two"), (1.3, 2.0),
    ),
    Genre(
        "trance", 2, "four", (0.0, 0.05), ("rolling", "offbeat", "gallop"),
        (("pad", 0.9), ("arp", 0.9), ("lead", 0.7), ("stab", 0.3)),
        ("minor", "dorian"), ("anthem", "falling", "plagal", "rising"), (1.1, 1.7),
    ),
    Genre(
        "breakbeat", 0.8, "broken", (0.0, 0.2), ("reese", "sub", "groove"),
        (("stab", 0.7), ("pad", 0.6), ("arp", 0.4), ("lead", 0.3)),
        ("minor", "dorian"), ("two", "anthem", "static", "falling"), (1.2, 2.0),
    ),
    Genre(
        "electro", 0.6, "electro", (0.0, 0.08), ("groove", "gallop", "acid"),
        (("stab", 0.5), ("pad", 0.5), ("arp", 0.7), ("lead", 0.4)),
        ("minor", "phrygian", "dorian"), ("static", "two", "falling"), (1.2, 1.9),
    ),
)  # fmt: skip


def steps_of(pattern: str) -> list[tuple[int, float]]:
    """(step, velocity) of every stroke of a rhythm."""
    return [(step, VELOCITY[stroke]) for step, stroke in enumerate(pattern) if stroke != "."]


def euclid(count: int, length: int, turn: int) -> str:
    """`count` strokes spread over `length` steps as evenly as can be, turned by `turn` steps."""
    strokes = {(i * length // count + turn) % length for i in range(count)}
    return "".join("x" if step in strokes else "." for step in range(length))
