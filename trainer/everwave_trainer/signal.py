"""The runtime's signal path in `keras.ops`, differentiable: STFT, inverse STFT, dB scaling.

Complex spectra are pairs (real, imaginary); everything is float32 whatever the precision policy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from everwave.config import OVERLAP, SignalConfig
from everwave.signal import (
    FLOOR,
    MEAN_DB,
    POWER_OFFSET,
    SCALE_DB,
    VECTOR_OFFSET,
    dual_window,
    places,
    quarter_turns,
    window,
)  # fmt: skip
from keras import ops

SPECTRAL_FLOOR = 1e-7  # power below which spectral losses see silence: keeps log gradients bounded
PAIR = tuple[Any, Any]


def stft(samples: Any, n_fft: int, hop_length: int) -> PAIR:
    """(B, N) -> real and imaginary (B, 1 + (N - n_fft) // hop, n_fft / 2 + 1); the hop divides n_fft."""
    overlap = n_fft // hop_length
    whole = samples.shape[1] // hop_length
    hops = ops.reshape(samples[:, : whole * hop_length], (-1, whole, hop_length))
    count = hops.shape[1] - overlap + 1
    frames = ops.concatenate([hops[:, i : i + count] for i in range(overlap)], axis=2)
    return ops.rfft(frames * window(n_fft))


def istft(spectrum: PAIR, signal: SignalConfig) -> Any:
    """Real and imaginary (B, T, bins) -> samples (B, (T - 1) * hop + n_fft)."""
    dual = dual_window(signal.n_fft, signal.hop_length).astype(np.float32)
    frames = ops.irfft(spectrum, fft_length=signal.n_fft) * dual
    steps, hop = frames.shape[1], signal.hop_length
    parts = [
        ops.pad(frames[:, :, i * hop : (i + 1) * hop], ((0, 0), (i, OVERLAP - 1 - i), (0, 0))) for i in range(OVERLAP)
    ]
    return ops.reshape(sum(parts), (-1, (steps + OVERLAP - 1) * hop))


def power(spectrum: PAIR) -> Any:
    real, imaginary = spectrum
    return ops.square(real) + ops.square(imaginary)


def log_magnitude(spectrum: PAIR, floor: float = FLOOR) -> Any:
    """(10 log10(max(|X|^2, floor)) + 25) / 75: about -1 (silence) to 1."""
    return (10.0 / math.log(10.0) * ops.log(ops.maximum(power(spectrum), floor)) - MEAN_DB) / SCALE_DB


def phasor(phase: Any, bins: int) -> PAIR:
    """Phases (B, T, bins or more) as a frame decoder gives them -> cosines and sines; see `everwave.signal.phasor`."""
    if phase.shape[-1] == bins:
        return ops.cos(math.pi * phase), ops.sin(math.pi * phase)
    x, y, tuning = phase[..., :bins], phase[..., bins : 2 * bins], phase[..., 2 * bins :]
    scale = ops.rsqrt(ops.square(x) + ops.square(y) + VECTOR_OFFSET)
    x, y = scale * x, scale * y
    re, im = quarter_turns(bins)[:, np.arange(phase.shape[-2]) % 4]
    x, y = x * re - y * im, x * im + y * re
    if not (tuned := tuning.shape[-1]):
        return x, y
    angle = math.pi * tuning * places(phase.shape[-2])[:, None]
    re, im, low = ops.cos(angle), ops.sin(angle), (x[..., :tuned], y[..., :tuned])
    turned = low[0] * re - low[1] * im, low[0] * im + low[1] * re
    return tuple(ops.concatenate([a, b[..., tuned:]], axis=-1) for a, b in zip(turned, (x, y), strict=True))  # type: ignore[return-value]


def spectrum(log_magnitude: Any, phasors: PAIR) -> PAIR:
    """The inverse of `log_magnitude`, with the phases' cosines and sines: real and imaginary parts."""
    magnitude = ops.sqrt(ops.exp(math.log(10.0) / 10.0 * (SCALE_DB * log_magnitude + MEAN_DB)) + POWER_OFFSET)
    return magnitude * phasors[0], magnitude * phasors[1]
