"""Labels as the GAN sees them: a constant, or a curve with one value per latent step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MERGE_SECONDS = 0.03  # onsets closer than this are one: a chord, not a run
WINDOW_SECONDS = 3.0  # of the Hann window that note density is smoothed with, from end to end


def merged(onsets: Sequence[float], within: float = MERGE_SECONDS) -> np.ndarray:
    """Onset times (n,) in seconds, rising, without those that come less than `within` after the last one kept."""
    kept: list[float] = []
    for time in sorted(onsets):
        if not kept or time - kept[-1] >= within:
            kept.append(time)
    return np.array(kept)


def density(onsets: Sequence[float], steps: int, latent_rate: float, seconds: float) -> np.ndarray:
    """Onsets per second at each latent step: (steps,), the number of onsets under a Hann window of unit area.

    Onsets that are nearly simultaneous count once (MERGE_SECONDS). A step's window stands on its centre; where it
    reaches over an end of the music (0 to `seconds`) the count is divided by the part of the window inside.
    """
    centres = (np.arange(steps) + 0.5) / latent_rate
    reach = WINDOW_SECONDS / 2
    counted = np.zeros(steps)
    for time in merged(onsets):
        first, last = np.searchsorted(centres, [time - reach, time + reach])
        distance = centres[first:last] - time
        counted[first:last] += (1 + np.cos(2 * np.pi * distance / WINDOW_SECONDS)) / WINDOW_SECONDS
    inside = _area(seconds - centres) - _area(-centres)
    return counted / np.maximum(inside, 0.1)


def _area(x: np.ndarray) -> np.ndarray:
    """Area under the window from its left end to x."""
    x = np.clip(x / WINDOW_SECONDS, -0.5, 0.5)
    return 0.5 + x + np.sin(2 * np.pi * x) / (2 * np.pi)
