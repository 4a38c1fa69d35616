"""How far music is from other music, by levels of mel bands and how they move: a Frechet distance without a network.

Nearer to the order in which musicnn's embeddings put models than the same distance of latents, and at hand everywhere; it
hears levels, too, as embeddings hardly do.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .distribution import frechet_distance
from .metrics import MEL_HOP, log_mel

WINDOW_SECONDS = 3.0
LAGS = 1, 4, 16, 64  # frames of 12 ms over which a level rises or falls
COMPONENTS = 16  # principal ones, as held-out music may have no more than a hundred windows
QUIET_DB = 1.0  # added to deviations: what hardly changes counts little


def windows(sounds: Iterable[np.ndarray], sample_rate: int) -> np.ndarray:
    """Stereo sounds (n, 2) -> for every 3 s, by halves, mean and deviation of levels, and root mean squares of rises and of falls,
    in dB: (N, 10 * 80). A shorter sound is one window; n is at least 4096."""
    length = round(WINDOW_SECONDS * sample_rate / MEL_HOP)
    found = []
    for samples in sounds:
        levels = log_mel(samples.mean(axis=1), sample_rate)
        starts = range(0, max(len(levels) - length, 0) + 1, length // 2)
        found += [_statistics(levels[i : i + length]) for i in starts]
    return np.stack(found)


def _statistics(levels: np.ndarray) -> np.ndarray:
    rows = [levels.mean(axis=0), levels.std(axis=0)]
    for lag in LAGS:
        lag = min(lag, len(levels) - 1)
        change = levels[lag:] - levels[:-lag]
        rows += [np.sqrt(np.mean(np.square(np.maximum(way, 0)), axis=0)) for way in (change, -change)]
    return np.concatenate(rows)


def mel_distance(x: np.ndarray, music: np.ndarray) -> float:
    """Of windows x (N, d) from those of `music` (M, d), in units and principal components of those."""
    mean, deviation = music.mean(axis=0), music.std(axis=0) + QUIET_DB
    x, music = (x - mean) / deviation, (music - mean) / deviation
    components = np.linalg.svd(music, full_matrices=False)[2][:COMPONENTS].T
    twice = 2 if min(len(x), len(music)) == 1 else 1  # one window varies as little as two that are the same
    return frechet_distance(*(np.repeat(y @ components, twice, axis=0) for y in (x, music)))
