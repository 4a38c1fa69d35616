"""One vector for a recording of any length: what its latents are like over time.

The statistic is the mean and the standard deviation over time of every latent channel, each averaged over left and
right: float32 (2 * latents,), all means first. Of those tried it finds other excerpts of the same track best at equal
size, by cosine and by Euclidean distance; `everwave-train evaluate --retrieval` measures it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Array = np.ndarray

STATISTIC = "mean and standard deviation over time, averaged over left and right"


def pool(blocks: Iterable[Array]) -> Array:
    """Blocks of latents (k, 2 * latents), at least one row in all -> float32 (2 * latents,); constant memory."""
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for block in blocks:  # Chan, Golub and LeVeque 1979, equation 1.5: no cancellation however long the recording
        rows = np.asarray(block, np.float64)
        center = rows.mean(axis=0)
        shift, total = center - mean, count + len(rows)
        squares = squares + np.square(rows - center).sum(axis=0) + np.square(shift) * count * len(rows) / total
        mean, count = mean + shift * len(rows) / total, total
    sides = np.stack([mean, np.sqrt(squares / count)]).reshape(2, 2, -1)  # (statistic, channel, latents)
    return sides.mean(axis=1).ravel().astype(np.float32)
