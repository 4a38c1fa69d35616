"""The trainer's signal path is the runtime's, and gradients flow through it."""

import numpy as np
import pytest
from everwave import signal as runtime
from everwave.config import SignalConfig
from everwave_trainer import backend, losses, signal
from everwave_trainer.evaluate import metrics
from keras import ops

SIGNAL = SignalConfig()


@pytest.fixture
def samples():
    return np.random.default_rng(0).standard_normal(20 * 256 + 768).astype(np.float32) * 0.1


def test_stft_and_scaling_match_the_runtime(samples):
    real, imaginary = signal.stft(samples[None], 1024, 256)
    theirs = runtime.stft(samples, SIGNAL)
    np.testing.assert_allclose(ops.convert_to_numpy(real)[0], theirs.real, atol=2e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(imaginary)[0], theirs.imag, atol=2e-5)
    ours = ops.convert_to_numpy(signal.log_magnitude((real, imaginary)))[0]
    np.testing.assert_allclose(ours, runtime.log_magnitude(theirs), atol=1e-4)


@pytest.mark.parametrize("width", [513, 1026, 1090], ids=["angles", "vectors", "tuned"])
def test_inverse_stft_matches_the_runtime(width):
    rng = np.random.default_rng(1)
    level = rng.uniform(-0.9, 0.3, (20, 513)).astype(np.float32)
    phase = rng.uniform(-1, 1, (20, width)).astype(np.float32)
    phasors = signal.phasor(ops.convert_to_tensor(phase[None]), 513)
    ours = ops.convert_to_numpy(signal.istft(signal.spectrum(level[None], phasors), SIGNAL))[0]
    np.testing.assert_allclose(ours, runtime.istft(level, phase, SIGNAL), atol=1e-5)


def phases_apart(samples, turned):
    """Both phase distances of the unit phasors of `samples`, times exp(i turned), to its own spectrum."""
    spectrum = runtime.stft(samples, SIGNAL)
    phasors = spectrum / np.abs(spectrum) * np.exp(1j * turned)
    pairs = [tuple(x.astype(np.float32)[None] for x in (z.real, z.imag)) for z in (phasors, spectrum)]
    return [float(ops.convert_to_numpy(x)) for x in losses.phase_distance(*pairs)]


def test_phase_distance_hears_frequency_and_delay_and_no_phase(samples):
    t, k = np.arange(20)[:, None], np.arange(513)
    assert phases_apart(samples, 1.3 + 0 * t * k) == pytest.approx([0, 0], abs=1e-5)
    assert phases_apart(samples, 0.4 * t + 0 * k) == pytest.approx([1 - np.cos(0.4), 0], rel=1e-3, abs=1e-5)
    assert phases_apart(samples, 0.7 * k + 0 * t) == pytest.approx([0, 1 - np.cos(0.7)], rel=1e-3, abs=1e-5)
    assert max(phases_apart(1e-9 * samples, 0.4 * t + 0.7 * k)) < 2e-2  # silence has no phases
    loud, quiet = samples.copy(), samples.copy()
    wrong = np.where(t < 10, 1.0, 0.0) * t  # only the first half turns wrongly
    loud[2560:] *= 0.01
    quiet[:3584] *= 0.01
    assert phases_apart(loud, wrong + 0 * k)[0] > 3 * phases_apart(quiet, wrong + 0 * k)[0]


def test_spectral_distance_is_zero_for_itself_and_has_finite_gradients_at_silence(samples):
    x = ops.convert_to_tensor(samples[None])
    same = losses.spectral_distance(x, x, 512, 44100)
    assert float(same[0]) < 1e-6
    assert float(same[1]) < 1e-2
    silence = ops.zeros((1, 4096))
    _, slope = backend.input_gradient(lambda y: sum(losses.spectral_distance(x[:, :4096], y, 512, 44100)), silence)
    assert np.isfinite(ops.convert_to_numpy(slope)).all()


def test_every_mel_weighs_the_same():
    weights = losses.mel_weights(513, 44100)
    assert weights.mean() == pytest.approx(1)
    mels = 2595 * np.log10(1 + np.linspace(0, 22050, 514) / 700)
    assert np.corrcoef(weights, np.diff(mels))[0, 1] > 0.999
    bands = losses.mel_bands(513, 44100)
    assert bands.sum(axis=0) == pytest.approx(np.ones(losses.BANDS))
    shares = weights @ (bands > 0) / weights.sum()
    assert shares == pytest.approx(np.full(losses.BANDS, 1 / losses.BANDS), abs=0.02)


def test_onset_strength_hears_attacks_and_not_when_exactly():
    """A jump is stronger than a slow rise of the same height, and as strong a few frames later; falling is nothing."""
    t = np.arange(66)
    jump, later, slope = (np.repeat(y[None, :, None], 513, 2) for y in (t >= 20, t >= 26, np.clip((t - 18) / 12, 0, 1)))
    strengths = [
        ops.convert_to_numpy(losses.onset_strength(ops.convert_to_tensor(x.astype(np.float32)), 44100))
        for x in (jump, later, slope, 1.0 - jump)
    ]
    assert strengths[0].shape == (1, 4, losses.BANDS)
    np.testing.assert_allclose(strengths[0], strengths[1], atol=1e-6)
    assert (strengths[2][0, 1] < 0.5 * strengths[0][0, 1]).all()
    assert strengths[3].max() < 2e-3
    assert float(losses.onset_distance(jump.astype(np.float32), later.astype(np.float32), 44100)) < 1e-6


def test_mel_distance_is_what_evaluate_measures():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(20480).astype(np.float32)
    x, y = 0.1 * noise, 0.03 * np.cumsum(noise).astype(np.float32) * np.hanning(len(noise)).astype(np.float32)
    expected = metrics.log_mel_error(x, y, 44100)
    assert expected > 3
    found = 75 * float(ops.convert_to_numpy(losses.mel_distance(x[None], y[None], 44100)))
    assert found == pytest.approx(expected, rel=0.01)
