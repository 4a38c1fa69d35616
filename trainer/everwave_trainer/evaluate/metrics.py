"""Measures of reconstruction: plain NumPy, so that they judge every model the same way.

log_mel_error          mean |difference| in dB of 80-band log-mel spectrograms, FFT 2048, hop 512, floor -80 dB
spectral_convergence   || |Y| - |X| || / || |X| ||, the phase-sensitive one when Y is re-analysed audio
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from everwave.config import SignalConfig
from everwave.signal import MEAN_DB, SCALE_DB, amplitude, hann, istft, stft
from everwave.spectrogram import mel

MEL_BANDS, MEL_FFT, MEL_HOP, MEL_LOW = 80, 2048, 512, 20.0
FLOOR_DB = -80.0
ITERATIONS = 32  # of Griffin-Lim


def magnitudes(samples: np.ndarray, n_fft: int, hop_length: int) -> np.ndarray:
    """|STFT| of mono samples (n,), Hann window: (T, n_fft / 2 + 1)."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, n_fft)[::hop_length]
    return np.abs(np.fft.rfft(frames * hann(n_fft), axis=1)).astype(np.float32)


@lru_cache
def mel_filters(sample_rate: int, n_fft: int = MEL_FFT) -> np.ndarray:
    """Triangles of unit area per bin, 20 Hz to Nyquist on the HTK mel scale: (n_fft / 2 + 1, 80)."""
    edges = 700.0 * (10 ** (np.linspace(mel(MEL_LOW), mel(sample_rate / 2), MEL_BANDS + 2) / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rise, fall))
    return (filters / np.maximum(filters.sum(axis=0), 1e-9)).astype(np.float32)


def log_mel(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mono samples (n,) -> dB (T, 80), amplitude floor -80 dB; 0 dB is a full-scale sine in its bin."""
    amplitudes = magnitudes(samples, MEL_FFT, MEL_HOP) / (MEL_FFT / 4)
    return 20 * np.log10(np.maximum(amplitudes @ mel_filters(sample_rate), 10 ** (FLOOR_DB / 20)))


def log_mel_error(real: np.ndarray, other: np.ndarray, sample_rate: int) -> float:
    """Mean absolute log-mel difference in dB of two mono signals of one length."""
    return float(np.mean(np.abs(log_mel(real, sample_rate) - log_mel(other, sample_rate))))


def spectral_convergence(real: np.ndarray, other: np.ndarray, n_fft: int) -> float:
    """Relative error of the magnitudes at `n_fft`, hop n_fft / 4."""
    x, y = (magnitudes(s, n_fft, n_fft // 4) for s in (real, other))
    return float(np.linalg.norm(y - x) / max(float(np.linalg.norm(x)), 1e-9))


def consistency(log_magnitude: np.ndarray, phase: np.ndarray, signal: SignalConfig) -> float:
    """|| STFT(ISTFT(Z)) - Z || / || Z ||: 0 if the decoded spectrum is that of any signal at all."""
    z = _spectrum(log_magnitude, phase)
    again = stft(istft(log_magnitude, phase, signal), signal)[: len(z)]
    inner = slice(3, -3)  # the edges are covered by fewer than four frames
    return float(np.linalg.norm(again[inner] - z[inner]) / max(float(np.linalg.norm(z[inner])), 1e-9))


def griffin_lim(magnitude: np.ndarray, signal: SignalConfig) -> np.ndarray:
    """Samples whose STFT magnitudes (T, bins) approach `magnitude`: plain Griffin-Lim from random phases."""
    phase = np.random.default_rng(0).uniform(-1, 1, magnitude.shape).astype(np.float32)
    level = (20 * np.log10(np.maximum(magnitude, 1e-5)) - MEAN_DB) / SCALE_DB
    for _ in range(ITERATIONS):
        phase = (np.angle(stft(istft(level, phase, signal), signal)) / np.pi).astype(np.float32)
    return istft(level, phase, signal)


def mel_griffin_lim(samples: np.ndarray, signal: SignalConfig) -> np.ndarray:
    """What is left of mono samples after an 80-band mel spectrogram and Griffin-Lim."""
    filters = mel_filters(signal.sample_rate, signal.n_fft)
    magnitude = magnitudes(samples, signal.n_fft, signal.hop_length)
    inverse = np.linalg.pinv(filters)
    return griffin_lim(np.maximum(magnitude @ filters @ inverse, 1e-5), signal)


def _spectrum(log_magnitude: np.ndarray, phase: np.ndarray) -> np.ndarray:
    return amplitude(log_magnitude) * np.exp(1j * np.pi * phase)
