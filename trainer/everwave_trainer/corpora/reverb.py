"""The reverberation of everything that is made here: arrays and scalars only."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .jit import kernel

LINES = np.array([1481, 1693, 1907, 2131, 2399, 2633, 2917, 3163])  # lengths in frames at 44.1 kHz, no two alike


@kernel()
def reverb(bus: Array, lengths: Array, feedback: float, damping: float) -> None:
    """Turn the bus into its reverberation: a feedback delay network of eight lines and a Householder matrix."""
    lines = np.zeros((8, lengths.max()))
    at = np.zeros(8, np.int64)
    low = np.zeros(8)
    for n in range(len(bus)):
        total = 0.0
        for i in range(8):
            low[i] += (lines[i, at[i]] - low[i]) * damping
            total += low[i]
        total *= 0.25
        left, right = 0.0, 0.0
        for i in range(8):
            side = i % 2
            lines[i, at[i]] = bus[n, side] + feedback * (low[i] - total)
            if side:
                right += low[i]
            else:
                left += low[i]
            at[i] += 1
            if at[i] == lengths[i]:
                at[i] = 0
        bus[n, 0], bus[n, 1] = 0.35 * left, 0.35 * right
