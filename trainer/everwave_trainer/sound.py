"""How sound moves: statistics of generated music as it is heard, that a critic of latents takes for ever to get right.

In real music notes begin at once and die away slowly. Generated latents may have every mean, spectrum and correlation of
real ones and know nothing of that, as none of these tells forwards from backwards; heard, they are a murmur. So the
distributions of rises and of falls of every band's level, over 6 ms up to 0.7 s, shall be real ones'.

Source: McDermott and Simoncelli, Sound texture perception via statistics of the auditory periphery, Neuron 2011 (there of
envelopes and their modulations).
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from . import losses

BANDS = 80  # of mels; where a bin is wider than a band, there are fewer
LAGS = (1, 2, 4, 8, 16, 32, 64, 128)  # frames of 5.8 ms over which a level rises or falls
POWERS = (1, 2, 3)  # of rises and of falls: by the third, few large ones and many small ones are told apart
FLOOR = 1e-4  # of powers, below which a logarithm does not see them


def levels(log_magnitude: Any, sample_rate: int) -> Any:
    """Log-magnitudes (B, T, bins) -> logarithms of the mean power of each mel band (B, T, bands)."""
    power = ops.exp(ops.cast(log_magnitude, "float32") * (75.0 * math.log(10.0) / 10.0))
    return ops.log(ops.matmul(power, losses.mel_bands(log_magnitude.shape[2], sample_rate, BANDS)) + 1e-6)


def moments(levels: Any) -> Any:
    """Levels (B, T, bands), T > 128 -> means over both: of levels, of their squares, of POWERS of rises and of falls over
    each of LAGS, (2 + 2 * 3 * 8, bands)."""
    rows = [levels, ops.square(levels)]
    for lag in LAGS:
        change = levels[:, lag:] - levels[:, :-lag]
        for direction in (ops.relu(change), ops.relu(-change)):
            rows += [direction**power for power in POWERS]
    return ops.stack([ops.mean(row, axis=(0, 1)) for row in rows])


def distance(x: Any, y: Any) -> Any:
    """Mean over bands of the squared difference of mean levels, and of the logarithms of their variance and of all powers of
    changes, summed."""
    return ops.mean(ops.sum(ops.square(_comparable(x) - _comparable(y)), axis=0))


def _comparable(moments: Any) -> Any:
    mean, square, powers = moments[:1], moments[1:2], moments[2:]
    variance = ops.relu(square - ops.square(mean))
    return ops.concatenate([mean, ops.log(ops.concatenate([variance, powers], axis=0) + FLOOR)], axis=0)
