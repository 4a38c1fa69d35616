"""Losses on spectra and on critics' scores; each returns a scalar in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from everwave.signal import SCALE_DB
from keras import ops

from .evaluate.metrics import FLOOR_DB, MEL_FFT, MEL_HOP, mel_filters
from .signal import PAIR, SPECTRAL_FLOOR, power, stft

BANDS = 8  # of onset strength; where a bin is wider than a band, there are fewer
RISE = 2  # frames (12 ms) over which an attack rises
SPAN = 16  # frames (93 ms, a latent) within which it does not matter when


@lru_cache
def mel_weights(bins: int, sample_rate: int) -> np.ndarray:
    """How many mels lie in each of `bins` from 0 Hz to Nyquist, of mean 1: (bins,), about 9 at the lowest, 0.3 at the top."""
    density = 1.0 / (700.0 + np.linspace(0.0, sample_rate / 2, bins))
    return (density / density.mean()).astype(np.float32)


def log_distance(x: Any, y: Any, sample_rate: int) -> Any:
    """Mean absolute difference of log-magnitudes (B, T, bins), every mel as important as every other."""
    return ops.mean(ops.abs(x - y) * mel_weights(x.shape[-1], sample_rate))


@lru_cache
def mel_bands(bins: int, sample_rate: int, count: int = BANDS) -> np.ndarray:
    """Means over `count` bands of as many mels each, those without a bin left out: (bins, up to `count`), columns that sum to 1."""
    weights = mel_weights(bins, sample_rate)
    band = np.minimum((np.cumsum(weights) - weights / 2) / weights.sum() * count, count - 1).astype(int)
    members = np.eye(count, dtype=np.float32)[band] * weights[:, None]
    members = members[:, members.any(axis=0)]
    return members / members.sum(axis=0)


def rises(log_magnitude: Any) -> Any:
    """How much log-magnitudes (B, T, bins) rise over `RISE` frames, 0 where they fall: (B, T - RISE, bins)."""
    return ops.relu(log_magnitude[:, RISE:] - log_magnitude[:, :-RISE])


def onset_strength(log_magnitude: Any, sample_rate: int) -> Any:
    """Log-magnitudes (B, T, bins) -> root mean square of their rises over `RISE` frames, in each band (B, T // SPAN, bands).

    Squares, because a slow rise adds up to as much as a fast one; over SPAN frames, because what does not know when exactly a
    note begins would otherwise do best with none.
    """
    rising = rises(log_magnitude)
    whole = rising.shape[1] // SPAN
    bands = mel_bands(log_magnitude.shape[-1], sample_rate)
    squares = ops.matmul(ops.square(rising[:, : whole * SPAN]), bands)
    return ops.sqrt(ops.mean(ops.reshape(squares, (-1, whole, SPAN, bands.shape[1])), axis=2) + 1e-6)


def onset_distance(x: Any, y: Any, sample_rate: int) -> Any:
    """Mean absolute difference of the onset strengths of log-magnitudes (B, T, bins).

    A blurred attack costs little in every bin and so nothing much in `log_distance`, but the attack is the note.
    """
    return ops.mean(ops.abs(onset_strength(x, sample_rate) - onset_strength(y, sample_rate)))


def spectral_distance(x: Any, y: Any, n_fft: int, sample_rate: int) -> tuple[Any, Any]:
    """`log_distance` (in units of 75 dB) and spectral convergence of samples (B, N), hop n_fft / 4.

    The first hears quiet bins as well as loud ones, the second hears the peaks and, through the overlap
    of the frames, whether their phases agree.
    """
    a, b = (power(stft(s, n_fft, n_fft // 4)) + SPECTRAL_FLOOR for s in (x, y))
    distance = log_distance(ops.log(a), ops.log(b), sample_rate) * (10.0 / math.log(10.0) / SCALE_DB)
    root_a, root_b = ops.sqrt(a), ops.sqrt(b)
    norms = ops.sum(a, axis=(1, 2))
    error = ops.sum(ops.square(root_a - root_b), axis=(1, 2))
    # a floor of 1 in the energy keeps near-silent crops from dominating
    return distance, ops.mean(ops.sqrt((error + 1e-6) / (norms + 1.0)))


def phase_distance(phasors: PAIR, spectrum: PAIR, lags: Sequence[int] = (1,)) -> tuple[Any, Any]:
    """How wrong decoded phases are from frame to frame, which is a partial's frequency, and from bin to bin, which is when an
    attack comes: mean 1 - cos of the error, louder bins counting more (by the root of their magnitudes' product).

    phasors: cosines and sines (B, T, bins); spectrum: the true one; lags: frames over which the first is compared, and
    summed. The phases themselves are not to be known from magnitudes, these differences are.

    Source: Ai and Ling, Neural speech phase prediction, ICASSP 2023 (there of angles).
    """
    frequency = sum(_turns_apart(phasors, spectrum, 1, lag) for lag in lags)
    return frequency, _turns_apart(phasors, spectrum, 2, 1)


def _turns_apart(ours: PAIR, theirs: PAIR, axis: int, lag: int) -> Any:
    """Mean 1 - cos between how far two spectra (re, im) turn over `lag` steps of an axis."""
    (a, b), (c, d) = (_turn(*x, axis, lag) for x in (ours, theirs))
    length = ops.sqrt(ops.square(c) + ops.square(d) + 1e-24)
    weight = ops.sqrt(length)
    error = 1.0 - (a * c + b * d) / length
    # the floor of 1, which even quiet music is far above, keeps silent crops, whose phases are noise, from counting
    return ops.mean(ops.sum(weight * error, axis=(1, 2)) / (ops.sum(weight, axis=(1, 2)) + 1.0))


def _turn(re: Any, im: Any, axis: int, lag: int) -> PAIR:
    """What is `lag` steps later times the conjugate of what is before."""
    before, after = (axis * (slice(None),) + (x,) for x in (slice(None, -lag), slice(lag, None)))
    re0, re1, im0, im1 = re[before], re[after], im[before], im[after]
    return re1 * re0 + im1 * im0, im1 * re0 - re1 * im0


def mel_distance(x: Any, y: Any, sample_rate: int) -> Any:
    """`evaluate`'s log-mel error of samples (B, N), in units of 75 dB: levels of bands, whatever their textures."""
    filters = mel_filters(sample_rate) / (MEL_FFT / 4)
    amplitudes = (ops.matmul(ops.sqrt(power(stft(s, MEL_FFT, MEL_HOP)) + 1e-9), filters) for s in (x, y))
    a, b = (ops.log(ops.maximum(amplitude, 10 ** (FLOOR_DB / 20))) for amplitude in amplitudes)
    return ops.mean(ops.abs(a - b)) * (20.0 / math.log(10.0) / SCALE_DB)


def hinge_real(score: Any) -> Any:
    return ops.mean(ops.relu(1.0 - score))


def hinge_fake(score: Any, weight: Any = 1.0) -> Any:
    return ops.mean(weight * ops.relu(1.0 + score))


def energy_score(x: Any, y: Any, truth: Any) -> Any:
    """How far two guesses (B, T, C) at the same thing are from the truth, less how far they are from each other.

    Least when guesses are distributed as the truth is, given what they were made from; the squared error of one is least
    when it is the mean of all that could be true, which for music is mush. Distances are over channels, latent by latent.

    Source: Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation, 2007.
    """
    return (_apart(x, truth) + _apart(y, truth) - _apart(x, y)) / 2


def _apart(x: Any, y: Any) -> Any:
    """Mean over latents of the root mean square difference."""
    return ops.mean(ops.sqrt(ops.mean(ops.square(x - y), axis=2) + 1e-6))
