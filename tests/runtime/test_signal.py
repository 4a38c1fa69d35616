"""STFT and its inverse: exact constants, perfect reconstruction, and the fast kernel against its slow twin."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from everwave import signal as s
from everwave.config import PHASES, TUNED, SignalConfig
from everwave.signal import OverlapAdd, analyse, istft, log_magnitude, stft, synthesize, synthesize_numpy

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")

FULL = SignalConfig()
TINY = SignalConfig(hop_length=64)
OTHER = SignalConfig(hop_length=48)  # no power of two: always the reference path
SIGNALS = pytest.mark.parametrize("signal", [FULL, TINY, OTHER], ids=lambda c: f"hop {c.hop_length}")
KINDS = pytest.mark.parametrize("kind", PHASES)


def decoded(signal, windows, seed=0, frames=64, kind="angle"):
    """Random (log-magnitude, phase) of `windows` windows, as a frame decoder might give them."""
    rng = np.random.default_rng(seed)
    shape = (windows, frames, signal.bins)
    magnitude, phase = (rng.uniform(-1, 1, shape).astype(np.float32) for _ in range(2))
    if kind != "angle":
        length = rng.uniform(0.1, 3, shape)
        phase = np.concatenate([length * np.cos(np.pi * phase), length * np.sin(np.pi * phase)], axis=2)
    if kind == "tuned":
        phase = np.concatenate([phase, rng.uniform(-9, 9, (windows, frames, signal.bins // TUNED))], axis=2)
    return magnitude, phase.astype(np.float32)


def angles(phase, signal):
    """What phases stand for, by definition: angles / pi (B, T, bins) float64."""
    if phase.shape[2] == signal.bins:
        return phase.astype(float)
    x, y, tuning = np.split(phase.astype(float), (signal.bins, 2 * signal.bins), axis=2)
    k, t = np.arange(signal.bins), np.arange(phase.shape[1])[:, None]
    turned = np.arctan2(y, x) / np.pi + k * t / 2 + k
    turned[:, :, : tuning.shape[2]] += tuning / 32 * (t - 31.5)
    return turned


def istft64(log_magnitude, phase, signal):
    """The inverse STFT by its definition, in float64, with one loop over frames."""
    magnitude = np.sqrt(10 ** (0.1 * (75 * log_magnitude.astype(float) - 25)) + 1e-7)
    frames = np.fft.irfft(magnitude * np.exp(1j * np.pi * phase.astype(float)), signal.n_fft)
    window = s.dual_window(signal.n_fft, signal.hop_length)
    samples = np.zeros((len(frames) - 1) * signal.hop_length + signal.n_fft)
    for t, frame in enumerate(frames):
        samples[t * signal.hop_length :][: signal.n_fft] += window * frame
    return samples


def test_window_is_periodic_hann_and_its_dual_is_that_over_three_halves():
    window = s.hann(8)
    assert window == pytest.approx([0, 0.1464466, 0.5, 0.8535534, 1, 0.8535534, 0.5, 0.1464466])
    assert s.dual_window(1024, 256) == pytest.approx(s.hann(1024) / 1.5)


def test_decibel_scale_has_the_original_constants():
    spectrum = np.array([0, 1e-5, 1, 10 ** (50 / 20), 3 + 4j], np.complex64)
    expected = [-1, -1, 25 / 75, 1, (10 * np.log10(25) + 25) / 75]
    assert log_magnitude(spectrum) == pytest.approx(expected, abs=1e-6)
    assert log_magnitude(spectrum).dtype == np.float32


@SIGNALS
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_frames_are_whole_and_unpadded(signal, extra):
    samples = np.zeros(signal.n_fft + 3 * signal.hop_length + extra)
    frames = 3 if extra < 0 else 4
    assert stft(samples, signal).shape == analyse(samples, signal).shape == (frames, signal.bins)
    assert stft(samples[: signal.n_fft - 1], signal).shape == analyse(samples[:0], signal).shape == (0, signal.bins)


def test_stft_finds_a_tone():
    t = np.arange(4096) / FULL.sample_rate
    spectrum = stft(0.5 * np.cos(2 * np.pi * 100 * FULL.sample_rate / 1024 * t), FULL)
    assert np.all(np.abs(spectrum).argmax(axis=1) == 100)
    assert np.abs(spectrum[:, 100]) == pytest.approx(0.5 * 1024 / 4, rel=1e-5)  # half amplitude x half window sum


@SIGNALS
def test_inverse_gives_the_samples_back(signal):
    samples = np.random.default_rng(1).standard_normal(signal.n_fft + 60 * signal.hop_length).astype(np.float32)
    spectrum = stft(samples, signal)
    back = istft(log_magnitude(spectrum), np.angle(spectrum) / np.float32(np.pi), signal)
    assert back.shape == samples.shape
    covered = slice(3 * signal.hop_length, -3 * signal.hop_length)
    assert np.abs(back - samples)[covered].max() < 2e-3  # the 1e-7 that the way back adds to |X|^2, and no more


@SIGNALS
def test_any_stretch_is_analysed_as_the_whole_is(signal):
    samples = np.random.default_rng(2).standard_normal(signal.n_fft + 600 * signal.hop_length).astype(np.float32)
    whole = analyse(samples, signal)
    assert np.abs(whole - log_magnitude(stft(samples, signal))).max() < 1e-6
    for first, count in [(0, 1), (5, 64), (255, 2), (300, 301)]:
        stretch = samples[first * signal.hop_length :][: (count - 1) * signal.hop_length + signal.n_fft]
        assert np.array_equal(analyse(stretch, signal), whole[first : first + count])


@pytest.mark.parametrize("function", [synthesize, synthesize_numpy])
@SIGNALS
@KINDS
def test_synthesize_is_the_inverse_stft_of_all_frames(function, signal, kind):
    magnitude, phase = decoded(signal, 3, kind=kind)
    turned = angles(phase, signal)
    expected = istft64(magnitude.reshape(-1, signal.bins), turned.reshape(-1, signal.bins), signal)
    got = function(magnitude, phase, signal)
    assert got.dtype == np.float32
    assert got.shape == expected.shape == (3 * 64 * signal.hop_length + 3 * signal.hop_length,)
    assert np.abs(got - expected).max() < 4e-6 * np.abs(expected).max()


@needs_numba
@pytest.mark.parametrize("hop_length", [32, 64, 128, 256, 512])
@KINDS
def test_every_size_of_the_kernel(hop_length, kind):
    signal = SignalConfig(hop_length=hop_length)
    assert s._kernel(signal.n_fft, kind != "angle") is not None
    magnitude, phase = decoded(signal, 2, frames=8, kind=kind)
    turned = angles(phase, signal)
    expected = istft64(magnitude.reshape(-1, signal.bins), turned.reshape(-1, signal.bins), signal)
    assert np.abs(synthesize(magnitude, phase, signal) - expected).max() < 4e-6 * np.abs(expected).max()


@needs_numba
def test_polynomials_of_the_kernel():
    from everwave.kernels.native import Kernel

    polar = Kernel("signal", "polar")
    m, p = np.meshgrid(np.linspace(-1.2, 1.2, 1201), np.linspace(-1, 1, 801))
    m, p = m.ravel().astype(np.float32), p.ravel().astype(np.float32)
    re, im = np.empty_like(m), np.empty_like(m)
    polar(len(m), m, p, re, im)
    magnitude = np.sqrt(10 ** (0.1 * (75 * m.astype(float) - 25)) + 1e-7)
    assert np.abs(np.hypot(re.astype(float), im) / magnitude - 1).max() < 1e-5
    assert np.abs(re / magnitude - np.cos(np.pi * p.astype(float))).max() < 1e-5
    silent = np.zeros_like(p) + np.float32(1 / 3)  # magnitude 1 (and a little): what is left is cos and sin
    polar(len(m), silent, p, re, im)
    scale = np.hypot(re.astype(float), im)
    assert np.abs(re / scale - np.cos(np.pi * p.astype(float))).max() < 1e-6
    assert np.abs(im / scale - np.sin(np.pi * p.astype(float))).max() < 1e-6


@pytest.mark.parametrize("function", [synthesize, synthesize_numpy])
def test_a_vector_of_no_length_is_silence(function):
    magnitude, phase = decoded(TINY, 1, kind="vector")
    assert not function(magnitude, 0 * phase, TINY).any()
    long = function(magnitude, 1e3 * phase, TINY)
    assert np.abs(long - function(magnitude, phase, TINY)).max() < 1e-4 * np.abs(long).max()  # how long, does not count


def test_a_partial_in_the_middle_of_its_bin_keeps_its_vector():
    k, n = 37, np.arange(70 * FULL.hop_length)
    spectrum = stft(np.cos(2 * np.pi * k * n / FULL.n_fft + 1), FULL)[:64]
    still = s.phasor(np.tile(np.repeat([1.0, 0.0], FULL.bins), (64, 1)), FULL.bins)
    vectors = spectrum[:, k] / still[:, k]
    assert np.angle(vectors / vectors[0]) == pytest.approx(0, abs=1e-3)


def test_a_partial_beside_the_middle_of_its_bin_keeps_its_vector_by_its_tuning():
    k, off, n = 37, 7.3, np.arange(70 * FULL.hop_length)  # off: in 32nds of a half turn a frame
    turns = k / FULL.n_fft + off / 64 / FULL.hop_length
    spectrum = stft(np.cos(2 * np.pi * turns * n + 1), FULL)[:64]
    tuning = np.zeros(FULL.bins // TUNED)
    tuning[k] = off
    still = s.phasor(np.tile([*np.repeat([1.0, 0.0], FULL.bins), *tuning], (64, 1)), FULL.bins)
    vectors = spectrum[:, k] / still[:, k]
    assert np.angle(vectors / vectors[0]) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("function", [synthesize, synthesize_numpy])
@SIGNALS
@KINDS
def test_batches_never_change_a_bit(function, signal, kind):
    magnitude, phase = decoded(signal, 7, kind=kind)
    whole = function(magnitude, phase, signal)
    for sizes in [(1,) * 7, (2, 5), (4, 1, 2)]:
        joiner, parts, first = OverlapAdd(signal, 1), [], 0
        for n in sizes:
            block = function(magnitude[first : first + n], phase[first : first + n], signal)
            parts.append(joiner.push(block[:, None]))
            first += n
        assert np.array_equal(np.concatenate([*parts, joiner.flush()])[:, 0], whole)


def test_threads_never_change_a_bit():
    magnitude, phase = decoded(FULL, 8)
    alone = [synthesize(magnitude[i : i + 1], phase[i : i + 1], FULL) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: synthesize(magnitude[i % 8][None], phase[i % 8][None], FULL), range(32)))
    assert all(np.array_equal(samples, alone[i % 8]) for i, samples in enumerate(together))


def test_overlap_add_carries_three_hops():
    joiner = OverlapAdd(SignalConfig(hop_length=1), channels=2)

    def ones(length):
        return np.ones((length + 3, 2), np.float32)

    first = joiner.push(ones(4))
    assert first[:, 0].tolist() == [1, 1, 1, 1]
    assert joiner.push(ones(4))[:, 1].tolist() == [2, 2, 2, 1]
    assert joiner.push(ones(1))[:, 0].tolist() == [2]  # blocks may be shorter than the overlap
    assert joiner.flush()[:, 0].tolist() == [2, 2, 1]
    assert joiner.flush()[:, 0].tolist() == [0, 0, 0]
    assert first.min() == first.max() == 1  # what was handed out is left alone
