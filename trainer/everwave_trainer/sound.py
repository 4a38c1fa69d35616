"""How sound moves: statistics of generated music as it is heard, that a critic of latents takes for ever to get right.

In real music notes begin at once and die away slowly. Generated latents may have every mean, spectrum and correlation of
real ones and know nothing of that, as none of these tells forwards from backwards; heard, they are a murmur. So the
distributions of rises and of falls of every band's level, over 6 ms up to 0.7 s, shall be real ones', and so shall those of
peaks and of valleys between bands, which tell a tone from noise.

Source: McDermott and Simoncelli, Sound texture perception via statistics of the auditory periphery, Neuron 2011 (there of
envelopes and their modulations).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from everwave.signal import SCALE_DB
from keras import ops

from . import losses

BANDS = 80  # of mels; where a bin is wider than a band, there are fewer
LAGS = (1, 2, 4, 8, 16, 32, 64, 128)  # frames of 5.8 ms over which a level rises or falls
WIDTHS = (1, 2, 4)  # bands on either side, above which a band is a peak
POWERS = (1, 2, 3)  # of rises and so on: by the third, few large ones and many small ones are told apart
FLOOR = 1e-4  # of powers, below which a logarithm does not see them


def levels(log_magnitude: Any, sample_rate: int) -> Any:
    """Log-magnitudes (B, T, bins) -> logarithms of the mean power of each mel band (B, T, bands)."""
    power = ops.exp(ops.cast(log_magnitude, "float32") * (SCALE_DB * math.log(10.0) / 10.0))
    return ops.log(ops.matmul(power, losses.mel_bands(log_magnitude.shape[2], sample_rate, BANDS)) + 1e-6)


def sums(levels: Any, kinds: Any) -> Any:
    """Levels (B, T, bands), T > 128, and which kinds of music each excerpt is of (B, K), 0 or 1 -> what `moments` divides.

    Excerpts of each kind, and means over time of levels, the squares of these means, means of squares, of POWERS of rises and falls over
    each of LAGS and of peaks and valleys of each of WIDTHS, summed over them: (K, 1 + 3 + 2 * 3 * (8 + 3), bands), all by B.
    """
    rows = [levels, ops.square(ops.mean(levels, axis=1, keepdims=True)), ops.square(levels)]
    contrasts = [levels[:, lag:] - levels[:, :-lag] for lag in LAGS]
    bands = np.arange(levels.shape[2])
    for width in WIDTHS:
        below, above = (np.clip(bands + step, bands[0], bands[-1]) for step in (-width, width))
        contrasts.append(2 * levels - ops.take(levels, below, axis=2) - ops.take(levels, above, axis=2))
    for contrast in contrasts:
        for direction in (ops.relu(contrast), ops.relu(-contrast)):
            rows += [direction**power for power in POWERS]
    rows = [ops.ones_like(levels), *rows]
    each = ops.stack([ops.mean(row, axis=1) for row in rows], axis=1)
    return ops.einsum("bk,brn->krn", kinds, each) / levels.shape[0]


def moments(sums: Any) -> Any:
    """The means over each kind's excerpts, (K, 3 + 2 * 3 * (8 + 3), bands), of what `sums` gave, or of a mean of that over batches."""
    return sums[:, 1:] / (sums[:, :1] + 1e-6)


def deviation(sums: Any) -> tuple[Any, Any]:
    """Mean and deviation of levels (bands,) in all excerpts."""
    every = moments(ops.sum(sums, axis=0, keepdims=True))[0]
    return every[0], ops.sqrt(ops.relu(every[2] - ops.square(every[0])) + FLOOR)


def distance(x: Any, y: Any) -> Any:
    """Mean over kinds and bands of the squared difference of mean levels, and of the logarithms of their variances, from excerpt to
    excerpt and in all, and of all powers, summed; of what `sums` gives."""
    return ops.mean(ops.sum(ops.square(_comparable(moments(x)) - _comparable(moments(y))), axis=1))


def _comparable(moments: Any) -> Any:
    mean, squares, powers = moments[:, :1], moments[:, 1:3], moments[:, 3:]
    variances = ops.relu(squares - ops.square(mean))
    return ops.concatenate([mean, ops.log(ops.concatenate([variances, powers], axis=1) + FLOOR)], axis=1)
