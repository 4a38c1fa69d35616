"""Axes around a spectrogram: time below, frequency on the left, decibels on the right, in letters of five by seven dots.

Everything is drawn in shades of the picture's own palette, so it stays one small palette PNG and needs no library.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

LEFT, RIGHT, TOP, BOTTOM = 96, 124, 16, 40  # margins in pixels
DOT = 2  # pixels of a dot of a letter
INK, GROUND = 232, 0  # shades of letters and of what is behind them
TICK = 6
TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
HERTZ = (100, 500, 1000, 2000, 4000, 8000, 16000, 32000)
DECIBELS = (0, -20, -40, -60, -80)
GLYPHS = {  # seven rows of five bits
    "0": "0e1113151911 0e", "1": "040c04040404 0e", "2": "0e1101020408 1f", "3": "1f0204020111 0e", "4": "02060a121f02 02",
    "5": "1f101e010111 0e", "6": "0608101e1111 0e", "7": "1f0102040808 08", "8": "0e11110e1111 0e", "9": "0e11110f0102 0c",
    ":": "000404000404 00", ".": "000000000000 04", "-": "0000001f0000 00", "k": "101012141814 12", "H": "1111111f1111 11",
    "z": "00001f020408 1f", "d": "01010d131111 0f", "B": "1e11111e1111 1e", "s": "00000e100e01 1e", " ": "000000000000 00",
}  # fmt: skip


def framed(image: Array, seconds: float, positions: dict[int, float]) -> Array:
    """Shades (height, width) of `seconds` of sound, with margins; `positions` are rows of frequencies in Hz."""
    height, width = image.shape
    page = np.full((TOP + height + BOTTOM, LEFT + width + RIGHT), GROUND, np.uint8)
    page[TOP : TOP + height, LEFT : LEFT + width] = image
    for at in ticks(seconds):
        x = LEFT + min(round(at / seconds * width), width - 1)
        page[TOP + height : TOP + height + TICK, x : x + DOT] = INK
        _write(page, clock(at, seconds), x, TOP + height + TICK + 8, 0.5)
    for hertz, row in positions.items():
        page[TOP + round(row) : TOP + round(row) + DOT, LEFT - TICK : LEFT] = INK
        label = f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"
        _write(page, label, LEFT - TICK - 6, TOP + round(row) - 3 * DOT, 1.0)
    bar = slice(LEFT + width + 16, LEFT + width + 32)
    page[TOP : TOP + height, bar] = np.linspace(255, 0, height).astype(np.uint8)[:, None]
    for decibels in DECIBELS:
        row = TOP + round(decibels / DECIBELS[-1] * (height - DOT))
        page[row : row + DOT, bar.stop : bar.stop + TICK] = INK
        _write(page, f"{decibels} dB", bar.stop + TICK + 6, min(max(row - 3 * DOT, TOP), TOP + height - 7 * DOT), 0.0)
    return page


def ticks(seconds: float) -> list[float]:
    """At most a dozen round times from 0 on."""
    step = _step(seconds)
    return [i * step for i in range(int(seconds / step + 1e-9) + 1)] if seconds > 0 else []


def _step(seconds: float) -> float:
    return next((s for s in TIME_STEPS if seconds / s <= 11), seconds)


def clock(at: float, seconds: float) -> str:
    if _step(seconds) < 1:
        return f"{at:.1f} s"
    whole = round(at)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if seconds >= 3600 else f"{minutes}:{rest:02}"


def _write(page: Array, text: str, x: int, y: int, share: float) -> None:
    """`text` with its top at row `y`, `share` of its width to the left of column `x`."""
    dots = np.concatenate([np.pad(_glyph(letter), ((0, 0), (0, 1))) for letter in text], axis=1)[:, :-1]
    letters = np.kron(dots, np.ones((DOT, DOT), bool))
    x = min(max(round(x - share * letters.shape[1]), 0), page.shape[1] - letters.shape[1])
    page[y : y + letters.shape[0], x : x + letters.shape[1]][letters] = INK


def _glyph(letter: str) -> Array:
    rows = bytes.fromhex(GLYPHS[letter])
    return np.array([[row >> (4 - i) & 1 for i in range(5)] for row in rows], bool)
