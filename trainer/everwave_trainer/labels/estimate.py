"""Tempo, onsets and (of steady music) beats from audio: librosa's onset strength, and the tempo at which it repeats best."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

import numpy as np
from everwave.errors import UsageError

from .store import TrackLabels

RATE = 22050
HOP = 256  # of the onset strength: 86 values a second
FRAME_RATE = RATE / HOP
BEATS = 16  # over which a tempo must hold
CANDIDATES_PER_OCTAVE = 1200  # steps of 0.06 %
PREFERENCE = 0.1  # of the middle of the range, per octave squared: settles what the autocorrelation leaves open
STEADY = 0.5  # steadiness from which beats are worth tracking
DRIFT = 0.03  # how far the mean tempo of tracked beats may lie from the track's
LATE = 0.028  # seconds that tracked beats come after the true ones: the median on composed techno
KICK_HZ = (20, 120)  # where a bass drum begins
TIGHTNESS = 400  # librosa's default is 100; machines keep time


def check_librosa() -> None:
    """UsageError if librosa is not installed."""
    if importlib.util.find_spec("librosa") is None:
        raise UsageError("librosa is not installed, which labels music; `pip install librosa`")


def with_librosa(samples: np.ndarray, sample_rate: int, bpm_range: tuple[float, float]) -> TrackLabels:
    """Tempo, onsets and, if they are steady, beats of a track, int16 (frames, 2). UsageError if librosa is not installed."""
    check_librosa()
    import librosa

    mono = samples.mean(axis=1, dtype=np.float32) / np.float32(32768)
    mono = librosa.resample(mono, orig_sr=sample_rate, target_sr=RATE, res_type="polyphase")
    strength = librosa.onset.onset_strength(y=mono, sr=RATE, hop_length=HOP)
    bpm = tempo(strength, bpm_range)
    onsets = librosa.onset.onset_detect(onset_envelope=strength, sr=RATE, hop_length=HOP, units="time")
    source, beats = f"librosa {version('librosa')}", None
    if bpm is not None and steadiness(strength, bpm) >= STEADY:
        _, tracked = librosa.beat.beat_track(
            onset_envelope=strength, sr=RATE, hop_length=HOP, bpm=bpm, tightness=TIGHTNESS, units="time", trim=False
        )
        if len(tracked) > BEATS and abs(60 * (len(tracked) - 1) / (tracked[-1] - tracked[0]) / bpm - 1) < DRIFT:
            beats = tuple(on_the_kick(mono, tracked - LATE).tolist())
    sources = {"bpm": source, "onsets": source} | ({"beats": source} if beats else {})
    return TrackLabels(bpm, tuple(onsets.tolist()), beats, sources)


def on_the_kick(mono: np.ndarray, beats: np.ndarray) -> np.ndarray:
    """Beat times moved by half a beat if the bass rises more there: trackers often follow the open hats between the beats.

    `mono` is at RATE. Of 13 clips of composed techno, 9 were tracked on the beat; after this, 12.
    """
    from scipy.signal import stft

    _, _, spectrum = stft(mono, RATE, nperseg=1024, noverlap=1024 - HOP)
    low, high = (round(edge * 1024 / RATE) for edge in KICK_HZ)
    bass = np.abs(spectrum[low:high]).sum(axis=0)
    rise = np.maximum(bass[2:] - bass[:-2], 0)

    def strength_at(times: np.ndarray) -> float:
        frames = np.round(times[:, None] * FRAME_RATE).astype(int) + np.arange(-4, 5)
        return float(rise[np.clip(frames, 0, len(rise) - 1)].max(axis=1).mean())

    between = (beats[1:] + beats[:-1]) / 2
    return between if strength_at(between) > strength_at(beats) else beats


def steadiness(strength: np.ndarray, bpm: float) -> float:
    """How well the onset strength repeats after one, two, four and eight beats: mean correlation, at most 1.

    Free games' techno has 0.5 to 0.9; below, a tracker puts beats where nobody would tap.
    """
    correlation = _autocorrelation(strength)
    lags = 60 * FRAME_RATE / bpm * np.array([1, 2, 4, 8])
    return float(np.interp(lags, np.arange(len(correlation)), correlation / correlation[0]).mean())


def _autocorrelation(strength: np.ndarray) -> np.ndarray:
    centred = strength - strength.mean()
    return np.fft.irfft(np.abs(np.fft.rfft(centred, 2 * len(centred))) ** 2)[: len(centred)]


def tempo(strength: np.ndarray, bpm_range: tuple[float, float]) -> float | None:
    """Beats per minute at which the onset strength, FRAME_RATE values a second, repeats best over BEATS beats.

    A tempo that changes gives the one that lasts longest. None where there are too few seconds or no onsets.
    librosa's own estimate is a whole number of frames per beat, up to 3 % wrong, and takes dotted rhythms for beats.
    """
    low, high = bpm_range
    count = round(CANDIDATES_PER_OCTAVE * np.log2(high / low)) + 1
    candidates = np.geomspace(low, high, count)
    if len(strength) <= BEATS * 60 * FRAME_RATE / low or not np.ptp(strength):
        return None
    correlation = _autocorrelation(strength) / np.arange(len(strength), 0, -1)
    lags = np.arange(1, BEATS + 1)[:, None] * (60 * FRAME_RATE / candidates)
    repeats = np.interp(lags, np.arange(len(correlation)), correlation / correlation[0]).mean(axis=0)
    preferred = PREFERENCE * np.log2(candidates / np.sqrt(low * high)) ** 2
    return float(candidates[(repeats - preferred).argmax()])


def folded(bpm: float, bpm_range: tuple[float, float]) -> float:
    """The tempo doubled or halved into the range, which spans an octave at least."""
    low, high = bpm_range
    while bpm < low:
        bpm *= 2
    while bpm > high:
        bpm /= 2
    return bpm
