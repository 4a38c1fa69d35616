"""The trainer's signal path is the runtime's, and gradients flow through it."""

import numpy as np
import pytest
from everwave import signal as runtime
from everwave.config import SignalConfig
from everwave_trainer import backend, losses, signal
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


def test_inverse_stft_matches_the_runtime():
    rng = np.random.default_rng(1)
    level = rng.uniform(-0.9, 0.3, (20, 513)).astype(np.float32)
    phase = rng.uniform(-1, 1, (20, 513)).astype(np.float32)
    ours = ops.convert_to_numpy(signal.istft(signal.spectrum(level[None], phase[None]), SIGNAL))[0]
    np.testing.assert_allclose(ours, runtime.istft(level, phase, SIGNAL), atol=1e-5)


def test_spectral_distance_is_zero_for_itself_and_has_finite_gradients_at_silence(samples):
    x = ops.convert_to_tensor(samples[None])
    same = losses.spectral_distance(x, x, 512)
    assert float(same[0]) < 1e-6
    assert float(same[1]) < 1e-2
    silence = ops.zeros((1, 4096))
    _, slope = backend.input_gradient(lambda y: sum(losses.spectral_distance(x[:, :4096], y, 512)), silence)
    assert np.isfinite(ops.convert_to_numpy(slope)).all()
