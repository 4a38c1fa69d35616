"""STFT, inverse STFT, decibels: between samples and what the autoencoder sees.

Frames are n_fft samples long and hop_length apart, under a periodic Hann window and without padding: T frames
cover (T - 1) hop + n_fft samples. The inverse uses the dual window, so that stft followed by its inverse gives the
samples back wherever four frames overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from . import kernels
from .config import DECODER_FRAMES, OVERLAP, SignalConfig

Array = np.ndarray

FLOOR = 1e-10  # of |X|^2, -100 dB
MEAN_DB, SCALE_DB = -25.0, 75.0  # log_magnitude = (dB - MEAN_DB) / SCALE_DB, nearly always in [-1, 1]
POWER_OFFSET = 1e-7  # added to |X|^2 on the way back, as the original does
VECTOR_OFFSET = 1e-8  # added to the squared length of a phase's vector, so that one of no length gives 0
BLOCK = 256  # frames analysed at once: enough to be fast, small enough to stay in the cache
TOGETHER = 16  # frames that SciPy may transform at once; where it fuses multiply-adds (ARM), one alone rounds otherwise


def hann(n: int) -> Array:
    """Periodic Hann window (n,) float64."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)


@lru_cache(maxsize=8)
def window(n: int) -> Array:
    """`hann` in float32, shared by every caller."""
    window = hann(n).astype(np.float32)
    window.setflags(write=False)
    return window


def dual_window(n_fft: int, hop_length: int) -> Array:
    """w[i] / sum_k w[i + k hop]^2: overlap-adding frames windowed by w and then by this gives the signal back."""
    window = hann(n_fft)
    power = (window**2).reshape(-1, hop_length).sum(axis=0)
    return window / np.tile(power, n_fft // hop_length)


def stft(samples: Array, signal: SignalConfig) -> Array:
    """Samples (n,) -> spectrum (T, bins) complex64 of the T = 1 + (n - n_fft) // hop whole frames (none if n < n_fft)."""
    from scipy.fft import rfft  # several frames at once, where NumPy's takes one: five times as fast

    samples = np.asarray(samples, np.float32)
    if len(samples) < signal.n_fft:
        return np.empty((0, signal.bins), np.complex64)
    frames = np.lib.stride_tricks.sliding_window_view(samples, signal.n_fft)[:: signal.hop_length]
    windowed = np.zeros((-(-len(frames) // TOGETHER) * TOGETHER, signal.n_fft), np.float32)
    np.multiply(frames, window(signal.n_fft), out=windowed[: len(frames)])
    return rfft(windowed, overwrite_x=True)[: len(frames)]


def log_magnitude(spectrum: Array) -> Array:
    """(10 log10 max(|X|^2, 1e-10) + 25) / 75, float32."""
    power = spectrum.real**2 + spectrum.imag**2
    decibels = np.log(np.maximum(power, np.float32(FLOOR))) * np.float32(10 / np.log(10))
    return (decibels - np.float32(MEAN_DB)) * np.float32(1 / SCALE_DB)


def amplitude(log_magnitude: Array) -> Array:
    """The inverse of `log_magnitude`: |X|, but for an offset that keeps silence above 0."""
    decibels = np.float32(SCALE_DB) * log_magnitude + np.float32(MEAN_DB)
    return np.sqrt(np.float32(10) ** (np.float32(0.1) * decibels) + np.float32(POWER_OFFSET))


def analyse(samples: Array, signal: SignalConfig) -> Array:
    """Samples (n,) -> log-magnitude (T, bins) float32: `log_magnitude(stft(samples))` in blocks of bounded memory.

    Every frame is computed by itself, so a stretch of a long signal gives the same numbers as the whole.
    """
    samples = np.asarray(samples, np.float32)
    frames = max(0, 1 + (len(samples) - signal.n_fft) // signal.hop_length)
    result = np.empty((frames, signal.bins), np.float32)
    for first in range(0, frames, BLOCK):
        last = min(first + BLOCK, frames) - 1
        stretch = samples[first * signal.hop_length : last * signal.hop_length + signal.n_fft]
        result[first : last + 1] = log_magnitude(stft(stretch, signal))
    return result


def phasor(phase: Array, bins: int) -> Array:
    """Phase as a frame decoder gives it -> complex numbers of length 1 (T, bins), complex64.

    (T, bins) are angles / pi. (T, 2 bins) are x, then y, of vectors of any length, to be turned by what a partial in the
    middle of its bin turns from frame to frame. After 2 bins come tunings, of as many of the lowest bins: how far from there
    partials are, in 32nds of a half turn a frame (2.7 Hz for frames of 256 samples at 44.1 kHz); turns are counted from the
    middle of a window. T counts from the start of one.

    A network that knows no time can repeat itself with the period of its strides and no slower; a tuning that stays
    the same is a partial of any frequency.
    """
    if phase.shape[-1] == bins:
        return np.exp(np.complex64(1j * np.pi) * phase)
    x, y, tuning = np.split(phase, (bins, 2 * bins), axis=-1)
    turns = quarter_turns(bins)[:, np.arange(phase.shape[-2]) % 4]
    unit = (x + 1j * y) / np.sqrt(x * x + y * y + VECTOR_OFFSET) * (turns[0] + 1j * turns[1])
    unit[..., : tuning.shape[-1]] *= np.exp(np.complex64(1j * np.pi) * tuning * places(phase.shape[-2])[:, None])
    return unit


def places(frames: int) -> Array:
    """Where frames of consecutive windows are, -1 to 1, with 0 in the middle of each: (frames,) float32."""
    half = DECODER_FRAMES // 2
    return ((np.arange(frames) % DECODER_FRAMES + 0.5 - half) / half).astype(np.float32)


@lru_cache(maxsize=8)
def quarter_turns(bins: int) -> Array:
    """cos and sin of pi / 2 k (t + 2) (2, 4, bins) float32, for frames t and bins k: exactly 0, 1 or -1.

    A partial in the middle of bin k turns k quarters a hop; frames begin half their length before what they hear.
    """
    count = np.arange(bins) * (np.arange(4)[:, None] + 2) % 4
    return np.stack([np.array(circle, np.float32)[count] for circle in ((1, 0, -1, 0), (0, 1, 0, -1))])


def istft(log_magnitude: Array, phase: Array, signal: SignalConfig) -> Array:
    """Log-magnitude (T, bins), phase (see `phasor`) -> samples ((T - 1) hop + n_fft,) float32; not clipped."""
    spectrum = amplitude(log_magnitude) * phasor(phase, signal.bins)
    frames = np.fft.irfft(spectrum, signal.n_fft) * dual_window(signal.n_fft, signal.hop_length).astype(np.float32)
    hops = frames.astype(np.float32, copy=False).reshape(-1, OVERLAP, signal.hop_length)
    samples = np.zeros((len(hops) + OVERLAP - 1, signal.hop_length), np.float32)
    for i in reversed(range(OVERLAP)):  # the oldest frame of a sample first
        samples[i : i + len(hops)] += hops[:, i]
    return samples.reshape(-1)


def synthesize(log_magnitude: Array, phase: Array, signal: SignalConfig) -> Array:
    """Decoded windows to samples: log-magnitude and phase of B consecutive windows -> (B T hop + 3 hop,) float32.

    Log-magnitude (B, T, bins) in [-1.2, 1.2]; phase (B, T, bins) / pi in [-1, 1] or vectors (B, T, 2 bins and tunings). Windows are
    overlap-added by themselves before they are joined, so any split into batches gives the same bits (see
    `OverlapAdd`). Thread-safe; holds no lock while it computes.
    """
    kernel = _kernel(signal.n_fft, phase.shape[-1] > signal.bins)
    if kernel is None:
        return synthesize_numpy(log_magnitude, phase, signal)
    windows, frames, _ = log_magnitude.shape
    samples = np.empty((windows * frames + OVERLAP - 1) * signal.hop_length, np.float32)
    segment = np.empty((frames + OVERLAP - 1) * signal.hop_length, np.float32)
    inputs = _plain(log_magnitude), _plain(phase), *tables(signal.n_fft), places(frames)
    kernel(*inputs, samples, segment, windows, frames, phase.shape[-1])
    return samples


def synthesize_numpy(log_magnitude: Array, phase: Array, signal: SignalConfig) -> Array:
    """`synthesize` in plain NumPy: the reference, and the fallback for other sizes and where Numba cannot load."""
    windows, frames, _ = log_magnitude.shape
    samples = np.zeros((windows * frames + OVERLAP - 1) * signal.hop_length, np.float32)
    for i in range(windows):
        segment = istft(log_magnitude[i], phase[i], signal)
        start = i * frames * signal.hop_length
        samples[start : start + len(segment)] += segment
    return samples


class OverlapAdd:
    """Joins what `synthesize` gives for consecutive batches: three hops of overlap are carried from each to the next."""

    def __init__(self, signal: SignalConfig, channels: int) -> None:
        self._carry = np.zeros(((OVERLAP - 1) * signal.hop_length, channels), np.float32)

    def push(self, block: Array) -> Array:
        """(n + 3 hop, channels) -> the n samples that are complete now: those of `block` itself, which is used up."""
        overlap = len(self._carry)
        block[:overlap] += self._carry
        self._carry = block[len(block) - overlap :].copy()
        return block[: len(block) - overlap]

    def flush(self) -> Array:
        """The last three hops (3 hop, channels), which no later frame will add to; the next push starts afresh."""
        rest, self._carry = self._carry, np.zeros_like(self._carry)
        return rest


@lru_cache(maxsize=8)
def tables(n_fft: int) -> tuple[Array, Array, Array, Array]:
    """What the kernel multiplies by, float32: window (2, m), fold (4, m), turns (2, 32), quarters (2, 4, m + 1), m = n_fft / 2.

    window: dual window / n_fft, even and odd samples; fold: cos and sin of pi k / m, then those of the twiddles
    2 pi r c / m in the order (c, r); turns: cos and sin of 2 pi k / 32; quarters: `quarter_turns`.
    """
    m = n_fft // 2
    rows, cols = _factors(m)
    window = (dual_window(n_fft, n_fft // OVERLAP) / n_fft).reshape(m, 2).T
    ramp = np.pi * np.arange(m) / m
    twiddles = 2 * np.pi * np.outer(np.arange(cols), np.arange(rows)).reshape(-1) / m
    circle = 2 * np.pi * np.arange(32) / 32
    fold = np.stack([np.cos(ramp), np.sin(ramp), np.cos(twiddles), np.sin(twiddles)])
    turns = np.stack([np.cos(circle), np.sin(circle)])
    return _plain(window), _plain(fold), _plain(turns), quarter_turns(m + 1)


def _factors(m: int) -> tuple[int, int]:
    """m = rows * cols, powers of two as equal as can be."""
    rows = 1 << (m.bit_length() - 1) // 2
    return rows, m // rows


def _kernel(n_fft: int, vectors: bool) -> Callable[..., None] | None:
    """The Numba kernel, or None where there are none or the size is none of 128, 256, 512, 1024, 2048."""
    if n_fft not in (128, 256, 512, 1024, 2048) or kernels.trouble():
        return None
    return kernels.synthesize(*_factors(n_fft // 2), vectors)


def _plain(x: Array) -> Array:
    return np.ascontiguousarray(x, np.float32)
