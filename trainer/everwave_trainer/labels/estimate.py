"""Tempo and onsets from audio with librosa, and tempo refined by the autocorrelation of the onset strength."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from everwave.errors import UsageError

from .store import TrackLabels

RATE = 22050
HOP = 256  # of the onset strength: 86 values a second
FRAME_RATE = RATE / HOP
BEATS = 16  # over which a tempo is refined
NEAR = 0.06  # how far the refined tempo may lie from the first estimate


def with_librosa(samples: np.ndarray, sample_rate: int, bpm_range: tuple[float, float]) -> TrackLabels:
    """Tempo and onsets of a track, int16 (frames, 2). UsageError if librosa is not installed."""
    try:
        import librosa
    except ImportError:
        raise UsageError('--with librosa: not installed; `pip install "everwave[label]"`') from None
    mono = samples.mean(axis=1, dtype=np.float32) / np.float32(32768)
    mono = librosa.resample(mono, orig_sr=sample_rate, target_sr=RATE, res_type="polyphase")
    strength = librosa.onset.onset_strength(y=mono, sr=RATE, hop_length=HOP)
    centre = float(np.sqrt(bpm_range[0] * bpm_range[1]))
    first = librosa.feature.tempo(onset_envelope=strength, sr=RATE, hop_length=HOP, start_bpm=centre, std_bpm=0.7)
    bpm = folded(refined(strength, float(first[0])), bpm_range)
    onsets = librosa.onset.onset_detect(onset_envelope=strength, sr=RATE, hop_length=HOP, units="time")
    source = f"librosa {version('librosa')}"
    return TrackLabels(bpm, tuple(onsets.tolist()), sources={"bpm": source, "onsets": source})


def refined(strength: np.ndarray, bpm: float) -> float:
    """The tempo near `bpm` at which the onset strength, FRAME_RATE values a second, repeats best over many beats.

    librosa's estimate is a whole number of frames per beat, up to 3 % wrong; this is right to about 0.1 %.
    """
    centred = strength - strength.mean()
    spectrum = np.abs(np.fft.rfft(centred, 2 * len(centred))) ** 2
    correlation = np.fft.irfft(spectrum)[: len(centred)] / np.arange(len(centred), 0, -1)
    candidates = bpm * np.linspace(1 - NEAR, 1 + NEAR, 601)
    lags = np.arange(1, BEATS + 1)[:, None] * (60 * FRAME_RATE / candidates)
    if lags.max() >= len(correlation):
        return bpm
    scores = np.interp(lags, np.arange(len(correlation)), correlation).sum(axis=0)
    return float(candidates[scores.argmax()])


def folded(bpm: float, bpm_range: tuple[float, float]) -> float:
    """The tempo doubled or halved into the range, which spans an octave at least."""
    low, high = bpm_range
    while bpm < low:
        bpm *= 2
    while bpm > high:
        bpm /= 2
    return bpm
