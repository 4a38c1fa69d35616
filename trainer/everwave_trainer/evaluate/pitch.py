"""Whether notes come back at their pitch: tones of known frequency through the autoencoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from everwave.signal import istft

from .reconstruction import decoded

NOTES = 55.0 * 2 ** (np.arange(0, 49, 2) / 12)  # Hz, A1 to A5 in whole tones
PARTIALS = 4
HIGHEST = 2000.0  # Hz; above, a bin is narrow enough
SECONDS = 2.0
REACH = 30.0  # Hz on either side of a partial in which it is looked for: less than from one partial to the next
RESOLUTION = 1 << 18  # FFT size: peaks to a sixth of a Hz


def evaluate(model: Any) -> dict[str, Any]:
    """Cents (median; share within a quarter tone) between partials of notes and what is loudest near where they were.

    Beside them: what it would be if all partials came back at the centres of their bins.
    """
    s = model.config.signal
    found: dict[str, list[float]] = {"level1": [], "both_levels": [], "bin_centres": []}
    for hertz in NOTES:
        samples = tone(hertz, s.sample_rate)
        partials = [n * hertz for n in range(1, PARTIALS + 1) if n * hertz < HIGHEST]
        for levels, name in ((1, "level1"), (2, "both_levels")):
            again = istft(*decoded(model, samples, levels), s)
            found[name] += [cents(peak(again, p, s.sample_rate), p) for p in partials]
        width = s.sample_rate / s.n_fft
        found["bin_centres"] += [cents(max(round(p / width), 1) * width, p) for p in partials]
    return {
        name: {"median_cents": round(float(np.median(off)), 1), "within_50_cents": round(float(np.mean(np.array(off) < 50)), 3)}
        for name, off in found.items()
    }  # fmt: skip


def tone(hertz: float, sample_rate: int) -> np.ndarray:
    """A plucked note: ten partials, the higher the quieter and the sooner gone. (SECONDS * rate,) float32."""
    t = np.arange(int(SECONDS * sample_rate)) / sample_rate
    partials = [np.cos(2 * np.pi * hertz * n * t + n) * np.exp(-t * n**0.5) / n**1.3 for n in range(1, 11)]
    return (0.2 * np.sum(partials, axis=0)).astype(np.float32)


def peak(samples: np.ndarray, hertz: float, sample_rate: int) -> float:
    """The loudest frequency within REACH of `hertz`, after the attack."""
    inner = samples[sample_rate // 5 : -sample_rate // 10]
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner)), RESOLUTION))
    low, high = (round(f * RESOLUTION / sample_rate) for f in (hertz - REACH, hertz + REACH))
    return float((low + spectrum[low : high + 1].argmax()) * sample_rate / RESOLUTION)


def cents(hertz: float, right: float) -> float:
    return abs(1200 * float(np.log2(hertz / right)))
