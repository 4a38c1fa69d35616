"""The measure of pitch, on spectra whose pitch is known: perfect ones, and ones that turn at the centres of their bins."""

from types import SimpleNamespace

import numpy as np
import pytest
from everwave.config import Config
from everwave.signal import log_magnitude, stft
from everwave_trainer.evaluate import pitch

MODEL = SimpleNamespace(config=Config())


def perfect(model, samples, levels):
    spectrum = stft(samples, model.config.signal)
    return log_magnitude(spectrum), (np.angle(spectrum) / np.pi).astype(np.float32)


def at_centres(model, samples, levels):
    level, phase = perfect(model, samples, levels)
    frames, bins = level.shape
    phase = 0.5 * np.arange(frames)[:, None] * np.arange(bins) + np.arange(bins)
    return level, (phase - 2 * np.rint(phase / 2)).astype(np.float32)


def test_perfect_spectra_keep_their_pitch(monkeypatch):
    monkeypatch.setattr(pitch, "decoded", perfect)
    found = pitch.evaluate(MODEL)
    for levels in ("level1", "both_levels"):
        assert found[levels]["median_cents"] < 2
        assert found[levels]["within_50_cents"] == 1


def test_phases_that_turn_at_the_centres_give_the_centres(monkeypatch):
    monkeypatch.setattr(pitch, "decoded", at_centres)
    found = pitch.evaluate(MODEL)
    assert found["level1"]["median_cents"] == pytest.approx(found["bin_centres"]["median_cents"], abs=2)
    assert found["bin_centres"]["median_cents"] > 25
